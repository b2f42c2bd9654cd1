"""One job on two nodes: here two agents of one machine, which know each other by address alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hpcmaf.errors import TrainingError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.multinode import Heartbeat, NodeRank
from tests.training.conftest import COMMON, LORA, chats, run_batch, steps_in, write_lines
from tests.training.test_checkpoints import family

RANKS = [NodeRank(rank, 2, "a", "127.0.0.1", patience_s=0.4, joining_s=0.2) for rank in range(2)]


@pytest.mark.parametrize("host", ["127.0.0.1", "fd00::2"])
def test_all_nodes_meet_where_node_0_has_a_free_port(tmp_path, host):
    first, second = (rank.rendezvous(tmp_path) for rank in (replace(RANKS[0], address=host), RANKS[1]))
    options = dict(option.split("=") for option in second)
    assert options["--master-addr"] == host and int(options["--master-port"]) > 0
    assert first[2:5] == second[2:5] and options["--node-rank"] == "1"


def test_the_observers_own_standstill_is_not_held_against_the_others(tmp_path):
    zero, one = (Heartbeat(tmp_path, replace(rank, joining_s=60.0)) for rank in RANKS)
    assert zero.lost() is None and one.lost() is None
    time.sleep(1.0)  # more than anybody's patience
    assert zero.lost() is None and one.lost() is None


def test_a_node_that_falls_silent_is_missed_and_one_that_lives_is_not(tmp_path):
    zero, one = (Heartbeat(tmp_path, rank) for rank in RANKS)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert zero.lost() is None and one.lost() is None
        time.sleep(0.02)
    assert "node 1" in wait_for(zero) and RANKS[1].address in wait_for(zero)
    one.leave()
    assert zero.wait_for_others(0) == [] and one.wait_for_others(0) == [0]
    (tmp_path / "new").mkdir()
    assert "node 1 has not come within 0.2 s" in wait_for(Heartbeat(tmp_path / "new", RANKS[0]))
    assert wait_for(Heartbeat(tmp_path / "gone", RANKS[1])) == "node 0 has ended the job"


def wait_for(heartbeat: Heartbeat) -> str:
    end = time.monotonic() + 5
    while (lost := heartbeat.lost()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert lost.kind == "lost"
    return lost.message


class Nodes:
    """Launchers of both nodes."""

    def __init__(self, job: FinetuneJob, folder: Path, **settings: float) -> None:
        folder.mkdir()
        self.logs = folder / "logs"
        job.write(folder / "job.json")
        command = [sys.executable, "-m", "tests.training.launch", str(folder / "job.json"), str(self.logs)]
        ranks = [NodeRank(rank, 2, "attempt-1", "127.0.0.1", **settings) for rank in range(2)]
        self.launchers = [
            subprocess.Popen(
                [*command, json.dumps(asdict(rank))], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
            )
            for rank in reversed(ranks)  # the one that has to wait comes first
        ][::-1]

    @classmethod
    def training(cls, job: FinetuneJob, folder: Path, **settings: float) -> Nodes:
        """Both in the midst of a job without end."""
        nodes = cls(job.replace(epochs=100_000), folder, **settings)
        while not steps_in(nodes.logs / "progress.jsonl"):
            assert all(launcher.poll() is None for launcher in nodes.launchers)
            time.sleep(0.05)
        return nodes

    def wait(self, seconds: float) -> list[tuple[int, str]]:
        """Exit code and last word of each node."""
        said = [launcher.communicate(timeout=seconds)[0].strip() for launcher in self.launchers]
        return [(launcher.returncode, words) for launcher, words in zip(self.launchers, said, strict=True)]


@pytest.fixture
def job(bases, tmp_path) -> FinetuneJob:
    data = write_lines(tmp_path / "data.jsonl", chats())
    return FinetuneJob(
        base=str(bases["llama"]),
        dataset=str(data),
        output=str(tmp_path / "two nodes"),
        lora=LORA.model_copy(update={"dropout": 0.2}),
        nodes=2,
        **COMMON,
    )


@pytest.mark.slow
@pytest.mark.long
def test_two_nodes_train_as_two_processes_of_one(job, tmp_path):
    nodes = Nodes(job, tmp_path / "nodes")
    assert nodes.wait(180) == [(0, ""), (0, "")]
    one = job.replace(nodes=1, processes=2, output=str(tmp_path / "batch" / "one" / "out"))
    (tmp_path / "batch").mkdir()
    expected = run_batch(tmp_path / "batch", {"one": one})["one"].report
    # Not nearly: the same sums in the same order.
    assert json.loads((Path(job.output) / "training.json").read_text())["losses"] == expected["losses"]
    names = sorted(path.name for path in nodes.logs.iterdir())
    assert names == ["finetune.log", "finetune.node1.log", "progress.jsonl", "tensorboard"]


@pytest.mark.slow
def test_a_process_that_stands_still_ends_the_job_on_both(job, tmp_path):
    """A whole node that does so is a test of the cluster's."""
    nodes = Nodes.training(job, tmp_path / "nodes", patience_s=6.0)
    *_, worker = family(nodes.launchers[0].pid)
    os.kill(worker, signal.SIGSTOP)
    began = time.monotonic()
    for code, said in nodes.wait(60):
        assert code == TrainingError.exit_code and "gave no sign of life for 6 s" in said
    # The patience, its look, and the time for others to tell why they ended.
    assert time.monotonic() - began < 6 + 15 + 20
    assert not Path(job.output).exists()


@pytest.mark.slow
def test_when_a_node_fails_all_end_soon_and_say_why(job, tmp_path):
    nodes = Nodes.training(job, tmp_path / "nodes")
    *_, worker = family(nodes.launchers[1].pid)
    os.kill(worker, signal.SIGKILL)
    for code, said in nodes.wait(40):
        assert code == TrainingError.exit_code
        assert "process 1 on 127.0.0.1 was killed by SIGKILL, out of memory?" in said
    assert not Path(job.output).exists()
