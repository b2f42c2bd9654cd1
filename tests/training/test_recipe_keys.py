"""recipes/TRAINING.md tells of every key of ``training:``."""

from __future__ import annotations

import re
from pathlib import Path

from hpcmaf.config.recipe import Training

TEXT = (Path(__file__).parents[2] / "recipes" / "TRAINING.md").read_text()


def test_every_training_key_is_told_of():
    rows = re.findall(r"^\| (`.*?) \|", TEXT, flags=re.MULTILINE)
    told = {name.split(".")[0] for row in rows for name in re.findall(r"`([a-z_][a-z_.]*)`", row)}
    assert told == set(Training.model_fields)


def test_defaults_are_the_ones_told():
    for key, default in re.findall(r"^\| `([a-z_]+)` \| `?([^`|]+?)`? \|", TEXT, flags=re.MULTILINE):
        value = Training.model_fields[key].default
        assert default == (str(value).lower() if isinstance(value, bool) else str(value)), key
