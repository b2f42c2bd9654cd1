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
from typing import TYPE_CHECKING

from hpcmaf.engines.chat import ChatFormat
from hpcmaf.errors import DataError, TrainingError
from hpcmaf.seeding import derive_seed
from hpcmaf.training.spec import LossOn

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One training text in tokens; ``target`` marks those that carry loss."""

    id: str
    input_ids: list[int]
    target: list[bool]

    @property
    def target_tokens(self) -> int:
        """Tokens that carry loss. The first token of a text is never predicted."""
        return sum(self.target[1:])


@dataclass(frozen=True, slots=True)
class TokenData:
    """A dataset in tokens, texts or pairs of them, and how many of its lines were too long."""

    samples: list[TokenSample]
    dropped_too_long: int


def load_tokens(path: Path, chat: ChatFormat, *, max_length: int, loss_on: LossOn) -> TokenData:
    """Render and tokenize a dataset: JSONL with ``messages`` per line, as generation renders them.

    A sample longer than ``max_length`` tokens is dropped whole: cutting it
    would cut off its answer, the one part that carries loss. For ``loss_on``
    see :meth:`hpcmaf.engines.chat.ChatFormat.sample`.

    Raises
    ------
    DataError
        A line is not a chat.
    TrainingError
        A sample has no token that carries loss.
    """
    samples, dropped = [], 0
    for number, line in dataset_lines(path):
        try:
            record = json.loads(line)
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in record["messages"]]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}:{number}: not a line with messages ({error!r}); rerun selection") from error
        ended, opening = record.get("finish_reason") != "length", record.get("opening", 0)
        sample = chat.sample(messages, loss_on, ended=ended, opening=opening)
        tokens = TokenSample(f"{record.get('problem_id', 'line')}:{number}", sample.input_ids, sample.target)
        if tokens.target_tokens == 0:
            raise TrainingError(
                f"{path}:{number}: no token of this sample carries loss; its last turn must say something"
            )
        if len(tokens.input_ids) > max_length:
            dropped += 1
        else:
            samples.append(tokens)
    return TokenData(samples, dropped)


def dataset_lines(path: Path) -> Iterator[tuple[int, str]]:
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

    No sample is left out and none is repeated within an epoch, so a dataset
    smaller than ``batch_size`` makes one step per epoch. All are full but the
    last of an epoch, which holds what remains; ``even``, they differ by one
    sample at most. There are equally many either way.
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
    batch: Sequence[TokenSample], *, rank: int, processes: int, micro_batch_size: int
) -> list[Sequence[TokenSample]]:
    """One process's micro-batches of a global batch.

    Texts of like length go together, which saves padding; the loss is a sum
    over the global batch and does not notice. All processes get equally many
    micro-batches, some perhaps empty, since their collectives must pair up.
    """
    ordered = sorted(batch, key=lambda sample: len(sample.input_ids), reverse=True)
    # A small batch is spread over the processes rather than filling one.
    size = min(micro_batch_size, -(-len(ordered) // processes))
    micro = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    rounds = -(-len(micro) // processes)
    mine = micro[rank::processes]
    return mine + [[]] * (rounds - len(mine))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of one forward pass.

    ``input_ids`` and ``attention_mask`` are int64[B, T], padded on the right,
    unless texts of ``lengths`` share the one row: then there is no padding and
    no mask. ``keep``, int64[K], has the positions whose next token carries loss
    in any row, and ``labels``, int64[B, K], that token, or ``IGNORED``.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    keep: torch.Tensor
    labels: torch.Tensor
    lengths: tuple[int, ...] | None = None


def collate(micro: Sequence[TokenSample], *, pad_id: int, filler: TokenSample, packed: bool = False) -> MicroBatch:
    """Pad a micro-batch, or pack it into one row; an empty one becomes ``filler`` without any loss."""
    import torch

    rows = micro or [filler]
    texts = [torch.tensor(row.input_ids, dtype=torch.long) for row in rows]
    # The logits at t predict token t + 1, and those at a text's end nothing.
    following = [
        torch.cat(
            (torch.where(torch.tensor(row.target[1:], dtype=torch.bool), ids[1:], IGNORED), torch.tensor([IGNORED]))
        )
        for row, ids in zip(rows, texts, strict=True)
    ]
    attention = lengths = None
    if packed:
        input_ids, labels = torch.cat(texts)[None], torch.cat(following)[None]
        lengths = tuple(len(ids) for ids in texts)
    else:
        pad = torch.nn.utils.rnn.pad_sequence
        input_ids = pad(texts, batch_first=True, padding_value=pad_id)
        labels = pad(following, batch_first=True, padding_value=IGNORED)
        attention = pad([torch.ones_like(ids) for ids in texts], batch_first=True)
    keep = (labels != IGNORED).any(dim=0).nonzero().flatten()
    if not micro:
        labels.fill_(IGNORED)
    elif (labels == IGNORED).all():
        raise TrainingError(
            f"a batch without any target token (samples {', '.join(row.id for row in rows)}); "
            "its loss would be void: check the dataset's last turns"
        )
    return MicroBatch(input_ids, attention, keep, labels[:, keep], lengths)
