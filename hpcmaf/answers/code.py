"""Programs in responses."""

from __future__ import annotations

import ast
import textwrap
import warnings

_LANGUAGES = ("", "python", "py", "python3")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def parsed(program: str) -> ast.Module | None:
    """A program's syntax tree; ``None`` for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defined(program: str) -> list[str]:
    """Names of the functions and classes that a program defines, in order."""
    tree = parsed(program)
    return [node.name for node in tree.body if isinstance(node, _DEFINITIONS)] if tree else []


def programs(text: str) -> list[str]:
    """Python with definitions in a text: its fenced blocks in order, or without any all of it."""
    blocks: dict[int, list[str]] = {}
    mark, number = "", 0
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.strip()
        if not mark and bare.startswith(("```", "~~~")):
            mark, number = bare[:3], number + 1
            if bare.strip("`~").strip().casefold() in _LANGUAGES:
                blocks[number] = []
        elif mark and bare == mark:
            mark = ""
        elif mark and number in blocks:
            blocks[number].append(line)
    found = [textwrap.dedent("\n".join(lines)) for lines in blocks.values()] if number else [text]
    return [program for program in found if defined(program)]
