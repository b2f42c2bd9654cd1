"""Tables of what debates do: agents, corrections, sycophancy, specialisation, curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hpcmaf.evaluation import compare, outcomes, ratio
from hpcmaf.report.groups import Group
from hpcmaf.report.learned import learned_table
from hpcmaf.report.paired import TEST, Test, family
from hpcmaf.report.records import Iteration
from hpcmaf.report.sections import cell, estimate, iteration_name, percent
from hpcmaf.report.table import NONE, Table

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
Read = Callable[[Iteration], Mapping[str, Any] | None]


def behaviour_tables(group: Group) -> list[Table]:
    """All that the runs of a group have the metrics for."""
    makers = (learned_table, _agents, _debate_tests, _movement, _errors, _specialisation, _curves, diversity_table)
    return [table for make in makers if (table := make(group)) and table.rows] + list(_kinds(group))


def _part(*keys: str | int) -> Read:
    """Reads a metric that stands below these keys."""

    def read(iteration: Iteration) -> Any:
        value: Any = iteration.metrics
        for key in keys:
            if isinstance(key, int):
                value = value[key] if value is not None and key < len(value) else None
            else:
                value = value.get(key) if value is not None else None
        return value

    return read


def _each(group: Group, key: str) -> Iterator[tuple[int, int]]:
    """Iterations, and positions in the list below a key that all runs have."""
    for t in group.complete:
        for at in range(min((len(_part(key)(iteration) or ()) for iteration in group.at(t)), default=0)):
            yield t, at


def _agents(group: Group) -> Table:
    """Accuracy of every agent and of the vote, round by round."""
    first = _part("rounds", 0, "agents")
    agents = max((len(first(iteration)) for t in group.complete for iteration in group.at(t)), default=0)
    named = agents <= MOST_AGENTS
    rows = []
    for t, m in _each(group, "rounds"):
        each = [group.over(t, _part("rounds", m, "agents", n)) for n in range(agents)]
        values = [point.value for point in each if point]
        cells = [cell(point) for point in each] if named else [f"{percent(min(values))} to {percent(max(values))}"]
        both = [cell(group.over(t, _part("rounds", m, key))) for key in ("mean", "vote")]
        rows.append((iteration_name(t), str(m + 1), *cells, *both))
    names = [f"agent {n}" for n in range(agents)] if named else [f"{agents} agents"]
    note = "Percent right ± standard error over problems. Round 1: generators; later rounds: critics."
    return Table(f"{group.label}: every agent", ("iteration", "round", *names, "mean", "vote"), tuple(rows), note)


def _debate_tests(group: Group) -> Table:
    """Whether debating beats voting on first answers, iteration by iteration, on the same problems."""
    tests, both = [], ("vote@1", "vote@M")
    for t in group.complete:
        measured = [i.metrics for i in group.at(t) if i.metrics and set(both) <= i.metrics["accuracy"].keys()]
        if measured:
            result = compare([(outcomes(one, both[0]), outcomes(one, both[1])) for one in measured])
            tests.append(Test(text=iteration_name(t), result=result))
    rows = [(one.text, *one.cells) for one in family(tests)]
    title = f"{group.label}: the last round's vote against the first round's"
    note = "Paired by problem: bootstrap interval, exact test, adjusted over the iterations."
    return Table(title, ("iteration", *TEST), tuple(rows), note)


def _movement(group: Group) -> Table:
    """How often debates correct, corrupt, and talk an agent out of a right answer."""
    rows = []
    moves = [move for run in group.runs for i in run.evaluated for move in (i.metrics or {}).get("movement", [])]
    names = [name for name in _MOVES if any(name in move for move in moves)]
    for t, at in _each(group, "movement"):
        cells = []
        for name in names:
            read = _part("movement", at, name)
            cells.append(cell(group.over(t, read), sum(one["of"] for i in group.at(t) if (one := read(i)))))
        rows.append((iteration_name(t), str(at + 2), *cells))
    note = (
        "Percent ± standard error over problems, of the opportunities in brackets. Corrected, corrupted: wrong answers "
        "that are right a round later, right ones that are wrong. Majority, split corrected: of wrong votes that more "
        "than half gave, and of those that no more than half did. Gave up: an agent that was right, against more than "
        "half of the others with one wrong answer, took theirs over. Persuaded: one that was wrong, against more than "
        "half of the others with the right answer, was right a round later."
    )
    header = ("iteration", "round", *(_MOVES[name] for name in names))
    return Table(f"{group.label}: what debating does", header, tuple(rows), note)


# Of each problem whether the first vote is right, whether some first answer is, and whether the last vote is: when it
# counts, and what is counted.
_ERRORS: dict[str, tuple[Callable[..., bool], Callable[..., bool]]] = {
    "first vote wrong": (lambda vote, some, last: True, lambda vote, some, last: not vote),
    "somebody right": (lambda vote, some, last: not vote, lambda vote, some, last: some),
    "then found": (lambda vote, some, last: some and not vote, lambda vote, some, last: last),
    "found though nobody had it": (lambda vote, some, last: not (vote or some), lambda vote, some, last: last),
}


def _errors(group: Group) -> Table:
    """Whether a wrong vote had a right answer beside it, and whether the last vote found it.

    A debate can only pick an answer that an agent has given, or work the problem out
    anew. Which of the two there was to do says why critics gain much or
    little: nothing to pick, or right answers that they let go.
    """
    rows = []
    for t in group.complete:
        found = [i for i in group.at(t) if len(_part("scores", "agents")(i) or ()) > 1]
        if found:
            points = {name: group.over(t, lambda i, name=name: _share(i, name)) for name in _ERRORS}
            counts = {name: sum(_share(i, name)["of"] for i in found) for name in _ERRORS}
            cells = [cell(points[name], counts[name] if at else None) for at, name in enumerate(_ERRORS)]
            rows.append((iteration_name(t), *cells))
    note = (
        "Percent ± standard error over problems, of how many in brackets. First vote wrong: the majority of the first "
        "answers. Somebody right: of those problems, where an agent's first answer is right. Then found, and found "
        "though nobody had it: the last round's vote is right after all."
    )
    return Table(f"{group.label}: where the first vote is wrong", ("iteration", *_ERRORS), tuple(rows), note)


def _share(iteration: Iteration, name: str) -> Mapping[str, Any] | None:
    agents = _part("scores", "agents")(iteration) or ()
    if len(agents) < 2:
        return None
    counts, happens = _ERRORS[name]
    some = ["1" in each for each in zip(*agents[0], strict=True)]
    first, last = ([mark == "1" for mark in marks] for marks in iteration.votes)
    each = [(counts(*one), happens(*one)) for one in zip(first, some, last, strict=True)]
    return ratio([int(counted and happened) for counted, happened in each], [int(counted) for counted, _ in each])


def _specialisation(group: Group) -> Table:
    """Whether agents are right on different problems."""
    rows = []
    for t, m in _each(group, "rounds"):
        figures = [
            group.over(t, _part("rounds", m, "specialisation", name))
            for name in ("oracle", "gap", "unanimous", "disagreement")
        ]
        if figures[0] is None:
            continue
        alone = [_part("rounds", m, "specialisation", "independent")(iteration) for iteration in group.at(t)]
        values = [value for value in alone if value is not None]
        independent = percent(sum(values) / len(values)) if values else NONE
        rows.append((iteration_name(t), str(m + 1), *map(cell, figures), independent))
    note = (
        "Percent of problems ± standard error. Oracle: some agent is right; missed: some agent is, the vote is not; "
        "one of two: exactly one of two agents is right, mean over pairs, and what that would be if agents of these "
        "accuracies were right independently of each other."
    )
    header = ("iteration", "round", "oracle", "missed", "all right", "one of two", "if independent")
    return Table(f"{group.label}: who is right where", header, tuple(rows), note)


def _curves(group: Group) -> Table:
    """pass@k and majority@k at the first and the last iteration."""
    rows: list[tuple[str, ...]] = []
    longest: list[int] = []
    for t, at in _each(group, "curves"):
        ks = [_part("curves", at, "k")(iteration) for iteration in group.at(t)]
        if t not in (group.complete[0], group.complete[-1]) or len(ks[0]) < 2 or any(one != ks[0] for one in ks):
            continue
        longest = max(longest, ks[0], key=len)
        m = _part("curves", at, "round")(group.at(t)[0])
        for kind in ("pass", "majority"):
            cells = [cell(group.over(t, _part("curves", at, kind, k))) for k in range(len(ks[0]))]
            rows.append((f"{iteration_name(t)}, round {m}, {kind}", *cells))
    padded = tuple(row + (NONE,) * (1 + len(longest) - len(row)) for row in rows)
    note = "Percent ± standard error; k of the N agents' answers, unbiased: every subset of k counts."
    return Table(f"{group.label}: k answers", ("iteration", *(f"k = {k}" for k in longest)), padded, note)


def diversity_table(group: Group) -> Table:
    """All measures of diversity that are there."""
    reads = {name: (lambda i, name=name: i.diverse(name)) for name in DIVERSITY}
    there = [name for name in DIVERSITY if any(group.over(t, reads[name]) for t in group.complete)]
    rows = []
    for t in group.complete if there else ():
        found = [group.over(t, reads[name]) for name in there]
        rows.append((iteration_name(t), *(NONE if p is None else f"{p.value:.4f} ± {p.se:.4f}" for p in found)))
    note = "Mean over problems ± standard error, final round."
    if len(there) > 1:
        note += (
            " Embedding: 1 - cosine of two agents' responses. NLL (nats per token) of a critic's response under "
            "another critic; KL (nats per token) from the agent that wrote a response, estimated on its tokens."
        )
    return Table(f"{group.label}: diversity", ("iteration", *(DIVERSITY[name] for name in there)), tuple(rows), note)


def _kinds(group: Group) -> Iterator[Table]:
    """Accuracy by kind of problem in the last round of the last iteration, of the first run that has it."""
    run = next((run for run in group.runs if run.last and _part("by_kind")(run.last)), None)
    for key, values in (_part("by_kind")(run.last) if run else {}).items():
        agents = min(len(one["agents"]) for one in values.values())
        agents = 0 if agents > MOST_AGENTS else agents
        rows = tuple(
            (value, f"{one['problems']:,}", *(estimate(a) for a in one["agents"][:agents]), estimate(one["vote"]))
            for value, one in values.items()
        )
        note = "Percent right in the last round ± standard error." + f" Run {run.name}." * (len(group.runs) > 1)
        header = (key, "problems", *(f"agent {n}" for n in range(agents)), "vote")
        yield Table(f"{group.label}: by {key}, iteration {run.last.number}", header, rows, note)
