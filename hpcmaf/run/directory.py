"""The run directory: the only module with its file names.

The directory is the database. A task is done when its marker exists; the
marker is written last and lists every file the task published.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcmaf.errors import DataError, PlanChangedError
from hpcmaf.files.locking import is_locked, lock
from hpcmaf.files.publish import file_sha256, read_bytes, read_json, write_json, write_text
from hpcmaf.run.plan import Plan, Stage, stage_id
from hpcmaf.run.records import Ended, Marker, Selection, Trained
from hpcmaf.tasks.problems import Problem, from_lines, to_lines


def _file(name: str, what: str) -> Any:
    """A path of the whole run."""
    return property(lambda run: run.root / name, doc=what)


def _path(name: str, what: str) -> Callable[..., Path]:
    """A path of what its caller names: an iteration, an agent, a stage and a task."""

    def path(run: RunDir, *of: Any) -> Path:
        return run.root / name.format(*of)

    path.__doc__ = what
    return path


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run.

    Parameters
    ----------
    root
        The run's folder; need not exist yet.
    """

    root: Path

    @classmethod
    def locate(cls, name: str | Path) -> RunDir:
        """Find a run by path, or by name under ``runs/``."""
        path = Path(name)
        if path.parent == Path() and not (path / "plan.json").exists() and str(path) not in {".", ".."}:
            path = Path("runs") / path
        return cls(path)

    # --- whole run ---------------------------------------------------------
    plan = _file("plan.json", "The plan.")
    recipe = _file("recipe.yaml", "The recipe with all defaults filled in; runs again as it is.")
    profile = _file("profile.yaml", "The profile of the last submission.")
    submissions = _file("submissions.jsonl", "What was submitted, and what became of it; a line per event.")
    stopped = _file("stopped.json", "Exists when the chain of jobs was stopped; says why.")
    ended = _file("ended.json", "Exists when a run of ``iterations: {auto: L}`` is over; says what is kept, and why.")
    driver_lock = _file(".driver.lock", "Locked by the process that submits to the run (:meth:`drive`).")
    report = _file("report", "Folder of tables and plots.")

    problems = _path("problems/{}.jsonl", "The problems of a split (``train`` or ``eval``), drawn once.")

    # --- one iteration: t, and an agent or a kind of stage and a shard ------
    iteration = _path("it{:02d}", "Folder of iteration t; 0 is the untouched base.")
    data = _path("it{:02d}/data", "Folder of the training sets of iteration t.")
    dataset = _path("it{:02d}/data/{}.jsonl", "One agent's training set.")
    metrics = _path("it{:02d}/metrics.json", "Evaluation of iteration t.")
    diversity = _path("it{:02d}/diversity.json", "Diversity of iteration t, measured with models on some problems.")
    signals = _path("it{:02d}/signals.json", "What the evaluation of iteration t shows without gold answers.")
    ledger = _path("it{:02d}/ledger.json", "Costs of iteration t.")
    shard = _path("it{:02d}/{}/shard-{:05d}.h5", "One shard of the debates (``debate`` or ``eval``) of iteration t.")
    store = _path("it{:02d}/{}.h5", "The merged debates of iteration t.")
    agent = _path("it{:02d}/agents/{}", "One agent's finetuned model: PEFT adapter or whole checkpoint.")
    checkpoints = _path("it{:02d}/agents/.{}.checkpoints", "What an unfinished finetuning job resumes from.")

    # --- one task: a stage, and the task's name -----------------------------
    marker = _path("it{0.iteration:02d}/done/{0.kind}.{1}.json", "Exists when the task is done.")
    attempts = _path("it{0.iteration:02d}/attempts/{0.kind}.{1}", "Folder of the task's attempts: logs and causes.")
    progress = _path("it{0.iteration:02d}/attempts/{0.kind}.{1}/progress.json", "How far a running task is.")
    jobs = _path("it{0.iteration:02d}/jobs/{1}", "Folder of one submission: batch script, pickles and logs.")

    def iterations(self) -> list[int]:
        """Iterations that have a folder, in order."""
        found = (path.name[2:] for path in self.root.glob("it[0-9]*") if path.is_dir())
        return sorted(int(name) for name in found if name.isdecimal())

    def having(self, path: Callable[[int], Path], lacking: str, wanted: Sequence[int] = ()) -> Sequence[int]:
        """Iterations that have something: those that are wanted, or all.

        Raises
        ------
        DataError
            One does not have it, or none does; begins with ``lacking``.
        """
        there = [t for t in self.iterations() if path(t).exists()]
        missing = [t for t in wanted if t not in there]
        if missing or not there:
            which = f" of iteration {missing[0]}" if missing else ""
            others = ", ".join(map(str, there)) or "none yet"
            raise DataError(f"{self.root}: {lacking}{which}; iterations that have one: {others}")
        return wanted or there

    def journal(self, shard: Path) -> Path:
        """Completions of an unfinished shard."""
        return shard.with_suffix(".journal.jsonl")

    def learned(self, t: int) -> dict[str, Any]:
        """The selection of iteration t, with what its finetuning jobs report so far.

        Raises
        ------
        OSError, DataError
            There is none, or a file is damaged.
        """
        selection = read_json(self.data(t) / "selection.json", Selection)
        for agent, found in selection["datasets"].items():
            report = self.agent(t, agent) / "training.json"
            trained = read_json(report, Trained) if report.exists() else {}
            found |= {name: trained[name] for name in Trained.model_fields if name in trained}
        return selection

    # --- what is done ------------------------------------------------------
    def done(self, stage: Stage, task: str) -> bool:
        """Whether the task has published all it had to."""
        return self.marker(stage, task).exists()

    def done_tasks(self, plan: Plan) -> dict[str, set[str]]:
        """Finished tasks of every stage, by stage id.

        Lists folders instead of asking for each marker: quicker for thousands,
        and on NFS only opening the folder shows what other nodes just made.
        """
        done: dict[str, set[str]] = {stage.id: set() for stage in plan.stages}
        for t in {stage.iteration for stage in plan.stages}:
            folder = self.iteration(t) / "done"
            for name in os.listdir(folder) if folder.is_dir() else ():
                kind, dot, task = name.removesuffix(".json").partition(".")
                if dot and name.endswith(".json") and stage_id(t, kind) in done:
                    done[stage_id(t, kind)].add(task)
        return done

    def write_marker(
        self, stage: Stage, task: str, outputs: Sequence[Path], ledger: Sequence[Mapping[str, Any]]
    ) -> None:
        """Declare a task done; its outputs, files and folders of the run, are in place already."""
        files = (file for output in outputs for file in (output, *sorted(output.rglob("*"))) if file.is_file())
        digests = {str(file.relative_to(self.root)): file_sha256(file) for file in files}
        value = {"schema": "hpcmaf-marker/1", "stage": stage.id, "task": task, "outputs": digests}
        write_json(self.marker(stage, task), value | {"ledger": list(ledger)})

    def begun(self, plan: Plan) -> bool:
        """Whether any task has left results, whole or in a journal."""
        if any(self.done(stage, task) for stage in plan.stages for task in stage.tasks):
            return True
        # Opened before the model is, a journal may be empty.
        return any(path.stat().st_size for path in self.root.glob("it*/*/*.journal.jsonl"))

    def read_marker(self, stage: Stage, task: str) -> dict[str, Any]:
        """Read a finished task's marker.

        Raises
        ------
        DataError
            It is torn, or was edited.
        """
        path = self.marker(stage, task)
        try:
            return read_json(path, Marker)
        except DataError as error:
            remedy = f"delete it, and the same command does {stage.id} {task} again"
            raise DataError(f"{path}: a damaged marker; {remedy}") from error

    def missing(self, stage: Stage, task: str) -> list[str]:
        """Outputs of a finished task that are no longer there."""
        return [name for name in self.read_marker(stage, task)["outputs"] if not (self.root / name).exists()]

    def leftovers(self, plan: Plan) -> list[Path]:
        """Temporaries of writers, journals and checkpoints of what is done; rubbish once no process works here."""
        done = [(stage, task) for stage in plan.stages for task in stage.tasks if self.done(stage, task)]
        kept = [stage.spec.resume(self, stage.iteration, task) for stage, task in done if stage.spec.resume]
        return [*self.root.rglob(".*.tmp"), *(path for path in kept if path.exists())]

    def claim(self, stage: Stage, task: str) -> AbstractContextManager[None]:
        """Lock a task while working on it; a second worker is refused.

        The lock ends with its process, so nothing has to be cleaned up after a kill.

        Raises
        ------
        RunBusyError
            Another process works on the task.
        """
        message = f"{stage.id} {task}: another process is working on it; wait for it or stop it"
        return lock(self.attempts(stage, task) / "lock", message)

    def claimed(self, stage: Stage, task: str) -> bool:
        """Whether some process works on the task right now."""
        return is_locked(self.attempts(stage, task) / "lock")

    def drive(self, patience: float = 0.5) -> AbstractContextManager[None]:
        """Lock the run while submitting to it.

        Parameters
        ----------
        patience
            Seconds to wait for others, such as a gate, to release it.

        Raises
        ------
        RunBusyError
            Another ``submit`` drives the run.
        """
        message = f"{self.root}: another 'hpcmaf submit' is driving this run; wait for it, or stop it first"
        return lock(self.driver_lock, message, patience)

    def driven(self) -> bool:
        """Whether some process submits to the run right now."""
        return is_locked(self.driver_lock)

    # --- reading and writing -----------------------------------------------
    def load_plan(self) -> Plan:
        """Read and check ``plan.json``; of a run that the alarm has ended, what there is of it.

        Raises
        ------
        DataError
            Not a run directory.
        PlanChangedError
            The file was edited.
        """
        try:
            return self.shorten(Plan.read(self.plan))
        except FileNotFoundError as error:
            raise DataError(f"{self.root}: not a run directory (no plan.json); check the path") from error

    def shorten(self, plan: Plan) -> Plan:
        """A plan without iterations after the one that ended the run; with ``ended.json`` deleted it goes on.

        Raises
        ------
        DataError
            That file is damaged.
        """
        if not plan.recipe.get("early_stop") or not self.ended.exists():
            return plan
        last = read_json(self.ended, Ended)["iteration"]
        return replace(plan, stages=tuple(stage for stage in plan.stages if stage.iteration <= last))

    def write_problems(self, split: str, problems: Sequence[Problem]) -> None:
        """Write a split's problems."""
        write_text(self.problems(split), to_lines(problems))

    def read_problems(self, split: str, plan: Plan) -> list[Problem]:
        """Read a split's problems, checked against the plan.

        Raises
        ------
        PlanChangedError
            The file is missing or is not the one the run was planned with.
        """
        path = self.problems(split)
        data = read_bytes(path) if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != plan.problems[split]["sha256"]:
            raise PlanChangedError(f"{path}: not the problems this run was planned with; start a new run with --run")
        return from_lines(data)
