"""From debates to training data (method, steps 2 to 4, and the baselines' ways).

The label is the debate's own consensus; gold answers are read for STaR alone, which is defined by them. In the method
an agent keeps its own responses that the vote confirmed: a generator its first answer, a critic its whole trajectory.
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
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files.publish import atomic_path, write_json
from hpcmaf.selection.balance import advantages, drawer, mix_trajectories
from hpcmaf.selection.sources import DATA, GOLD, Dataset, LossOn, counts
from hpcmaf.store.reader import Store

SCHEMA = "hpcmaf-selection/1"


@dataclass
class Selected:
    """What every agent is trained on, and how it came about.

    Attributes
    ----------
    datasets
        Parts, in the order in which a file has those of one problem. In the method: generators first, then critics;
        with M = 1 critics have nothing.
    consensus
        Problem id to its consensus answer (STaR: its gold answer), labelled problems only.
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
        Which answers become samples, and of whom: a key of :data:`hpcmaf.selection.sources.DATA`. With ``"gold"``
        transcripts need their gold answers.
    loss_on
        Which turns of a sample are trained text, and so must not be cut off.

    Raises
    ------
    ConfigError
        There is no such ``data``.
    DataError
        A problem occurs twice, or debates differ in N or M.
    """
    if data not in DATA:
        raise ConfigError(f"selection: no data {data!r}; use one of {', '.join(DATA)}")
    chosen = Selected([])
    shape: tuple[int, int] | None = None
    seen: set[str] = set()
    for transcript in transcripts:
        problem, agents, rounds = transcript.problem.id, transcript.agents, transcript.rounds
        if shape is None:
            shape = (agents, rounds)
            chosen.datasets += DATA[data](agents, rounds)
        if (agents, rounds) != shape or problem in seen:
            what = "occurs twice" if problem in seen else f"has N={agents}, M={rounds} where others have N, M = {shape}"
            raise DataError(f"selection: problem {problem!r} {what}; select from the debates of one run and iteration")
        seen.add(problem)
        if data == GOLD:
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
            judged = dataset.samples in ("judged", "groups")
            right = dataset.confirmed(transcript, label) if judged else first and not dataset.fresh
            dataset.labels[problem] = "positive" if right else "negative"
            group = dataset.rewards.setdefault(transcript.problem.question, {})
            group[problem] = right + rules.form_reward * transcript.answers[turn - 1][dataset.index].well_formed
    for dataset in chosen.datasets:
        dataset.kept = set(dataset.labels)
        if dataset.samples == "groups":
            dataset.advantages = advantages(dataset.rewards.values())
            dataset.kept = set(dataset.advantages)
        elif dataset.samples == "share":
            draw = drawer(seed, iteration, dataset.agent)
            dataset.kept = mix_trajectories(dataset.ids("positive"), dataset.ids("negative"), rules.w, rules.mix, draw)
    return chosen


def _is_candidate(transcript: Transcript, dataset: Dataset, label: Vote, rules: Rules) -> bool:
    """Whether what a dataset takes of a debate is confirmed, whole, and, where the rules want that, disputed."""
    problem, drop = transcript.problem.id, rules.cut_off == "drop"
    if drop and problem in dataset.cut_off:
        return False
    if dataset.samples == "share" and rules.critics == "disputed":
        # To take over what the others agree on is right so often that critics
        # learn little else, and where it is wrong they all do, and confirm each other.
        before = [turn.answer for turn in transcript.answers[dataset.turn(transcript) - 2]]
        if others_agree(before, dataset.index, transcript.same) is not None:
            return False
    if dataset.samples == "pairs":
        if sides := dataset.opposed(transcript, label, drop):
            dataset.sides[problem] = sides
        return sides is not None
    return dataset.samples in ("judged", "groups") or dataset.confirmed(transcript, label)


def line(transcript: Transcript, dataset: Dataset, answer: str, thinking: str = "keep") -> str:
    """One dataset line: a chat, or a pair, as TRL and OpenAI read them, and where it came from."""
    problem, n, m = transcript.problem.id, dataset.index, dataset.turn(transcript)
    opening, turns = transcript.opening(1 if dataset.fresh else m, n), transcript.answers[m - 1]
    prompt = transcript.conversation(n, m)[:-1]
    if dataset.fresh:
        # The hint is forgotten: its answer stands behind the first prompt.
        prompt = [*opening, {"role": "user", "content": transcript.answers[0][n].prompt}]

    def response(turn: Utterance) -> dict[str, str]:
        return {"role": "assistant", "content": turn.spoken if thinking == "strip" else turn.text}

    if dataset.samples == "pairs":
        sides = {side: turns[who] for side, who in zip(("chosen", "rejected"), dataset.sides[problem], strict=True)}
        sample = {"prompt": prompt, **{side: [response(turn)] for side, turn in sides.items()}}
        reason = {side: turn.finish_reason for side, turn in sides.items()}
    else:
        sample, reason = {"messages": [*prompt, response(turns[n])]}, turns[n].finish_reason
    record = {
        **sample,
        "problem_id": problem,
        "round": m,
        "label": dataset.labels[problem],
        "consensus": answer,
        "finish_reason": reason,
    }
    if opening and dataset.samples != "pairs":
        record["opening"] = len(opening)
    if dataset.samples == "groups":
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

    The same merged store of training debates, seed and rules give the same bytes. Debates are read twice, so memory
    does not grow with their text. See :func:`select`; ``thinking="strip"`` takes its thoughts out of the trained turn,
    as no agent sees those of earlier ones. ``agreement`` adds how often each agent was of the consensus. Returns the
    content of ``selection.json``.

    Raises
    ------
    ConfigError
        There is no such ``data``.
    DataError
        Gold is to label the debates, and no problem has any.
    StoreError
        The store is damaged.
    """
    with Store(store) as debates:
        info = debates.info
        transcripts = debates.transcripts(gold=data == GOLD)
        chosen = select(transcripts, rules, seed=seed, iteration=info.iteration, data=data, loss_on=loss_on)
        if data == GOLD and not chosen.consensus:
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
        with atomic_path(folder) as temporary, ExitStack() as closing:
            temporary.mkdir()
            files = {
                model: closing.enter_context((temporary / f"{model}.jsonl").open("w", encoding="ascii", newline="\n"))
                for model in chosen.files
            }
            for transcript in debates.transcripts():
                problem = transcript.problem.id
                for dataset in chosen.datasets:
                    if problem in dataset.kept:
                        files[dataset.model].write(line(transcript, dataset, chosen.consensus[problem], thinking))
            write_json(temporary / "selection.json", summary)
    return summary
