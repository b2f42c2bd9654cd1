"""Layers that are computed twice give what the others give, however many they are."""

from __future__ import annotations

import pytest

from hpcmaf.training.data import collate
from tests.training.test_adapters import adapted
from tests.training.test_packing import sample

pytestmark = pytest.mark.slow


def test_any_number_of_layers_can_be_computed_twice():
    from hpcmaf.training.adapters import quicken
    from hpcmaf.training.loss import negative_log_likelihood
    from hpcmaf.training.model import checkpoint_layers

    model = adapted()
    quicken(model)
    layers = model.get_base_model().model.layers
    calls = []
    for layer in layers:
        layer.mlp.register_forward_pre_hook(lambda module, *_: calls.append(module))
    rows = [sample("a", 20), sample("bb", 11)]
    results = []
    # From some back to none, as from one job to the next.
    for count, expected in ((None, 4), (1, 3), (2, 4), (0, 2)):
        checkpoint_layers(model, count)
        calls.clear()
        model.zero_grad()
        loss = negative_log_likelihood(model, collate(rows, pad_id=0, filler=rows[0]), "cpu").sum()
        loss.backward()
        assert len(calls) == expected
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    for other in results[1:]:
        assert all((a - b).norm() <= 1e-6 * a.norm() for a, b in zip(results[0], other, strict=True))
