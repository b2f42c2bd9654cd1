r"""One spelling for what LaTeX, Unicode and plain text can write in many ways.

Follows the MATH convention: units, currency and the signs for percent and
degrees are decoration (``50\%`` is ``50``, and not ``1/2``). What they were is
returned beside the text, so that ``5 cm`` and ``5 m`` can still be told apart.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from hpcmaf.answers.units import without_unit

_SKIP = re.compile(r"[{}\\]")
_SUPER = {c: unicodedata.normalize("NFKC", c) for c in map(chr, range(0xB2, 0x20A0)) if "<super>" in unicodedata.decomposition(c)}
_SUB = {c: unicodedata.normalize("NFKC", c) for c in map(chr, range(0x1D62, 0x20A0)) if "<sub>" in unicodedata.decomposition(c)}
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\uff0d\ufe63", "-"),
        **dict.fromkeys("\u22c5\u00b7", "\\cdot "),
        **dict.fromkeys("\u00f7\u2215\u2044", "/"),
        **dict.fromkeys("\u00b0\u00ba\u02da", "^\\circ "),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        "\u3002": ".",
        "\u3001": ",",
        "\u2026": "...",
        "\u00d7": "\\times ",
        "\u221e": "\\infty ",
        "\u00b1": "\\pm ",
        "\u221a": "\\sqrt ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2208": "\\in ",
        "\u2205": "\\emptyset ",
        "\u2264": "\\le ",
        "\u2a7d": "\\le ",
        "\u2265": "\\ge ",
        "\u2a7e": "\\ge ",
        "\u2260": "\\ne ",
        "\u2248": "\\approx ",
        "\u211d": "\\mathbb{R}",
    }
)
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp gcd lcm max min det deg dim ker".split()
)
_N = r"(?![A-Za-z])"  # the end of a command's name
_REWRITES = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"\\(?:left|right|[bB]ig{1,2}[lrm]?)" + _N + r"(?:\s*\.)?", ""),
        (r"\\(?:text)?color(?:box)?\s*\{[^{}]*\}|\\[hv](?:space|phantom)\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:bfseries|boldmath|displaystyle|textstyle|scriptstyle|limits|nolimits|normalsize|small|tiny)" + _N, " "),
        (r"\\(?:large|Large|LARGE|huge|Huge|bf|it|rm|sf|tt|em|underline|underbar|uline|ensuremath|mathop|mathstrut)" + _N, " "),
        # Only these commas are certain to separate thousands, wherever they stand.
        (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[,;:!> ]|\\q?quad" + _N + r"|\\(?:thin|med|thick)space" + _N + "|~", " "),
        (r"\\(?:[dtc]frac|dfrac)" + _N, r"\\frac"),
        (r"\\[dt]binom" + _N, r"\\binom"),
        (r"\\(?:leq|leqslant)" + _N + "|<=", r"\\le "),
        (r"\\(?:geq|geqslant)" + _N + "|>=", r"\\ge "),
        (r"\\lt" + _N, "<"),
        (r"\\gt" + _N, ">"),
        (r"\\neq" + _N + "|!=", r"\\ne "),
        (r"\\colon" + _N, ":"),
        (r"\\lbrace" + _N, r"\\{"),
        (r"\\rbrace" + _N, r"\\}"),
        (r"\\(?:mid|vert|lvert|rvert)" + _N, "|"),
        (r"\\(?:varnothing" + _N + r"|\{\s*\\\})", r"\\emptyset "),
        (r"\\(?:Reals|R)" + _N + r"|(?:\\text\s*\{)?\s*(?i:(?:the set of )?all real(?: number)?s?)" + _N + r"\s*\}?", r"\\mathbb{R}"),
        (r"(\\\{[^|:{}]*[A-Za-z][^|:{}]*)[:|]", r"\1|"),  # of a set's condition
        (r"\\(?:textbf|textit|textrm|textup|textnormal|textsf|texttt|mbox|hbox|emph)" + _N, r"\\text"),
        (r"\\text\s*\{\s*(?:,\s*)?(and|or)\s*\}", r" \1 "),
        (r"\\bar\s*(?=\{\s*\d|\d)", r"\\overline"),
        (r"\\overline\s*(\d)", r"\\overline{\1}"),
        (r"\\approx" + _N, "="),
        (r"^\s*=\s*", ""),
        # What people type without a backslash.
        (r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln)" + _N, r"\\\1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)" + _N + r"|\\infin" + _N, r"\\infty "),
    )
]
_ELLIPSIS = re.compile(r"\\(?:ldots|cdots|dots[bcimo]?)" + _N + r"|\.{3,}")
_REALS = re.compile(r"\\math(?:bb|bf)\s*\{?\s*R\s*\}?")
_UPRIGHT = re.compile(r"\\(?:operatorname\*?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bold|bm)\s*(?:\{([^{}]*)\}|([A-Za-z]))")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_DOTTED = re.compile(r"(?<=[\d.])((?:\\dot\s*\{?\d\}?)(?:\d*\\dot\s*\{?\d\}?)?)")
_UNENDING = re.compile(r"(-?\d*\.\d*?)(\d{1,6}?)\2{2,}\s*\\ldots\s*")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3}(?!\d))+(?!,\d)")
_SPACED = re.compile(r"(?<![\d.,/^_] )(?<![\d.,/^_])[1-9]\d{0,2}(?: \d{3}(?!\d))+(?! ?[/\d])")
# An angle is a number to a sine: there, unlike at the end of an answer, the degree sign counts.
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)" + _N)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ" + _N + ")")
_DECORATION = (
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ" + _N + r")|\\degrees?" + _N), "deg"),
    (re.compile(r"\\?%"), "%"),
    (re.compile(r"(?:US|CA|AU)?\s?\\\$|(?:US|CA|AU)\$"), "$"),
    (re.compile(r"\\(?:pounds|textsterling)" + _N), "\u00a3"),
    (re.compile(r"\\(?:euro|texteuro)" + _N), "\u20ac"),
    (re.compile(r"\\(?:yen|textyen)" + _N), "\u00a5"),
    (re.compile(r"^(?:USD|Rs\.?|EUR|GBP|CNY|RMB|JPY|INR)\s*(?=[\d.-])"), "code"),
)
_TRAILING = re.compile(r"(?<![\\.,;:*\s])[.,;:*\s]+\Z")
_GROUP = re.compile(r"(?<![\\A-Za-z^_}\]\d\s])\{([^{}]*)\}|^\s*\{([^{}]*)\}\s*$")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer in the one spelling.

    Attributes
    ----------
    text
        Without wrappers, styles, spacing commands, separators and units.
    unit
        A known unit that was dropped, in its canonical name.
    note
        A word behind a number that is no unit and changes what is meant: am, increase, north.
    """

    text: str
    unit: str | None = None
    note: str | None = None


