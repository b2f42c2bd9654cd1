"""Debates in the released code's JSON, as transcripts.

The format: an object of ``question: [[agent 1's messages, agent 2's messages,
...], solution]``, each message an object with ``role`` and ``content``, user
and assistant turns alternating. What other agents said is part of the user
messages, so imported debates have no summaries of their own.

A file is taken whole or refused whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, Field, InstanceOf, Strict, TypeAdapter, ValidationError

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Manifest, read_bytes
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem, question_hash

# By instance: pydantic's own strings hold no lone surrogates, which model output contains.
_Text = InstanceOf[str]


class _Message(BaseModel):
    role: _Text
    content: _Text


# The released arithmetic debates keep the solution as a number.
_Solution = _Text | Annotated[int, Strict()] | Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Messages = Annotated[list[_Message], Field(min_length=1)]
_ENTRY = TypeAdapter(tuple[Annotated[list[_Messages], Field(min_length=1)], _Solution])
_Entry = tuple[list[list[_Message]], str | int | float]


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

    form = str(get_task(task).answer_form)
    debates = _read(Path(source))
    agents = next(iter(debates.values()))[0]
    info = StoreInfo(task, form, len(agents), len(agents[0]) // 2, iteration=0, split="train", summaries=False)
    return write_store(target, info, _transcripts(debates, task, form))


def _read(source: Path) -> dict[str, _Entry]:
    try:
        content = json.loads(read_bytes(source), object_pairs_hook=_object)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        _refuse(source, f"not whole JSON ({error})")
    if not isinstance(content, dict) or not content:
        _refuse(source, "not an object of question: [agents' messages, solution], or an empty one")
    debates: dict[str, _Entry] = {}
    for index, (question, entry) in enumerate(content.items()):
        debates[question] = _entry(f"{source}: question {index}", entry)
    shape = None
    for index, (agents, _) in enumerate(debates.values()):
        for n, messages in enumerate(agents):
            shape = shape or (len(agents), len(messages))
            if (len(agents), len(messages)) != shape:
                found = f"{len(agents)} agents, {len(messages) // 2} rounds"
                raise DataError(
                    f"{source}: question {index}, agent {n}: {found} where agent 0 of question 0 has {shape[0]} agents, "
                    f"{shape[1] // 2} rounds; import them apart"
                )
    return debates


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{key[:60]!r} comes twice in an object")
    return dict(pairs)


def _entry(where: str, value: Any) -> _Entry:
    try:
        agents, solution = _ENTRY.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        part, *rest = first["loc"] or ("",)
        if part == 1:
            _refuse(where, "the solution is missing, or neither text nor a finite number")
        names = ("agent ", "message ", "")
        at = ", ".join([where, *(f"{name}{number}" for name, number in zip(names, rest, strict=False))])
        _refuse(at, first["msg"].removeprefix("Input "))
    for n, messages in enumerate(agents):
        for m, message in enumerate(messages):
            expected = ("user", "assistant")[m % 2]
            if message.role != expected:
                # A system message, too: a transcript has nowhere to keep it, and leaving it out would make the debate
                # look as if nothing had been said before.
                remedy = "; put its text into the first user message" if message.role == "system" else ""
                found = f"role {message.role[:60]!r} where {expected!r} belongs, as turns alternate{remedy}"
                _refuse(f"{where}, agent {n}, message {m}", found)
        if len(messages) % 2:
            _refuse(f"{where}, agent {n}", "ends with a user message without an answer")
    return agents, solution


def _refuse(where: object, what: str) -> NoReturn:
    raise DataError(f"{where}: {what}; mend the file or export it again; nothing was imported")


def _transcripts(debates: dict[str, _Entry], task: str, form: str) -> Iterator[Transcript]:
    from hpcmaf.answers import extract

    taken: Counter[str] = Counter()
    for question, (agents, solution) in debates.items():
        identifier = f"{task}-{question_hash(question)[:16]}"
        # Questions that differ in case or spacing alone share a hash (MATH has
        # some), and are still two debates.
        taken[identifier] += 1
        if taken[identifier] > 1:
            identifier = f"{identifier}-{taken[identifier]}"
        answers = []
        for m in range(len(agents[0]) // 2):
            turns = [(messages[2 * m].content, messages[2 * m + 1].content) for messages in agents]
            answers.append(
                tuple(
                    Utterance("answer", m + 1, n, prompt, text, extract(text, form), finish_reason="unknown")
                    for n, (prompt, text) in enumerate(turns)
                )
            )
        yield Transcript(Problem(identifier, question, gold_of(solution, task)), tuple(answers))


def gold_of(solution: str | float, task: str) -> str:
    """The gold answer in a solution: text after ``####``, last box, or all of it."""
    from hpcmaf.answers import AnswerForm, extract

    if isinstance(solution, float) and solution.is_integer():
        solution = int(solution)
    text = str(solution).strip()
    if task == "gsm8k" and "####" in text:
        return text.rsplit("####", 1)[1].strip()
    if task == "math" and ("\\boxed" in text or "\\fbox" in text):
        return extract(text, AnswerForm.BOXED) or text
    return text
