"""Jobs that are killed or stopped at any step, and go on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from hpcmaf.config.recipe import Lora
from hpcmaf.errors import StopRequested, TrainingError
from hpcmaf.training.checkpoint import Checkpoint, at_step, checkpoint_step
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import run_finetune
from hpcmaf.training.process import Process
from hpcmaf.training.stop import StopFlag
from tests.commands import processes
from tests.training.conftest import COMMON, Outcome, chats, run_batch, steps_in, wait_until, write_lines

# Dropout where adapters have it: a resumed job has to draw what it would have drawn.
CASES = {
    f"{tuning}-{stage}": {
        "tuning": tuning,
        "zero_stage": stage,
        "processes": 2,
        "lora": Lora(rank=4, alpha=8, dropout=0.2 if stage < 3 else 0.0),
    }
    for tuning, stage in (("lora", 2), ("lora", 3), ("full", 1), ("full", 2), ("full", 3))
}
CASES["fp8-grpo-2"] = CASES["lora-2"] | {"quantize": "fp8", "objective": "grpo", "lora": Lora(rank=4, alpha=8)}
ALONE = {"tuning": "full", "zero_stage": 1, "processes": 1}
ENDS = [("lora-2", signal.SIGUSR2), ("alone", signal.SIGTERM)]
# Going on with another number of processes, where nothing is drawn at random.
OTHERS = {"full-1": 1, "full-3": 1, "lora-3": 1, "alone": 2}
STEPS = 18


@dataclass
class Interrupted:
    """A job that ended before its time, and what a second one made of its checkpoint."""

    code: int
    said: str
    steps: int
    reached: int
    resumed: Outcome


def job_of(case: str, bases: dict[str, Path], folder: Path) -> FinetuneJob:
    data = folder / "data.jsonl"
    if not data.exists():
        write_lines(data, chats())
    job = FinetuneJob(base=str(bases["llama"]), dataset=str(data), output="unset", **COMMON)
    # Decay spares norms, and has to go on doing so.
    return job.replace(max_length=60, weight_decay=0.1, epochs=STEPS // 3, **CASES.get(case, ALONE))


def kept(folder: Path, name: str) -> str:
    return str(folder / f"{name}.checkpoints")


@pytest.fixture(scope="module")
def begun(bases, tmp_path_factory) -> tuple[Path, dict[str, Outcome], dict[str, tuple[int, str, int, int]]]:
    """All cases undisturbed and killed, in one batch; those that are told to stop, by a launcher of their own."""
    folder = tmp_path_factory.mktemp("jobs that end")
    jobs = {case: job_of(case, bases, folder) for case in [*CASES, "alone"]}
    kills = {f"{case} SIGKILL": 6 for case in CASES}
    for name in kills:
        jobs[name] = jobs[name.split()[0]].replace(checkpoints=kept(folder, name), checkpoint_steps=3)
    done = run_batch(folder, jobs, kills)
    ends = {
        name: (done[name].code, "", len(done[name].steps), checkpoint_step(Path(kept(folder, name)))) for name in kills
    }
    for case, how in ENDS:
        name = f"{case} {how.name}"
        # Without a checkpoint of its own, a job has to write one when it is told to stop.
        job = job_of(case, bases, folder).replace(checkpoints=kept(folder, name))
        # On a busy machine its last step may come before it is told.
        for turn in range(5):
            own = job.replace(output=str(folder / f"{name}.first{turn}"))
            ends[name] = interrupt(own, folder / f"{name}.logs{turn}", how)
            if ends[name][2] < STEPS:
                break
    return folder, {case: done[case] for case in [*CASES, "alone"]}, ends


@pytest.fixture(scope="module")
def undisturbed(begun) -> dict[str, Outcome]:
    return begun[1]


@pytest.fixture(scope="module")
def interrupted(begun, bases) -> dict[str, Interrupted]:
    folder, _, ends = begun
    jobs = {name: job_of(name.split()[0], bases, folder).replace(checkpoints=kept(folder, name)) for name in ends}
    # The same checkpoints again: damaged, and with another number of processes.
    again = {"damaged": ("lora-2 SIGKILL", {})}
    for case, processes in OTHERS.items():
        found = next(name for name in ends if name.startswith(f"{case} "))
        again[f"{case} on {processes}"] = (found, {"processes": processes})
    for name, (source, change) in again.items():
        shutil.copytree(kept(folder, source), kept(folder, name))
        jobs[name] = jobs[source].replace(checkpoints=kept(folder, name), **change)
    damaged = max(Path(kept(folder, "damaged")).glob("step-*/state/*optim_states.pt"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    resumed = run_batch(folder / "again", jobs)
    unstarted = (0, "", 0, 0)
    return {name: Interrupted(*ends.get(name, unstarted), resumed[name]) for name in jobs}


def interrupt(job: FinetuneJob, logs: Path, how: signal.Signals) -> tuple[int, str, int, int]:
    """Run a job in processes of its own and tell all of them in mid-training to stop."""
    logs.mkdir()
    job.write(logs / "job.json")
    progress = logs / "progress.jsonl"
    command = [sys.executable, "-m", "tests.training.launch", str(logs / "job.json"), str(logs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as launcher:
        while len(steps_in(progress)) < 4:
            assert launcher.poll() is None, launcher.communicate()[0]
            time.sleep(0.002)
        for pid in family(launcher.pid):
            os.kill(pid, how)
        said = launcher.communicate()[0]
    wait_until(lambda: not processes(str(logs)), 10)
    return launcher.returncode, said.strip(), len(steps_in(progress)), checkpoint_step(Path(job.checkpoints or ""))


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "how"), [*((case, signal.SIGKILL) for case in CASES), *ENDS])
def test_it_goes_on_from_its_checkpoint_exactly(undisturbed, interrupted, case, how):
    whole, ended = undisturbed[case], interrupted[f"{case} {how.name}"]
    assert 0 < ended.reached <= ended.steps < STEPS
    if how is signal.SIGKILL:
        assert ended.code == -signal.SIGKILL
    else:
        # It ends after a step, with a checkpoint of it.
        assert ended.code == StopRequested.exit_code == 143 and ended.reached == ended.steps
        assert ended.said.startswith("StopRequested: finetuning")
        assert f"at step {ended.reached} of {STEPS}" in ended.said
    assert ended.resumed.report["losses"] == whole.report["losses"]
    # It did go on rather than begin again, at the rate of its place in the schedule.
    lines, expected = (
        [(line["step"], line["learning_rate"]) for line in run.steps] for run in (ended.resumed, whole)
    )
    assert lines == expected[ended.reached :]
    ours, theirs = ended.resumed.weights(), whole.weights()
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in theirs)
    assert ended.resumed.report["earlier_seconds"] > 0


@pytest.mark.slow
def test_weights_decay_alike_in_every_stage(undisturbed):
    for stage in (2, 3):
        losses = undisturbed[f"full-{stage}"].report["losses"]
        assert losses == pytest.approx(undisturbed["full-1"].report["losses"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "processes"), OTHERS.items())
def test_it_goes_on_with_another_number_of_processes(undisturbed, interrupted, case, processes):
    whole, resumed = undisturbed[case], interrupted[f"{case} on {processes}"].resumed
    assert resumed.report["losses"] == pytest.approx(whole.report["losses"], abs=1e-4)
    before = whole.job.processes
    assert len(resumed.steps) < STEPS and f"converting a checkpoint of {before} processes" in resumed.log.read_text()
    ours, theirs = resumed.weights(), whole.weights()
    assert all((ours[name] - theirs[name]).abs().max() < 2e-3 for name in theirs)
    assert not list(Path(resumed.job.checkpoints).glob(".*"))


@pytest.mark.slow
@pytest.mark.long
def test_a_damaged_checkpoint_is_set_aside(interrupted):
    damaged, reached = interrupted["damaged"].resumed, interrupted["lora-2 SIGKILL"].reached
    assert f"step-{reached:08d}: damaged (" in damaged.failure and "resumes from the one before" in damaged.failure
    root = Path(damaged.job.checkpoints)
    assert (root / f"step-{reached:08d}.json.aside").exists() and checkpoint_step(root) == reached - 3


STALE, TORN = OSError(116, "Stale file handle"), RuntimeError("PytorchStreamReader failed reading file data/0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "damage", "stays"),
    [
        (STALE, False, True),
        (STALE, True, True),
        (RuntimeError("NCCL error: unhandled system error"), True, True),
        (MemoryError(), True, True),
        (TORN, False, True),
        (TORN, True, False),
    ],
)
def test_only_damage_sets_a_checkpoint_aside(tmp_path, error, damage, stays):
    from hpcmaf.training.checkpointer import Checkpointer

    def load_checkpoint(*_, **__):
        raise error

    folder = at_step(tmp_path, 4)
    folder.mkdir()
    torch.save({"a": torch.zeros(3)}, folder / "part.pt")
    if damage:
        (folder / "part.pt").write_bytes(bytes((folder / "part.pt").stat().st_size))
    job = FinetuneJob(
        base="b", dataset=str(write_lines(tmp_path / "d", chats(1))), output="o", checkpoints=str(tmp_path)
    )
    settings = (job, Process(0, 1, torch.device("cpu")), torch.float32, 0.0)
    Checkpoint.publish(folder, [1.0] * 4, 1.0, Checkpointer(*settings).identity)
    with pytest.raises(type(error) if stays else TrainingError):
        Checkpointer(*settings).resume(SimpleNamespace(load_checkpoint=load_checkpoint))
    assert folder.with_suffix(".json").exists() == stays and (folder / "part.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grace", "why"), [(0.0, "killed on request"), (600.0, "stopped on request")]
)
def test_a_job_that_is_asked_to_stop_while_it_starts_does_not_begin(bases, tmp_path, grace, why):
    stop = StopFlag(grace)
    stop.request()
    job = job_of("alone", bases, tmp_path).replace(output=str(tmp_path / "out"))
    with pytest.raises(StopRequested, match=why):
        run_finetune(job, tmp_path / "logs", stop=stop)
    assert not steps_in(tmp_path / "logs" / "progress.jsonl") and not processes(str(tmp_path))
    assert not (tmp_path / "out").exists()
