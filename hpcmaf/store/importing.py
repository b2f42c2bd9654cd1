"""Debates in the released code's JSON, as transcripts.

The format: an object of ``question: [[agent 1's messages, agent 2's messages, ...], solution]``, each message an object
with ``role`` and ``content``, user and assistant turns alternating. What other agents said is part of the user
messages, so imported debates have no summaries of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, InstanceOf, Strict, TypeAdapter, ValidationError

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import DataError
from hpcmaf.files.publish import Manifest, first_fault, read_bytes
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem, question_hash

# By instance: pydantic's own strings hold no lone surrogates, which model output contains.
_Text = InstanceOf[str]


class _Message(BaseModel):
    role: _Text
    content: _Text


def _alternating(messages: list[_Message]) -> list[_Message]:
    # A system message has nowhere to be kept in a transcript.
    if [message.role for message in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise ValueError("roles are not user and assistant in turn, with an answer at the end")
    return messages


_Messages = Annotated[list[_Message], Field(min_length=2), AfterValidator(_alternating)]
# The released arithmetic debates keep the solution as a number.
_Solution = _Text | Annotated[int, Strict()] | Annotated[float, Strict(), Field(allow_inf_nan=False)]
_ENTRY = TypeAdapter(tuple[Annotated[list[_Messages], Field(min_length=1)], _Solution])
_Entry = tuple[list[list[_Message]], str | int | float]


def import_debates(source: Path, target: Path, task: str) -> Manifest:
    """Turn a file of debates into a store, whole or not at all.

    Answers are extracted anew, in the form that ``task`` asks for. Prompts and texts are kept verbatim; token counts
    are 0 (unknown).

    Raises
    ------
    DataError
        The file is torn, of another format, or its debates differ in agents or rounds.
    ConfigError
        No such task.
    """
    from hpcmaf.tasks import get_task

    form = str(get_task(task).answer_form)
    try:
        debates = _read(source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: {error}; mend the file or export it again; nothing was imported") from error
    agents = next(iter(debates.values()))[0]
    info = StoreInfo(task, form, len(agents), len(agents[0]) // 2, iteration=0, split="train", summaries=False)
    return write_store(target, info, _transcripts(debates, task, form))


def _read(source: Path) -> dict[str, _Entry]:
    content = json.loads(read_bytes(source))
    if not isinstance(content, dict) or not content:
        raise ValueError("not an object of question: [agents' messages, solution], or an empty one")
    debates: dict[str, _Entry] = {}
    shapes = set()
    for number, (question, entry) in enumerate(content.items()):
        try:
            agents, _ = debates[question] = _ENTRY.validate_python(entry)
        except ValidationError as error:
            raise ValueError(f"question {number}: {first_fault(error)}") from error
        shapes |= {(len(agents), len(messages) // 2) for messages in agents}
        if len(shapes) > 1:
            raise ValueError(f"question {number}: other agents or rounds than before; import each shape apart")
    return debates


def _transcripts(debates: dict[str, _Entry], task: str, form: str) -> Iterator[Transcript]:
    from hpcmaf.answers import extract

    taken: Counter[str] = Counter()
    for question, (agents, solution) in debates.items():
        identifier = f"{task}-{question_hash(question)[:16]}"
        # Questions that differ in case or spacing alone share a hash (MATH has some), and are still two debates.
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
        yield Transcript(Problem(identifier, question, _gold(solution, task)), tuple(answers))


def _gold(solution: str | float, task: str) -> str:
    """The gold answer in a solution: text after ``####``, last box, or all of it."""
    from hpcmaf.answers.extract import last_box

    if isinstance(solution, float) and solution.is_integer():
        solution = int(solution)
    text = str(solution).strip()
    if task == "gsm8k":
        return text.rpartition("####")[2].strip()
    return (task == "math" and last_box(text)[1]) or text
