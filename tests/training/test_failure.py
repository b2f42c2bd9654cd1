"""What a job tells, when it stops by itself, and why it failed: told apart, and in one line."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.errors import OutOfMemory, StopRequested, TrainingError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenSample
from hpcmaf.training.failure import Failure, ended, explained, oom_kills, read, report
from hpcmaf.training.job import run_finetune
from hpcmaf.training.launch import jobs
from hpcmaf.training.stability import check_loss
from hpcmaf.training.stop import StopFile


def because(error: Exception, cause: Exception) -> Exception:
    """An error that explains another."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (torch.OutOfMemoryError("CUDA: tried to allocate 2 GiB"), "memory"),
        (torch.distributed.DistBackendError("NCCL error"), "hardware"),
        (torch.distributed.DistNetworkError("it went away"), "lost"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "memory"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:13005"), "lost"),
        (ConnectionResetError(104, "Connection reset by peer"), "lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "defect"),
        (KeyError("hidden_size"), "defect"),
        (TrainingError("diverged: memory of it is short"), "refused"),
        (OSError(28, "No space left on device"), "refused"),
        (OSError(5, "Input/output error"), "hardware"),
        (OSError(116, "Stale file handle"), "hardware"),
        (because(TrainingError("model b: cannot be loaded"), OSError(116, "Stale file handle")), "hardware"),
        (because(TrainingError("model b: cannot be loaded"), ValueError("no such key")), "refused"),
        (because(TrainingError("model b: cannot be loaded"), MemoryError()), "memory"),
        (Exception("SafetensorError: I/O error: Input/output error (os error 5)"), "hardware"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "hardware"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), "hardware"),
        (RuntimeError("NCCL error in: NCCLUtils.cpp:77, unhandled system error, NCCL version 2.27.3"), "hardware"),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), "lost"),
        (TrainingError("checkpoint: damaged", kind="torn"), "torn"),
    ],
)
def test_failures_are_told_apart(error, kind):
    failure = explained(error)
    assert failure.kind == kind and "\n" not in failure.message
    assert failure.errno == getattr(error.__cause__ or error, "errno", None) or "os error" in str(error)


@pytest.mark.parametrize(
    ("code", "said", "kind", "words"),
    [
        (-9, "", "killed", "rank 1 was killed by SIGKILL, out of memory?"),
        (-7, "", "hardware", "killed by SIGBUS"),
        (-15, "", "killed", "killed by SIGTERM"),
        (-6, "Watchdog caught collective operation timeout: WorkNCCL\nterminate called\n", "hardware", "Watchdog"),
        (-6, "free(): invalid pointer\n", "defect", "invalid pointer (rank 1: killed by SIGABRT)"),
        (-11, "", "defect", "no output (rank 1: killed by SIGSEGV)"),
        (1, "step\nCUDA error: uncorrectable ECC error encountered\nbye\n", "hardware", "ECC"),
        (1, "first\nModuleNotFoundError: x\n", "defect", "ModuleNotFoundError: x (rank 1: exit code 1)"),
    ],
)
def test_who_dies_without_a_word_is_judged_by_signal_and_log(code, said, kind, words):
    failure = ended("rank 1", code, None, said)
    assert failure.kind == kind and words in failure.message


def test_memory_that_torch_cannot_have_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert explained(caught.value).kind == "memory"


def test_the_first_reason_stays_but_replaces_what_others_know_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    Failure("lost", "somebody is gone", node="node3").record(tmp_path)
    Failure("lost", "so say I").record(tmp_path)
    assert read(tmp_path) == Failure("lost", "somebody is gone", node="node3")
    # What a collective says gives way to the reason of another process.
    for kind in ("hardware", "memory", "defect"):
        Failure(kind, kind).record(tmp_path)
    assert read(tmp_path) == Failure("memory", "memory", node="node7")
    report(ValueError(), tmp_path)
    assert read(tmp_path).kind == "memory"


def test_who_only_lost_another_waits_for_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcmaf.training.failure.LOST_S", 0.3)
    began = time.monotonic()
    report(RuntimeError("Connection closed by peer"), tmp_path)
    assert time.monotonic() - began >= 0.3 and read(tmp_path).kind == "lost"


