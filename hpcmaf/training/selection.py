"""From debates to every agent's own training data (method, steps 2 to 4).

The label is the debate's own consensus; gold answers are never read. An agent
keeps what it said itself and the vote confirmed: a generator its first
answer, a critic its whole trajectory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from hpcmaf.debate.consensus import agrees, consensus
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.publish import atomic_path, write_json
from hpcmaf.store import Store
from hpcmaf.training.mixing import Mix, check_mix, drawer, mix_trajectories

SCHEMA = "hpcmaf-selection/1"
Label = Literal["positive", "negative"]


@dataclass
class Dataset:
    """One agent's data, by problem.

    Attributes
    ----------
    agent, round
        Agent name; the answers it gives are those of this round (1 for a
        generator, M for a critic).
    labels
        Candidates: problem id to ``"positive"`` or, for a trajectory that
        began wrong and ended right, ``"negative"``.
    kept
        The problems chosen out of them.
    """

    agent: str
    index: int
    round: int
    labels: dict[str, Label] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)

    def ids(self, label: Label) -> list[str]:
        """Candidates with a label, in the order of the store."""
        return [problem for problem, own in self.labels.items() if own == label]

    def counts(self) -> dict[str, Any]:
        """Figures for ``selection.json``; ``realised_w`` is ``None`` without any sample."""
        negatives = sum(self.labels[problem] == "negative" for problem in self.kept)
        return {
            "candidates": len(self.labels),
            "positives": len(self.ids("positive")),
            "negatives": len(self.ids("negative")),
            "kept": len(self.kept),
            "kept_positives": len(self.kept) - negatives,
            "kept_negatives": negatives,
            "realised_w": negatives / len(self.kept) if self.kept else None,
        }


@dataclass
class Selection:
    """What every agent is trained on, and how it came about.

    Attributes
    ----------
    datasets
        Generators first, then critics; with M = 1 critics have nothing.
    consensus
        Problem id to its consensus answer, labelled problems only.
    unlabelled
        Problems in which no final answer could be read: no consensus, no data.
    ties
        Problems whose consensus was drawn among tied classes.
    """

    datasets: list[Dataset]
    consensus: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    ties: int = 0


def select(transcripts: Iterable[Transcript], *, w: float, seed: int, iteration: int, mix: Mix = "exact") -> Selection:
    """Label debates by their consensus and choose every agent's data.

    Parameters
    ----------
    transcripts
        One iteration's debates, all with the same N and M.
    w
        Share of negatives in a critic's data, in [0, 1]; ``mix="released"``
        does not use it.
    seed, iteration
        Of the run; with agent and problem they decide every draw.
    mix
        See :mod:`hpcmaf.training.mixing`.

    Raises
    ------
    ConfigError
        ``w`` or ``mix`` is out of range.
    DataError
        A problem occurs twice, or debates differ in N or M.
    """
    check_mix(w, mix)
    chosen = Selection([])
    shape: tuple[int, int] | None = None
    seen: set[str] = set()
    for transcript in transcripts:
        problem, agents, rounds = transcript.problem.id, transcript.agents, transcript.rounds
        if shape is None:
            shape = (agents, rounds)
            chosen.datasets += [Dataset(f"generator-{n}", n, 1) for n in range(agents)]
            chosen.datasets += [Dataset(f"critic-{n}", n, rounds) for n in range(agents)]
        if (agents, rounds) != shape or problem in seen:
            what = "occurs twice" if problem in seen else f"has N={agents}, M={rounds} where others have N, M = {shape}"
            raise DataError(f"selection: problem {problem!r} {what}; select from the debates of one run and iteration")
        seen.add(problem)
        _label(transcript, chosen, seed, iteration)
    for dataset in chosen.datasets:
        if dataset.agent.startswith("generator"):
            dataset.kept = set(dataset.labels)
        else:
            draw = drawer(seed, iteration, dataset.agent)
            dataset.kept = mix_trajectories(dataset.ids("positive"), dataset.ids("negative"), w, mix, draw)
    return chosen


def _label(transcript: Transcript, chosen: Selection, seed: int, iteration: int) -> None:
    """File one debate under the agents whose answers its consensus confirms."""
    problem, rounds = transcript.problem.id, transcript.rounds
    vote = consensus(transcript, rounds, seed, iteration)
    if vote.answer is None:
        chosen.unlabelled.append(problem)
        return
    chosen.consensus[problem] = vote.answer
    chosen.ties += vote.tied
    for dataset in chosen.datasets:
        began_right = agrees(transcript.answers[0][dataset.index].answer, vote)
        if dataset.agent.startswith("generator"):
            if began_right:
                dataset.labels[problem] = "positive"
        elif rounds > 1 and vote.agrees[dataset.index]:
            dataset.labels[problem] = "positive" if began_right else "negative"


def line(transcript: Transcript, dataset: Dataset, answer: str) -> str:
    """One dataset line: the chat as TRL and OpenAI read it, and where it came from."""
    problem = transcript.problem.id
    record = {
        "messages": transcript.conversation(dataset.index, dataset.round),
        "problem_id": problem,
        "round": dataset.round,
        "label": dataset.labels[problem],
        "consensus": answer,
    }
    # Model output may hold lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def write_selection(store: Path, folder: Path, *, w: float, seed: int, mix: Mix = "exact") -> dict[str, Any]:
    """Write ``generator-n.jsonl``, ``critic-n.jsonl`` and ``selection.json``.

    The same store, seed, w and mix give the same bytes. Debates are read
    twice, so memory does not grow with their text.

    Parameters
    ----------
    store
        A merged store of training debates.
    folder
        Published whole; what it held before is replaced.

    Returns
    -------
    dict
        The content of ``selection.json``.

    Raises
    ------
    ConfigError
        ``w`` or ``mix`` is out of range.
    StoreError
        The store is damaged.
    """
    check_mix(w, mix)
    with Store(store) as debates:
        info = debates.info
        chosen = select(debates.transcripts(), w=w, seed=seed, iteration=info.iteration, mix=mix)
        summary = {
            "schema": SCHEMA,
            "task": info.task,
            "iteration": info.iteration,
            "agents": info.agents,
            "rounds": info.rounds,
            "seed": seed,
            "w": w,
            "mix": mix,
            "problems": len(debates),
            "labelled": len(chosen.consensus),
            "unlabelled": chosen.unlabelled,
            "ties": chosen.ties,
            "datasets": {dataset.agent: dataset.counts() for dataset in chosen.datasets},
        }
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            _write_lines(debates.transcripts, chosen, temporary)
            write_json(temporary / "selection.json", summary)
    return summary


def _write_lines(transcripts: Callable[[], Iterator[Transcript]], chosen: Selection, folder: Path) -> None:
    with ExitStack() as files:
        opened: list[tuple[Dataset, IO[str]]] = [
            (
                dataset,
                files.enter_context((folder / f"{dataset.agent}.jsonl").open("w", encoding="ascii", newline="\n")),
            )
            for dataset in chosen.datasets
        ]
        for transcript in transcripts():
            problem = transcript.problem.id
            for dataset, file in opened:
                if problem in dataset.kept:
                    file.write(line(transcript, dataset, chosen.consensus[problem]))
