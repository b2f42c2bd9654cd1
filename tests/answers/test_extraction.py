r"""Every place an answer may stand in, and texts that must not stall the search for it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, extract

NUMBERS = [
    (r"so \boxed{1,234}", "1234"),
    (r"\boxed{3} then \boxed{4}", "4"),
    (r"\boxed{} and 5", "5"),
    (r"7 and \boxed{12", "12"),
    (r"\fbox{7} 8", "7"),
    (r"\boxed{x = 12}", "12"),
    (r"\boxed{3 + 4 = 7}", "7"),
    (r"\boxed{\frac{3}{4}}", "3/4"),
    (r"\boxed{-\frac34}", "-3/4"),
    (r"\boxed{1\frac12}", "3/2"),
    (r"\boxed{\$1{,}234}", "1234"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{12 \text{ apples}}", "12"),
    (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{2\sqrt{3}}", None),
    (r"\boxed{5, 6}", None),
    (r"\boxed{\text{none}} after 5 steps", None),
    (r"\boxed{99999999!}", None),
    (r"\boxed{9^{9^{9^9}}}", None),
    (r"\boxed{1e999999999}", None),
    ("#### $1,234.50 dollars", "1234.50"),
    ("#### \n 12 \n 13", "12"),
    ("first #### 1\nthen #### 2\nend 3", "2"),
    ("foo\n# 42\nbar 3", "42"),
    ("# Step 1\n# 2. Compute\nso 42", "42"),
    ("The answer is -3. Then 4", "-3"),
    ("answer to the question is 12. 13", "12"),
    ("**Answer**: 12 apples\nnote 3", "12"),
    ("answer is: \n\n 7", "7"),
    ("answer: 3 + 4 = 7", "7"),
    ("The answer is 12 since 3*4=12, x=3", "12"),
    ("answer is 3/4.", "3/4"),
    ("12-30=-18", "-18"),
    ("12 - 30 = - 18", "-18"),
    ("12 - 30", "30"),
    ("3-5", "5"),
    ("5 - -3", "-3"),
    ("(-3)", "-3"),
    ("= \u22127", "-7"),
    ("-$5", "-5"),
    ("it is -\\$5", "-5"),
    ("10%", "10"),
    (".5", "0.5"),
    ("it is 1,234,567.", "1234567"),
    ("1,2345", "2345"),
    ("x2 = 7", "7"),
    ("CO2", None),
    ("no number", None),
    ("\x00\ud800 7", "7"),
    ("", None),
]
BOXES = [
    (r"\boxed{\frac{1}{\{2\}}}", r"\frac{1}{\{2\}}"),
    (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
    (r"\boxed{a} then \boxed{b}", "b"),
    (r"\boxed{a} \boxed{b", None),
    (r"\boxed{}", None),
    (r"\boxed 5", "5"),
    (r"$\boxed 5$.", "5"),
    (r"\boxed {7}", "7"),
    (r"\boxed\frac{1}{2}.", r"\frac{1}{2}"),
    (r"\fbox{x}", "x"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\boxedness{3}", None),
    (r"\boxed{\text{east}}", r"\text{east}"),
    ("the answer is $x+1$.", "x+1"),
    (r"The final answer is \(\frac12\)", r"\frac12"),
    ("the answer is 12.", "12"),
    ("answer is (3, 4).", "(3, 4)"),
    ("the answer is that we cannot know", None),
    ("so $x$ is $5$", None),
    ("\ud800\\boxed{\ud800\x00}", "\ud800\x00"),
]
LETTERS = [
    (r"\boxed{B}", "B"),
    (r"\boxed{\text{(C)}}", "C"),
    (r"\boxed{\textbf{A}}", "A"),
    (r"\boxed{b}", "B"),
    (r"\boxed{A) mitosis}", "A"),
    (r"\boxed{42} so C", "C"),
    ("(B)", "B"),
    ("B)", "B"),
    ("B", "B"),
    ("A", "A"),
    ("**B**", "B"),
    ("(A) at first, then (B)", "B"),
    ("The answer is (d).", "D"),
    ("answer is B, not (C)", "B"),
    ("Answer: **C**", "C"),
    ("answer is option C.", "C"),
    ("answer is $\\text{D}$", "D"),
    ("The correct option is: D", "D"),
    ("The answer is A because", "A"),
    ("A is correct.", "A"),
    ("It is A.", "A"),
    ("A dog ran.", None),
    ("A dog ran. The answer would be C", "C"),
    ("the answer is a dog", None),
    ("C++ on a B-cell", None),
    ("E", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_number(text: str, expected: str | None) -> None:
    assert extract(text, AnswerForm.NUMBER) == expected


@pytest.mark.parametrize(("text", "expected"), BOXES)
def test_boxed(text: str, expected: str | None) -> None:
    assert extract(text, AnswerForm.BOXED) == expected


@pytest.mark.parametrize(("text", "expected"), LETTERS)
def test_letter(text: str, expected: str | None) -> None:
    assert extract(text, "letter") == expected


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="essay"):
        extract("5", "essay")


STALLING = {
    "digits": ("1", "1", ""),
    "thousands": ("1", ",111", "1"),
    "open boxes": ("", "\\boxed{", ""),
    "false boxes": ("", "\\boxedx", ""),
    "phrases": ("", "the answer is ", ""),
    "half phrases": ("", "answer ", ""),
    "braces": ("\\boxed", "{", ""),
    "slashes": ("", "1/", ""),
    "signs": ("", "-", ""),
    "hashes": ("", "#", ""),
    "hash lines": ("", "# 1\n", ""),
    "spaces": ("answer is", " ", ""),
    "capitals": ("", "A ", ""),
    "backslashes": ("", "\\", ""),
    "box of digits": ("\\boxed{", "9", "}"),
    "box of equations": ("\\boxed{", "a=", "}"),
}


@pytest.mark.parametrize("form", list(AnswerForm))
@pytest.mark.parametrize("name", STALLING)
def test_time_grows_no_faster_than_text(form: AnswerForm, name: str) -> None:
    # A quadratic pattern would need minutes for these 400 kB; a linear one needs a quarter of a second.
    head, middle, tail = STALLING[name]
    text = head + middle * (400_000 // len(middle)) + tail
    start = time.process_time()
    extract(text, form)
    assert time.process_time() - start < 5


@given(st.text(max_size=200), st.sampled_from(list(AnswerForm)))
def test_any_text_gives_an_answer_or_none(text: str, form: AnswerForm) -> None:
    answer = extract(text, form)
    assert answer is None or answer.strip()


@given(st.integers(), st.text(max_size=50).filter(lambda text: "boxed" not in text and "fbox" not in text))
def test_a_boxed_integer_is_found_after_any_text(value: int, before: str) -> None:
    assert extract(before + f" \\boxed{{{value}}}.", AnswerForm.BOXED) == str(value)
    if abs(value) < 10**100:
        assert extract(before + f" \\boxed{{{value:,}}}.", AnswerForm.NUMBER) == str(value)


@given(st.integers(-(10**6), 10**6))
def test_results_of_worked_arithmetic_keep_their_sign(value: int) -> None:
    assert extract(f"3*4=12, 12-30={value}", AnswerForm.NUMBER) == str(value)
    assert extract(f"so it is {value}.", AnswerForm.NUMBER) == str(value)
