"""The measured settings of LoRA kernels are those that vLLM finds, and only where they were measured."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcmaf.engines.vllm_kernels import EXPAND, SHRINK, expand_setting, shrink_setting, use_measured_kernels

pytestmark = pytest.mark.slow
NAME = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What vLLM says of the machine's GPU; the variable it reads is put back."""
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", "")
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER")
    from vllm.lora.ops.triton_ops import utils  # registers kernels for the machine that it is
    from vllm.platforms import current_platform

    assert utils
    told = SimpleNamespace(capability=(9, 0))
    monkeypatch.setattr(current_platform, "is_cuda", lambda: True)
    monkeypatch.setattr(current_platform, "get_device_capability", lambda: told.capability)
    monkeypatch.setattr(current_platform, "get_device_name", lambda: NAME)
    return told


def test_vllm_finds_what_was_measured(card: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For shapes of other models too, and for steps of any size the nearest."""
    import torch
    from vllm.lora.ops.triton_ops import utils

    use_measured_kernels(tmp_path, 16)
    assert os.environ["VLLM_TUNED_CONFIG_FOLDER"] == str(tmp_path / "lora-kernels")
    assert len(list((tmp_path / "lora-kernels").iterdir())) == 3, "no half-written file is left"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: NAME)
    for name in ("load_lora_op_config", "get_lora_op_configs"):
        monkeypatch.setattr(utils, name, getattr(utils, name).__wrapped__)

    def found(op: str, rows: int, size: int, slices: int, rank: int = 16) -> dict[str, Any]:
        return utils.get_lora_op_configs(op, 7, rows, size, rank, slices, add_inputs=True if op == "expand" else None)

    for slices in (1, 2, 3):
        for rows in SHRINK:
            assert found("shrink", rows, 4096, slices) == shrink_setting(*SHRINK[rows])
            assert found("expand", rows, 14336, slices) == expand_setting(*EXPAND[rows])
    assert found("shrink", 470, 1536, 1, rank=8) == shrink_setting(*SHRINK[512])
    assert found("expand", 1, 256, 3) == expand_setting(*EXPAND[32])


@pytest.mark.parametrize("otherwise", ["an A100", "wider slots", "the user has his own", "no place to write"])
def test_elsewhere_vllms_own_stay(otherwise: str, card: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if otherwise == "an A100":
        card.capability = (8, 0)
    if otherwise == "the user has his own":
        monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", "/theirs")
    if otherwise == "no place to write":
        (tmp_path / "lora-kernels").write_text("in the way")
    use_measured_kernels(tmp_path, 64 if otherwise == "wider slots" else 16)
    assert os.environ.get("VLLM_TUNED_CONFIG_FOLDER") in (None, "/theirs")
    assert not (tmp_path / "lora-kernels").is_dir()
