"""A gated unit in one operation gives what its layers give, and keeps less."""

from __future__ import annotations

import pytest

from hpcmaf.training.data import collate
from tests.training.test_adapters import adapted, checkpointed, switched_off_and_merged
from tests.training.test_packing import sample

pytestmark = pytest.mark.slow


def kept_bytes(model, batch):
    """What a forward pass leaves for its backward pass, weights aside."""
    import torch

    from hpcmaf.training.loss import negative_log_likelihood

    own = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = negative_log_likelihood(model, batch, "cpu").sum()
    return loss, sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_pefts_and_less_is_kept(checkpointing):
    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.gated import gate

    model = checkpointed(adapted(), checkpointing)
    rows = [sample("a", 20), sample("bb", 11)]
    results, kept = [], []
    for way in ("peft", "fused", "gated"):
        if way == "fused":
            quicken(model)
        assert way != "gated" or gate(model) == (2, 2)
        model.zero_grad()
        loss, size = kept_bytes(model, collate(rows, pad_id=0, filler=rows[0]))
        loss.backward()
        kept.append(size)
        results.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}))
    loss, gradients = results[0]
    for other_loss, others in results[1:]:
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert gradients.keys() == others.keys() and len(gradients) == 28
        for name, gradient in gradients.items():
            assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    inner = model.get_base_model().config.intermediate_size
    tokens = 2 * 20
    # What the activation makes, and its product with the other half, in float32, of two layers.
    assert checkpointing or kept[1] - kept[2] >= 2 * 2 * tokens * inner * 4 * 0.9


def test_the_whole_unit_is_differentiated_rightly():
    import torch

    from hpcmaf.training.adapters import Stored
    from hpcmaf.training.gated import _Gated

    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    layers, adapters = [], []
    for inward, out, rank in ((6, 7, 2), (6, 7, 3), (7, 6, 2)):
        layers.append(torch.nn.Linear(inward, out, dtype=torch.float64).requires_grad_(False))
        sizes = (rank, inward), (out, rank)
        adapters += [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    entry, end = Stored(layers[:2]), Stored(layers[2:])

    def run(x, *adapters):
        return _Gated.apply(x, lambda a, b: torch.nn.functional.silu(a) * b, entry, end, (0.5, 1.5, 2.0), *adapters)

    assert torch.autograd.gradcheck(run, (x, *adapters))


def test_a_unit_that_does_more_than_its_names_say_is_left_alone():
    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.gated import gate

    kind = type(adapted().get_base_model().model.layers[0].mlp)

    class Scaled(kind):
        def forward(self, x):
            return 2 * super().forward(x)

    class Cut(kind):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))

    class Sized(kind):
        def forward(self, x):
            return super().forward(x) * self.gate_proj.out_features / self.gate_proj.base_layer.out_features

    for own in (Scaled, Cut, Sized):
        model = adapted()
        unit = model.get_base_model().model.layers[0].mlp
        unit.__class__ = own
        layers = list(unit.named_children())
        quicken(model)
        assert gate(model) == (1, 2)
        # Others that stood in their places while it was tried are gone.
        assert list(unit.named_children()) == layers
    assert gate(adapted(lora_dropout=0.1)) == (0, 2)
    assert gate(adapted(use_dora=True)) == (0, 2)


def test_switched_off_merged_and_unloaded_it_is_the_base():
    import torch

    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.gated import gate

    model, ids, base = switched_off_and_merged(quicken, gate)
    with torch.no_grad():
        model.unmerge_adapter()
        # As a process does between two agents.
        plain = model.unload()
        assert torch.allclose(plain(ids).logits, base, atol=1e-5)
        from peft import LoraConfig, get_peft_model

        again = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        assert quicken(again) == 14 and gate(again) == (2, 2)
        assert torch.allclose(again(ids).logits, base, atol=1e-5)
