"""The log of submissions survives kills, and says what is not known."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hpcmaf.launch.slurm.submissions import Cause, Submissions

STAGE = "it01/debate"
KILLED = Cause("killed", "killed on node1", submission="a")


@pytest.fixture
def log(tmp_path: Path) -> Submissions:
    log = Submissions(tmp_path / "run" / "submissions.jsonl")
    log.start()
    return log


def submit(log: Submissions, name: str, *tasks: str, job: str | None = None) -> None:
    log.intend(name, STAGE, [(task,) for task in tasks])
    if job is not None:
        log.confirm(name, job)


def test_what_was_written_is_read_again(log: Submissions) -> None:
    submit(log, "a", "00000", "00001", job="7")
    log.intend("g", STAGE, [], after=["7"])
    log.judge((STAGE, "00001"), KILLED)
    again = Submissions(log.path)
    again.start()
    (other := Submissions(log.path.with_name("other.jsonl"))).start()
    assert again.nonce == log.nonce != other.nonce, "each run keeps its own"
    assert again.sequence == 2 and again.submissions == log.submissions
    assert again.latest[STAGE, "00001"] == (log.submissions["a"], 1) and not again.submissions["a"].gate
    assert [found.kind for found in again.verdicts[STAGE, "00001"]] == ["killed"]
    assert again.submissions["g"].gate and again.submissions["g"].after == ("7",)
    # An intent without an id is unconfirmed.
    assert [found.name for found in again.unconfirmed()] == ["g"] and list(again.by_job()) == ["7"]
    again.confirm("g", "8")
    assert again.unconfirmed() == [] and again.by_job().keys() == {"7", "8"}


def test_lines_of_others_and_rubbish_are_passed_over(log: Submissions) -> None:
    submit(log, "a", "00000", job="7")
    before = log.submissions
    with log.path.open("ab") as file:
        file.write(b'{"stage": "it01/debate", "task": "00000", "job": "1234"}\n\xff\xfe\n[1]\n"event"\n\n')
        file.write(b'{"event": "submitted", "name": "nobody knows it", "job": "8", "time": 0.0}\n')
    assert Submissions(log.path).submissions == before and Submissions(log.path).by_job().keys() == {"7"}
    submit(log, "b", "00001", job="Welcome to the cluster\n9")
    assert [found.name for found in Submissions(log.path).unconfirmed()] == ["b"]


def test_a_reset_forgets_failures_but_no_names(log: Submissions) -> None:
    submit(log, "a", "00000", "00001", job="7")
    for task in ("00000", "00001"):
        log.judge((STAGE, task), KILLED)
    log.reset([(STAGE, "00000")])
    again = Submissions(log.path)
    assert set(again.verdicts) == {(STAGE, "00001")} == set(again.latest)
    assert "a" in again.submissions and again.sequence == 1  # its number is never given twice
    submit(again, "b", "00000", job="8")
    assert again.latest[STAGE, "00000"][0].name == "b"


@pytest.mark.parametrize(
    ("line", "confirmed"), [(1, {"7", "8"}), (2, {"8"}), (3, {"7", "8"}), (4, {"7"}), (-1, {"7", "8"}), (-40, {"7"})]
)
def test_a_torn_line_loses_nothing_that_was_confirmed(log: Submissions, line: int, confirmed: set[str]) -> None:
    """One in the middle, or the end of the last one, behind which the next stands alone."""
    submit(log, "a.0001", "00000", "00001", job="7")
    submit(log, "b.0002", "00002", job="8")
    text = log.path.read_bytes()
    lines = text.splitlines(keepends=True)
    torn = b"".join([*lines[:line], lines[line][:25], b"\n", *lines[line + 1 :]]) if line > 0 else text[:line]
    log.path.write_bytes(torn)
    again = Submissions(log.path)
    assert again.sequence == 2
    assert {key[1] for key in again.latest} == {"00000", "00001", "00002"}
    assert again.by_job().keys() == confirmed
    submit(again, "c.0003", "00001", job="9")
    assert Submissions(log.path).latest[STAGE, "00001"][0].job == "9"


def test_what_slurm_refused_leaves_the_task_where_it_was(log: Submissions) -> None:
    submit(log, "a", "00000", job="7")
    submit(log, "b", "00000", "00001")
    log.refuse("b", "AssocMaxSubmitJobLimit")
    for found in (log, Submissions(log.path)):
        assert found.latest.keys() == {(STAGE, "00000")} and found.latest[STAGE, "00000"][0].name == "a"
        assert found.refused == {"b": "AssocMaxSubmitJobLimit"}
    submit(log, "c", "00001", "00002", job="8")
    assert log.refused == {}
    log.refuse("c", "to make room", index=1)
    assert Submissions(log.path).latest.keys() == {(STAGE, "00000"), (STAGE, "00001")}


def test_a_write_is_whole_or_not_at_all(log: Submissions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes go on; one that fails half way is taken back, and the job is not submitted."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, text: write(descriptor, text[:7]))
    submit(log, "a", "00000", job="7")
    before = log.path.read_bytes()
    full = iter([5, 5])

    def fill(descriptor: int, text: bytes) -> int:
        count = next(full, None)
        if count is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, text[:count])

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(OSError, match="No space"):
        log.intend("b", STAGE, [("00001",)])
    assert log.path.read_bytes() == before and "b" not in log.submissions
    assert Submissions(log.path).submissions == log.submissions
