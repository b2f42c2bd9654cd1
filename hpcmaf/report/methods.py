"""The comparison of methods: accuracy, with the paper's values and marks of what differs from a baseline, and cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from hpcmaf.report.compare import LEVEL, Finding
from hpcmaf.report.groups import NO_HINT, Group, Point, together
from hpcmaf.report.table import NONE, Table, estimate, iteration_name, percent

UNHINTED = (
    f"{NO_HINT.strip()}: compact prompts have no words for gold as a hint; "
    "a wrong answer was asked for again as before."
)


class Row(NamedTuple):
    """A recipe after its final iteration: accuracy of its own way of answering, its test, what the paper printed."""

    group: Group
    point: Point
    tested: Finding | None
    paper: float | None


def method_tables(rows: Sequence[Row], baseline: str | None) -> list[Table]:
    """Of each model its recipes, and a column for every task that they are evaluated on: what goes into a paper."""
    quoted = any(row.paper is not None for row in rows)
    models = together(rows, lambda row: row.group.place[1])
    return [_table(found, model, baseline, quoted) for model, found in models.items()]


def _table(found: Sequence[Row], model: str, baseline: str | None, reference: bool) -> Table:
    tasks = sorted({row.group.place[0] for row in found})
    transferred = any(row.group.any.transferred for row in found)
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in found:
        name = (row.group.recipe, row.group.any.trained_on or NONE) if transferred else (row.group.recipe,)
        lines.setdefault(name, {})[row.group.place[0]] = row
    cells = [
        (*name, *(cell for task in tasks for cell in _cells(here.get(task), reference)))
        for name, here in sorted(lines.items())
    ]
    header = ["method", *["trained on"] * transferred]
    header += [title for task in tasks for title in (task, *["paper"] * reference)]
    runs = sorted({row.point["runs"] for row in found})
    ended = dict.fromkeys(row.group.ended for row in sorted(found, key=lambda row: row.group.numbers))
    note = "Percent: mean over runs ± standard error" if runs != [1] else "Percent ± standard error"
    note += " over evaluation problems, their population standard deviation over the square root of how many there are"
    note += ", of one run, not how far runs differ" if runs != [1] else ""
    note += f". Iterations: {', '.join(ended)}; runs each: {', '.join(map(str, runs))}."
    if transferred:
        note += " Columns: the task evaluated on. –: not trained, or not evaluated."
    if any("kept" in row.group.ended for row in found):
        note += " (kept): after the one that the alarm kept, of each run."
    if reference:
        note += " Paper: its value after as many iterations, on 500 problems of its own, where its settings are these."
    if baseline:
        note += f" *: differs from {baseline} on the same problems (exact paired test, p (Holm) < {LEVEL})."
    if any(row.group.any.unhinted for row in found):
        note += f" {UNHINTED}"
    return Table(f"Methods: {model}", tuple(header), tuple(cells), note)


def _cells(row: Row | None, reference: bool) -> list[str]:
    if row is None:
        return [NONE] * (1 + reference)
    mark = "*" * (row.tested is not None and row.tested.verdict != "open")
    return [estimate(row.point) + mark, *[percent(row.paper)] * reference]


# --- cost, summed from ledgers ---

SUMMED = ("prompt_tokens", "completion_tokens", "training_tokens", "calls", "wall_seconds", "gpu_seconds")
PEAK = "peak_memory_bytes"
# What a method needs to improve; the rest is for measuring it.
ROLLOUT = {"debate", "merge", "finetune"}


def total(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sum rows of a ``ledger.json``, seconds over jobs too; of ``peak_memory_bytes`` it is the highest."""
    rows = list(rows)
    sums: dict[str, float] = {name: sum(row.get(name) or 0 for row in rows) for name in SUMMED}
    return sums | {PEAK: max((row.get(PEAK) or 0 for row in rows), default=0)}


