"""One question to the Hugging Face hub, before its clients ask many and wait for each."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# A hub that is there answers in a fraction of it. Its clients try for half a minute.
SECONDS = 3.0


def ask_hub(question: Callable[[HfApi], Any]) -> None:
    """Put a question to the hub; in offline mode, where caches answer, put none.

    Raises
    ------
    Exception
        Whatever the hub's client says: no such name, no access, no network.
    TimeoutError
        Nobody answers.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return
    failures: list[Exception] = []

    def ask() -> None:
        try:
            question(HfApi())
        except Exception as error:
            failures.append(error)

    # Looking up a name and connecting by turns to all addresses have no time limit in common.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {SECONDS:g} seconds")
    if failures:
        raise failures[0]


def reason(error: Exception) -> str:
    """The first sentence of what the hub's client said."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
