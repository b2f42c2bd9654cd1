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
