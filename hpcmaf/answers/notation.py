r"""One spelling for what LaTeX, Unicode and plain text can write in many ways.

Follows the MATH convention: units, currency and the signs for percent and degrees are decoration (``50\%`` is ``50``,
and not ``1/2``). What they were is returned beside the text, so that ``5 cm`` and ``5 m`` can still be told apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from functools import lru_cache
from typing import NamedTuple

_COMMANDS = (
    "×times ∞infty ±pm √sqrt ∪cup ∩cap ∈in ∅emptyset ≤le ⩽le ≥ge ⩾ge ≠ne ≈approx ⟨langle ⟩rangle ⋅cdot ·cdot"
    " αalpha βbeta γgamma δdelta εepsilon θtheta λlambda μmu πpi ρrho σsigma τtau φphi ωomega"
    " ΓGamma ΔDelta ΘTheta ΠPi ΣSigma ΦPhi ΩOmega"
)
_CHARACTERS = str.maketrans(
    {sign: f"\\{name} " for sign, *letters in _COMMANDS.split() for name in ["".join(letters)]}
    | dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\uff0d\ufe63", "-")
    | dict.fromkeys("÷\u2215\u2044", "/")
    | dict.fromkeys("\u00b0\u00ba\u02da", "^\\circ ")
    | dict.fromkeys("\u2018\u2019\u2032", "'")
    | {"。": ".", "、": ",", "\u2236": ":", "…": "...", "ℝ": "\\mathbb{R}", "∛": "\\sqrt[3]", "\0": ""}
)
_SCRIPTS = (("^", "[²³¹ʰ-ʸˠ-ˤᴬ-ᵡ⁰-ⁿ]+"), ("_", "[ᵢ-ᵪ₀-ₜ]+"))
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp gcd lcm max min det deg dim ker".split()
)
_N = r"(?![A-Za-z])"  # the end of a command's name
_STYLES = (
    "left|middle|right|[bB]ig{1,2}[lrm]?|bfseries|boldmath|[a-z]+style|(?:no)?limits|normalsize|small|tiny|bf"
    "|(?i:large|huge)|it|rm|sf|tt|em|under(?:line|bar)|uline|ensuremath|math(?:op|strut)|q?quad|(?:thin|med|thick)space"
)
_SYNONYMS = {"lt": "<", "gt": ">", "colon": ":", "lbrace": "\\{", "rbrace": "\\}", "approx": "=", "infin": "\\infty "}
_SYNONYMS |= {"euro": "€", "texteuro": "€", "yen": "¥", "textyen": "¥", "pounds": "£", "textsterling": "£"}
_SYNONYMS |= dict.fromkeys(("mid", "vert", "lvert", "rvert"), "|")


def _upright(match: re.Match[str]) -> str:
    r"""``\mathrm{i}`` is the symbol i, ``\operatorname{lcm}`` a function, ``\mathrm{cm}`` a word."""
    content = re.sub(r"\^\{(\d)\}", r"^\1", (match[1] if match[1] is not None else match[2]).strip())
    if content in _FUNCTIONS:
        return f"\\{content} "
    word = re.fullmatch(r"~\s*([A-Za-z]+)|[A-Za-z][A-Za-z./^\d\s]+", content)  # \mathrm{~m} is the metre
    return f"\\text{{{word[1] or content}}}" if word else f" {content} "


def _overline(period: str) -> str:
    return "\\overline{" + re.sub(r"\D", "", period) + "}"


_UPRIGHT = r"\\(?:operatorname\*?|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bold|bm)"
_ELLIPSIS = re.compile(r"\\(?:ldots|cdots|dots[bcimo]?)" + _N + r"|\.{3,}")
_REWRITES = [
    (re.compile(pattern.replace("_N", _N)), target)
    for pattern, target in (
        (r"\\math(?:bb|bf)\s*\{?\s*R\s*\}?", r"\\mathbb{R}"),
        (_UPRIGHT + r"\s*(?:\{((?:[^{}]|\^\{\d\})*)\}|([A-Za-z]))", _upright),
        (r"\\(?:text)?color(?:box)?\s*(?:\[\w*\]\s*)?\{[^{}]*\}|\\[hv](?:space|phantom)\*?\s*\{[^{}]*\}", " "),
        (rf"\\(?:left|middle|right)_N\s*\.|\\(?:{_STYLES})_N", " "),
        (r"\\(?:begin|end)\s*\{(?:aligned|align|gathered|gather|equation|split)\*?\}|&(?=\s*=)", " "),
        (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", ""),  # the commas that are certain to separate thousands
        (r"(?<!\\)\\[,;:!> ]|~", " "),
        (r"\\[dtc](frac|binom)_N", r"\\\1"),
        (r"\\leq(?:slant)?_N|<=", r"\\le "),
        (r"\\geq(?:slant)?_N|>=", r"\\ge "),
        (r"\\neq_N|!=|\\not\s*=", r"\\ne "),
        (rf"\\({'|'.join(_SYNONYMS)})_N", lambda match: _SYNONYMS[match[1]]),
        (r"\\varnothing_N|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\(?:backslash|smallsetminus)_N|(?<=\\mathbb\{R\})\s*-\s*(?=\\\{)", r"\\setminus "),
        (r"(?:\\text\s*\{)?\s*(?i:(?:the set of )?(?:all|any|every) real(?: number)?s?)_N\s*\}?", r"\\mathbb{R}"),
        (r"(\\\{[^|:{}]*[A-Za-z][^|:{}]*)[:|]", r"\1|"),  # of a set's condition
        (r"\\(?:text(?:bf|it|rm|up|sf|sc|tt|normal)|[mh]box|emph)_N", r"\\text"),
        (r"\\text\s*\{\s*(?:,\s*)?(and|or)\s*\}", r" \1 "),
        (r"\\bar\s*(?=\{?\s*\d)|\\overline\s*(?=\d)", r"\\overline"),
        (r"^\s*=\s*", ""),
        (r"^(\d+)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(\d+)$", r"\1:\2"),  # of a ratio
        (r"(?<![\w.])\.(?=\d)", "0."),
        (r"(?<=\d)\s*x\s*(?=10\s*\^)", r"\\times "),
        (r"^\s*(?:\\text\s*\{\s*)?(?i:negative|minus)\b\s*\}?\s*(?=[\d$\\])", "-"),
        (r"(?<=\bo)'(?=clock\b)", ""),
        (r"(?<=\d)\s*\u4e07", r"\\cdot 10000 "),
        (r"(?<=\d)\s*\u4ebf", r"\\cdot 100000000 "),
        (r"(?<=\d)\s*\u5143", " yuan"),
        (r"^([A-Z]{3}|Rs)\b\.?\s*(-?\s*[\d.][\d.,]*)$", r"\2 \\text{\1}"),  # of a currency
        # What people type without a backslash.
        (r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|gcd|lcm)_N", r"\\\1 "),
        (r"\\sqrt\s*(?:\(([^()]*)\)|(\d+))", r"\\sqrt{\1\2}"),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)_N", r"\\infty "),
        # Of repeating decimals there are \dot{3}, 0.(3) and 0.333...
        (r"(?<=[\d.])(?:\\dot\s*\{?\d\}?)(?:\d*\\dot\s*\{?\d\}?)?", lambda match: _overline(match[0])),
        (r"(?<=\d)\.(\d*)\((\d+)\)\Z", r".\1\\overline{\2}"),
        (r"\A(-?\d*\.\d*?)(\d{1,6}?)\2{2,}\s*\\ldots\s*\Z", r"\1\\overline{\2}"),
        *2 * ((r"\\text\s*\{([^{}]*(?:(?<![\^\w])-?\d|[=<>])[^{}]*)\}", r" \1 "),),  # \textbf{\emph{14}}
    )
]
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3}(?!\d))+(?!,\d)")
SPACED = re.compile(r"(?<![\d.,/^_] )(?<![\d.,/^_])[1-9]\d{0,2}(?: \d{3}(?!\d))+(?! ?[/\d])")
# An angle is a number to a sine: there, unlike at the end of an answer, the degree sign counts.
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)" + _N)
_CIRCLE = r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ" + _N + ")"
_DECORATION = (
    (re.compile(_CIRCLE + r"|\\degrees?" + _N), "deg"),
    (re.compile(r"\\?%"), "%"),
    (re.compile(r"(?<![A-Za-z])[A-Z]{1,3}\s?\\?\$(?=\s?[\d.])|\\\$|\\(?:text)?dollar" + _N), "$"),
)
_TRAILING = re.compile(r"(?<![\\.,;:*\s])[.,;:*\s]+\Z")
_WRAPPED = re.compile(r"(\$\$|\$|`|\"|\\\(|\\\[)((?:(?!\1).)+)(?<!\\)(?:\1|\\[)\]])", re.DOTALL)


class Plain(NamedTuple):
    """An answer in the one spelling, without wrappers, styles, spacing commands, separators and units."""

    text: str
    unit: str | None = None  # a known unit that was dropped, in its canonical name
    note: str | None = None  # a word behind a number that is no unit and changes what is meant: am, increase, north


@lru_cache(maxsize=1 << 14)
def plain(text: str) -> Plain:
    """Rewrite an answer in the one spelling that comparisons read."""
    text = _ELLIPSIS.sub(r"\\ldots ", ascii_of(text))
    text = _unwrapped(_TRAILING.sub("", text).lstrip("* \n\t"))
    for pattern, target in _REWRITES:
        text = pattern.sub(target, text)
    text = _unwrapped(text.strip())
    if _TRIGONOMETRY.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)" + _CIRCLE, r"(\\frac{\1\\pi}{180})", text)
    unit: str | None = None
    currencies = {character for character in text if unicodedata.category(character) == "Sc" and character != "$"}
    for sign, name in (*_DECORATION, *((re.compile(sign), sign) for sign in currencies)):
        text, count = sign.subn("", text)
        unit = name if count else unit
    if text.startswith(("$", "-$")) and text.count("$") == 1:
        unit = "$"
    text = text.replace("$", "")
    text, after, note = _without_unit(_joined(_TRAILING.sub("", text).strip()))
    text = _TEXT.sub(lambda match: f" {match[1].strip()} " if len(match[1].strip()) == 1 else match[0], text).strip()
    choice = re.fullmatch(r"(?:\\text\s*\{\s*)?\(?\s*([A-Za-z])\s*\)\s*\}?", text)
    return Plain(choice[1] if choice else text, "clock" if note in ("am", "pm") else after or unit, note)


def closing_brace(text: str, opening: int) -> int | None:
    r"""Index of the brace that closes ``text[opening]``, ``None`` without one; ``\{`` and ``\}`` do not count."""
    depth = 0
    for match in re.compile(r"\\.?|[{}]", re.DOTALL).finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern in a text."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def ascii_of(text: str) -> str:
    """Unicode's digits, letters and signs as ASCII and LaTeX; nothing that cannot be seen."""
    if text.isascii():
        return text.replace("\x00", "")
    text = re.sub("(?:[0-9]\u0305)+", lambda match: _overline(match[0]), text)
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS)
    for mark, run in _SCRIPTS:
        text = re.sub(run, lambda match: f"{mark}{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    return narrow(text.replace("\u2212", "-"))


def narrow(text: str) -> str:
    """The ASCII form of wide or bold letters, of other digits and of fractions; nothing that cannot be seen."""
    return text if text.isascii() else "".join(map(_narrow, text))


def _narrow(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    written = unicodedata.normalize("NFKC", character)
    if kind == "<fraction>" and not written.endswith("\u2044"):
        return "\\frac{{{}}}{{{}}}".format(*written.split("\u2044"))
    if kind in ("<wide>", "<font>", "<compat>", "<noBreak>", "<narrow>", "<small>"):
        return written
    unseen = unicodedata.category(character) == "Cf"
    return str(unicodedata.decimal(character, "" if unseen else character))


def _unwrapped(text: str) -> str:
    """Without what encloses the whole of it: dollars, brackets of display mathematics, a box, braces."""
    before = ""
    while text != before:
        before = text
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[2].strip()
        group = re.match(r"(?:\\(?:boxed|f(?:rame)?box|bbox)\s*(?:\[[^\[\]]*\])?)?\{", text)
        if group and closing_brace(text, group.end() - 1) == len(text) - 1:
            text = text[group.end() : -1].strip()
    return text


def _joined(text: str) -> str:
    """Thousands separators are dropped where all commas can be such, or where a list has a space behind its own."""
    text = SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    pieces = re.split(r"(,\s+|[()\[\]]|\\[{}])", text)
    joined = [_THOUSANDS.sub(lambda match: match[0].replace(",", ""), piece) for piece in pieces]
    enclosed = len(pieces) > 1 and not any(re.match(r",\s", piece) for piece in pieces)
    return text if enclosed or any("," in piece for piece in joined[::2]) else "".join(joined)


# --- words behind a number: units, number words, and those that change what is meant ---

_FAMILIES = (
    "mm millimeter millimetre,cm centimeter centimetre,m meter metre,km kilometer kilometre,inch inches in,"
    "ft foot feet,yd yard,mi mile,g gram,mg milligram,kg kilogram,lb pound,oz ounce,ton tonne,"
    "ml mL milliliter millilitre,L l liter litre,gal gallon,qt quart,pt pint,cup,s sec second,"
    "min minute,h hr hour,clock oclock,day,week,month,year yr,$ dollar usd USD,\u20ac euro EUR,\u00a3 GBP,"
    "\u00a5 yuan yen RMB CNY JPY,\u20b9 rupee Rs INR,cent,% percent,deg degree,rad radian,mi/h mph,km/h kmh kph kmph"
)
_CANONICAL = {
    alias + plural: names[0]
    for names in map(str.split, _FAMILIES.split(","))
    for alias in names
    for plural in ("", "s")
}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
NUMBER_WORDS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NUMBER_WORDS |= {f"{word}s": number for word, number in NUMBER_WORDS.items()}
_NOTES = frozenset(
    "am pm noon midnight increase increased decrease decreased gain loss profit deposit withdrawal rise drop north"
    " south east west northeast northwest southeast southwest left right up down above below inside outside clockwise"
    " counterclockwise anticlockwise forward forwards backward backwards ahead behind before after early earlier late"
    " later more less higher lower faster slower older younger taller shorter longer heavier lighter warmer hotter"
    " colder cooler bc ad bce ce".split()
)
_FILLING = frozenset("unit units of total each the".split())
# Behind these the number is not the value.
_NOT_UNITS = frozenset(
    "and or base if for when where to mod modulo choose factorial squared cubed half halves third thirds"
    " quarter quarters tenths over times plus minus divided by is are not than at since because with but so as"
    " otherwise".split()
)
# One and two letters after a number may as well be variables, unless they stand apart as these do.
_SHORT = frozenset("cm mm km kg mg ft lb oz hr yd ml mL mi am pm Rs sq cu of in".split())
_PIECE = r"(?:\\text\s*\{[^{}]*\}|\\cdot|/|[A-Za-z][A-Za-z.]*+)(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_TAIL = re.compile(rf"(?P<value>.*(?:[\d}})]|\\pi))(?P<space>\s*)(?P<tail>{_PIECE}(?:\s*{_PIECE})*)", re.DOTALL)
_WORD = re.compile(r"(/|\bper\b)|([A-Za-z](?:[A-Za-z]|\.(?=[A-Za-z]))*)\.?(?:\s*\}?\s*\^\s*\{?\s*(-?\d))?")


