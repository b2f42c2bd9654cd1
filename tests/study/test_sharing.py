"""What runs of a study take over from each other."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.errors import StageError
from hpcmaf.store.verify import verify
from hpcmaf.study.drive import plan_study, savings
from hpcmaf.study.plan import Study, load_study
from hpcmaf.study.sharing import adopt, shared_tasks
from tests.study.studies import METHODS, PROFILE, SIZE, Job, computed, drive, lay_out, to_compute

# --- keys -----------------------------------------------------------------------


def keys_of(folder: Path, method: str, *overrides: str) -> dict[tuple[str, str], str]:
    (planned,) = plan_study(lay_out(folder, method, *overrides, iterations=2), PROFILE)
    return dict(planned.keys)


def equal_stages(one: dict[tuple[str, str], str], other: dict[tuple[str, str], str]) -> set[str]:
    return {key[0] for key in one.keys() & other.keys() if one[key] == other[key]}


def test_what_methods_share(tmp_path: Path) -> None:
    maft = keys_of(tmp_path, "maft")

    def shared(method: str) -> set[str]:
        return equal_stages(maft, keys_of(tmp_path, method))

    assert shared("debate") == {"it00/eval"}
    assert shared("base") == shared("majority") == shared("star") == shared("maft-no-summary") == set()
    assert shared("union-data") == shared("single-agent-ft") == {"it00/eval", "it01/debate"}
    assert shared("single-agent-ft-no-debate") == {"it01/debate"}
    assert shared("single-agent-ft-hot") == shared("majority-ft") == set()
    # The same data for the same generators; then other critics, so other debates.
    assert shared("maft-no-critic") == {"it00/eval", "it01/debate", "it01/merge", "it01/finetune"}
    trained = {f"it{t:02d}/{kind}" for t in (1, 2) for kind in ("debate", "merge", "finetune")}
    assert shared("no-interaction") == trained | {"it00/eval"}


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("seed=1", None),  # the study's own seed wins
        ("training.learning_rate=3e-4", {"it00/eval", "it01/debate", "it01/merge"}),
        ("training.start_from=base", {"it00/eval", "it01/debate", "it01/merge"}),
        ("selection.w=0.25", {"it00/eval", "it01/debate"}),
        ("sampling.temperature=0.9", set()),
        ("sampling.max_new_tokens=70", set()),
        ("debate.rounds=3", set()),
        ("debate.agents=3", set()),
        ("task.prompts=default", set()),
        ("task.eval=7", {"it01/debate", "it01/merge", "it01/finetune", "it02/debate", "it02/merge", "it02/finetune"}),
        ("model.dtype=bfloat16", set()),
        ("model.date='2026-03-04'", set()),
        ("selection.cut_off=keep", {"it00/eval", "it01/debate"}),
        ("training.thinking=strip", {"it00/eval", "it01/debate"}),
        ("description=words", None),
    ],
)
def test_keys_cover_what_determines_outputs(tmp_path: Path, override: str, kept: set[str] | None) -> None:
    base, changed = keys_of(tmp_path, "maft"), keys_of(tmp_path, "maft", override)
    assert base == changed if kept is None else equal_stages(base, changed) == kept


def test_keys_cover_the_seed(tmp_path: Path) -> None:
    (planned,) = plan_study(lay_out(tmp_path, "maft", seeds="[1]", iterations=2), PROFILE)
    assert not set(planned.keys.values()) & set(keys_of(tmp_path, "maft").values())


# --- sharing --------------------------------------------------------------------


def test_shared_tasks_are_done_once_and_come_out_as_if_done_alone(tmp_path: Path) -> None:
    study = lay_out(tmp_path, METHODS)
    planned = plan_study(study, PROFILE)
    taken, total = sum(shared for _, shared, _ in savings(planned)), to_compute(study)
    said = drive(study)
    assert Job.together > 1, "one run after the other"
    worked = computed(study)
    assert taken > 15 and len(worked) == total
    assert not [work for work in worked if work[0] == "debate" and work[1] == "it00/eval"]
    assert [work[1:] for work in worked if work[0] == "no-interaction"] == [
        ("it00/score", "all"),
        ("it01/eval", "00000"),
        ("it01/score", "all"),
    ]
    assert re.search("^arithmetic-micro-no-interaction-seed0: .* taken over from arithmetic-micro-maft", said, re.M)
    assert "arithmetic-micro-maft-seed0: it00/eval 00000 done in" in said
    assert drive(study) == "" and computed(study) == worked, "the same command again does nothing"
    for entry in study.runs:
        assert verify(entry.run.root) == []
        alone = load_study(str(tmp_path / "few.yaml"), overrides=SIZE, root=tmp_path / "alone" / entry.label)
        only = Study(alone.name, alone.root, tuple(one for one in alone.runs if one.label == entry.label))
        drive(only)
        (lone,) = only.runs
        names = {
            str(path.relative_to(lone.run.root))
            for path in lone.run.root.rglob("*")
            if path.suffix in {".h5", ".jsonl"} or path.name in {"metrics.json", "model"}
        }
        names -= {"submissions.jsonl"}
        assert len(names) > 3
        for name in names:
            assert (entry.run.root / name).read_bytes() == (lone.run.root / name).read_bytes(), name
        ledgers = [json.loads(run.ledger(0).read_text())["rows"] for run in (entry.run, lone.run)]
        assert [row["completion_tokens"] for row in ledgers[0]] == [row["completion_tokens"] for row in ledgers[1]]


@pytest.mark.parametrize("linked", [True, False])
def test_a_marker_says_whose_files_those_are_that_are_linked_or_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    study = lay_out(tmp_path, "maft, debate")
    drive(study)
    first, second = (one.run for one in study.runs)
    stage = second.load_plan().stage("it00/eval")
    marker = second.read_marker(stage, "00000")
    assert marker["adopted"]["run"] == first.root.name and "adopted" not in first.read_marker(stage, "00000")
    for name in marker["outputs"]:
        assert os.path.samefile(first.root / name, second.root / name) == linked
    assert verify(second.root) == [] and not list(study.root.rglob("*.tmp"))


def test_damage_is_not_passed_on(tmp_path: Path) -> None:
    study = lay_out(tmp_path, "maft, debate")
    first, second = study.runs
    drive(Study(study.name, study.root, (first,)))
    shard = first.run.shard(0, "eval", 0)
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(StageError, match=r"debate-seed0: .*shard-00000.h5: damaged"):
        drive(study)
    assert not second.run.shard(0, "eval", 0).exists() and not list(study.root.rglob("*.tmp"))
    shard.unlink()
    drive(study)  # gone, so computed anew where it is needed
    assert second.run.metrics(0).exists()


def test_adoption_waits_for_the_marker(tmp_path: Path) -> None:
    planned = plan_study(lay_out(tmp_path, "maft, debate"), PROFILE)
    (task,) = shared_tasks(planned[1], planned[:1])
    assert not adopt(task, planned[1].run)
    assert not planned[1].run.root.exists()