def test_kills_for_memory_are_counted(tmp_path):
    own, events = tmp_path / "cgroup", tmp_path / "job_7" / "step_0" / "memory.events"
    assert oom_kills(tmp_path, own) is None
    own.write_text("5:cpu,cpuacct:/\n0::/job_7/step_0\n")
    assert oom_kills(tmp_path, own) is None
    events.parent.mkdir(parents=True)
    events.write_text("low 0\noom 9\noom_kill 4\noom_group_kill 0\n")
    assert oom_kills(tmp_path, own) == 4


@pytest.mark.parametrize(
    ("failure", "asked", "raised", "said"),
    [
        (Failure("memory", "tried 9 GiB"), False, OutOfMemory, r"9 GiB; lower training.micro_batch_size \(now 4\)"),
        (Failure("memory", "tried 9 GiB"), True, OutOfMemory, "9 GiB"),
        (Failure("refused", "diverged"), True, TrainingError, "diverged; see"),
        (Failure("hardware", "Stale file handle", 116), False, TrainingError, "Stale file handle; see"),
        (Failure("lost", "connection closed"), False, TrainingError, "connection closed"),
        (Failure("lost", "connection closed"), True, StopRequested, "killed on request"),
        (None, False, TrainingError, "last line of the log"),
    ],
)
def test_each_has_an_error_of_its_own(tmp_path, monkeypatch, failure, asked, raised, said):
    def start(job, folder, log, rendezvous):
        log.write_text("first\nlast line of the log\n\n")
        work = next(jobs(folder))
        if failure is not None:
            failure.record(work)
        if asked:
            StopFile(work).request()
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], start_new_session=True)

    monkeypatch.setattr("hpcmaf.training.launch._start", start)
    job = FinetuneJob(base="b", dataset="d", output=str(tmp_path / "out"), micro_batch_size=4)
    with pytest.raises(raised, match=said) as caught:
        run_finetune(job, tmp_path / "logs")
    assert "\n" not in str(caught.value) and type(caught.value) is raised
    if raised is not StopRequested and failure is not None:
        assert (caught.value.kind, caught.value.errno) == (failure.kind, failure.errno)
    assert not Path(job.output).exists()


BATCH = [TokenSample("p7:3", [1, 2, 3], [False, True, True])]


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=60), st.sampled_from([0.0, 3.0]))
def test_ordinary_losses_go_on(losses, factor):
    # What falls, and rises by less than a nat, is no spike.
    falling = sorted(losses, reverse=True)
    check_loss([*falling, falling[-1] + 0.9], BATCH, 100, factor, len(BATCH))
    check_loss(losses[:1], BATCH, 100, factor, len(BATCH))


@pytest.mark.parametrize(
    ("losses", "factor", "full", "said"),
    [
        ([0.5] * 9 + [2.0], 3.0, 1, "step 10 of 40 is 2, more than 3 times the usual 0.5 (samples p7:3); lower the"),
        ([float("nan")], 3.0, 1, "step 1 of 40 is nan (samples p7:3)"),
        ([0.5] * 9 + [float("inf")], 0.0, 1, "step 10 of 40 is inf"),
        ([0.5] * 9 + [2.0], 0.0, 1, None),
        ([0.5] * 9 + [1.4], 2.0, 1, None),
        ([0.5] * 5 + [2.0], 3.0, 1, None),
        ([0.001] * 9 + [0.5], 3.0, 1, None),
        # The mean of an epoch's last batch, an eighth of the others, may scatter further.
        ([0.2] * 9 + [1.4], 3.0, 1, "more than 3 times"),
        ([0.2] * 9 + [3.0], 3.0, 8, None),
        ([0.2] * 9 + [3.1], 3.0, 8, "more than 3 times"),
    ],
)
def test_spikes_and_what_is_no_number_stop_with_step_and_samples(losses, factor, full, said):
    with pytest.raises(TrainingError) if said else nullcontext() as stopped:
        check_loss(losses, BATCH, 40, factor, full)
    assert said is None or said in str(stopped.value)
