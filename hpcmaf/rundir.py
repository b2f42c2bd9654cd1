"""The run directory: the only module that knows its file names.

The directory is the database. A task is done when its marker exists; the
marker is written last and lists every file the task published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.errors import ConfigError, DataError, PlanChangedError, RunBusyError
from hpcmaf.locking import lock
from hpcmaf.plan import Plan, Stage
from hpcmaf.publish import file_sha256, write_json, write_text
from hpcmaf.tasks.base import Problem

_DRIVER_LOCK = ".driver.lock"


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
    @property
    def plan(self) -> Path:
        """The plan."""
        return self.root / "plan.json"

    @property
    def recipe(self) -> Path:
        """The recipe with all defaults filled in; runs again as it is."""
        return self.root / "recipe.yaml"

    @property
    def profile(self) -> Path:
        """The profile of the last submission."""
        return self.root / "profile.yaml"

    @property
    def submissions(self) -> Path:
        """One line per task started."""
        return self.root / "submissions.jsonl"

    @property
    def report(self) -> Path:
        """Folder of tables and plots."""
        return self.root / "report"

    def problems(self, split: str) -> Path:
        """The problems of a split (``train`` or ``eval``), drawn once."""
        return self.root / "problems" / f"{split}.jsonl"

    # --- one iteration -----------------------------------------------------
    def iteration(self, t: int) -> Path:
        """Folder of iteration t; 0 is the untouched base."""
        return self.root / f"it{t:02d}"

    def iterations(self) -> list[int]:
        """Iterations that have a folder, in order."""
        found = (path.name[2:] for path in self.root.glob("it[0-9]*") if path.is_dir())
        return sorted(int(name) for name in found if name.isdigit())

    def shard(self, t: int, kind: str, shard: int) -> Path:
        """One shard of the debates (``debate`` or ``eval``) of iteration t."""
        return self.iteration(t) / kind / f"shard-{shard:05d}.h5"

    def store(self, t: int, kind: str) -> Path:
        """The merged debates of iteration t."""
        return self.iteration(t) / f"{kind}.h5"

    def journal(self, shard: Path) -> Path:
        """Completions of an unfinished shard."""
        return shard.with_suffix(".journal.jsonl")

    def data(self, t: int) -> Path:
        """Folder of the training sets of iteration t."""
        return self.iteration(t) / "data"

    def dataset(self, t: int, agent: str) -> Path:
        """One agent's training set."""
        return self.data(t) / f"{agent}.jsonl"

    def agent(self, t: int, agent: str) -> Path:
        """One agent's finetuned model: PEFT adapter or whole checkpoint."""
        return self.iteration(t) / "agents" / agent

    def metrics(self, t: int) -> Path:
        """Evaluation of iteration t."""
        return self.iteration(t) / "metrics.json"

    def ledger(self, t: int) -> Path:
        """Costs of iteration t."""
        return self.iteration(t) / "ledger.json"

    # --- one task ----------------------------------------------------------
    def marker(self, stage: Stage, task: str) -> Path:
        """Exists when the task is done."""
        return self.iteration(stage.iteration) / "done" / f"{stage.kind}.{task}.json"

    def attempts(self, stage: Stage, task: str) -> Path:
        """Folder of the task's attempts: logs and causes."""
        return self.iteration(stage.iteration) / "attempts" / f"{stage.kind}.{task}"

    def new_attempt(self, stage: Stage, task: str) -> Path:
        """Make the folder of the next attempt."""
        folder = self.attempts(stage, task)
        folder.mkdir(parents=True, exist_ok=True)
        attempt = folder / f"{1 + max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0):04d}"
        attempt.mkdir()
        return attempt

    def progress(self, stage: Stage, task: str) -> Path:
        """How far a running task is."""
        return self.attempts(stage, task) / "progress.json"

    def done(self, stage: Stage, task: str) -> bool:
        """Whether the task has published all it had to."""
        return self.marker(stage, task).exists()

    def write_marker(
        self, stage: Stage, task: str, outputs: Sequence[Path], ledger: Sequence[Mapping[str, Any]]
    ) -> None:
        """Declare a task done; its outputs are in place already."""
        files = {}
        for output in outputs:
            for path in sorted(output.rglob("*")) if output.is_dir() else [output]:
                if path.is_file():
                    files[str(path.relative_to(self.root))] = file_sha256(path)
        value = {"schema": "hpcmaf-marker/1", "stage": stage.id, "task": task, "outputs": files, "ledger": list(ledger)}
        write_json(self.marker(stage, task), value)

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
            value = json.loads(path.read_bytes())
            intact = isinstance(value["outputs"], dict) and all("wall_seconds" in row for row in value["ledger"])
        except (ValueError, KeyError, TypeError, RecursionError):
            intact = False
        if not intact:
            raise DataError(f"{path}: a damaged marker; delete it, and the same command does {stage.id} {task} again")
        return value

    def missing(self, stage: Stage, task: str) -> list[str]:
        """Outputs of a finished task that are no longer there."""
        return [name for name in self.read_marker(stage, task)["outputs"] if not (self.root / name).exists()]

    def leftovers(self, plan: Plan) -> list[Path]:
        """Temporaries of writers, and journals of shards that are done; rubbish once nobody works here."""
        journals = (
            self.journal(self.shard(stage.iteration, stage.kind, int(task)))
            for stage in plan.stages
            if stage.kind in {"debate", "eval"}
            for task in stage.tasks
            if self.done(stage, task)
        )
        return [*self.root.rglob(".*.tmp"), *(path for path in journals if path.exists())]

    @contextmanager
    def claim(self, stage: Stage, task: str) -> Iterator[None]:
        """Hold a task while working on it; a second worker is refused.

        The lock goes with its process, so nothing has to be cleaned up after
        a kill.

        Raises
        ------
        RunBusyError
            Another process works on the task.
        """
        with lock(
            self.attempts(stage, task) / "lock",
            f"{stage.id} {task}: another process is working on it; wait for it or stop it",
        ):
            yield

    def claimed(self, stage: Stage, task: str) -> bool:
        """Whether some process works on the task right now."""
        path = self.attempts(stage, task) / "lock"
        if not path.exists():
            return False
        try:
            with lock(path, ""):
                return False
        except RunBusyError:
            return True

    def check_own(self) -> None:
        """Refuse to make a run of a folder that is already something else.

        Raises
        ------
        ConfigError
            Without a plan, it holds what a run that was stopped while it was
            made could not have left.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"{self.root}: a file is in the way of the run directory; name another with --run")
        if self.plan.exists() or not self.root.exists() or self.iterations():
            return
        ours = {_DRIVER_LOCK, self.problems("train").parent.name, self.recipe.name, self.profile.name}
        names = sorted(path.name for path in self.root.iterdir() if not path.name.endswith(".tmp"))
        foreign = [name for name in names if name not in ours]
        if foreign:
            raise ConfigError(
                f"{self.root}: holds {foreign[0]} and is no run directory; name a new or an empty folder with --run"
            )

    @contextmanager
    def drive(self) -> Iterator[None]:
        """Hold the run while submitting to it.

        Raises
        ------
        RunBusyError
            Another ``submit`` drives the run.
        """
        message = f"{self.root}: another 'hpcmaf submit' is driving this run; wait for it, or stop it first"
        with lock(self.root / _DRIVER_LOCK, message):
            yield

    # --- reading and writing -----------------------------------------------
    def load_plan(self) -> Plan:
        """Read and check ``plan.json``.

        Raises
        ------
        DataError
            Not a run directory.
        PlanChangedError
            The file was edited.
        """
        try:
            value = json.loads(self.plan.read_text())
        except FileNotFoundError as error:
            raise DataError(f"{self.root}: not a run directory (no plan.json); check the path") from error
        except (ValueError, RecursionError) as error:
            raise PlanChangedError(f"{self.plan}: damaged ({error}); start a new run with --run NAME") from error
        return Plan.from_json(value, str(self.plan))

    def write_problems(self, split: str, problems: Sequence[Problem]) -> dict[str, Any]:
        """Write a split's problems; returns its entry in the plan."""
        lines = (
            json.dumps({"id": p.id, "question": p.question, "gold": p.gold, "meta": dict(p.meta)}) + "\n"
            for p in problems
        )
        write_text(self.problems(split), "".join(lines))
        return {"count": len(problems), "sha256": file_sha256(self.problems(split))}

    def read_problems(self, split: str, plan: Plan) -> list[Problem]:
        """Read a split's problems, checked against the plan.

        Raises
        ------
        PlanChangedError
            The file is missing or is not the one the run was planned with.
        """
        path = self.problems(split)
        if not path.exists() or file_sha256(path) != plan.problems[split]["sha256"]:
            raise PlanChangedError(
                f"{path}: not the problems this run was planned with; start a new run with --run NAME"
            )
        return [Problem(**json.loads(line)) for line in path.read_text().splitlines()]
