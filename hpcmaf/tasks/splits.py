"""Training and evaluation problems that cannot overlap, and the check that they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpcmaf.errors import ConfigError, DataError, LeakError
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.problems import FILES, Problem, question_hash

_HELD_OUT = ("validation", "val", "dev")
_HALF = 1 << 255


@dataclass(frozen=True, slots=True)
class Splits:
    """A run's problems; no question is in both lists, nor twice in one."""

    train: list[Problem]
    eval: list[Problem]


def roles(pools: Mapping[str, list[Problem]], source: str) -> dict[str, list[Problem]]:
    """Which of a source's splits ``train`` and which ``test``; or its one pool, by its name or as ``all``.

    Raises
    ------
    DataError
        Two of the splits that train have an id in common.
    """
    if len(pools) == 1:
        return {name if name in FILES else "all": pool for name, pool in pools.items()}
    held = ["test"] if "test" in pools else [name for name in _HELD_OUT if name in pools]
    rest = [name for name in ("train", *_HELD_OUT) if name in pools and name not in held]
    if not rest:  # val and dev alone
        held, rest = held[:1], held[1:]
    kept = rest[:1] if rest[0] == "train" else rest
    training, test = ([problem for name in names for problem in pools[name]] for names in (kept, held))
    taken = Counter(problem.id for problem in training)
    if twice := next((id for id, count in taken.items() if count > 1), None):
        raise DataError(f"{source}: id '{twice}' occurs in two of the splits that train; give every problem its own id")
    return {"train": training, "test": test}


def draw(pools: Mapping[str, Sequence[Problem]], *, train: int, eval: int, seed: int, source: str) -> Splits:
    """Draw ``train`` and ``eval`` problems, disjoint by normalised question.

    Of ``train`` and ``test``, every question of the latter is left out of training, whether drawn or not. One pool is
    cut at the middle of the range of the questions' hashes, moved only as far as the requested numbers need; what has
    no gold can only train. The seed decides which problems of a side are drawn; a larger draw begins with the smaller.

    Raises
    ------
    ConfigError
        A side has fewer problems than requested.
    DataError
        A problem of the test split has no answer.
    """
    if one_pool := len(pools) == 1:
        train_side, eval_side = _cut(_unique(*pools.values()), train, eval)
    else:
        unanswered = [problem.id for problem in pools["test"] if problem.gold is None]
        if unanswered:
            raise DataError(
                f"{source}: {len(unanswered)} problems of the test split have no answer (first: {unanswered[0]}), "
                "so they cannot evaluate; add the answers or move these problems to the training split"
            )
        eval_side = _unique(pools["test"])
        train_side = {key: problem for key, problem in _unique(pools["train"]).items() if key not in eval_side}
    for name, wanted, side in (("eval", eval, eval_side), ("train", train, train_side)):
        if wanted > len(side):
            other = ", or lower task.eval: both come from one pool" if one_pool and name == "train" else ""
            raise ConfigError(
                f"task.{name}: {wanted} problems requested, {len(side)} available in {source} "
                f"(repeated questions count once); set task.{name} to at most {len(side)}{other}"
            )
    return Splits(_sample(train_side, train, seed, "train"), _sample(eval_side, eval, seed, "eval"))


def _unique(problems: Iterable[Problem]) -> dict[str, Problem]:
    """First problem of each question by hash; one with an answer where any has."""
    found: dict[str, Problem] = {}
    for problem in problems:
        key = question_hash(problem.question)
        if key not in found or (found[key].gold is None and problem.gold is not None):
            found[key] = problem
    return found


def _cut(pool: Mapping[str, Problem], train: int, eval: int) -> tuple[dict[str, Problem], dict[str, Problem]]:
    """Low hashes train, high hashes evaluate; what has no answer trains."""
    labelled = sorted(key for key, problem in pool.items() if problem.gold is not None)
    unlabelled = [key for key, problem in pool.items() if problem.gold is None]
    boundary = sum(int(key, 16) < _HALF for key in labelled)
    boundary = max(min(train - len(unlabelled), len(labelled)), boundary)
    boundary = min(max(len(labelled) - eval, 0), boundary)
    low = {key: pool[key] for key in (*unlabelled, *labelled[:boundary])}
    return low, {key: pool[key] for key in labelled[boundary:]}


def _sample(side: Mapping[str, Problem], count: int, seed: int, name: str) -> list[Problem]:
    # Ranked by a seeded hash of the question: the order in which files list their problems changes nothing.
    ranked = sorted(side, key=lambda key: (derive_seed(seed, "draw", name, key), key))
    return [side[key] for key in ranked[:count]]


def leak_guard(train: Iterable[Problem], eval: Iterable[Problem]) -> None:
    """Refuse evaluation questions that occur among the training questions.

    Raises
    ------
    LeakError
        There are such questions; the message has the first of their ids.
    """
    trained = {question_hash(problem.question): problem.id for problem in train}
    leaks = [(problem.id, trained[key]) for problem in eval if (key := question_hash(problem.question)) in trained]
    if leaks:
        shown = ", ".join(f"{evaluation} (training: {training})" for evaluation, training in leaks[:3])
        raise LeakError(
            f"{len(leaks)} evaluation questions occur among the training questions: {shown}"
            f"{', ...' if len(leaks) > 3 else ''}; remove them from one side and start a new run"
        )
