"""From dataset lines to batches of tokens.

Every process reads the whole (small) dataset and works out the same batches,
so token totals of a global batch are known everywhere without asking.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmaf.debate.methods import Objective
from hpcmaf.errors import DataError, TrainingError
from hpcmaf.models.chat import ChatFormat
from hpcmaf.seeding import derive_seed
from hpcmaf.selection.sources import LossOn

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One training text in tokens; ``target`` marks those that carry loss.

    ``signal``: of KTO 1 where the response is desirable, else -1; of GRPO its advantage; else its weight.
    """

    id: str
    input_ids: list[int]
    target: list[bool]
    signal: float = 1.0

    @property
    def target_tokens(self) -> int:
        """Tokens that carry loss. The first token of a text is never predicted."""
        return sum(self.target[1:])


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Two training texts that begin alike; to batches it is one sample."""

    id: str
    chosen: TokenSample
    rejected: TokenSample

    @property
    def input_ids(self) -> list[int]:
        """Both texts, to count tokens by."""
        return self.chosen.input_ids + self.rejected.input_ids

    @property
    def target_tokens(self) -> int:
        """Tokens of both answers."""
        return self.chosen.target_tokens + self.rejected.target_tokens


@dataclass(frozen=True, slots=True)
class TokenData:
    """A dataset in tokens, texts or pairs of them, and how many of its lines were too long."""

    samples: list[Any]
    dropped_too_long: int


def load_tokens(
    path: Path, chat: ChatFormat, *, max_length: int, loss_on: LossOn = "last_turn", objective: Objective = "sft"
) -> TokenData:
    """Render and tokenize a dataset of chats, or for ``dpo`` of preference pairs, as generation renders them.

    A sample with a text longer than ``max_length`` tokens is dropped whole: cutting it would cut off its answer, the
    one part that carries loss. For ``loss_on`` see :meth:`hpcmaf.models.chat.ChatFormat.sample`; of what is compared or
    rewarded, the last turn carries it.

    Raises
    ------
    DataError
        A line is no chat, or no pair, or lacks its verdict or advantage.
    TrainingError
        A sample has no token that carries loss.
    """
    samples: list[TokenSample | TokenPair] = []
    dropped, pairs = 0, objective == "dpo"
    for number, line in _lines(path):
        try:
            record = json.loads(line)
            chats = _chats(record, pairs)
            signal = _signal(record, objective)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"{path}:{number}: no sample of {objective} ({error!r}); rerun selection") from error
        name = f"{record.get('problem_id', 'line')}:{number}"
        rendered = [
            chat.sample(messages, loss_on if objective == "sft" else "last_turn", ended=ended, opening=opening)
            for messages, ended, opening in chats
        ]
        texts = [TokenSample(name, sample.input_ids, sample.target, signal) for sample in rendered]
        sample = TokenPair(name, *texts) if pairs else texts[0]
        if sample.target_tokens == 0:
            raise TrainingError(
                f"{path}:{number}: no token of this sample carries loss; its last turn must say something"
            )
        if max(len(text.input_ids) for text in texts) > max_length:
            dropped += 1
        else:
            samples.append(sample)
    return TokenData(samples, dropped)


def _signal(record: dict[str, Any], objective: Objective) -> float:
    if objective == "kto":
        return {"positive": 1.0, "negative": -1.0}[record["label"]]
    return float(record["advantage"] if objective == "grpo" else record.get("weight", 1.0))


def _chats(record: dict[str, Any], pair: bool) -> list[tuple[list[dict[str, str]], bool, int]]:
    """Messages, whether the last one was ended by its author, and how many before are worked examples."""
    reasons = record.get("finish_reason")
    if not pair:
        return [(_messages(record["messages"]), reasons != "length", record.get("opening", 0))]
    prompt, reasons = record["prompt"], reasons or {}
    sides = {side: {"role": "assistant", "content": record[side][-1]["content"]} for side in ("chosen", "rejected")}
    return [(_messages([*prompt, answer]), reasons.get(side) != "length", 0) for side, answer in sides.items()]


def _messages(turns: Any) -> list[dict[str, str]]:
    return [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in turns]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a dataset with their numbers; empty ones are nothing."""
    try:
        # Not splitlines: text may hold any of Unicode's line separators.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such dataset; run selection first") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); rerun selection") from error


