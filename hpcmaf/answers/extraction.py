r"""Taking the answer out of a response.

Each form looks in its own places, in order; the first place that holds
anything decides. Every pattern is linear in the text's length.
"""

from __future__ import annotations

import re
from enum import StrEnum

from hpcmaf.answers.boxes import last_box
from hpcmaf.answers.expression import Undecided, read
from hpcmaf.answers.notation import plain


class AnswerForm(StrEnum):
    """What kind of answer a task asks for."""

    NUMBER = "number"
    BOXED = "boxed"
    LETTER = "letter"
    TEXT = "text"


def extract(
    text: str | None, form: AnswerForm | str, *, truncated: bool = False, letters: str = "ABCD"
) -> str | None:
    r"""Take the final answer out of a response.

    Parameters
    ----------
    text
        A response, of any length and content.
    form
        ``number``: the last box that is not empty; else the number after the
        last ``####`` or a line ``# 12``; else after the last "answer is" or
        "answer:"; else the last number.
        ``boxed``: the last ``\boxed`` or ``\fbox``; without any box, what
        follows the last "answer is", if it is mathematics or one short term.
        ``letter``: A-D in the last box; else after the last "answer is"; else
        the last ``(B)``, ``B)`` or bare capital that is not an article.
        ``text``: as ``boxed``.
    truncated
        Whether the response was cut off by the limit on its tokens. Then an
        explicit final answer counts alone (a closed box, ``#### number``,
        "the answer is X." with an end), never the last number or letter.
    letters
        The choices of ``letter``, in capitals.

    Returns
    -------
    str or None
        Numbers come without separators, units and currency signs. ``None``
        where there is no answer, and for a box that never closes.
    """
    if not text:
        return None
    match AnswerForm(form):
        case AnswerForm.NUMBER:
            return _number(text)
        case AnswerForm.BOXED | AnswerForm.TEXT:
            return _boxed(text)
        case AnswerForm.LETTER:
            return _letter(text)


_SIGN = r"[-\u2212\u2013]"
_DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3}(?![0-9]))+|[0-9]+)"
# A sign belongs to the number unless it stands between two terms.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}.%]){_SIGN}|(?<=[=:]){_SIGN}\s|(?<=[=:]\s){_SIGN}\s)?(?:\\?\$\s?(?P<late>{_SIGN})?)?"
    rf"(?:\\[dt]?frac\s?\{{(?P<top>-?[0-9]+)\}}\s?\{{(?P<bottom>[0-9]+)\}}"
    rf"|(?<![A-Za-z_0-9.])(?P<number>{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?(?P<over>[0-9]++)(?!\.[0-9]))?)"
)
_HASHES = re.compile(r"####")
_HASH_LINE = re.compile(r"^#{1,3}[ \t]*(?P<rest>[^\n#]{1,40})$", re.MULTILINE)
_AFTER_HASH = re.compile(r"\s*[A-Za-z%]*\s*\.?\s*")
_IS = r"[*_]{0,2}[^\S\n]{0,3}(?::|=|\bis\b[^\S\n]{0,3}:?|\bbe\b)[*_]{0,2}"
_PHRASE = re.compile(rf"\banswer\b(?:{_IS}|[^\n.:=]{{1,60}}?{_IS})\s*", re.IGNORECASE)
# "3 + 4 = 7" and "x = 7" state 7; "7 since 3 + 4 = 7" does so too, but before the equation.
_CHAIN = re.compile(r"(?:[^=\nA-Za-z]{0,80}=|\s*\$?\s*[A-Za-z]\s*=)+")
_STATEMENT_LENGTH = 200


def _number(text: str) -> str | None:
    found, content = last_box(text)
    if found and content:
        return _number_of(content)
    if (mark := _last(_HASHES, text)) is not None:
        number = _first_number(text[mark.end() : mark.end() + _STATEMENT_LENGTH])
    else:
        number = _number_of_hash_line(text)
    if number is None and (mark := _last(_PHRASE, text)) is not None:
        statement = text[mark.end() : mark.end() + _STATEMENT_LENGTH].split("\n", 1)[0]
        chain = _CHAIN.match(statement)
        number = _first_number(statement[chain.end() :] if chain else statement)
    if number is None and (match := _last(_NUMBER, text)) is not None:
        number = _clean(match)
    return number


