"""What was submitted for a run, and what became of it: a log that only grows, and the reason why no more follows.

Before a job is submitted its intent is written, with the name that it alone
has; after it, the id. Whoever is killed in between has left enough to find
out whether the job exists.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from hpcmaf.files.publish import Count, Record, read_bytes
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import TaskKey

# Tasks that one job of an array works off, one after another; those of another
# stage than the submission's with that before them, such as it00/eval/00003.
Element = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch, for a stage; what each job of the array does, nothing for a gate.

    A gate waits for the jobs ``after``, and a watch for none. ``halvings``:
    how often the batch was halved for want of memory.
    """

    name: str
    stage: str
    elements: tuple[Element, ...]
    after: tuple[str, ...] = ()
    job: str | None = None
    time: float = 0.0
    halvings: int = 0

    @property
    def gate(self) -> bool:
        """Whether it is a gate, which does no task."""
        return not self.elements

    def keys(self, index: int) -> list[TaskKey]:
        """The tasks of an element."""
        return [task_key(self.stage, name) for name in self.elements[index]]


def task_key(stage: str, name: str) -> TaskKey:
    """Stage and task of a name in an element of a submission for ``stage``."""
    other, _, task = name.rpartition("/")
    return (other or stage, task)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a task of one submission did not finish."""

    stage: str
    task: str
    submission: str
    kind: str
    text: str
    counted: bool
    time: float = 0.0
    node: str = ""


class _Line(Record):
    """Any event; each has what it is about."""

    event: str
    nonce: str = ""
    name: str = ""
    why: str = ""
    kind: str = ""
    text: str = ""
    node: str = ""
    stage: str = ""
    elements: list[list[str]] = []
    after: list[str] = []
    halvings: Count = 0
    job: str | None = None
    time: float = 0.0
    index: Count | None = None
    task: str = ""
    counted: bool = True
    tasks: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []


class Submissions:
    """The log of one run.

    Parameters
    ----------
    path
        ``submissions.jsonl``; lines of the local launcher in it are passed over.
    dry
        Nothing is written.

    Attributes
    ----------
    refused
        Slurm's words on what it did not take since it last took something, by name.
    released
        How often each job was released that Slurm had held.
    """

    def __init__(self, path: Path, *, dry: bool = False) -> None:
        self.path, self._dry = path, dry
        self.nonce = ""
        self.sequence = 0
        self.submissions: dict[str, Submission] = {}
        self.verdicts: dict[TaskKey, list[Verdict]] = {}
        self.refused: dict[str, str] = {}
        self.released: Counter[str] = Counter()
        self._latest: dict[TaskKey, tuple[Submission, int]] | None = None
        # What Slurm has not got: whole submissions, and elements of some.
        self._never: set[str] = set()
        self._withdrawn: set[tuple[str, int]] = set()
        # How many submissions there were when tasks were last given a fresh start.
        self._fresh: dict[TaskKey, int] = {}
        for line in self._lines():
            self._take(line)

    @property
    def latest(self) -> dict[TaskKey, tuple[Submission, int]]:
        """The submission that a task is in the hands of, and its index there, since it was given a fresh start."""
        if self._latest is None:
            self._latest = {}
            for number, (name, submission) in enumerate(self.submissions.items()):
                for index in range(len(submission.elements)):
                    if name in self._never or (name, index) in self._withdrawn:
                        continue
                    for key in submission.keys(index):
                        if number >= self._fresh.get(key, 0):
                            self._latest[key] = (submission, index)
        return self._latest

    def start(self) -> None:
        """Give the run its nonce, at the first submission."""
        if not self.nonce:
            self._append({"event": "run", "nonce": uuid.uuid4().hex[:12]})

    def intend(
        self, name: str, stage: str, elements: Sequence[Element], *, after: Sequence[str] = (), halvings: int = 0
    ) -> None:
        """Write down that a job is about to be submitted."""
        what = {"stage": stage, "elements": list(elements), "after": list(after), "halvings": halvings}
        self._append({"event": "intent", "name": name, **what})

    def confirm(self, name: str, job: str) -> None:
        """Write down the id that Slurm gave, and once more what it is for, should the first line be torn."""
        self._append({"event": "submitted", **asdict(self.submissions[name]), "job": job})

    def refuse(self, name: str, why: str, index: int | None = None) -> None:
        """Write down that Slurm has not got a job after all, or not this element of it."""
        self._append({"event": "refused", "name": name, "why": why, "index": index})

    def release(self, job: str) -> None:
        """Write down that a held job is let go."""
        self._append({"event": "released", "job": job})

    def judge(self, verdict: Verdict) -> None:
        """Write down why a task did not finish."""
        self._append({"event": "verdict", "name": verdict.submission, **asdict(verdict)})

    def reset(self, tasks: Sequence[TaskKey]) -> None:
        """Give tasks a fresh start: what failed before no longer counts."""
        if tasks:
            self._append({"event": "reset", "tasks": [list(key) for key in tasks]})

    def judged(self, key: TaskKey) -> Verdict | None:
        """The verdict on a task's latest submission."""
        found, latest = self.verdicts.get(key), self.latest.get(key)
        return found[-1] if found and latest and found[-1].submission == latest[0].name else None

    def unconfirmed(self) -> list[Submission]:
        """Submissions whose job id was never learnt, and that Slurm may have all the same."""
        return [found for found in self.submissions.values() if found.job is None and found.name not in self._never]

    def by_job(self) -> dict[str, Submission]:
        """Submissions by job id."""
        return {submission.job: submission for submission in self.submissions.values() if submission.job is not None}

    def _lines(self) -> Iterator[_Line]:
        try:
            text = read_bytes(self.path)
        except FileNotFoundError:
            return
        for line in text.split(b"\n"):
            with suppress(ValidationError):  # torn by a kill or a full disk; what it said is found out again
                yield _Line.model_validate_json(line)

    def _append(self, value: dict[str, Any]) -> None:
        line = json.dumps(value | {"time": time.time()})
        if not self._dry:
            self._write(line)
        self._take(_Line.model_validate_json(line))

    def _write(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write, on a line of its own even behind a torn one.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            text = b"\n" * torn + line.encode() + b"\n"
            try:
                while text:
                    text = text[os.write(descriptor, text) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)  # whoever holds the run is the only one to write
                raise
        finally:
            os.close(descriptor)

    def _take(self, line: _Line) -> None:
        self._latest = None if line.event != "verdict" else self._latest
        match line.event:
            case "run":
                self.nonce = line.nonce
            case "intent" | "submitted":
                self._add(line)
            case "refused":
                self.refused[line.name] = line.why
                if line.index is None:
                    self._never.add(line.name)
                else:
                    self._withdrawn.add((line.name, line.index))
            case "released":
                self.released[line.job or ""] += 1
            case "verdict":
                what = (line.name, line.kind, line.text, line.counted, line.time, line.node)
                self.verdicts.setdefault((line.stage, line.task), []).append(Verdict(line.stage, line.task, *what))
            case "reset":
                self.refused.clear()
                for stage, task in line.tasks:
                    self.verdicts.pop((stage, task), None)
                    self._fresh[stage, task] = len(self.submissions)

    def _add(self, line: _Line) -> None:
        job = line.job if line.job and line.job.isdecimal() else None
        if line.name in self.submissions:
            self.submissions[line.name] = replace(self.submissions[line.name], job=job)
        elif line.stage:  # else an earlier release's, whose intent was torn
            # Numbers of names that were torn are not given twice.
            number = line.name.rpartition(".")[2]
            self.sequence = max(self.sequence + 1, int(number) if number.isdecimal() else 0)
            elements, after = tuple(map(tuple, line.elements)), tuple(line.after)
            self.submissions[line.name] = Submission(
                line.name, line.stage, elements, after, job, line.time, line.halvings
            )
        if job is not None:
            self.refused.clear()


def job_log(run: RunDir, submission: Submission, index: int = 0) -> Path | None:
    """Standard error of one of a submission's jobs, on the first of its nodes; a requeued job appends to its own."""
    job = f"*_{index}" if len(submission.elements) > 1 else "*"
    logs = run.root.glob(f"it*/jobs/{submission.name}/{job}_0_log.err")
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)
