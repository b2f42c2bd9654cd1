"""The page in a real browser: it draws, searches and opens debates, fetches nothing, and text stays text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.report import aggregate
from hpcmaf.run.directory import RunDir
from hpcmaf.store import StoreInfo, write_store
from tests.report.browser import chromium, fetched
from tests.report.conftest import invent

pytestmark = pytest.mark.slow
NASTY = "<img src=http://example.org/x onerror='document.title=1'></script><script>document.title=2</script>"
MakeRun = Callable[..., RunDir]


def with_summaries(debate: Transcript) -> Transcript:
    """Every text says whose it is; one of the words is to be found in one debate only."""
    turns = tuple(
        tuple(replace(said, text=f"{NASTY} agent {said.agent} in round {said.round}") for said in turn)
        for turn in debate.answers
    )
    name = debate.problem.id.rpartition("-")[2]
    read = tuple(Utterance("summary", 2, n, "?", f"Zebra{name} summary for {n}") for n in range(3))
    return Transcript(replace(debate.problem, meta={"level": "Level 3"}), turns, (read,))


@pytest.fixture
def page(make_run: MakeRun, tmp_path: Path) -> Path:
    """The report of two methods, one of them unfinished and without stores."""
    run = make_run("maft <run>", upto=1)
    for t in (0, 1):
        gain = 0.12 * (1 - 0.5**t)
        debates = [with_summaries(debate) for debate in invent(40, (0.45 + gain, 0.6 + gain), 3, t)]
        info = StoreInfo("arithmetic", "number", agents=3, rounds=2, iteration=t, split="eval", summaries=True)
        write_store(run.store(t, "eval"), info, debates)
    other = make_run("star", upto=1, planned=3, method="star")
    aggregate([run.root, other.root], tmp_path / "out", reference=True, baseline="base")
    return tmp_path / "out" / "report.html"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as started:
        yield started


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)


def choose(browser: Any, field: str, value: str) -> None:
    """As typing or picking does."""
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))",
        field,
        value,
    )


def test_in_a_browser(page: Path, browser: Any) -> None:
    url = page.as_uri()
    browser.get(url)
    title = browser.title
    # Everything is drawn, nothing is wider than the page, and only the file itself was fetched.
    sizes = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.width])")
    assert len(sizes) == 4 and all(complete and natural > 100 and width > 300 for complete, natural, width in sizes)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert fetched(browser) == [url]
    assert any("star" in line and "3" in line for line in texts(browser, "#missing li"))
    tables = texts(browser, "#tables table")
    assert tables and any("p (Holm)" in table for table in tables)

    # All debates, by outcome, and by words of one of them.
    heads = texts(browser, "#list summary")
    assert len(heads) == 60 and texts(browser, "#count") == ["60 of 60 debates."]
    assert "No eval.h5" in " ".join(texts(browser, "#debates .note"))
    choose(browser, "outcome", "corrected")
    some = texts(browser, "#list .tag")
    assert 0 < len(some) < 60 and set(some) == {"corrected"} and browser.current_url.endswith("#outcome=corrected")
    choose(browser, "outcome", "")
    wanted = heads[0].split(" · ")[0].rpartition("-")[2]
    choose(browser, "q", f"zebra{wanted} SUMMARY")
    found = texts(browser, "#list summary")
    assert 0 < len(found) < 60 and all(f"-{wanted} " in head for head in found)

    # The first one stands open: every agent in every round, what it read, the votes, gold, and what was searched for.
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    (text,) = texts(browser, "#list details[open] > div")
    for m in (1, 2):
        assert f"Round {m}" in text
        for n in range(3):
            assert f"agent {n} in round {m}" in text
    assert all(f"Zebra{wanted} summary for {n}" in text and f"agent {n} reads" in text for n in range(3))
    assert text.count("vote: ") == 2 and f"gold: {int(wanted)}" in text and "level: Level 3" in text
    assert texts(browser, "#list details[open] mark") == [f"Zebra{wanted} summary"] * 3

    # What a model wrote is shown as it is and does nothing.
    assert NASTY in text and browser.title == title
    assert browser.execute_script("return document.querySelectorAll('#list img, #list script').length") == 0

    # A link that was sent to somebody.
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    assert texts(browser, "#list summary") == found
    choose(browser, "q", "nothing has this")
    assert texts(browser, "#count") == ["0 of 60 debates."] and not texts(browser, "#list summary")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
    assert {address.partition("#")[0] for address in fetched(browser)} <= {url, "about:blank"}

    on_a_telephone_and_on_paper(browser)


def on_a_telephone_and_on_paper(browser: Any) -> None:
    """With the page that is open already: starting a browser takes longest."""
    browser.set_window_size(500, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    columns = "return getComputedStyle(document.querySelector('.plots')).gridTemplateColumns.split(' ').length"
    assert browser.execute_script(columns) == 1
    browser.set_window_size(1400, 900)
    assert browser.execute_script(columns) == 2
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('.controls')).display") == "none"
