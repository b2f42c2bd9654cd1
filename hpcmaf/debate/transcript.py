"""What one debate leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hpcmaf.answers import spoken
from hpcmaf.models.chat import Message
from hpcmaf.tasks.grader import Grader
from hpcmaf.tasks.problems import Problem

# Kind of prompt to the turns that stand before every chat of that kind; "kind/n" is of an agent's own.
Openings = Mapping[str, tuple[Message, ...]]


def opening(openings: Openings, kind: str, agent: int | None) -> tuple[Message, ...]:
    """What stands before an agent's chat of a kind."""
    return openings.get(f"{kind}/{agent}", openings.get(kind, ()))


def user(content: str) -> Message:
    """A user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A model's turn."""
    return {"role": "assistant", "content": content}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One completion of a debate, with the user message it answered; without a prompt nobody was asked.

    Attributes
    ----------
    round
        1-based; summaries carry the round whose answers *read* them (>= 2).
    agent
        0-based.
    prompt
        The last user message before it; earlier turns are the agent's own earlier utterances.
    answer
        The extracted answer; ``None`` where none could be parsed, and for summaries.
    prompt_tokens, completion_tokens
        As the engine counted them, special tokens included.
    finish_reason
        ``"length"`` where the limit on tokens cut it off; ``"unknown"`` of imported debates, which count as finished.
    """

    kind: Literal["answer", "summary", "judge"]
    round: int
    agent: int
    prompt: str
    text: str
    answer: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: Literal["stop", "length", "unknown"] = "stop"

    @property
    def spoken(self) -> str:
        """What others read of it, and the agent itself in later rounds: all but its thoughts."""
        return spoken(self.text)

    @property
    def cut_off(self) -> bool:
        """Whether it ended at the limit on tokens, in the middle of what it had to say."""
        return self.finish_reason == "length"

    @property
    def well_formed(self) -> bool:
        """Whether it came to its end, and an answer could be read from it."""
        return self.answer is not None and not self.cut_off


# A turn that nobody was asked for.
NOT_ASKED = Utterance("answer", 1, 0, prompt="", text="", finish_reason="unknown")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One problem's whole debate.

    Attributes
    ----------
    answers
        ``answers[m - 1][n]`` is agent n's answer in round m.
    summaries
        ``summaries[m - 2][n]`` is what agent n read before round m; empty for methods without summaries and for
        imported debates.
    openings
        Turns that stood before every chat of a kind (``"first"``, ``"summarize"``, ``"update"``): a system message,
        worked examples.
    grader
        What compares its answers.
    weights
        Of the agents in the last round's vote; empty where they are alike.
    judgement
        What the judge replied to the last answers; ``None`` without a judge.
    """

    problem: Problem
    answers: tuple[tuple[Utterance, ...], ...]
    summaries: tuple[tuple[Utterance, ...], ...] = ()
    openings: Openings = field(default_factory=dict)
    grader: Grader = Grader()
    weights: tuple[float, ...] = ()
    judgement: Utterance | None = None

    def same(self, a: str, b: str) -> bool:
        """Whether two answers to the problem are one in votes."""
        return self.grader.same(a, b, self.problem)

    def right(self, answer: str | None) -> bool:
        """Whether an answer is the gold one, where that is known."""
        return self.grader.right(answer, self.problem)

    @property
    def rounds(self) -> int:
        """M, the number of rounds."""
        return len(self.answers)

    @property
    def agents(self) -> int:
        """N, the number of agents."""
        return len(self.answers[0])

    @property
    def completions(self) -> list[Utterance]:
        """All that was generated: turns without a prompt are none."""
        judged = (self.judgement,) if self.judgement else ()
        return [turn for turns in (*self.answers, *self.summaries, judged) for turn in turns if turn.prompt]

    @property
    def ended(self) -> int:
        """The last round that was held; M unless all agreed before (``debate.stop``)."""
        held = [m for m, turns in enumerate(self.answers, 1) if any(turn.prompt for turn in turns)]
        return held[-1] if held else self.rounds

    def padded(self, rounds: int, summaries: bool) -> Transcript:
        """The same as a debate of so many rounds: in those that were not held every agent keeps its answer."""
        kept = [
            tuple(replace(NOT_ASKED, round=m, agent=n, answer=turn.answer) for n, turn in enumerate(self.answers[-1]))
            for m in range(self.rounds + 1, rounds + 1)
        ]
        unread = [tuple(replace(turn, kind="summary", answer=None) for turn in turns) for turns in kept if summaries]
        return replace(self, answers=(*self.answers, *kept), summaries=(*self.summaries, *unread))

    def opening(self, last_round: int, agent: int) -> tuple[Message, ...]:
        """What stood before an agent's chat of so many rounds."""
        return opening(self.openings, "first" if last_round == 1 else "update", agent)

    def history(self, agent: int, rounds: int) -> list[Message]:
        """Agent's own turns of the first rounds, as it sees them later: prompts it was given, what it then spoke."""
        turns = (answers[agent] for answers in self.answers[:rounds])
        return [message for turn in turns for message in (user(turn.prompt), assistant(turn.spoken))]

    def conversation(self, agent: int, last_round: int) -> list[Message]:
        """Agent's chat up to and including its whole answer in ``last_round``, behind its opening."""
        last = self.answers[last_round - 1][agent]
        before = (*self.opening(last_round, agent), *self.history(agent, last_round - 1))
        return [*before, user(last.prompt), assistant(last.text)]
