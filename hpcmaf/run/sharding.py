"""Which problems make a shard: so many that all shards are expected to take equally long.

Problems of one task differ severalfold in length, and files are often sorted
by subject or level, so shards of equal counts end at different times and the
last one holds up the stage.

The expectation is taken from the question alone. What a problem took in the
iteration before would tell more; but then two runs that share shards, whose
counts differ in a draw, would cut differently, and a stage would have gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

# Characters of English and of formulas per token, and tokens of what is said
# around a question.
_CHARACTERS, _WORDS_AROUND = 4, 60
# A solution names what its question names, works on it, and has a beginning
# and an end whatever the question.
_SHORTEST_ANSWER, _PER_QUESTION_TOKEN = 100, 2


def expected_tokens(question: str, agents: int, rounds: int, summaries: bool, limit: int) -> int:
    """Tokens that one problem's debate is expected to read and write.

    Parameters
    ----------
    limit
        Most new tokens of one call.
    """
    tokens = len(question) // _CHARACTERS
    answer = min(limit, _SHORTEST_ANSWER + _PER_QUESTION_TOKEN * tokens)
    prompt = tokens + _WORDS_AROUND
    total = prompt + answer
    for round in range(2, rounds + 1):
        others = (agents - 1) * answer
        if summaries:
            total += prompt + others + answer
            others = answer
        # The agent's own turns so far, and what it reads now.
        total += (round - 1) * (prompt + answer) + prompt + others + answer
    return agents * total


def cut(weights: Sequence[int], shards: int) -> list[range]:
    """Cut a list into shards of about equal weight.

    Shards are of neighbours, so that those of a stage put end to end are its
    problems in their order. Each ends where the weight so far is nearest to
    its part of the whole, and holds something.

    Parameters
    ----------
    weights
        Of each position; positive.
    shards
        At most as many as there are positions.
    """
    total, so_far, position, bounds = sum(weights), 0, 0, [0]
    for shard in range(1, shards):
        # Everybody after this one needs a position as well.
        last = len(weights) - (shards - shard)
        while position < last and (
            position == bounds[-1] or (2 * so_far + weights[position]) * shards <= 2 * shard * total
        ):
            so_far += weights[position]
            position += 1
        bounds.append(position)
    bounds.append(len(weights))
    return [range(low, high) for low, high in zip(bounds, bounds[1:], strict=False)]
