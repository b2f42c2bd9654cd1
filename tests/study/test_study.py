"""Studies: runs as one plan, and what they take over from each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcmaf import publish
from hpcmaf.errors import ConfigError, DataError, StageError
from hpcmaf.profile import load_profile
from hpcmaf.rundir import RunDir
from hpcmaf.stages import debate as debate_stage
from hpcmaf.stages import finetune as finetune_stage
from hpcmaf.store import verify
from hpcmaf.study import Study, load_study
from hpcmaf.study.drive import drive_study, plan_study, savings
from hpcmaf.study.keys import task_keys
from hpcmaf.study.sharing import Planned, adopt, shared_tasks
from hpcmaf.training.spec import FinetuneReport
from tests.test_method import Player, reply, run_task

PROFILE = load_profile("local", ["generation.problems_per_shard=6"])
SIZE = ("debate.agents=2", "task.train=12", "task.eval=6")


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "sync", lambda path: None)


def study_file(folder: Path, methods: str, **keys: Any) -> Path:
    path = folder / "few.yaml"
    lines = {"tasks": "[arithmetic]", "models": "[micro]", "methods": f"[{methods}]", "iterations": 1} | keys
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


def lay_out(folder: Path, methods: str, *overrides: str, **keys: Any) -> Study:
    path = study_file(folder, methods, **keys)
    return load_study(str(path), overrides=(*SIZE, *overrides), root=folder / "runs")


class Hands:
    """Runs tasks at once and in this process, with played engines and finetuning; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.worked: list[tuple[str, str, str]] = []
        self.requests = 0

        def engine(context: Any, models: dict[str, str], journal: Any, watch: Any) -> Player:
            def say(request: Any) -> str:
                self.requests += 1
                return reply(request)

            return Player(say)

        def finetune(job: Any, logs: Path, progress: Any, **_: Any) -> FinetuneReport:
            Path(job.output).mkdir(parents=True, exist_ok=True)
            Path(job.output, "model").write_text(Path(job.dataset).read_text())
            return FinetuneReport(3, 0, 40, 20, 1, 0.5, (0.5,), 2.0, 1.0, 1000, 0.0)

        patch.setattr(debate_stage, "make_engine", engine)
        patch.setattr(finetune_stage, "run_finetune", finetune)

    def start(self, entry: Any, planned: Planned) -> None:
        for stage in planned.plan.stages:
            for task in stage.tasks:
                if not planned.run.done(stage, task):
                    self.worked.append((entry.label, stage.id, task))
                    run_task(planned, stage, task)  # type: ignore[arg-type]

    def drive(self, study: Study) -> list[str]:
        said: list[str] = []
        drive_study(study, PROFILE, said.append, self.start, lambda planned: False)
        return said


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    yield Hands(monkeypatch)


# --- the file -------------------------------------------------------------------


def test_runs_are_the_product(tmp_path: Path) -> None:
    study = lay_out(
        tmp_path, "maft, {name: five, method: maft, set: {debate.agents: 5}}", seeds="[3, 4]", set="{task.eval: 7}"
    )
    named = {entry.run.root.name: entry.recipe for entry in study.runs}
    assert list(named) == [
        "arithmetic-micro-maft-seed3",
        "arithmetic-micro-five-seed3",
        "arithmetic-micro-maft-seed4",
        "arithmetic-micro-five-seed4",
    ]
    five = named["arithmetic-micro-five-seed4"]
    # The command line's keys win over the file's.
    assert (five.seed, five.method, five.debate.agents, five.task.eval, five.iterations) == (4, "maft", 2, 6, 1)
    assert (study.name, study.root) == ("few", tmp_path / "runs")


def test_a_variant_may_evaluate_elsewhere(tmp_path: Path) -> None:
    there = "{name: there, method: maft, set: {evaluate_on: {name: gsm8k, source: x}}}"
    (entry,) = lay_out(tmp_path, there).runs
    assert entry.recipe.evaluation.name == "gsm8k"


