"""A plan as text: for a terminal, for a pipe, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.config.slurm import Resources
from hpcmaf.launch.slurm.causes import MOST_ATTEMPTS
from hpcmaf.launch.slurm.preview import UNKNOWN_TAG, PlannedJob, Preview
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, Stage

# Whoever reads a pipe breaks lines for themselves.
_PIPE_WIDTH = 240


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and how much of it to show.

    Attributes
    ----------
    jobs
        ``None`` where Slurm has no part.
    stage, everything
        Whose batch scripts: one stage's, or all.
    """

    run: RunDir
    plan: Plan
    profile: Profile
    jobs: Preview | None
    stage: str | None = None
    everything: bool = False

    def left(self, stage: Stage) -> int:
        """How many of a stage's tasks are not done."""
        if self.jobs is not None:
            return len(self.jobs.missing[stage.id])
        return sum(not self.run.done(stage, task) for task in stage.tasks)

    def scripts(self) -> list[PlannedJob]:
        """The jobs whose batch scripts are shown: by default the first of each kind."""
        jobs = () if self.jobs is None else self.jobs.jobs
        if self.everything:
            return list(jobs)
        if self.stage is not None:
            return [job for job in jobs if job.stage == self.stage]
        first: dict[str, PlannedJob] = {}
        for job in jobs:
            first.setdefault(job.kind, job)
        return list(first.values())


def headline(choice: Choice) -> str:
    """The run in one line."""
    recipe, profile = choice.plan.recipe, choice.profile
    debate = recipe["debate"]
    where = f"{profile.launcher}, {profile.cluster.chain}" if profile.slurm and choice.jobs else profile.launcher
    return (
        f"{choice.run.root}: {recipe['method']} on {recipe['task']['name']}, N={debate['agents']}, "
        f"M={debate['rounds']}, {choice.plan.iterations} iterations; profile {profile.name} ({where})"
    )


def totals(choice: Choice) -> dict[str, Any]:
    """Sums over all that is left."""
    left = sum(choice.left(stage) for stage in choice.plan.stages)
    result: dict[str, Any] = {"stages": len(choice.plan.stages), "tasks": sum(len(s.tasks) for s in choice.plan.stages)}
    result["tasks_left"] = left
    if choice.jobs is not None:
        once = sum(choice.jobs.gpu_hours().values())
        result["submissions"] = len(choice.jobs.jobs)
        result["arrays"] = sum(job.array for job in choice.jobs.jobs)
        result["gates"] = sum(job.kind == "gate" for job in choice.jobs.jobs)
        result["gpu_hours_once"] = round(once, 2)
        result["gpu_hours_all_attempts"] = round(once * choice.profile.attempts, 2)
    return result


def warnings(choice: Choice) -> list[str]:
    """What the profile asks for that its jobs would do without, or miss."""
    from hpcmaf.launch.doctor import profile_findings

    return [f"warning: {found.text}; {found.remedy}" for found in profile_findings(choice.profile)]


def sum_lines(choice: Choice) -> list[str]:
    """Totals and ceiling in words, and what one must know to believe them."""
    sums = totals(choice)
    left = f"{sums['tasks_left']} of {sums['tasks']} tasks left" if sums["tasks_left"] < sums["tasks"] else ""
    lines = [f"total: {sums['stages']} stages, {left or '{} tasks'.format(sums['tasks'])}"]
    if choice.jobs is None:
        lines[0] += f", {choice.profile.slots()} at once on this machine"
        return lines
    lines[0] += f" in {sums['submissions']} submissions ({sums['arrays']} arrays, {sums['gates']} gates)"
    lines += [*_ceiling(choice, sums), f"MaxArraySize: {choice.jobs.limit} ({choice.jobs.limit_source})"]
    if choice.scripts():
        names = (
            f"{UNKNOWN_TAG} in names is drawn at the first submission, "
            if UNKNOWN_TAG in choice.jobs.jobs[0].name
            else ""
        )
        lines.append(f"in scripts, {names}JOB_0007 stands for the id of the job whose name ends in .0007")
    if choice.jobs.submitted:
        lines.append("this run was submitted before: jobs still queued or running count as left here")
    return lines


def _ceiling(choice: Choice, sums: dict[str, Any]) -> list[str]:
    once, every = sums["gpu_hours_once"], sums["gpu_hours_all_attempts"]
    if not once:
        return ["ceiling: no job that is left asks for a GPU"]
    attempts = f"{every:,.1f} with all {choice.profile.attempts} attempts"
    return [
        f"ceiling: {once:,.1f} GPU-hours if each job takes all of its time once, {attempts}",
        f"  (preemption, lost nodes, time limits reached with progress: repeated uncounted, {MOST_ATTEMPTS} attempts in all)",
    ]


def job_words(jobs: Sequence[PlannedJob], at_once: int | None) -> str:
    """A stage's jobs, such as ``3 arrays of 334+333+333, 20 at once``."""
    if not jobs:
        return "-"
    sizes = [len(job.elements) for job in jobs]
    least, most = min(sizes), max(sizes)
    what, s = "array" if most > 1 else "job", "s" * (len(jobs) > 1)
    share = "+".join(map(str, sizes)) if len(sizes) < 5 else f"{least} to {most}"
    of = "" if most == 1 else f" of {share if least < most else most}{' each' * (least == most and len(jobs) > 1)}"
    return f"{len(jobs)} {what}{s}{of}" + (f", {at_once} at once" if at_once and at_once < sum(sizes) else "")


