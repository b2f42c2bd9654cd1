"""From debates to training data (method, steps 2 to 4, and the baselines' ways).

The label is the debate's own consensus; gold answers are read for STaR alone,
which is defined by them. In the method an agent keeps what it said itself and
the vote confirmed: a generator its first answer, a critic its whole
trajectory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from hpcmaf.answers import Vote
from hpcmaf.debate.consensus import agrees, consensus, others_agree
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.files.publish import atomic_path, write_json
from hpcmaf.selection.balance import Mix, check_mix, drawer, mix_trajectories
from hpcmaf.selection.pairs import opposed, pair_line
from hpcmaf.selection.sources import DATA, Dataset, LossOn, check_data, counts
from hpcmaf.store import Store

SCHEMA = "hpcmaf-selection/1"

Critics = Literal["all", "disputed"]
CutOff = Literal["drop", "keep"]
Thinking = Literal["keep", "strip"]


@dataclass
class Selection:
    """What every agent is trained on, and how it came about.

    Attributes
    ----------
    datasets
        Parts, in the order in which a file holds those of one problem. In the
        method: generators first, then critics; with M = 1 critics have nothing.
    consensus
        Problem id to its consensus answer (STaR: its gold answer), labelled
        problems only.
    unlabelled
        Problems in which no final answer could be read: no consensus, no data.
    ties
        Problems whose consensus was drawn among tied classes.
    """

    datasets: list[Dataset]
    consensus: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    ties: int = 0

    @property
    def files(self) -> dict[str, list[Dataset]]:
        """Parts by the model that is trained on them."""
        found: dict[str, list[Dataset]] = {}
        for dataset in self.datasets:
            found.setdefault(dataset.model, []).append(dataset)
        return found


def select(
    transcripts: Iterable[Transcript],
    *,
    w: float,
    seed: int,
    iteration: int,
    mix: Mix = "exact",
    data: str = "own",
    critics: Critics = "all",
    cut_off: CutOff = "drop",
    loss_on: LossOn = "last_turn",
) -> Selection:
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
        See :mod:`hpcmaf.selection.balance`.
    data
        Which answers become samples, and of whom: a key of ``DATA``. With
        ``"gold"`` transcripts need their gold answers.
    critics
        ``"disputed"`` keeps from a critic what the vote confirms although
        more than half of the others had one answer: to take that over is
        right so often that critics learn little else, and where it is wrong
        they all do, and confirm each other.
    cut_off
        Whether samples whose trained text was cut off by the limit on tokens
        are dropped: they would teach an agent to break off.
    loss_on
        Which turns of a sample are trained text.

    Raises
    ------
    ConfigError
        ``w``, ``mix`` or ``data`` is out of range.
    DataError
        A problem occurs twice, or debates differ in N or M.
    """
    check_mix(w, mix)
    check_data(data)
    parts, by_gold = DATA[data]
    chosen = Selection([])
    shape: tuple[int, int] | None = None
    seen: set[str] = set()
    for transcript in transcripts:
        problem, agents, rounds = transcript.problem.id, transcript.agents, transcript.rounds
        if shape is None:
            shape = (agents, rounds)
            if by_gold and shape != (1, 2):
                raise DataError(
                    f"selection: data 'gold' is for STaR's answers and their retries, not for debates of N={agents}, "
                    f"M={rounds}; use other data"
                )
            chosen.datasets += parts(agents, rounds)
        if (agents, rounds) != shape or problem in seen:
            what = "occurs twice" if problem in seen else f"has N={agents}, M={rounds} where others have N, M = {shape}"
            raise DataError(f"selection: problem {problem!r} {what}; select from the debates of one run and iteration")
        seen.add(problem)
        for dataset in chosen.datasets:
            played = rounds > 1 or not dataset.critic
            if played and any(turn.cut_off for turn in dataset.trained_turns(transcript, loss_on)):
                dataset.cut_off.add(problem)
        if by_gold:
            _label_by_gold(transcript, chosen, drop=cut_off == "drop")
        else:
            _label(transcript, chosen, seed, iteration, critics, drop=cut_off == "drop")
    for dataset in chosen.datasets:
        if dataset.mixed:
            draw = drawer(seed, iteration, dataset.agent)
            dataset.kept = mix_trajectories(dataset.ids("positive"), dataset.ids("negative"), w, mix, draw)
        else:
            dataset.kept = set(dataset.labels)
    return chosen


def _label(
    transcript: Transcript, chosen: Selection, seed: int, iteration: int, critics: Critics, *, drop: bool
) -> None:
    """File one debate under the parts whose answers its consensus confirms."""
    problem, rounds = transcript.problem.id, transcript.rounds
    vote = consensus(transcript, rounds, seed, iteration)
    if vote.answer is None:
        chosen.unlabelled.append(problem)
        return
    chosen.consensus[problem] = vote.answer
    chosen.ties += vote.tied
    for dataset in chosen.datasets:
        n, m = dataset.index, dataset.round
        if dataset.critic and rounds == 1 and (dataset.mixed or dataset.paired):
            continue  # nobody plays a critic
        if drop and problem in dataset.cut_off:
            continue
        if dataset.mixed and critics == "disputed" and others_agree(_answers(transcript, m - 1), n) is not None:
            continue
        began_right = agrees(transcript.answers[0][n].answer, vote)
        if dataset.paired:
            found = opposed(transcript, n, m, vote, _cut_off(transcript, m) if drop else ())
            if found is not None:
                dataset.sides[problem] = found
                dataset.labels[problem] = "positive" if began_right else "negative"
            continue
        if vote.agrees[n] if m == rounds else agrees(transcript.answers[m - 1][n].answer, vote):
            dataset.labels[problem] = "positive" if began_right else "negative"


def _answers(transcript: Transcript, m: int) -> list[str | None]:
    return [utterance.answer for utterance in transcript.answers[m - 1]]


def _cut_off(transcript: Transcript, m: int) -> set[int]:
    return {n for n, turn in enumerate(transcript.answers[m - 1]) if turn.cut_off}


def _label_by_gold(transcript: Transcript, chosen: Selection, *, drop: bool) -> None:
    """File one problem under whichever of its answers gold confirms first."""
    problem = transcript.problem
    if problem.gold is None:
        chosen.unlabelled.append(problem.id)
        return
    gold = Vote(problem.gold, (), 0, False)
    chosen.consensus[problem.id] = problem.gold
    for dataset in chosen.datasets:
        if drop and problem.id in dataset.cut_off:
            continue
        if agrees(transcript.answers[dataset.round - 1][dataset.index].answer, gold):
            dataset.labels[problem.id] = "positive" if dataset.round == 1 else "negative"
            return


def line(transcript: Transcript, dataset: Dataset, answer: str, thinking: Thinking = "keep") -> str:
    """One dataset line: the chat as TRL and OpenAI read it, and where it came from."""
    problem, turn = transcript.problem.id, transcript.answers[dataset.round - 1][dataset.index]
    messages = transcript.conversation(dataset.index, dataset.round)
    if thinking == "strip":
        messages[-1]["content"] = turn.spoken
    opening = transcript.opening(1 if dataset.fresh else dataset.round)
    if dataset.fresh:
        # The hint is forgotten: its answer stands behind the first prompt.
        first = transcript.answers[0][dataset.index].prompt
        messages = [*opening, {"role": "user", "content": first}, messages[-1]]
    record: dict[str, Any] = {
        "messages": messages,
        "problem_id": problem,
        "round": dataset.round,
        "label": dataset.labels[problem],
        "consensus": answer,
        "finish_reason": turn.finish_reason,
    }
    if opening:
        record["opening"] = len(opening)
    # Model output may hold lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def write_selection(
    store: Path,
    folder: Path,
    *,
    w: float,
    seed: int,
    mix: Mix = "exact",
    data: str = "own",
    critics: Critics = "all",
    cut_off: CutOff = "drop",
    loss_on: LossOn = "last_turn",
    thinking: Thinking = "keep",
) -> dict[str, Any]:
    """Write ``generator-n.jsonl``, ``critic-n.jsonl`` (or ``single.jsonl``) and ``selection.json``.

    The same store, seed, w and mix give the same bytes. Debates are read
    twice, so memory does not grow with their text.

    Parameters
    ----------
    store
        A merged store of training debates.
    folder
        Published whole; what it held before is replaced.
    data
        A key of ``DATA``.
    critics, cut_off, loss_on
        See :func:`select`.
    thinking
        Whether the trained turn keeps its thoughts. Earlier turns never have
        any: nobody was shown them.

    Returns
    -------
    dict
        The content of ``selection.json``.

    Raises
    ------
    ConfigError
        ``w``, ``mix`` or ``data`` is out of range.
    DataError
        Gold is to label the debates, and no problem has any.
    StoreError
        The store is damaged.
    """
    check_mix(w, mix)
    check_data(data)
    _, by_gold = DATA[data]
    with Store(store) as debates:
        info = debates.info
        transcripts = debates.transcripts(gold=by_gold)
        choice: dict[str, Any] = {"mix": mix, "data": data, "critics": critics, "cut_off": cut_off, "loss_on": loss_on}
        chosen = select(transcripts, w=w, seed=seed, iteration=info.iteration, **choice)
        choice["thinking"] = thinking
        if by_gold and not chosen.consensus:
            raise DataError(
                f"{store}: no problem has a gold answer, and this method learns from them alone; "
                "add answers to the training problems, or use another method"
            )
        summary = {
            "schema": SCHEMA,
            "task": info.task,
            "iteration": info.iteration,
            "agents": info.agents,
            "rounds": info.rounds,
            "seed": seed,
            "w": w,
            **choice,
            "problems": len(debates),
            "labelled": len(chosen.consensus),
            "unlabelled": chosen.unlabelled,
            "ties": chosen.ties,
            "datasets": {model: counts(parts) for model, parts in chosen.files.items()},
        }
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            _write_lines(debates.transcripts, chosen, temporary, thinking)
            write_json(temporary / "selection.json", summary)
    return summary


def _write_lines(
    transcripts: Callable[[], Iterator[Transcript]], chosen: Selection, folder: Path, thinking: Thinking
) -> None:
    with ExitStack() as files:
        opened: dict[str, IO[str]] = {
            model: files.enter_context((folder / f"{model}.jsonl").open("w", encoding="ascii", newline="\n"))
            for model in chosen.files
        }
        for transcript in transcripts():
            problem = transcript.problem.id
            for dataset in chosen.datasets:
                if problem in dataset.kept:
                    write = pair_line if dataset.paired else line
                    opened[dataset.model].write(write(transcript, dataset, chosen.consensus[problem], thinking))
