"""The number that a text comes to, and its exact value."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

from hpcmaf.answers.notation import NUMBER_WORDS, SPACED, last_match, plain

MOST_STATEMENTS = 20
STATEMENT_LENGTH = 1000
MAGNITUDE = f"(?:{'|'.join(NUMBER_WORDS)})"
# With commas between thousands, or one before decimals, unless it may as well be a list's.
_DIGITS = (
    r"(?:[1-9][0-9]{0,2}(?:(?:,|\{,\}|,\\!)[0-9]{3}(?![0-9]))+"
    r"|(?<![,(\[{])[0-9]+,(?![0-9]{3}(?![0-9]))[0-9]++(?![,)\]}\\]|\.[0-9])|[0-9]+)"
)
# A sign belongs to the number unless it stands between two terms.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.%])-|(?<=[=:])-\s|(?<=[=:]\s)-\s|\A\s*-\s|\b(?i:negative|minus)\s)?"
    r"(?:(?:US|Rs\.?\s?)?(?:\\?\$|[\u20ac\u00a3\u00a5\u20b9])\s?-?)?"
    r"(?:(?:(?<![\d.])[0-9]{1,9}\s?)?\\[dt]?frac\s?\{-?[0-9]+\}\s?\{[0-9]+\}"
    r"|(?<![A-Za-z_0-9.])(?:[0-9]{1,9}\s(?=[0-9]+\s?/\s?[0-9]))?"
    rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]++(?!\.[0-9]))?"
    r"(?:\s?(?:\\times|\\cdot|[x*])\s{0,2}10\s?\^\s?\{?\s?-?[0-9]{1,3}\s?\}?|[eE][+-]?[0-9]{1,3}(?!\w))?)"
    rf"(?:(?:\s?(?:\\text\s?\{{\s?|-)?(?i:{MAGNITUDE})s?\b){{1,2}}|\s?[\u4e07\u4ebf])?"
)
_HASHES = re.compile(
    r"####\s*(?=[-$*\\\s0-9.\u20ac\u00a3(])|^#{1,3}[ \t]*(?=[^\sA-Za-z#]{1,30}[ \t]*[A-Za-z]*\.?\s*$)", re.MULTILINE
)
NUMBERED = re.compile(r"\d{1,2}(?:[.):]\s+[A-Za-z*]|(?:st|nd|rd|th)\b)")
_MARKER = re.compile(r"^[^\S\n]{0,20}\d{1,2}[.)]\s{1,3}(?=[A-Za-z*])", re.MULTILINE)  # of a list
# Times of day, and what is two numbers.
_NO_NUMBER = re.compile(
    r"\d{1,2}\s*:\s*[0-5]\d(?!\d)|\d{1,2}\s*[ap]\.?m\b|[\d.]{1,30}\s*\\pm\s*[\d.]{1,30}", re.IGNORECASE
)
# Degrees, and the power of a unit or a variable.
_RAISED = re.compile(r"\^\s*\{?\s*\\circ\b\s*\}?|(?<=[A-Za-z}])\^\s?(?:\d|\{\s?-?\d{1,2}\s?\})")
_OPERATOR = re.compile(r"\s*(?:[-+*/^=]|\\times|\\cdot|\\div|x\s)\s*[-($\\\w.]|(?:\s?\\?%|\spercent)\sof\s\$?\d")
_ALTERNATIVE = re.compile(r"[^\S\n]*(?:,?\s?\bor\b)\s+[-$\d]")
_INDEX = re.compile(
    r"\b(?i:agent|solution|step|case|part|method|problem|question|equation|figure|round|option|line)s?\s{0,2}#?\Z"
)
# What may stand around the one number of a box.
_BEFORE = re.compile(r"(?:[A-Za-z]{2,}+[\s:,]*)*")
_BEHIND = re.compile(
    r"[\s%]*|\s*[mgL]|\s+[shtlACFJKNVW]|\s*[A-Za-z]{2,}[A-Za-z.,\s/]*|\s*[A-Za-z]{1,4}/[A-Za-z]{1,4}"
    r"|\s*(?:[cdkm]?m|ft|in|yd|mi|units?)(?:\s*/\s*s)?\s*\^\s*\{?\s*[23]\s*\}?"
)
DENIAL = re.compile(r"(?:not|neither|never)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=[\s\"')*_]|\Z)|`")
_VERB = re.compile(r"\b(?:makes?|is|are|was|equals?|gives?|totals?|leaves?)\b[^\d]*\Z")
_POWER = re.compile(r"\d+\s?\^\s?\{?\s?-?\d+\s?\}?")


def number_in(
    boxes: list[str | None], places: list[str], statements: Iterable[str], text: str, truncated: bool
) -> str | None:
    """Take the number out of the last box, ``<answer>``, ``####``, a statement, or else the last one, in this order."""
    boxes = [box for box in boxes if box is None or not re.fullmatch(r"[A-Z]", box)]  # \boxed{N} of a prompt
    if boxes and (boxes[-1] is not None or truncated):
        return _number_of(boxes[-1]) if boxes[-1] is not None else None
    for place in places:
        if number := _number_of(place) or number_stated(place):
            return number
    for statement in hashes(text):
        if (number := number_stated(statement)) is not None:
            return number or None
    for statement in statements:
        sentence = _SENTENCE_END.split(statement, maxsplit=1)[0]
        if denied := DENIAL.match(sentence):
            sentence = "".join(re.split(r"\bbut\b", sentence, maxsplit=1)[1:])
        if (number := number_stated(sentence)) is not None:
            return number or None
        line = statement.split("\n", 1)[0]
        if denied or _OPERATOR.search(line):  # denied, or an expression that was not worked out
            start = text.rfind(statement)
            text = text[:start] + text[start + len(_SENTENCE_END.split(line, maxsplit=1)[0]) :]
    numbers = [] if truncated else _numbers(_RAISED.sub("", _NO_NUMBER.sub("", _MARKER.sub("", text))))
    return _clean(numbers[-1]) if numbers else None