def _number_of(content: str) -> str | None:
    """The one number a box holds; ``None`` if it holds several, or something else."""
    spelled, _ = plain(content.rsplit("=", 1)[-1])
    try:
        value = read(spelled).constant()
    except Undecided:
        numbers = list(_NUMBER.finditer(spelled))
        worked = re.search(r"[\^_!]|\\[A-Za-z]+|\d[eE][+-]?\d", spelled)
        return _clean(numbers[0]) if len(numbers) == 1 and not worked else None
    if value is None:
        return None
    as_written = _NUMBER.fullmatch(spelled)
    return _clean(as_written) if as_written is not None else str(value)


def _number_of_hash_line(text: str) -> str | None:
    """``# 42`` on a line of its own, which ``# 2. Solve`` is not."""
    number = None
    for line in _HASH_LINE.finditer(text):
        match = _NUMBER.match(line["rest"])
        if match is not None and _AFTER_HASH.fullmatch(line["rest"], match.end()):
            number = _clean(match)
    return number


def _first_number(text: str) -> str | None:
    match = _NUMBER.search(text)
    return None if match is None else _clean(match)


def _clean(match: re.Match[str]) -> str:
    negative = bool(match["sign"] or match["late"])
    if match["number"] is not None:
        number = re.sub(r"[^0-9.]", "", match["number"])
        number = f"0{number}" if number.startswith(".") else number
        number = f"{number}/{match['over']}" if match["over"] is not None else number
    else:
        negative ^= match["top"].startswith("-")
        number = f"{match['top'].lstrip('-')}/{match['bottom']}"
    return f"-{number}" if negative else number


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):
        pass
    return last


_MATH = re.compile(
    r"[\s*:]{0,5}(?:\$\$([^$]{1,500})\$\$|\$([^$]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\])", re.DOTALL
)
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)|\*\*")


def _boxed(text: str) -> str | None:
    found, content = last_box(text)
    if found:
        return content or None
    mark = _last(_PHRASE, text)
    if mark is None:
        return None
    statement = text[mark.end() : mark.end() + 1000]
    if (math := _MATH.match(statement)) is not None:
        return next(group for group in math.groups() if group is not None).strip() or None
    # Without dollar signs it is hard to tell mathematics from prose: only a short term will do.
    term = _SENTENCE_END.split(statement.lstrip(" *:\t"), maxsplit=1)[0].strip()
    short = len(term) <= 60 and (len(term.split()) <= 2 or not re.search(r"[A-Za-z]{2}", term))
    return term if term and short else None


_BOXED_LETTER = re.compile(r"\(?\s*([A-Da-d])\s*(?:\)|\.|:|,|$)")
_OPENING = r"[*$\"'`\s]{0,4}(?:\\text(?:bf|rm)?\s?\{\s?)?"
_STATED_LETTER = re.compile(
    rf"\b(?i:answer|choice|option)\b(?:{_IS}|[^\n.:=]{{1,60}}?{_IS}){_OPENING}(?i:(?:option|choice)\s)?{_OPENING}"
    r"(?:\(\s?([A-Da-d])\s?\)|([A-D])(?![\w'+-]))"
)
# "A" is an article unless a bracket, an end or a verdict follows it.
_ANY_LETTER = re.compile(
    r"\(\s?([A-D])\s?\)|(?<![\w'\\-])(?:([A-D])\)|([B-D])(?![\w'+]|-\w)"
    r"|(A)(?![\w'+-])(?:(?!\s+\w)|(?=\s+is\s+(?:the\s+)?(?:correct|right|best|answer|true))))"
)


def _letter(text: str) -> str | None:
    found, content = last_box(text)
    if found and content and len(content) <= _STATEMENT_LENGTH:
        match = _BOXED_LETTER.match(plain(content)[0])
        if match is not None:
            return match.group(1).upper()
    for pattern in (_STATED_LETTER, _ANY_LETTER):
        if (match := _last(pattern, text)) is not None:
            return next(group for group in match.groups() if group is not None).upper()
    return None
