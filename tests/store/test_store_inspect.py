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


def test_what_a_store_holds(store: Path) -> None:
    text = run(store)
    assert "3 agents x 2 rounds, with summaries" in text and "such as      problem-00000, problem-00001" in text
    facts = json.loads(run(store, "--json"))
    assert (facts["problems"], facts["agents"], facts["rounds"], len(facts["ids"])) == (40, 3, 2, 40)


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
