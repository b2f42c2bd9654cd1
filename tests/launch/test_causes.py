"""Causes are told apart, and each is worth what its rule says."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable
from errno import EACCES, EAGAIN, EDQUOT, EIO, EL2HLT, EMFILE, ENODATA, ENOENT, ENOMEM, ENOSPC, EROFS, ESTALE, ETIME
from pathlib import Path
from typing import Any, get_args

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.errors import (
    TRANSIENT,
    DataError,
    EngineError,
    FailureKind,
    MissingInputError,
    OutOfMemory,
    PlatformError,
    RunBusyError,
    StopRequested,
    StoreError,
    TrainingError,
)
from hpcmaf.jobs import task as entry
from hpcmaf.launch.slurm.causes import MOST_ATTEMPTS, RULES, decide, find_cause, nodes_to_avoid
from hpcmaf.launch.slurm.commands import Job
from hpcmaf.launch.slurm.scheduler import Slurm
from hpcmaf.launch.slurm.snapshot import Snapshot, ended_jobs
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.run.attempts import Attempt, begin, read
from hpcmaf.training.multinode import NodeRank
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import finish, make_run, squeue_line, submitted


def attempt(progress: int = 0, **facts: Any) -> Attempt:
    """One that began, and left no word."""
    return Attempt(Path("0001"), {"node": "node2", "log": "7_0_log.err", "progress": progress, **facts}, None)


def job(state: str, reason: str = "", nodes: str = "node3") -> Job:
    return Job("7", 0, "name", state, reason, nodes=nodes)


Fails = Callable[..., Attempt]


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Run a task whose work raises an error; returns what the attempt has left."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it01/merge")
    for other in plan.stages[: plan.stages.index(stage)]:
        finish(run, other)
    monkeypatch.setenv("SLURMD_NODENAME", "node5")

    def fail(error: BaseException, place: NodeRank | None = None) -> Attempt:
        def work(context: object) -> None:
            raise error

        monkeypatch.setattr(entry, "resolve_name", lambda name: work)
        nodes = 1 if place is None else place.nodes
        folder = begin(run.attempts(stage, "all"), {"node": "node5", "nodes": nodes, "log": "x.err", "progress": 0})
        with pytest.raises(type(error)):
            entry.run_task(run, stage, "all", folder, plan.identity, place=place)
        return read(folder)

    return fail


def caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


def of_torch(name: str, words: str) -> Exception:
    """An error that is called as one of torch's own."""
    return type(name, (RuntimeError,), {})(words)


