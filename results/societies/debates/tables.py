"""Tables of README.md.

python tables.py cheaper RUN...      seeds of one way to debate after those of another, the full debate first
python tables.py agreed RUN...       seeds of one method, full debates
python tables.py weighted RUN...     the same
python tables.py alarm RUN...
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from hpcmaf.debate.consensus import consensus
from hpcmaf.evaluation.accuracy import own_measure
from hpcmaf.evaluation.significance import compare, holm, outcomes
from hpcmaf.evaluation.alarm import best, readings, rung
from hpcmaf.run.directory import RunDir
from hpcmaf.store.reader import Store


def metrics(run: RunDir, t: int) -> dict:
    return json.loads(run.metrics(t).read_text())


def right(run: RunDir, t: int) -> dict[str, bool]:
    found = metrics(run, t)
    return outcomes(found, own_measure(found))


def share(marks: dict[str, bool]) -> float:
    return sum(marks.values()) / len(marks)


def tokens(run: RunDir, t: int, kind: str) -> float:
    """Prompt and completion tokens per problem."""
    rows = [row for row in json.loads(run.ledger(t).read_text())["rows"] if row["stage"] == kind]
    with Store(run.store(t, kind)) as store:
        return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows) / len(store)


def ended(run: RunDir, t: int) -> float:
    with Store(run.store(t, "eval")) as store:
        return sum(debate.ended == 1 for debate in store) / len(store)


def cheaper(groups: list[list[RunDir]]) -> None:
    """Each group is the seeds of one way to debate; the first is the full debate."""
    rows, values, (full, *others) = [], [], groups
    for runs in others:
        for t in full[0].iterations():
            test = compare([(right(a, t), right(b, t)) for a, b in zip(full, runs, strict=True)])
            values.append(test.p)
            whole, spent = (sum(tokens(run, t, "eval") for run in group) / len(group) for group in (full, runs))
            train = [sum(tokens(run, t, "debate") for run in group) for group in (full, runs)] if t else []
            trained = f"{1 - train[1] / train[0]:.1%}" if t else "–"
            before, after = (sum(share(right(run, t)) for run in group) / len(group) for group in (full, runs))
            over = sum(ended(run, t) for run in runs) / len(runs)
            name = runs[0].root.name.rpartition("-seed")[0]
            rows.append(
                f"| {name} | {t} | {over:.1%} | {whole:.0f} | {spent:.0f} | {1 - spent / whole:.1%} | {trained} | {before:.1%} | "
                f"{after:.1%} | {100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f}) | {test.p:.2g} "
            )
    print("| run | iteration | over in round 1 | tokens, full | tokens | saved | saved in training | full | accuracy |"
          " points (95 %) | p | Holm |\n" + "|---" * 12 + "|")  # fmt: skip
    for row, p in zip(rows, holm(values), strict=True):
        print(f"{row}| {p:.2g} |")


def before_and_after(pairs: list[tuple[dict[str, bool], dict[str, bool]]]) -> str:
    """Cells with the accuracies of two ways to count the debates of some runs, and their test."""
    test, (a, b) = compare(pairs), ({(n, id): one for n, two in enumerate(pairs) for id, one in two[k].items()} for k in (0, 1))
    points = f"{100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f})"
    return f"{share(a):.1%} | {share(b):.1%} | {points} | {test.p:.2g}"


def agreed(runs: list[RunDir]) -> None:
    """What ending full debates in the first round would save and change where all agents agree in it."""
    print("| iteration | unanimous in round 1 | of these right | tokens saved | votes changed | full | stopped |"
          " points (95 %) | p |\n" + "|---" * 9 + "|")  # fmt: skip
    for t in runs[0].iterations():
        pairs, ended, rights, changed, saved, spent = [], 0, 0, 0, 0, 0
        for run in runs:
            full, stopped, seed = {}, {}, run.load_plan().recipe["seed"]
            with Store(run.store(t, "eval")) as store:
                debates = list(store.transcripts(gold=True))
            for debate in debates:
                first, last = (consensus(debate, m, seed, t) for m in (1, debate.rounds))
                early = all(first.agrees) and first.answer is not None
                full[debate.problem.id], right = debate.right(last.answer), debate.right(first.answer)
                stopped[debate.problem.id] = right if early else full[debate.problem.id]
                costs = {m: 0 for m in range(1, debate.rounds + 1)}
                for turn in debate.completions:
                    costs[turn.round] += turn.prompt_tokens + turn.completion_tokens
                spent += sum(costs.values())
                if early:
                    ended, rights, saved = ended + 1, rights + right, saved + sum(costs.values()) - costs[1]
                    changed += last.answer is None or not debate.same(first.answer, last.answer)
            pairs.append((full, stopped))
        count = sum(len(full) for full, _ in pairs)
        facts = f"{ended / count:.1%} | {rights / ended:.1%} | {saved / spent:.1%} | {changed} of {ended}"
        print(f"| {t} | {facts} | {before_and_after(pairs)} |")


def weighted(runs: list[RunDir]) -> None:
    """What weights of how often agents agreed with the votes of training debates change in votes of evaluation."""
    print("| iteration | weights, least to most | votes tied | changed | plurality | weighted | points (95 %) | p |\n" + "|---" * 8 + "|")
    for t in list(runs[0].iterations())[1:]:
        pairs, tied, changed, weights = [], 0, 0, []
        for run in runs:
            plain, weighed, seed = {}, {}, run.load_plan().recipe["seed"]
            with Store(run.store(t, "debate")) as store:
                agrees = [consensus(debate, debate.rounds, seed, t).agrees for debate in store]
            own = tuple(sum(agent) / len(agrees) for agent in zip(*agrees))
            weights += own
            with Store(run.store(t, "eval")) as store:
                for debate in store.transcripts(gold=True):
                    before, after = (consensus(replace(debate, weights=w), debate.rounds, seed, t) for w in ((), own))
                    plain[debate.problem.id], weighed[debate.problem.id] = debate.right(before.answer), debate.right(after.answer)
                    tied += before.tied
                    changed += before.agrees != after.agrees
            pairs.append((plain, weighed))
        count = sum(len(plain) for plain, _ in pairs)
        facts = f"{min(weights):.2f} to {max(weights):.2f} | {tied / count:.1%} | {changed} of {count}"
        print(f"| {t} | {facts} | {before_and_after(pairs)} |")


def alarm(runs: list[RunDir]) -> None:
    print("| run | accuracy by iteration | falls | alarm | kept | its accuracy | of the last | |\n" + "|---" * 8 + "|")
    for run in runs:
        found = readings(run)
        marks = [right(run, one.iteration) for one in found]
        falls = None
        for t in range(1, len(marks)):
            peak = max(marks[:t], key=share)
            if falls is None and share(marks[t]) <= share(peak) - 0.05:
                falls = t
        first = rung(found)
        kinds = {(True, True): "hit", (True, False): "miss", (False, True): "false alarm", (False, False): "quiet"}
        curve = " ".join(f"{100 * share(one):.1f}" for one in marks)
        why = f"{first.iteration}: {'; '.join(first.alarm)}" if first else "–"
        kept = best(found)
        print(
            f"| {run.root.name} | {curve} | {'–' if falls is None else falls} | {why} | {kept} | "
            f"{share(marks[kept]):.1%} | {share(marks[-1]):.1%} | {kinds[falls is not None, first is not None]} |"
        )


if __name__ == "__main__":
    which, *paths = sys.argv[1:]
    given = [RunDir(Path(path)) for path in paths]
    if which == "cheaper":
        groups = groupby(given, lambda run: run.root.name.rpartition("-seed")[0])
        cheaper([list(runs) for _, runs in groups])
    elif which == "agreed":
        agreed(given)
    elif which == "weighted":
        weighted(given)
    else:
        alarm(given)
