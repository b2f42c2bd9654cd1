"""A package that is imported when somebody needs it, and answers a few questions before that."""

from __future__ import annotations

import importlib
import sys

import pytest

from hpcmaf.imports.later import Later

PACKAGE = """
import sys
import outer
told, answer, size = [], "its own", 7
def remember(function):
    told.append(function.__name__)
    return function
# What it imports may ask for it in its package, where another one still is.
assert getattr(outer, "inner", sys.modules[__name__]).size == 7
from outer.inner import part
"""


@pytest.fixture()
def later(tmp_path, monkeypatch):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("")
    (tmp_path / "outer" / "inner" / "__init__.py").write_text(PACKAGE)
    for name in ("part", "other"):
        (tmp_path / "outer" / "inner" / f"{name}.py").write_text("import outer\nouter.imported.append(__name__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    importlib.import_module("outer").imported = []
    yield Later("outer.inner", {"answer": "given"}, marks=["remember"])
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == "outer"]:
        del sys.modules[name]


def test_what_is_known_is_answered_without_the_package(later):
    later.put()
    import outer.inner
    from outer.inner import answer

    assert answer == outer.inner.answer == "given" and not hasattr(outer.inner, "__file__")
    assert outer.inner is later and not outer.imported


def test_anything_else_is_asked_of_the_package_itself(later):
    later.put()
    import outer.inner

    @outer.inner.remember
    def marked():
        return 1

    assert marked() == 1 and not outer.imported
    assert outer.inner.size == 7
    assert outer.inner is sys.modules["outer.inner"] and outer.inner is not later
    assert (outer.inner.answer, outer.inner.told, outer.imported) == ("its own", ["marked"], ["outer.inner.part"])
    # Whoever holds the other one still gets all of it.
    assert later.size == 7 and later.part is outer.inner.part
    with pytest.raises(AttributeError):
        later.nothing  # noqa: B018


@pytest.mark.parametrize("part", ["part", "other"])
def test_its_modules_come_with_it_and_once(later, part):
    later.put()
    module = importlib.import_module(f"outer.inner.{part}")
    import outer.inner

    assert outer.inner is not later and getattr(outer.inner, part) is module
    assert outer.imported == ["outer.inner.part"] + ["outer.inner.other"] * (part == "other")
    assert module.__spec__.origin == module.__file__
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("outer.inner.missing")


def test_a_package_that_is_there_stays(later):
    real = importlib.import_module("outer.inner")
    later.put()
    import outer.inner

    assert outer.inner is real and outer.inner.answer == "its own"
