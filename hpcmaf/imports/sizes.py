"""torch's module for sizes that are not known yet, and SymPy, imported when there is such a size.

Models are made of tensors without memory before they take weights, and what is
computed of those, such as the frequencies of rotary positions, asks functions
of that module whether shapes are alike, all of which are known: a third of a
second for nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from hpcmaf.imports.later import Later
from hpcmaf.imports.swap import nobody

NAME = "torch.fx.experimental.symbolic_shapes"
# What its functions say of numbers and conditions that are known, and of tuples of them.
KNOWN: Mapping[str, Callable[..., int]] = {
    "expect_true": lambda condition: condition,
    "guard_or_false": lambda condition: condition,
    "guard_or_true": lambda condition: condition,
    "statically_known_true": lambda condition: condition,
    "guard_size_oblivious": lambda condition: condition,
    "is_nested_int": lambda number: False,
    "has_guarding_hint": lambda number: True,
    "guarding_hint_or_throw": lambda number: number,
    # Those two are called so in torch 2.11.
    "has_hint": lambda number: True,
    "size_hint": lambda number: number,
    "sym_and": lambda *conditions: all(conditions),
    "sym_or": lambda *conditions: any(conditions),
    "sym_eq": lambda one, other: one == other,
}


def sizes_later() -> None:
    """Answer for them as long as everything is known."""
    Later("sympy", {"Basic": nobody("Basic")}).put()
    Later(NAME, {name: _answer(name) for name in KNOWN}).put()


def _answer(name: str) -> Callable[..., Any]:
    def answer(*of: Any, **more: Any) -> Any:
        if not more and all(map(_known, of)):
            return KNOWN[name](*of)
        module = importlib.import_module(NAME)
        return getattr(module.real() if isinstance(module, Later) else module, name)(*of, **more)

    return answer


def _known(value: Any) -> bool:
    # A number that is not known is of a class of its own.
    return type(value) in (bool, int) or (isinstance(value, tuple) and all(map(_known, value)))