def resource_words(choice: Choice, section: str) -> str:
    """What one job of a section asks for."""
    cluster = choice.profile.cluster
    wanted: Resources = getattr(cluster, section)
    words = [f"{wanted.nodes} node{'s' * (wanted.nodes > 1)}"]
    per = " a node" if wanted.nodes > 1 else ""
    if wanted.gpus:
        kind = f" {cluster.gpu_type}" if cluster.gpu_type else ""
        words.append(f"{wanted.gpus}{kind} GPU{'s' * (wanted.gpus > 1)}{per}")
    words.append(f"{wanted.cpus} CPU{'s' * (wanted.cpus > 1)}{per}")
    if wanted.memory_gb is not None:
        words.append(f"{wanted.memory_gb:g} GB{per}" if wanted.memory_gb else "all of a node's memory")
    words.append(f"{wanted.minutes} min")
    for key in ("partition", "account", "qos", "constraint"):
        if value := getattr(wanted, key) or getattr(cluster, key):
            words.append(f"{key} {value}")
    return ", ".join(words)


def sections(choice: Choice) -> Iterator[tuple[str, str]]:
    """Kinds of jobs, and what one of them asks for."""
    kinds: dict[str, dict[str, None]] = {}
    for stage in choice.plan.stages:
        kinds.setdefault(stage.spec.resources, {})[stage.kind] = None
    for section, used in (kinds | {"gate": {"gate": None}}).items():
        yield ", ".join(used), resource_words(choice, section)


def as_value(choice: Choice) -> dict[str, Any]:
    """The whole as JSON values."""
    shown = {job.name for job in choice.scripts()}

    def job_value(job: PlannedJob) -> dict[str, Any]:
        value = {"name": job.name, "id": job.id, "elements": [list(element) for element in job.elements]}
        value |= {"at_once": job.at_once, "after": list(job.after), "kind": job.kind}
        return value | ({"script": job.script(choice.profile)} if job.name in shown else {})

    profile, jobs = choice.profile, choice.jobs
    value: dict[str, Any] = {"run": str(choice.run.root), "plan": choice.plan.sha256, "recipe": choice.plan.recipe}
    value |= {"profile": profile.name, "launcher": profile.launcher}
    stages: list[dict[str, Any]] = [
        {"id": stage.id, "kind": stage.kind, "after": list(stage.after)}
        | {"tasks": len(stage.tasks), "left": choice.left(stage)}
        for stage in choice.plan.stages
    ]
    if jobs is not None:
        value |= {"chain": profile.cluster.chain, "attempts": profile.attempts}
        value["max_array_size"] = {"value": jobs.limit, "source": jobs.limit_source}
        hours = jobs.gpu_hours()
        for row, stage in zip(stages, choice.plan.stages, strict=True):
            row["resources"] = profile.cluster.resources(stage.spec.resources).model_dump(mode="json")
            row["gpu_hours_once"] = round(hours[stage.id], 2)
            row["jobs"] = [job_value(job) for job in jobs.of(stage.id)]
            row["gates"] = [job_value(job) for job in jobs.of(stage.id, gates=True)]
    return value | {"stages": stages, "totals": totals(choice), "warnings": warnings(choice)}


def script_title(choice: Choice, job: PlannedJob) -> str:
    """What a script is the script of."""
    assert choice.jobs is not None
    if job.kind == "gate":
        return f"gate behind {job.stage}"
    siblings = choice.jobs.of(job.stage)
    number = f" {siblings.index(job) + 1} of {len(siblings)}" if len(siblings) > 1 else ""
    return f"{job.stage}, {'array' if job.array else 'job'}{number}"


def show(choice: Choice) -> None:
    """Print scripts, and below them, where the eye falls, tables and sums; the same for a terminal and a pipe."""
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    # Whole lines, so that what is shown is what would be sent.
    console = Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=True, markup=False)
    for job in choice.scripts():
        console.print(f"### {script_title(choice, job)}", style="dim")
        console.print(f"{job.script(choice.profile).rstrip()}\n")
    console.print(headline(choice), style="bold")
    names = ("stage", "after", "tasks", *(("jobs", "GPU-hours") if choice.jobs else ()))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, justify="right" if name in {"tasks", "GPU-hours"} else "left", overflow="fold")
    hours = choice.jobs.gpu_hours() if choice.jobs else {}
    for stage in choice.plan.stages:
        left, tasks = choice.left(stage), len(stage.tasks)
        row = [stage.id, ", ".join(stage.after) or "-", "done" if not left else f"{left} of {tasks}"]
        if choice.jobs is not None:
            row += [
                job_words(choice.jobs.of(stage.id), choice.profile.cluster.resources(stage.spec.resources).at_once),
                f"{hours[stage.id]:,.1f}" if hours[stage.id] else "-",
            ]
        table.add_row(*row, style="" if left else "dim", end_section=True)
    console.print(table, soft_wrap=False)
    console.print()
    for kinds, words in sections(choice) if choice.jobs else ():
        console.print(f"job of {kinds}: {words}", style="dim")
    for line in [*sum_lines(choice), *warnings(choice)]:
        console.print(line, style="bold" if line.startswith(("total", "ceiling", "warning")) else "dim")
    if choice.jobs is not None and not choice.everything and choice.stage is None and choice.jobs.jobs:
        console.print("above, one batch script of each kind; more of them: --stage STAGE, or --all", style="dim")
