r"""Taking the answer out of a response.

Each form looks in its own places, in order; the first place that holds anything decides. Every pattern is linear in the
text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from hpcmaf.answers import numbers
from hpcmaf.answers.letters import DENIED, letter_of
from hpcmaf.answers.notation import ascii_of, closing_brace, last_match, narrow


class AnswerForm(StrEnum):
    """What kind of answer a task asks for."""

    NUMBER = "number"
    BOXED = "boxed"
    LETTER = "letter"
    TEXT = "text"
    CODE = "code"


def extract(text: str | None, form: AnswerForm | str, *, truncated: bool = False, letters: str = "ABCD") -> str | None:
    r"""Take the final answer out of a response.

    Thoughts hold no answer, and a response whose thoughts never end has none. A box counts before ``<answer>``,
    ``#### 5`` and "the answer is", of each the last one that holds an answer. Boxes joined by commas or "and" are one
    list.

    Parameters
    ----------
    form
        ``number``: one that is boxed or stated, else the last of the text. ``boxed``: the box, else what is stated, if
        it is mathematics or a usual short answer such as "none". ``letter``: one of ``letters``, never one that is
        denied or only listed. ``text``: the box, else what is stated, else a response of one short line. Programs
        (``code``) are read by :mod:`hpcmaf.tasks.code`.
    truncated
        Whether the response was cut off. Then an explicit final answer that is whole counts alone.
    letters
        The choices of ``letter``, in capitals.

    Returns
    -------
    str or None
        Numbers come without separators, units and currency signs.
    """
    form = AnswerForm(form)
    one_spelling = ascii_of if form is AnswerForm.NUMBER else narrow
    if not text or not (text := spoken(one_spelling(text.translate(_CHINESE)))):
        return None
    boxes, stated = _boxes(text), text
    if truncated:  # the last sentence may lack its end; a box that closes is whole
        stated = text[: end.end()] if (end := last_match(_END, text)) else ""
    places = [match[1].strip() for match in _TAGS.finditer(text)][-1:]
    if not truncated and not places and (match := _OPEN_TAG.search(text)):  # its end may be a stop text
        places = [match[1].strip()]
    match form:
        case AnswerForm.NUMBER:
            return numbers.number_in(boxes, places, _statements(stated), stated, truncated)
        case AnswerForm.LETTER:
            return letter_of(boxes, (*places, *_statements(stated, _PHRASES[1])), stated, letters, truncated)
        case _:
            return _boxed(boxes, places, stated, form, truncated)


_CHINESE = str.maketrans({"。": ".", "、": ", ", "\u2212": "-"})
_THOUGHTS = r"(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|\|(?:begin|end)_of_thought\|)"
_OPENED = re.compile(rf"[<\[\u25c1](?:seed:)?{_THOUGHTS}(?:\s[^>\n]{{0,80}})?[>\]\u25b7]", re.IGNORECASE)
_CLOSED = re.compile(rf"[<\[\u25c1]/(?:seed:)?{_THOUGHTS}[>\]\u25b7]|<\|end_of_thought\|>", re.IGNORECASE)
_TAG = r"(?:final_?)?ans(?:wer)?[>\]]"
_TAGS = re.compile(rf"[<\[]{_TAG}((?:[^<\[]|[<\[](?!/|{_TAG}))*)[<\[]/{_TAG}", re.IGNORECASE)
_OPEN_TAG = re.compile(r"<(?:final_?)?answer>([^<]{1,200})\Z", re.IGNORECASE)
_END = re.compile(r"\n|[.!?][\"')*_\]]{0,3}(?=\s)")


def opened_thought(text: str) -> re.Match[str] | None:
    """The mark that begins a thought at the end of a text, as some chat templates write it for the model."""
    opened = last_match(_OPENED, text)
    return opened if opened and not text[opened.end() :].strip() else None


def closing_mark(text: str) -> str:
    """What ends the thought that a text is in; nothing where it is in none."""
    closed = last_match(_CLOSED, text)
    if not (opened := _OPENED.search(text, closed.end() if closed else 0)):
        return ""
    mark = opened[0]
    return mark.replace("begin", "end") if "|" in mark else f"{mark[0]}/{mark[1:-1].split()[0]}{mark[-1]}"


def spoken(text: str) -> str:
    """What a response says after its thoughts; nothing where they never end."""
    closed = last_match(_CLOSED, text)
    text = text[closed.end() :].lstrip() if closed else text
    return "" if _OPENED.search(text) else text


_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(r"(?:[^\s${]|\{(?:[^{}]|\{[^{}]*\})*\})*")  # what stands in a box without braces
_JOINT = re.compile(r"[\s$.]*(?:\\[\])]|\\q?quad|\\[,;: ]|\\text\s?\{|[},$\s]|\\\\|&|and|or|\\[\[(])+[\s$]*")
_MINUS_BEFORE = re.compile(
    r"(?:(?:^|[=$:(\[{\n]|\\\()\s{0,3}-\s?|(?:^|[^\w\s)\]}.%]\s?|[A-Za-z]{2}\s)-|(?i:negative|minus)\s)(?:\\?\$)?\Z"
)
_MAGNITUDE_BEHIND = re.compile(rf"[\s$]{{0,3}}(?:\\[)\]]\s?)?(?:\\text\s?\{{\s?)?({numbers.MAGNITUDE})s?\b")
_PLACEHOLDERS = re.compile(
    r"(?:(?:your|the) )?(?:(?:final|numeric(?:al)?) )?(?:answer|number|letter|result|value)(?: here)?|\\[lc]?dots"
    r"|\\q?quad|"
)


def _boxes(text: str) -> list[str | None]:
    """Contents of the boxes in order, without placeholders; ``None`` for a last one that never closes."""
    boxes: list[str | None] = []
    before = len(text)
    for match in _BOX.finditer(text):  # of nested boxes the innermost one counts, which is the last
        end, content = _content(text, match.end())
        if content is None:
            return [*boxes, None]
        bare = " ".join(re.sub(r"\\text\w*\s*\{|\\[,;:! ]|[{}\[\]<>$.?_*\u2026]", " ", content).split()).casefold()
        recited = re.match(rf"[\s$.,)\]\\]{{0,5}}where\s+\$?{re.escape(content)}\b", text[end : end + 60])
        if _PLACEHOLDERS.fullmatch(bare) or recited:
            continue
        if _MINUS_BEFORE.search(text[max(0, match.start() - 12) : match.start()]):
            content = f"-({content})" if re.search(r"\S\s*[-+]", content) else f"-{content}"
        if magnitude := _MAGNITUDE_BEHIND.match(text, end):
            content = f"{content} \\text{{ {magnitude[1]}}}"
        joint = text[before : min(match.start(), before + 70)]
        if boxes and joint and _JOINT.fullmatch(joint) and re.search(r",|and|or", joint):
            content = boxes[-1] if content in boxes[-1].split(",") else f"{boxes[-1]},{content}"
        boxes.append(content)
        before = end
    return boxes


def last_box(text: str) -> tuple[bool, str | None]:
    r"""Whether a text has a ``\\boxed`` at all, and the content of the last one; ``None`` if its braces never close."""
    match = last_match(_BOX, text)
    return (False, None) if match is None else (True, _content(text, match.end())[1])


def _content(text: str, start: int) -> tuple[int, str | None]:
    r"""End and content of a box; without braces (``\boxed 5``) what stands up to a space or a dollar sign."""
    if text.startswith("{", start):
        end = closing_brace(text, start)
        return (len(text), None) if end is None else (end + 1, text[start + 1 : end].strip())
    bare = _BARE.match(text, start)
    return bare.end(), bare[0].rstrip(".,;:")


_IS = r"[*_]{0,2}[^\S\n]{0,3}(?::|=|\u2192|\b(?:is|are|equals|be|was|comes\sto)\b[^\S\n]{0,3}:?)[*_]{0,2}"
# "The answer is" in Chinese, Japanese, Korean, German, French, Spanish, Italian, Portuguese and Russian.
_FOREIGN_PHRASE = (
    "(?:\u7b54\u6848|\u7b54\u3048|\u6b63\u89e3|\uc815\ub2f5|\ub2f5|antwort|r\u00e9ponse|respuesta|risposta|resposta"
    "|\u043e\u0442\u0432\u0435\u0442)(?:\\s[^\\W\\d]{2,12})?[^\\S\n]{0,2}(?:\u5e94\u4e3a|\u5e94\u8be5\u662f|\u662f|\u4e3a|\u70ba|\u306f|\uc740|\ub294"
    "|ist|lautet|est|es|\u00e8|\u00e9|:|=)\\s*:?\\s*"
)
_PHRASES = [
    re.compile(
        rf"(?:\b(?:incorrect|wrong|false)\s)?(?<![A-Za-z])(?:{words})(?![A-Za-z])(?:\s?\([^()\n]{{1,30}}\))?"
        rf"(?:{_IS}|[^\n.:=]{{1,60}}?{_IS}|[*_:}}]{{0,3}}[^\S\n]{{0,3}}(?=\n|\$|\\\(|\\\[|\*\*))\s*|{_FOREIGN_PHRASE}",
        re.IGNORECASE,
    )
    for words in (r"answer|final\s(?:result|value|solution)", "answer|choice|option")
]
_AIM = re.compile(
    r"\b(?:to|us|can|could|must|should|please|now)\s+(?:get|find|obtain|reach|compute|calculate|determine|check|verify"
    r"|give|write|explain|state|know)\s+(?:(?:the|our|an?|your|my|final|correct|right)\s+){0,3}\Z",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"(?:\s|[*_>:\u2190-\u21ff\u2600-\u27bf\U0001f000-\U0001faff\ufe0f]|&nbsp;|</?[a-z]{1,6}\b[^<>\n]{0,80}>|==(?=\w)"
    r"|as\sfollows:|[-=]{3,}(?=\s)|\#{1,6}\s|(?:`{3}|~{3})[a-z]{0,10}\n|`(?!``)|(?<=\n)[-+\u2022]\s)+"
)
_SUBHEADING = re.compile(
    r"\s*(?:\#{1,6}\s|\*\*)?\s?(?i:explanation|reason(?:ing)?|step|solution|note|justification|proof|check|verification)\b"
)
_CLAUSE_END = re.compile(
    r"\s(?:because|since|as|which|so|when|where|if|by|given|after|from)\s|,\s(?=[a-z]{2})|;|\s[\u2014\u2013]\s"
)
_DOLLARS = r"((?:\\.|[^$\\]){1,500})"
_MATH = re.compile(
    rf"(?<!\\)\$\${_DOLLARS}\$\$|(?<!\\)\${_DOLLARS}\$(?!\d)"
    r"|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]",
    re.DOTALL,
)
_JOINED = re.compile(
    r"(?:(?<!\\)\$|\\[)\]])\s{0,3}(?:,\s{0,3}(?:(?:and|or)\s{1,3})?|(?:and|or)\s{1,3})(?:\$|\\[(\[])"
)
_GOES_ON = re.compile(r"\s{0,3}(?:,\s?which\s)?(?:is|are|=|equals|is\sequal\sto|has\sthe\svalue)\s", re.IGNORECASE)
_VERDICT = re.compile(
    r"(?:(?:still|also|now|therefore|indeed|partially|absolutely)\s)?(?:(?:in)?correct|wrong|right|(?:the\s)?same"
    r"|unchanged|clear|as\sfollows|below|above|obvious|valid|verified|confirmed|consistent|different|similar|good|fine"
    r"|given|shown|stated|known|found|obtained|n/a)\b",
    re.IGNORECASE,
)
_TEXT_ANSWERS = re.compile(
    r"yes|no|true|false|none|never|always|undefined|infinity|infinite(?:ly many)?|impossible|even|odd|neither|both|zero"
    r"|dne|empty(?: set)?|does not exist|no (?:real )?solutions?(?: exists?)?|all real(?: number)?s?"
    r"|north|south|east|west|(?:mon|tues|wednes|thurs|fri|satur|sun)day",
    re.IGNORECASE,
)


def _statements(text: str, phrase: re.Pattern[str] = _PHRASES[0]) -> Iterator[str]:
    """What follows each "the answer is", the last one first."""
    marks = [
        match
        for match in phrase.finditer(text)
        if not DENIED.search(match[0]) and not _AIM.search(text[max(0, match.start() - 60) : match.start()])
    ]
    for mark in reversed(marks[-numbers.MOST_STATEMENTS:]):
        statement = text[mark.end() : mark.end() + numbers.STATEMENT_LENGTH]
        if "\n" in mark[0]:
            if _SUBHEADING.match(statement) or numbers.NUMBERED.match(statement):
                continue
            statement = "\n" + statement
        # Of the markup before a statement nothing is left but the mark of a block of code.
        if markup := _MARKUP.match(statement):
            statement = "```" * bool(re.search("`{3}|~{3}", markup[0])) + statement[markup.end() :]
        yield statement


def _boxed(boxes: list[str | None], places: list[str], text: str, form: AnswerForm, truncated: bool) -> str | None:
    if boxes:
        return boxes[-1]
    for statement in (*places, *_statements(text)):
        if answer := _term(statement, form):
            return answer
    for line in numbers.hashes(text):
        if number := numbers.number_stated(line):
            return number
    short = len(text.split()) <= 6 and not (_PHRASES[0].search(text) or _BOX.search(text) or "\n" in text.strip())
    return _term(text, form) if form is AnswerForm.TEXT and short and not truncated else None


def _term(statement: str, form: AnswerForm) -> str | None:
    """The answer that a statement makes, if it makes one."""
    if statement.startswith("```"):
        lines = re.split("`{3}|~{3}", statement[3:], maxsplit=1)[0].strip().splitlines()
        return lines[0].strip() if len(lines) == 1 else None
    if numbers.DENIAL.match(statement):
        return None
    statement = _JOINED.sub(",", statement)  # formulas that are one list
    sentence = re.split(r"\n|(?<!\d)[.!?](?=\s)|(?<=\d)[.!?](?=\s+[^\d\s]|\s*$)", statement, maxsplit=1)[0]
    # Display mathematics may have lines and full stops of its own, and stand on the next line.
    displayed = _MATH.search(statement)
    lead = displayed and re.fullmatch(r"[^.!?\n\d]{0,30}\s{0,3}", statement[: displayed.start()])
    reach = max(displayed.end(), len(sentence)) if displayed and lead else len(sentence)
    for math in _MATH.finditer(statement[:reach]):
        if not _GOES_ON.match(statement, math.end()) and not _BOX.search(math[0]):
            return next(filter(None, math.groups())).strip().rstrip(".,") or None
    if verdict := _VERDICT.match(sentence):
        if sentence[verdict.end() : verdict.end() + 1] != ":":
            return None
        sentence = sentence[verdict.end() + 1 :]
    sentence = re.sub(r"`|</?[a-z]+>", "", sentence).strip(" *_=\"'").rstrip(".!?,;:*_=\"' ")
    if form is AnswerForm.TEXT:
        return sentence[:200].strip() if re.search(r"\w", sentence) else None
    clause = _CLAUSE_END.split(sentence, maxsplit=1)[0].rstrip("., ")
    if len(clause) <= 60 and clause:
        if _TEXT_ANSWERS.fullmatch(clause) or not re.search(r"[A-Za-z]{2}", clause):
            return clause if re.search(r"\w", clause) else None
        if len(clause.split()) <= 2 and re.search(r"\d", clause):
            return clause
    return numbers.only_number(clause) if len(clause) <= 200 else None
