"""Programs in responses."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings

_FENCED = re.compile(r"^[ \t]*(```|~~~)([^\n]*)\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
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
    blocks = [(block[2].strip("`~ \t").casefold(), block[3]) for block in _FENCED.finditer(text.replace("\r\n", "\n"))]
    found = [textwrap.dedent(code.removesuffix("\n")) for language, code in blocks if language in _LANGUAGES]
    return [program for program in (found if blocks else [text]) if defined(program)]
