"""Several agents by the same processes: the same models as from jobs of their own, with the base loaded once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from hpcmaf.errors import TrainingError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.job import run_finetune
from hpcmaf.training.launch import Entry, Workers
from tests.training.conftest import processes_of

pytestmark = pytest.mark.slow
# Three of one base, one of them by preference, and one of another.
AGENTS = ["dropout", "other-agent", "dpo-lora", "lora-2"]


@pytest.fixture(scope="module")
def trained(outcomes, tmp_path_factory) -> tuple[Path, dict[str, FinetuneJob]]:
    """Those jobs by the same processes, and a failing one among them."""
    folder = tmp_path_factory.mktemp("a list")
    jobs = {name: outcomes[name].job.replace(output=str(folder / name)) for name in AGENTS}
    broken = jobs["dropout"].replace(base=str(folder / "nothing"), output=str(folder / "broken"))
    order = [*list(jobs.items())[:3], ("broken", broken), ("lora-2", jobs["lora-2"])]
    with Workers() as workers:
        for name, job in order:
            if name == "broken":
                with pytest.raises(TrainingError, match="nothing: cannot be loaded"):
                    run_finetune(job, folder / f"{name}.logs", workers=workers)
            else:
                run_finetune(job, folder / f"{name}.logs", workers=workers)
        assert processes_of(folder)
    assert not processes_of(folder), "nobody outlives the block"
    return folder, jobs


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_bytes_as_from_a_job_of_its_own(outcomes, trained, name):
    folder, _ = trained
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name / file).read_bytes() == (outcomes[name].output / file).read_bytes()
    report = json.loads((folder / name / "training.json").read_text())
    assert report["losses"] == outcomes[name].report["losses"]
    assert 0 < report["startup_seconds"] < report["wall_seconds"]


def test_another_agent_learns_other_weights(outcomes):
    one, other = (outcomes[name].output / "adapter_model.safetensors" for name in ("dropout", "other-agent"))
    assert one.read_bytes() != other.read_bytes()


def test_the_base_is_loaded_once(trained):
    folder, _ = trained
    logs = {name: (folder / f"{name}.logs" / "finetune.log").read_text() for name in AGENTS}
    assert "from the job before" not in logs["dropout"]
    for name in ("other-agent", "dpo-lora"):
        assert "from the job before: base" in logs[name]
    # After a failure, others begin anew.
    assert "from the job before" not in logs["lora-2"]
    assert not (folder / "broken").exists() and not list(folder.glob("*.logs/jobs-*"))


def test_jobs_are_read_in_turn_until_there_are_no_more(tmp_path):
    entries = [Entry("w", "o", "l", float(number)) for number in (1, 2)]
    for number, entry in enumerate(entries, 1):
        (tmp_path / f"{number:04d}.json").write_text(json.dumps(asdict(entry)))
    (tmp_path / "end").touch()
    assert list(Entry.all(tmp_path)) == entries
    assert list(Entry.all(tmp_path / "gone")) == []
