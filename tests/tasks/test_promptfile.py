"""What agents are asked: by default, and by a file of one's own, which is what models read, learn from and keep."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, extract
from hpcmaf.cli.prompts import command
from hpcmaf.config.load import load_recipe
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.engines import Sampling
from hpcmaf.errors import ConfigError
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.selection.select import write_selection
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks import TASKS, get_task
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptFile, PromptSet, prompts_of
from tests.debate.scripted import ScriptedEngine

FILE = """\
system: Be careful.
examples:
  - {question: 2 + 2, answer: "\\\\boxed{4}"}
first: "{{ question }}? You are {{ n }} of {{ N }}."
update: "Others: {{ summary }} Once more: {{ question }}"
"""


def prompts(**values) -> PromptSet:
    return prompts_of(PromptFile(**values), get_task("gsm8k").prompts())


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
    write_store(path, StoreInfo("gsm8k", "boxed", 2, 2, 1, "train", True, json.dumps(protocol.openings)), [transcript])
    with Store(path) as store:
        assert list(store.transcripts()) == [transcript]
    write_selection(path, tmp_path / "data", Rules(w=0.0), seed=1)
    read = {request.key: list(request.messages) for request in engine.requests}
    for agent, key in (("generator-1", "p/r1/answer/1"), ("critic-1", "p/r2/answer/1")):
        line = json.loads((tmp_path / "data" / f"{agent}.jsonl").read_text())
        assert line["messages"][:-1] == read[key] and line["opening"] == 3


def test_turns_of_their_own_for_each_kind():
    turns = {kind: [{"user": "u", "assistant": kind}] for kind in ("summarize", "judge")}
    made = prompts(examples=turns, system="s")
    read = {kind: [turn["content"] for turn in before] for kind, before in made.openings.items()}
    assert read == {"first": ["s"], "summarize": ["s", "u", "summarize"], "update": ["s"], "judge": ["s", "u", "judge"]}
    # A debate without a judge neither has nor stores what stands before one's prompt.
    protocol = Protocol(2, True, made, AnswerForm.BOXED, Sampling(), seed=0, iteration=1)
    assert "judge" not in protocol.openings and protocol.openings["summarize"] == made.openings["summarize"]
    assert replace(protocol, judge=True).opening("judge", 0) == made.openings["judge"]


def test_what_a_file_leaves_out_comes_from_the_task():
    own, mine = get_task("gsm8k").prompts(), prompts(system="x", first="{{ question }}!")
    assert mine.render("update", "q", "s") == own.render("update", "q", "s") and mine.render("first", "q") == "q!"
    assert prompts() == replace(own, openings=dict.fromkeys(("first", "summarize", "update", "judge"), ()))


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
        prompts(**values).render("first", "2 + 3")
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("frist: x\n", "frist: unknown key; did you mean 'first'"),
        ("examples: [{question: a}]\n", "answer: missing"),
        ("- a\n", "list"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str | None, says: str):
    if content is not None:
        (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_recipe(overrides=[f"task.prompts={tmp_path / 'p.yaml'}"])


def test_the_kind_of_answer_is_the_recipes(recipe):
    asked = recipe.task.model_copy(update={"answer": "letter"})
    made = protocol_of(recipe.model_copy(update={"task": asked}), 1, evaluating=False)
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


QUESTION = "What is {x} of 50%s? \\boxed{no} {}"
ANSWERS = ["first {0} thought", "second thought %d", "third"]


@pytest.mark.parametrize("name", TASKS)
@given(question=st.text(min_size=1), answers=st.lists(st.text(), min_size=1, max_size=4), summary=st.text())
@settings(max_examples=20, deadline=None)
@example(question=QUESTION, answers=ANSWERS, summary="the {summary}")
def test_prompts_hold_question_and_answers_word_for_word(name, question, answers, summary) -> None:
    prompts = get_task(name).prompts("default")
    first, hint = prompts.render("first", question), prompts.render("hint", question, "{17}")
    assert question in first and hint.startswith(first) and "{17}" in hint[len(first) :]
    update, joint = (prompts.render(template, question, summary) for template in ("update", "integrate"))
    assert update != joint and all(question in text and text.endswith(summary) for text in (update, joint))
    listed = "\n\n".join(f"Solution {n}:\n{answer}" for n, answer in enumerate(answers, start=1))
    for template in ("summarize", "update_without_summary", "integrate_without_summary", "judge"):
        text = prompts.render(template, question, answers)
        assert question in text and listed in text


def test_ids_name_agent_and_role(recipe) -> None:
    drawn = replace(held(recipe)[2], ids=True)
    found = [ask for n in range(3) for ask in (drawn.prompt("first", "q", n), drawn.prompt("update", "q", n, "s"))]
    assert [text.partition(",")[0].split()[-1] for text in found] == ["GEN1", "CRIT1", "GEN2", "CRIT2", "GEN3", "CRIT3"]
    assert found[1].endswith("\n\n" + replace(drawn, ids=False).prompt("update", "q", 0, "s"))


@pytest.mark.parametrize(
    ("name", "form", "reply", "answer"),
    [
        ("arithmetic", AnswerForm.NUMBER, "8*9=72\nAnswer: \\boxed{-72}", "-72"),
        ("gsm8k", AnswerForm.NUMBER, "So 3 apples.\nAnswer: \\boxed{12}", "12"),
        ("math", AnswerForm.BOXED, "Thus\nAnswer: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("mmlu", AnswerForm.LETTER, "(A) is tempting.\nAnswer: (C)", "C"),
        ("jsonl", AnswerForm.BOXED, "Answer: \\boxed{x+1}", "x+1"),
    ],
)
def test_the_form_asked_for_is_the_form_found(name, form, reply, answer) -> None:
    task = get_task(name)
    assert task.answer_form is form
    assert extract(reply, form) == answer
    asked = "Answer: (X)" if form is AnswerForm.LETTER else "Answer: \\boxed{"
    prompts = task.prompts()
    # A summarizer is asked for no answer of its own.
    for template in ("first", "update", "update_without_summary", "summarize"):
        assert (asked in prompts.render(template, "Q", ["A"])) == (template != "summarize")


def test_unknown_prompts_list_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"task\.prompts: arithmetic has no prompts 'loud'; use one of default, comp"):
        get_task("arithmetic").prompts("loud")
