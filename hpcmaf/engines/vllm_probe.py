"""Does each adapter answer for itself? Asked once, before a debate believes it.

A batch that mixes adapters can give rows to the wrong one without a word (vLLM
on CPUs does when all adapter slots are taken). So known prompts go through the
base and every adapter in one batch, then through each alone, and the two must
agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcmaf.errors import EngineError

PROBE_TOKENS = 8
# Enough for some guesses to be taken and some to be refused.
CERTAIN_TOKENS = 24
NUCLEUS = 0.01
# Mean difference of log-likelihoods that rounding accounts for: the same row
# in batches of different shapes.
_ROUNDING = {"float32": 0.01}
_ROUNDING_SHORT = 0.15
# Both numbers are of one row of logits, in float32.
_TIE = 1e-3
# Models nearer to each other than this part of it are told apart by nobody:
# an adapter that has hardly been trained is the base, whoever answers.
_ALIKE = 0.2


@dataclass(frozen=True, slots=True)
class Heard:
    """What one row said: its tokens, and the log-likelihoods of prompt and tokens."""

    tokens: tuple[int, ...]
    prompt_logprobs: tuple[float, ...]
    logprobs: tuple[float, ...]

    def far(self, other: Heard) -> float:
        """Mean absolute difference of log-likelihoods, up to the first token in which the two part."""
        same = next(
            (i for i, (a, b) in enumerate(zip(self.tokens, other.tokens, strict=False)) if a != b),
            min(len(self.tokens), len(other.tokens)),
        )
        # Where they part, both took their likeliest token: those may be compared still.
        mine = (*self.prompt_logprobs, *self.logprobs[: same + 1])
        theirs = (*other.prompt_logprobs, *other.logprobs[: same + 1])
        pairs = list(zip(mine, theirs, strict=False))
        return sum(abs(a - b) for a, b in pairs) / max(1, len(pairs))


def check_likeliest(tokens: Sequence[tuple[float, float]]) -> None:
    """See that tokens without a choice are the likeliest, where they are guessed and only checked by the model.

    vLLM's CPU build keeps guesses that the model refuses where greedy and
    drawn rows share a batch, without a word.

    Parameters
    ----------
    tokens
        Log-likelihood of each token, and of the likeliest one in its place.

    Raises
    ------
    EngineError
        A token is not the likeliest.
    """
    wrong = [best - taken for taken, best in tokens if not best - taken < _TIE]
    if wrong:
        raise EngineError(
            f"vLLM keeps wrong guesses: {len(wrong)} of {len(tokens)} tokens without a choice are not the likeliest, "
            f"by up to {max(wrong):.3g} nats; leave out generation.lookup_tokens"
        )


Ask = Callable[[Sequence[tuple[str | None, tuple[int, ...]]]], list[Heard]]


class Probe:
    """Every model's rows alone, to compare its rows in mixed batches with.

    Parameters
    ----------
    ask
        Completes (model, prompt) rows greedily in one batch.
    models
        Names of the adapters, and ``None`` for the base.
    dtype
        Of the weights; decides what rounding may do.
    """

    def __init__(self, ask: Ask, models: Sequence[str | None], prompts: Sequence[tuple[int, ...]], dtype: str) -> None:
        self.ask = ask
        self.models = models
        self.rows = [(model, prompt) for prompt in prompts for model in models]
        self.rounding = _ROUNDING.get(dtype, _ROUNDING_SHORT)
        self.alone: dict[tuple[str | None, tuple[int, ...]], Heard] = {}

    def check(self) -> None:
        """Compare a mixed batch with each model alone.

        Raises
        ------
        EngineError
            A model does not answer for itself, or its numbers are none.
        """
        mixed = dict(zip(self.rows, self.ask(self.rows), strict=True))
        for (model, _), heard in mixed.items():
            if not all(map(math.isfinite, (*heard.prompt_logprobs, *heard.logprobs))):
                raise EngineError(
                    f"model {model or 'base'}: its logits are not numbers, so it has diverged; lower "
                    "training.learning_rate, or set model.dtype to bfloat16 or float32, and start a new run"
                )
        if len(self.models) == 1:
            return
        for model in self.models if not self.alone else ():
            own = [row for row in self.rows if row[0] == model]
            self.alone |= zip(own, self.ask(own), strict=True)
        for row, heard in mixed.items():
            self._check_row(row, heard)

    def _check_row(self, row: tuple[str | None, tuple[int, ...]], heard: Heard) -> None:
        model, prompt = row
        far = {other: heard.far(self.alone[other, prompt]) for other in self.models}
        nearest = min(self.models, key=lambda other: far[other])
        apart = self.alone[row].far(self.alone[nearest, prompt])
        somebody_else = far[nearest] < far[model] / 3 and min(far[model], apart) > _ALIKE * self.rounding
        # Far from itself; or nearer to itself than rounding allows, yet clearly somebody else.
        # (Turned around, so that what is no number does not pass.)
        if not far[model] <= self.rounding or somebody_else:
            raise EngineError(
                f"vLLM mixes up adapters: in a mixed batch, {model or 'base'} is {far[model]:.3g} nats a token from "
                f"itself alone, and {far[nearest]:.3g} from {nearest or 'base'}; use generation.engine: transformers"
            )
