"""What agents are asked."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, extract
from hpcmaf.errors import ConfigError
from hpcmaf.tasks import TASKS, get_task

QUESTION = "What is {x} of 50%s? \\boxed{no} {}"
ANSWERS = ["first {0} thought", "second thought %d", "third"]


@pytest.mark.parametrize("name", TASKS)
@given(question=st.text(min_size=1), answers=st.lists(st.text(), min_size=1, max_size=4), summary=st.text())
@settings(max_examples=20, deadline=None)
@example(question=QUESTION, answers=ANSWERS, summary="the {summary}")
def test_prompts_hold_question_and_answers_word_for_word(name, question, answers, summary) -> None:
    prompts = get_task(name).prompts("default")
    first = prompts.first(question)
    update, joint = prompts.update(question, summary), prompts.integrate(question, summary)
    assert question in first and update != joint
    assert all(question in text and text.endswith(summary) for text in (update, joint))
    listed = "".join(f"Solution {n}:\n{answer}\n\n" for n, answer in enumerate(answers, start=1))
    assert question in prompts.summarize(question, answers) and listed in prompts.summarize(question, answers)
    for text in (prompts.update_without_summary(question, answers), prompts.integrate_without_summary(question, answers)):
        assert question in text and listed.removesuffix("\n\n") in text
    assert prompts.hint(question, "{17}").startswith(first) and "{17}" in prompts.hint(question, "{17}")[len(first) :]
    named = [prompts.named(role, n, first) for role in ("generator", "critic") for n in range(3)]
    assert len(set(named)) == 6 and all(text.endswith(f"\n\n{first}") for text in named)


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
        ConfigError, match=r"task\.name: there is no task 'chess'; use one of arithmetic, words, sums, gsm8k, svamp, math"
    ):
        get_task("chess")
    with pytest.raises(ConfigError, match=r"task\.prompts: arithmetic has no prompts 'loud'; use one of default, comp"):
        get_task("arithmetic").prompts("loud")
