"""The real loop on a real cluster: vLLM's place taken by transformers, everything else as on an H100 site."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from tests.commands import contents, hpcmaf, processes, setting
from tests.jobs.playing import run_here
from tests.slurm.cluster import REPOSITORY, Cluster
from tests.slurm.runs import Watched

OPTIONS = ["--profile", "test-cluster", "--set-profile", "slurm.generation.at_once=2"]
SHAPE = ["debate.agents=2", "task.train=16", "task.eval=6", "training.epochs=1"]
SMALL = setting(*SHAPE)


def submit(run: Path, *options: str) -> None:
    hpcmaf("submit", "--run", run, *OPTIONS, *SMALL, *options)


class Watch(Watched):
    """A run whose jobs do all the work."""

    def training(self, t: int) -> str | None:
        """An agent whose training processes have been started, and which is not done."""
        for attempt in (self.run.iteration(t) / "attempts").glob("finetune.*/0001/finetune.log"):
            agent = attempt.parent.parent.name.partition(".")[2]
            if self.process(f"it{t:02d}.finetune.{agent}"):
                return agent
        return None

    def process(self, stage: str) -> int | None:
        """The Python that does a task of a stage."""
        for process in processes("hpcmaf.launch.slurm.job", str(self.run.root), f".{stage}."):
            with suppress(psutil.NoSuchProcess):
                words = psutil.Process(process).cmdline()
                if "python" in words[0] and ".gate." not in words[-2]:
                    return process
        return None


@pytest.mark.long
def test_a_bad_night_ends_as_a_calm_one(slurm: Cluster, tmp_path: Path) -> None:
    """A node dies in the middle of debates and a finetuning task later; beside it a calm run.

    There one job trains all agents, by processes that load the base once; here each has a job of its own.
    """
    night, calm = RunDir(tmp_path / "a night's run"), RunDir(tmp_path / "calm")
    script = [REPOSITORY / "slurm/iterate.sh", "--iters", "1", "--run", night.root, *OPTIONS, *SMALL]
    log = tmp_path / "iterate.log"
    job = slurm.client("sbatch", "--parsable", f"--output={log}", f"--chdir={REPOSITORY}", *script)
    submit(calm.root, "--iters", "1", "--set-profile", "slurm.agents_per_job=4")
    slurm.wait_job(int(job), "COMPLETED", timeout=60)
    assert " NumCPUs=1 " in slurm.client("scontrol", "show", "job", job.strip(), "--oneliner")
    assert log.read_text().count("job ") >= 4
    watch = Watch(slurm, night)

    watch.wait("the society debated", lambda: watch.process("it01.debate"), 200)
    node = watch.task("it01/debate", "00000")["nodes"]
    slurm.nodes[node].kill()
    time.sleep(8)
    slurm.nodes[node].start()
    watch.wait("an agent was in training", lambda: watch.training(1), 300)
    os.kill(watch.process(f"it01.finetune.{watch.training(1)}") or 0, signal.SIGKILL)
    watch.reports(300)
    Watch(slurm, calm).reports(300)

    assert [one["kind"] for one in watch.events("verdict") if one["stage"] == "it01/finetune"] == ["killed"]
    assert contents(night) == contents(calm)
    logs = [path.read_text() for path in calm.root.glob("it01/attempts/finetune.*/0001/finetune.log")]
    # An agent without data has nothing to train, and needs no base.
    assert len(logs) == 4 and sum("from the job before: base" in log for log in logs) > 1
    slurm.wait_idle(60)
    assert verify(night.root) == []


@pytest.mark.long
def test_training_reaches_its_time_limit_and_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm warns DeepSpeed's processes of the time limit; requeued, it ends with the very weights of a calm one."""
    shape, run = ("debate.agents=1", "debate.rounds=1", "training.epochs=150"), RunDir(tmp_path / "run")
    submit(run.root, "--iters", "1", *setting(*shape))
    watch = Watch(slurm, run)
    stage = run.load_plan().stage("it01/finetune")
    progress = run.progress(stage, "generator-0")
    watch.wait("training had begun", lambda: progress.exists() and json.loads(progress.read_text())["done"] > 3, 200)
    # By its whole name: the controller still knows the jobs of other tests' runs.
    name = next(path.name for path in run.iteration(1).glob("jobs/*.it01.finetune.generator-0.*"))
    job = next(job["id"] for job in slurm.jobs() if job["name"] == name)
    # Held in mid-training until the warning is there: how fast this machine is must not matter.
    workers = [psutil.Process(pid) for pid in processes("hpcmaf.training.worker", str(run.root))]
    assert workers, "nothing to stop"
    for worker in workers:
        worker.suspend()
    # Slurm looks every 30 seconds, and warns a minute ahead or less.
    slurm.client("scontrol", "update", f"jobid={job}", "EndTime=now+57")
    watch.wait("Slurm's warning came", lambda: "SIGUSR2: coming to a stop" in job_log(run), 120)
    for worker in workers:
        worker.resume()
    watch.wait("it was requeued", lambda: [j for j in slurm.jobs() if (j["id"], j["state"]) == (job, "PENDING")], 60)
    slurm.client("scontrol", "update", f"jobid={job}", "timelimit=10")
    calm = run_here(tmp_path / "calm", *SHAPE, *shape, "iterations=1")
    watch.reports(200)
    logs = [path.read_text() for path in sorted(run.attempts(stage, "generator-0").glob("*/finetune.log"))]
    assert len(logs) == 2
    causes = [json.loads(path.read_text()) for path in run.attempts(stage, "generator-0").glob("*/cause.json")]
    assert [cause["type"] for cause in causes] == ["StopRequested"]
    assert not run.checkpoints(1, "generator-0").exists()
    assert contents(run) == contents(calm)


def job_log(run: RunDir) -> str:
    """What the finetuning job of a society of one has written."""
    logs = run.root.glob("it01/jobs/*finetune.generator-0*/*_log.err")
    return "".join(log.read_text(errors="replace") for log in logs if ".gate." not in log.parent.name)


def test_finetuning_on_two_nodes(slurm: Cluster, tmp_path: Path) -> None:
    """One srun task per node, torchrun's c10d rendezvous between them, DeepSpeed over gloo; two agents per job."""
    run = RunDir(tmp_path / "run")
    site = setting("slurm.finetuning.nodes=2", "slurm.agents_per_job=2", option="--set-profile")
    submit(run.root, "--iters", "1", "--method", "maft-no-critic", *site)
    watch, plan = Watch(slurm, run), run.load_plan()
    watch.wait("both were trained", lambda: len(run.done_tasks(plan)["it01/finetune"]) == 2, 300)
    jobs = [line["elements"] for line in watch.events("intent") if line["stage"] == "it01/finetune"]
    assert [elements for elements in jobs if elements] == [[["generator-0", "generator-1"]]]
    for folder in sorted((run.iteration(1) / "attempts").glob("finetune.*/0001")):
        logs = {log.name for log in folder.glob("finetune*.log")}
        assert logs == {"finetune.log", "finetune.node1.log"}, folder
