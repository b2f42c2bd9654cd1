"""Jobs that are killed or stopped at any step, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hpcmaf.errors import StopRequested
from hpcmaf.training.checkpoint import Checkpoint, at_step, checkpoint_step, identity, marker, newest
from hpcmaf.training.job import StopFlag, run_finetune
from hpcmaf.training.spec import FinetuneJob, LoraSettings
from tests.training.conftest import COMMON, Outcome, chats, run_batch, write_lines

JOB = FinetuneJob(base="b", dataset="d", output="o")


def made(root: Path, step: int, job: str = "this") -> Checkpoint:
    temporary = root / f".{step}.tmp"
    (temporary / "state").mkdir(parents=True)
    (temporary / "state" / "part.pt").write_bytes(b"x" * step)
    found = Checkpoint(at_step(root, step), step, (1.0,) * step, 2.5, {"job": job}, {"state/part.pt": step})
    found.publish(temporary)
    return found


def test_the_last_two_are_kept_and_the_last_is_gone_on_from(tmp_path):
    assert checkpoint_step(tmp_path / "nothing") == 0 and newest(tmp_path / "nothing", {}) is None
    for step in (3, 6, 9):
        last = made(tmp_path, step)
    read = newest(tmp_path, {"job": "this"})
    assert read is not None and (read.step, tuple(read.losses), read.seconds) == (9, last.losses, 2.5)
    assert sorted(p.name for p in tmp_path.glob("*/")) == ["step-00000006", "step-00000009"]
    assert checkpoint_step(tmp_path) == 9


@pytest.mark.parametrize(
    "tear",
    [
        lambda found: marker(found.folder).unlink(),
        lambda found: marker(found.folder).write_text('{"schema": "hpcmaf-check'),
        lambda found: marker(found.folder).write_text("[]"),
        lambda found: (found.folder / "state/part.pt").write_bytes(b"x"),
        lambda found: (found.folder / "state/part.pt").unlink(),
        lambda found: shutil.rmtree(found.folder),
    ],
)
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, tear):
    made(tmp_path, 3)
    tear(made(tmp_path, 6))
    assert newest(tmp_path, {"job": "this"}).step == checkpoint_step(tmp_path) == 3
    # Once the job is there again by itself, nothing of it is left.
    made(tmp_path, 6)
    assert newest(tmp_path, {"job": "this"}).step == 6


def test_another_jobs_checkpoint_is_named_and_makes_way(tmp_path, capsys):
    made(tmp_path, 7, "other")
    assert newest(tmp_path, {"job": "this"}) is None
    assert "job 'other', not 'this'" in capsys.readouterr().out
    made(tmp_path, 2)
    assert newest(tmp_path, {"job": "this"}).step == checkpoint_step(tmp_path) == 2


def test_identity_is_what_decides_the_result_and_no_more(tmp_path):
    data = write_lines(tmp_path / "data.jsonl", chats(2))
    job = replace(JOB, dataset=str(data))
    own = identity(job, world_size=2)
    assert own == json.loads(json.dumps(own))
    for change in (
        {"learning_rate": 1e-4},
        {"epochs": 3},
        {"seed": 1},
        {"agent": "critic-0"},
        {"lora": LoraSettings(rank=4)},
        {"zero_stage": 3},
        {"start": "s"},
        {"max_grad_norm": 0.5},
    ):
        assert identity(replace(job, **change), world_size=2) != own, change
    assert identity(job, world_size=3) != own
    moved = tmp_path / "moved.jsonl"
    shutil.copy(data, moved)
    same = replace(job, dataset=str(moved), output="elsewhere", micro_batch_size=2, checkpoint_seconds=5.0)
    assert identity(same, world_size=2) == own
    write_lines(moved, chats(3))
    assert identity(same, world_size=2) != own


# Dropout everywhere: a resumed job has to draw what it would have drawn.
LORA = LoraSettings(rank=4, alpha=8, dropout=0.2)
CASES = {
    "lora-1": {"tuning": "lora", "zero_stage": 1},
    "full-2": {"tuning": "full", "zero_stage": 2, "processes": 2, "max_length": 60},
    "lora-3": {"tuning": "lora", "zero_stage": 3, "processes": 2},
}
ENDS = [
    ("lora-1", signal.SIGKILL),
    ("full-2", signal.SIGKILL),
    ("lora-3", signal.SIGKILL),
    ("full-2", signal.SIGUSR2),
    ("lora-1", signal.SIGTERM),
]
STEPS = 24


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
    return replace(job, lora=LORA, epochs=STEPS // 3, **CASES[case])


@pytest.fixture(scope="module")
def undisturbed(bases, tmp_path_factory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("undisturbed")
    jobs = {name: replace(job_of(name, bases, folder), output=str(folder / name / "out")) for name in CASES}
    return run_batch(folder, jobs)


@pytest.fixture(scope="module")
def interrupted(bases, tmp_path_factory) -> dict[str, Interrupted]:
    folder = tmp_path_factory.mktemp("interrupted jobs")
    jobs, ends = {}, {}
    for case, how in ENDS:
        name = f"{case} {how.name}"
        # Without a checkpoint of its own, a job has to write one when it is told to stop.
        own = 3 if how is signal.SIGKILL else None
        job = replace(
            job_of(case, bases, folder), checkpoints=str(folder / f"{name}.checkpoints"), checkpoint_steps=own
        )
        ends[name] = interrupt(replace(job, output=str(folder / f"{name}.first")), folder / f"{name}.logs", how)
        jobs[name] = replace(job, output=str(folder / name / "out"), checkpoint_steps=None)
    # The same checkpoints again, damaged or under another learning rate.
    for name, change in (("torn", {}), ("foreign", {"learning_rate": 2e-2})):
        root = folder / f"{name}.checkpoints"
        shutil.copytree(folder / "lora-1 SIGKILL.checkpoints", root)
        jobs[name] = replace(jobs["lora-1 SIGKILL"], output=str(folder / name / "out"), checkpoints=str(root), **change)
    last = max((folder / "torn.checkpoints").glob("step-*/state/*optim_states.pt"))
    os.truncate(last, last.stat().st_size // 2)
    resumed = run_batch(folder, jobs)
    unstarted = (0, "", 0, 0)
    return {name: Interrupted(*ends.get(name, unstarted), resumed[name]) for name in jobs}


def interrupt(job: FinetuneJob, logs: Path, how: signal.Signals) -> tuple[int, str, int, int]:
    """Run a job in processes of its own and signal it in mid-training, all of them at once."""
    logs.mkdir()
    job.write(logs / "job.json")
    progress, root = logs / "progress.jsonl", Path(job.checkpoints or "")
    command = [sys.executable, "-m", "tests.training.launch", str(logs / "job.json"), str(logs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as launcher:
        needed = 7 if how is signal.SIGKILL else 4
        while steps_in(progress) < needed or (how is signal.SIGKILL and checkpoint_step(root) < 6):
            assert launcher.poll() is None, launcher.communicate()[0]
            time.sleep(0.002)
        if how is signal.SIGKILL:
            launcher.kill()  # the rest has to notice by itself
        else:
            for pid in family(launcher.pid):
                os.kill(pid, how)
        said = launcher.communicate()[0]
    end = time.monotonic() + 10
    while running := [pid for pid in family_named(logs) if pid != os.getpid()]:
        assert time.monotonic() < end, running
        time.sleep(0.05)
    return launcher.returncode, said.strip(), steps_in(progress), checkpoint_step(root)


def steps_in(progress: Path) -> int:
    return progress.read_bytes().count(b"\n") if progress.exists() else 0


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


def family_named(folder: Path) -> list[int]:
    """Processes that have a folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("case", "how"), ENDS)
