"""Debates in the released code's JSON, as transcripts.

The format: an object of ``question: [[agent 1's messages, agent 2's messages,
...], solution]``, each message an object with ``role`` and ``content``, user
and assistant turns alternating. What other agents said is part of the user
messages, so imported debates have no summaries of their own.

A file is taken whole or refused whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Manifest
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.base import Problem, question_hash

_REMEDY = "mend the file or export it again; nothing was imported"


def import_debates(source: Path, target: Path, task: str) -> Manifest:
    """Turn a file of debates into a store.

    Answers are extracted anew, in the form that ``task`` asks for. Prompts and
    texts are kept verbatim; token counts are 0 (unknown).

    Parameters
    ----------
    source
        JSON in the released code's format.
    target
        The store to write.
    task
        ``arithmetic``, ``gsm8k``, ``math``, ``mmlu`` or ``jsonl``.

    Raises
    ------
    DataError
        The file is torn, of another format, or its debates differ in agents or
        rounds. Nothing is written then.
    ConfigError
        No such task.
    """
    from hpcmaf.tasks import get_task

    source = Path(source)
    form = str(get_task(task).answer_form("default"))
    debates = _read(source)
    agents, rounds = _shape(source, debates)
    info = StoreInfo(task, form, agents, rounds, iteration=0, split="train", summaries=False)
    return write_store(target, info, _transcripts(debates, task, form))


@dataclass(frozen=True, slots=True)
class _Debate:
    """One entry of the file; ``turns[n][m - 1]`` is (user text, assistant text)."""

    question: str
    turns: list[list[tuple[str, str]]]
    solution: str


class _Repeated:
    """Stands for an object in which a key comes twice."""

    def __init__(self, key: str, index: int) -> None:
        self.key = key
        self.index = index


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    seen: dict[str, Any] = {}
    for index, (key, value) in enumerate(pairs):
        if key in seen:
            return _Repeated(key, index)
        seen[key] = value
    return seen


def _read(source: Path) -> list[_Debate]:
    if source.is_char_device() or source.is_block_device():
        # Such as /dev/zero: reading it to its end would take all memory.
        raise DataError(f"{source}: a device; name a file of debates")
    try:
        content = json.loads(source.read_bytes(), object_pairs_hook=_object)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not whole JSON ({error}); {_REMEDY}") from error
    if isinstance(content, _Repeated):
        raise DataError(f"{source}: question {content.index}: comes twice ({_short(content.key)}); {_REMEDY}")
    if not isinstance(content, dict) or not content:
        wanted = "an object of question: [agents' messages, solution]"
        raise DataError(f"{source}: holds {_kind(content)} where {wanted} belongs; {_REMEDY}")
    return [_debate(f"{source}: question {index}", *entry) for index, entry in enumerate(content.items())]


def _debate(where: str, question: str, entry: Any) -> _Debate:
    if not isinstance(entry, list) or len(entry) != 2:
        raise DataError(f"{where}: {_kind(entry)} where [agents' messages, solution] belongs; {_REMEDY}")
    agents, solution = entry
    if not isinstance(agents, list) or not agents:
        raise DataError(f"{where}: {_kind(agents)} where the list of agents belongs; {_REMEDY}")
    turns = [_turns(f"{where}, agent {n}", messages) for n, messages in enumerate(agents)]
    return _Debate(question, turns, _solution(where, solution))


def _turns(where: str, messages: Any) -> list[tuple[str, str]]:
    """Pairs of user and assistant text."""
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: {_kind(messages)} where its list of messages belongs; {_REMEDY}")
    texts = []
    for index, message in enumerate(messages):
        at = f"{where}, message {index}"
        if isinstance(message, _Repeated):
            raise DataError(f"{at}: key {message.key!r} comes twice; {_REMEDY}")
        if not isinstance(message, dict):
            raise DataError(f"{at}: {_kind(message)} where an object with role and content belongs; {_REMEDY}")
        role, content = message.get("role"), message.get("content")
        if role == "system":
            # A transcript has nowhere to keep it, and leaving it out would
            # make the debate look as if nothing had been said before.
            raise DataError(f"{at}: a system message; put its text into the first user message; nothing was imported")
        expected = ("user", "assistant")[index % 2]
        if role != expected:
            found = f"role {_short(role)}" if isinstance(role, str) else f"{_kind(role)} as role"
            raise DataError(f"{at}: {found} where {expected!r} belongs, turns alternate; {_REMEDY}")
        if not isinstance(content, str):
            raise DataError(f"{at}: content is {_kind(content)}, not text; {_REMEDY}")
        texts.append(content)
    if len(texts) % 2:
        raise DataError(f"{where}: ends with a user message that nobody answered; {_REMEDY}")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _solution(where: str, solution: Any) -> str:
    if isinstance(solution, str):
        return solution
    # The released arithmetic debates keep the solution as a number.
    if isinstance(solution, int) and not isinstance(solution, bool):
        return str(solution)
    if isinstance(solution, float) and math.isfinite(solution):
        return str(int(solution)) if solution.is_integer() else repr(solution)
    raise DataError(f"{where}: solution is {_kind(solution)}, not text or a number; {_REMEDY}")


def _shape(source: Path, debates: list[_Debate]) -> tuple[int, int]:
    """N and M, which all debates share."""
    agents, rounds = len(debates[0].turns), len(debates[0].turns[0])
    for index, debate in enumerate(debates):
        where = f"{source}: question {index}"
        if len(debate.turns) != agents:
            raise DataError(f"{where}: {len(debate.turns)} agents where question 0 has {agents}; import them apart")
        for n, turns in enumerate(debate.turns):
            if len(turns) != rounds:
                reference = "agent 0 of question 0"
                raise DataError(
                    f"{where}, agent {n}: {len(turns)} rounds where {reference} has {rounds}; import them apart"
                )
    return agents, rounds


def _transcripts(debates: list[_Debate], task: str, form: str) -> Iterator[Transcript]:
    from hpcmaf.answers import extract

    taken: dict[str, int] = {}
    for debate in debates:
        identifier = f"{task}-{question_hash(debate.question)[:16]}"
        # Questions that differ in case or spacing alone share a hash (MATH has
        # some), and are still two debates.
        taken[identifier] = taken.get(identifier, 0) + 1
        if taken[identifier] > 1:
            identifier = f"{identifier}-{taken[identifier]}"
        answers = tuple(
            tuple(
                Utterance("answer", m, n, *turns[m - 1], answer=extract(turns[m - 1][1], form), finish_reason="unknown")
                for n, turns in enumerate(debate.turns)
            )
            for m in range(1, len(debate.turns[0]) + 1)
        )
        yield Transcript(Problem(identifier, debate.question, gold_of(debate.solution, task)), answers)


def gold_of(solution: str, task: str) -> str:
    """The gold answer in a solution: text after ``####``, last box, or all of it."""
    if task == "gsm8k" and "####" in solution:
        return solution.rsplit("####", 1)[1].strip()
    if task == "math":
        from hpcmaf.answers import AnswerForm, extract

        if "\\boxed" in solution or "\\fbox" in solution:
            return extract(solution, AnswerForm.BOXED) or solution.strip()
    return solution.strip()


def _kind(value: Any) -> str:
    """What a JSON value is, for error messages."""
    if isinstance(value, _Repeated):
        return f"an object with key {value.key!r} twice"
    if isinstance(value, (list, dict)) and not value:
        return "an empty list" if isinstance(value, list) else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
