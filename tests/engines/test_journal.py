"""The journal: whole lines are kept, a torn one is not, and nothing foreign is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.engines import Completion, Request, Sampling
from hpcmaf.engines.journal import Journal, request_digest

REQUEST = Request("p/r1/answer/0", ({"role": "user", "content": "1+1"},), "critic-0", 5, Sampling())


def completion(text: str) -> Completion:
    return Completion(text, tuple(range(len(text))), 3, "stop")


def write(journal: Journal, request: Request, made: Completion, seconds: float) -> None:
    """A line of a completion that took some time."""
    before = journal.seconds
    journal.append(request, made)
    journal.seconds = before + seconds
    journal.write()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(), max_size=8), min_size=1, max_size=5), st.data())
def test_every_cut_leaves_the_whole_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str], data) -> None:
    """Cut anywhere, the journal holds the lines before the cut, and can be written on."""
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journal = Journal(path)
    requests = [replace(REQUEST, key=str(i)) for i in range(len(texts))]
    ends = []
    for request, text in zip(requests, texts, strict=True):
        write(journal, request, completion(text), 0.5)
        ends.append(path.stat().st_size)
    journal.close()
    cut = data.draw(st.integers(0, ends[-1]))
    with path.open("r+b") as file:
        file.truncate(cut)
    journal = Journal(path)
    whole = sum(end <= cut for end in ends)
    assert len(journal) == whole
    assert journal.seconds == journal.earlier == 0.5 * whole
    assert [journal.find(r) for r in requests[:whole]] == [completion(t) for t in texts[:whole]]
    assert all(journal.find(r) is None for r in requests[whole:])
    write(journal, REQUEST, completion("new"), 1.0)
    journal.close()
    journal = Journal(path)
    assert (len(journal), journal.find(REQUEST)) == (whole + 1, completion("new"))
    journal.remove()
    assert not path.exists()


@pytest.mark.parametrize("damage", ["{", "\0" * 9, "[]", '{"seconds": 1.0}', '{"completions": [], "seconds": "?"}'])
def test_a_damaged_line_costs_what_it_held_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path, requests = tmp_path / "journal.jsonl", [replace(REQUEST, key=str(i)) for i in range(3)]
    journal = Journal(path)
    for request in requests:
        write(journal, request, completion("text"), 0.5)
    journal.close()
    first, _, last = path.read_text().splitlines()
    path.write_text(f"{first}\n{damage}\n{last}\n")
    journal = Journal(path)
    assert [journal.find(request) is not None for request in requests] == [True, False, True]
    assert journal.seconds == 1.0
    assert capsys.readouterr().err == f"{path}: 1 line(s) are damaged; what they held is generated again\n"


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, key="q"),
        replace(REQUEST, messages=({"role": "user", "content": "1+2"},)),
        replace(REQUEST, model=None),
        replace(REQUEST, seed=6),
        replace(REQUEST, sampling=Sampling(temperature=0.5)),
        replace(REQUEST, sampling=Sampling(top_p=0.8)),
        replace(REQUEST, sampling=Sampling(max_new_tokens=7)),
        replace(REQUEST, sampling=Sampling(thinking_tokens=7)),
        replace(REQUEST, begun=(7,)),
    ],
)
def test_another_request_is_not_answered(tmp_path: Path, other: Request) -> None:
    journal = Journal(tmp_path / "j")
    write(journal, REQUEST, completion("x"), 1.0)
    journal.close()
    assert len(journal) == 0, "what this attempt makes is on disk, and not in memory as well"
    journal = Journal(tmp_path / "j")
    assert journal.find(REQUEST) == completion("x")
    assert journal.find(other) is None
    assert request_digest(other) != request_digest(REQUEST)