def test_it_goes_on_from_its_checkpoint_exactly(undisturbed, interrupted, case, how):
    whole, ended = undisturbed[case], interrupted[f"{case} {how.name}"]
    assert 0 < ended.reached <= ended.steps < STEPS
    assert ended.resumed.report["losses"] == whole.report["losses"]
    # It did go on rather than begin again, at the rate of its place in the schedule.
    lines, expected = (
        [json.loads(line) for line in (run.work.parent / "steps.jsonl").read_text().splitlines()]
        for run in (ended.resumed, whole)
    )
    assert [(line["step"], line["learning_rate"]) for line in lines] == [
        (line["step"], line["learning_rate"]) for line in expected[ended.reached :]
    ]
    ours, theirs = ended.resumed.weights(), whole.weights()
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in theirs)
    assert ended.resumed.report["earlier_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("case", "how"), ENDS[3:])
def test_a_signal_to_all_processes_ends_it_after_a_step_with_a_checkpoint(interrupted, case, how):
    ended = interrupted[f"{case} {how.name}"]
    assert ended.code == StopRequested.exit_code == 143
    assert ended.said.startswith("StopRequested: finetuning")
    assert f"at step {ended.reached} of {STEPS}" in ended.said and ended.reached == ended.steps


@pytest.mark.slow
def test_a_torn_checkpoint_is_named_in_the_log_and_the_one_before_it_used(undisturbed, interrupted):
    torn = interrupted["torn"].resumed
    assert torn.report["losses"] == undisturbed["lora-1"].report["losses"]
    log, last = torn.log.read_text(), interrupted["lora-1 SIGKILL"].reached
    assert f"ignored: {torn.job.checkpoints}/step-{last:08d} is torn" in log
    assert f"going on from step {last - 3} " in log


@pytest.mark.slow
def test_a_checkpoint_of_another_learning_rate_is_not_gone_on_from(interrupted):
    foreign = interrupted["foreign"].resumed
    assert steps_in(foreign.work.parent / "steps.jsonl") == STEPS and foreign.report["earlier_seconds"] == 0
    assert "is another job's (learning_rate 0.01, not 0.02)" in foreign.log.read_text()


@pytest.mark.slow
def test_a_job_that_does_not_stop_in_time_is_killed(bases, tmp_path):
    stop = StopFlag(grace_s=0.0)
    stop.request()
    with pytest.raises(StopRequested, match="killed, for it had not stopped 0 s after"):
        run_finetune(
            replace(job_of("lora-1", bases, tmp_path), output=str(tmp_path / "out")), tmp_path / "logs", stop=stop
        )
    assert not family_named(tmp_path) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_told_to_stop_while_it_starts_does_not_begin(bases, tmp_path):
    stop = StopFlag()
    stop.request()
    with pytest.raises(StopRequested, match="before its first step"):
        run_finetune(
            replace(job_of("lora-1", bases, tmp_path), output=str(tmp_path / "out")), tmp_path / "logs", stop=stop
        )
    assert steps_in(tmp_path / "logs" / "progress.jsonl") == 0
