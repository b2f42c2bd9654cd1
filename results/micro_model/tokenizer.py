"""The micro model's characters and its chat template.

One token per character, plus five marks. A turn is ``<u>`` or ``<a>``, its
text and, behind an assistant's, ``</s>``; one ``<s>`` opens the chat. So the
rendering of earlier turns is always a prefix of the rendering of later ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PAD, BOS, EOS, UNKNOWN, USER, ASSISTANT = range(6)
MARKS = ("<pad>", "<s>", "</s>", "<unk>", "<u>", "<a>")
CHARACTERS = "0123456789+-*=;#|~pq?"
VOCABULARY = len(MARKS) + len(CHARACTERS)
CONTEXT = 1024
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<a>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<u>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)

# One lookup encodes a whole corpus line: bytes 0..5 are the marks themselves.
_TABLE = np.full(256, UNKNOWN, dtype=np.uint8)
_TABLE[: len(MARKS)] = range(len(MARKS))
for _index, _character in enumerate(CHARACTERS):
    _TABLE[ord(_character)] = len(MARKS) + _index
_MARK = [bytes([index]) for index in range(len(MARKS))]
# Added to an id on which loss is taken.
TARGET = 0x80


def encode(turns: Sequence[str], start: int = 0) -> NDArray[np.uint8]:
    """Encode alternating user and assistant turns, as the chat template would.

    The quick twin of :meth:`hpcmaf.models.chat.ChatFormat.sample` with loss on all
    assistant turns; a test compares the two.

    Parameters
    ----------
    turns
        Texts, user first, assistant last.
    start
        Turns before this one carry no loss.

    Returns
    -------
    ndarray[T] of uint8
        Token ids, with ``TARGET`` added where the loss is taken.
    """
    pieces = [_MARK[BOS]]
    spans = []
    position = 1
    for index, turn in enumerate(turns):
        if index % 2:
            piece = _MARK[ASSISTANT] + turn.encode("ascii") + _MARK[EOS]
            if index >= start:
                spans.append((position + 1, position + len(piece)))
        else:
            piece = _MARK[USER] + turn.encode("ascii")
        pieces.append(piece)
        position += len(piece)
    ids = _TABLE[np.frombuffer(b"".join(pieces), dtype=np.uint8)]
    for first, stop in spans:
        ids[first:stop] += TARGET
    return ids


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and its configuration, for ``AutoTokenizer``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary = {token: index for index, token in enumerate((*MARKS, *CHARACTERS))}
    # Byte-pair encoding without a single merge is a character tokenizer.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": ["<u>", "<a>"],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
