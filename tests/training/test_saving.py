"""A model that has diverged is not published, wherever in it that shows."""

from __future__ import annotations

import pytest

from hpcmaf.errors import TrainingError


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_number_that_is_not_finite_is_found(dtype):
    import torch

    from hpcmaf.training.saving import check_finite

    weights = {
        "a": torch.linspace(-3e4, 3e4, 1000).to(getattr(torch, dtype)).view(10, 100),
        "none": torch.zeros(0, 4, dtype=getattr(torch, dtype)),
        "count": torch.tensor([1, 2]),
    }
    check_finite(weights)
    for value in ("nan", "inf", "-inf"):
        for place in ((0, 0), (9, 99), (4, 17)):
            damaged = weights["a"].clone()
            damaged[place] = float(value)
            with pytest.raises(TrainingError, match="diverged: a holds values that are not finite"):
                check_finite(weights | {"a": damaged})


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [None, 15 + 7 + 24, 12])
def test_weights_in_one_copy_are_the_same_weights(tmp_path, numbers):
    import torch
    from safetensors.torch import load_file, save_file

    from hpcmaf.training.saving import Landing, in_one_copy

    draw = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=draw) for name, shape in {"a": (3, 5), "b": (7,), "c": (0, 2)}.items()
    }
    # Not stored by rows, as a view of another may be.
    weights["d"] = torch.randn(4, 6, generator=draw).T
    landing = None if numbers is None else Landing(numbers)
    copied = in_one_copy(weights, landing)
    assert list(copied) == list(weights)
    if landing is not None:
        # What does not fit is left.
        landed = copied["a"].untyped_storage().data_ptr() == landing.take().untyped_storage().data_ptr()
        assert landed == (numbers == 46)
    assert all(torch.equal(copied[name], weights[name]) for name in weights)
    save_file(copied, tmp_path / "copied.safetensors")
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in load_file(tmp_path / "copied.safetensors").items()
    )
    weights["b"][2] = float("nan")
    with pytest.raises(TrainingError, match="diverged: b holds"):
        in_one_copy(weights)