@lru_cache(maxsize=1 << 14)
def plain(text: str) -> Plain:
    """Rewrite an answer in the one spelling that comparisons read."""
    text = _ELLIPSIS.sub(r"\\ldots ", ascii_of(text))
    text = _unwrapped(_TRAILING.sub("", text).lstrip("* \n\t"))
    text = _UPRIGHT.sub(_upright, _REALS.sub(r"\\mathbb{R}", text))
    for pattern, target in _REWRITES:
        text = pattern.sub(target, text)
    text = _unwrapped(_GROUP.sub(lambda match: f" {match[1] or match[2] or ''} ", text).strip())
    text = _repeating(text)
    text = _TEXT.sub(lambda match: f" {match[1]} " if re.search(r"[\d=<>]", match[1]) else match[0], text).strip()
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    unit: str | None = None
    for sign, name in _DECORATION:
        text, count = sign.subn("", text)
        unit = name if count else unit
    for sign in {character for character in text if unicodedata.category(character) == "Sc" and character != "$"}:
        text, unit = text.replace(sign, ""), sign
    if text.startswith(("$", "-$")) and text.count("$") == 1:
        text, unit = text.replace("$", ""), "$"
    elif text.count("$") % 2 == 0:
        text = text.replace("$", "")
    text = _joined(_TRAILING.sub("", text).strip())
    text, after, note = without_unit(text)
    text = _TEXT.sub(lambda match: f" {match[1].strip()} " if len(match[1].strip()) == 1 else match[0], text).strip()
    choice = re.fullmatch(r"(?:\\text\s*\{\s*)?\(?\s*([A-Za-z])\s*\)\s*\}?", text)
    return Plain(choice[1] if choice else text, after or unit, note)


