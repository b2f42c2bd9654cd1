"""Verbs that load models in this process, without the noise of what loads them."""

from __future__ import annotations

import logging


def quiet_libraries() -> None:
    """Keep bars and advice of libraries out of a verb's output; what is wrong still arrives as an error.

    Call before the libraries are imported.
    """
    # peft imports both where they are installed, and neither has work here.
    # DeepSpeed sets its level itself, but leaves filters alone; it warns on standard output.
    for name in ("DeepSpeed", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights
