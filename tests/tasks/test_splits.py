"""Splits: disjoint by construction, repeatable, and checked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.errors import ConfigError, DataError, LeakError
from hpcmaf.tasks import leak_guard
from hpcmaf.tasks.problems import Problem, question_hash
from hpcmaf.tasks.splits import draw, roles

# Few words in several spellings, so that equal questions are common.
QUESTIONS = st.lists(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=2).map(" ".join)
SPELLINGS = st.sampled_from([str, str.upper, lambda text: f"  {text.replace(' ', chr(10))} "])
PROBLEMS = st.lists(st.tuples(QUESTIONS, SPELLINGS, st.booleans()), min_size=1, max_size=60).map(
    lambda rows: [
        Problem(str(n), spell(question), "1" if answered else None)
        for n, (question, spell, answered) in enumerate(rows)
    ]
)


def hashes(problems: list[Problem]) -> list[str]:
    return [question_hash(problem.question) for problem in problems]


def check(splits, train: int, eval: int) -> None:
    assert (len(splits.train), len(splits.eval)) == (train, eval)
    both = hashes(splits.train) + hashes(splits.eval)
    assert len(set(both)) == len(both)
    assert all(problem.gold is not None for problem in splits.eval)
    leak_guard(splits.train, splits.eval)


@given(PROBLEMS, st.data())
@settings(max_examples=150, deadline=None)
def test_one_pool_is_cut_without_overlap_for_every_count_that_fits(pool, data) -> None:
    everything = set(hashes(pool))
    answered = {question_hash(problem.question) for problem in pool if problem.gold is not None}
    eval = data.draw(st.integers(0, len(answered)))
    train = data.draw(st.integers(0, len(everything) - eval))
    seed = data.draw(st.integers(0, 2**63 - 1))
    check(draw({"all": pool}, train=train, eval=eval, seed=seed, source="here"), train, eval)


@given(PROBLEMS, PROBLEMS, st.integers(0, 2**63 - 1))
@settings(max_examples=150, deadline=None)
def test_questions_of_the_test_split_never_train(training, test, seed) -> None:
    test = [Problem(problem.id, problem.question, "1") for problem in test]
    left = len(set(hashes(training)) - set(hashes(test)))
    # One evaluation problem is drawn; all of the test split is still kept out.
    splits = draw({"train": training, "test": test}, train=left, eval=1, seed=seed, source="here")
    check(splits, left, 1)
    assert not set(hashes(splits.train)) & set(hashes(test))
    with pytest.raises(ConfigError, match=rf"task\.train: {left + 1} problems requested, {left} available in here"):
        draw({"train": training, "test": test}, train=left + 1, eval=1, seed=seed, source="here")


@given(PROBLEMS, st.integers(0, 2**63 - 1), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_a_file_changes_no_draw(pool, seed, random) -> None:
    pool = [Problem(question_hash(problem.question), problem.question, "1") for problem in pool]
    count = len(set(hashes(pool))) // 2
    first = draw({"all": pool}, train=count, eval=count, seed=seed, source="here")
    shuffled = random.sample(pool, len(pool))
    again = draw({"all": shuffled}, train=count, eval=count, seed=seed, source="here")
    assert (hashes(first.train), hashes(first.eval)) == (hashes(again.train), hashes(again.eval))


def pool(count: int) -> list[Problem]:
    return [Problem(str(n), f"question {n}", str(n)) for n in range(count)]


def test_the_cut_of_a_pool_is_the_same_for_every_seed_and_a_larger_draw_begins_with_the_smaller_one() -> None:
    draws = [draw({"all": pool(400)}, train=100, eval=100, seed=seed, source="here") for seed in range(20)]
    trained = {problem.id for splits in draws for problem in splits.train}
    held = {problem.id for splits in draws for problem in splits.eval}
    assert not trained & held
    assert len(trained) > 150 and len(held) > 150
    assert len({tuple(problem.id for problem in splits.train) for splits in draws}) == 20
    larger = draw({"all": pool(400)}, train=120, eval=130, seed=3, source="here")
    assert larger.train[:100] == draws[3].train and larger.eval[:100] == draws[3].eval


def test_unanswered_problems_train_but_never_evaluate() -> None:
    unanswered = [Problem(f"u{n}", f"open question {n}") for n in range(10)]
    splits = draw({"all": unanswered + pool(10)}, train=10, eval=10, seed=0, source="here")
    assert {problem.gold for problem in splits.train} == {None}
    with pytest.raises(DataError, match=r"here: 10 problems of the test split have no answer \(first: u0\)"):
        draw({"train": pool(5), "test": unanswered}, train=1, eval=1, seed=0, source="here")


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (("train", "test"), "train", "test"),
        (("train", "validation", "test"), "train", "test"),
        (("dev", "val", "test"), "dev val", "test"),
        (("dev", "test"), "dev", "test"),
        (("train", "validation"), "train", "validation"),
        (("val", "dev"), "dev", "val"),
        (("test",), "test", None),
    ],
)
def test_roles_of_splits(names, train, test) -> None:
    found = roles({name: [Problem(name, name, "1")] for name in names}, "here")
    assert sorted(problem.id for problem in found[train.split()[0] if test is None else "train"]) == train.split()
    assert test is None or [problem.id for problem in found["test"]] == [test]
    assert len(found) == (1 if test is None else 2)


def test_leak_guard_names_count_and_first_ids() -> None:
    train = [Problem("t1", "What is  one?"), Problem("t2", "two?")]
    leak_guard(train, [Problem("e0", "three?", "3")])
    poisoned = [Problem("e0", "three?", "3"), Problem("e1", "WHAT is one?", "1"), Problem("e2", "two?\n", "2")]
    with pytest.raises(
        LeakError, match=r"^2 evaluation questions occur .*: e1 \(training: t1\), e2 \(training: t2\); remove"
    ):
        leak_guard(train, poisoned)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # Powers, indices and fractions are no digits.
        ("2\u2075", "25", False),
        ("x\u2081", "x1", False),
        ("2\u00bd", "21\u20442", False),
        ("\u2460 + 1", "1 + 1", False),
        ("caf\u00e9", "cafe\u0301", True),
        ("\uff12\uff15", "25", True),
        ("\ufb01nd\u00a0x", "FIND  x", True),
        ("\U0001d465", "x", True),
        ("2\u2075", " 2\u2075 ", True),
        ("\ud800", "\ud800", True),
    ],
)
def test_which_forms_of_a_question_are_the_same_one(one: str, other: str, same: bool) -> None:
    assert (question_hash(one) == question_hash(other)) is same
