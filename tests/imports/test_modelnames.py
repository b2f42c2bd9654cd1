"""transformers finds the same names of its models, whether they are kept or read."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hpcmaf.imports import modelnames

# Tells whether the sources were read, and all names.
LOOKS = """
import sys
if sys.argv[1] == "ours":
    from hpcmaf.imports import modelnames
    read, keep = [], modelnames._keep
    modelnames._keep = lambda names: read.append(1) or keep(names)
    from hpcmaf.imports.light import import_transformers
    import_transformers()
    print("read" if read else "kept")
import transformers
from transformers import Gemma3ForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM as same
assert same is Gemma3ForCausalLM and transformers.models.gemma3.__name__ == "transformers.models.gemma3"
for module in (transformers, transformers.models):
    print(sorted((name, sorted(objects)) for name, objects in module._import_structure.items()))
"""


def look(who: str, cache: Path) -> list[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", LOOKS, who], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_same_names_kept_or_read(tmp_path):
    plain = look("plain", tmp_path)
    assert len(plain) == 2 and len(plain[1]) > 50_000
    assert look("ours", tmp_path) == ["read", *plain]
    assert look("ours", tmp_path) == ["kept", *plain]
    (kept,) = (tmp_path / "hpcmaf" / "names").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100])
    assert look("ours", tmp_path) == ["read", *plain] and kept.read_bytes() == whole


class Distribution:
    def __init__(self, record: str | None) -> None:
        self.record = record

    def read_text(self, name: str) -> str | None:
        assert name == "RECORD"
        return self.record


@pytest.mark.parametrize("record", [None, "", "__editable__.transformers.pth,sha256=x,1\n"])
def test_nothing_is_kept_of_what_is_edited_in_place(tmp_path, monkeypatch, record):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution(record))
    names = {frozenset({"torch"}): {"llama.modeling_llama": {"LlamaModel"}}}
    assert modelnames._keep(names) is names and modelnames._kept() is None
    assert not list(tmp_path.rglob("*.json"))


def test_other_files_have_other_names(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []

    def define(path: str, prefix: str | None = None) -> modelnames.Names:
        made.append(path)
        return {frozenset({"torch"}): {f"llama{len(made)}": {"LlamaModel"}}, frozenset(): {"a.b": {"c", "d"}}}

    models = Path("/somewhere/models")
    for version in ("1", "2"):
        record = f"transformers/models/__init__.py,sha256={version},1\n"
        monkeypatch.setattr(metadata, "distribution", lambda name, record=record: Distribution(record))
        for _ in range(2):
            defined = modelnames.remembering(define, models)
            with_prefix, without = defined(models, prefix="models"), defined(str(models / "__init__.py"))
            with_prefix[frozenset()]["more"] = {"e"}
            assert without == {
                frozenset({"torch"}): {f"llama{version}": {"LlamaModel"}},
                frozenset(): {"a.b": {"c", "d"}},
            }
            assert set(with_prefix[frozenset({"torch"})]) == {f"models.llama{version}"}
            assert defined(models) == without
    assert made == [str(models)] * 2
    defined("/somewhere/models/llama/__init__.py")
    assert made[-1] == "/somewhere/models/llama/__init__.py"
