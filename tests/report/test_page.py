"""One file, no network, and nothing a model writes can break out of it."""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.debate.transcript import Transcript
from hpcmaf.report import aggregate
from hpcmaf.report.debates import choose
from hpcmaf.run.directory import RunDir
from hpcmaf.store import StoreInfo, write_store
from tests.report.conftest import MakeRun, groups_of, invent

NASTY = "</script><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)> & \ud800 \u2028 <!--"


def debates_of(text: str) -> list[dict[str, Any]]:
    """The data that the page's own script reads."""
    return json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])


def with_store(run: RunDir, t: int, *, seed: int = 0, text: str = "some words") -> None:
    """Put the debates behind an iteration's metrics next to them."""
    gain = 0.12 * (1 - 0.5**t)
    debates = []
    for debate in invent(40, (0.45 + gain, 0.6 + gain), 3, 1000 * seed + t):
        turns = tuple(tuple(replace(said, text=text) for said in turn) for turn in debate.answers)
        debates.append(Transcript(replace(debate.problem, question=f"{debate.problem.question} {text}"), turns))
    info = StoreInfo("arithmetic", "number", agents=3, rounds=2, iteration=t, split="eval", summaries=False)
    write_store(run.store(t, "eval"), info, debates)


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    made = make_run("<b>run & more", upto=1)
    for t in (0, 1):
        with_store(made, t, text=NASTY)
    return made


def test_one_file_without_network(run: RunDir, tmp_path: Path) -> None:
    report = aggregate([run.root], tmp_path)
    text = (tmp_path / "report.html").read_text()
    targets = re.findall(r"""<[^>]*\b(?:src|href|srcset|action|data)=["']?([^"'\s>]+)""", text)
    pictures = [target for target in targets if not target.startswith("#")]
    assert len(pictures) == 3 and "default-src 'none'" in text and not re.search(r"<[^>]*\son\w+=", text)
    for picture in pictures:
        assert picture.startswith("data:image/svg+xml;base64,")
        assert b"<svg" in base64.b64decode(picture.partition(",")[2])[:600]
    # The tables are those of the report, without a script.
    shown = Counter(map(html.unescape, re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", text)))
    for table in report.tables():
        assert not Counter(cell for row in table.rows for cell in row if cell) - shown
    assert "&lt;b&gt;run &amp; more" in text


def test_debates_are_whole_and_harmless(run: RunDir, tmp_path: Path) -> None:
    aggregate([run.root], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<script") == 2 and "alert(1)</script>" not in text
    debates = debates_of(text)
    data = text.partition('type="application/json">')[2].partition("</script>")[0]
    assert len(debates) == 60 and not set(data) & set("<>&\u2028\ud800")
    assert Counter(debate["iteration"] for debate in debates) == {0: 30, 1: 30}
    metrics = {t: json.loads(run.metrics(t).read_text())["scores"] for t in (0, 1)}
    for debate in debates:
        scores = metrics[debate["iteration"]]
        at = scores["problem_ids"].index(debate["id"])
        pair = scores["vote@1"][at] + scores["vote@M"][at]
        assert debate["outcome"] == {"01": "corrected", "10": "corrupted", "00": "wrong", "11": "right"}[pair]
        assert [str(int(r["vote"]["right"])) for r in debate["rounds"]] == list(pair)
        for m, turn in enumerate(debate["rounds"]):
            assert [str(int(a["right"])) for a in turn["answers"]] == [one[at] for one in scores["agents"][m]]
            assert all(answer["text"] == NASTY for answer in turn["answers"])
        assert debate["gold"] == str(int(debate["id"].rpartition("-")[2]))
    # Rare outcomes are there too.
    assert set(Counter(debate["outcome"] for debate in debates)) == {"corrected", "corrupted", "wrong", "right"}


def test_recipes_without_stores_are_named(run: RunDir, make_run: MakeRun) -> None:
    bare = make_run("bare", upto=0, method="debate")
    shown, notes = choose(groups_of(run, bare), 8)
    assert len(shown) == 8 and {debate["group"] for debate in shown} == {"maft"}
    assert notes == ["No eval.h5 beside the metrics, so no debate to show, of: debate."]


def test_a_damaged_store_is_missing(run: RunDir, tmp_path: Path) -> None:
    run.store(1, "eval").write_bytes(run.store(1, "eval").read_bytes()[:1000])
    report = aggregate([run.root], tmp_path)
    (line,) = report.missing
    assert "it01/eval.h5" in line and "not on the page" in line and "\n" not in line
    text = (tmp_path / "report.html").read_text()
    assert {debate["iteration"] for debate in debates_of(text)} == {0}
    assert "it01/eval.h5" in text and "it01/eval.h5" in (tmp_path / "report.md").read_text()
