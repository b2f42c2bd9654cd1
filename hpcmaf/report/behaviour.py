"""Tables of what debates do: agents, corrections, sycophancy, specialisation, curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcmaf.evaluation import compare, holm, outcomes
from hpcmaf.report.groups import Group
from hpcmaf.report.learned import learned_table
from hpcmaf.report.records import Iteration
from hpcmaf.report.sections import NONE, cell, estimate, iteration_name, p_value, percent, points
from hpcmaf.report.tables import Table
from hpcmaf.report.wrong import errors_table

# Of more agents only the range is shown.
MOST_AGENTS = 8
_MOVES = {
    "corrected": "corrected",
    "corrupted": "corrupted",
    "vote_corrected": "vote corrected",
    "vote_corrupted": "vote corrupted",
    "majority_corrected": "majority corrected",
    "split_corrected": "split corrected",
    "gave_up": "gave up",
    "persuaded": "persuaded",
}
DIVERSITY = {
    "disagreement": "1 − consensus",
    "embedding": "embedding",
    "embedding_matching": "embedding, matching the vote",
    "nll": "NLL under others",
    "kl_agents": "KL between agents",
    "kl_base": "KL to the base",
}


def behaviour_tables(group: Group) -> list[Table]:
    """All that the runs of a group have the figures for."""
    makers = (
        learned_table,
        agents_table,
        debate_tests,
        movement_table,
        errors_table,
        specialisation_table,
        curves_table,
        diversity_table,
    )
    found = [make(group) for make in makers] + kind_tables(group)
    return [table for table in found if table is not None]


def _rounds(group: Group, t: int) -> int:
    """Rounds that all runs have at iteration t."""
    return min((len(i.metrics["rounds"]) for i in group.at(t) if i.metrics), default=0)


def _part(m: int, *keys: str | int) -> Any:
    """Reads a figure of round m."""

    def read(iteration: Iteration) -> Mapping[str, Any] | None:
        value: Any = iteration.metrics["rounds"][m - 1] if iteration.metrics else None
        for key in keys:
            if isinstance(key, int):
                value = value[key] if value is not None and key < len(value) else None
            else:
                value = value.get(key) if value is not None else None
        return value

    return read


def agents_table(group: Group) -> Table | None:
    """Accuracy of every agent and of the vote, round by round."""
    agents = max((len(i.metrics["rounds"][0]["agents"]) for t in group.complete for i in group.at(t)), default=0)
    named = agents <= MOST_AGENTS
    rows = []
    for t in group.complete:
        for m in range(1, _rounds(group, t) + 1):
            each = [group.over(t, _part(m, "agents", n)) for n in range(agents)]
            if named:
                cells = [cell(point) for point in each]
            else:
                values = [point.value for point in each if point]
                cells = [f"{percent(min(values))} to {percent(max(values))}"]
            mean, vote = group.over(t, _part(m, "mean")), group.over(t, _part(m, "vote"))
            rows.append((iteration_name(t), str(m), *cells, cell(mean), cell(vote)))
    if not rows:
        return None
    names = [f"agent {n}" for n in range(agents)] if named else [f"{agents} agents"]
    return Table(
        f"{group.label}: every agent",
        ("iteration", "round", *names, "mean", "vote"),
        tuple(rows),
        "Percent right ± standard error over problems. Round 1: generators; later rounds: critics.",
    )


def debate_tests(group: Group) -> Table | None:
    """Whether debating beats voting on first answers, iteration by iteration, on the same problems."""
    found = []
    for t in group.complete:
        both = {"vote@1", "vote@M"}
        found_in = [i.metrics for i in group.at(t) if i.metrics and both <= i.metrics["accuracy"].keys()]
        if found_in:
            found.append((t, compare([tuple(outcomes(m, name) for name in sorted(both)) for m in found_in])))
    if not found:
        return None
    adjusted = holm([one.p for _, one in found])
    rows = [
        (iteration_name(t), *points(one), p_value(one.p), p_value(p))
        for (t, one), p in zip(found, adjusted, strict=True)
    ]
    return Table(
        f"{group.label}: the last round's vote against the first round's",
        ("iteration", "points", "95 %", "gained", "lost", "p", "p (Holm)"),
        tuple(rows),
        "Paired by problem: bootstrap interval, exact test, adjusted over the iterations.",
    )


def movement_table(group: Group) -> Table | None:
    """How often debates correct, corrupt and talk somebody out of a right answer."""
    rows = []
    all_moves = [move for run in group.runs for i in run.evaluated for move in (i.metrics or {}).get("movement", [])]
    names = [name for name in _MOVES if any(name in move for move in all_moves)]
    for t in group.complete:
        moves = [i.metrics.get("movement", []) for i in group.at(t) if i.metrics]
        for at in range(min(map(len, moves), default=0)):
            cells = []
            for name in names:

                def read(iteration: Iteration, at: int = at, name: str = name) -> Mapping[str, Any] | None:
                    return iteration.metrics["movement"][at].get(name) if iteration.metrics else None

                cells.append(cell(group.over(t, read), sum(move[at][name]["of"] for move in moves if name in move[at])))
            rows.append((iteration_name(t), str(moves[0][at]["round"]), *cells))
    if not rows:
        return None
    note = (
        "Percent ± standard error over problems, of the opportunities in brackets. Corrected, corrupted: wrong answers "
        "that are right a round later, right ones that are wrong. Majority, split corrected: of wrong votes that more "
        "than half gave, and of those that no more than half did. Gave up: an agent that was right, against more than "
        "half of the others with one wrong answer, took theirs over. Persuaded: one that was wrong, against more than "
        "half of the others with the right answer, was right a round later."
    )
    header = ("iteration", "round", *(_MOVES[name] for name in names))
    return Table(f"{group.label}: what debating does", header, tuple(rows), note)


def specialisation_table(group: Group) -> Table | None:
    """Whether agents are right on different problems."""
    rows = []
    names = ("oracle", "gap", "unanimous", "disagreement")
    for t in group.complete:
        for m in range(1, _rounds(group, t) + 1):
            figures = [group.over(t, _part(m, "specialisation", name)) for name in names]
            if figures[0] is None:
                continue
            alone = [_part(m, "specialisation", "independent")(iteration) for iteration in group.at(t)]
            values = [value for value in alone if value is not None]
            independent = percent(sum(values) / len(values)) if values else NONE
            rows.append((iteration_name(t), str(m), *map(cell, figures), independent))
    if not rows:
        return None
    note = (
        "Percent of problems ± standard error. Oracle: some agent is right; missed: some agent is, the vote is not; "
        "one of two: exactly one of two agents is right, mean over pairs, and what that would be if agents of these "
        "accuracies were right independently of each other."
    )
    header = ("iteration", "round", "oracle", "missed", "all right", "one of two", "if independent")
    return Table(f"{group.label}: who is right where", header, tuple(rows), note)


def curves_table(group: Group) -> Table | None:
    """pass@k and majority@k at the first and the last iteration."""
    rows: list[tuple[str, ...]] = []
    width = 0
    for t in sorted({group.complete[0], group.complete[-1]} if group.complete else ()):
        curves = [i.metrics.get("curves", []) for i in group.at(t) if i.metrics]
        for at in range(min(map(len, curves), default=0)):
            ks = curves[0][at]["k"]
            if any(curve[at]["k"] != ks for curve in curves) or len(ks) < 2:
                continue
            for kind in ("pass", "majority"):
                cells = []
                for place in range(len(ks)):

                    def read(
                        iteration: Iteration, at: int = at, kind: str = kind, place: int = place
                    ) -> Mapping[str, Any] | None:
                        return iteration.metrics["curves"][at][kind][place] if iteration.metrics else None

                    cells.append(cell(group.over(t, read)))
                rows.append((f"{iteration_name(t)}, round {curves[0][at]['round']}, {kind}", *cells))
                width = max(width, len(cells))
    if not rows:
        return None
    longest = max(
        (
            curve["k"]
            for t in group.complete
            for i in group.at(t)
            if i.metrics
            for curve in i.metrics.get("curves", [])
        ),
        key=len,
    )
    padded = tuple(row + (NONE,) * (1 + width - len(row)) for row in rows)
    note = "Percent ± standard error; k of the N agents' answers, unbiased: every subset of k counts."
    return Table(f"{group.label}: k answers", ("iteration", *(f"k = {k}" for k in longest[:width])), padded, note)


def diversity_table(group: Group) -> Table | None:
    """All measures of diversity that are there."""
    there = {
        name: title
        for name, title in DIVERSITY.items()
        if any(group.over(t, lambda i, name=name: i.diverse(name)) for t in group.complete)
    }
    if not there:
        return None
    rows = []
    for t in group.complete:
        found = [group.over(t, lambda i, name=name: i.diverse(name)) for name in there]
        rows.append((iteration_name(t), *(NONE if p is None else f"{p.value:.4f} ± {p.se:.4f}" for p in found)))
    note = "Mean over problems ± standard error, final round."
    if len(there) > 1:
        note += (
            " Embedding: 1 - cosine of two agents' responses. NLL (nats per token) of a critic's response under "
            "another critic; KL (nats per token) from the agent that wrote a response, estimated on its tokens."
        )
    return Table(f"{group.label}: diversity", ("iteration", *there.values()), tuple(rows), note)


def kind_tables(group: Group) -> list[Table]:
    """Accuracy by kind of problem in the last round of the last iteration, of the first run that has it."""
    for run in group.runs:
        kinds = run.last.metrics.get("by_kind", {}) if run.last and run.last.metrics else {}
        tables = []
        for key, values in kinds.items():
            agents = min(len(one["agents"]) for one in values.values())
            if agents > MOST_AGENTS:
                agents = 0
            rows = tuple(
                (value, f"{one['problems']:,}", *(estimate(a) for a in one["agents"][:agents]), estimate(one["vote"]))
                for value, one in values.items()
            )
            header = (key, "problems", *(f"agent {n}" for n in range(agents)), "vote")
            title = f"{group.label}: by {key}, iteration {run.last.number}" if run.last else ""
            note = "Percent right in the last round ± standard error."
            tables.append(Table(title, header, rows, note + (f" Run {run.name}." if len(group.runs) > 1 else "")))
        if tables:
            return tables
    return []
