"""What agents think of each other's responses, from log-likelihoods of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Response of agent i, token by token, in nats.
Tokens = Sequence[float]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """One problem's final responses under every agent's model and the base.

    Attributes
    ----------
    agents
        ``agents[j, i]``: log-likelihood of each token of agent i's response,
        in agent i's own chat, under agent j's model. A response that nobody
        could score is left out.
    base
        ``base[i]``: the same under the untouched base.
    """

    agents: Mapping[tuple[int, int], Tokens]
    base: Mapping[int, Tokens]

    @property
    def scored(self) -> list[int]:
        """Agents whose responses were scored and have a token."""
        return sorted(i for i, tokens in self.base.items() if tokens)


def held_out_nll(found: Likelihoods) -> float | None:
    """Mean negative log-likelihood, per token, of the others' responses under a held-out agent.

    Averaged over which agent is held out (paper: NLL under a held-out
    critic). In nats per token.
    """
    values = []
    for held_out in found.scored:
        tokens = [value for i in found.scored if i != held_out for value in found.agents[held_out, i]]
        if tokens:
            values.append(-sum(tokens) / len(tokens))
    return sum(values) / len(values) if values else None


def kl_between(found: Likelihoods) -> float | None:
    """KL divergence between agents, per token: mean over ordered pairs.

    Estimated on the responses: the mean over an agent's own tokens of
    log p_own - log p_other. Unbiased where tokens are drawn from p_own; with
    top-p below 1 or another temperature they are not quite, so compare
    figures of one sampling only. May come out below zero.
    """
    values = [_gap(found.agents[i, i], found.agents[j, i]) for i in found.scored for j in found.scored if i != j]
    return sum(values) / len(values) if values else None


def kl_to_base(found: Likelihoods) -> float | None:
    """KL divergence from each agent to the untouched base, per token, estimated as in :func:`kl_between`."""
    values = [_gap(found.agents[i, i], found.base[i]) for i in found.scored]
    return sum(values) / len(values) if values else None


def _gap(own: Tokens, other: Tokens) -> float:
    return sum(a - b for a, b in zip(own, other, strict=True)) / len(own)
