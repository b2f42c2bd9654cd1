"""What goes into a store comes out of it, in the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import StoreError
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem
from tests.store.conftest import INFO, debate

# Every code point there is, lone surrogates and NUL among them.
TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
ODD = st.sampled_from(["", "\0", "a\0", "\ud800", "\ud83d\ude00", "\U0001f600", "\r\n", "x" * 300_000, "\u0301"])
ANY = st.one_of(TEXT, ODD)


def apart(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code with a path in a process of its own; no bytecode: under a file size limit it would be torn."""
    folders = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
    environment = {"PYTHONPATH": folders, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@st.composite
def debates(draw: st.DrawFn) -> tuple[StoreInfo, list[Transcript]]:
    """A store's content with any shape and any text."""
    agents, rounds = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    info = StoreInfo(
        draw(st.sampled_from(["math", "t\u00e4sk"])), "boxed", agents, rounds, 0, "eval", draw(st.booleans())
    )

    def turns(kind: str, m: int) -> tuple[Utterance, ...]:
        return tuple(
            Utterance(
                kind,
                m,
                n,
                draw(ANY),
                draw(ANY),
                draw(st.none() | ANY),
                draw(st.integers(0, 2**40)),
                draw(st.integers(0, 9)),
                draw(st.sampled_from(["stop", "length", "unknown"])),
            )
            for n in range(agents)
        )

    made = []
    for identifier in draw(st.lists(TEXT, max_size=4, unique=True)):
        problem = Problem(identifier, draw(ANY), draw(st.none() | ANY), draw(st.dictionaries(TEXT, ANY, max_size=3)))
        answers = tuple(turns("answer", m) for m in range(1, rounds + 1))
        summaries = tuple(turns("summary", m) for m in range(2, rounds + 1)) if info.summaries else ()
        made.append(Transcript(problem, answers, summaries))
    return info, made


@given(debates())
@settings(max_examples=25, deadline=None)
def test_any_text_survives(content: tuple[StoreInfo, list[Transcript]]) -> None:
    info, made = content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        manifest = write_store(path, info, iter(made))
        assert manifest.rows == len(made)
        assert manifest.layout == "hpcmaf-debate/1"
        with Store(path) as store:
            assert store.info == info
            assert store.problem_ids == [t.problem.id for t in made]
            assert list(store.transcripts(gold=True)) == made
            for transcript in made:
                assert store.find(transcript.problem.id, gold=True) == transcript
            hidden = [replace(t, problem=replace(t.problem, gold=None)) for t in made]
            assert list(store) == hidden


def test_same_input_same_bytes_at_another_time(tmp_path: Path) -> None:
    paths = [tmp_path / "first.h5", tmp_path / "elsewhere" / "second.h5"]
    write_store(paths[0], INFO, map(debate, range(300)))
    time.sleep(1.1)  # HDF5 keeps times in seconds, if it is let
    write_store(paths[1], INFO, map(debate, range(300)))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: replace(t, answers=t.answers[:1]),
        lambda t: replace(t, summaries=()),
        lambda t: replace(t, answers=tuple(turn[:2] for turn in t.answers)),
        lambda t: replace(t, answers=(t.answers[0][::-1], t.answers[1])),
        lambda t: replace(t, answers=t.answers[::-1]),
        lambda t: replace(t, summaries=(t.answers[1],)),
        lambda t: replace(t, summaries=t.summaries * 2),
    ],
)
def test_a_debate_of_another_shape_is_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(StoreError, match="problem-00001"):
        write_store(path, INFO, [debate(0), change(debate(1))])
    assert list(tmp_path.iterdir()) == []


def test_a_problem_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="'problem-00003' comes twice"):
        write_store(tmp_path / "a.h5", INFO, map(debate, [1, 3, 2, 3]))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from hpcmaf.errors import system_error
from hpcmaf.store.writer import write_store
from conftest import INFO, debate
import random
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
draw = random.Random(0)
try:
    write_store(Path(sys.argv[1]), INFO, (debate(k, text=draw.randbytes(2000).hex()) for k in range(100)))
except OSError as error:
    print(system_error(error))
"""
    done = apart(code, tmp_path / "a.h5")
    assert done.stdout == f"{tmp_path / 'a.h5'}: File too large; free space there, or name another place\n"
    assert list(tmp_path.iterdir()) == []


def test_interrupts_do_not_crash_the_process(tmp_path: Path) -> None:
    """Ctrl-C and a scheduler's signal come at any moment; HDF5 must not see the exception."""
    code = """
import random, signal, sys
from pathlib import Path
from hpcmaf.store.reader import Store
from hpcmaf.store.writer import write_store
from conftest import INFO, debate
class Stop(Exception):
    pass
def stop(number, frame):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    raise Stop
draw = random.Random(0)
made = [debate(k, text=draw.randbytes(500).hex()) for k in range(100)]
path = Path(sys.argv[1])
for k in range(15):
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, 0.05))
    try:
        write_store(path, INFO, made)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        print("stopped")
write_store(path, INFO, made)
with Store(path) as store:
    assert list(store.transcripts(gold=True)) == made
"""
    done = apart(code, tmp_path / "a.h5")
    # An alarm inside a weak reference's callback is swallowed by Python, which says so on stderr; that is no crash.
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped") > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.h5.manifest.json"]


def test_a_store_without_gold_columns_still_reads(store: Path) -> None:
    """Reading without gold opens none of its datasets: not even their headers."""
    with h5py.File(store, "r+") as file:
        del file["problems/gold"], file["problems/has_gold"]
    with Store(store) as opened:
        read = list(opened)
        assert [t.problem.gold for t in read] == [None] * 40
        assert read[7].answers == debate(7).answers
        assert opened.find("problem-00003").problem.gold is None
        with pytest.raises(StoreError, match="has_gold"):
            opened.find("problem-00000", gold=True)