def spent(group: Group) -> dict[str, float] | None:
    """What a recipe cost up to its final iteration: means over its ``runs`` with whole ledgers; ``None`` without any.

    ``generated`` and ``trained`` tokens, ``gpu_seconds`` and ``wall_seconds`` of what made the models; ``answering``:
    tokens per evaluation problem.
    """
    found = []
    for run, final in group.final.items():
        ledgers, last = run.ledgers, final.number
        if {last, *range(1, last + 1)} <= ledgers.keys():
            improving = total(row for t in range(1, last + 1) for row in ledgers[t] if row.get("stage") in ROLLOUT)
            answering = total(row for row in ledgers[last] if row.get("stage") not in ROLLOUT)
            cost = {name: improving[name] for name in ("gpu_seconds", "wall_seconds")}
            cost |= {"generated": _tokens(improving), "trained": improving["training_tokens"]}
            found.append(cost | {"answering": _tokens(answering) / final.metrics["problems"]})
    if not found:
        return None
    return {"runs": len(found)} | {name: statistics.fmean(one[name] for one in found) for name in found[0]}


def _tokens(cost: Mapping[str, float]) -> float:
    return cost["prompt_tokens"] + cost["completion_tokens"]


def cost_table(group: Group) -> Table:
    """Tokens and time per iteration, of a recipe with a single run."""
    rows, ledgers = [], sorted(group.any.ledgers.items() if len(group.runs) == 1 else ())
    found = sorted({row["base"] for _, ledger in ledgers for row in ledger if row.get("base")})
    bases = found if len(found) > 1 else []
    for t, ledger in ledgers:
        parts = {f", {PurePath(base).name}": [row for row in ledger if row.get("base") == base] for base in bases}
        for mark, part in ({"": ledger} | parts).items():
            cost = total(part)
            tokens = (f"{int(cost[name]):,}" for name in ("prompt_tokens", "completion_tokens", "training_tokens"))
            peak = f"{cost[PEAK] / 2**30:.2f}" if cost[PEAK] else NONE
            seconds = _seconds(cost, "wall_seconds"), _seconds(cost, "gpu_seconds")
            rows.append((f"{iteration_name(t)}{mark}", *tokens, *seconds, peak))
    header = ("iteration", "prompt tokens", "completion tokens", "training tokens", "wall s", "GPU s", "peak GiB")
    note = "Seconds are added up over jobs, also over those that ran side by side."
    note += " Those of one base are of its finetuning: a job's debates are of all bases together." * bool(bases)
    return Table(f"{group.any.name}: cost", header, tuple(rows), note)


def _seconds(cost: Mapping[str, float], name: str) -> str:
    return f"{cost[name]:,.1f}" if cost[name] else NONE


def method_cost_table(groups: Iterable[Group]) -> Table:
    """Tokens and time per method, and accuracy beside it."""
    rows = []
    for group in groups:
        if (cost := spent(group)) is None:
            continue
        point, answering = group.point(), cost["answering"]
        rows.append(
            (
                group.label,
                group.ended,
                estimate(point),
                *(f"{cost[name]:,.0f}" for name in ("generated", "trained")),
                _seconds(cost, "gpu_seconds"),
                _seconds(cost, "wall_seconds"),
                f"{answering:,.0f}",
                f"{1e5 * point['value'] / answering:,.1f}" if point and answering else NONE,
            )
        )
    header = (
        *("method", "iteration", "accuracy", "tokens debated", "tokens trained", "GPU s", "wall s"),
        *("tokens per problem", "points per 1,000 tokens"),
    )
    note = (
        "Mean over runs, added up from iteration 1 on: debates on training problems (prompt and completion tokens) and "
        "finetuning; evaluation is not counted. GPU s is shown where GPUs were used; seconds are added up over jobs. "
        "Tokens per evaluation problem, prompts included, of the method's own way of answering; points of accuracy for "
        "1,000 of them."
    )
    return Table("Cost by method", header, tuple(rows), note)
