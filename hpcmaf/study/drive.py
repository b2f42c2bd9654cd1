"""Carrying a study through: runs side by side, each begun once what it shares with earlier ones is there.

No state of its own: runs are looked at through their markers, so the same command goes on after any interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TextIO

from hpcmaf.config.profile import Profile
from hpcmaf.errors import HpcmafError, StageError, one_line
from hpcmaf.launch import local
from hpcmaf.launch.prepare import plan_run, prepare_run
from hpcmaf.launch.progress import Watcher
from hpcmaf.study.plan import Study, StudyRun
from hpcmaf.study.sharing import adopt, shared_tasks

POLL_SECONDS = 30.0
# A gate of a run that was begun before holds it for seconds.
_DRIVE_SECONDS = 60.0

Say = Callable[[str], None]
# Sets a prepared run going, which is not locked; it yields between looks, and ends when the run gets no further.
Start = Callable[[StudyRun], Iterator[None]]


def plan_study(study: Study, profile: Profile) -> list[StudyRun]:
    """Lay out every run and check that it can be had; writes nothing.

    Raises
    ------
    HpcmafError
        Of the first run that cannot.
    """
    planned = []
    for one in study.runs:
        try:
            plan, _ = plan_run(one.run, one.recipe, profile)
        except HpcmafError as error:
            raise type(error)(f"run {one.run.root.name}: {error}") from error
        planned.append(replace(one, plan=plan))
    return planned


def drive_study(study: Study, profile: Profile, say: Say, start: Start, poll_seconds: float = POLL_SECONDS) -> None:
    """Begin every run once what it shares with earlier ones is there, and wait for all.

    Raises
    ------
    StageError
        Runs failed; all others have been carried on as far as they go.
    """
    begun: list[StudyRun] = []
    failures: dict[str, str] = {}
    lives: dict[StudyRun, Iterator[None]] = {}
    told = 0
    with ExitStack() as stack:
        for one in plan_study(study, profile):  # a fault in the last run is told before the first begins
            lives[one] = stack.enter_context(closing(_life(one, profile, begun, lives, say, start)))
        while lives:
            for one, life in [*lives.items()]:
                try:
                    if next(life, "over") is None:
                        continue
                except HpcmafError as error:
                    failures[one.run.root.name] = one_line(str(error))
                    say(f"{one.run.root.name}: {failures[one.run.root.name]}")
                del lives[one]
            left = sum(one in lives for one in begun)
            if lives and len(begun) - left != told:
                told = len(begun) - left
                say(f"{told} of {len(study.runs)} runs are over, {left} under way")
            time.sleep(poll_seconds if lives else 0)
    for one in begun:
        if tasks := open_tasks(one):
            failures.setdefault(one.run.root.name, f"stopped before {tasks[0]}; see hpcmaf status")
    if failures:
        name, why = next(iter(failures.items()))
        more = f" (and {len(failures) - 1} more runs)" if len(failures) > 1 else ""
        raise StageError(f"{study.root / name}: {why}{more}; mend that, and the same command resumes")


def drive_here(
    study: Study, profile: Profile, say: Say, file: TextIO, poll_seconds: float = local.POLL_SECONDS
) -> None:
    """The same on this machine: runs go on by turns over one set of slots, and fill those that earlier ones leave.

    Interrupted, it stops their jobs. ``file`` gets each run's progress.
    """
    with local.Servers(profile, study.root) as servers:

        def start(one: StudyRun) -> Iterator[None]:
            watcher = Watcher(one.run, one.plan, profile, file, f"{one.run.root.name}: ")
            return local.drive(one.run, one.plan, profile, watcher, servers)

        drive_study(study, profile, say, start, poll_seconds)


def _life(
    one: StudyRun, profile: Profile, begun: list[StudyRun], lives: Container[StudyRun], say: Say, start: Start
) -> Iterator[None]:
    """Lay a run out, give it what earlier ones have made once none that lives is at work on it, and run it."""
    with one.run.drive(_DRIVE_SECONDS):
        one.plan = prepare_run(one.run, one.recipe, profile)
    while any(of.owner in lives and not of.owner.run.done(of.stage, of.task) for of in shared_tasks(one, begun)):
        yield
    shared = [of for of in shared_tasks(one, begun) if not one.run.done(of.stage, of.task)]
    with one.run.drive(_DRIVE_SECONDS):
        taken = [of for of in shared if adopt(of, one.run)]
    if taken:
        owners = ", ".join(sorted({of.owner.run.root.name for of in taken}))
        say(f"{one.run.root.name}: {len(taken)} task{'s' * (len(taken) > 1)} taken over from {owners}")
    begun.append(one)
    if open_tasks(one):
        yield from start(one)


def under_way(one: StudyRun) -> Iterator[None]:
    """Look at a run's chain of jobs until it is done or stopped."""
    while not one.run.stopped.exists() and open_tasks(one):
        yield


def open_tasks(one: StudyRun) -> list[str]:
    """Tasks that are not done, as ``it01/debate 00000``."""
    done = one.run.done_tasks(one.plan)
    stages = one.run.shorten(one.plan).stages
    return [f"{s.id} {task}" for s in stages for task in s.tasks if task not in done[s.id]]


def savings(planned: Sequence[StudyRun]) -> list[tuple[int, int, list[str]]]:
    """Per run: its tasks, how many of them an earlier run does, and which runs those are."""
    found = []
    for position, one in enumerate(planned):
        shared = shared_tasks(one, planned[:position])
        owners = list(dict.fromkeys(task.owner.run.root.name for task in shared))
        found.append((sum(len(stage.tasks) for stage in one.plan.stages), len(shared), owners))
    return found
