"""Whole runs on this machine: real submitit jobs, DeepSpeed and HDF5, on the packaged base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcmaf.debate.consensus import consensus
from hpcmaf.engines.chat import ChatFormat
from hpcmaf.run.directory import RunDir
from hpcmaf.store import Store, verify
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

SMALL = ("task.train=24", "task.eval=16", "debate.agents=2", "training.epochs=1")
SMALLER = ("task.train=12", "task.eval=4", "debate.agents=2", "training.epochs=1")


def command(run: Path, iters: int, *overrides: str, site: Sequence[str] = ()) -> list[str]:
    words = [sys.executable, "-m", "hpcmaf", "submit", "--iters", str(iters), "--run", str(run)]
    for override in overrides:
        words += ["--set", override]
    for override in ("generation.problems_per_shard=12", *site):
        words += ["--set-profile", override]
    return words


def submit(run: Path, iters: int, *overrides: str, site: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run, iters, *overrides, site=site), capture_output=True, text=True, timeout=800, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """One iteration of two agents, in a folder with an awkward name."""
    run = tmp_path_factory.mktemp("runs") / "odd 'name' with \"quotes\" and spaces"
    result = submit(run, 1, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "debate" in result.stdout
    return RunDir(run)


def datasets(run: RunDir) -> dict[str, bytes]:
    """Every selected training set and its counts, byte for byte."""
    return {str(path.relative_to(run.root)): path.read_bytes() for path in sorted(run.root.glob("it*/data/*"))}


def read_lines(run: RunDir, agent: str) -> list[str]:
    return run.dataset(1, agent).read_text().splitlines()


def test_a_run_ends_in_a_table_and_a_plot(finished: RunDir) -> None:
    assert {path.name for path in finished.report.iterdir()} >= {
        "report.md",
        "report.csv",
        "report.json",
        "accuracy.png",
    }
    for t in (0, 1):
        metrics = json.loads(finished.metrics(t).read_text())
        assert metrics["problems"] == 16
        assert set(metrics["accuracy"]) == {"answer", "vote@1", "vote@M"}
    assert metrics["pseudo_labels"]["problems"] == 24
    learned = metrics["selection"]["datasets"]
    for agent, counts in learned.items():
        assert counts["samples"] + counts["dropped_too_long"] == counts["kept"] == len(read_lines(finished, agent))
        words = f"{agent}: {counts['kept']} of {counts['candidates']} candidates kept ({counts['kept_positives']} of D+"
        logs = [text for path in finished.root.rglob("*.out") if words in (text := path.read_text())]
        # Once as it was selected, once as it was trained on.
        assert len(logs) == 2 and sum(", 0 dropped as too long" in log for log in logs) == 1
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
        assert total("debate", f"generator-{n}", "calls") == 24
        assert total("debate", f"generator-{n}", "cut_off") == sum(turn.finish_reason == "length" for turn in firsts)
        assert total("debate", f"generator-{n}", "prompt_tokens") == sum(map(len, prompts))
        texts = sum(len(chat.tokenizer(turn.text)["input_ids"]) for turn in firsts)
        ended = sum(turn.finish_reason == "stop" for turn in firsts)
        bos = len(chat.tokenizer("")["input_ids"]) * len(firsts)
        assert total("debate", f"generator-{n}", "completion_tokens") == texts - bos + ended
        lines = finished.dataset(1, f"critic-{n}").read_text().splitlines()
        samples = [chat.sample(json.loads(line)["messages"]) for line in lines]
        assert total("finetune", f"critic-{n}", "training_tokens") == sum(len(s.input_ids) for s in samples)
    assert total("debate", "summarizer", "calls") == 48
    assert all(row["wall_seconds"] > 0 and row["peak_memory_bytes"] > 0 for row in rows if row["agent"] is None)


def test_a_debate_that_stops_has_the_vote_of_the_full_one_where_it_stops(finished: RunDir, tmp_path: Path) -> None:
    assert submit(tmp_path / "run", 0, *SMALL, "debate.stop=unanimous").returncode == 0
    with Store(finished.store(0, "eval")) as full, Store(RunDir(tmp_path / "run").store(0, "eval")) as cheap:
        pairs = list(zip(full, cheap, strict=True))
    for whole, stopped in pairs:
        assert stopped.answers[: stopped.ended] == whole.answers[: stopped.ended]
        assert consensus(stopped, 2, 0, 0) == consensus(whole, stopped.ended, 0, 0)
    assert 0 < sum(stopped.ended == 1 for _, stopped in pairs) < len(pairs)


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
    import shutil

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
    assert datasets(run) == datasets(finished)


@pytest.mark.long
def test_twenty_kills_change_no_byte(tmp_path: Path) -> None:
    """kill -9 of everything, at twenty random moments, over as many runs as that takes.

    A moment lies up to a third of a run's length after a start, so that all runs
    are killed several times, at their beginning, middle and end.
    """
    import random

    calm = RunDir(tmp_path / "calm")
    began = time.monotonic()
    assert submit(calm.root, 1, *SMALLER).returncode == 0
    longest = time.monotonic() - began
    moments = random.Random(20)
    kills = runs = 0
    while kills < 20:
        run = RunDir(tmp_path / f"run{runs}")
        runs += 1
        while True:
            if kills == 20:
                result = submit(run.root, 1, *SMALLER)
                assert result.returncode == 0, result.stderr
                break
            process = subprocess.Popen(
                command(run.root, 1, *SMALLER),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                _, stderr = process.communicate(timeout=moments.uniform(0.5, longest / 3))
                assert process.returncode == 0, stderr
                break
            except subprocess.TimeoutExpired:
                kill_everything(run)
                process.communicate()
                kills += 1
        assert datasets(run) == datasets(calm)
        assert verify(run.root) == []
        assert kill_everything(run) == 0, "processes were left behind"


def kill_everything(run: RunDir) -> int:
    """kill -9 every process that names the run; returns how many there were."""
    name, killed = os.fsencode(run.root), 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            mine = name in (entry / "cmdline").read_bytes() or name in (entry / "environ").read_bytes()
            if mine and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return killed


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    """As a terminal sends it: to the driver, its jobs and whoever watches over them, all at once."""
    run = RunDir(tmp_path / "run")
    process = subprocess.Popen(
        command(run.root, 0, *SMALLER),
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


@pytest.mark.parametrize(
    "overrides",
    [
        ("debate.agents=5", "debate.rounds=3", "selection.w=0", "selection.mix=exact", "task.train=12", "task.eval=6"),
        (
            *("debate.agents=2", "method=maft-no-summary", "selection.w=1", "selection.mix=exact"),
            *("training.tuning=full", "training.zero_stage=2", "training.loss_on=all_turns"),
        ),
    ],
    ids=["N5-M3-w0", "no-summary-w1-full"],
)
def test_every_shape_runs_through(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    result = submit(tmp_path / "run", 1, "task.train=24", "task.eval=8", "training.epochs=1", *overrides)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    chosen = json.loads((RunDir(tmp_path / "run").data(1) / "selection.json").read_text())["datasets"]
    assert all(data["kept"] > 0 for agent, data in chosen.items() if agent.startswith("generator"))
    critics = [data for agent, data in chosen.items() if agent.startswith("critic")]
    assert len(critics) == len(chosen) / 2
    assert sum(data["kept"] for data in critics) > 0
    wanted = [float(word.split("=")[1]) for word in overrides if word.startswith("selection.w=")]
    assert not wanted or {data["realised_w"] for data in critics if data["kept"]} == set(wanted)


@pytest.mark.parametrize(("kind", "tuning", "method"), [("mistral", "lora", "maft"), ("phi3", "full", "maft-dpo")])
def test_foreign_chat_models_run_through(tmp_path: Path, kind: str, tuning: str, method: str) -> None:
    """A Mistral- and a Phi-3-type model of random weights, with the prompts in words; one of them by preference."""
    base = tiny_model(tmp_path / "base", kind, context=4096)
    result = submit(
        tmp_path / "run",
        1,
        "debate.agents=2",
        "task.train=8",
        "task.eval=4",
        "task.prompts=default",
        f"model.path={base}",
        f"training.tuning={tuning}",
        f"method={method}",
        "training.max_length=4096",
        "training.epochs=1",
        # Long enough for most to end by themselves: what is cut off is not learned from.
        "sampling.max_new_tokens=240",
        # Hot enough for random weights to say numbers now and then; what they
        # end on is never what they began with, so critics' data is all negative.
        "selection.w=1",
        "sampling.temperature=10",
        "sampling.top_p=1",
    )
    assert result.returncode == 0, result.stderr
    run = RunDir(tmp_path / "run")
    steps = [json.loads((run.agent(1, f"critic-{n}") / "training.json").read_text())["steps"] for n in range(2)]
    assert min(steps) > 0, "an agent had nothing to learn from"
    log = next(run.root.glob("it01/attempts/finetune.critic-0/*/progress.jsonl")).read_text()
    assert ("reward_margin" in log) == (method == "maft-dpo")
