"""Debates by their answers, and an engine whose answers a test writes, served in an order the test chooses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.engines import Completion, Request
from hpcmaf.tasks.problems import Problem


def debate(problem: str, *rounds: Sequence[str | None], gold: str | None = None) -> Transcript:
    """A debate by its answers, one list per round; ``None`` is an unparsable one."""
    return Transcript(
        Problem(problem, f"question {problem}", gold),
        tuple(
            tuple(
                Utterance("answer", m, n, f"prompt {problem} {m} {n}", f"text {problem} {m} {n} \ud83d", answer)
                for n, answer in enumerate(answers)
            )
            for m, answers in enumerate(rounds, 1)
        ),
    )


def changed(one: Transcript, change: Callable[[Utterance], dict[str, Any]]) -> Transcript:
    """The same debate, some fields of whose answers are others."""
    return replace(one, answers=tuple(tuple(replace(turn, **change(turn)) for turn in said) for said in one.answers))


class ScriptedEngine:
    """Answers every request with ``say(request)``, after a random wait.

    The waits shuffle who is served when, within and across debates.
    """

    def __init__(self, say: Callable[[Request], str], order_seed: int = 0, reason: str = "stop") -> None:
        self.say = say
        self.reason = reason
        self.requests: list[Request] = []
        self._random = random.Random(order_seed)

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        for _ in range(self._random.randrange(20)):
            await asyncio.sleep(0)
        text = self.say(request)
        prompt = sum(len(message["content"]) for message in request.messages)
        return Completion(text, tuple(range(len(text) + 1)), prompt, self.reason)

    gpus = 0

    def note(self) -> str:
        """Nothing to say of work in progress."""
        return ""

    def averages(self) -> dict[str, float]:
        """Nor of the whole."""
        return {}

    def close(self) -> None:
        """Nothing to release."""
