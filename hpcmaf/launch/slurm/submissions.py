"""What was asked of Slurm, and what became of it: a log that only grows.

Before a job is submitted its intent is written, with the name that it alone
has; after it, the id. Whoever is killed in between has left enough to find
out whether the job exists.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcmaf.launch.slurm.requests import Element

GATE = "gate"


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch.

    Attributes
    ----------
    name
        The job's; unique.
    stage
        Id of the stage it works on, or that it guards.
    elements
        What each job of the array does; empty for a gate.
    after
        Ids it waits for.
    job
        Its id, once known.
    halvings
        How often the batch was halved for want of memory.
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


class Submissions:
    """The log of one run.

    Parameters
    ----------
    path
        ``submissions.jsonl``; lines of the local launcher in it are passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nonce = ""
        self.sequence = 0
        self.submissions: dict[str, Submission] = {}
        # Of each task since it was last given a fresh start.
        self.verdicts: dict[tuple[str, str], list[Verdict]] = {}
        self.latest: dict[tuple[str, str], tuple[Submission, int]] = {}
        for line in self._lines():
            self._take(line)

    def start(self) -> None:
        """Give the run its nonce, at the first submission."""
        if not self.nonce:
            self._append({"event": "run", "nonce": uuid.uuid4().hex[:12]})

    def intend(
        self, name: str, stage: str, elements: Sequence[Element], *, after: Sequence[str] = (), halvings: int = 0
    ) -> Submission:
        """Write down that a job is about to be submitted."""
        self._append(
            {
                "event": "intent",
                "name": name,
                "stage": stage,
                "elements": [list(element) for element in elements],
                "after": list(after),
                "halvings": halvings,
            }
        )
        return self.submissions[name]

    def confirm(self, name: str, job: str) -> None:
        """Write down the id that Slurm gave."""
        self._append({"event": "submitted", "name": name, "job": job})

    def learn(self, name: str, job: str) -> None:
        """Take an id to heart without writing it down."""
        self._take({"event": "submitted", "name": name, "job": job})

    def judge(self, verdict: Verdict) -> None:
        """Write down why a task did not finish."""
        self._append(
            {
                "event": "verdict",
                "stage": verdict.stage,
                "task": verdict.task,
                "name": verdict.submission,
                "kind": verdict.kind,
                "text": verdict.text,
                "counted": verdict.counted,
            }
        )

    def reset(self, tasks: Sequence[tuple[str, str]]) -> None:
        """Give tasks a fresh start: what failed before no longer counts."""
        if tasks:
            self._append({"event": "reset", "tasks": [list(key) for key in tasks]})

    def unconfirmed(self) -> list[Submission]:
        """Submissions whose job id was never learnt."""
        return [submission for submission in self.submissions.values() if submission.job is None]

    def by_job(self) -> dict[str, Submission]:
        """Submissions by job id."""
        return {submission.job: submission for submission in self.submissions.values() if submission.job is not None}

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        for line in text.split(b"\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue  # torn by a kill or a full disk; what it said is found out again
            if isinstance(value, dict) and "event" in value:
                yield value

    def _append(self, value: dict[str, Any]) -> None:
        value = value | {"time": time.time()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write, on a line of its own even behind a torn one.
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + json.dumps(value).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._take(value)

    def _take(self, line: dict[str, Any]) -> None:
        match line["event"]:
            case "run":
                self.nonce = line["nonce"]
            case "intent":
                self.sequence += 1
                submission = Submission(
                    line["name"],
                    line["stage"],
                    tuple(tuple(element) for element in line["elements"]),
                    tuple(line["after"]),
                    None,
                    line["time"],
                    line["halvings"],
                )
                self.submissions[submission.name] = submission
                self._point(submission)
            case "submitted":
                submission = replace(self.submissions[line["name"]], job=line["job"])
                self.submissions[submission.name] = submission
                self._point(submission)
            case "verdict":
                verdict = Verdict(
                    line["stage"], line["task"], line["name"], line["kind"], line["text"], line["counted"], line["time"]
                )
                self.verdicts.setdefault((verdict.stage, verdict.task), []).append(verdict)
            case "reset":
                for stage, task in line["tasks"]:
                    self.verdicts.pop((stage, task), None)
                    self.latest.pop((stage, task), None)

    def _point(self, submission: Submission) -> None:
        for index, element in enumerate(submission.elements):
            for task in element:
                self.latest[submission.stage, task] = (submission, index)
