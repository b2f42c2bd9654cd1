"""Jobs as files, and the real launch: torchrun, publishing, failure, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcmaf.config.recipe import Lora
from hpcmaf.errors import TrainingError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import run_finetune
from hpcmaf.training.launch import Workers
from hpcmaf.training.stop import StopFlag
from tests.commands import processes
from tests.training.conftest import COMMON, LORA, chats, steps_in, wait_until, write_lines

JOB = FinetuneJob(base="b", dataset="d", output="o", lora=Lora(targets=["q_proj"]), start="s")


@pytest.mark.parametrize("program", ["pass", "import sys; sys.exit(1)", "import time; time.sleep(60)"])
def test_a_saved_model_stays_however_its_processes_end(tmp_path, monkeypatch, program):
    monkeypatch.setattr("hpcmaf.training.launch.LEAVING_S", 1.0)
    monkeypatch.setattr("hpcmaf.training.launch._start", lambda *_: started(program))
    (tmp_path / "work").mkdir()
    with Workers() as workers:
        (tmp_path / "work" / "report.json").write_text('{"steps": 3}')
        assert workers.run(JOB, tmp_path / "work", StopFlag()) == ({"steps": 3}, None)
    assert not list(tmp_path.glob("jobs-*"))


def started(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)


@pytest.fixture
def job(bases, tmp_path) -> FinetuneJob:
    data = write_lines(tmp_path / "data.jsonl", chats())
    return FinetuneJob(
        base=str(bases["llama"]), dataset=str(data), output=str(tmp_path / "it 01" / "critic-0"), lora=LORA, **COMMON
    )


@pytest.mark.slow
def test_two_jobs_at_once_publish_whole_and_alike(job, tmp_path):
    jobs = [job, job.replace(output=str(tmp_path / "twin"))]
    heard: list[dict] = []
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run_finetune, j, tmp_path / f"logs {i}", heard.append) for i, j in enumerate(jobs)]
        a, b = (future.result() for future in running)
    assert a.losses == b.losses and a.steps == len(a.losses) == 6 and a.final_loss == a.losses[-1]
    outputs = [Path(j.output) for j in jobs]
    names = ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert all(sorted(p.name for p in output.iterdir()) == names for output in outputs)
    for name in names[:2]:
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    assert json.loads((outputs[0] / "training.json").read_text())["training_tokens"] == a.training_tokens
    assert 0 < a.startup_seconds < a.wall_seconds and a.peak_memory_bytes > 1e8 and a.gpu_seconds == 0
    assert sorted(line["step"] for line in heard) == sorted([*range(1, 7)] * 2)
    assert sorted(p.name for p in outputs[0].parent.iterdir()) == ["critic-0"]


@pytest.mark.slow
def test_failure_is_one_line_with_its_log_and_leaves_what_was_there(job, tmp_path):
    output = Path(job.output)
    output.mkdir(parents=True)
    (output / "kept").write_text("before")
    with pytest.raises(TrainingError, match="nothing: cannot be loaded") as caught:
        run_finetune(job.replace(base=str(tmp_path / "nothing")), tmp_path / "logs")
    assert "\n" not in str(caught.value) and str(tmp_path / "logs/finetune.log") in str(caught.value)
    assert [p.name for p in output.iterdir()] == ["kept"] and len(list(output.parent.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_launcher_takes_all_its_processes_along(job, tmp_path, how):
    job.replace(epochs=100_000, processes=2).write(tmp_path / "job.json")
    command = [sys.executable, "-m", "tests.training.launch", str(tmp_path / "job.json"), str(tmp_path / "logs")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts, cwd=root) as launcher:
        wait_until(lambda: steps_in(tmp_path / "logs/progress.jsonl"))
        assert len(processes(str(tmp_path))) >= 4  # launcher, agent, two workers
        launcher.send_signal(how)
    wait_until(lambda: not processes(str(tmp_path)))
    assert not Path(job.output).exists()


def heed_interrupts() -> None:
    """What a shell runs in the background starts with SIGINT ignored, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_agent_without_data_keeps_its_previous_model(job, tmp_path, monkeypatch):
    # Whatever lies where the command was given: Python would import it instead of its own.
    monkeypatch.chdir(tmp_path)
    for name in ("hpcmaf", "torch"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of this folder')")
    start = tmp_path / "before"
    start.mkdir()
    (start / "adapter_model.safetensors").write_bytes(b"as it was")
    # Everything is too long: the model of before is copied, not even opened.
    report = run_finetune(job.replace(start=str(start), max_length=8), tmp_path / "logs")
    assert (report.steps, report.samples, report.dropped_too_long, report.final_loss) == (0, 0, 21, None)
    assert (Path(job.output) / "adapter_model.safetensors").read_bytes() == b"as it was"
