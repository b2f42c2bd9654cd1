"""A run on one machine starts a vLLM server once, and neither leaves one behind nor asks twice, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hpcmaf.engines.server import servers_folder
from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from tests.commands import HPCMAF, setting
from tests.engines.test_server import until
from tests.vllm.societies import command, other_base

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3000)]
SHAPE = ("task.train=16", "task.eval=8", "debate.agents=2", "training.epochs=1")


def submit(root: Path, own: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    site = {"engine": "vllm", "server_command": command(), "kv_cache_gb": 0.1, "device": "cpu", "problems_per_shard": 8}
    words = setting(*SHAPE, "iterations=1", *own)
    words += setting("jobs=2", *(f"generation.{key}={value}" for key, value in site.items()), option="--set-profile")
    return subprocess.Popen(
        [*HPCMAF, "submit", *words, "--run", str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def groups(root: Path) -> list[int]:
    """Process groups of the run's servers."""
    return [int(pid.read_text().split()[0]) for pid in servers_folder(str(root.resolve())).glob("*/s*/pid")]


def until_gone(root: Path, seen: set[int]) -> None:
    until(lambda: not groups(root) and not any(Path(f"/proc/{pid}").exists() for pid in seen), 120)


def check(root: Path, seen: set[int]) -> None:
    """Everything is done and whole, and no server is left."""
    run = RunDir(root)
    plan = run.load_plan()
    assert all(run.done(stage, task) for stage in plan.stages for task in stage.tasks)
    assert verify(root) == []
    until_gone(root, seen)


def test_one_start_serves_a_whole_run(tmp_path: Path) -> None:
    root = tmp_path / "run"
    driver = submit(root)
    seen: set[int] = set()
    while driver.poll() is None:
        seen |= set(groups(root))
        time.sleep(0.2)
    assert driver.stdout is not None
    assert driver.returncode == 0, driver.stdout.read()
    check(root, seen)
    starts = sum("Route: /v1/completions" in log.read_text() for log in root.rglob("server.log"))
    assert starts == 1 and len(seen) == 1
    rows = [row for ledger in root.glob("it*/ledger.json") for row in json.loads(ledger.read_text())["rows"]]
    engines = [row["engine"] for row in rows if row.get("engine")]
    assert sum("start_start" in engine for engine in engines) >= 1
    assert all(engine["tokens_per_second"] > 0 for engine in engines if "tokens_per_second" in engine)


def test_kills_leave_no_server_and_lose_nothing(tmp_path: Path) -> None:
    """The driver and the servers, together and each alone, at random moments of one run; by hand more often than here.

    Adapters on one base, whole checkpoints of another architecture: each base has servers of its own.
    """
    root, base = tmp_path / "run", other_base(tmp_path / "qwen")
    draw = random.Random(int(os.environ.get("HPCMAF_KILL_SEED", "0")))
    own = (f"agents.1.model.path={base}", "agents.1.tuning=full", f"agents.summarizer.model.path={base}")
    seen: set[int] = set()
    for count in range(int(os.environ.get("HPCMAF_KILLS", "1"))):
        what = ("both", "driver", "servers")[count % 3]
        driver, began, patience = submit(root, own), time.monotonic(), draw.uniform(1, 40)
        while driver.poll() is None and not (len(groups(root)) == 2 and time.monotonic() - began > patience):
            seen |= set(groups(root))
            time.sleep(0.1)
        seen |= set(groups(root))
        assert len(seen) >= 2, "each base has servers of its own"
        if what != "driver":
            for group in groups(root):
                os.kill(group, signal.SIGKILL)
        if what == "servers":
            driver.communicate()
        else:
            driver.kill()
            driver.wait()
            # A task whose driver was killed runs on, and its server with it.
            run = RunDir(root)
            while any(run.claimed(stage, task) for stage in run.load_plan().stages for task in stage.tasks):
                seen |= set(groups(root))
                time.sleep(0.2)
            until_gone(root, seen)
        if driver.returncode == 0:
            break
    driver = submit(root, own)
    output, _ = driver.communicate()
    assert driver.returncode == 0, output
    check(root, seen)
    assert [path.name for path in sorted(root.rglob("server*.log"))].count("server-base1.log") >= 1
    run = RunDir(root)
    kinds = {name: (run.agent(1, name) / "adapter_config.json").exists() for name in ("critic-0", "critic-1")}
    assert kinds == {"critic-0": True, "critic-1": False}
    rows = [row for row in json.loads(run.ledger(1).read_text())["rows"] if row.get("base") == str(base)]
    assert {row["agent"] for row in rows} == {"generator-1", "critic-1", "summarizer"}
