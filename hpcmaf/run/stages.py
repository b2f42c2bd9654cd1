"""Every kind of stage, as data: what it runs, how it fans out, what it reads, leaves behind and resumes from.

An iteration is the rows of :data:`STAGES` in their order. Plan, run
directory, jobs and schedulers know of kinds only what stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hpcmaf.run.directory import RunDir

StageKind = Literal["debate", "merge", "finetune", "eval", "score"]
Section = Literal["generation", "finetuning", "merge", "gate"]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One kind of stage.

    Attributes
    ----------
    function
        What a job calls with its :class:`~hpcmaf.jobs.context.TaskContext`, as ``module:name``: imported only in the
        job that needs it, since merging must not load torch.
    fan_out
        What a task is of. Shards are one job array; those of the whole run use no GPU.
    split
        Whose problems it is about. Stages of the evaluation problems exist for the untouched base, iteration 0, too.
    resources
        Section of the profile that its jobs go by.
    inputs
        Kinds of stages that it reads, and how many iterations back.
    outputs
        Files and folders that a finished task has published; takes the run, the iteration and the task.
    resume
        File or folder that an unfinished task resumes from; ``None``: it starts over.
    """

    function: str
    fan_out: Literal["shard", "agent", "run"]
    split: Literal["train", "eval"]
    resources: Section
    inputs: tuple[tuple[StageKind, int], ...]
    outputs: Callable[[RunDir, int, str], list[Path]]
    resume: Callable[[RunDir, int, str], Path] | None = None

    @property
    def evaluates(self) -> bool:
        """Whether it measures what an iteration came to, and the next one does not wait for it."""
        return self.split == "eval"

    def tasks(self, shards: int, agents: Sequence[str]) -> tuple[str, ...]:
        """Names of a stage's tasks."""
        if self.fan_out == "run":
            return ("all",)
        return tuple(agents) if self.fan_out == "agent" else tuple(f"{shard:05d}" for shard in range(shards))


def _debates(kind: StageKind, split: Literal["train", "eval"], inputs: tuple[tuple[StageKind, int], ...]) -> StageSpec:
    return StageSpec(
        function="hpcmaf.jobs.debate:run_debate_shard",
        fan_out="shard",
        split=split,
        resources="generation",
        inputs=inputs,
        outputs=lambda run, t, task: _store(run.shard(t, kind, int(task))),
        resume=lambda run, t, task: run.journal(run.shard(t, kind, int(task))),
    )


def _store(path: Path) -> list[Path]:
    from hpcmaf.files.publish import manifest_path  # not for every verb that names stages

    return [path, manifest_path(path)]


STAGES: dict[StageKind, StageSpec] = {
    "debate": _debates("debate", "train", (("finetune", 1),)),
    "merge": StageSpec(
        function="hpcmaf.jobs.merge:run_merge",
        fan_out="run",
        split="train",
        resources="merge",
        inputs=(("debate", 0),),
        outputs=lambda run, t, task: [*_store(run.store(t, "debate")), run.data(t)],
    ),
    "finetune": StageSpec(
        function="hpcmaf.jobs.finetune:run_agent_finetune",
        fan_out="agent",
        split="train",
        resources="finetuning",
        inputs=(("merge", 0), ("finetune", 1)),
        outputs=lambda run, t, task: [run.agent(t, task)],
        resume=lambda run, t, task: run.checkpoints(t, task),
    ),
    "eval": _debates("eval", "eval", (("finetune", 0),)),
    "score": StageSpec(
        function="hpcmaf.jobs.score:run_score",
        fan_out="run",
        split="eval",
        resources="merge",
        inputs=(("eval", 0), ("merge", 0)),
        outputs=lambda run, t, task: [*_store(run.store(t, "eval")), run.metrics(t), run.signals(t), run.ledger(t)],
    ),
}
