"""What agents are asked."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, extract
from hpcmaf.errors import ConfigError
from hpcmaf.tasks import TASKS, get_task

QUESTION = "What is {x} of 50%s? \\boxed{no} {}"
ANSWERS = ["first {0} thought", "second thought %d", "third"]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("others", [1, 2, 4])
def test_prompts_hold_question_and_answers_word_for_word(name, others) -> None:
    prompts = get_task(name).prompts("default")
    answers = [f"{answer} #{n}" for n, answer in enumerate((ANSWERS * 2)[:others])]
    assert QUESTION in prompts.first(QUESTION)
    for text in (prompts.summarize(QUESTION, answers), prompts.update_without_summary(QUESTION, answers)):
        assert QUESTION in text
        assert all(answer in text for answer in answers)
        places = [text.index(answer) for answer in answers]
        assert places == sorted(places)
    update = prompts.update(QUESTION, "the {summary}")
    assert QUESTION in update and "the {summary}" in update


@pytest.mark.parametrize("name", TASKS)
def test_prompts_of_ablations_hold_them_too(name) -> None:
    prompts = get_task(name).prompts("default")
    joint, listed = prompts.integrate(QUESTION, "the {summary}"), prompts.integrate_without_summary(QUESTION, ANSWERS)
    assert QUESTION in joint and "the {summary}" in joint
    assert QUESTION in listed and all(answer in listed for answer in ANSWERS)
    assert joint != prompts.update(QUESTION, "the {summary}")
    first = prompts.first(QUESTION)
    assert prompts.hint(QUESTION, "{17}").startswith(first) and "{17}" in prompts.hint(QUESTION, "{17}")[len(first) :]
    named = [prompts.named(role, n, first) for role in ("generator", "critic") for n in range(3)]
    assert len(set(named)) == 6 and all(text.endswith(f"\n\n{first}") for text in named)


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4), st.text())
def test_no_text_breaks_a_prompt(question, answers, summary) -> None:
    prompts = get_task("math").prompts()
    assert question in prompts.first(question)
    assert all(answer in prompts.summarize(question, answers) for answer in answers)
    assert all(answer in prompts.update_without_summary(question, answers) for answer in answers)
    assert summary in prompts.update(question, summary)


@pytest.mark.parametrize("name", TASKS)
def test_what_is_common_comes_first(name) -> None:
    """Two agents' requests for one problem share all but the answers they read."""
    prompts = get_task(name).prompts()
    pair = [prompts.summarize(QUESTION, answers) for answers in (["one", "two"], ["three", "two"])]
    shared = os.path.commonprefix(pair)
    assert QUESTION in shared and shared.endswith("Solution 1:\n")
    questions = os.path.commonprefix([prompts.first("A?"), prompts.first("B?")])
    assert prompts.first("A?") == questions + "A?"


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
    for text in (prompts.first("Q"), prompts.update("Q", "S"), prompts.update_without_summary("Q", ["A"])):
        assert asked in text
    # A summarizer is asked for no answer of its own.
    assert asked not in prompts.summarize("Q", ["A"])


def test_unknown_names_list_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"task\.name: there is no task 'chess'; use one of arithmetic, words, sums, gsm8k, math"
    ):
        get_task("chess")
    with pytest.raises(ConfigError, match=r"task\.prompts: arithmetic has no prompts 'loud'; use one of default, comp"):
        get_task("arithmetic").prompts("loud")