def hashes(text: str) -> Iterator[str]:
    """Lines behind ``####`` that begin with a number and are no headings, the last one first."""
    for mark in reversed(list(_HASHES.finditer(text))[-MOST_STATEMENTS:]):
        line, *rest = text[mark.end() : mark.end() + STATEMENT_LENGTH].lstrip("* ").split("\n", 1)
        heading = NUMBERED.match(line) and any(part.strip() for part in rest)
        number = _NUMBER.search(line)
        if number and not heading and not re.search(r"[A-Za-z]", line[: number.start()].replace("\\", "")):
            yield line


def _numbers(text: str) -> list[re.Match[str]]:
    """The numbers of a text but those of agents, steps and the like."""
    found = _NUMBER.finditer(text)
    return [number for number in found if not _INDEX.search(text, max(0, number.start() - 12), number.start())]


def _number_of(content: str) -> str | None:
    """The one number a box holds; ``None`` if it holds several, or something else."""
    if len(content) > STATEMENT_LENGTH:
        return None
    answer = plain(content.rsplit("=", 1)[-1])
    if answer.note in ("am", "pm") or re.fullmatch(r"\d{1,2}\s*:\s*[0-5]\d|.*\d,\d.*", answer.text):
        return None
    spelled = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", answer.text).strip()
    if (number := _NUMBER.fullmatch(spelled)) or (value := value_of(spelled)) is None:
        number = number or _NUMBER.search(spelled)
        alone = number and _BEFORE.fullmatch(spelled, 0, number.start()) and _BEHIND.fullmatch(spelled, number.end())
        return _clean(number) if number and alone else None
    return str(value)


def number_stated(sentence: str) -> str | None:
    """The number that a sentence comes to; empty where it names alternatives, ``None`` where it states none."""
    sentence = _RAISED.sub("", sentence[:STATEMENT_LENGTH].replace("**", ""))
    sentence = SPACED.sub(lambda match: match[0].replace(" ", ""), sentence)
    if not (numbers := _numbers(sentence)):
        return None
    first, last = numbers[0], numbers[-1]
    if _NO_NUMBER.match(sentence, first.start()) or _ALTERNATIVE.match(sentence, first.end()):
        return ""
    opens = not re.search(r"\w", sentence[: first.start()])
    if opens and (power := _POWER.match(sentence, first.start())) and (value := value_of(power[0])) is not None:
        return str(value)
    if opens and not _OPERATOR.match(sentence, first.end()):
        clause = re.split(r"\(|,\s|\b(?:because|since|as|which|that)\b", sentence[first.end() :], maxsplit=1)[0]
        behind = last_match(_NUMBER, clause)
        return _clean(behind if behind and _VERB.search(clause[: behind.start()]) else first)
    sides = sentence.split("=")
    for side in reversed(sides if len(sides) > 1 else ()):  # 84 = 7 x 12 is 84
        if (value := _NUMBER.search(side)) and not _OPERATOR.match(side, value.end()):
            return _clean(value)
    before = sentence[: last.start()].rstrip()
    operator = before.endswith((*"+-*/^(", "\\times", "\\cdot", "% of", "percent of"))
    worked = operator or _OPERATOR.match(sentence, last.end())
    return None if worked else _clean(last)


