"""Fused adapters, gated units and layers that are computed twice give what PEFT's layers give, and keep less."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hpcmaf.training.data import collate
from hpcmaf.training.lora_fused import fuse_adapters
from hpcmaf.training.mlp_fused import fuse_mlps
from hpcmaf.training.model import checkpoint_layers
from hpcmaf.training.objective import negative_log_likelihood
from tests.tiny_models import tiny
from tests.training.test_packing import sample

pytestmark = pytest.mark.slow
TOKENS = 20


def adapted(checkpointed: bool = False, **settings):
    """A random model with an adapter that is no longer nothing; ``checkpointed``: it keeps but its layers' inputs."""
    # Qwen2's queries, keys and values have biases.
    model = get_peft_model(tiny("qwen2"), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    if checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        model.get_base_model().enable_input_require_grads()
    return model.train()


def fused(model) -> None:
    assert fuse_adapters(model) == 14


def gated(model) -> None:
    assert fuse_mlps(model) == (2, 2)


def loss_and_gradients(model):
    """A loss, its gradients, and the bytes that the forward pass left for the backward pass, weights aside."""
    rows, weights, kept = [sample("a", TOKENS), sample("bb", 11)], {p.data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = negative_log_likelihood(model, collate(rows), "cpu").sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients, sum(kept.values())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_are_pefts_and_less_is_kept(checkpointed):
    model, kept = adapted(checkpointed), []
    loss, gradients, _ = loss_and_gradients(model)
    assert len(gradients) == 28
    for fuse in (fused, gated):
        fuse(model)
        other_loss, others, size = loss_and_gradients(model)
        kept.append(size)
        assert other_loss == pytest.approx(loss, rel=1e-6) and gradients.keys() == others.keys()
        for name, gradient in gradients.items():
            assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm() > 0, name
    # What the activation makes, and its product with the other half, in float32, of two layers and texts.
    inner = model.get_base_model().config.intermediate_size
    assert checkpointed or kept[0] - kept[1] >= 2 * 2 * 2 * TOKENS * inner * 4 * 0.9


def test_dropout_and_other_kinds_of_adapter_are_left_to_peft():
    for settings in ({"lora_dropout": 0.1}, {"use_dora": True}):
        assert fuse_adapters(adapted(**settings)) == 0 and fuse_mlps(adapted(**settings)) == (0, 2)


def test_switched_off_merged_and_unloaded_it_is_the_base():
    model, ids = adapted().eval(), torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        expected = model(ids).logits
        with model.disable_adapter():
            base = model(ids).logits
        for fuse in (fused, gated):
            fuse(model)
            with model.disable_adapter():
                assert torch.equal(model(ids).logits, base)
            assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(expected, base, atol=1e-3)
        model.merge_adapter()
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        model.unmerge_adapter()
        # As a process does between two agents.
        again = get_peft_model(model.unload(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        fused(again)
        gated(again)
        assert torch.allclose(again(ids).logits, base, atol=1e-5)


def test_layers_that_are_called_with_other_inputs_go_alone():
    model = adapted()
    attention = model.get_base_model().model.layers[0].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    inputs = [torch.randn(1, 3, layers[0].in_features) for _ in layers]
    expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    fused(model)
    for _ in range(2):
        for layer, x, output in zip(layers, inputs, expected, strict=True):
            assert torch.allclose(layer(x), output, atol=1e-6)
    # In another order, and one of them twice.
    x = inputs[0]
    for layer in (layers[1], layers[0], layers[0], layers[2]):
        assert torch.allclose(layer(x), type(layer).forward(layer, x), atol=1e-6)


def test_bfloat16_rounds_no_worse_than_pefts_layers():
    model, ids = adapted(), torch.tensor([[7, 8, 9, 10, 11]])
    results = []
    for step in (lambda model: None, torch.nn.Module.bfloat16, fused):
        step(model)
        model.zero_grad()
        logits = model(ids).logits
        logits.float().square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append(torch.cat([part.detach().float().flatten() for part in [logits, *gradients]]))
    exact, peft, ours = results
    assert (ours - exact).norm() < 1.2 * (peft - exact).norm() < 0.1 * exact.norm()


def test_a_unit_that_does_more_than_its_names_say_is_left_alone():
    kind = type(adapted().get_base_model().model.layers[0].mlp)

    class Scaled(kind):
        def forward(self, x):
            return 2 * super().forward(x)

    class Cut(kind):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))

    for own in (Scaled, Cut):
        model = adapted()
        model.get_base_model().model.layers[0].mlp.__class__ = own
        fused(model)
        assert fuse_mlps(model) == (1, 2)


def test_any_number_of_layers_can_be_computed_twice():
    model, calls, results = adapted(), [], []
    fused(model)
    for layer in model.get_base_model().model.layers:
        layer.mlp.register_forward_pre_hook(lambda module, *_: calls.append(module))
    # From some back to none, as from one job to the next.
    for count, expected in ((None, 4), (1, 3), (2, 4), (0, 2)):
        checkpoint_layers(model, count)
        calls.clear()
        results.append(loss_and_gradients(model)[1])
        assert len(calls) == expected
    for others in results[1:]:
        assert all((others[name] - own).norm() <= 1e-6 * own.norm() for name, own in results[0].items())
