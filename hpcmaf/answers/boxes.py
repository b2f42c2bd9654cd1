r"""Finding \boxed{...} in a text, in one pass however long it is."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_SKIP = re.compile(r"[{}\\]")


def closing_brace(text: str, opening: int) -> int | None:
    r"""Index of the brace that closes ``text[opening]``; ``\{`` and ``\}`` do not count.

    Returns
    -------
    int or None
        ``None`` when the text ends first.
    """
    depth = 0
    position = opening
    while (match := _SKIP.search(text, position)) is not None:
        character = match.group()
        position = match.end()
        if character == "\\":
            position += 1  # an escaped character, whatever it is
        elif character == "{":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return match.start()
    return None


def last_box(text: str) -> tuple[bool, str | None]:
    r"""Content of the last \boxed or \fbox.

    Returns
    -------
    found : bool
        Whether there is any box at all.
    content : str or None
        Stripped content of the last one; ``None`` if its braces never close.
        Without braces (``\boxed 5``) what follows, up to a space, a dollar
        sign or the end. In nested boxes the innermost last one counts.
    """
    match = None
    for match in _COMMAND.finditer(text):  # forward: searching backwards for two commands is quadratic
        pass
    return (False, None) if match is None else (True, _content(text, match.end()))


def _content(text: str, after: int) -> str | None:
    while after < len(text) and text[after].isspace():
        after += 1
    if after < len(text) and text[after] == "{":
        end = closing_brace(text, after)
        return None if end is None else text[after + 1 : end].strip()
    end = after
    while end < len(text) and not text[end].isspace() and text[end] != "$":
        if text[end] == "{" and (closing := closing_brace(text, end)) is not None:
            end = closing
        end += 1
    return text[after:end].rstrip(".,;:") or None
