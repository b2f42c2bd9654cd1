"""A study on the real cluster: runs side by side, none computing what another is at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpcmaf.launch.slurm.gate import submit
from hpcmaf.study.plan import StudyRun, load_study
from hpcmaf.study.drive import drive_study, under_way
from tests.slurm.cluster import Cluster
from tests.slurm.errands import python_for, started
from tests.slurm.runs import SHAPE, profile


def test_runs_take_over_what_others_have_computed(slurm: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    path.write_text("tasks: [arithmetic]\nmodels: [micro]\nmethods: [maft, debate, no-interaction]\niterations: 1\n")
    study = load_study(str(path), overrides=SHAPE, root=tmp_path / "runs")
    site, order, said = profile(f"slurm.python={python_for(tmp_path / 'errands', 2.0)}"), [], []

    def start(one: StudyRun) -> Iterator[None]:
        order.append(one.label)
        with one.run.drive(60):
            submit(one.run, one.plan, site)
        return under_way(one)

    drive_study(study, site, said.append, start, poll_seconds=0.5)
    # debate waits for the evaluation of the base alone, no-interaction for all of maft's training.
    assert order == ["maft", "debate", "no-interaction"], said
    for entry, shared in zip(
        study.runs, ([], ["it00/eval"], ["it00/eval", "it01/debate", "it01/merge", "it01/finetune"]), strict=True
    ):
        plan = entry.run.load_plan()
        for stage in plan.stages:
            for task in stage.tasks:
                assert entry.run.done(stage, task)
                adopted = "adopted" in entry.run.read_marker(stage, task)
                assert adopted == (stage.id in shared), (entry.label, stage.id, task)
                assert started(entry.run, stage.id, task) == (not adopted), (entry.label, stage.id, task)
