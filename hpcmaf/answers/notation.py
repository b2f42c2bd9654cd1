r"""One spelling for what LaTeX and plain text can write in many ways.

Follows the MATH convention: units, currency and the signs for percent and
degrees are decoration (``50\%`` is ``50``, and not ``1/2``); what they were is
returned beside the text, so that ``5 cm`` and ``5 m`` can still be told apart.
"""

from __future__ import annotations

import re
import unicodedata

from hpcmaf.answers.boxes import closing_brace
from hpcmaf.answers.units import without_unit

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\uff0d", "-"),
        **dict.fromkeys("\u22c5\u00b7", "\\cdot "),
        **dict.fromkeys("\u00f7\u2215\u2044", "/"),
        **dict.fromkeys("\u20ac\u00a3\x00", ""),
        "\u00d7": "\\times ",
        "\u03c0": "\\pi ",
        "\u221e": "\\infty ",
        "\u00b1": "\\pm ",
        "\u221a": "\\sqrt ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2260": "\\ne ",
        "\u00b0": "^\\circ ",
        "\u00b2": "^2 ",
        "\u00b3": "^3 ",
        "\u00bd": "\\frac{1}{2}",
        "\u00bc": "\\frac{1}{4}",
        "\u00be": "\\frac{3}{4}",
    }
)
_REWRITES = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"\\(?:left|right|[bB]ig{1,2}[lrm]?)(?![A-Za-z])(?:\s*\.)?", ""),
        # Only these commas are certain to separate thousands, wherever they stand.
        (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[,;:!> ]|\\q?quad(?![A-Za-z])|~|\\(?:display|text)style(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:varnothing(?![A-Za-z])|\{\s*\\\})", r"\\emptyset "),
        (r"\\(?:operatorname|mathrm|mathbf|mathit|mathsf|boldsymbol|bm)(?![A-Za-z])\*?", r"\\text"),
        (r"\\(?:textbf|textit|textrm|textup|textnormal|mbox|hbox)(?![A-Za-z])", r"\\text"),
        (r"^\s*\\approx(?![A-Za-z])", ""),
        # What people type without a backslash.
        (r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln)(?![A-Za-z])", r"\\\1 "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])|\\infin(?![A-Za-z])", r"\\infty "),
    )
]
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3}(?!\d))+(?!,)")
# An angle is a number to a sine: there, unlike at the end of an answer, the degree sign counts.
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_DECORATION = (
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])"), "deg"),
    (re.compile(r"\\?%"), "%"),
    (re.compile(r"\\\$"), "$"),
)
_TRAILING = re.compile(r"(?<![\\.,;:*\s])[.,;:*\s]+\Z")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def plain(text: str) -> tuple[str, str | None]:
    """Rewrite an answer in the one spelling the later levels read.

    Returns
    -------
    text : str
        Without wrappers, spacing commands, thousands separators and units.
    unit : str or None
        A known unit that was dropped, ``None`` if there was none.
    """
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS)
    text = _unwrap_math(_TRAILING.sub("", text).lstrip("* \n\t"))
    for pattern, target in _REWRITES:
        text = pattern.sub(target, text)
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    unit: str | None = None
    for sign, name in _DECORATION:
        text, count = sign.subn("", text)
        unit = name if count else unit
    if text.startswith(("$", "-$")) and text.count("$") == 1:
        text, unit = text.replace("$", ""), "$"
    text = _join_thousands(_TRAILING.sub("", text).strip())
    text, before = without_unit(text)
    text, after = without_unit(_unwrap_text(text))
    return text, before or after or unit


def _unwrap_math(text: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
        if wrapped and opening not in inner and not inner.endswith("\\"):
            return inner.strip()
    return text


def _join_thousands(text: str) -> str:
    """Commas are thousands separators if all of them can be and nothing encloses them."""
    if "," not in text or any(bracket in text for bracket in ("(", "[", "\\{")):
        return text
    joined = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return text if "," in joined else joined


def _unwrap_text(text: str) -> str:
    r"""Replace every ``\text{...}`` by its content; ``(C)`` alone becomes ``C``."""
    pieces: list[str] = []
    position = 0
    while (start := text.find("\\text", position)) >= 0:
        opening = start + len("\\text")
        while opening < len(text) and text[opening].isspace():
            opening += 1
        end = closing_brace(text, opening) if text[opening : opening + 1] == "{" else None
        pieces.append(text[position:start])
        if end is not None:
            pieces.append(f" {text[opening + 1 : end]} ")
        position = opening if end is None else end + 1
    text = ("".join(pieces) + text[position:]).strip()
    choice = re.fullmatch(r"\(\s*([A-Za-z])\s*\)", text)
    return choice.group(1) if choice else text