ECC = "CUDA error: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        # What is wrong with the input or the program is wrong everywhere.
        (ValueError("no such thing"), "error"),
        (KeyError("defect"), "error"),
        (DataError("it01/debate: torn"), "error"),
        (EngineError("refused the request"), "error"),
        (PlatformError("no GPU"), "error"),
        (OSError(EMFILE, os.strerror(EMFILE)), "error"),
        *((OSError(code, os.strerror(code), "x.h5"), "error") for code in (ENOSPC, EDQUOT, EACCES, EROFS, ENOENT)),
        # A file system that fails now.
        *((OSError(code, os.strerror(code), "x.h5"), "hardware") for code in sorted(TRANSIENT)[::4]),
        *((OSError(code, os.strerror(code), "x.h5"), "hardware") for code in (EIO, ESTALE, ENODATA, EL2HLT, ETIME)),
        (caused(StoreError("x.h5: cannot be read"), OSError(ESTALE, "Stale file handle")), "hardware"),
        (caused(KeyError("k"), caused(ValueError("v"), OSError(EIO, "Input/output error"))), "hardware"),
        (ConnectionResetError(104, "Connection reset by peer"), "hardware"),
        (ConnectionError("the server is gone"), "hardware"),
        (TimeoutError("timed out"), "hardware"),
        # Devices and networks of them, in the words of CUDA and NCCL or by the parent that saw it.
        (RuntimeError(ECC), "hardware"),
        (of_torch("DistBackendError", "NCCL error: unhandled system error"), "hardware"),
        (RuntimeError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"), "hardware"),
        (TrainingError("finetuning critic-0 failed: it broke", kind="hardware"), "hardware"),
        (TrainingError("finetuning critic-0 failed: a rank is gone", kind="lost"), "hardware"),
        (TrainingError("state.pt: damaged", kind="torn"), "hardware"),
        (TrainingError("the worker was killed by SIGKILL", kind="killed"), "killed"),
        (EngineError("the server was killed by SIGBUS", kind="killed"), "killed"),
        (EngineError("the server did not start in time", kind="time"), "unfinished"),
        (EngineError("no memory", kind="memory"), "out of memory"),
        (EngineError(f"refused: {ECC}", kind="refused"), "error"),
        (RuntimeError("No CUDA GPUs are available"), "hardware"),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"), "hardware"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "hardware"),
        (RuntimeError("NCCL communicator was aborted on rank 1."), "hardware"),
        (RuntimeError("can't start new thread"), "hardware"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), "killed"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error."), "hardware"),
        (RuntimeError("Timed out after 300 seconds waiting for clients"), "hardware"),
        # The system's number in the words of HDF5 and of Rust's libraries.
        (OSError("Unable to open file (read failed, errno = 116, error message = 'Stale file handle')"), "hardware"),
        (Exception("Error while deserializing header: I/O error: Stale file handle (os error 116)"), "hardware"),
        (caused(EngineError("not loaded"), Exception("IoError(Os { code: 5, kind: Other })")), "hardware"),
        (Exception("Error while deserializing header: HeaderTooLarge"), "error"),
        # safetensors calls every file missing that it could not open: one that is there now, or is not.
        (FileNotFoundError(f"No such file or directory: {__file__}"), "hardware"),
        (FileNotFoundError("No such file or directory: /nowhere/w.safetensors"), "error"),
        (ImportError("libtorch.so: cannot read file data: Input/output error"), "hardware"),
        (OSError("libgomp.so.1: cannot open shared object file: Stale file handle"), "hardware"),
        (ImportError("libcudart.so.12: cannot open shared object file: No such file or directory"), "error"),
        # Networks.
        (socket.gaierror(-3, "Temporary failure in name resolution"), "hardware"),
        (http.client.IncompleteRead(b""), "hardware"),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "hardware"),
        (KeyboardInterrupt(), "killed"),  # scancel --signal=INT
        # Memory, whoever ran out of it.
        (RuntimeError("unable to mmap 9 bytes of <w>: Cannot allocate memory (12)"), "out of memory"),
        (MemoryError("Unable to allocate 3.2 GiB for an array"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(ENOMEM, "Cannot allocate memory"), "out of memory"),
        (of_torch("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (caused(RuntimeError("generate failed"), of_torch("OutOfMemoryError", "CUDA out of memory")), "out of memory"),
        (OutOfMemory("lower batch_size"), "out of memory"),
        # What has its own rule by its type.
        (StopRequested("told to stop"), "stopped"),
        (RunBusyError("another process"), "busy"),
        (caused(RunBusyError("another process"), BlockingIOError(EAGAIN, "again")), "busy"),
        (MissingInputError("needs it01/merge"), "inputs"),
    ],
)
def test_what_a_task_leaves_is_read_as_what_it_met(fails: Fails, error: BaseException, kind: str) -> None:
    left = fails(error)
    cause = find_cause(left, job("FAILED"), resume_point=0)
    assert cause.kind == kind
    assert cause.text and "\n" not in cause.text
    assert cause.node == "node5"
    assert left.cause is not None and left.cause["kind"] in get_args(FailureKind)


def test_the_number_of_the_system_is_kept(fails: Fails) -> None:
    assert (fails(OSError(ESTALE, "Stale file handle")).cause or {})["errno"] == ESTALE
    assert (fails(caused(StoreError("x"), OSError(EIO, "read failed"))).cause or {})["errno"] == EIO
    assert (fails(TrainingError("x", kind="hardware", errno=EIO)).cause or {})["errno"] == EIO
    assert (fails(ValueError("x")).cause or {})["errno"] is None


def test_of_several_nodes_only_the_one_that_failed_is_named(fails: Fails) -> None:
    place = NodeRank(rank=0, nodes=2, run_id="7-0-0", address="node5")
    seen = job("FAILED", nodes="node[5-6]")
    assert find_cause(fails(TrainingError("lost", kind="lost"), place), seen, 0).node == ""
    assert find_cause(fails(TrainingError("lost", kind="lost", node="node6"), place), seen, 0).node == "node6"
    assert find_cause(attempt(nodes=2), job("NODE_FAIL", nodes="node[2-3]"), 0).node == ""
    assert find_cause(None, job("FAILED", nodes="node2,node7"), 0).node == ""
    assert find_cause(attempt(), job("NODE_FAIL"), 0).node == "node2"


def test_a_cause_that_cannot_be_written_hides_no_error(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, cause: object) -> None:
        raise OSError(EIO, "Input/output error")

    monkeypatch.setattr(entry, "leave_cause", broken)
    assert fails(ValueError("the error")).cause is None


@pytest.mark.parametrize(
    ("left", "kind"),
    [
        ({"type": "OutOfMemory", "message": "m"}, "out of memory"),
        ({"type": "StopRequested", "message": "m"}, "stopped"),
        ({"type": "TrainingError", "message": ECC, "expected": True}, "error"),
        ({"type": "X", "message": "m", "kind": "of another release"}, "error"),
    ],
)
def test_causes_of_older_releases_are_read_by_their_type(left: dict[str, Any], kind: str) -> None:
    assert find_cause(Attempt(Path("0001"), {}, left), job("FAILED"), 0).kind == kind


@pytest.mark.parametrize(
    ("left", "seen", "kind"),
    [
        # Killed without a word: what Slurm says of it.
        (attempt(), job("NODE_FAIL"), "node failure"),
        (attempt(), job("BOOT_FAIL"), "node failure"),
        (attempt(), job("PREEMPTED"), "preempted"),
        (attempt(), job("TIMEOUT"), "time limit"),
        (attempt(), job("DEADLINE"), "time limit"),
        (attempt(), job("OUT_OF_MEMORY"), "out of memory"),
        (attempt(), job("CANCELLED"), "cancelled"),
        (attempt(), job("COMPLETED"), "unfinished"),
        (attempt(), job("FAILED"), "killed"),
        (attempt(), None, "killed"),
        # It never began.
        (None, job("FAILED"), "not started"),
        (None, job("LAUNCH_FAILED"), "not started"),
        (None, job("CANCELLED"), "cancelled"),
        (None, job("CANCELLED", "DependencyNeverSatisfied"), "lost"),
        (None, None, "lost"),
    ],
)
def test_without_a_word_slurm_is_believed(left: Attempt | None, seen: Job | None, kind: str) -> None:
    cause = find_cause(left, seen, resume_point=0)
    assert cause.kind == kind
    assert cause.text and "\n" not in cause.text
    assert (cause.log, cause.node) == (("7_0_log.err", "node2") if left else ("", seen.nodes if seen else ""))
    assert not cause.progressed and find_cause(left, seen, resume_point=1).progressed


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "out of memory"),
        ("slurmstepd: error: Exceeded step memory limit at some point.", "out of memory"),
        ("slurmstepd-node1: error: StepId=7.0 exceeded memory limit (9 > 8), being killed", "out of memory"),
        ("slurmstepd: error: Some may have been killed by the cgroup out-of-memory handler.", "out of memory"),
        ("srun: error: node1: task 0: Out Of Memory", "out of memory"),
        ("srun: error: node1: task 0: Killed", "killed"),
        ("the model says: out of memory", "killed"),
    ],
)
def test_who_was_killed_for_memory_is_known_by_slurms_words(tmp_path: Path, said: str, kind: str) -> None:
    (tmp_path / "log").write_text(f"step 1\n{said}\n")
    assert find_cause(attempt(log=str(tmp_path / "log")), job("FAILED"), 0).kind == kind


