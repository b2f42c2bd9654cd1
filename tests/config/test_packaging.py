"""An installed hpcmaf is a whole one."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_is_installed() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    named = set(settings["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("hpcmaf/**/__init__.py")}
    # Recipes and profiles lie at the top of the checkout.
    assert named == found | {"hpcmaf.recipes", "hpcmaf.profiles"}
