"""The corpus: what critics and summaries say, and that its tokens are those of a run."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.micro.corpus import MIXTURE, Rows, debate_lines, disputed, draw, lines, steps
from hpcmaf.micro.critic import agreed, cut_off, revise, summary_of
from hpcmaf.micro.styles import NO_NOISE, NOISE, Author, Expression, Solution
from hpcmaf.micro.tokenizer import ASSISTANT, BOS, CHARACTERS, CONTEXT, EOS, PAD, TARGET, UNKNOWN, encode
from hpcmaf.tasks.arithmetic import side
from hpcmaf.tasks.compact import CompactPrompts

EXPRESSION = Expression(1, 12, 13, 4, 5, 6)
SMALL = (Rows(96, 8, 1), Rows(192, 6, 1), Rows(576, 2, 2))


def claim(p: int, q: int, result: int) -> Solution:
    """A solution with given claims."""
    return Solution(f"12*13={p};5*6={q}#{result}", 0, p, q, result)


def test_a_summary_tells_both_products_and_the_result_of_each_other_answer() -> None:
    assert summary_of([claim(156, 30, 131), claim(146, 30, 121)]) == "p156q30#131;p146q30#121"
    broken = cut_off(claim(156, 30, 131), random.Random(0))
    assert "#" not in broken.text and summary_of([broken]) == "?"


@given(st.lists(st.integers(0, 3), max_size=6))
def test_agreement_is_a_unique_plurality_of_at_least_two(claims) -> None:
    counts = sorted((claims.count(one) for one in set(claims)), reverse=True)
    won = bool(counts) and counts[0] >= 2 and (len(counts) == 1 or counts[1] < counts[0])
    found = agreed(claims)
    assert (found is not None) == won
    assert found is None or claims.count(found) == counts[0]


def test_a_faithful_critic_adopts_what_two_of_three_share() -> None:
    author = Author(NO_NOISE)
    others = [claim(157, 30, 132), claim(157, 30, 132)]
    assert revise(author, EXPRESSION, claim(156, 31, 130), others, random.Random(0)).text == "p157;q30#132"


def test_a_critic_works_a_disputed_product_again() -> None:
    author = Author(NO_NOISE)
    table = [claim(157, 30, 132), claim(155, 30, 130)]
    for seed in range(20):
        text = revise(author, EXPRESSION, claim(154, 30, 129), table, random.Random(seed)).text
        assert text.startswith("12*13=") and ";q30;" in text and text.endswith("#131")


def test_critics_follow_agreement_mostly_and_not_always() -> None:
    author, rng = Author(NOISE), random.Random(1)
    others = [claim(157, 30, 132), claim(157, 30, 133)]
    followed = sum(revise(author, EXPRESSION, claim(156, 30, 131), others, rng).p == 157 for _ in range(2000))
    assert abs(followed / 2000 - NOISE.follow) < 0.04


def test_a_cut_off_answer_claims_nothing() -> None:
    author, rng = Author(NO_NOISE), random.Random(2)
    broken = cut_off(claim(99, 99, 99), rng)
    assert revise(author, EXPRESSION, claim(156, 30, 131), [broken, claim(156, 30, 131)], rng).result == 131


def test_lines_are_a_debate_of_the_compact_prompts() -> None:
    rng, author, prompts = random.Random(3), Author(NOISE), CompactPrompts()
    kinds = set()
    for _ in range(200):
        for turns in debate_lines(author, rng):
            assert len(turns) % 2 == 0
            if "|" in turns[0]:
                expression, *answers = turns[0].split("|")
                assert turns[0] == prompts.summarize(expression, answers)
                assert len(turns[1].split(";")) == max(1, len(answers))
                kinds.add("summary")
                continue
            assert turns[0] == prompts.first(turns[0])
            kinds.update({"update" if turn[0] == "~" else "without" for turn in turns[2::2]})
            assert all("#" in turn for turn in turns[1::2])
    assert kinds == {"summary", "update", "without"}


def test_no_evaluation_question_is_in_the_corpus() -> None:
    rng = random.Random(6)
    assert {side(draw(rng).text) for _ in range(200)} == {"train"}
    asked = {turns[0].split("|")[0].rstrip("=") for _ in range(60) for turns in debate_lines(Author(), rng)}
    assert {side(expression) for expression in asked} == {"train"}


def test_disputes_are_common_enough_to_learn_from() -> None:
    assert disputed([claim(1, 2, 3), claim(2, 2, 3), claim(3, 2, 3)])
    assert disputed([claim(1, 2, 3), claim(1, 2, 4), claim(1, 2, 5)])
    assert not disputed([claim(1, 2, 3), claim(1, 2, 3), claim(3, 2, 3)])
    assert not disputed([claim(1, 2, 3)])
    rng, author = random.Random(7), Author()

    def share(calm: float) -> float:
        mixture = replace(MIXTURE, agents=((2, 1.0),), without_summary=0.0, calm=calm)
        chats = [turns for _ in range(150) for turns in debate_lines(author, rng, mixture) if "|" not in turns[0]]
        own = [turns[1].rsplit("#", 1)[1] for turns in chats]
        return sum(not turns[2].endswith("#" + result) for turns, result in zip(chats, own, strict=True)) / len(chats)

    assert share(0.2) > share(1.0) + 0.1


def test_debates_do_not_train_first_answers() -> None:
    ids = encode(["1+1=", "#2", "~", "#3"], start=2)
    assert (ids >= TARGET).sum() == 3 and ids[-1] >= TARGET


def test_tokens_of_a_line() -> None:
    ids = encode(["1+1=", "#2"])
    plain = ids % TARGET
    assert plain[0] == BOS and plain[-1] == EOS and ASSISTANT in plain
    # The loss is on the answer and the end of its turn, nowhere else.
    assert (ids >= TARGET).tolist() == [False] * 7 + [True] * 3
    assert (encode(["x", "1"]) == UNKNOWN).sum() == 1


def test_every_character_has_a_token_and_none_is_unknown_in_the_corpus() -> None:
    assert len(set(CHARACTERS)) == len(CHARACTERS)
    source = lines(0, 0)
    for _ in range(2000):
        line = next(source)
        assert not np.isin(line % TARGET, [PAD, UNKNOWN]).any()
        assert len(line) <= CONTEXT


def test_batches_follow_from_the_seed_alone() -> None:
    first, again, other = steps(0, 3, 4, shapes=SMALL), steps(0, 3, 4, shapes=SMALL), steps(1, 3, 4, shapes=SMALL)
    assert [[batch.shape for batch in step] for step in first] == [
        [(8, 96), (6, 192), (2, 576)],
        [(8, 96), (6, 192)],
    ] * 2
    flat = [[batch for step in made for batch in step] for made in (first, again, other)]
    assert all((one == two).all() for one, two in zip(flat[0], flat[1], strict=True))
    assert not all((one == two).all() for one, two in zip(flat[0], flat[2], strict=True))


def test_batches_hold_whole_lines() -> None:
    for step in steps(0, 0, 4, shapes=SMALL):
        for batch in step:
            for row in batch:
                used = row[: np.flatnonzero(row % TARGET == EOS)[-1] + 1]
                assert used[0] == BOS and (row[len(used) :] == PAD).all() and (used % TARGET != PAD).all()


@pytest.mark.parametrize("summarized", [True, False])
def test_the_largest_society_fits_the_context(summarized) -> None:
    """N=5 and M=3 within max_position_embeddings, whatever the slips."""
    mixture = type(MIXTURE)(agents=((5, 1.0),), rounds=((3, 1.0),), without_summary=0.0 if summarized else 1.0)
    author, rng = Author(NOISE), random.Random(4)
    longest = max(len(encode(turns)) for _ in range(150) for turns in debate_lines(author, rng, mixture))
    assert longest <= CONTEXT - 96
