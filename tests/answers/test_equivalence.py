r"""What counts as the same answer.

The tables' cheap rows are decided without a worker, and the tests see to it
that they are: a worker costs seconds to start.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpcmaf.answers import checker, equivalent
from hpcmaf.answers.equivalence import _is_nothing

SAME = [
    ("1/2", "0.5"),
    (r"\frac12", r"\dfrac{1}{2}"),
    (r"\frac{-1}{2}", r"-\frac{1}{2}"),
    ("\u00bd", ".5"),
    ("5.0", "5"),
    ("\u22123", "-3"),
    ("1e3", "1000"),
    ("10,000", "10000"),
    ("10,\\!000", "10{,}000"),
    ("1,000,000", "1000000"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    (r"50\%", "50"),
    (r"90^\circ", "90"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"\$18.90", "18.9"),
    (r"5\text{ cm}", "5"),
    ("5 cm", r"5\text{ centimeters}"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"\text{5 cm}", "5"),
    (r"5\sqrt{2}\text{ cm}", r"5\sqrt2"),
    (r"\text{(C)}", "C"),
    (r"\text{Evelyn}", "evelyn."),
    ("x=5", "5"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("y=2x+3", "2x+3"),
    ("f(x)=x^2", "x^2"),
    (r"\angle ABC = 60^\circ", "60"),
    ("2x=10", "x=5"),
    ("5x-7y+11z+4=0", "7y-5x-4=11z"),
    ("1+1=2", "2"),
    ("(1,2)", "( 1 , 2.0 )"),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3,\\pi/2)"),
    (r"\{1,2\}", r"\left\{2, 1\right\}"),
    (r"\{1,2\}", "1,2"),
    ("1,-2", "-2,1"),
    ("x=1 \\text{ or } x=-2", "1,-2"),
    (r"3 \pm \sqrt 2", r"3+\sqrt{2}, 3-\sqrt{2}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt5, 1+\sqrt5\}"),
    (r"(2,\infty)", r"(2, +\infty)"),
    (r"(0,9) \cup (9,36)", r"(9,36)\cup(0,9)"),
    (r"\emptyset", r"\{\}"),
    (r"\begin{pmatrix} 1 \\ -1/2 \end{pmatrix}", r"\begin{bmatrix}1\\-\frac12\\\end{bmatrix}"),
    (r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    (r"1\frac45", "9/5"),
    ("1 4/5", "1.8"),
    (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{36}", "3/22"),
    ("12_3", "12_{3}"),
    ("-0.12_3", "-0.12_{3}"),
    ("3:2", "3/2"),
    ("8\\!:\\!34 \\text{ p.m.}", "8:34"),
    ("1:2:3", "1 : 2 : 3.0"),
    (r"164 \pi \mbox{ square feet}", r"164\pi"),
    (r"\approx 8.24 \text{ mph}", "8.24"),
    (r"\sqrt{2}/2", r"1/\sqrt 2"),
    ("sqrt(2)/2", r"\frac{\sqrt2}{2}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1"),
    (r"\sqrt[3]{8}", "2"),
    (r"\sqrt{-4}", "2i"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"\frac{20000}{\pi}", r"20000\pi^{-1}"),
    ("2*pi", r"2\pi"),
    ("6-5i", "-5i+6"),
    ("p - q", "-q+p"),
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    (r"\frac{11+9a}{20}", r"\frac{11}{20}+\frac{9a}{20}"),
    (r"\frac{2}{x}", "2/x"),
    ("5!", "120"),
    ("3^{2^2}", "81"),
    ("2^{10000}", "4^{5000}"),
    (r"2 \cdot 3", "6"),
    ("$5$", r"\(5\)"),
    ("**5**", "5"),
]
DIFFERENT = [
    ("1", "2"),
    ("-5", "5"),
    ("1/3", "0.333"),
    (r"\pi", "3.14159265"),
    (r"50\%", "1/2"),
    (r"5\text{ cm}", r"5\text{ m}"),
    (r"5\%", r"5\text{ cm}"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    ("[0,1)", "(0,1)"),
    ("[1,2]", "(1,2)"),
    ("1,2,3", "1,2"),
    (r"\{1,1,2\}", r"\{1,2,2\}"),
    ("2,3", "23"),
    ("(100,200)", "(100200)"),
    ("9:24", "9:25"),
    ("1:2:3", "1:2:4"),
    ("52_8", "52"),
    ("52_8", "42"),
    ("52_8", "52_9"),
    ("x=5", "y=5"),
    ("x+y=5", "5"),
    ("y=2x+3", "y=2x+4"),
    ("even", "neve"),
    ("no real solutions", "no solutions exist"),
    (r"\text{north}", r"\text{south}"),
    ("A", "B"),
    ("a", "A"),
    ("x", "y"),
    ("5", "5x"),
    ("x^2", "x^3"),
    (r"\frac{1}{x}", "x"),
    (r"3 \pm 2", "3+2"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"(-\infty,2)", r"(\infty,2)"),
    ("99999999!", "1"),
    ("9^{9^{9^{9}}}", "1"),
    ("1e999999999", "1"),
    ("9**9**9", "7"),
    ("99999999!", "9^{9^{9^{9}}}"),
    ("99999999!", r"\cot x"),
]
NOTHING = ["", " ", "\x00", "$$", "nan", "NaN", r"\text{nan}", None]


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: checker.Checker, a: str, b: str, deadline: checker.Deadline) -> bool:
        raise AssertionError(f"a worker was asked about {a!r} and {b!r}")

    monkeypatch.setattr(checker.Checker, "check", refuse)


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(("a", "b"), SAME)
def test_same(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize("nothing", NOTHING)
def test_nothing_is_equivalent_to_nothing(nothing: str | None) -> None:
    assert not equivalent(nothing, nothing)
    assert not equivalent(nothing, "5")
    assert not equivalent("5", nothing)


@pytest.mark.usefixtures("no_worker")
def test_texts_too_long_to_work_out_are_compared_as_strings() -> None:
    long = "x+" * 600 + "1"
    assert equivalent(long, " " + long)
    assert not equivalent(long, long + "0")


_TOKENS = st.sampled_from(
    [
        "1",
        "23",
        "99999",
        "x",
        "i",
        "e",
        "+",
        "-",
        "/",
        "^",
        "_",
        "!",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "=",
        "&",
        "$",
        ".",
    ]
    + [
        r"\{",
        r"\}",
        r"\frac",
        r"\sqrt",
        r"\pi",
        r"\text{",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        r"\pm",
        r"\cup",
    ]
    + [
        r"\infty",
        r"^\circ",
        r"\%",
        r"\$",
        " ",
        "cm",
        r"\left",
        r"\overline{3}",
        "\x00",
        "\ud800",
        "(a+b)^{30}",
        "10^{10^{10}}",
    ]
)


@given(st.lists(_TOKENS, max_size=40).map("".join), st.lists(_TOKENS, max_size=8).map("".join))
def test_no_text_breaks_or_stalls_the_exact_levels(a: str, b: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checker.Checker, "check", lambda *_: False)
        start = time.process_time()
        assert equivalent(a, b) == equivalent(b, a)
        assert time.process_time() - start < 1


_NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.fractions(max_denominator=10**6))
_ATOMS = st.sampled_from(["1", "2", "7", "0.5", "x", "y", r"\pi", r"\sqrt{2}", r"\sqrt{12}", r"\frac{3}{4}", "i"])
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.builds("({}+{})".format, inner, inner),
        st.builds("({}-{})".format, inner, inner),
        st.builds(r"{}\cdot {}".format, inner, inner),
        st.builds("{}^2".format, inner.map("({})".format)),
    ),
    max_leaves=5,
)


@given(_NUMBERS, _NUMBERS)
def test_numbers_are_compared_exactly(a: object, b: object) -> None:
    assert equivalent(str(a), str(b)) == (a == b)


@given(_EXPRESSIONS, _EXPRESSIONS)
def test_symmetric_and_blind_to_spelling(a: str, b: str) -> None:
    respelled = a.replace("(", r"\left( ").replace(")", r"\right)").replace(r"\frac", r"\dfrac ")
    assert equivalent(a, a)
    assert equivalent(a, f"${respelled}$.")
    assert equivalent(a, f"0+{a}")
    assert equivalent(a, b) == equivalent(b, a)


@given(_EXPRESSIONS, _EXPRESSIONS)
def test_sums_commute_and_one_more_is_different(a: str, b: str) -> None:
    assert equivalent(f"{a}+{b}", f"{b}+{a}")
    assert not equivalent(a, f"{a}+1")


@given(st.text(max_size=60))
def test_any_text_is_equivalent_to_itself_or_nothing(text: str) -> None:
    assert equivalent(text, text) != _is_nothing(text)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms())
def test_order_matters_in_tuples_and_not_in_sets(values: list[int], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assume(shuffled != values)
    first, second = ", ".join(map(str, values)), ",".join(map(str, shuffled))
    assert equivalent(f"\\{{{first}\\}}", f"\\{{{second}\\}}")
    assert not equivalent(f"({first})", f"({second})")
