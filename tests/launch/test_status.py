"""``hpcmaf status`` of run directories made by hand, with Slurm's answers played from texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from hpcmaf.cli import status as status_verb
from hpcmaf.errors import DataError
from hpcmaf.files.publish import write_json
from hpcmaf.launch.progress import Watcher, estimate
from hpcmaf.launch.scheduler import Stop, write_stop
from hpcmaf.launch.slurm.submissions import Cause, Submission, Submissions
from hpcmaf.launch.status import Status
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage
from tests.launch.conftest import SlurmSays
from tests.launch.made_runs import attempted, finish, make_run, squeue_line, submitted


def status(run: RunDir, *words: str) -> Result:
    return CliRunner().invoke(status_verb.command, [str(run.root), *words], catch_exceptions=False)


Sent = tuple[RunDir, Plan, Stage, Submission, Submission]


@pytest.fixture
def sent(tmp_path: Path) -> Callable[..., Sent]:
    """``sent(stage's id, ...)``: a run of which a stage is Slurm's job 7 and its gate job 8, if it has one."""

    def made(id: str = "it00/eval", *, gate: bool = True, **options: Any) -> Sent:
        run, plan, _ = make_run(tmp_path / "run", **options)
        stage = plan.stage(id)
        job = submitted(run, stage, stage.tasks, "7")
        return run, plan, stage, job, submitted(run, stage, (), "8", gate=True) if gate else job

    return made


def test_counts_by_stage(sent: Callable[..., Sent], slurm_says: SlurmSays) -> None:
    """A task in every state: done, running, pending, failed, waiting."""
    run, plan, debate, job, gate = sent("it01/debate")
    finish(run, plan.stage("it00/eval"))
    finish(run, debate, ["00000"])
    attempted(run, debate, "00001", job.name, {"type": "DataError", "message": "00001 is torn"})
    lines = [
        squeue_line("7", 0, "COMPLETED", job.name),
        squeue_line("7", 1, "FAILED", job.name),
        squeue_line("7", 2, "RUNNING", job.name, node="node1"),
        squeue_line("7", 3, "PENDING", job.name, reason="Resources"),
        squeue_line("8", None, "PENDING", gate.name, reason="Dependency"),
        squeue_line("9", None, "RUNNING", "somebody's | other job"),
    ]
    calls = slurm_says(squeue="\n".join(lines), sacct=1)
    value = json.loads(status(run, "--json").stdout)
    rows = {row["id"]: row for row in value["stages"]}
    counts = ("done", "running", "pending", "failed", "waiting", "total")
    assert [rows["it01/debate"][name] for name in counts] == [1, 1, 1, 1, 0, 4]
    assert [rows["it01/merge"][name] for name in counts] == [0, 0, 0, 0, 1, 1]
    assert value["tasks"]["done"] == 3 and value["tasks"]["total"] == sum(row["total"] for row in value["stages"])
    assert (value["state"], value["exit_code"], value["gates"]) == ("running", 0, ["8"])
    [failure] = value["failures"]
    assert (failure["stage"], failure["task"], failure["text"]) == ("it01/debate", "00001", "00001 is torn")
    assert Path(failure["log"]).name == "00001_0_log.err"
    # The attempt has said why: accounting has nothing to add.
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["squeue"]


def test_the_table_fits_a_terminal_of_eighty_columns(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run", train=1000, evaluation=1000)
    finish(run, plan.stage("it01/debate"), seconds=36_000.0)
    slurm_says(squeue="", sacct=1)
    with (console := Console(width=80, file=StringIO())).capture() as captured:
        console.print(Status(run).view())
    lines = [line for line in captured.get().splitlines() if "eval" in line or "iteration" in line]
    assert len(lines) == 3
    assert "…" not in captured.get()
    assert "1000" in lines[1] and "pending" in lines[0]


def test_one_squeue_and_one_sacct_for_many_lost_tasks(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run", train=40, evaluation=30)
    for id, job in (("it00/eval", "5"), ("it01/debate", "6")):
        submitted(run, plan.stage(id), plan.stage(id).tasks, job)
    calls = slurm_says(squeue="", sacct="\n".join(f"6_{k}|name|TIMEOUT|0:0|node3|Unknown|Unknown" for k in range(40)))
    found = Status(run)
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["squeue", "sacct"]
    kinds = [failure.kind for failure in found.failures.values()]
    assert kinds.count("time limit") == 40 and kinds.count("lost") == 30
    assert sorted(failure["tasks"] for failure in found.failure_groups()) == [30, 40]
    assert (found.state, found.exit_code) == ("stalled", 15)


def test_nothing_is_written(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Not even the id of a submission whose answer was lost, though it is counted as what it is."""
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it00/eval")
    job = submitted(run, stage, stage.tasks, None)
    attempted(run, stage, "00000", job.name)
    slurm_says(squeue=squeue_line("7", 0, "RUNNING", job.name), sacct="")

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}

    before = contents()
    assert Status(run).running == {"it00/eval": ["00000"]}
    assert contents() == before


