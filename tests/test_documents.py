"""The documents: they lead where they say, and name every command there is and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcmaf.cli import VERBS
from hpcmaf.debate.methods import METHODS
from hpcmaf.tasks import TASKS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "recipes/*.md", "slurm/*.md", "results/**/*.md", "hpcmaf/micro/weights/README.md")
    for path in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text()


def headings(path: Path) -> set[str]:
    """Anchors of a document, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if "LOG" not in name])
def test_commands_exist(name: str) -> None:
    code = re.findall(r"```.*?```|`[^`]+`|^ {4}.+?$", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"\bhpcmaf ([a-z]+)\b", "\n".join(code)))
    assert named <= set(VERBS), named - set(VERBS)


def test_the_readme_is_short_and_complete() -> None:
    assert README.count("\n") <= 180
    assert not set(VERBS) - set(re.findall(r"`hpcmaf ([a-z]+)", README))
    cells = {
        name for row in re.findall(r"^\| (`[^|]+) \|", README, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    }
    assert set(METHODS) <= cells and set(TASKS) <= cells


def test_imports_point_down_the_list_of_the_readme() -> None:
    """Also those inside functions and for types alone; what is not in the list is below all of it."""
    rooms = re.findall(r"`(\w+)`", README.partition("importing only those after it:")[2].partition(". Beside it")[0])
    assert rooms[0] == "cli" and rooms[-1] == "files" and len(rooms) > 12
    floor = {room: at for at, room in enumerate(rooms)}
    for path in (path for room in rooms for path in (ROOT / "hpcmaf" / room).rglob("*.py")):
        here = floor[path.relative_to(ROOT / "hpcmaf").parts[0]]
        for room in re.findall(r"^ *from hpcmaf\.(\w+)", path.read_text(), re.MULTILINE):
            assert floor.get(room, len(rooms)) >= here, f"{path}: {room}"
