r"""One spelling for what LaTeX and plain text can write in many ways.

Follows the MATH convention: units, currency and the signs for percent and
degrees are decoration (``50\%`` is ``50``, and not ``1/2``); what they were is
returned beside the text, so that ``5 cm`` and ``5 m`` can still be told apart.
"""

from __future__ import annotations

import re
import unicodedata

from hpcmaf.answers.boxes import closing_brace

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\uff0d": "-",
        "\u00d7": "\\times ", "\u22c5": "\\cdot ", "\u00b7": "\\cdot ", "\u00f7": "/", "\u2215": "/", "\u2044": "/",
        "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u00b1": "\\pm ", "\u221a": "\\sqrt ", "\u222a": "\\cup ",
        "\u2229": "\\cap ", "\u2208": "\\in ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\ne ",
        "\u00b0": "^\\circ ", "\u00b2": "^2 ", "\u00b3": "^3 ", "\u20ac": "", "\u00a3": "", "\x00": "",
    }
)  # fmt: skip
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad(?![A-Za-z])|~|\\(?:displaystyle|textstyle|limits|nolimits)(?![A-Za-z])")
_SIZES = re.compile(r"\\(?:left|right|[bB]ig{1,2}[lr]?)(?![A-Za-z])(?:\s*\.)?")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_RENAMED = {
    r"\\(?:leq|leqslant)(?![A-Za-z])": r"\\le",
    r"\\(?:geq|geqslant)(?![A-Za-z])": r"\\ge",
    r"\\neq(?![A-Za-z])": r"\\ne",
    r"\\(?:lbrace)(?![A-Za-z])": r"\\{",
    r"\\(?:rbrace)(?![A-Za-z])": r"\\}",
    r"\\(?:operatorname|mathrm|mathbf|boldsymbol|mathit|mathsf|bm|textbf|textit|textrm|textup|mbox|hbox)(?![A-Za-z])\*?": r"\\text",
    r"\\(?:emptyset|varnothing)(?![A-Za-z])": r"\\emptyset",
    r"\\(?:infin)(?![A-Za-z])": r"\\infty",
}
_RENAMES = [(re.compile(pattern), target) for pattern, target in _RENAMED.items()]
_THOUSANDS = re.compile(r"(?<![\d.,}])\d{1,3}(?:(?:,|\{,\})(?:\\!\s*)?\d{3})+(?![\d,{])")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])")
_PERCENT = re.compile(r"\\?%")
_DOLLAR = re.compile(r"\\\$")
_PERIOD = re.compile(r"(?:(?<!\d)\.|\.(?!\d)|[,;:])$")
_NUMBER_THEN_WORDS = re.compile(
    r"^(?P<value>.*[\d})])\s*(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<plain>(?:(?<=\s)|(?<=\d))[A-Za-z][A-Za-z.\s]*?))"
    r"\s*(?:\^\s*\{?[23]\}?)?$",
    re.DOTALL,
)
_WORD = re.compile(r"[A-Za-z]+")
_PLAIN_UNITS = frozenset(
    "cm mm km kg ft lb lbs oz hr hrs mph sec min mi yd ml mL in dollar dollars cent cents degree degrees percent meter "
    "meters metre metres centimeter centimeters kilometer kilometers inch inches foot feet yard yards mile miles "
    "hour hours minute minutes second seconds day days week weeks month months year years unit units square cubic "
    "gram grams kilogram kilograms pound pounds liter liters gallon gallons ounce ounces people ways apples".split()
)
_SAME_UNIT = {
    "centimeters": "cm", "centimeter": "cm", "meters": "m", "meter": "m", "metres": "m", "metre": "m",
    "kilometers": "km", "kilometer": "km", "millimeters": "mm", "millimeter": "mm", "inch": "in", "inches": "in",
    "foot": "ft", "feet": "ft", "yard": "yd", "yards": "yd", "mile": "mi", "miles": "mi", "hour": "h", "hours": "h",
    "hr": "h", "hrs": "h", "minute": "min", "minutes": "min", "second": "s", "seconds": "s", "sec": "s",
    "dollar": "$", "dollars": "$", "cent": "cents", "degree": "deg", "degrees": "deg", "percent": "%",
    "kilogram": "kg", "kilograms": "kg", "gram": "g", "grams": "g",
}  # fmt: skip
_KNOWN_UNITS = frozenset(_SAME_UNIT.values())


def plain(text: str) -> tuple[str, str | None]:
    """Rewrite an answer in the one spelling the later levels read.

    Returns
    -------
    text : str
        Without wrappers, spacing commands, thousands separators and units.
    unit : str or None
        A known unit that was dropped, ``None`` if there was none.
    """
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS).strip()
    unit: str | None = None
    text = _unwrap_math(text)
    text = _SIZES.sub("", text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^\d]", "", match.group()), text)
    text = _SPACING.sub(" ", text)
    text = _FRACTION.sub(r"\\frac", text)
    for pattern, target in _RENAMES:
        text = pattern.sub(target, text)
    for sign, name in ((_DEGREES, "deg"), (_PERCENT, "%"), (_DOLLAR, "$")):
        text, count = sign.subn("", text)
        unit = name if count else unit
    if text.startswith("$") and "$" not in text[1:]:
        text, unit = text[1:], "$"
    text = _PERIOD.sub("", text.strip()).strip()
    text, dropped = _without_unit(text)
    text = _unwrap_text(text)
    return text.strip(), dropped or unit


def _unwrap_math(text: str) -> str:
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(opening) : -len(closing)]
        wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > 2 * len(opening)
        if wrapped and opening not in inner and not inner.endswith("\\"):
            return inner.strip()
    return text


def _without_unit(text: str) -> tuple[str, str | None]:
    if len(text) > 200 or (match := _NUMBER_THEN_WORDS.match(text)) is None:
        return text, None
    words = _WORD.findall(match["text"] if match["text"] is not None else match["plain"])
    if match["text"] is None and not all(word in _PLAIN_UNITS for word in words):
        return text, None  # letters after a number may as well be a product
    if match["text"] is not None and not words:
        return text, None
    if any(word in ("and", "or", "base", "if", "for") for word in words):
        return text, None
    units = [_SAME_UNIT.get(word.lower(), word.lower()) for word in words]
    known = [unit for unit in units if unit in _KNOWN_UNITS]
    return match["value"].strip(), known[0] if len(known) == 1 else None


def _unwrap_text(text: str) -> str:
    r"""Replace every ``\text{...}`` by its content; ``(C)`` alone becomes ``C``."""
    pieces: list[str] = []
    position = 0
    while (start := text.find("\\text", position)) >= 0:
        opening = start + len("\\text")
        while opening < len(text) and text[opening] == " ":
            opening += 1
        end = closing_brace(text, opening) if text[opening : opening + 1] == "{" else None
        if end is None:
            pieces.append(text[position:opening])
            position = opening
            continue
        pieces.append(f"{text[position:start]} {text[opening + 1 : end]} ")
        position = end + 1
    text = ("".join(pieces) + text[position:]).strip()
    choice = re.fullmatch(r"\(\s*([A-Za-z])\s*\)", text)
    return choice.group(1) if choice else text