def test_a_stopped_chain_says_why_and_what_to_type(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "a 'run'")
    stage = plan.stage("it00/eval")
    job = submitted(run, stage, stage.tasks, "7")
    attempted(run, stage, "00000", job.name, {"type": "DataError", "message": "torn\x1b[31m"})
    slurm_says(squeue=squeue_line("7", 1, "CANCELLED", job.name), sacct="")
    write_stop(run, Stop(reason="it00/eval 00000: torn\x1b[31m", stage=stage.id, task="00000", kind="error"))
    result = status(run)
    assert result.exit_code == 15
    assert "\x1b" not in result.stdout
    assert "stopped (it00/eval 00000: torn" in result.stdout
    # Its neighbour was cancelled with the chain, and has not failed.
    assert [line.split()[5] for line in result.stdout.splitlines() if line.startswith("0 ") and "eval" in line] == ["1"]
    last = result.stdout.splitlines()[-1]
    assert last.startswith("next: hpcmaf logs '") and "; then hpcmaf retry '" in last


def test_jobs_without_a_gate_behind_them_are_noted(sent: Callable[..., Sent], slurm_says: SlurmSays) -> None:
    run, _, _, job, _ = sent(gate=False)
    slurm_says(squeue=squeue_line("7", 0, "RUNNING", job.name), sacct=1)
    shown = status(run).stdout
    assert "no gate is behind what runs" in shown and "note: sacct: " in shown, "silent accounting is a note too"


