"""The one function that every job runs, wherever it runs."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ruamel.yaml import YAML

from hpcmaf.errors import HpcmafError, PlanChangedError, StageError
from hpcmaf.plan import Stage
from hpcmaf.profile import Profile
from hpcmaf.publish import write_json
from hpcmaf.rundir import RunDir
from hpcmaf.stages.context import TaskContext

# Imported only in the job that needs them: merging must not load torch.
_STAGES = {
    "debate": ("hpcmaf.stages.debate", "run_debate_shard"),
    "eval": ("hpcmaf.stages.debate", "run_debate_shard"),
    "merge": ("hpcmaf.stages.merge", "run_merge"),
    "finetune": ("hpcmaf.stages.finetune", "run_agent_finetune"),
    "score": ("hpcmaf.stages.score", "run_score"),
}


def run_task(root: str, stage_id: str, task: str, attempt: str, plan_sha256: str) -> None:
    """Run one task of a run, from its inputs to its marker.

    Doing a finished task again is nothing: it returns at once.

    Parameters
    ----------
    root
        The run directory.
    stage_id, task
        Such as ``"it01/debate"``, ``"00003"``.
    attempt
        Folder for this attempt's logs; a failure leaves ``cause.json`` there.
    plan_sha256
        Of the plan the task was submitted under.

    Raises
    ------
    HpcmafError
        With one line that says what is wrong.
    """
    run, folder = RunDir(Path(root)), Path(attempt)
    try:
        plan = run.load_plan()
        if plan.sha256 != plan_sha256:
            raise PlanChangedError(f"{run.plan}: not the plan this task was submitted under; submit again")
        stage = plan.stage(stage_id)
        with run.claim(stage, task):
            if run.done(stage, task):
                print(f"{stage_id} {task}: done already", flush=True)
                return
            _check_inputs(run, plan.stages, stage)
            profile = Profile.model_validate(YAML(typ="safe", pure=True).load(run.profile.read_text()))
            context = TaskContext(run, plan, profile, stage, task, folder)
            _function(stage.kind)(context)
            run.write_marker(stage, task, context.outputs, context.ledger)
            for clean in context.afterwards:
                clean()
    except BaseException as error:
        _leave_cause(folder, error)
        if isinstance(error, HpcmafError):
            # One line in the log and the class's exit code; no traceback.
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise


def _function(kind: str) -> Callable[[TaskContext], None]:
    module, name = _STAGES[kind]
    return getattr(import_module(module), name)


def _check_inputs(run: RunDir, stages: tuple[Stage, ...], stage: Stage) -> None:
    for needed in stages:
        if needed.id in stage.after:
            missing = [task for task in needed.tasks if not run.done(needed, task)]
            if missing:
                raise StageError(f"{stage.id}: needs {needed.id} {missing[0]}, which is not done; run it first")


def _leave_cause(folder: Path, error: BaseException) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    expected = isinstance(error, HpcmafError)
    cause = {
        "type": type(error).__name__,
        "message": str(error) if expected else f"{type(error).__name__}: {error}",
        "expected": expected,
        "exit_code": error.exit_code if isinstance(error, HpcmafError) else 1,
        "pid": os.getpid(),
        "traceback": "" if expected else "".join(traceback.format_exception(error)),
    }
    write_json(folder / "cause.json", cause)


def read_cause(folder: Path) -> dict[str, object] | None:
    """Why an attempt failed; ``None`` when it left no word (it was killed)."""
    try:
        return json.loads((folder / "cause.json").read_text())
    except FileNotFoundError:
        return None
