"""A base rounded to fp8: the numbers it should have, and an adapter like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpcmaf.errors import ConfigError
from hpcmaf.training.spec import FinetuneJob
from tests.training.conftest import (
    COMMON,
    LORA,
    Outcome,
    chats,
    is_an_adapter_like,
    preferences,
    run_batch,
    write_lines,
)
from tests.training.test_adapters import adapted, checkpointed, loss_and_gradients
from tests.training.test_packing import tiny

pytestmark = pytest.mark.slow


def nearest(x):
    """The nearest number with three bits after the first and no exponent below -6, for those up to 448."""
    import torch

    exponents = torch.frexp(x.double())[1].clamp(min=-5) - 4
    steps = 2.0 ** exponents.double()
    return torch.round(x.double() / steps) * steps


def rounded(x):
    """Rows rounded each with its own scale, in float64."""
    scales = x.abs().amax(1, keepdim=True).clamp(min=1e-12) / 448
    return nearest(x / scales) * scales.double()


def close(found, expected, tolerance=1e-6):
    return (found.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("by", [False, True])
def test_rows_become_the_nearest_numbers_there_are(by):
    import torch

    from hpcmaf.training.fp8 import round_rows

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


def linears(*outs, bias=True):
    import torch

    torch.manual_seed(1)
    family = torch.nn.Module()
    names = ("q_proj", "k_proj", "v_proj") if len(outs) == 3 else ("gate_proj", "up_proj")[: len(outs)]
    for name, out in zip(names, outs, strict=True):
        layer = torch.nn.Linear(32, out, bias=bias).requires_grad_(False)
        layer.weight.mul_(torch.rand(out, 1) * 4)
        setattr(family, name, layer)
    family.get_output_embeddings = lambda: None
    return family, [getattr(family, name) for name in names]


@pytest.mark.parametrize("outs", [(48,), (32, 64), (64, 16, 16)])
def test_products_and_their_gradient_are_those_of_rounded_numbers(outs):
    import torch

    from hpcmaf.training.fp8 import Fp8Linear, Rounded, round_base

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
    # One by one each row has more of fp8's numbers to itself.
    alone = [Rounded([layer]).backward([own]) for layer, own in zip(layers, gradients, strict=True)]
    assert close(sum(alone), expected, 0.05)
    whole = sum(own.double() @ weight for own, weight in zip(gradients, weights, strict=True))
    assert close(sum(alone), whole, 0.05) and not close(sum(alone), whole, 1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_or_not_it_learns_alike_and_nearly_as_without(checkpointing):
    import torch

    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.fp8 import round_base
    from hpcmaf.training.gated import gate

    model = checkpointed(adapted(), checkpointing)
    loss, gradients = loss_and_gradients(model)
    count = sum(p.numel() for name, p in model.named_parameters() if "proj.base_layer.weight" in name)
    assert round_base(model, torch.device("cpu")) == count > 0
    ways = [loss_and_gradients(model)]
    assert quicken(model) == 14 and gate(model) == (2, 2)
    # What another job of the same processes does.
    assert round_base(model, torch.device("cpu")) == count
    ways.append(loss_and_gradients(model))
    for other_loss, others in ways:
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
        plain = model.unload()
        assert torch.allclose(plain(ids).logits, base, atol=1e-5)


def test_a_layer_that_is_too_narrow_stays_as_it_is_beside_its_rounded_siblings():
    import torch
    from peft import LoraConfig, get_peft_model

    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.fp8 import Fp8Linear, round_base
    from hpcmaf.training.gated import gate

    # Keys and values of one head of 8.
    model = get_peft_model(tiny("llama", num_key_value_heads=1), LoraConfig(r=4, target_modules="all-linear"))
    assert round_base(model, torch.device("cpu")) > 0
    attention = model.get_base_model().model.layers[0].self_attn
    kinds = [type(getattr(attention, name).base_layer) is Fp8Linear for name in ("q_proj", "k_proj", "v_proj")]
    assert kinds == [True, False, False]
    loss, gradients = loss_and_gradients(model)
    assert quicken(model) == 14 and gate(model) == (2, 2)
    other_loss, others = loss_and_gradients(model)
    assert other_loss == pytest.approx(loss, rel=1e-3)
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 0.1 * gradient.norm(), name


def test_what_cannot_be_rounded_is_refused_in_one_line(monkeypatch):
    import torch

    from hpcmaf.training.fp8 import round_base

    family, _ = linears(40)
    with pytest.raises(
        ConfigError, match=r"^training.quantize: no frozen linear layer .* multiples of 16; leave it out"
    ):
        round_base(family, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"^training.quantize: NVIDIA A100 cannot multiply fp8 .*; leave it out"):
        round_base(linears(32)[0], torch.device("cuda"))


@pytest.fixture(scope="module")
def outcomes(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("fp8")
    data = write_lines(folder / "data.jsonl", chats())
    pairs = write_lines(folder / "pairs.jsonl", preferences(0))
    plain = FinetuneJob(base=str(bases["llama"]), dataset=str(data), output=str(folder / "out"), lora=LORA, **COMMON)
    fp8 = replace(plain, quantize="fp8")
    jobs = {
        "plain": plain,
        "fp8": replace(fp8, zero_stage=2, processes=2),
        "bfloat16": replace(fp8, dtype="bfloat16"),
        "dpo": replace(fp8, objective="dpo", dataset=str(pairs), learning_rate=3e-3),
    }
    return run_batch(folder, jobs)


@pytest.mark.parametrize("case", ["fp8", "bfloat16"])
def test_a_job_trains_nearly_alike(outcomes, case):
    losses, plain = (outcomes[name].report["losses"] for name in (case, "plain"))
    assert losses[-1] < losses[0] and losses == pytest.approx(plain, abs=0.1)
    assert losses != pytest.approx(plain, abs=1e-4)
    said = outcomes[case].log.read_text()
    assert "M of them in fp8; ZeRO-" in said and "; packed; " in said
    # Counted as what they are: the job's size is the unrounded one's.
    assert (
        said.split("training ")[1].split(";")[0]
        == outcomes["plain"].log.read_text().split("training ")[1].split(";")[0]
    )


def test_preferences_are_learnt_on_it_too(outcomes):
    losses = outcomes["dpo"].report["losses"]
    assert losses[0] == pytest.approx(0.693, abs=0.01) and losses[-1] < losses[0]


def test_its_adapter_is_one_like_any_other(outcomes):
    is_an_adapter_like(outcomes["fp8"], outcomes["plain"])
