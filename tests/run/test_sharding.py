"""Shards are cut by what they are expected to cost, and leave nothing out."""

from __future__ import annotations

import random

import pytest

from hpcmaf.debate.protocol import Protocol
from hpcmaf.debate.society import Society
from hpcmaf.engines import Sampling
from hpcmaf.jobs.debate import problems_of
from hpcmaf.run.sharding import cut, expected_tokens
from hpcmaf.tasks import get_task
from hpcmaf.tasks.problems import Problem


@pytest.mark.parametrize(("problems", "shards"), [(1, 1), (7, 3), (500, 7), (5, 5)])
def test_alike_problems_are_cut_by_count(problems: int, shards: int) -> None:
    parts = cut([30] * problems, shards)
    assert [i for part in parts for i in part] == list(range(problems))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_no_shard_is_far_from_its_part(seed: int) -> None:
    """Nor empty, whatever the weights; nothing is left out or there twice."""
    draw = random.Random(seed)
    wild = seed % 2 == 0
    weights = [round(draw.lognormvariate(6, 2 if wild else 0.5)) + 1 for _ in range(draw.randrange(1, 200))]
    shards = draw.randrange(1, len(weights) + 1)
    parts = cut(weights, shards)
    assert len(parts) == shards
    assert [i for part in parts for i in part] == list(range(len(weights)))
    assert all(parts)
    if not wild and shards <= len(weights) // 8:
        fair = sum(weights) / shards
        assert all(abs(sum(weights[i] for i in part) - fair) <= max(weights) for part in parts)


def test_a_sorted_file_is_balanced_by_tokens() -> None:
    """Short questions first, long ones last: by count the last shard would have most of the work."""
    task = get_task("arithmetic")
    protocol = Protocol(2, True, task.prompts("compact"), task.answer_form, Sampling(), seed=0, iteration=1)
    society = Society.of(3, ())
    problems = [Problem(f"p{i}", "x" * (100 + 10 * i), "1") for i in range(200)]
    shards = [problems_of(problems, 4, shard, protocol, society) for shard in range(4)]
    assert [problem for shard in shards for problem in shard] == problems

    def tokens(part: list[Problem]) -> int:
        return sum(expected_tokens(problem.question, 3, 2, True, 2048) for problem in part)

    loads = [tokens(shard) for shard in shards]
    assert max(loads) < 1.03 * min(loads)
    assert tokens(problems[150:]) > 2 * tokens(problems[:50]), "and by count they would not be"
    assert expected_tokens("x" * 500, 1, 1, True, 64) < 300, "no answer is longer than it may be"
