"""Looking into a store, by figures and by debate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli import inspect as inspect_verb
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import StoreError
from hpcmaf.store import StoreInfo, write_store
from hpcmaf.tasks.problems import Problem


def run(*arguments: object) -> str:
    result = CliRunner().invoke(inspect_verb.command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Two debates whose figures can be counted by hand."""

    def said(m: int, answers: list[str | None], reason: str = "stop") -> tuple[Utterance, ...]:
        return tuple(Utterance("answer", m, n, "??", "\u00e9" * m, a, 10, 5, reason) for n, a in enumerate(answers))

    def summaries() -> tuple[tuple[Utterance, ...], ...]:
        return (tuple(Utterance("summary", 2, n, "", "abc", None, 100, 7) for n in range(3)),)

    made = [
        Transcript(Problem("a", "A?", "1"), (said(1, ["1", "1", "2"]), said(2, ["1", "1", "1"])), summaries()),
        Transcript(Problem("b", "B?", None), (said(1, [None] * 3, "length"), said(2, ["", "", None])), summaries()),
    ]
    path = tmp_path / "a.h5"
    write_store(path, StoreInfo("gsm8k", "number", 3, 2, 4, "eval", True), made)
    return path


def test_figures_as_json(counted: Path) -> None:
    figures = json.loads(run(counted, "--json"))
    assert figures["problems"] == 2 and figures["utterances"] == 18
    assert (figures["task"], figures["agents"], figures["iteration"], figures["split"]) == ("gsm8k", 3, 4, "eval")
    assert figures["tokens"]["answer"] == {"prompt": 120, "completion": 60}
    assert figures["tokens"]["summary"] == {"prompt": 600, "completion": 42}
    assert figures["rounds"] == 2
    one, two = figures["by_round"]
    assert one["parsed"] == 0.5 and two["parsed"] == pytest.approx(5 / 6)
    assert one["same_answer"] == pytest.approx((2 / 3 + 0) / 2)
    assert two["same_answer"] == pytest.approx((1 + 2 / 3) / 2)
    assert (one["answer_bytes"], two["answer_bytes"]) == (2, 4)
    assert (one["summary_bytes"], two["summary_bytes"]) == (None, 3)
    assert one["finish_reasons"] == {"stop": 3, "length": 3, "unknown": 0}


def test_figures_as_text(counted: Path) -> None:
    text = run(counted)
    assert "3 agents x 2 rounds, with summaries" in text
    assert "parsed 50.0%" in text and "stop 3, length 3" in text


def test_an_empty_store_has_no_means(tmp_path: Path, info) -> None:
    path = tmp_path / "a.h5"
    write_store(path, info, [])
    assert json.loads(run(path, "--json"))["by_round"][0]["parsed"] is None
    assert "parsed -" in run(path)


def test_one_debate_in_the_order_it_was_held(store: Path) -> None:
    text = run(store, "--problem", "problem-00003")
    places = [
        text.index(part)
        for part in (
            "gold: gold-3",
            "round 1, generator-0: no answer",
            "round 1, generator-2: answer 1",
            "round 2, summary for critic-0",
            "round 2, critic-0: answer 0",
            "round 2, critic-2: answer 1",
        )
    ]
    assert places == sorted(places)
    assert "ask 3.2.1" in text
    with pytest.raises(StoreError, match="no problem 'x'"):
        run(store, "--problem", "x")


def odd_store(folder: Path) -> Path:
    """What a model may say: escape codes, a lone surrogate, markup that rich would obey."""
    turn = Utterance("answer", 1, 0, "[bold]p[/bold]", "\x1b[31mred\ud800\0[/x]\nnext \u00e9", "\ud800")
    path = folder / "odd.h5"
    debate = Transcript(Problem("i\ud800", "q"), ((turn,),))
    write_store(path, StoreInfo("math", "boxed", 1, 1, 0, "train", False), [debate])
    return path


def test_odd_text_is_valid_json(tmp_path: Path) -> None:
    output = run(odd_store(tmp_path), "--problem", "i\ud800", "--json")
    assert output.isascii()
    shown = json.loads(output)
    assert shown["answers"][0][0]["text"] == "\x1b[31mred\ud800\0[/x]\nnext \u00e9"
    assert shown["summaries"] == []


def test_odd_text_does_not_steer_the_terminal(tmp_path: Path) -> None:
    path = odd_store(tmp_path)
    assert "\\x1b[31mred\\ud800\\x00[/x]\nnext \u00e9" in run(path, "--problem", "i\ud800")
    words = [str(path), "--problem", "i\ud800"]
    colored = CliRunner().invoke(inspect_verb.command, words, catch_exceptions=False, color=True).output
    assert "\x1b[" in colored and "\x1b[31mred" not in colored and "[bold]p[/bold]" in colored
