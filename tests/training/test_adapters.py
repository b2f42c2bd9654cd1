"""The fused adapter gives what PEFT's layers give."""

from __future__ import annotations

import pytest

from hpcmaf.training.data import collate
from tests.training.test_packing import sample, tiny

pytestmark = pytest.mark.slow


def adapted(**settings):
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny("qwen2"), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return model.train()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_pefts(checkpointing):
    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.loss import negative_log_likelihood

    model = adapted()
    if checkpointing:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.get_base_model().enable_input_require_grads()
    rows = [sample("a", 20), sample("bb", 11)]
    results = []
    for fused in (False, True):
        # Qwen2's queries, keys and values have biases.
        assert not fused or quicken(model) == 14
        model.zero_grad()
        loss = negative_log_likelihood(model, collate(rows, pad_id=0, filler=rows[0]), "cpu")
        loss.backward()
        results.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}))
    (loss, gradients), (fused_loss, fused_gradients) = results
    assert fused_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == fused_gradients.keys() and len(gradients) == 28
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
        assert gradient.norm() > 0


def test_dropout_and_other_kinds_of_adapter_are_left_to_peft():
    from hpcmaf.training.adapters import quicken

    assert quicken(adapted(lora_dropout=0.1)) == 0
    assert quicken(adapted(use_dora=True)) == 0


def test_a_fused_adapter_can_still_be_switched_off_and_merged():
    import torch

    from hpcmaf.training.adapters import quicken

    model, ids = adapted().eval(), torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        with model.disable_adapter():
            base = model(ids).logits
        expected = model(ids).logits
        quicken(model)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, base)
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(expected, base, atol=1e-3)
        model.merge_adapter()
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
