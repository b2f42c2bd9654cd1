"""One question to the Hugging Face hub, before its clients ask many and wait for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# A hub that is there answers in a fraction of it; a question is put twice before it is given up.
SECONDS = 2.0


def ask_hub(question: Callable[[HfApi], Any]) -> None:
    """Put a question to the hub; in offline mode, where caches answer, put none.

    Raises
    ------
    Exception
        Whatever the hub's client says: no such name, no access, no network.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if not is_offline_mode():
        question(HfApi())


def reason(error: Exception) -> str:
    """The first sentence of what the hub's client said."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
