"""What training sets are put together from, for every way of choosing them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from hpcmaf.answers import Vote
from hpcmaf.debate.consensus import agrees
from hpcmaf.debate.methods import SINGLE
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError

Label = Literal["positive", "negative"]
LossOn = Literal["last_turn", "all_turns"]
Samples = Literal["confirmed", "share", "pairs", "judged", "groups"]


@dataclass
class Dataset:
    """What one agent contributes in one round, by problem.

    Attributes
    ----------
    agent
        Name of the part. In the method it is the agent that is trained on it.
    index, round
        The answers are agent ``index``'s of this round (1 for a generator, M for a critic).
    model
        Who is trained on it, and the name of its file.
    samples
        ``confirmed`` responses; so many of them that corrections have their ``share`` w; ``pairs`` of a confirmed
        response and another; ``judged`` responses, confirmed or not; or ``groups`` of these, each of which is set
        against the agent's other ones to the same question.
    fresh
        Whether the answer is stored as if it had been given at once, without the turns before it.
    sides
        Of pairs: whose the confirmed answer is, and whose the other.
    rewards, advantages
        Question to problem ids and the rewards of their responses; and of groups by how much each is above its group's
        mean.
    labels
        Candidates: problem id to ``"positive"`` or, for a trajectory that began wrong and ended right, ``"negative"``.
        Of judged ones: whether they are confirmed.
    kept
        The problems chosen out of them.
    cut_off
        The problems in which a response that would be trained on was cut off, confirmed or not.
    stopped
        How many debates had ended before its round (``debate.stop``). A critic then gives its last turn, and none where
        the first round was the last.
    """

    agent: str
    index: int
    round: int
    model: str = ""
    samples: Samples = "confirmed"
    fresh: bool = False
    labels: dict[str, Label] = field(default_factory=dict)
    sides: dict[str, tuple[int, int]] = field(default_factory=dict)
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    advantages: dict[str, float] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    cut_off: set[str] = field(default_factory=set)
    stopped: int = 0

    def __post_init__(self) -> None:
        self.model = self.model or self.agent

    @property
    def critic(self) -> bool:
        """Whether it is what a critic contributes."""
        return self.agent.startswith("critic-")

    def turn(self, transcript: Transcript) -> int:
        """The round that it takes from a debate; 0 where there is none, as the debate had ended."""
        if self.round <= transcript.ended or (self.fresh and not self.critic):
            return self.round
        return transcript.ended if self.critic and transcript.ended > 1 else 0

    def trained_turns(self, transcript: Transcript, loss_on: LossOn) -> Iterator[Utterance]:
        """The agent's own responses that carry loss in a sample of a debate."""
        last = self.turn(transcript)
        whole = loss_on == "all_turns" and self.samples in ("confirmed", "share") and not self.fresh
        first = 1 if whole else max(1, last)
        return (answers[self.index] for answers in transcript.answers[first - 1 : last])

    def confirmed(self, transcript: Transcript, label: Vote) -> bool:
        """Whether the consensus is what the agent said in its round."""
        turn = self.turn(transcript)
        if label.agrees and turn == transcript.ended:
            return label.agrees[self.index]
        return agrees(transcript.answers[turn - 1][self.index].answer, label, transcript)

    def opposed(self, transcript: Transcript, label: Vote, whole: bool) -> tuple[int, int] | None:
        """Whose answers make a pair: one that the consensus confirms, and one of the same round that it does not.

        One is the agent's own, the other that of the next agent whom the consensus judges otherwise (and, if ``whole``,
        whose answer was not cut off); ``None`` where all were right, or all wrong. The prompt is the problem for a
        generator, who answered it as the others did, and for a critic all that it had read, to which the others' last
        answers differ but in what their summaries said. An agent's answers of different rounds are never a pair: they
        answer different prompts, and what sets such texts apart is that, before who is right; three iterations of it
        left the micro model nothing.
        """
        turns, own = transcript.answers[self.turn(transcript) - 1], self.index
        # What cannot be read as an answer is not confirmed.
        right = [agrees(turn.answer, label, transcript) for turn in turns]
        for other in ((own + step) % len(turns) for step in range(1, len(turns))):
            if right[other] != right[own] and not (whole and turns[other].cut_off):
                return (own, other) if right[own] else (other, own)
        return None

    def ids(self, label: Label) -> list[str]:
        """Candidates with a label, in the order of the store."""
        return [problem for problem, own in self.labels.items() if own == label]


def _own(agents: int, rounds: int, samples: Samples | None = None, model: str = "") -> list[Dataset]:
    """Generators' first answers and, where there are critics, their trajectories."""
    firsts = [Dataset(f"generator-{n}", n, 1, model, samples or "confirmed") for n in range(agents)]
    return firsts + [Dataset(f"critic-{n}", n, rounds, model, samples or "share") for n in range(agents)]


def _responses(agents: int, rounds: int) -> list[Dataset]:
    """All responses of all agents and rounds (paper, section 2: those "which match" the vote)."""
    return [Dataset(f"agent-{n} round {m}", n, m, SINGLE) for n in range(agents) for m in range(1, rounds + 1)]


def _voted(agents: int, rounds: int) -> list[Dataset]:
    """What each agent learns, and for one model the confirmed first answers or, without any, a last one."""
    firsts = [Dataset(f"generator-{n} alone", n, 1, SINGLE) for n in range(agents)]
    lasts = [Dataset(f"critic-{n} alone", n, rounds, SINGLE, fresh=True) for n in range(agents)]
    return _own(agents, rounds) + firsts + lasts


def _by_gold(agents: int, rounds: int) -> list[Dataset]:
    """STaR: first answers, and answers to the hint, without the hint."""
    if (agents, rounds) != (1, 2):
        raise DataError(
            f"selection: data 'gold' is for STaR's answers and their retries, not for debates of N={agents}, "
            f"M={rounds}; use other data"
        )
    return [Dataset("answered", 0, 1, SINGLE), Dataset("hinted", 0, 2, SINGLE, fresh=True)]


GOLD = "gold"  # the one whose label is the gold answer, not the vote
# What a method's trained agents learn from, by N and M.
DATA: Mapping[str, Callable[[int, int], list[Dataset]]] = {
    "own": _own,
    # To these w does not apply: they have confirmed answers and others.
    "pairs": partial(_own, samples="pairs"),
    "judged": partial(_own, samples="judged"),
    "groups": partial(_own, samples="groups"),
    "union": partial(_own, model=SINGLE),
    "responses": _responses,
    "voted": _voted,
    GOLD: _by_gold,
}


def counts(parts: Iterable[Dataset]) -> dict[str, Any]:
    """Counts of one training set for ``selection.json``; ``realised_w`` is ``None`` without any sample."""
    parts = list(parts)
    found = Counter(label for part in parts for label in part.labels.values())
    kept = Counter(part.labels[problem] for part in parts for problem in part.kept)
    return {
        "candidates": found.total(),
        "positives": found["positive"],
        "negatives": found["negative"],
        "kept": kept.total(),
        "kept_positives": kept["positive"],
        "kept_negatives": kept["negative"],
        "realised_w": kept["negative"] / kept.total() if kept else None,
        "cut_off": sum(len(part.cut_off) for part in parts),
        # Only where debates stop early.
        **({"stopped": stopped} if (stopped := sum(part.stopped for part in parts)) else {}),
    }