def test_a_finished_run_is_well(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run", iterations=2)
    for stage in plan.stages:
        finish(run, stage)
    slurm_says(squeue=1)
    result = status(run)
    assert result.exit_code == 0
    assert ": done, " in result.stdout
    assert "accuracy: 0: 50.0%, 1: 51.0%, 2: 52.0%" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: hpcmaf aggregate {run.root} --out {run.report}"
    # What is damaged is left out.
    for task in (last := plan.stage("it02/eval")).tasks:
        run.marker(last, task).write_text("{")
    run.metrics(0).write_text("[]")
    assert "accuracy: 1: 51.0%, 2: 52.0%" in status(run).stdout
    with pytest.raises(DataError, match="not a run directory"):
        status(RunDir(tmp_path / "nowhere"))


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_watch_in_a_pipe_waits_until_the_run_is_over(
    sent: Callable[..., Sent], slurm_says: SlurmSays, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    run, plan, _, job, gate = sent(iterations=0)
    jobs = squeue_line("7", 0, "RUNNING", job.name), squeue_line("8", None, "PENDING", gate.name)
    slurm_says(squeue="\n".join(jobs))
    monkeypatch.setattr(status_verb, "WATCH_SECONDS", 0.1)
    Timer(1.0, lambda: [finish(run, stage) for stage in plan.stages]).start()
    result = status(run, "--watch", *words)
    assert result.exit_code == 0
    if words:
        assert json.loads(result.stdout)["state"] == "done"
    else:
        assert "done, 3/3 tasks" in result.stdout and "running" not in result.stdout.splitlines()[0]


def test_time_left_is_what_others_took(sent: Callable[..., Sent], slurm_says: SlurmSays) -> None:
    """40 of 100 tasks of 100 s are left, four run side by side, each of them half done: (36 * 100 + 4 * 50) / 4."""
    run, _, stage, job, _ = sent(gate=False, iterations=0, evaluation=100)
    finish(run, stage, stage.tasks[:60], seconds=100)
    for task in stage.tasks[60:64]:
        attempted(run, stage, task, job.name)
        run.progress(stage, task).write_text('{"done": 5, "total": 10, "unit": "problems"}')
    lines = [squeue_line("7", k, "RUNNING" if k < 64 else "PENDING", job.name) for k in range(60, 100)]
    slurm_says(squeue="\n".join(lines), sacct="")
    found = Status(run)
    assert found.estimate.seconds == pytest.approx(950)
    # Nobody knows yet how long scoring takes.
    assert not found.estimate.whole
    assert "at least 15:50 left" in status(run).stdout


def test_stages_beside_each_other_do_not_add_up(tmp_path: Path, slurm_says: SlurmSays) -> None:
    """Evaluation of an iteration runs while the next one debates."""
    run, plan, _ = make_run(tmp_path / "run", iterations=2, train=1, evaluation=1)
    for stage in plan.stages:
        if stage.iteration < 2 and stage.id not in {"it01/eval", "it01/score"}:
            finish(run, stage, seconds=1000.0 if stage.kind == "eval" else 10.0)
    slurm_says(squeue="")
    # The longer way: debate, merge, finetune and eval and score of iteration 2.
    assert Status(run).estimate.seconds == pytest.approx(10 + 10 + 10 + 1000 + 10)


def test_a_local_run_asks_no_slurm(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run", launcher="local", iterations=0, evaluation=4)
    stage = plan.stage("it00/eval")
    finish(run, stage, ["00000"])
    sent = submitted(run, stage, stage.tasks, "4711")
    Submissions(run.submissions).judge((stage.id, "00001"), Cause("error", "torn", submission=sent.name))
    attempted(run, stage, "00002", sent.name, {"type": "KeyboardInterrupt", "message": "KeyboardInterrupt: "})
    attempted(run, stage, "00003", sent.name)
    calls = slurm_says(squeue="", sacct="")
    with run.claim(stage, "00003"), run.drive():
        found = Status(run)
    row = found.stages[0]
    assert [row[name] for name in ("done", "running", "failed", "waiting")] == [1, 1, 1, 1]
    assert found.state == "running"
    result = status(run)
    assert result.exit_code == 15
    assert "stopped (1 task(s) failed)" in result.stdout and "torn" in result.stdout
    assert "hpcmaf retry" in result.stdout.splitlines()[-1]
    assert calls.read_text() == ""


def test_a_task_that_its_driver_gave_up_has_failed(tmp_path: Path) -> None:
    """The first time it was submitted again."""
    run, plan, _ = make_run(tmp_path / "run", launcher="local")
    stage = plan.stages[0]
    for _ in range(2):
        name = submitted(run, stage, ["00000"], "4711").name
        assert Status(run).failures == {}
        Submissions(run.submissions).judge((stage.id, "00000"), Cause("killed", "killed", submission=name))
    assert [failure.kind for failure in Status(run).failures.values()] == ["killed"]


def test_a_driver_says_what_runs_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan, profile = make_run(tmp_path / "run", launcher="local")
    stage, screen = plan.stage("it01/debate"), StringIO()
    finish(run, stage, ["00000"])
    run.progress(stage, "00001").parent.mkdir(parents=True)
    run.progress(stage, "00001").write_text('{"done": 3, "total": 9, "unit": "completions", "note": "12 tokens/s"}')
    watcher = Watcher(run, plan, profile, screen)
    watcher.look([(stage.id, "00001")])
    assert screen.getvalue() == "", "it has only just begun"
    monkeypatch.setattr("hpcmaf.launch.progress.INTERVAL_SECONDS", 0.0)
    watcher.look([(stage.id, "00001")])
    assert "running: it01/debate 00001 3/9 (12 tokens/s) (at least 1:20 left)" in screen.getvalue()
    later = estimate(run, plan, profile, run.done_tasks(plan), {stage.id: ["00001"]})
    # Of three, one has done a third of its 60 seconds: 160 s of work in two slots.
    assert later.seconds == pytest.approx(80, abs=1)
    finish(run, stage, ["00001"])
    watcher.finished(stage, "00001", 60.0)
    # Two of four debates are left, with two slots for them.
    assert "it01/debate 00001 done in 1:00 (2/15 tasks, at least 1:00 left)" in screen.getvalue()


# --- why jobs wait

TOLD = """ReqNodeNotAvail, Reserved for maintenance|PartitionNodeLimit|MaxGRESPerAccount|QOSMaxJobsPerUserLimit
AssocGrpGRES|Licenses|ReservationDeleted|BurstBufferStageIn|JobHoldMaxRequeue|launch failed requeued held
what Slurm 30 says"""
ORDINARY = "None|Priority|Resources|Dependency|JobArrayTaskLimit|BeginTime|Cleaning"


@pytest.mark.parametrize("reason", [*TOLD.replace("\n", "|").split("|"), *ORDINARY.split("|")])
def test_every_reason_for_waiting_is_told_but_those_of_ordinary_queues(
    sent: Callable[..., Sent], slurm_says: SlurmSays, reason: str
) -> None:
    run, _, _, job, gate = sent()
    ordinary = reason in ORDINARY.split("|")
    lines = [
        squeue_line("7", 0, "PENDING", job.name, reason=reason),
        squeue_line("8", None, "PENDING", gate.name, reason=reason if ordinary else "Dependency"),
    ]
    slurm_says(squeue="\n".join(lines), sacct="", scontrol="No reservations in the system\n")
    shown = status(run).stdout
    assert "note:" not in shown if ordinary else f"note: Slurm holds 1 job(s) back: {reason}" in shown
    assert ": queued (0 running, 1 queued" in shown


# --- what is no failure


def test_what_slurm_refused_is_told_in_its_words(tmp_path: Path, slurm_says: SlurmSays) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    stage = plan.stage("it00/eval")
    name = submitted(run, stage, stage.tasks, None).name
    words = "sbatch: error: AssocMaxSubmitJobLimit; Batch job submission failed: Job violates accounting/QOS policy"
    with run.submissions.open("a") as file:
        file.write(json.dumps({"event": "refused", "name": name, "why": words, "index": None, "time": 0.0}) + "\n")
    slurm_says(squeue="", sacct="")
    found = Status(run)
    assert found.failures == {} and found.stages[0]["waiting"] == 2
    assert f"Slurm refused 1 job(s): {words}" in found.notes
    assert found.next.startswith("wait until some of your jobs have ended") and "hpcmaf retry" in found.next


@pytest.mark.parametrize(
    ("cause", "state", "failures"),
    [
        ({"type": "StopRequested", "message": "stopped on request before its first step"}, "CANCELLED", []),
        (None, "CANCELLED", []),
        (None, None, []),
        ({"type": "DataError", "message": "torn"}, None, ["torn"]),
    ],
)
def test_what_was_cancelled_has_not_failed_unless_it_had_before(
    sent: Callable[..., Sent],
    slurm_says: SlurmSays,
    cause: Mapping[str, str] | None,
    state: str | None,
    failures: list[str],
) -> None:
    run, _, stage, job, _ = sent(gate=False)
    attempted(run, stage, "00000", job.name, cause)
    slurm_says(squeue="" if state is None else squeue_line("7", 0, state, job.name), sacct=1)
    write_stop(run, Stop(reason="cancelled by hpcmaf cancel", kind="cancelled"))
    found = Status(run)
    assert [failure.text for failure in found.failures.values()] == failures
    assert found.stages[0]["waiting"] == 2 - len(failures)
    assert found.next.endswith(f"hpcmaf retry {run.root}") and found.next.startswith(
        "hpcmaf logs" if failures else "hpcmaf retry"
    )


def test_nodes_that_have_not_met_are_told_of(sent: Callable[..., Sent], slurm_says: SlurmSays) -> None:
    run, _, stage, job, gate = sent("it01/finetune", cluster={"finetuning": {"nodes": 2}})
    path = run.progress(stage, stage.tasks[0])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"done": 0, "total": 2, "unit": "nodes", "note": "its 2 nodes are meeting"}))
    lines = [squeue_line("7", 0, "RUNNING", job.name), squeue_line("8", None, "PENDING", gate.name)]
    slurm_says(squeue="\n".join(lines), sacct="")
    assert f"running: it01/finetune {stage.tasks[0]}: its 2 nodes are meeting" in status(run).stdout


