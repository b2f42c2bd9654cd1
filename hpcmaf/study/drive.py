"""Carrying a study through: runs side by side, each begun once what it shares with earlier ones is there.

No state of its own: runs are looked at through their markers, so the same
command goes on after any interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, StageError, one_line
from hpcmaf.files.publish import write_json
from hpcmaf.launch.prepare import plan_run, prepare_run
from hpcmaf.launch.slurm.gate import hold
from hpcmaf.study.plan import Study, StudyRun, describe
from hpcmaf.study.sharing import Planned, adopt, shared_tasks

POLL_SECONDS = 30.0
# On this machine, where nobody else is bothered.
LOOK_SECONDS = 5.0
# A gate of a run that was begun before holds it for seconds.
_HOLD_SECONDS = 60.0

Say = Callable[[str], None]


def plan_study(study: Study, profile: Profile) -> list[Planned]:
    """Lay out every run and check that it can be had; writes nothing.

    Raises
    ------
    HpcmafError
        Of the first run that cannot.
    """
    planned = []
    for entry in study.runs:
        try:
            plan, _ = plan_run(entry.run, entry.recipe, profile)
        except HpcmafError as error:
            raise type(error)(f"run {entry.run.root.name}: {error}") from error
        planned.append(Planned(entry.run, plan))
    return planned


def drive_study(
    study: Study,
    profile: Profile,
    say: Say,
    start: Callable[[StudyRun, Planned], None],
    going: Callable[[Planned], bool],
    poll_seconds: float = POLL_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Begin every run once what it shares with earlier ones is there, and wait for all.

    Parameters
    ----------
    start
        Sets a prepared run going; may return before it is done. The run is
        not held.
    going
        Whether a run that was started may still get further by itself; an
        error it raises is that run's failure.
    wait
        Called with ``poll_seconds`` between looks, and may use the time.

    Raises
    ------
    StageError
        Runs failed; all others have been carried on as far as they go.
    """
    plan_study(study, profile)  # a fault in the last run is told before the first begins
    write_json(study.root / "study.json", describe(study))
    state = _State([], list(study.runs))
    going = _telling(state, going, say)
    while True:
        for entry in list(state.waiting):
            _begin(entry, state, profile, say, start, going)
        left = [planned for planned in state.begun if going(planned)]
        if not left and not state.waiting:
            break
        wait(poll_seconds)
    for planned in state.begun:
        open_tasks = _open(planned)
        if open_tasks and planned.run.root.name not in state.failures:
            state.failures[planned.run.root.name] = f"stopped before {open_tasks[0]}; see hpcmaf status"
    if state.failures:
        name, why = next(iter(state.failures.items()))
        more = f" (and {len(state.failures) - 1} more runs)" if len(state.failures) > 1 else ""
        raise StageError(f"{study.root / name}: {why}{more}; mend that, and the same command goes on")


@dataclass
class _State:
    begun: list[Planned]
    waiting: list[StudyRun]
    failures: dict[str, str] = field(default_factory=dict)
    # Runs that wait are looked at often, and laid out once.
    planned: dict[str, Planned] = field(default_factory=dict)


def _telling(state: _State, going: Callable[[Planned], bool], say: Say) -> Callable[[Planned], bool]:
    """``going`` whose errors are written down as the run's failure."""

    def told(planned: Planned) -> bool:
        try:
            return going(planned)
        except HpcmafError as error:
            name = planned.run.root.name
            state.failures[name] = one_line(str(error))
            say(f"{name}: {state.failures[name]}")
            return False

    return told


def _begin(
    entry: StudyRun,
    state: _State,
    profile: Profile,
    say: Say,
    start: Callable[[StudyRun, Planned], None],
    going: Callable[[Planned], bool],
) -> None:
    """Start a run, unless somebody is still at work on what it could take over."""
    name = entry.run.root.name
    try:
        with hold(entry.run, _HOLD_SECONDS):
            if name not in state.planned:
                state.planned[name] = Planned(entry.run, prepare_run(entry.run, entry.recipe, profile))
            planned = state.planned[name]
            # Of runs that are not begun yet the first has its turn first.
            ahead = [other for other in state.begun if other.run != entry.run]
            shared = [task for task in shared_tasks(planned, ahead) if not entry.run.done(task.stage, task.task)]
            lacking = [task for task in shared if not adopt(task, entry.run)]
        if any(going(task.owner) for task in lacking):
            return
        if len(shared) > len(lacking):
            owners = sorted({task.owner.run.root.name for task in shared if task not in lacking})
            count = len(shared) - len(lacking)
            say(f"{name}: {count} task{'s' * (count > 1)} taken over from {', '.join(owners)}")
        state.waiting.remove(entry)
        state.begun.append(planned)
        if _open(planned):
            start(entry, planned)
    except HpcmafError as error:
        if entry in state.waiting:
            state.waiting.remove(entry)
        state.failures[name] = one_line(str(error))
        say(f"{name}: {state.failures[name]}")


def _open(planned: Planned) -> list[str]:
    """Tasks that are not done, as ``it01/debate 00000``."""
    done = planned.run.done_tasks(planned.plan)
    return [f"{s.id} {task}" for s in planned.plan.stages for task in s.tasks if task not in done[s.id]]


def savings(planned: Sequence[Planned]) -> list[tuple[int, int, list[str]]]:
    """Per run: its tasks, how many of them an earlier run does, and which runs those are."""
    found = []
    for position, one in enumerate(planned):
        shared = shared_tasks(one, planned[:position])
        owners = list(dict.fromkeys(task.owner.run.root.name for task in shared))
        found.append((sum(len(stage.tasks) for stage in one.plan.stages), len(shared), owners))
    return found
