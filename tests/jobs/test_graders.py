"""Graders of one's own, through every stage of a run."""

from __future__ import annotations

import json
import math
import random
import re
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.grade import command as grade
from hpcmaf.config.load import load_recipe
from hpcmaf.engines import Request
from hpcmaf.errors import ConfigError
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.tasks.datasets import LETTERS
from hpcmaf.tasks.grader import Grader, grader_of
from hpcmaf.tasks.problems import Problem
from tests.jobs.playing import N, play

RECIPES = Path(__file__).parents[2] / "recipes"
PRODUCT = f"{RECIPES / 'own_grader.py'}:Product"
GCD = ("model.path=micro", f"task.name={RECIPES / 'own_task.py'}:GCD", "task.prompts=default", f"task.grader={PRODUCT}")


def say(request: Request) -> str:
    """The greatest common divisor in one of three spellings, half of it, or what divides nothing."""
    a, b = map(int, re.findall(r"\d+", request.key.split("/")[0])[:2])
    right = math.gcd(a, b)
    draw = random.Random(request.seed)
    return "Answer: " + draw.choice([f"{right}", f"1 * {right}", f"{right}*1*1", "1", "7919", "7919"])


@pytest.mark.parametrize("method", ["maft", "maft-dpo", "star"])
def test_a_run_goes_by_its_own_grader_alone(tmp_path, monkeypatch, method) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise AssertionError("the shipped equivalence was asked")

    for module in ("tasks.grader", "answers.vote", "evaluation.alarm"):
        monkeypatch.setattr(import_module(f"hpcmaf.{module}"), "equivalent", refuse)
    played = play(tmp_path / "run", monkeypatch, *GCD, f"method={method}", say=say, iterations=1)
    for debate in played.debates(1):
        label = played.label(1, debate) if debate.rounds > 2 else None
        values = {math.prod(map(int, one.answer.split("*"))) for turn in debate.answers for one in turn if one.answer}
        assert label is None or math.prod(map(int, label.split("*"))) in values - {7919}
    metrics = json.loads(played.run.metrics(1).read_text())
    assert 0 < metrics["accuracy"]["answer"]["value"] < 1
    if method != "star":
        votes = [played.label(1, debate) for debate in played.debates(1, "eval")]
        golds = [debate.problem.gold for debate in played.debates(1, "eval")]
        right = sum(math.prod(map(int, vote.split("*"))) == int(gold) for vote, gold in zip(votes, golds) if vote)
        assert metrics["accuracy"]["vote@M"]["value"] == right / len(golds) > metrics["accuracy"]["answer"]["value"]
        samples = [line for n in range(N) for line in played.lines(1, f"generator-{n}").values()]
        assert samples and not any(line["consensus"] == "7919" for line in samples)


def test_grade_takes_a_grader(tmp_path) -> None:
    lines = [
        {"gold": "6", "answer": "2*3", "question": "Of 12 and 18?"},
        {"gold": "6", "answer": "5", "question": "Of 12 and 18?"},
        {"gold": "6", "answer": None},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = CliRunner().invoke(grade, ["--grader", PRODUCT, "--jsonl", str(tmp_path / "lines.jsonl")])
    assert [json.loads(line)["equivalent"] for line in result.output.splitlines()] == [True, False, False], (
        result.output
    )


BODIES = {
    "raises": "class G:\n    def key(self, answer, problem): return answer / 2\n",
    "number": "class G:\n    def key(self, answer, problem): return 5\n",
    "nothing": "class G: pass\n",
    "torn": "class G(:\n",
    "wants": "class G:\n    def __init__(self, more): pass\n",
    "reads": "class G:\n    def extract(self, text, problem): return text\n",
}


@pytest.mark.parametrize(
    ("body", "overrides", "line"),
    [
        ("raises", (), "task.grader: {}: key failed on problem p (TypeError: unsupported operand"),
        ("number", (), "task.grader: {}: key gave a int; see recipes/own_grader.py"),
        ("nothing", (), "task.grader: {}: has no method extract, key, equivalent, right; see"),
        ("torn", (), "task.grader: {}: cannot be loaded (SyntaxError"),
        ("wants", (), "task.grader: {}: cannot be loaded (TypeError: "),
        ("reads", ("task.answer=number",), "task.answer: {} reads answers in its own way; leave one of the two out"),
        ("reads", ("task.sandbox=limits",), "task.sandbox: the answers of this task are no programs; leave it out"),
    ],
)
def test_a_bad_grader_is_refused_in_a_line(tmp_path, body, overrides, line) -> None:
    path = tmp_path / "g.py"
    path.write_text(BODIES[body])
    recipe = load_recipe(overrides=(f"task.grader={path}:G", *overrides))
    with pytest.raises(ConfigError) as error:
        grader_of(recipe.task).same("1", "1", Problem("p", "q"))
    assert line.format(f"{path}:G") in str(error.value) and "\n" not in str(error.value)


def test_who_offers_a_grader_and_who_needs_none(tmp_path, monkeypatch) -> None:
    (tmp_path / "package_of_graders.py").write_text(BODIES["reads"])
    about = tmp_path / "graders-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: graders\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hpcmaf.graders]\nwhole = package_of_graders:G\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    grader, problem = grader_of(load_recipe(overrides=("task.grader=whole",)).task), Problem("p", "q")
    assert grader.extract("<think>5?</think>so 6", problem, "number") == "so 6"
    assert grader.extract("so 6", problem, "number", truncated=True) is None
    assert grader_of(load_recipe().task) == Grader()
    with pytest.raises(
        ConfigError, match="there is no grader 'unheard'; use code, one of an installed package, or FILE"
    ):
        grader_of(load_recipe(overrides=("task.grader=unheard",)).task)


@pytest.mark.parametrize(("choices", "given", "read"), [(10, "J", "J"), (5, "E", "E"), (4, "E", None), (3, "D", None)])
def test_a_letter_is_one_of_the_questions_choices(choices, given, read) -> None:
    question = "\n".join(["Which?", *(f"({letter}) one" for letter in LETTERS[:choices])])
    recipe = load_recipe(overrides=("task.name=mmlu-pro", "task.source=x", "task.prompts=default"))
    grader = protocol_of(recipe, 0, evaluating=False).grader
    assert grader.extract(f"Answer: ({given})", Problem("p", question), "letter") == read
