"""Batches: nothing lost, nothing cut, the same in every process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.errors import DataError, TrainingError
from hpcmaf.models.chat import Sample
from hpcmaf.training.data import IGNORED, TokenSample, collate, global_batches, load_tokens, share

samples = st.lists(st.integers(2, 30), min_size=1, max_size=40).map(
    lambda lengths: [TokenSample(f"s{i}", [1] * n, [False] + [True] * (n - 1)) for i, n in enumerate(lengths)]
)


class Words:
    """A chat format of one token per character, targets on the last turn."""

    def sample(self, messages, loss_on, *, ended=True, opening=0):
        before = sum(len(m["content"]) for m in messages[:-1])
        after = len(messages[-1]["content"])
        return Sample([1] * (before + after), [False] * before + [True] * after)


def dataset(path: Path, *turns: tuple[str, str]) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "problem_id": f"p{i}"}
        for i, (q, a) in enumerate(turns)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


@given(samples, st.integers(1, 12), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_every_sample_once_per_epoch(data, batch_size, epochs, seed, even):
    batches = global_batches(data, batch_size=batch_size, epochs=epochs, seed=seed, even=even)
    per_epoch = -(-len(data) // batch_size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        seen = [s.id for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for s in batch]
        assert sorted(seen) == sorted(s.id for s in data)
        sizes = [len(batch) for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size if even else set(sizes[:-1]) <= {batch_size}
    assert batches == global_batches(data, batch_size=batch_size, epochs=epochs, seed=seed, even=even)
    # The same shuffle, cut elsewhere.
    other = global_batches(data, batch_size=batch_size, epochs=epochs, seed=seed, even=not even)
    assert [s for batch in batches for s in batch] == [s for batch in other for s in batch]


def test_order_changes_with_epoch_and_seed():
    data = [TokenSample(f"s{i}", [1, 2], [False, True]) for i in range(30)]
    first, second = global_batches(data, batch_size=30, epochs=2, seed=1)
    (other,) = global_batches(data, batch_size=30, epochs=1, seed=2)
    assert first != second and first != other


@given(samples, st.integers(1, 4), st.integers(1, 5), st.none() | st.integers(30, 100))
def test_shares_cover_the_batch_once_with_equal_numbers_of_passes(batch, processes, size, capacity):
    settings = {"processes": processes, "micro_batch_size": size, "capacity": capacity}
    shares = [share(batch, rank=r, **settings) for r in range(processes)]
    assert len({len(own) for own in shares}) == 1
    passes = [texts for own in shares for texts in own]
    assert sorted(s.id for texts in passes for s in texts) == sorted(s.id for s in batch)
    tokens = [sum(len(s.input_ids) for s in texts) for texts in passes if texts]
    if capacity is None:
        assert all(len(texts) <= size for texts in passes)
    else:
        # Packed, nobody waits for another by more than a text.
        assert max(tokens) <= capacity and max(tokens) - min(tokens) <= 30


def test_packing_fills_the_passes():
    batch = [TokenSample(f"s{at}", [1] * 10, [True] * 10) for at in range(32)]

    def passes(count: int, processes: int, capacity: int) -> list[int]:
        settings = {"processes": processes, "micro_batch_size": 1, "capacity": capacity}
        return [len(texts) for rank in range(processes) for texts in share(batch[:count], rank=rank, **settings)]

    assert passes(32, 1, 160) == [16, 16] and passes(32, 2, 100) == [8] * 4
    assert passes(32, 3, 1000) == [11, 11, 10] and passes(2, 4, 100) == [1, 1, 0, 0]


def test_too_long_is_dropped_and_counted_at_the_limit(tmp_path):
    path = dataset(tmp_path / "d.jsonl", ("abc", "de"), ("abc", "def"), ("abcdefgh", "i"))
    data = load_tokens(path, Words(), max_length=5, loss_on="last_turn")
    assert ([s.id for s in data.samples], data.dropped_too_long) == (["p0:1"], 2)


def test_sample_without_target_is_refused(tmp_path):
    path = dataset(tmp_path / "d.jsonl", ("abc", "d"), ("abc", ""))
    with pytest.raises(TrainingError, match=r"d\.jsonl:2: no token of this sample carries loss"):
        load_tokens(path, Words(), max_length=9, loss_on="last_turn")


CHAT = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        *(("sft", line) for line in ("{", "[]", "{}", '{"messages": [{"role": "user"}]}', '{"messages": 3}')),
        *(("kto", line) for line in (CHAT + "}", CHAT + ', "label": "good"}')),
        *(("grpo", line) for line in (CHAT + ', "label": "positive"}', CHAT + ', "advantage": "much"}')),
        *(("dpo", line) for line in ("[", '{"prompt": []}', CHAT + "}", '{"prompt": [], "chosen": [], "rejected": 0}')),
    ],
)
def test_foreign_lines_are_named(tmp_path, objective, line):
    (tmp_path / "d.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=rf"d\.jsonl:2: no sample of {objective}"):
        load_tokens(tmp_path / "d.jsonl", Words(), max_length=9, loss_on="last_turn", objective=objective)


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(DataError, match="run selection first"):
        load_tokens(tmp_path / "none.jsonl", Words(), max_length=9, loss_on="last_turn")


@pytest.mark.slow
def test_labels_are_the_next_target_tokens_and_padding_carries_nothing():
    rows = [TokenSample("a", [5, 6, 7, 8], [False, False, True, True]), TokenSample("b", [8, 9], [True, True])]
    batch = collate(rows)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [8, 9, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert (batch.keep.tolist(), batch.labels.tolist()) == ([0, 1, 2], [[IGNORED, 7, 8], [9, IGNORED, IGNORED]])
    packed = collate(rows, packed=True)
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 8, 9]] and packed.lengths == (4, 2)
    assert packed.attention_mask is None
    # Nothing is predicted across texts.
    assert (packed.keep.tolist(), packed.labels.tolist()) == ([1, 2, 4], [[7, 8, 9]])
