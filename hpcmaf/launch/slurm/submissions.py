"""What was submitted for a run, and what became of it: a log that only grows, and the reason why no more follows.

Before a job is submitted its intent is written, with the name that it alone has; after it, the id. Whoever is killed in
between has left enough to find out whether the job exists.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hpcmaf.files.publish import Count, Record, read_bytes
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import TaskKey

# Tasks that one job of an array works off, one after another; those of another stage than the submission's with that
# before them, such as it00/eval/00003.
Element = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch, for a stage; what each job of the array does, nothing for a gate.

    A gate waits for the jobs ``after``, and a watch for none. ``halvings``: how often the batch was halved for want of
    memory; ``plan``: the identity of the plan that it is part of; ``minutes``: its time limit.
    """

    name: str
    stage: str = ""
    elements: tuple[Element, ...] = ()
    after: tuple[str, ...] = ()
    job: str | None = None
    time: float = 0.0
    halvings: Count = 0
    plan: str = ""
    minutes: Count = 0

    @property
    def gate(self) -> bool:
        """Whether it is a gate, which does no task."""
        return not self.elements

    def keys(self, index: int) -> list[TaskKey]:
        """The tasks of an element."""
        parts = (name.rpartition("/") for name in self.elements[index])
        return [(other or self.stage, task) for other, _, task in parts]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one attempt at a task did not finish.

    Attributes
    ----------
    kind
        A key of :data:`hpcmaf.launch.slurm.causes.RULES`.
    text
        What to tell the user.
    log
        Where to read on; empty when there is none.
    node
        The one that it points at; empty where that is not known.
    progressed
        Whether the attempt got further than the one before.
    submission
        Whose attempt it was.
    """

    kind: str
    text: str
    log: str = ""
    node: str = ""
    progressed: bool = False
    submission: str = ""
    time: float = 0.0


_SUBMISSION, _CAUSE = TypeAdapter(Submission), TypeAdapter(Cause)


class _Line(Record):
    """Any event, but for what a submission or a cause has."""

    event: str
    nonce: str = ""
    name: str = ""
    why: str = ""
    stage: str = ""
    task: str = ""
    job: str | None = None
    index: Count | None = None
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
        self.verdicts: dict[TaskKey, list[Cause]] = {}
        self.refused: dict[str, str] = {}
        self.released: Counter[str] = Counter()
        self._latest: dict[TaskKey, tuple[Submission, int]] | None = None
        # What Slurm has not got: whole submissions (``None``), and elements of some.
        self._never: set[tuple[str, int | None]] = set()
        # How many submissions there were when tasks were last given a fresh start.
        self._fresh: dict[TaskKey, int] = {}
        for line in read_bytes(path).split(b"\n") if path.exists() else ():
            with suppress(ValidationError):  # torn by a kill or a full disk; what it said is found out again
                self._take(line)

    @property
    def latest(self) -> dict[TaskKey, tuple[Submission, int]]:
        """The submission that a task is in the hands of, and its index there, since it was given a fresh start."""
        if self._latest is None:
            self._latest = {}
            for number, (name, submission) in enumerate(self.submissions.items()):
                for index in range(len(submission.elements)):
                    if not self._never.isdisjoint({(name, None), (name, index)}):
                        continue
                    for key in submission.keys(index):
                        if number >= self._fresh.get(key, 0):
                            self._latest[key] = (submission, index)
        return self._latest

    def start(self) -> None:
        """Give the run its nonce, at the first submission."""
        if not self.nonce:
            self._append({"event": "run", "nonce": uuid.uuid4().hex[:12]})

    def intend(self, name: str, stage: str, elements: Sequence[Element], **more: Any) -> None:
        """Write down that a job is about to be submitted, with what else a :class:`Submission` has."""
        self._append({"event": "intent", **asdict(Submission(name, stage, tuple(elements), **more))})

    def confirm(self, name: str, job: str) -> None:
        """Write down the id that Slurm gave, and once more what it is for, should the first line be torn."""
        self._append({"event": "submitted", **asdict(self.submissions[name]), "job": job})

    def refuse(self, name: str, why: str, index: int | None = None) -> None:
        """Write down that Slurm has not got a job after all, or not this element of it."""
        self._append({"event": "refused", "name": name, "why": why, "index": index})

    def release(self, job: str) -> None:
        """Write down that a held job is let go."""
        self._append({"event": "released", "job": job})

    def judge(self, key: TaskKey, cause: Cause) -> None:
        """Write down why a task did not finish."""
        stage, task = key
        self._append({"event": "verdict", "stage": stage, "task": task, **asdict(cause)})

    def reset(self, tasks: Sequence[TaskKey]) -> None:
        """Give tasks a fresh start: what failed before no longer counts."""
        if tasks:
            self._append({"event": "reset", "tasks": [list(key) for key in tasks]})

    def judged(self, key: TaskKey) -> Cause | None:
        """The verdict on a task's latest submission."""
        found, latest = self.verdicts.get(key), self.latest.get(key)
        return found[-1] if found and latest and found[-1].submission == latest[0].name else None

    def unconfirmed(self) -> list[Submission]:
        """Submissions whose job id was never learnt, and that Slurm may have all the same."""
        unanswered = (sent for sent in self.submissions.values() if sent.job is None)
        return [sent for sent in unanswered if (sent.name, None) not in self._never]

    def by_job(self) -> dict[str, Submission]:
        """Submissions by job id."""
        return {submission.job: submission for submission in self.submissions.values() if submission.job is not None}

    def _append(self, value: dict[str, Any]) -> None:
        line = json.dumps(value | {"time": time.time()}).encode()
        if not self._dry:
            self._write(line)
        self._take(line)

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write, on a line of its own even behind a torn one.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            text = b"\n" * torn + line + b"\n"
            try:
                while text:
                    text = text[os.write(descriptor, text) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)  # whoever holds the run is the only one to write
                raise
        finally:
            os.close(descriptor)

    def _take(self, text: bytes) -> None:
        line = _Line.model_validate_json(text)
        self._latest = None if line.event != "verdict" else self._latest
        match line.event:
            case "run":
                self.nonce = line.nonce
            case "intent" | "submitted":
                self._add(_SUBMISSION.validate_json(text))
            case "refused":
                self.refused[line.name] = line.why
                self._never.add((line.name, line.index))
            case "released":
                self.released[line.job or ""] += 1
            case "verdict":
                self.verdicts.setdefault((line.stage, line.task), []).append(_CAUSE.validate_json(text))
            case "reset":
                self.refused.clear()
                for stage, task in line.tasks:
                    self.verdicts.pop((stage, task), None)
                    self._fresh[stage, task] = len(self.submissions)

    def _add(self, sent: Submission) -> None:
        job = sent.job if sent.job and sent.job.isdecimal() else None
        if sent.name in self.submissions:
            self.submissions[sent.name] = replace(self.submissions[sent.name], job=job)
        elif sent.stage:  # else an earlier release's, whose intent was torn
            # Numbers of names that were torn are not given twice.
            number = sent.name.rpartition(".")[2]
            self.sequence = max(self.sequence + 1, int(number) if number.isdecimal() else 0)
            self.submissions[sent.name] = replace(sent, job=job)
        if job is not None:
            self.refused.clear()


def job_log(run: RunDir, submission: Submission, index: int = 0) -> Path | None:
    """Standard error of one of a submission's jobs, on the first of its nodes; a requeued job appends to its own."""
    job = f"{submission.job}_{index}" if len(submission.elements) > 1 else submission.job
    return next(run.root.glob(f"it*/jobs/{submission.name}/{job}_0_log.err"), None)
