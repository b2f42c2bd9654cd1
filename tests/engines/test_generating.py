"""A batch loses those who have finished."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hpcmaf.engines import Request, Sampling
from hpcmaf.engines.generating import generate
from hpcmaf.micro import base_path

NAMES = ("__base__", "one", "two")


@pytest.fixture(scope="module")
def model() -> Any:
    """The packaged base with two adapters that say something else."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(base_path())
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(base, config, adapter_name="one")
    adapted.add_adapter("two", config)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.mul_(0.3)
    return adapted.eval()


def request(row: int) -> Request:
    return Request(f"r{row}", (), None, row, Sampling(1.0, 0.95, 60))


def test_rows_that_have_finished_leave_the_batch(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others say what they would have said among them, to the last token."""
    prompts = [[3 + row % 20] * (4 + row % 7) for row in range(24)]
    adapters = [NAMES[row % 3] for row in range(24)]
    limits = [2 + 3 * (row % 12) for row in range(24)]
    sizes: list[int] = []
    plain = model.generate

    def counted(**arguments: Any) -> torch.Tensor:
        sizes.append(len(arguments["input_ids"]))
        return plain(**arguments)

    monkeypatch.setattr(model, "generate", counted)

    steps: list[tuple[int, int]] = []

    def asked(rows: list[int], stop_ids: list[int]) -> list[list[int]]:
        with torch.inference_mode():
            return generate(
                model,
                [prompts[row] for row in rows],
                [request(row) for row in rows],
                [limits[row] for row in rows],
                stop_ids=stop_ids,
                pad=0,
                adapters=[adapters[row] for row in rows],
                device=torch.device("cpu"),
                on_step=lambda tokens, ended: steps.append((tokens, ended)),
            )

    for stop_ids in ([1000], [5, 9]):
        sizes.clear()
        steps.clear()
        together = asked(list(range(24)), stop_ids)
        assert [sum(column) for column in zip(*steps, strict=True)] == [sum(map(len, together)), 24]
        assert len([ended for _, ended in steps if ended]) > 2, "rows are counted as they end, not all at the last"
        assert sizes[0] == 24 and len(sizes) > 2 and sizes == sorted(sizes, reverse=True)
        assert together == [asked([row], stop_ids)[0] for row in range(24)]
        for row, tokens in enumerate(together):
            ended = bool(set(tokens) & set(stop_ids))
            assert len(tokens) == limits[row] or (ended and tokens[-1] in stop_ids and len(tokens) < limits[row])