def ascii_of(text: str) -> str:
    """Unicode's digits, letters and signs as ASCII and LaTeX; nothing that cannot be seen."""
    if text.isascii() and "\x00" not in text:
        return text
    text = re.sub("((?:[0-9]\u0305)+)", lambda match: "\\overline{" + match[1].replace("\u0305", "") + "}", text)
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS)
    for table, mark in ((_SUPER, "^"), (_SUB, "_")):
        run = f"[{''.join(map(re.escape, table))}]+"
        text = re.sub(run, lambda match, t=table, m=mark: m + "{" + "".join(t[c] for c in match[0]).replace("\u2212", "-") + "}", text)
    return "".join(character if character.isascii() else _ascii(character) for character in text).replace("\x00", "")


def _ascii(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if kind == "<fraction>":
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
        return f"\\frac{{{top}}}{{{bottom}}}" if bottom else character
    if kind in ("<wide>", "<font>", "<compat>", "<noBreak>", "<narrow>", "<small>"):
        return unicodedata.normalize("NFKC", character)
    if unicodedata.category(character) == "Cf":
        return ""
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.digit(character))
    match = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)", unicodedata.name(character, ""))
    if match is None:
        return character
    return f"\\{match[2].replace('LAMDA', 'LAMBDA').lower() if match[1] == 'SMALL' else match[2].title()} "


def closing_brace(text: str, opening: int) -> int | None:
    r"""Index of the brace that closes ``text[opening]``, ``None`` without one; ``\{`` and ``\}`` do not count."""
    depth, position = 0, opening
    while (match := _SKIP.search(text, position)) is not None:
        position = match.end() + (match[0] == "\\")  # behind a backslash stands an escaped character
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None


def _unwrapped(text: str) -> str:
    """Without what encloses the whole of it: dollars, brackets of display mathematics, a box."""
    while True:
        before = text
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing)
            if wrapped and opening not in inner and not inner.endswith("\\"):
                text = inner.strip()
        box = re.match(r"\\(?:boxed|fbox)\s*\{", text)
        if box and closing_brace(text, box.end() - 1) == len(text) - 1:
            text = text[box.end() : -1].strip()
        if text.startswith("{") and closing_brace(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            return text


def _upright(match: re.Match[str]) -> str:
    r"""``\mathrm{i}`` is the symbol i, ``\operatorname{lcm}`` a function, ``\mathrm{cm}`` a word."""
    content = (match[1] if match[1] is not None else match[2]).strip()
    if content in _FUNCTIONS:
        return f"\\{content} "
    return f"\\text{{{content}}}" if re.fullmatch(r"[A-Za-z][A-Za-z./^\d\s]+", content) else f" {content} "


def _repeating(text: str) -> str:
    r"""``0.\dot{3}`` and ``0.333...`` as ``0.\overline{3}``."""
    text = _DOTTED.sub(lambda match: f"\\overline{{{re.sub(r'[^0-9]', '', match[1])}}}", text)
    text = re.sub(r"(?<=\d)\.(\d*)\((\d+)\)\Z", r".\1\\overline{\2}", text)
    match = _UNENDING.fullmatch(text)
    return f"{match[1]}\\overline{{{match[2]}}}" if match else text


def _joined(text: str) -> str:
    """Thousands separators are dropped where all commas can be such, or where a list has a space behind its own."""
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    if "," not in text:
        return text
    pieces = re.split(r"(,\s+|[()\[\]]|\\[{}])", text)
    joined = [_THOUSANDS.sub(lambda match: match[0].replace(",", ""), piece) for piece in pieces]
    enclosed = len(pieces) > 1 and not any(re.match(r",\s", piece) for piece in pieces)
    return text if enclosed or any("," in piece for piece in joined[::2]) else "".join(joined)