@pytest.mark.parametrize("kind", sorted(RULES))
def test_every_rule_is_kept(kind: str) -> None:
    rule = RULES[kind]
    first = decide(Cause(kind, "why", node="node2", progressed=True), [], attempts=3)
    assert first.retry is (rule.retry is not False)
    assert "why" in first.why
    if not first.retry:
        return
    assert first.halve is rule.halve
    third = decide(Cause(kind, "why", progressed=True), [Cause(kind, "why")] * 2, attempts=3)
    assert third.retry is not rule.counted
    if rule.counted:
        assert "attempt 3 of 3" in third.why
    last = decide(Cause(kind, "why", progressed=True), [Cause(kind, "why")] * (MOST_ATTEMPTS - 1), attempts=100)
    assert not last.retry and f"attempt {MOST_ATTEMPTS} in all" in last.why


def test_free_attempts_use_up_none_of_the_counted_ones() -> None:
    killed = Cause("killed", "why")
    earlier = [*[Cause("node failure", "why")] * 5, killed]
    assert decide(killed, earlier, attempts=3).retry
    assert not decide(killed, [*earlier, killed], attempts=3).retry


def on(node: str, kind: str = "hardware", ago: float = 0.0) -> Cause:
    return Cause(kind, "why", node=node, time=time.time() - ago)


