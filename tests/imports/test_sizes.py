"""What is said of known sizes without torch's module for unknown ones is what that module says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpcmaf.imports.sizes import KNOWN

# Every function, with arguments of each kind that it takes.
ASKED = {
    "expect_true": [(True,), (False,)],
    "guard_or_false": [(True,), (False,)],
    "guard_or_true": [(True,), (False,)],
    "guard_size_oblivious": [(True,), (False,)],
    "statically_known_true": [(True,), (False,)],
    "is_nested_int": [(0,), (7,)],
    "has_guarding_hint": [(0,), (7,)],
    "guarding_hint_or_throw": [(0,), (7,), (True,)],
    "has_hint": [(0,), (7,)],
    "size_hint": [(0,), (7,)],
    "sym_and": [(True, False), (True, True, True), (False,)],
    "sym_or": [(True, False), (False, False, False), (True,)],
    "sym_eq": [(2, 2), (2, 3), ((1, 2), (1, 2)), ((1, 2), (2, 1)), ((1,), (1, 2)), ((), ())],
}
UNKNOWN = """
import sys
import torch
from hpcmaf.imports.later import Later
from hpcmaf.imports.sizes import NAME, sizes_later
sizes_later()
from torch.fx.experimental.symbolic_shapes import guard_or_false, sym_eq
import sympy as before
assert sym_eq(torch.Size([1, 2]), (1, 2)) and not guard_or_false(False)
assert isinstance(sys.modules[NAME], Later) and "sympy.core" not in sys.modules
assert not isinstance(1, before.Basic)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
assert not isinstance(sys.modules[NAME], Later) and "sympy.core" in sys.modules
# Taken before they were needed, they are what they stood for.
size = ShapeEnv().create_unbacked_symint()
assert isinstance(size.node.expr, before.Basic) and before.Symbol is sys.modules["sympy"].Symbol
assert guard_or_false(size == 3) is False and type(sym_eq(size, 3)) is torch.SymBool
try:
    guard_or_false("3")
except AssertionError:
    print("asked")
"""


@pytest.mark.slow
def test_known_sizes_are_answered_alike():
    from torch.fx.experimental import symbolic_shapes

    assert ASKED.keys() == KNOWN.keys()
    # Two have a name before and after torch 2.12.
    here = [name for name in KNOWN if hasattr(symbolic_shapes, name)]
    assert len(here) >= len(KNOWN) - 2
    for name in here:
        for call in ASKED[name]:
            assert KNOWN[name](*call) == getattr(symbolic_shapes, name)(*call), (name, call)


@pytest.mark.slow
def test_an_unknown_size_brings_the_module_itself():
    done = subprocess.run([sys.executable, "-c", UNKNOWN], capture_output=True, text=True)
    assert done.stdout == "asked\n", done.stderr
