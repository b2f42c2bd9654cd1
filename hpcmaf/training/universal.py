"""Going on with another number of processes: DeepSpeed's universal checkpoint.

A checkpoint holds each process's part of the weights and of the optimiser's
state. Put together, they can be cut for any number of processes.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def convert(state: Path, out: Path) -> None:
    """Put the parts in ``state`` together; ``out`` has to be a folder that nobody else uses.

    Its parent takes a file of DeepSpeed's that names the newest one.
    """
    from deepspeed.checkpoint import ds_to_universal

    out.mkdir(parents=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ds_to_universal.main(
            Namespace(
                input_folder=str(state),
                output_folder=str(out),
                # In this process: workers would each import everything first.
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                # What only DeepSpeed's own tensor parallelism needs.
                inject_missing_state=True,
            )
        )


def load(engine: DeepSpeedEngine, root: Path, tag: str) -> None:
    """Let an engine go on from a universal checkpoint; every process has to call this.

    Raises
    ------
    ValueError
        There is none in ``root``.
    """
    groups = engine.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    # Read when a checkpoint is loaded, and at no other time.
    engine._config.load_universal_checkpoint = True
    try:
        loaded, _ = engine.load_checkpoint(str(root), tag=tag, load_module_strict=False)
    finally:
        engine._config.load_universal_checkpoint = False
    if loaded is None:
        raise ValueError("DeepSpeed finds no state in it")
    # ZeRO-3 gives all groups the settings of the first,
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    # and one and the same counter of steps, which each of them would advance.
    for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
        if "step" in state:
            state["step"] = deepcopy(state["step"])
