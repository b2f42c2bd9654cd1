"""From debates to training data (method, steps 2 to 4, and the baselines' ways).

The label is the debate's own consensus; gold answers are read for STaR alone,
which is defined by them. In the method an agent keeps its own responses that
the vote confirmed: a generator its first answer, a critic its whole
trajectory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcmaf.answers import Vote
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.debate.consensus import agrees, consensus, others_agree
from hpcmaf.debate.health import Tally
from hpcmaf.debate.methods import SINGLE
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import DataError
from hpcmaf.files.publish import atomic_path, write_json
from hpcmaf.selection.balance import drawer, mix_trajectories
from hpcmaf.selection.groups import advantages
from hpcmaf.selection.pairs import opposed, pair
from hpcmaf.selection.sources import Dataset, LossOn, counts, source
from hpcmaf.store import Store

SCHEMA = "hpcmaf-selection/1"


@dataclass
class Selected:
    """What every agent is trained on, and how it came about.

    Attributes
    ----------
    datasets
        Parts, in the order in which a file has those of one problem. In the
        method: generators first, then critics; with M = 1 critics have nothing.
    consensus
        Problem id to its consensus answer (STaR: its gold answer), labelled
        problems only.
    unlabelled
        Problems in which no final answer could be read: no consensus, no data.
    ties
        Problems whose consensus was drawn among tied classes.
    health
        What the debates came to.
    agreed
        How often each agent's last answer was the consensus.
    """

    datasets: list[Dataset]
    consensus: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    ties: int = 0
    health: Tally = field(default_factory=Tally)
    agreed: Counter[int] = field(default_factory=Counter)

    @property
    def files(self) -> dict[str, list[Dataset]]:
        """Parts by the model that is trained on them."""
        return {part.model: [own for own in self.datasets if own.model == part.model] for part in self.datasets}


def select(
    transcripts: Iterable[Transcript],
    rules: Rules,
    *,
    seed: int,
    iteration: int,
    data: str = "own",
    loss_on: LossOn = "last_turn",
) -> Selected:
    """Label debates by their consensus and choose every agent's data.

    Parameters
    ----------
    transcripts
        One iteration's debates, all with the same N and M.
    rules
        A recipe's ``selection``: w, how it is kept to, and what is left out.
    seed, iteration
        Of the run; with agent and problem they decide every draw.
    data
        Which answers become samples, and of whom: a key of
        :data:`hpcmaf.selection.sources.DATA`. With ``"gold"`` transcripts need
        their gold answers.
    loss_on
        Which turns of a sample are trained text, and so must not be cut off.

    Raises
    ------
    ConfigError
        There is no such ``data``.
    DataError
        A problem occurs twice, or debates differ in N or M.
    """
    parts, by_gold = source(data)
    chosen = Selected([])
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
        if by_gold:
            label = Vote(transcript.problem.gold, (), 0, False)
        else:
            label = consensus(transcript, rounds, seed, iteration)
        chosen.health.add(transcript, sum(label.agrees), label.tied)
        if label.answer is None:
            chosen.unlabelled.append(problem)
        else:
            chosen.consensus[problem] = label.answer
            chosen.ties += label.tied
            chosen.agreed.update(n for n, agrees in enumerate(label.agrees) if agrees)
        answered = False
        # With one round there are no critics.
        for dataset in (part for part in chosen.datasets if rounds > 1 or not part.critic):
            turn = dataset.turn(transcript)
            dataset.stopped += turn != dataset.round
            if not turn:
                continue
            if any(turn.cut_off for turn in dataset.trained_turns(transcript, loss_on)):
                dataset.cut_off.add(problem)
            if label.answer is None or not _is_candidate(transcript, dataset, label, rules):
                continue
            # A retry, or a last answer, counts where no first one does.
            if dataset.fresh and answered:
                continue
            answered = answered or dataset.model == SINGLE
            # D+ began right, D- is what was corrected: its first answer does not match the label.
            first = agrees(transcript.answers[0][dataset.index].answer, label, transcript)
            right = dataset.confirmed(transcript, label) if dataset.judged else first and not dataset.fresh
            dataset.labels[problem] = "positive" if right else "negative"
            dataset.reward(transcript, right, rules.form_reward)
    for dataset in chosen.datasets:
        dataset.advantages = advantages(dataset.rewards.values())
        dataset.kept = set(dataset.advantages if dataset.grouped else dataset.labels)
        if dataset.mixed:
            draw = drawer(seed, iteration, dataset.agent)
            dataset.kept = mix_trajectories(dataset.ids("positive"), dataset.ids("negative"), rules.w, rules.mix, draw)
    return chosen


def _is_candidate(transcript: Transcript, dataset: Dataset, label: Vote, rules: Rules) -> bool:
    """Whether what a dataset takes of a debate is confirmed, whole, and, where the rules want that, disputed."""
    problem, n, m = transcript.problem.id, dataset.index, dataset.turn(transcript)
    drop = rules.cut_off == "drop"
    if drop and problem in dataset.cut_off:
        return False
    if dataset.mixed and rules.critics == "disputed":
        # To take over what the others agree on is right so often that critics
        # learn little else, and where it is wrong they all do, and confirm each other.
        before = [turn.answer for turn in transcript.answers[m - 2]]
        if others_agree(before, n, transcript.same) is not None:
            return False
    if dataset.judged:
        return True
    turns = transcript.answers[m - 1]
    if dataset.paired:
        found = opposed(transcript, m, n, label, {i for i, turn in enumerate(turns) if turn.cut_off} if drop else ())
        if found is not None:
            dataset.sides[problem] = found
        return found is not None
    return dataset.confirmed(transcript, label)


def line(transcript: Transcript, dataset: Dataset, answer: str, thinking: str = "keep") -> str:
    """One dataset line: a chat, or a pair, as TRL and OpenAI read them, and where it came from."""
    problem, n, m = transcript.problem.id, dataset.index, dataset.turn(transcript)
    opening, turn = transcript.opening(1 if dataset.fresh else m, n), transcript.answers[m - 1][n]
    if dataset.paired:
        sample, reason = pair(transcript, dataset, thinking)
    else:
        messages = transcript.conversation(n, m)
        if thinking == "strip":
            messages[-1]["content"] = turn.spoken
        if dataset.fresh:
            # The hint is forgotten: its answer stands behind the first prompt.
            messages = [*opening, {"role": "user", "content": transcript.answers[0][n].prompt}, messages[-1]]
        sample, reason = {"messages": messages}, turn.finish_reason
    record = {
        **sample,
        "problem_id": problem,
        "round": m,
        "label": dataset.labels[problem],
        "consensus": answer,
        "finish_reason": reason,
    }
    if opening and not dataset.paired:
        record["opening"] = len(opening)
    if dataset.grouped:
        record["advantage"] = dataset.advantages[problem]
    # Model output may contain lone surrogates, which UTF-8 cannot: escape.
    return json.dumps(record, ensure_ascii=True) + "\n"


def write_selection(
    store: Path,
    folder: Path,
    rules: Rules,
    *,
    seed: int,
    data: str = "own",
    loss_on: LossOn = "last_turn",
    thinking: str = "keep",
    agreement: bool = False,
) -> dict[str, Any]:
    """Write a folder of ``generator-n.jsonl``, ``critic-n.jsonl`` (or ``single.jsonl``) and ``selection.json``.

    The same merged store of training debates, seed and rules give the same
    bytes. Debates are read twice, so memory does not grow with their text. See
    :func:`select`; ``thinking="strip"`` takes its thoughts out of the trained
    turn, as no agent sees those of earlier ones. ``agreement`` adds how often
    each agent was of the consensus. Returns the content of ``selection.json``.

    Raises
    ------
    ConfigError
        There is no such ``data``.
    DataError
        Gold is to label the debates, and no problem has any.
    StoreError
        The store is damaged.
    """
    _, by_gold = source(data)
    with Store(store) as debates:
        info = debates.info
        transcripts = debates.transcripts(gold=by_gold)
        chosen = select(transcripts, rules, seed=seed, iteration=info.iteration, data=data, loss_on=loss_on)
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
            **rules.model_dump(),
            "data": data,
            "loss_on": loss_on,
            "thinking": thinking,
            "problems": len(debates),
            "labelled": len(chosen.consensus),
            "unlabelled": chosen.unlabelled,
            "ties": chosen.ties,
            "health": chosen.health.values(),
            "datasets": {model: counts(parts) for model, parts in chosen.files.items()},
        }
        if agreement:
            labelled = max(1, len(chosen.consensus))
            summary["agreement"] = [chosen.agreed[n] / labelled for n in range(info.agents)]
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            with ExitStack() as closing:
                files = {
                    model: closing.enter_context(
                        (temporary / f"{model}.jsonl").open("w", encoding="ascii", newline="\n")
                    )
                    for model in chosen.files
                }
                for transcript in debates.transcripts():
                    problem = transcript.problem.id
                    for dataset in chosen.datasets:
                        if problem in dataset.kept:
                            files[dataset.model].write(line(transcript, dataset, chosen.consensus[problem], thinking))
            write_json(temporary / "selection.json", summary)
    return summary
