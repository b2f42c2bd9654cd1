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


def checkpointed(model, really):
    """A model that keeps but its layers' inputs, if it really shall."""
    if really:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.get_base_model().enable_input_require_grads()
    return model


def loss_and_gradients(model):
    from hpcmaf.training.loss import negative_log_likelihood

    rows = [sample("a", 20), sample("bb", 11)]
    model.zero_grad()
    loss = negative_log_likelihood(model, collate(rows, pad_id=0, filler=rows[0]), "cpu").sum()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_pefts(checkpointing):
    from hpcmaf.training.adapters import quicken

    model = checkpointed(adapted(), checkpointing)
    results = []
    for fused in (False, True):
        # Qwen2's queries, keys and values have biases.
        assert not fused or quicken(model) == 14
        results.append(loss_and_gradients(model))
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


def switched_off_and_merged(*quickened):
    """See that a quickened model is what it was, with its adapter and without; returns it, merged, and base logits."""
    import torch

    model, ids = adapted().eval(), torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        with model.disable_adapter():
            base = model(ids).logits
        expected = model(ids).logits
        for quicken in quickened:
            quicken(model)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, base)
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(expected, base, atol=1e-3)
        model.merge_adapter()
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    return model, ids, base


def test_a_fused_adapter_can_still_be_switched_off_and_merged():
    from hpcmaf.training.adapters import quicken

    switched_off_and_merged(quicken)


@pytest.mark.parametrize("count", [1, 3])
def test_the_fused_product_is_differentiated_rightly(count):
    import torch

    from hpcmaf.training.adapters import Stored, _Adapted

    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    layers, adapters = [], []
    for at in range(count):
        out, rank = 4 + at, 2 + at
        layers.append(torch.nn.Linear(6, out, bias=at != 1, dtype=torch.float64).requires_grad_(False))
        adapters += [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((rank, 6), (out, rank))]
    scalings = tuple(0.5 + at for at in range(count))
    assert torch.autograd.gradcheck(
        lambda x, *given: _Adapted.apply(x, Stored(layers), scalings, *given), (x, *adapters)
    )


def test_layers_that_are_called_with_other_inputs_go_alone():
    import torch

    from hpcmaf.training.adapters import quicken

    model = adapted()
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    inputs = [torch.randn(1, 3, layers[0].in_features) for _ in layers]
    expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    quicken(model)
    for _ in range(2):
        for layer, x, output in zip(layers, inputs, expected, strict=True):
            assert torch.allclose(layer(x), output, atol=1e-6)
    # In another order, and one of them twice.
    x = inputs[0]
    for layer in (layers[1], layers[0], layers[0], layers[2]):
        assert torch.allclose(layer(x), type(layer).forward(layer, x), atol=1e-6)


def test_nothing_is_held_after_a_pass():
    import torch

    from hpcmaf.training.adapters import quicken

    model = adapted()
    quicken(model)
    model(torch.tensor([[7, 8, 9]])).logits.sum().backward()
    families = {id(m.family): m.family for m in model.modules() if hasattr(m, "family")}
    # Queries, keys and values; gate and up; output; down, in each of two layers.
    assert len(families) == 8
    assert all(family._x is None and not family._waiting for family in families.values())


def test_bfloat16_rounds_no_worse_than_pefts_layers():
    import torch

    from hpcmaf.training.adapters import quicken

    model, ids = adapted(), torch.tensor([[7, 8, 9, 10, 11]])
    results = []
    for way in ("exact", "peft", "fused"):
        if way == "peft":
            model.bfloat16()
        assert way != "fused" or quicken(model) == 14
        model.zero_grad()
        logits = model(ids).logits
        logits.float().square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append(torch.cat([part.detach().float().flatten() for part in [logits, *gradients]]))
    exact, peft, fused = results
    assert (fused - exact).norm() < 1.2 * (peft - exact).norm() < 0.1 * exact.norm()