def test_all_nodes_that_failed_a_task_are_avoided_and_those_that_failed_two() -> None:
    key, other = ("it01/debate", "00000"), ("it01/debate", "00001")
    verdicts = {key: [on("node1", ago=20), on("node2", "not started", ago=10)]}
    assert nodes_to_avoid(verdicts, key) == ["node1", "node2"]
    assert nodes_to_avoid(verdicts, other) == nodes_to_avoid(verdicts) == []
    verdicts[other] = [on("node2"), on("node3", "killed"), on("")]
    assert nodes_to_avoid(verdicts, other) == ["node2"] == nodes_to_avoid(verdicts)
    assert nodes_to_avoid(verdicts, key) == ["node1", "node2"]
    # Whoever has mended the node tells nobody.
    verdicts[key] = [on("node2", ago=86400)]
    assert nodes_to_avoid(verdicts) == []


Judged = Callable[..., tuple[str, str]]


@pytest.fixture
def judged(tmp_path: Path, slurm_says: SlurmSays) -> Judged:
    """Kind and node of why a task is not done, by what Slurm's commands say; ``{name}`` is its job's."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it01/debate")
    sent = submitted(run, stage, stage.tasks[:1], "7")
    (run.jobs(stage, sent.name)).mkdir(parents=True)

    def judge(log: str = "", earlier: str = "", **said: str) -> tuple[str, str]:
        (run.jobs(stage, sent.name) / "7_0_log.err").write_text(log)
        if earlier:
            Submissions(run.submissions).judge((stage.id, stage.tasks[0]), Cause(earlier, "why", submission=sent.name))
        slurm_says(**{"squeue": "", "scontrol": ""} | {key: text.format(name=sent.name) for key, text in said.items()})
        slurm = Slurm(run, plan, load_profile("test-cluster"), 0.0)
        slurm.states()
        [cause] = slurm.causes([(stage.id, stage.tasks[0])]).values()
        return cause.kind, cause.node

    return judge


@pytest.mark.parametrize(
    ("state", "start", "end", "kind"),
    [
        ("FAILED", "11:59:58", "12:00:05", "lost"),
        ("NODE_FAIL", "09:00:00", "12:01:40", "lost"),
        ("FAILED", "11:59:48", "11:59:50", "not started"),
        ("FAILED", "12:00:09", "12:00:10", "not started"),
        ("NODE_FAIL", "11:00:00", "12:30:00", "node failure"),
        ("FAILED", "11:59:58", "?", "not started"),
        ("OUT_OF_MEMORY", "11:59:58", "12:00:05", "out of memory"),
    ],
)
def test_a_controller_that_was_restarted_is_to_blame_and_no_node(
    judged: Judged, state: str, start: str, end: str, kind: str
) -> None:
    """A second time it is the node, or one where nothing starts would use up all attempts."""
    said = {
        "squeue": squeue_line("7", None, state, "{name}", node="node3", times=f"2026-03-01T{start}|2026-03-01T{end}"),
        "scontrol": "ClusterName             = test\nBOOT_TIME               = 2026-03-01T12:00:00\n",
    }
    assert judged(**said) == (kind, "" if kind == "lost" else "node3")
    again, node = judged(earlier="lost", **said)
    assert RULES[again].avoid == (kind != "out of memory") and node == "node3"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Unable to confirm allocation for job 7: Unable to contact slurm controller (connect failure)", "lost"),
        ("Unable to create step for job 7: Socket timed out on send/recv operation", "lost"),
        ("Unable to create step for job 7: Job/step already completing or completed", "lost"),
        ("Unable to create step for job 7: Memory required by task is not available", "not started"),
        ("Task launch for StepId=7.0 failed on node node3: Socket timed out on send/recv operation", "not started"),
    ],
)
def test_a_job_whose_srun_was_not_heard_says_nothing_of_its_node(judged: Judged, said: str, kind: str) -> None:
    squeue = squeue_line("7", None, "FAILED", "{name}", node="node3")
    assert judged(f"module: loaded\nsrun: error: {said}\n", squeue=squeue)[0] == kind


def test_an_id_that_slurm_gave_twice_is_told_by_the_job_s_name(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """A controller that crashed may give the id of a job that it forgot once more."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it01/debate")
    sent, later = (submitted(run, stage, stage.tasks[first : first + 1], "7") for first in range(2))
    log, key = Submissions(run.submissions), (stage.id, stage.tasks[0])
    for name, states in ((later.name, []), (sent.name, ["TIMEOUT"]), ("renamed by the site", ["TIMEOUT"])):
        slurm_says(sacct=f"7|{name}|TIMEOUT|0:0|node3|Unknown|Unknown\n")
        found = ended_jobs(Snapshot(plan, {}), log, [key], seconds=20, say=pytest.fail)
        assert [job.state for job in found.values()] == states
