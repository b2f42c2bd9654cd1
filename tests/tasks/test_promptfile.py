"""Prompts of one's own: what a file says is what models read, learn from, and keep."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.answers import AnswerForm
from hpcmaf.cli.prompts import command
from hpcmaf.config.load import load_recipe
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines import Sampling
from hpcmaf.errors import ConfigError
from hpcmaf.selection.select import write_selection
from hpcmaf.store import Store, StoreInfo, write_store
from hpcmaf.tasks import get_task
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.promptfile import PromptFile, TemplatePrompts
from tests.debate.scripted import ScriptedEngine

FILE = """\
system: Be careful.
examples:
  - {question: 2 + 2, answer: "\\\\boxed{4}"}
first: "{{ question }}? You are {{ n }} of {{ N }}."
update: "Others: {{ summary }} Once more: {{ question }}"
"""


def prompts(**values) -> TemplatePrompts:
    return TemplatePrompts(PromptFile(**values), get_task("gsm8k").prompts())


@pytest.fixture
def recipe(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(FILE)
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {path: micro}\ntask: {name: gsm8k, source: x, prompts: mine.yaml}\n")
    return load_recipe(str(path))


def test_a_run_keeps_the_prompts_and_not_the_name_of_their_file(recipe):
    assert recipe.task.prompts.system == "Be careful."
    assert "mine.yaml" not in json.dumps(recipe.model_dump(mode="json"))


def held(recipe, rounds: int = 2):
    prompts = get_task("gsm8k").prompts(recipe.task.prompts)
    protocol = Protocol(rounds, True, prompts, AnswerForm.BOXED, Sampling(), seed=1, iteration=1, agents=2)
    engine = ScriptedEngine(lambda request: "\\boxed{5}")
    transcript = asyncio.run(debate(Problem("p", "2 + 3"), Society.of(2, ()), protocol, engine))
    return transcript, engine, protocol


def test_what_models_read(recipe):
    _, engine, protocol = held(recipe)
    read = {request.key: [message["content"] for message in request.messages] for request in engine.requests}
    opening = ["Be careful.", "2 + 2? You are 1 of 1.", "\\boxed{4}"]
    assert read["p/r1/answer/1"] == [*opening, "2 + 3? You are 2 of 2."]
    # A critic's chat is its first one, gone on with; a summary has the system message, and the task's own words.
    assert read["p/r2/answer/1"][:-1] == [*opening, "2 + 3? You are 2 of 2.", "\\boxed{5}"]
    assert read["p/r2/answer/1"][-1] == "Others: \\boxed{5} Once more: 2 + 3"
    assert read["p/r2/summary/0"][:1] == ["Be careful."] and len(read["p/r2/summary/0"]) == 2
    assert [title for title, _ in protocol.sample_chats("2 + 3")] == [
        "first answer of agent 1",
        "summary for agent 1",
        "updated answer of agent 1",
    ]


def test_what_was_read_is_in_the_store_and_in_the_training_data(recipe, tmp_path: Path):
    transcript, engine, protocol = held(recipe)
    path = tmp_path / "debates.h5"
    write_store(
        path, StoreInfo("gsm8k", "boxed", 2, 2, 1, "train", True, json.dumps(protocol.openings)), [transcript]
    )
    with Store(path) as store:
        assert list(store.transcripts()) == [transcript]
    write_selection(path, tmp_path / "data", Rules(w=0.0), seed=1)
    read = {request.key: list(request.messages) for request in engine.requests}
    for agent, key in (("generator-1", "p/r1/answer/1"), ("critic-1", "p/r2/answer/1")):
        line = json.loads((tmp_path / "data" / f"{agent}.jsonl").read_text())
        assert line["messages"][:-1] == read[key] and line["opening"] == 3


def test_turns_of_their_own_for_each_kind():
    turns = {"summarize": [{"user": "u", "assistant": "a"}]}
    made = prompts(examples=turns)
    assert [turn["content"] for turn in made.opening("summarize")] == ["u", "a"] and made.opening("update") == ()


def test_what_a_file_leaves_out_comes_from_the_task():
    own = get_task("gsm8k").prompts()
    assert prompts(system="x").first("q") == own.first("q") and prompts().opening("first") == ()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"first": "{{ q }}"}, "first: unknown variable 'q'"),
        ({"first": "Solve it."}, "first: never shows {{ question }}"),
        ({"summarize": "{{ question }}"}, "summarize: never shows {{ answers }}"),
        ({"update": "{{ question }}"}, "update: never shows {{ summary }}"),
        ({"first": "{% if not question %}{{ question }}{% endif %} Solve it."}, "first: never shows {{ question }}"),
        ({"first": "{% if N == 1 %}{{ question }}{% endif %} Solve it."}, "first: never shows {{ question }}"),
        ({"summarize": "{% for one in answers %}{{ loop.index }}{% endfor %}"}, "summarize: never shows {{ answers }}"),
        ({"hint": "{{ question }} {{ answer | length }}"}, "hint: never shows {{ answer }}"),
        ({"first": "{{ question"}, "first, line 1:"),
        ({"first": "{{ question.__class__ }}"}, "first: cannot be rendered"),
        ({"first": "{{ question // 2 }}"}, "first: cannot be rendered"),
    ],
)
def test_a_template_that_cannot_work_is_one_line(values, says):
    with pytest.raises(ConfigError, match="task.prompts: ") as refused:
        prompts(**values).first("2 + 3")
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [("frist: x\n", "frist: unknown key; did you mean 'first'"), ("examples: [{question: a}]\n", "answer: missing"), ("- a\n", "list")],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str, says: str):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_recipe(overrides=[f"task.prompts={tmp_path / 'p.yaml'}"])


def test_a_file_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(overrides=["task.prompts=nowhere.yaml"])


def test_the_kind_of_answer_is_the_recipes(recipe):
    from hpcmaf.debate.methods import METHODS
    from hpcmaf.jobs.debate import protocol_of

    asked = recipe.task.model_copy(update={"answer": "letter"})
    made = protocol_of(recipe, METHODS["maft"], asked, 2, 1)
    assert made.answer_form == AnswerForm.LETTER and replace(made, prompts=None).agents == 3


@pytest.mark.parametrize(
    ("method", "titles"),
    [
        ("maft", ["first answer of agent 1", "summary for agent 1", "updated answer of agent 1"]),
        ("maft-no-summary", ["first answer of agent 1", "updated answer of agent 1"]),
        ("majority", ["first answer of agent 1"]),
        ("star", ["first answer of agent 1", "answer with a hint"]),
        ("single-agent-ft-no-debate", ["first answer of agent 1", "summary for agent 1", "updated answer of agent 1"]),
    ],
)
def test_those_prompts_are_printed_that_a_method_has(method: str, titles: list[str]):
    words = ["--recipe", "arithmetic/micro", "--method", method, "--set", "sampling.thinking_tokens=9"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    shown = [line[4:].partition(":")[0] for line in done.output.splitlines() if line.startswith("--- ")]
    assert shown[:-1] == titles and shown[-1].endswith("tokens, its thought after 9")
