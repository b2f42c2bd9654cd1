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


def extract(text: str | None, form: AnswerForm | str) -> str | None:
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
        case AnswerForm.BOXED:
            return _boxed(text)
        case AnswerForm.LETTER:
            return _letter(text)


_SIGN = r"[-\u2212\u2013]"
_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)|\d+)"
_PLAIN_NUMBER = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
# A sign belongs to the number unless it stands between two terms.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}.%]){_SIGN}\s?|(?<=[=:])\s{{0,3}}{_SIGN}\s?)?(?:\\?\$\s?(?P<late>{_SIGN})?)?"
    rf"(?:\\[dt]?frac\s?\{{(?P<top>-?\d+)\}}\s?\{{(?P<bottom>\d+)\}}"
    rf"|(?<![A-Za-z_\d.])(?P<number>{_PLAIN_NUMBER})(?:\s?/\s?(?P<over>\d+)(?![\d.]))?)"
)
_HASHES = re.compile(r"####[ \t]*")
_HASH_LINE = re.compile(r"^#{1,3}[ \t]*(?P<rest>[-\u2212$\\.\d][^\n]{0,40})$", re.MULTILINE)
_PHRASE = re.compile(r"answer\s{0,3}(?:is|=|:)[ \t]{0,3}:?", re.IGNORECASE)
_NOT_JUST_A_NUMBER = re.compile(r"\\sqrt|\^|\\pi|[A-Za-z]\s*[-+*/]|[-+*/]\s*[A-Za-z]")


def _number(text: str) -> str | None:
    found, content = last_box(text)
    if found and content:
        return _number_of(content)
    if (mark := _last(_HASHES, text)) is not None:
        if (number := _first_number(text[mark.end() : mark.end() + 200])) is not None:
            return number
    elif (mark := _last(_HASH_LINE, text)) is not None:
        number = _first_number(mark["rest"])
        if number is not None:
            return number
    if (mark := _last(_PHRASE, text)) is not None:
        after = text[mark.end() : mark.end() + 200].split("\n", 1)[0]
        if (number := _first_number(after.rsplit("=", 1)[-1])) is not None:
            return number
    match = _last(_NUMBER, text)
    return None if match is None else _clean(match)


def _number_of(content: str) -> str | None:
    """The number a box holds; ``None`` if it holds something else."""
    content = content.rsplit("=", 1)[-1]
    spelled, _ = plain(content)
    try:
        value = read(spelled).constant()
    except Undecided:
        value = None
    if value is not None:
        simple = _NUMBER.fullmatch(spelled)
        return _clean(simple) if simple is not None else str(value)
    if _NOT_JUST_A_NUMBER.search(spelled):
        return None
    return _first_number(content)


def _first_number(text: str) -> str | None:
    match = _NUMBER.search(text)
    return None if match is None else _clean(match)


def _clean(match: re.Match[str]) -> str | None:
    negative = bool(match["sign"]) != bool(match["late"])
    if match["number"] is not None:
        number = re.sub(r"[^\d.]", "", match["number"])
        if match["over"] is not None:
            number = f"{number}/{match['over']}"
    else:
        top = match["top"]
        negative ^= top.startswith("-")
        number = f"{top.lstrip('-')}/{match['bottom']}"
    return f"-{number}" if negative else number


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last


_MATH = re.compile(
    r"[\s*:]*(?:\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>[^$]+)\$|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\])",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)|\*\*")


def _boxed(text: str) -> str | None:
    found, content = last_box(text)
    if found:
        return content or None
    mark = _last(_PHRASE, text)
    if mark is None:
        return None
    after = text[mark.end() : mark.end() + 1000]
    if (math := _MATH.match(after)) is not None:
        return next(group for group in math.groups() if group is not None).strip() or None
    term = _SENTENCE_END.split(after.lstrip(" *:\t"), maxsplit=1)[0].strip()
    short = len(term) <= 60 and (len(term.split()) <= 2 or not re.search(r"[A-Za-z]{2}", term))
    return term if term and short else None


_BOXED_LETTER = re.compile(r"\(?\s*([A-Da-d])\s*(?:\)|\.|:|,|$)")
_STATED_LETTER = re.compile(
    r"(?:answer|choice|option)\s{0,3}(?:is|=|:)?[ \t]{0,3}:?\s{0,3}(?:option|choice)?\s{0,3}[*$\"'`]{0,3}"
    r"(?:\(\s?([A-Da-d])\s?\)|(?:\\text\s?\{\s?)?\(?([A-D])(?![\w'])(?!\s[a-z]{3,}\s[a-z]))",
    re.IGNORECASE,
)
_ANY_LETTER = re.compile(
    r"\(\s?([A-D])\s?\)|(?<![\w'])([A-D])\)|(?<![\w'\\])([B-D])(?![\w'])|(?<![\w'\\])(A)(?![\w'])(?!\s+\w)"
)


def _letter(text: str) -> str | None:
    found, content = last_box(text)
    if found and content:
        match = _BOXED_LETTER.match(plain(content)[0])
        if match is not None:
            return match.group(1).upper()
    for pattern in (_STATED_LETTER, _ANY_LETTER):
        if (match := _last(pattern, text)) is not None:
            return next(group for group in match.groups() if group is not None).upper()
    return None
