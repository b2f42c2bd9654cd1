"""status, logs, retry and cancel of chains on the real cluster."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from click.testing import CliRunner, Result

from hpcmaf.cli import cli
from hpcmaf.launch.status import Status
from tests.slurm.cluster import Cluster
from tests.slurm.errands import plant, started
from tests.slurm.processes import wait_until
from tests.slurm.runs import Loop


def verb(name: str, loop: Loop, *words: str) -> Result:
    result = CliRunner().invoke(cli, [name, str(loop.run.root), *words], catch_exceptions=False)
    print(f"hpcmaf {name} {' '.join(words)}: {result.exit_code}\n{result.output}")
    return result


def test_a_run_is_followed_from_start_to_end(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 8")
    loop.start()
    seen: set[str] = set()

    def slept() -> bool:
        found = Status(loop.run)
        seen.add(found.state)
        assert found.exit_code == 0, (found.state, found.why)
        return bool(started(loop.run, "it00/eval", "00000"))

    wait_until("it00/eval 00000 runs", slept, 90, 0.5)
    value = json.loads(verb("status", loop, "--json").output)
    assert value["gates"] and value["state"] == "running"
    assert "it00/eval 00000, attempt 1, job " in verb("logs", loop, "it00/eval", "0").output
    loop.finish()
    loop.reports()
    result = verb("status", loop)
    assert result.exit_code == 0
    assert f"next: nothing; table and plot: {loop.run.report}" in result.output
    assert seen <= {"running", "queued"}
    # Without a controller the markers still speak.
    slurm.cancel_all()  # a gate that is about to end
    loop.run.marker(loop.plan.stages[-1], "all").unlink()
    slurm.controller.kill(signal.SIGTERM)
    shown = verb("status", loop)
    assert shown.exit_code == 13
    assert "unknown (Slurm does not answer)" in shown.output and "note: squeue: " in shown.output
    slurm.start_controller()
    assert Status(loop.run).state == "stalled"


def test_a_failure_is_shown_read_and_retried(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "it's a run")
    plant(loop.run, "it00/eval", "00001", "error")
    loop.start()
    loop.stops()
    shown = verb("status", loop)
    assert shown.exit_code == 15
    assert "failed: it00/eval 00001: the engine is broken; mend it; log: " in shown.output
    read = verb("logs", loop, "--failed").output
    assert "=== it00/eval 00001, attempt 1, job " in read
    assert "error: the engine is broken; mend it" in read
    again = verb("retry", loop, "--set-profile", "slurm.generation.minutes=7")
    assert "it00/eval: 00001, job " in again.output
    assert "minutes: 7" in loop.run.profile.read_text()
    loop.finish()
    assert [started(loop.run, "it00/eval", task) for task in ("00000", "00001", "00002")] == [1, 2, 1]
    assert verb("retry", loop).exit_code == 0


def test_cancelled_twice_and_taken_up_again(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run")
    tasks = loop.plan.stage("it00/eval").tasks
    for task in tasks:
        plant(loop.run, "it00/eval", task, "sleep 300")
    loop.start()
    wait_until("it00/eval runs", lambda: all(started(loop.run, "it00/eval", task) for task in tasks), 90, 0.5)
    first = verb("cancel", loop, "--yes")
    assert first.exit_code == 0 and "gate(s)" in first.output and "hpcmaf retry" in first.output
    assert not [job for job in slurm.jobs() if job["state"] in {"RUNNING", "PENDING", "COMPLETING"}]
    assert json.loads(loop.run.stopped.read_text())["kind"] == "cancelled"
    assert "Slurm has no jobs of it" in verb("cancel", loop, "--yes").output
    shown = verb("status", loop)
    assert shown.exit_code == 15 and "failed:" not in shown.output
    assert f"next: hpcmaf retry {loop.run.root}" in shown.output
    assert "it00/eval: " in verb("retry", loop).output
    loop.finish()


def doctor(loop: Loop, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    command = ["doctor", "--run", str(loop.run.root), "--json", *words]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    print(result.output)
    return result.exit_code, {finding["area"]: finding for finding in json.loads(result.output)}


def test_the_doctor_looks_at_nodes_from_within(slurm: Cluster, tmp_path: Path) -> None:
    """They find each other; then no name service knows them; then they lack the Python."""
    loop, hosts = Loop(slurm, tmp_path / "a run"), slurm.home / "etc/hosts"
    before, names = sorted(loop.run.root.iterdir()), hosts.read_text()
    two_nodes = ("--probe", "--set-profile", "slurm.finetuning.nodes=2")
    code, found = doctor(loop, *two_nodes, "--set-profile", "slurm.generation.gpus=2")
    assert code == 0
    for area in ("controller", "generation", "nodes", "locks across nodes", "sbatch in jobs", "names of nodes"):
        assert found[area]["level"] == "ok", found[area]
    assert "node1, node2" in found["nodes"]["text"]
    assert found["GPUs on nodes"]["text"] == "2 visible, 2 requested"
    assert "node2 is 127.0.0.1" in found["names of nodes"]["text"]
    assert sorted(loop.run.root.iterdir()) == before
    hosts.write_text("127.0.0.1 localhost\n")
    try:
        code, found = doctor(loop, *two_nodes)
    finally:
        hosts.write_text(names)
    assert code == 0 and found["names of nodes"]["level"] == "warning", found["names of nodes"]
    assert "node1, node2: no name service knows them" in found["names of nodes"]["text"]
    code, found = doctor(loop, "--probe", "--set-profile", "slurm.python=/nowhere/python")
    assert code == 12
    assert found["nodes"]["level"] == "problem" and "/nowhere/python" in found["nodes"]["text"]


def test_the_doctor_asks_slurm_itself(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", iters=1)
    for site, area, words, remedy in (
        ("slurm.merge.partition=lost", "merge", "Invalid partition name", "set slurm.partition; sinfo -s lists them"),
        ("slurm.generation.gpus=8", "generation", "node configuration is not", "slurm.generation.gpus, cpus"),
        ("slurm.finetuning.constraint=a100", "finetuning", "Invalid feature", "set slurm.finetuning.constraint"),
        ("slurm.gate.options={reservation: none}", "gate", "eservation", "reservation: NAME"),
    ):
        code, found = doctor(loop, "--set-profile", site)
        assert code == 12 and found[area]["level"] == "problem"
        assert words in found[area]["text"] and remedy in found[area]["remedy"]
        assert {found[other]["level"] for other in {"generation", "finetuning", "merge", "gate"} - {area}} == {"ok"}
    assert not slurm.client("squeue", "-h").strip(), "something was submitted"


def test_a_gate_that_is_held_is_told_of_and_a_chain_without_one_goes_on(slurm: Cluster, tmp_path: Path) -> None:
    """Somebody holds the gates, and then cancels them; what was behind them is never submitted."""
    loop = Loop(slurm, tmp_path / "run")
    plant(loop.run, "it00/eval", "00000", "sleep 6")
    loop.start()
    gates = Status(loop.run).gates
    slurm.client("scontrol", "hold", ",".join(gates))

    def only_gates_wait() -> bool:
        found = Status(loop.run)
        return found.state == "queued" and not any(found.pending.values()) and not any(found.running.values())

    wait_until("only gates wait", only_gates_wait, 90, 0.5)
    shown = verb("status", loop)
    assert shown.exit_code == 0 and ": queued (0 running, 0 queued, gate " in shown.output
    assert "note: the gate waits: JobHeldAdmin; ask the site's operators" in shown.output or (
        f"note: the gate waits: JobHeldUser; scontrol release {','.join(gates)}" in shown.output
    )
    slurm.client("scancel", *gates)
    wait_until("nothing is left", lambda: Status(loop.run).state == "stalled", 90, 0.5)
    assert verb("status", loop).exit_code == 15
    assert "job " in verb("retry", loop).output
    loop.finish()


def test_a_maintenance_ahead_is_told_with_its_time(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", "slurm.generation.minutes=90", iters=1)
    slurm.client(
        "scontrol", "create", "reservation", "reservationname=works", "starttime=now+1hour", "duration=60",
        "flags=maint,ignore_jobs", "nodes=ALL", "users=root",
    )  # fmt: skip
    try:
        loop.start()
        found = ""

        def told() -> bool:
            nonlocal found
            found = verb("status", loop).output
            return "maintenance from 20" in found

        wait_until("status tells of it", told, 60, 1)
    finally:
        slurm.cancel_all()
        slurm.client("scontrol", "delete", "reservationname=works")
    assert "ReqNodeNotAvail" in found and "queued (0 running" in found


def test_a_probe_that_gets_no_node_is_a_warning(slurm: Cluster, tmp_path: Path) -> None:
    loop = Loop(slurm, tmp_path / "run", iters=1)
    slurm.set_state("drain")
    try:
        code, found = doctor(loop, "--probe", "--wait", "3")
    finally:
        slurm.set_state("resume")
    assert code == 12
    assert "not available" in found["generation"]["text"] and "sinfo -o" in found["generation"]["remedy"]
    assert found["nodes"]["level"] == "warning" and "no node: srun: " in found["nodes"]["text"]
    assert not slurm.client("squeue", "-h").strip()
    assert not list(loop.run.root.glob(".hpcmaf-doctor*"))
