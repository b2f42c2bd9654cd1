"""Preferences: pairs out of debates, the loss, and what agents have learnt from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.models.chat import ChatFormat
from hpcmaf.selection.select import select
from hpcmaf.training.data import load_tokens
from tests.debate.scripted import debate
from tests.selection.test_select import cut_off
from tests.training.conftest import preferences, write_lines
from tests.training.test_objectives import gains

answers = st.sampled_from(["7", "1", None])


def pairs_of(*debates) -> dict[str, dict[str, tuple[int, int]]]:
    chosen = select(debates, Rules(w=0.5), seed=1, iteration=1, data="pairs")
    return {dataset.agent: dataset.sides for dataset in chosen.datasets}


@given(st.lists(st.lists(answers, min_size=3, max_size=3), min_size=2, max_size=4))
def test_pairs_hold_one_answer_of_each_kind_and_ones_own(rounds):
    given_debate = debate("a", *rounds)
    chosen = select([given_debate], Rules(w=0.5), seed=1, iteration=1, data="pairs")
    label = chosen.consensus.get("a")
    for dataset in chosen.datasets:
        said = [turn.answer for turn in given_debate.answers[dataset.round - 1]]
        mixed = label is not None and len({answer == label for answer in said}) == 2
        assert (dataset.kept == {"a"}) == mixed
        if mixed:
            right, wrong = dataset.sides["a"]
            assert said[right] == label != said[wrong] and dataset.index in (right, wrong)
            first = given_debate.answers[0][dataset.index].answer
            assert dataset.labels["a"] == ("positive" if first == label else "negative")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo-lora", "dpo-next", "dpo-lora-3", "dpo-full"])
def test_the_margin_rises_on_held_out_pairs(outcomes, tmp_path, name):
    outcome, data = outcomes[name], write_lines(tmp_path / "held-out.jsonl", preferences(50, 8))
    chat = ChatFormat.from_pretrained(outcome.job.base)
    pairs = load_tokens(data, chat, max_length=256, objective="dpo").samples
    found = gains(outcome, [text for pair in pairs for text in (pair.chosen, pair.rejected)])
    margins = [chosen - rejected for chosen, rejected in zip(found[::2], found[1::2], strict=True)]
    assert min(margins) > 0 and sum(margins) / len(margins) > 1, margins
    # The reference is the model as it starts, be that the base or an adapter: log 2.
    lines = outcome.steps
    assert (lines[0]["loss"], lines[0]["reward_margin"]) == pytest.approx((0.693147, 0), abs=1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"] and lines[-1]["reward_margin"] > 0
    assert lines[-1]["reward_accuracy"] > 0.7 and outcome.report["samples"] == 21


def test_no_pair_has_an_answer_that_was_cut_off():
    one = debate("a", ["7", "1", "1"], ["7", "1", "1"], ["7", "7", "1"])
    whole = pairs_of(one)
    assert whole["generator-0"] == {"a": (0, 1)} and whole["generator-1"] == {"a": (0, 1)}
    short = pairs_of(cut_off(one, (1, 1)))
    # The next that fared otherwise stands in; of its own answers an agent has no other.
    assert [short[f"generator-{n}"] for n in range(3)] == [{"a": (0, 2)}, {}, {"a": (0, 2)}]
    assert short["critic-1"] == whole["critic-1"]


def test_a_pairs_ends_are_those_that_were_generated(bases, tmp_path):
    line = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "4"}],
        "rejected": [{"role": "assistant", "content": "5"}],
        "finish_reason": {"chosen": "stop", "rejected": "length"},
    }
    chat = ChatFormat.from_pretrained(str(bases["llama"]))
    (pair,) = load_tokens(write_lines(tmp_path / "pairs.jsonl", [line]), chat, max_length=99, objective="dpo").samples
    assert pair.chosen.input_ids[-1] in chat.stop_ids and pair.rejected.input_ids[-1] not in chat.stop_ids