def test_what_debates_came_to_and_agents_that_learn_from_little_are_told_of(
    tmp_path: Path, slurm_says: SlurmSays
) -> None:
    run, plan, _ = make_run(tmp_path / "run")
    slurm_says(squeue="", sacct=1)
    assert Status(run).notes == []
    selection, health = run.data(1) / "selection.json", {"cut_off": 0.4, "tied": 0.125}
    counts = {agent: {"kept": 12} for agent in plan.stage("it01/finetune").tasks}
    write_json(selection, {"health": health, "datasets": counts})
    metrics = {"accuracy": {"vote@M": {"value": 0.5, "se": 0.1}}, "cut_off": 0.3}
    write_json(run.metrics(0), metrics | {"unparsable": "x"})
    assert list(Status(run).health) == ["iteration 1"]  # what is damaged is left out
    write_json(run.metrics(0), metrics)
    shown, [note] = status(run).stdout, Status(run).notes
    assert note.startswith(
        "more than 20.0% of texts cut off (iteration 0, evaluation: 30.0%, iteration 1: 40.0%); raise"
    )
    line = "40.0% of texts cut off, 12.5% of votes tied, 12 samples per agent"
    assert f"health: iteration 1: {line}\n" in shown and f"note: {note}" in shown
    assert Status(run).to_json()["health"]["iteration 1"]["line"] == line
    # What was too long is known once an agent is trained.
    write_json(selection, {"datasets": counts | {"critic-1": {"kept": 0}}})
    write_json(run.agent(1, "generator-0") / "training.json", {"samples": 3, "dropped_too_long": 9})
    few = "note: iteration 1: fewer than 10 training samples (generator-0: 3, critic-1: none); raise task.train"
    assert few in status(run).stdout
    selection.write_text('{"datasets": {"critic-1": null}}')
    assert not any("samples" in note for note in Status(run).notes)