def only_number(clause: str) -> str | None:
    """The one number of a clause, behind which at most a unit follows."""
    if len(numbers := _numbers(clause)) != 1:
        return None
    ended = value_of(plain(clause[numbers[0].start() :].replace("$", "")).text) is not None
    return _clean(numbers[0]) if ended or numbers[0].start() == 0 else None


def _clean(match: re.Match[str]) -> str:
    """A number without separators, units and currency signs; a fraction where it is no decimal."""
    text = plain(re.sub(r"(?<=\d)-(?=[A-Za-z])", " ", match[0])).text.replace(",", ".")
    if re.fullmatch(r"-?\d+(?:\.\d+)?(?:/\d+)?", text):
        return text
    value = value_of(text)
    return text if value is None else str(value)


# --- exact values ---

_MAX_LENGTH = 400
_MAX_BITS = 14_000  # 4,214 digits: Python refuses to print more than 4,300
_ARITHMETIC = re.compile(r"[\d\s+*/()-]+")


def _period(match: re.Match[str]) -> str:
    whole, fixed, period = match.groups()
    return f"({whole or 0}.{fixed or 0}+{int(period)}/{(10 ** len(period) - 1) * 10 ** len(fixed)})"


_FRACTION = r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})"  # as in TeX: \frac43 is 4/3
# How LaTeX's numbers are written in Python.
_STEPS = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"\A([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,4})\Z", r"(\1*10**\2)"),
        (r"\A(\d{1,30})\s*:\s*(\d{1,30})\Z", r"(\1/\2)"),
        (r"(\d*)\.(\d*?)\\overline\{(\d{1,30})\}", _period),
        (r"\\(?:cdot|times)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\^", "**"),
        (r"(?<![\d.)}])(?<!\d\s)(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"(\1+\2/\3)"),  # 1 4/5
        (r"(?<![\d.)}*])(\d+)\s*\\frac\s*(\d|\{\d+\})\s*(\d|\{\d+\})", r"(\1+\2/\3)"),  # 1\frac45
        *3 * ((_FRACTION, r"(\1/\2)"), (r"(?<![a-z}])\{([^{}]*)\}", r"(\1)")),
        (r"(?<=[\d)])\s*(?=\()", "*"),
        (r"\d*\.\d+|\d+\.", lambda match: "({}/{})".format(*Fraction(match[0]).as_integer_ratio())),
        (r"(?<!\d)0+(?=\d)", ""),
    )
]


@lru_cache(maxsize=1 << 14)
def value_of(text: str) -> Fraction | None:
    """The exact value of what is written with digits alone, ``None`` where it is something else or too large."""
    text = text.strip()
    if len(text) > _MAX_LENGTH or not re.search(r"\d", text):
        return None
    for pattern, target in _STEPS:
        text = pattern.sub(target, text)
    try:
        value = _worked(ast.parse(text.strip(), mode="eval").body) if _ARITHMETIC.fullmatch(text) else None
    except (ValueError, LookupError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if value is None or max(map(int.bit_length, value.as_integer_ratio())) <= _MAX_BITS else None


def _power(base: Fraction, power: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length()) if abs(base) != 1 else 0
    if power.denominator != 1 or abs(power) * size > 2 * _MAX_BITS:
        raise ValueError
    return base**power.numerator


_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_OPERATIONS |= {ast.Pow: _power, ast.USub: operator.neg, ast.UAdd: operator.pos}


def _worked(tree: ast.expr) -> Fraction:
    match tree:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=sign, operand=operand):
            return _OPERATIONS[type(sign)](_worked(operand))
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATIONS[type(sign)](_worked(left), _worked(right))
    raise ValueError
