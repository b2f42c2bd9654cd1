"""Measure a micro model: one answer, majority and debate, with standard errors.

A debate held in three batched calls, without stores or agents, so that a
candidate can be scored in seconds where it was made. Runs are scored by
:mod:`hpcmaf.evaluation`.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.errors import EngineError
from hpcmaf.micro.styles import Expression
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.arithmetic import side
from hpcmaf.tasks.compact import CompactPrompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hpcmaf.engines.chat import ChatFormat

_RESULT = re.compile(r"#(-?\d+)$")


@dataclass(frozen=True, slots=True)
class Score:
    """Share of right answers among n, and its standard error (ddof 0)."""

    value: float
    se: float

    @classmethod
    def of(cls, right: Sequence[bool]) -> Score:
        """Score of 0/1 marks."""
        value = sum(right) / len(right)
        return cls(value, math.sqrt(value * (1 - value) / len(right)))


def result_of(text: str) -> int | None:
    """The final number of an answer; ``None`` where the answer is unfinished."""
    match = _RESULT.search(text)
    return int(match.group(1)) if match else None


def style_of(text: str, expression: Expression) -> int | None:
    """Which style a first answer is written in; ``None`` where its steps fit none."""
    starts = {
        0: f"{expression.b}*{expression.c}=",
        1: f"{expression.e}*{expression.f}=",
        2: f"{expression.a}+{expression.d}=",
    }
    fitting = [style for style, start in starts.items() if text.startswith(start)]
    return fitting[0] if fitting else None


def majority(results: Sequence[int | None], seed: int) -> int | None:
    """The most frequent result, ties drawn by seed; ``None`` never counts."""
    counts = Counter(result for result in results if result is not None)
    if not counts:
        return None
    most = max(counts.values())
    return random.Random(seed).choice(sorted(result for result, count in counts.items() if count == most))


def complete(
    model: PreTrainedModel,
    chat: ChatFormat,
    conversations: Sequence[Sequence[str]],
    *,
    top_p: float = 0.9,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
    batch: int | None = None,
) -> list[str]:
    """Sample the next assistant turn of each conversation (turns alternate, user first and last).

    Prompts of like length go together; the draw uses torch's global generator.
    """
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_p=top_p,
        top_k=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(chat.stop_ids),
        pad_token_id=chat.tokenizer.pad_token_id,
    )
    roles = ("user", "assistant")
    # A GPU takes all at once; a CPU's caches do not.
    batch = batch or (256 if model.device.type == "cpu" else 4096)
    prompts = [
        chat.prompt_ids([{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)])
        for turns in conversations
    ]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    pad = chat.tokenizer.pad_token_id
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        width = max(len(prompts[index]) for index in part)
        ids = torch.tensor([[pad] * (width - len(prompts[index])) + prompts[index] for index in part])
        mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in part])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
        for index, row in zip(part, out[:, width:].tolist(), strict=True):
            texts[index] = chat.decode(row)
    return texts


def score(
    folder: Path,
    *,
    problems: int = 1000,
    agents: int = 3,
    rounds: int = 2,
    top_p: float = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    summaries: bool = True,
) -> dict[str, float | Score]:
    """Debate among copies of one model on problems of the task's evaluation side.

    Returns
    -------
    dict
        ``one_answer``, ``majority``, ``critic`` (one agent's last answer) and
        ``debate`` as :class:`Score`; ``styles``: distinct styles among the
        agents' first answers, mean; ``summaries_right``: share of summaries
        that report every result as given; ``answer_tokens`` and
        ``update_tokens``: mean lengths.

    Raises
    ------
    EngineError
        There is no model in ``folder``, or a damaged one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from hpcmaf.engines.chat import ChatFormat

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    except Exception as error:  # a damaged checkpoint makes the loaders raise almost anything
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise EngineError(f"model {folder}: cannot be loaded ({reason}); check the files there") from error
    chat = ChatFormat.from_pretrained(str(folder))
    torch.manual_seed(derive_seed(seed, "micro score"))
    return debate_scores(model, chat, problems, agents, rounds, top_p, temperature, seed, summaries)


def debate_scores(
    model: PreTrainedModel,
    chat: ChatFormat,
    problems: int,
    agents: int,
    rounds: int,
    top_p: float,
    temperature: float,
    seed: int,
    summaries: bool,
) -> dict[str, float | Score]:
    """:func:`score` of a loaded model."""
    prompts, draw = CompactPrompts(), random.Random(derive_seed(seed, "micro problems"))
    expressions: list[Expression] = []
    while len(expressions) < problems:
        expression = Expression.draw(draw)
        if side(expression.text) == "eval":
            expressions.append(expression)
    chats = [[prompts.first(one.text)] for one in expressions for _ in range(agents)]
    settings = {"top_p": top_p, "temperature": temperature}
    answers = complete(model, chat, chats, **settings)
    first, copied = answers, []
    for _ in range(1, rounds):
        others = [
            [answers[at - at % agents + other] for other in range(agents) if other != at % agents]
            for at in range(len(chats))
        ]
        asked = [(expressions[at // agents].text, others[at]) for at in range(len(chats))]
        if summaries:
            read = complete(model, chat, [[prompts.summarize(*one)] for one in asked], **settings)
            copied += [
                [result_of(one) for one in text.split(";")] == [result_of(one) for one in other]
                for text, other in zip(read, others, strict=True)
            ]
            updates = [prompts.update(expression, text) for (expression, _), text in zip(asked, read, strict=True)]
        else:
            updates = [prompts.update_without_summary(*one) for one in asked]
        chats = [[*turns, answer, update] for turns, answer, update in zip(chats, answers, updates, strict=True)]
        answers = complete(model, chat, chats, **settings)

    def voted(texts: Sequence[str]) -> Score:
        return Score.of(
            [
                majority([result_of(text) for text in texts[at * agents : (at + 1) * agents]], derive_seed(seed, at))
                == one.value
                for at, one in enumerate(expressions)
            ]
        )

    def single(texts: Sequence[str]) -> Score:
        return Score.of([result_of(texts[at * agents]) == one.value for at, one in enumerate(expressions)])

    styles = [
        len({style_of(text, one) for text in first[at * agents : (at + 1) * agents]})
        for at, one in enumerate(expressions)
    ]
    return {
        "one_answer": single(first),
        "majority": voted(first),
        "critic": single(answers),
        "debate": voted(answers),
        "styles": sum(styles) / len(styles),
        "summaries_right": sum(copied) / len(copied) if copied else math.nan,
        "answer_tokens": sum(map(len, first)) / len(first) + 1,
        "update_tokens": sum(map(len, answers)) / len(answers) + 1,
        "unfinished": sum(result_of(text) is None for text in first + answers) / (2 * len(first)),
    }
