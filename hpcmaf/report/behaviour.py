"""Tables of what debates do: agents, corrections, sycophancy, diversity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hpcmaf.report.compare import TEST, Test, family
from hpcmaf.report.groups import Group
from hpcmaf.report.learned import health_table, learned_table
from hpcmaf.report.records import Iteration
from hpcmaf.report.table import NONE, Table, estimate, iteration_name, percent

# Of more agents only the range is shown.
MOST_AGENTS = 8
DIVERSITY = {
    "disagreement": "1 − consensus",
    "embedding": "embedding",
    "nll": "NLL under others",
    "kl_agents": "KL between agents",
    "kl_base": "KL to the base",
}


def behaviour_tables(group: Group) -> list[Table]:
    """All that the runs of a group have the metrics for."""
    makers = (health_table, learned_table, _agents, _debate_tests, _movement, diversity_table)
    return [table for make in makers if (table := make(group)).rows]


def _each(group: Group, key: str) -> Iterator[tuple[int, int]]:
    """Iterations, and positions in the list below a key that all runs have."""
    for t in group.complete:
        for at in range(min(len(iteration.metrics.get(key, ())) for iteration in group.at(t))):
            yield t, at


def _agents(group: Group) -> Table:
    """Accuracy of every agent and of the vote, round by round."""
    found = [i.metrics["rounds"][0]["agents"] for t in group.complete for i in group.at(t)]
    agents = min(map(len, found), default=0)
    named = agents <= MOST_AGENTS
    rows = []
    for t, m in _each(group, "rounds"):
        each = [group.over(t, lambda i, m=m, n=n: i.metrics["rounds"][m]["agents"][n]) for n in range(agents)]
        values = [point["value"] for point in each if point]
        cells = map(estimate, each) if named else [f"{percent(min(values))} to {percent(max(values))}"]
        both = (group.over(t, lambda i, m=m, key=key: i.metrics["rounds"][m][key]) for key in ("mean", "vote"))
        rows.append((iteration_name(t), str(m + 1), *cells, *map(estimate, both)))
    names = [f"agent {n}" for n in range(agents)] if named else [f"{agents} agents"]
    note = "Percent right ± standard error over problems. Round 1: generators; later rounds: critics."
    return Table(f"{group.label}: every agent", ("iteration", "round", *names, "mean", "vote"), tuple(rows), note)


def _debate_tests(group: Group) -> Table:
    """Whether debating beats voting on first answers, iteration by iteration, on the same problems."""
    tests = []
    for t in group.complete:
        votes = [(iteration.right("vote@1"), iteration.right("vote@M")) for iteration in group.at(t)]
        pairs = [(first, last) for first, last in votes if first and last]
        tests += [Test.of(pairs, text=iteration_name(t))] if pairs else []
    rows = tuple((one.text, *one.cells) for one in family(tests))
    title = f"{group.label}: the last round's vote against the first round's"
    note = "Paired by problem: bootstrap interval, exact test, adjusted over the iterations."
    return Table(title, ("iteration", *TEST), rows, note)


def _movement(group: Group) -> Table:
    """How often debates correct, corrupt, and talk an agent out of a right answer."""
    moves = [move for run in group.runs for i in run.evaluated for move in i.metrics.get("movement", ())]
    names = list(dict.fromkeys(name for move in moves for name in move if name != "round"))
    rows = []
    for t, at in _each(group, "movement"):
        reads = [lambda i, at=at, name=name: i.metrics["movement"][at].get(name) for name in names]
        rows.append((iteration_name(t), str(at + 2), *(_counted(group, t, read) for read in reads)))
    note = (
        "Percent ± standard error over problems, of the opportunities in brackets. Corrected, corrupted: wrong answers "
        "that are right a round later, right ones that are wrong. Majority, split corrected: of wrong votes that more "
        "than half gave, and of those that no more than half did. Gave up: an agent that was right, against more than "
        "half of the others with one wrong answer, took theirs over. Persuaded: one that was wrong, against more than "
        "half of the others with the right answer, was right a round later."
    )
    header = ("iteration", "round", *(name.replace("_", " ") for name in names))
    return Table(f"{group.label}: what debating does", header, tuple(rows), note)


def _counted(group: Group, t: int, read: Callable[[Iteration], Mapping[str, Any] | None]) -> str:
    """A share of opportunities, and of how many in all runs."""
    of = sum(one["of"] for i in group.at(t) if (one := read(i)))
    return f"{estimate(group.over(t, read))} (of {of:,})"


def diversity_table(group: Group) -> Table:
    """All measures of diversity that are there."""
    found = {
        name: {t: group.over(t, lambda i, name=name: i.diverse(name)) for t in group.complete} for name in DIVERSITY
    }
    there = {name: points for name, points in found.items() if any(points.values())}
    rows = []
    for t in group.complete if there else ():
        points = (points[t] for points in there.values())
        rows.append((iteration_name(t), *(f"{p['value']:.4f} ± {p['se']:.4f}" if p else NONE for p in points)))
    note = "Mean over problems ± standard error, final round."
    if len(there) > 1:
        note += (
            " Embedding: 1 - cosine of two agents' responses. NLL (nats per token) of a critic's response under "
            "another critic; KL (nats per token) from the agent that wrote a response, estimated on its tokens."
        )
    if len(set(group.any.model.split(" + "))) > 1:
        note += " Agents of different vocabularies have no likelihoods or KL of each other's responses."
    return Table(f"{group.label}: diversity", ("iteration", *(DIVERSITY[name] for name in there)), tuple(rows), note)