def global_batches(
    samples: Sequence[TokenSample], *, batch_size: int, epochs: int, seed: int, even: bool = False
) -> list[list[TokenSample]]:
    """Cut every epoch's own shuffle into batches.

    No sample is left out and none is repeated within an epoch, so a dataset smaller than ``batch_size`` makes one step
    per epoch. All are full but the last of an epoch, which has what remains; ``even``, they differ by one sample at
    most. There are equally many either way.
    """
    count = -(-len(samples) // batch_size)
    if even:
        ends = [len(samples) * (at + 1) // count for at in range(count)]
    else:
        ends = [min(len(samples), batch_size * (at + 1)) for at in range(count)]
    batches = []
    for epoch in range(epochs):
        order = list(range(len(samples)))
        random.Random(derive_seed(seed, "order", epoch)).shuffle(order)
        batches += [[samples[i] for i in order[begin:end]] for begin, end in zip([0, *ends], ends, strict=False)]
    return batches


def share(
    batch: Sequence[TokenSample], *, rank: int, processes: int, micro_batch_size: int, capacity: int | None = None
) -> list[Sequence[TokenSample]]:
    """One process's forward passes of a global batch: padded micro-batches, or rows of ``capacity`` packed tokens.

    The loss is a sum over the global batch and does not notice how it is cut. All processes get equally many passes,
    some perhaps empty, since their collectives must pair up.
    """
    # Padded, texts of like length go together.
    ordered = sorted(batch, key=lambda sample: len(sample.input_ids), reverse=True)
    if capacity is not None:
        passes = _pack(ordered, processes, capacity)
    else:
        # A small batch is spread over the processes rather than filling one.
        size = min(micro_batch_size, -(-len(ordered) // processes))
        passes = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    mine: list[Sequence[TokenSample]] = list(passes[rank::processes])
    return mine + [[]] * (-(-len(passes) // processes) - len(mine))


def _pack(ordered: Sequence[TokenSample], processes: int, capacity: int) -> list[list[TokenSample]]:
    """As few rows as a batch fits into, longest samples first, all about equally long.

    A step lasts as long as the process with most to do, so the number of rows
    is a multiple of the processes wherever there are samples for it.
    """
    total = sum(len(sample.input_ids) for sample in ordered)
    rows = -(-max(1, -(-total // capacity)) // processes) * processes
    while True:
        bins: list[list[TokenSample]] = [[] for _ in range(min(rows, len(ordered)))]
        loads = [0] * len(bins)
        for sample in ordered:
            # Longest first onto the emptiest: within a sample's length of equal.
            emptiest = loads.index(min(loads))
            bins[emptiest].append(sample)
            loads[emptiest] += len(sample.input_ids)
        if max(loads) <= capacity or rows >= len(ordered):
            return bins
        rows += processes


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of one forward pass.

    ``input_ids`` and ``attention_mask`` are int64[B, T], padded on the right, unless texts of ``lengths`` share the one
    row: then there is no padding and no mask. ``keep``, int64[K], has the positions whose next token carries loss in
    any row, and ``labels``, int64[B, K], that token, or ``IGNORED``.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    keep: torch.Tensor
    labels: torch.Tensor
    lengths: tuple[int, ...] | None = None


def collate(texts: Sequence[TokenSample], *, packed: bool = False) -> MicroBatch:
    """Pad texts to one length, or pack them into one row."""
    import torch

    rows = [torch.tensor(text.input_ids, dtype=torch.long) for text in texts]
    # The logits at t predict token t + 1, and those at a text's end nothing.
    following = [
        torch.nn.functional.pad(torch.where(torch.tensor(text.target), ids, IGNORED)[1:], (0, 1), value=IGNORED)
        for text, ids in zip(texts, rows, strict=True)
    ]
    attention = lengths = None
    if packed:
        input_ids, labels = torch.cat(rows)[None], torch.cat(following)[None]
        lengths = tuple(len(ids) for ids in rows)
    else:
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(rows, batch_first=True)
        labels = pad(following, batch_first=True, padding_value=IGNORED)
        attention = pad([torch.ones_like(ids) for ids in rows], batch_first=True)
    keep = (labels != IGNORED).any(dim=0).nonzero().flatten()
    return MicroBatch(input_ids, attention, keep, labels[:, keep], lengths)
