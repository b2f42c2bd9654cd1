"""One job on two nodes: here two agents of one machine, which know each other by address alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError, TrainingError
from hpcmaf.training import launch
from hpcmaf.training.job import FinetuneJob, NodePlace, run_finetune
from hpcmaf.training.nodes import Pulse, announce, announced
from tests.training.conftest import COMMON, LORA, chats, run_batch, write_lines
from tests.training.test_checkpoints import family, steps_in

PLACES = [NodePlace(rank, 2, "127.0.0.1", "a", patience_s=0.4, joining_s=0.2) for rank in range(2)]


@pytest.mark.parametrize(("rank", "host"), [(2, "a"), (-1, "a"), (0, ""), (0, "a:1")])
def test_impossible_places_are_refused(rank, host):
    with pytest.raises(ConfigError):
        NodePlace(rank, 2, host, "run")


def test_place_survives_a_command_line():
    assert NodePlace.from_json(PLACES[1].to_json()) == PLACES[1]
    assert PLACES[0].local_address == "127.0.0.1" and PLACES[1].local_address == socket.gethostname()


def test_nodes_meet_at_addresses_of_either_kind(tmp_path):
    place = NodePlace(0, 2, "fd00::2", "run")
    announce(tmp_path, place, 4711)
    assert announced(tmp_path) == "[fd00::2]:4711"
    options = dict(option.split("=") for option in launch._among(replace(place, rank=1), tmp_path))
    assert (options["--master-addr"], options["--master-port"]) == ("fd00::2", "4711")


def test_a_job_of_one_node_needs_no_names():
    assert {"--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"} <= set(launch._alone())


def test_the_observers_own_standstill_is_not_held_against_the_others(tmp_path):
    zero, one = (Pulse(tmp_path, replace(place, joining_s=60.0)) for place in PLACES)
    assert zero.lost() is None and one.lost() is None
    time.sleep(1.0)  # more than anybody's patience
    assert zero.lost() is None and one.lost() is None


def test_a_node_whose_process_is_stopped_gives_no_sign(tmp_path):
    zero, one = (Pulse(tmp_path, replace(place, joining_s=60.0)) for place in PLACES)
    assert zero.lost() is None and one.lost() is None
    with subprocess.Popen(["sleep", "60"]) as child:
        os.kill(child.pid, signal.SIGSTOP)
        before = (tmp_path / "node-1.alive").read_text()
        time.sleep(0.1)
        assert one.lost() is None and (tmp_path / "node-1.alive").read_text() == before
        child.kill()
    time.sleep(0.1)
    assert one.lost() is None and (tmp_path / "node-1.alive").read_text() != before


def test_job_and_nodes_have_to_agree(tmp_path):
    with pytest.raises(ConfigError, match="for 2 nodes, started on 1"):
        run_finetune(FinetuneJob(base="b", dataset="d", output="o", nodes=2), tmp_path)


def test_jobs_that_begin_at_once_on_one_machine_meet_apart(tmp_path):
    said = []
    for name in "ab":
        (tmp_path / name).mkdir()
        options = dict(option.split("=") for option in launch._among(PLACES[0], tmp_path / name))
        assert f"127.0.0.1:{options['--master-port']}" == announced(tmp_path / name)
        said.append(options["--master-port"])
    assert len(set(said)) == 2


def test_a_node_that_falls_silent_is_missed_and_one_that_lives_is_not(tmp_path):
    zero, one = (Pulse(tmp_path, place) for place in PLACES)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert zero.lost() is None and one.lost() is None
        time.sleep(0.02)
    assert "node 1" in wait_for(zero) and PLACES[1].local_address in wait_for(zero)
    one.leave()
    assert zero.wait_for_others(0) == [] and one.wait_for_others(0) == [0]


def test_a_node_that_never_comes_is_missed(tmp_path):
    assert "node 1 has not come within 0.2 s" in wait_for(Pulse(tmp_path, PLACES[0]))


def test_a_node_learns_that_the_job_is_over(tmp_path):
    assert wait_for(Pulse(tmp_path / "gone", PLACES[1])) == "node 0 has ended the job"


def wait_for(pulse: Pulse) -> str:
    end = time.monotonic() + 5
    while (line := pulse.lost()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return line


class Nodes:
    """Launchers of both nodes."""

    def __init__(self, job: FinetuneJob, folder: Path, **settings: float) -> None:
        folder.mkdir()
        self.logs = folder / "logs"
        job.write(folder / "job.json")
        command = [sys.executable, "-m", "tests.training.launch", str(folder / "job.json"), str(self.logs)]
        places = [NodePlace(rank, 2, "127.0.0.1", "attempt-1", address="127.0.0.1", **settings) for rank in range(2)]
        self.launchers = [
            subprocess.Popen(
                [*command, place.to_json()], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
            )
            for place in reversed(places)  # the one that has to wait comes first
        ][::-1]

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
        lora=replace(LORA, dropout=0.2),
        zero_stage=2,
        nodes=2,
        **COMMON,
    )


@pytest.mark.slow
def test_two_nodes_train_as_two_processes_of_one(job, tmp_path):
    nodes = Nodes(job, tmp_path / "nodes")
    assert nodes.wait(180) == [(0, ""), (0, "")]
    one = replace(job, nodes=1, processes=2, output=str(tmp_path / "batch" / "one" / "out"))
    (tmp_path / "batch").mkdir()
    expected = run_batch(tmp_path / "batch", {"one": one})["one"].report
    # Not nearly: the same sums in the same order.
    assert json.loads((Path(job.output) / "training.json").read_text())["losses"] == expected["losses"]
    names = sorted(path.name for path in nodes.logs.iterdir())
    assert names == ["finetune.log", "finetune.node1.log", "progress.jsonl", "tensorboard"]


@pytest.mark.slow
@pytest.mark.parametrize(("node", "who"), [(1, "worker"), (1, "all"), (0, "worker")])
def test_a_node_that_stands_still_ends_the_job_on_both(job, tmp_path, node, who):
    nodes = Nodes(replace(job, epochs=100_000), tmp_path / "nodes", patience_s=6.0)
    while not steps_in(nodes.logs / "progress.jsonl"):
        assert all(launcher.poll() is None for launcher in nodes.launchers)
        time.sleep(0.05)
    hung = family(nodes.launchers[node].pid)
    for process in hung if who == "all" else hung[-1:]:
        os.kill(process, signal.SIGSTOP)
    began = time.monotonic()
    if who == "worker":
        for code, said in nodes.wait(60):
            assert code == TrainingError.exit_code and "gave no sign of life for 6 s" in said
    else:
        living = nodes.launchers[1 - node]
        said = living.communicate(timeout=60)[0]
        assert living.returncode == TrainingError.exit_code and "node 1 (127.0.0.1) gave no sign of life" in said
        for process in hung:
            os.kill(process, signal.SIGKILL)
    # The patience, its look, and the time for others to tell why they ended.
    assert time.monotonic() - began < 6 + 15 + 20
    assert not Path(job.output).exists()


@pytest.mark.slow
def test_when_a_node_fails_all_end_soon_and_say_why(job, tmp_path):
    nodes = Nodes(replace(job, epochs=100_000), tmp_path / "nodes")
    while not steps_in(nodes.logs / "progress.jsonl"):
        assert all(launcher.poll() is None for launcher in nodes.launchers)
        time.sleep(0.05)
    *_, worker = family(nodes.launchers[1].pid)
    os.kill(worker, signal.SIGKILL)
    for code, said in nodes.wait(40):
        assert code == TrainingError.exit_code
        assert "process 1 on 127.0.0.1 was killed by SIGKILL, out of memory?" in said
    assert not Path(job.output).exists()
