"""Whole runs on this machine: real submitit jobs, DeepSpeed and HDF5, on the packaged base."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hpcmaf.models.chat import ChatFormat
from hpcmaf.run.directory import RunDir
from hpcmaf.store.reader import Store
from hpcmaf.store.verify import verify
from tests.commands import HPCMAF, contents, processes, setting
from tests.jobs.playing import samples

pytestmark = pytest.mark.slow

KILLS = 4
SMALL = ("task.train=12", "task.eval=4", "debate.agents=2", "training.epochs=1")


def command(run: Path, iters: int, *overrides: str) -> list[str]:
    words = [*HPCMAF, "submit", "--iters", str(iters), "--run", str(run), *setting(*overrides)]
    return words + setting("generation.problems_per_shard=6", option="--set-profile")


def submit(run: Path, iters: int, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(run, iters, *overrides), capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """One iteration of two agents, in a folder with an awkward name."""
    run = tmp_path_factory.mktemp("runs") / "odd 'name' with \"quotes\" and spaces"
    result = submit(run, 1, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "debate" in result.stdout
    return RunDir(run)


def test_a_run_ends_in_a_table_and_a_plot(finished: RunDir) -> None:
    files = {path.name for path in finished.report.iterdir()}
    assert files >= {"report.md", "report.csv", "report.json", "accuracy.png"}
    for t in (0, 1):
        metrics = json.loads(finished.metrics(t).read_text())
        assert metrics["problems"] == 4
        assert set(metrics["accuracy"]) == {"answer", "vote@1", "vote@M"}
    assert metrics["pseudo_labels"]["problems"] == 12
    learned = metrics["selection"]["datasets"]
    for agent, counts in learned.items():
        trained, dropped = counts["samples"], counts["dropped_too_long"]
        assert trained + dropped == counts["kept"] == len(samples(finished.dataset(1, agent)))
    assert metrics["selection"]["scarce"] == {
        agent: counts["samples"] for agent, counts in learned.items() if counts["samples"] < 10
    }
    plan = finished.load_plan()
    assert all(finished.done(stage, task) for stage in plan.stages for task in stage.tasks)
    assert verify(finished.root) == []
    assert not list(finished.root.rglob("*.journal.jsonl"))
    assert not list(finished.root.rglob("*.tmp"))


def test_the_ledger_adds_up_to_tokenizer_counts(finished: RunDir) -> None:
    """Prompt, completion and training tokens, per agent, counted again from the texts."""
    from hpcmaf.micro import base_path

    chat = ChatFormat.from_pretrained(str(base_path()))
    rows = json.loads(finished.ledger(1).read_text())["rows"]

    def total(stage: str, agent: str, column: str) -> int:
        return sum(row[column] for row in rows if row["stage"] == stage and row["agent"] == agent)

    with Store(finished.store(1, "debate")) as store:
        transcripts = list(store.transcripts())
    for n in range(2):
        firsts = [t.answers[0][n] for t in transcripts]
        prompts = [chat.prompt_ids([{"role": "user", "content": turn.prompt}]) for turn in firsts]
        assert total("debate", f"generator-{n}", "calls") == 12
        assert total("debate", f"generator-{n}", "cut_off") == sum(turn.finish_reason == "length" for turn in firsts)
        assert total("debate", f"generator-{n}", "prompt_tokens") == sum(map(len, prompts))
        texts = sum(len(chat.tokenizer(turn.text)["input_ids"]) for turn in firsts)
        ended = sum(turn.finish_reason == "stop" for turn in firsts)
        bos = len(chat.tokenizer("")["input_ids"]) * len(firsts)
        assert total("debate", f"generator-{n}", "completion_tokens") == texts - bos + ended
        learned = [chat.sample(line["messages"]) for line in samples(finished.dataset(1, f"critic-{n}"))]
        assert total("finetune", f"critic-{n}", "training_tokens") == sum(len(one.input_ids) for one in learned)
    assert total("debate", "summarizer", "calls") == 24
    for stage in ("debate", "merge", "finetune", "eval", "score"):
        spent = [row for row in rows if row["stage"] == stage and row["wall_seconds"] > 0]
        assert spent and all(row["peak_memory_bytes"] > 0 and "gpu_seconds" in row for row in spent)


def test_the_same_command_again_does_nothing_and_another_plan_is_refused(finished: RunDir) -> None:
    before = finished.submissions.read_text()
    result = submit(finished.root, 1, *SMALL)
    assert result.returncode == 0, result.stderr
    assert finished.submissions.read_text() == before
    result = submit(finished.root, 1, *SMALL, "seed=5")
    assert result.returncode == 7
    assert "recipe.seed = 0, now it is 5" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failing_stage_stops_the_run_and_names_its_log(finished: RunDir, tmp_path: Path) -> None:
    """A truncated shard is found by the merge; mended, the same command goes on."""
    run = RunDir(tmp_path / "copy")
    shutil.copytree(finished.root, run.root)
    plan = run.load_plan()
    for stage in plan.stages:
        if stage.id in {"it01/merge", "it01/score"}:
            run.marker(stage, "all").unlink()
    shard = run.shard(1, "debate", 1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    result = submit(run.root, 1, *SMALL)
    assert result.returncode == 8
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "it01/merge all" in error[0]
    assert "shard-00001.h5" in error[0]
    log = Path(error[0].split("log: ")[1])
    assert "shard-00001.h5" in log.read_text()
    shard.write_bytes(whole)
    assert submit(run.root, 1, *SMALL).returncode == 0
    assert contents(run) == contents(finished)


@pytest.mark.long
def test_kills_change_no_byte(finished: RunDir, tmp_path: Path) -> None:
    """kill -9 of everything, at four random moments, over as many runs as that takes.

    A moment lies up to half of a run's length after a start, so that all runs
    are killed several times, at their beginning, middle and end.
    """
    longest = finished.metrics(1).stat().st_mtime - finished.plan.stat().st_mtime
    moments = random.Random(20)
    kills = runs = 0
    while kills < KILLS:
        run = RunDir(tmp_path / f"run{runs}")
        runs += 1
        while True:
            if kills == KILLS:
                result = submit(run.root, 1, *SMALL)
                assert result.returncode == 0, result.stderr
                break
            process = subprocess.Popen(
                command(run.root, 1, *SMALL),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                _, stderr = process.communicate(timeout=moments.uniform(0.5, longest / 2))
                assert process.returncode == 0, stderr
                break
            except subprocess.TimeoutExpired:
                kill_everything(run)
                process.communicate()
                kills += 1
        assert contents(run) == contents(finished)
        assert verify(run.root) == []
        assert kill_everything(run) == 0, "processes were left behind"


def kill_everything(run: RunDir) -> int:
    """kill -9 every process that names the run; returns how many there were."""
    mine = processes(str(run.root), environment=True)
    for process in mine:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(mine)


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    """As a terminal sends it: to the driver, its jobs and whoever watches over them, all at once."""
    run = RunDir(tmp_path / "run")
    process = subprocess.Popen(
        command(run.root, 0, *SMALL),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where tests run in the background SIGINT is ignored, and would be by all children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(run.root.glob("it00/jobs/*/*_log.err")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: interrupted; the same command resumes")
