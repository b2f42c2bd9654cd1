"""Tasks that real jobs of the test cluster run in place of debates and finetuning.

Each does what `run_task` promises: claim, cause on failure, marker last.
Misfortunes are read from a folder beside the run, so that a test can choose
them, and are used up by the attempt that meets them.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from hpcmaf.errors import EngineError, OutOfMemory, StopRequested, TrainingError
from hpcmaf.evaluation.accuracy import score
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.jobs.context import TaskContext
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from hpcmaf.run.stages import STAGES


def python_for(script: Path, seconds: float = 0.0, last: str = "") -> Path:
    """A Python for the profile under test whose jobs do errands, each after so many seconds.

    Those of the stage ``last`` wait for a file ``over`` beside the run, too.
    """
    script.write_text(
        f'#!/bin/sh\n[ $2 = -m ] || exec {sys.executable} "$@"\nshift 2\n'
        f'ERRAND_SECONDS={seconds} ERRAND_LAST={last} exec {sys.executable} -u -m tests.slurm.errands "$@"\n'
    )
    script.chmod(0o755)
    return script


def main() -> None:
    """Run a module, in which every kind of stage does errands."""
    for kind, spec in STAGES.items():
        STAGES[kind] = replace(spec, function="tests.slurm.errands:work", outputs=partial(published, kind))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def published(kind: str, run: RunDir, t: int, task: str) -> list[Path]:
    """What the work of a kind of stage leaves."""
    scored = [run.metrics(t), run.ledger(t)] if kind == "score" else []
    return [*(run.iteration(t) / "errands" / f"{kind}.{task}{end}" for end in ("", ".result")), *scored]


def misfortunes(root: Path) -> Path:
    return root.with_name(root.name + ".misfortunes")


def plant(run: RunDir, stage: str, task: str, *what: str) -> None:
    """Let the next attempts at a task meet these, one each."""
    folder = misfortunes(run.root)
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(what):
        (folder / f"{stage.replace('/', '.')}.{task}.{number}").write_text(one)


def started(run: RunDir, stage: str, task: str) -> int:
    """How many attempts at a task there were."""
    attempts = run.iteration(int(stage[2:4])) / "attempts"
    return len(list(attempts.glob(f"{stage[5:]}.{task}/[0-9]*/attempt.json")))


def work(context: TaskContext) -> None:
    end = time.monotonic() + float(os.environ["ERRAND_SECONDS"])
    last, over = context.stage.id == os.environ["ERRAND_LAST"], context.run.root.with_name("over")
    while not context.stop.requested and (time.monotonic() < end or (last and not over.exists())):
        time.sleep(0.2)
    planted = sorted(misfortunes(context.run.root).glob(f"{context.stage.id.replace('/', '.')}.{context.task}.*"))
    if planted:
        what = planted[0].read_text()
        planted[0].unlink()
        print(f"meets {what}", flush=True)
        _meet(what, context)
    output = context.run.iteration(context.iteration) / "errands" / f"{context.stage.kind}.{context.task}"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a") as file:
        file.write(f"{os.environ['SLURMD_NODENAME']} {context.halvings}\n")
    inputs = [result_file(context.run, stage, task) for stage, task in needs(context.plan, context.stage)]
    told = result(context.stage.id, context.task, [path.read_text() for path in inputs])
    made = result_file(context.run, context.stage, context.task)
    write_text(made, told)
    if context.stage.kind == "score":
        _score(context)
    context.spend(wall_seconds=0.1)


def needs(plan: Plan, stage: Stage) -> list[tuple[Stage, str]]:
    """Tasks whose results one of this stage reads."""
    return [(other, task) for other in plan.stages if other.id in stage.after for task in other.tasks]


def result_file(run: RunDir, stage: Stage, task: str) -> Path:
    return run.iteration(stage.iteration) / "errands" / f"{stage.kind}.{task}.result"


def result(stage: str, task: str, inputs: list[str]) -> str:
    """What a task makes of its inputs: as long as it is the same, so is all that came before."""
    return hashlib.sha256("\n".join([stage, task, *inputs]).encode()).hexdigest()


def undisturbed(plan: Plan) -> dict[tuple[str, str], str]:
    """The results of a run in whose way nothing came."""
    found: dict[tuple[str, str], str] = {}
    for stage in plan.stages:
        inputs = [found[other.id, task] for other, task in needs(plan, stage)]
        found |= {(stage.id, task): result(stage.id, task, inputs) for task in stage.tasks}
    return found


def _score(context: TaskContext) -> None:
    """Figures of invented debates, so that the chain's last gate has a report to write."""
    from tests.report.conftest import invent, ledger

    t = context.iteration
    metrics = score(invent(20, (0.6, 0.7), 2, t), seed=0, iteration=t, method="maft", task="arithmetic")
    write_json(context.run.metrics(t), metrics)
    write_json(context.run.ledger(t), ledger(t))


def _meet(what: str, context: TaskContext) -> None:
    kind, _, argument = what.partition(" ")
    match kind:
        case "error":
            raise EngineError("the engine is broken; mend it")
        case "bug":
            raise ZeroDivisionError("a defect")
        case "memory":
            raise OutOfMemory("out of memory; lower batch_size")
        case "no-memory":
            raise MemoryError("Unable to allocate 3.2 GiB for an array")
        case "errno":
            raise OSError(int(argument), os.strerror(int(argument)), "store.h5")
        case "training":
            raise TrainingError("finetuning critic-0 failed: CUDA error: uncorrectable ECC error", kind=argument)
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(int(argument))
        case "eat":
            _eat(int(argument))
        case "full-disk":
            _fill_disk(context)
        case "alarm":
            write_json(context.run.ended, {"iteration": context.iteration, "kept": 0, "alarm": ["it all went wrong"]})
        case "sleep":
            time.sleep(float(argument))
        case "advance" | "stall":
            _generate(context, float(argument), advances=kind == "advance")
        case _:
            sys.exit(f"no such misfortune: {what}")


def _eat(megabytes: int) -> None:
    """Take memory until Slurm ends it."""
    eaten = [bytearray(os.urandom(1 << 20)) for _ in range(megabytes)]
    time.sleep(60)
    print(len(eaten), flush=True)


def _generate(context: TaskContext, seconds: float, *, advances: bool) -> None:
    """Be at work until told to stop, as an engine is, and write to the shard's journal batch by batch, or nothing."""
    journal = context.run.journal(context.run.shard(context.iteration, context.stage.kind, int(context.task)))
    journal.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if advances:
            with journal.open("a") as file:
                file.write("a batch\n")
        if context.stop.requested:
            raise StopRequested("stopped at a boundary")
        time.sleep(0.2)


def _fill_disk(context: TaskContext) -> None:
    """Publish into a file system of one megabyte; a real one, in this node's own namespace."""
    folder = context.run.iteration(context.iteration) / "full"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        write_text(folder / "store.h5", "x" * 4_000_000)
    finally:
        print("left there:", sorted(path.name for path in folder.iterdir()), flush=True)
        subprocess.run(["umount", folder], check=True)


if __name__ == "__main__":
    main()
