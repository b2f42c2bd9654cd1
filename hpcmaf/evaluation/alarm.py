"""Is a run still learning? What can be seen without gold answers, and the alarm that it raises.

Training on one's own votes raises accuracy until votes are wrong together. Of each iteration ``signals.json`` keeps
what its evaluation debates show without their gold answers; how far that has moved from the iterations before is an
:class:`Reading`, and what has moved too far is its ``alarm``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from hpcmaf.answers import equivalent
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.transcript import Transcript
from hpcmaf.files.publish import Amount, Record, read_json
from hpcmaf.run.directory import RunDir

SCHEMA = "hpcmaf-signals/1"
# How far each may move before the alarm is raised; shares of one.
AGREEMENT_FALLS, AGREED_FLIPS, BASE_OVERRULED, OVERRULED_RISES = 0.03, 0.15, 0.3, 0.08
# Of iteration 0's, once agents agree more than they did there.
DISTINCT_LEFT, LENGTH_LEFT = 0.6, 0.5


class _Signals(Record):
    schema_: Literal[SCHEMA] = Field(alias="schema")  # type: ignore[valid-type]
    agreement: Amount
    distinct: Amount
    length: Amount
    problem_ids: list[str] = Field(min_length=1)
    votes: list[str | None]
    agreed: list[bool]
    # Of votes that were spelled by a grader of their own: as they are, or another answer.
    grader: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an iteration's debates show without gold answers.

    Attributes
    ----------
    agreement
        Mean share of agents whose last answer is the vote's.
    distinct
        Different last answers, by their spelling, per last answer.
    length
        Tokens of a last response.
    flips
        Share of problems on which all agents agree, as the iteration before, and on another answer.
    overruled
        Of the problems on which the base's agents all agreed, the share with another vote now.
    alarm
        What has moved too far, in words; empty while all is well.
    """

    iteration: int
    agreement: float
    distinct: float
    length: float
    flips: float | None = None
    overruled: float | None = None
    alarm: tuple[str, ...] = ()


def signals(transcripts: Iterable[Transcript], *, seed: int, iteration: int) -> dict[str, Any]:
    """The content of ``signals.json`` of at least one evaluation debate; gold answers are not looked at."""
    ids, votes, agreed, turns, answers, agreeing = [], [], [], [], [], 0
    for transcript in transcripts:
        vote = consensus(transcript, transcript.rounds, seed, iteration)
        ids.append(transcript.problem.id)
        votes.append(vote.answer and transcript.grader.spelling(vote.answer, transcript.problem))
        agreed.append(all(vote.agrees) and len(vote.agrees) > 1)  # one answer agrees with nobody
        agreeing += sum(vote.agrees)
        last = transcript.answers[transcript.ended - 1]
        turns += last
        answers += [turn.answer and transcript.grader.spelling(turn.answer, transcript.problem) for turn in last]
    answers = [answer for answer in answers if answer is not None]
    return {
        "schema": SCHEMA,
        "iteration": iteration,
        "agreement": agreeing / len(turns),
        "distinct": len(set(answers)) / len(turns),
        "length": sum(turn.completion_tokens for turn in turns) / len(turns),
        "problem_ids": ids,
        "votes": votes,
        "agreed": agreed,
    } | ({"grader": transcript.grader.name} if transcript.grader.name else {})


def readings(run: RunDir) -> list[Reading]:
    """What can be said of a run's iterations, up to the first that is not scored.

    Raises
    ------
    OSError, DataError
        A file is damaged.
    """
    found: list[Reading] = []
    first: dict[str, Any] = {}
    before: dict[str, Any] = {}
    while (path := run.signals(len(found))).exists():
        now = read_json(path, _Signals)
        values = {name: now[name] for name in ("agreement", "distinct", "length")}
        if before:
            values |= {"flips": _changed(before, now, both=True), "overruled": _changed(first, now)}
        one = Reading(len(found), **values)
        found.append(replace(one, alarm=tuple(_alarm(found, one))) if before else one)
        first, before = first or now, now
    return found


def _changed(before: dict[str, Any], now: dict[str, Any], both: bool = False) -> float:
    """How often another answer wins where all agreed before: of those problems, or of all, where all agree now too."""
    votes = dict(zip(now["problem_ids"], zip(now["votes"], now["agreed"])))
    found = []
    for problem, old, agreed in zip(before["problem_ids"], before["votes"], before["agreed"]):
        new, still = votes.get(problem, (None, False))
        if agreed or both:
            exact = "grader" in now or old is None or new is None
            differs = old != new and (exact or not equivalent(old, new))
            found.append(differs and agreed and (still or not both))
    return sum(found) / max(1, len(found))


def _alarm(earlier: Sequence[Reading], now: Reading) -> Iterable[str]:
    first, most = earlier[0], max(one.agreement for one in earlier)
    if now.agreement < most - AGREEMENT_FALLS:
        yield f"agreement fell from {most:.1%} to {now.agreement:.1%}"
    if now.agreement > first.agreement and now.distinct < DISTINCT_LEFT * first.distinct:
        yield "agents agree more, on fewer different answers"
    if now.agreement > first.agreement and now.length < LENGTH_LEFT * first.length:
        yield f"agents agree more, in {now.length:.0f} tokens where the base took {first.length:.0f}"
    if now.flips is not None and now.flips > AGREED_FLIPS:
        yield f"on {now.flips:.1%} of problems all agree on another answer than the iteration before"
    least = min((one.overruled for one in earlier if one.overruled is not None), default=1.0)
    if now.overruled is not None and now.overruled > min(BASE_OVERRULED, least + OVERRULED_RISES):
        yield f"{now.overruled:.1%} of what the base's agents agreed on has another answer"


def rung(found: Sequence[Reading]) -> Reading | None:
    """The first iteration whose alarm is raised."""
    return next((one for one in found if one.alarm), None)


def best(found: Sequence[Reading]) -> int:
    """The iteration to keep: of those before the alarm the one whose agents agree most, the later of equals."""
    alarm = rung(found)
    quiet = [one for one in found if alarm is None or one.iteration < alarm.iteration]
    return max(quiet, key=lambda one: (one.agreement, one.iteration)).iteration


def alarm_line(found: Sequence[Reading]) -> str | None:
    """What the alarm says of a run, in one line; ``None`` while it is quiet."""
    if (alarm := rung(found)) is None:
        return None
    return f"alarm: iteration {alarm.iteration}: {'; '.join(alarm.alarm)}; the one to keep is iteration {best(found)}"
