"""Which requests travel together."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.engines import Request, Sampling
from hpcmaf.engines.batching import Waiting, take_batch


def waiting(key: str, length: int, model: str | None) -> Waiting:
    request = Request(key, ({"role": "user", "content": "x"},), model, 0, Sampling())
    return Waiting(request, [1] * length, None)  # type: ignore[arg-type]


def keys(batch: list[Waiting]) -> list[str]:
    return [one.request.key for one in batch]


def test_a_model_with_half_a_batch_waiting_gets_one_to_itself() -> None:
    queue = [waiting(f"a{i}", 10 + i, "critic-0") for i in range(5)] + [waiting("b", 400, None)]
    assert keys(take_batch(queue, 8)) == ["a4", "a3", "a2", "a1", "a0"]
    assert keys(queue) == ["b"]


def test_of_several_crowds_the_longest_prompt_decides() -> None:
    queue = [waiting(f"a{i}", 10, "generator-0") for i in range(9)] + [
        waiting(f"b{i}", 90, "critic-0") for i in range(4)
    ]
    assert keys(take_batch(queue, 8)) == ["b0", "b1", "b2", "b3"]


def test_the_rest_travels_mixed_longest_first() -> None:
    queue = [waiting("a", 10, "generator-0"), waiting("b", 300, None), waiting("c", 150, "critic-1")]
    assert keys(take_batch(queue, 64)) == ["b", "c", "a"]
    assert queue == []


LISTS = st.lists(st.tuples(st.integers(1, 300), st.sampled_from([None, "generator-0", "critic-0"])), max_size=60)


@settings(max_examples=80, deadline=None)
@given(LISTS, st.integers(1, 20), st.integers(0, 99))
def test_everybody_goes_once_whatever_the_order(made: list[tuple[int, str | None]], size: int, seed: int) -> None:
    """Batches do not depend on who came first; nobody waits for ever or goes twice."""
    queue = [waiting(f"k{i}", length, model) for i, (length, model) in enumerate(made)]
    shuffled = list(queue)
    random.Random(seed).shuffle(shuffled)
    gone = []
    while queue:
        batch = take_batch(queue, size)
        assert 1 <= len(batch) <= size
        assert keys(batch) == keys(take_batch(shuffled, size))
        gone += keys(batch)
    assert sorted(gone) == sorted(f"k{i}" for i in range(len(made)))