def _without_unit(text: str) -> tuple[str, str | None, str | None]:
    """The value, where ``5 million`` is multiplied out; the known unit behind it; a note such as ``am``."""
    if len(text) > 200 or (match := _TAIL.fullmatch(text)) is None:
        return text, None, None
    words = _WORD.findall(re.sub(r"\\text|\\cdot|\bin(?=\s+[a-z])", "", match["tail"]))
    words = [(over, word if word in _CANONICAL else word.replace(".", "").lower(), end) for over, word, end in words]
    names = [word for _, word, _ in words if word]
    if not names or _NOT_UNITS.intersection(names):
        return text, None, None
    styled, apart = "\\text" in match["tail"], match["space"] and "^" not in match["tail"]
    for name in names:
        known = any(name in words for words in (_CANONICAL, _NOTES, NUMBER_WORDS, _POWERS, _FILLING))
        quotient = known and "/" in match["tail"] and (names[0] in _SHORT or bool(match["space"]))
        bare = name in _SHORT or quotient or (len(name) > 2 and (known or apart))
        if not (bare or (styled and (known or len(name) > 1))):
            return text, None, None
    value, unit, note, sign, power = match["value"].strip(), "", None, "", ""
    for over, word, exponent in words:
        note = word if word in _NOTES else note
        sign, power = "/" if over else sign, _POWERS.get(word, power)
        if word in NUMBER_WORDS:
            value = f"({value})\\cdot {NUMBER_WORDS[word]}"
        elif word in _CANONICAL:
            exponent = exponent or power
            unit += f"{sign}{_CANONICAL[word]}{f'^{exponent}' if exponent not in ('', '1') else ''}"
            sign = power = ""
    return value, unit or None, note
