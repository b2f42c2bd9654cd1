"""What CUDA and its libraries do before their first kernels, begun while a process imports."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmaf.training.driver import Driver, DriverError

if TYPE_CHECKING:
    import torch

# Type, heads of queries, of keys and values, and their width.
AttentionShape = tuple[str, int, int, int]


def attention_shape(folder: Path, dtype: str) -> AttentionShape | None:
    """What a checkpoint's attention looks like, of its configuration file; ``None`` where that is not plain."""
    try:
        config = json.loads((folder / "config.json").read_text())
        kind = config.get("dtype") or config.get("torch_dtype") if dtype == "auto" else dtype
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        width = config.get("head_dim") or config["hidden_size"] // heads
        shape = ("bfloat16" if kind == "float16" else str(kind), int(heads), int(groups), int(width))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return shape if shape[0] == "bfloat16" else None


def begin_cuda(device: int) -> None:
    """Make a GPU's context without Python's lock, which torch would hold for the 0.4 s that it takes."""
    # Another maker's GPU, or a build without: torch does whatever is to be done, and has words for what fails.
    with suppress(DriverError):
        Driver(device).begin()


def be_alone(cuda: bool) -> None:
    """Make this process all of a group, as DeepSpeed wants one; on GPUs 0.1 to 0.2 s, without Python's lock."""
    import torch.distributed as dist

    if not dist.is_initialized():
        # Without an address, for which there would have to be a free port.
        dist.init_process_group("nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1)


def load_kernels(device: torch.device, dtype: str, heads: int, groups: int, width: int) -> None:
    """Have CUDA load what a job needs first: matrix products, attention of this shape, the loss, and their gradients.

    A GPU or a PyTorch that has not got them is told of, no more: whoever needs them finds out, and does without.
    """
    import torch

    try:
        _load(device, getattr(torch, dtype), heads, groups, width)
    except (RuntimeError, TypeError, AttributeError) as error:
        print(f"kernels: not loaded beside the imports ({' '.join(str(error).split())[:300]})", flush=True)


def _load(device: torch.device, kind: torch.dtype, heads: int, groups: int, width: int, length: int = 64) -> None:
    # Gradients of a sum: for those of anything else PyTorch imports what the process is importing already.
    import torch

    from hpcmaf.training.attention import boundaries, text_by_text, varlen

    parts = [torch.ones(1, n, length, width, dtype=kind, device=device) for n in (heads, groups, groups)]
    ends = boundaries([length], device)["cu_seq_lens_q"]
    with torch.no_grad():
        text_by_text(*parts, ends)
    with torch.enable_grad():
        hidden = varlen(*(part.requires_grad_() for part in parts), ends, length).flatten(2)
        kept = hidden[:, torch.arange(length // 2, device=device)]
        logits = torch.nn.functional.linear(kept, torch.ones(length, heads * width, dtype=kind, device=device))
        labels = torch.zeros(length // 2, dtype=torch.long, device=device)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels, reduction="sum").backward()
