"""The right log of the right attempt."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcmaf.errors import printable
from hpcmaf.launch.scheduler import read_stop
from hpcmaf.launch.slurm.submissions import Submissions, job_log
from hpcmaf.run.attempts import Attempt, all_attempts
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage, TaskKey

GATE = "gate"


@dataclass(frozen=True, slots=True)
class Log:
    """One log, and what to write above it; ``key`` is whose, ``None`` of gates."""

    title: str
    path: Path
    key: TaskKey | None = None


def task_logs(run: RunDir, plan: Plan, keys: Container[TaskKey]) -> list[Log]:
    """Logs of the last attempts at some tasks, in the plan's order; tasks that never began have none.

    A finetuning attempt has two: what its processes wrote, and its job's.
    """
    submissions = Submissions(run.submissions)
    logs: list[Log] = []
    for stage in plan.stages:
        for task in stage.tasks:
            if (key := (stage.id, task)) not in keys:
                continue
            if attempts := all_attempts(run.attempts(stage, task)):
                logs += _attempt_logs(stage, task, attempts)
            elif found := submissions.latest.get(key):
                # Its job may have failed before the task began.
                title = f"{stage.id} {task}, job {found[0].job or '?'}, has not begun"
                if path := job_log(run, *found):
                    logs.append(Log(title, path, key))
    return logs


def gate_logs(run: RunDir, plan: Plan) -> list[Log]:
    """Logs of the newest gate, or of the one that stopped the run."""
    stop = read_stop(run)
    stopped = Path(stop.log).name if stop is not None and stop.kind == GATE else ""
    for gate in reversed(Submissions(run.submissions).submissions.values()):
        if gate.gate and stopped in {"", gate.name}:
            if path := job_log(run, gate):
                return [Log(f"gate behind {gate.stage}, job {gate.job or '?'}", path)]
    return []


def _attempt_logs(stage: Stage, task: str, attempts: Sequence[Attempt]) -> Iterator[Log]:
    attempt, facts = attempts[-1], attempts[-1].facts
    where = f", job {facts['job']} on {facts.get('node', '?')}" if "job" in facts else ""
    title = f"{stage.id} {task}, attempt {len(attempts)}{where}"
    for path in [Path(facts.get("log", "")), *sorted(attempt.folder.glob("finetune*.log"))]:
        if path.is_file():
            yield Log(title, path, (stage.id, task))


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, made safe for a terminal.

    Of a line that was written over again and again, as progress bars do, the last state is given.

    Parameters
    ----------
    lines
        0 for all of them.
    """
    with path.open("rb") as file:
        texts = (line.decode("utf-8", "replace").rstrip("\r\n") for line in deque(file, lines or None))
        return [printable(text.rpartition("\r")[2].expandtabs()) for text in texts]
