"""A base rounded to fp8: the numbers it should have, and an adapter like any other."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hpcmaf.errors import ConfigError
from hpcmaf.training.fp8 import Fp8Linear, Rounded, round_base, round_rows
from tests.tiny_models import tiny
from tests.training.conftest import is_an_adapter_like
from tests.training.test_fused import adapted, fused, gated, loss_and_gradients

pytestmark = pytest.mark.slow


def rounded(x):
    """Rows rounded each with its own scale, in float64: to three bits after the first, exponents from -6, up to 448."""
    scales = x.abs().amax(1, keepdim=True).clamp(min=1e-12) / 448
    numbers = (x / scales).double()
    steps = 2.0 ** (torch.frexp(numbers)[1].clamp(min=-5) - 4).double()
    return torch.round(numbers / steps) * steps * scales.double()


def close(found, expected, tolerance=1e-6):
    return (found.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("by", [False, True])
def test_rows_become_the_nearest_numbers_there_are(by):
    torch.manual_seed(0)
    parts = [torch.randn(6, 40), torch.randn(6, 24) * 1e4]
    parts[0][2] = parts[1][2] = 0.0
    parts[1][3, 5] = 1e30
    factors = torch.rand(64) if by else None
    numbers, scales = round_rows(parts, factors)
    assert numbers.dtype == torch.float8_e4m3fn and scales.shape == (6, 1)
    joined = torch.cat(parts, 1) * (factors if by else 1.0)
    found = numbers.double() * scales.double()
    assert close(found, rounded(joined)) and found.isfinite().all() and not found[2].any()
    # An eighth apart at most.
    big = joined.abs() > 2e-2 * joined.abs().amax(1, keepdim=True)
    assert ((found - joined).abs()[big] <= joined.abs()[big] / 15.9).all()


def linears(*outs):
    """Frozen layers that read one input, and the module that has them."""
    torch.manual_seed(1)
    family = torch.nn.Module()
    names = ("q_proj", "k_proj", "v_proj") if len(outs) == 3 else ("gate_proj", "up_proj")[: len(outs)]
    for name, out in zip(names, outs, strict=True):
        layer = torch.nn.Linear(32, out).requires_grad_(False)
        layer.weight.mul_(torch.rand(out, 1) * 4)
        setattr(family, name, layer)
    family.get_output_embeddings = lambda: None
    return family, [getattr(family, name) for name in names]


@pytest.mark.parametrize("outs", [(48,), (32, 64), (64, 16, 16)])
def test_products_and_their_gradient_are_those_of_rounded_numbers(outs):
    family, layers = linears(*outs)
    weights = [rounded(layer.weight) for layer in layers]
    assert round_base(family, torch.device("cpu")) == 32 * sum(outs)
    assert all(type(layer) is Fp8Linear and not layer.weight.numel() for layer in layers)
    x, gradients = torch.randn(7, 32), [torch.randn(7, out) for out in outs]
    for layer, weight, output in zip(layers, weights, Rounded(layers).forward(x), strict=True):
        expected = rounded(x) @ weight.T + layer.bias
        assert close(output, expected) and close(layer(x), expected)
        assert not close(output, x.double() @ weight.T + layer.bias, 1e-3)
    # Scales of a matrix's rows belong to what the way back adds up, so they are part of what is rounded there.
    scales = [(weight.abs().amax(1) / 448).double() for weight in weights]
    numbers = torch.cat([weight / own[:, None] for weight, own in zip(weights, scales, strict=True)])
    expected = rounded(torch.cat(gradients, 1) * torch.cat(scales)) @ numbers
    assert close(Rounded(layers).backward(gradients), expected, 1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fused_or_not_it_learns_alike_and_nearly_as_without(checkpointed):
    model = adapted(checkpointed)
    loss, gradients, _ = loss_and_gradients(model)
    count = sum(p.numel() for name, p in model.named_parameters() if "proj.base_layer.weight" in name)
    assert round_base(model, torch.device("cpu")) == count > 0
    ways = [loss_and_gradients(model)]
    fused(model)
    gated(model)
    # What another job of the same processes does.
    assert round_base(model, torch.device("cpu")) == count
    ways.append(loss_and_gradients(model))
    for other_loss, others, _ in ways:
        assert other_loss == pytest.approx(loss, rel=0.02) and other_loss != pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            assert torch.cosine_similarity(others[name].flatten(), gradient.flatten(), dim=0) > 0.97, name
    for name, gradient in ways[0][1].items():
        assert (ways[1][1][name] - gradient).norm() <= 0.1 * gradient.norm(), name
    with torch.no_grad():
        ids = torch.tensor([[7, 8, 9]])
        with model.disable_adapter():
            base = model(ids).logits
        assert not torch.allclose(model(ids).logits, base, atol=1e-3)
        assert torch.allclose(model.unload()(ids).logits, base, atol=1e-5)


def test_a_layer_that_is_too_narrow_stays_as_it_is_beside_its_rounded_siblings():
    # Keys and values of one head of 8.
    model = get_peft_model(tiny("llama", num_key_value_heads=1), LoraConfig(r=4, target_modules="all-linear"))
    assert round_base(model, torch.device("cpu")) > 0
    attention = model.get_base_model().model.layers[0].self_attn
    kinds = [type(getattr(attention, name).base_layer) is Fp8Linear for name in ("q_proj", "k_proj", "v_proj")]
    assert kinds == [True, False, False]
    loss, gradients, _ = loss_and_gradients(model)
    fused(model)
    gated(model)
    other_loss, others, _ = loss_and_gradients(model)
    assert other_loss == pytest.approx(loss, rel=1e-3)
    assert all((others[name] - own).norm() <= 0.1 * own.norm() for name, own in gradients.items())


def test_what_cannot_be_rounded_is_refused_in_one_line(monkeypatch):
    with pytest.raises(
        ConfigError, match=r"^training.quantize: no frozen linear layer .* multiples of 16; leave it out"
    ):
        round_base(linears(40)[0], torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"^training.quantize: NVIDIA A100 cannot multiply fp8 .*; leave it out"):
        round_base(linears(32)[0], torch.device("cuda"))


@pytest.mark.parametrize("case", ["fp8", "fp8-bfloat16"])
def test_a_job_trains_nearly_alike(outcomes, case):
    losses, plain = (outcomes[name].report["losses"] for name in (case, "lora-0"))
    assert losses[-1] < losses[0] and losses == pytest.approx(plain, abs=0.1)
    assert losses != pytest.approx(plain, abs=1e-4)
    log = outcomes[case].log.read_text()
    assert "M of them in fp8; ZeRO-" in log and "; packed; " in log
    # Counted as what they are: the job's size is the unrounded one's.
    sizes = [outcomes[name].log.read_text().split("training ")[1].split(";")[0] for name in (case, "lora-0")]
    assert sizes[0] == sizes[1]


def test_preferences_are_learnt_on_it_too_and_its_adapter_is_one_like_any_other(outcomes):
    losses = outcomes["fp8-dpo"].report["losses"]
    assert losses[0] == pytest.approx(0.693, abs=0.01) and losses[-1] < losses[0]
    is_an_adapter_like(outcomes["fp8"], outcomes["lora-0"])