@pytest.mark.parametrize(
    ("methods", "keys", "words"),
    [
        ("maff", {}, "arithmetic-micro-maff-seed0: .*unknown method 'maff'"),
        ("maft, maft", {}, "methods: 'maft' is there twice"),
        ("maft", {"seed": "[0]"}, "seed: unknown key; did you mean 'seeds'"),
        ("maft", {"models": "[gpt]"}, "neither a file nor a shipped recipe"),
        ("maft", {"seeds": "[]"}, "seeds"),
        ("{name: a b, method: maft}", {}, "methods.0.name"),
        ("maft, star", {"baseline": "single-agent-ft"}, "no method of the study; one of base, debate, maft, maj"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, methods: str, keys: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        lay_out(tmp_path, methods, **keys)
    assert "\n" not in str(caught.value)


def test_no_such_study() -> None:
    with pytest.raises(ConfigError, match="nowhere: neither a file nor a shipped study; shipped are ablations, arith"):
        load_study("nowhere")


# --- keys -----------------------------------------------------------------------


def keys_of(folder: Path, method: str, *overrides: str) -> dict[tuple[str, str], str]:
    (planned,) = plan_study(lay_out(folder, method, *overrides, iterations=2), PROFILE)
    return dict(task_keys(planned.plan))


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
        ("seed=1", set()),  # the study's own seed wins
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
        ("description=words", None),
    ],
)
def test_keys_cover_what_determines_outputs(tmp_path: Path, override: str, kept: set[str] | None) -> None:
    base, changed = keys_of(tmp_path, "maft"), keys_of(tmp_path, "maft", override)
    if kept is None or override == "seed=1":
        assert base == changed
    else:
        assert equal_stages(base, changed) == kept
    if override.startswith("seed"):
        (planned,) = plan_study(lay_out(tmp_path, "maft", seeds="[1]", iterations=2), PROFILE)
        assert not set(task_keys(planned.plan).values()) & set(base.values())


# --- sharing --------------------------------------------------------------------

METHODS = "maft, debate, maft-no-critic, no-interaction, single-agent-ft, single-agent-ft-no-debate"


def test_shared_tasks_are_done_once_and_come_out_as_if_done_alone(tmp_path: Path, hands: Hands) -> None:
    study = lay_out(tmp_path, METHODS)
    planned = plan_study(study, PROFILE)
    taken = sum(shared for _, shared, _ in savings(planned))
    said = hands.drive(study)
    assert taken > 15 and len(hands.worked) == sum(tasks for tasks, _, _ in savings(planned)) - taken
    assert not [work for work in hands.worked if work[0] == "debate" and work[1] == "it00/eval"]
    assert [work[1:] for work in hands.worked if work[0] == "no-interaction"] == [
        ("it00/score", "all"),
        ("it01/eval", "00000"),
        ("it01/score", "all"),
    ]
    assert any(line.startswith("arithmetic-micro-no-interaction-seed0: ") for line in said)
    for entry in study.runs:
        assert verify(entry.run.root) == []
        alone = load_study(str(tmp_path / "few.yaml"), overrides=SIZE, root=tmp_path / "alone" / entry.label)
        only = Study(alone.name, alone.root, tuple(one for one in alone.runs if one.label == entry.label))
        hands.drive(only)
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


def test_a_marker_says_whose_it_is(tmp_path: Path, hands: Hands) -> None:
    study = lay_out(tmp_path, "maft, debate")
    hands.drive(study)
    first, second = study.runs
    plan = second.run.load_plan()
    marker = second.run.read_marker(plan.stage("it00/eval"), "00000")
    assert marker["adopted"]["run"] == first.run.root.name
    assert "adopted" not in first.run.read_marker(plan.stage("it00/eval"), "00000")
    for name in marker["outputs"]:
        assert os.path.samefile(first.run.root / name, second.run.root / name)


def test_without_links_files_are_copied(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    study = lay_out(tmp_path, "maft, debate")
    hands.drive(study)
    assert verify(study.runs[1].run.root) == []
    assert not list(study.root.rglob("*.tmp"))


def test_damage_is_not_passed_on(tmp_path: Path, hands: Hands) -> None:
    study = lay_out(tmp_path, "maft, debate")
    first, second = study.runs
    hands.drive(Study(study.name, study.root, (first,)))
    shard = first.run.shard(0, "eval", 0)
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(StageError, match=r"debate-seed0: .*shard-00000.h5: damaged"):
        hands.drive(study)
    assert not second.run.shard(0, "eval", 0).exists() and not list(study.root.rglob("*.tmp"))
    shard.unlink()
    hands.drive(study)  # gone, so computed anew where it is needed
    assert second.run.metrics(0).exists()


def test_adoption_waits_for_the_marker(tmp_path: Path, hands: Hands) -> None:
    planned = plan_study(lay_out(tmp_path, "maft, debate"), PROFILE)
    (task,) = shared_tasks(planned[1], planned[:1])
    assert not adopt(task, planned[1].run)
    assert not planned[1].run.root.exists()


# --- driving ----------------------------------------------------------------------


def test_the_same_command_again_does_nothing(tmp_path: Path, hands: Hands) -> None:
    study = lay_out(tmp_path, METHODS)
    hands.drive(study)
    before = len(hands.worked)
    assert hands.drive(study) == []
    assert len(hands.worked) == before


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, study = Hands(monkeypatch), lay_out(tmp_path, METHODS)
    total = sum(tasks - shared for tasks, shared, _ in savings(plan_study(study, PROFILE)))
    real, moments = hands.start, iter(range(1000))

    def stopping(entry: Any, planned: Planned) -> None:
        if next(moments) in {1, 2, 4}:
            raise KeyboardInterrupt
        real(entry, planned)

    monkeypatch.setattr(hands, "start", stopping)
    stops = 0
    while True:
        try:
            hands.drive(study)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3 and len(hands.worked) == total


def test_one_failure_does_not_stop_the_others(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    study, real = lay_out(tmp_path, METHODS), hands.start

    def failing(entry: Any, planned: Planned) -> None:
        if entry.label == "maft":
            raise StageError("it00/eval 00000: broke")
        real(entry, planned)

    monkeypatch.setattr(hands, "start", failing)
    with pytest.raises(StageError, match=r"maft-seed0: it00/eval 00000: broke; mend that"):
        hands.drive(study)
    assert {label for label, *_ in hands.worked} == {entry.label for entry in study.runs} - {"maft"}
    assert all(entry.run.metrics(0).exists() for entry in study.runs[1:])


def test_a_run_that_cannot_be_stops_the_study_before_it_begins(tmp_path: Path, hands: Hands) -> None:
    study = lay_out(tmp_path, "maft, unique-id")
    with pytest.raises(ConfigError, match="run arithmetic-micro-unique-id-seed0: .*no words"):
        hands.drive(study)
    assert not study.root.exists()


def test_on_a_cluster_runs_wait_for_what_is_on_its_way(tmp_path: Path, hands: Hands) -> None:
    """Started runs get on by themselves, a task at every look; nobody computes what another is at."""
    study = lay_out(tmp_path, METHODS)
    total = sum(tasks - shared for tasks, shared, _ in savings(plan_study(study, PROFILE)))
    queues: dict[RunDir, Iterator[None]] = {}
    together = []

    def chain(entry: Any, planned: Planned) -> Iterator[None]:
        for stage in planned.plan.stages:
            for task in stage.tasks:
                if not planned.run.done(stage, task):
                    hands.worked.append((entry.label, stage.id, task))
                    run_task(planned, stage, task)  # type: ignore[arg-type]
                    yield

    def start(entry: Any, planned: Planned) -> None:
        queues[planned.run] = chain(entry, planned)

    def going(planned: Planned) -> bool:
        together.append(len(queues))
        if planned.run in queues and next(queues[planned.run], 0) == 0:
            del queues[planned.run]
        return planned.run in queues

    drive_study(study, PROFILE, lambda line: None, start, going, poll_seconds=0.0)
    assert len(hands.worked) == total
    assert max(together) > 1
    assert all(entry.run.metrics(0).exists() for entry in study.runs)


# --- the command --------------------------------------------------------------------


def study(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpcmaf", "study", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_dry_run_of_the_shipped_study_writes_nothing(tmp_path: Path) -> None:
    result = study("arithmetic-micro", "--dry-run", "--out", str(tmp_path / "runs"))
    assert result.returncode == 0, result.stderr
    assert "arithmetic-micro: 39 runs, " in result.stdout
    assert "69 of them shared with arithmetic-micro-500-debate-seed2, arithmetic-micro-500-maft-seed2" in result.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_study_on_this_machine(tmp_path: Path) -> None:
    """Real jobs, as few as show it: ends in one table over both runs."""
    path = study_file(tmp_path, "debate, maft", iterations=0, baseline="debate", reference="true")
    words = [str(path), "--out", str(tmp_path / "runs")]
    for key in SIZE:
        words += ["--set", key]
    result = study(*words)
    assert result.returncode == 0, result.stderr
    (line,) = re.findall(r"^\| maft .*", (tmp_path / "runs" / "report" / "report.md").read_text(), re.MULTILINE)[:1]
    assert "| p (Holm) |" in (tmp_path / "runs" / "report" / "report.md").read_text() and line
    # An untrained maft is the debate of the base: nothing gained, nothing lost.
    assert re.search(r"maft +0 +1 .* 0 +0 +1\.000 +1\.000", result.stdout)
    runs = [RunDir(tmp_path / "runs" / f"arithmetic-micro-{label}-seed0") for label in ("debate", "maft")]
    for run in runs:
        assert verify(run.root) == [] and run.load_plan().recipe["method"] in result.stdout
    assert "maft-seed0: 1 task taken over from arithmetic-micro-debate-seed0" in result.stderr
    assert [len(run.submissions.read_text().splitlines()) for run in runs] == [2, 1]


def test_damage_names_its_class(tmp_path: Path, hands: Hands) -> None:
    laid = lay_out(tmp_path, "maft, debate")
    first, second = laid.runs
    hands.drive(Study(laid.name, laid.root, (first,)))
    first.run.shard(0, "eval", 0).write_bytes(b"")
    planned = plan_study(laid, PROFILE)
    (task,) = shared_tasks(planned[1], planned[:1])
    with pytest.raises(DataError, match="damaged"):
        adopt(task, second.run)
