"""A few debates to read: some of every outcome, from the first and the last iteration of each recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from hpcmaf.errors import PlatformError, StoreError
from hpcmaf.report.groups import Group
from hpcmaf.report.records import Iteration, Run
from hpcmaf.run.directory import RunDir
from hpcmaf.seeding import derive_seed

# Whether the vote of the first round is right, and that of the last.
OUTCOMES = {(0, 1): "corrected", (1, 0): "corrupted", (0, 0): "wrong", (1, 1): "right"}
# A page is to open on a laptop whatever the models wrote.
MOST_BYTES = 8_000_000


def choose(groups: Sequence[Group], most: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Pick debates and read them from the runs' stores.

    Every recipe that has stores gives as many, from its first run that has; the
    outcomes take turns, rare ones are not crowded out by debates that went
    well, and which of an outcome is drawn with a fixed seed. Damaged stores
    are added to their run's ``missing``.

    Returns
    -------
    tuple
        The debates as JSON values, and notes about those that are not there.
    """
    shown, notes, size = [], [], 0
    sources = [(group, *source) for group in groups if (source := _source(group))]
    if without := [group.label for group in groups if not _source(group)]:
        notes.append(f"No eval.h5 beside the metrics, so no debate to show, of: {', '.join(without)}.")
    for group, run, iterations in sources:
        for iteration in iterations:
            for debate in _read(run, iteration, max(1, most // len(sources) // len(iterations))):
                size += len(json.dumps(debate))
                if size > MOST_BYTES:
                    notes.append(f"more than {MOST_BYTES:,} bytes of debates: the rest was left out")
                    return shown, notes
                shown.append(debate | {"group": group.label})
    return shown, notes


def _source(group: Group) -> tuple[Run, list[Iteration]] | None:
    """The first run with stores, and its first and last iteration that have one."""
    for run in group.runs:
        found = [i for i in run.evaluated if RunDir(run.root).store(i.number, "eval").is_file()]
        if found:
            return run, found[-1:] if found[0] is found[-1] else [found[-1], found[0]]
    return None


def _read(run: Run, iteration: Iteration, count: int) -> Iterator[dict[str, Any]]:
    from hpcmaf.store import Store

    path = RunDir(run.root).store(iteration.number, "eval")
    try:
        with Store(path) as store:
            for problem, outcome in _pick(run, iteration, count):
                yield _debate(run, iteration, store.find(problem, gold=True), outcome)
    except (PlatformError, StoreError) as error:
        run.missing.append(f"{path.relative_to(run.root).as_posix()}: {error}; its debates are not on the page")


def _pick(run: Run, iteration: Iteration, count: int) -> list[tuple[str, str]]:
    piles: dict[str, list[str]] = {outcome: [] for outcome in OUTCOMES.values()}
    first, last = iteration.right("vote@1") or iteration.right("answer"), iteration.right()
    for problem, before in first.items():
        piles[OUTCOMES[before, last[problem]]].append(problem)
    for pile in piles.values():
        pile.sort(key=lambda problem: derive_seed(0, iteration.number, problem, "page"))
    picked: list[tuple[str, str]] = []
    while len(picked) < count and any(piles.values()):
        picked += [(pile.pop(), outcome) for outcome, pile in piles.items() if pile]
    return picked[:count]


def _debate(run: Run, iteration: Iteration, transcript: Any, outcome: str) -> dict[str, Any]:
    from hpcmaf.debate.consensus import consensus

    scores, rounds = iteration.metrics["scores"], []
    position = scores["problem_ids"].index(transcript.problem.id)
    # The evaluation's own marks, which files of earlier versions lack: grading again may mean to run programs again.
    marks = [[agent[position] == "1" for agent in turn] for turn in scores.get("agents", ())]
    for m, turns in enumerate(transcript.answers[: transcript.ended], start=1):
        right = marks[m - 1] if marks else [transcript.right(turn.answer) for turn in turns]
        vote = consensus(transcript, m, run.recipe.seed, iteration.number)
        voted = any(mark for turn, mark in zip(turns, right, strict=True) if turn.answer == vote.answer)
        read = transcript.summaries[m - 2] if m > 1 and transcript.summaries else ()
        rounds.append(
            {
                "answers": [
                    {"text": turn.text, "answer": turn.answer, "right": mark, "agrees": agrees}
                    for turn, mark, agrees in zip(turns, right, vote.agrees, strict=True)
                ],
                "summaries": [summary.text for summary in read],
                "vote": {"answer": vote.answer, "votes": vote.votes, "tied": vote.tied, "right": voted},
            }
        )
    return {
        "run": run.name,
        "iteration": iteration.number,
        "id": transcript.problem.id,
        "outcome": outcome,
        "question": transcript.problem.question,
        "gold": transcript.problem.gold,
        "meta": dict(transcript.problem.meta),
        "rounds": rounds,
    }
