r"""Taking the answer out of a response.

Each form looks in its own places, in order; the first place that holds
anything decides. Every pattern is linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from hpcmaf.answers.letters import DENIED, letter_of
from hpcmaf.answers.notation import closing_brace, narrow, plain
from hpcmaf.answers.rational import value_of
from hpcmaf.answers.units import NUMBER_WORDS


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

    What stands in ``<think>`` is no answer; a block of thoughts that never
    closes leaves none. A box counts before ``<answer>``, ``#### 5`` and "the
    answer is", of each the last one that holds an answer. Boxes joined by
    commas or "and" are one list.

    Parameters
    ----------
    text
        A response, of any length and content.
    form
        ``number``: the number of the box, behind ``####``, of the statement,
        else the last number. ``boxed``: the box, else what is stated, if it
        is mathematics or a usual short answer such as "none". ``letter``: one
        of ``letters``, never one that is denied or only listed. ``text``: the
        box, else what is stated, else a response of one short line.
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
    form = AnswerForm(form)
    if not text or not (text := spoken(narrow(text.translate(_CHINESE)))):
        return None
    boxes = _boxes(text)
    # Of what was cut off the last sentence may lack its end; a box that closes is whole.
    stated = text[: _last_end(text)] if truncated else text
    places = [match[1].strip() for match in _TAGS.finditer(text)][-1:]
    if not truncated and not places and (match := _OPEN_TAG.search(text)):
        places = [match[1].strip()]
    match form:
        case AnswerForm.NUMBER:
            return _number(boxes, places, stated, truncated)
        case AnswerForm.LETTER:
            box = boxes[-1] if boxes else None
            return letter_of(box, (*places, *_statements(stated, _PHRASES[1])), stated, letters, truncated)
        case _:
            return _boxed(boxes, places, stated, form, truncated)


_CHINESE = str.maketrans({"。": ".", "、": ",", "\u2212": "-"})
_THOUGHTS = r"(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad|\|(?:begin|end)_of_thought\|)"
_OPENED = re.compile(rf"[<\[\u25c1](?:seed:)?{_THOUGHTS}(?:\s[^>\n]{{0,80}})?[>\]\u25b7]", re.IGNORECASE)
_CLOSED = re.compile(rf"[<\[\u25c1]/(?:seed:)?{_THOUGHTS}[>\]\u25b7]|<\|end_of_thought\|>", re.IGNORECASE)
_TAG = r"(?:final_?)?ans(?:wer)?[>\]]"
_TAGS = re.compile(rf"[<\[]{_TAG}((?:[^<\[]|[<\[](?!/|{_TAG}))*)[<\[]/{_TAG}", re.IGNORECASE)
_OPEN_TAG = re.compile(r"<(?:final_?)?answer>([^<]{1,200})\Z", re.IGNORECASE)
_END = re.compile(r"\n|[.!?][\"')*_\]]{0,3}(?=\s)")


def opened_thought(text: str) -> re.Match[str] | None:
    """The mark that begins a thought at the end of a text, as some chat templates write it for the model."""
    opened = _last(_OPENED, text)
    return opened if opened and not text[opened.end() :].strip() else None


def spoken(text: str) -> str:
    """What a response says after its thoughts; nothing where they never end."""
    closed = _last(_CLOSED, text)
    text = text[closed.end() :].lstrip() if closed else text
    return "" if _OPENED.search(text) else text


def _last_end(text: str) -> int:
    end = _last(_END, text)
    return end.end() if end and end.end() < len(text) or (end and text.endswith("\n")) else 0


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):
        pass
    return last


_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_JOINT = re.compile(r"[\s$.]*(?:\\[\])]|\\q?quad|\\[,;: ]|\\text\s?\{|[},$\s]|\\\\|&|and|or|\\[\[(])+[\s$]*")
_MINUS_BEFORE = re.compile(
    r"(?:(?:^|[=$:(\[{\n]|\\\()\s{0,3}-\s?|(?:^|[^\w\s)\]}.%]\s?|[A-Za-z]{2}\s)-|(?i:negative|minus)\s)(?:\\?\$)?\Z"
)
_MAGNITUDE = f"(?:{'|'.join(NUMBER_WORDS)})"
_MAGNITUDE_BEHIND = re.compile(rf"[\s$]{{0,3}}(?:\\[)\]]\s?)?(?:\\text\s?\{{\s?)?({_MAGNITUDE})s?\b")
_PLACEHOLDERS = re.compile(
    r"(?:(?:your|the) )?(?:(?:final|numeric(?:al)?) )?(?:answer|number|letter|result|value)(?: here)?|\\[lc]?dots"
    r"|\\q?quad|"
)


def _boxes(text: str) -> list[str | None]:
    """Contents of the boxes in order, without placeholders; ``None`` for a last one that never closes."""
    boxes: list[str | None] = []
    before = len(text)
    for match in _BOX.finditer(text):  # of nested boxes the innermost one counts, which is the last
        start, end, content = _content(text, match.end())
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
    match = _last(_BOX, text)
    return (False, None) if match is None else (True, _content(text, match.end())[2])


def _content(text: str, after: int) -> tuple[int, int, str | None]:
    r"""Start, end and content of a box; without braces (``\boxed 5``) what stands up to a space or a dollar sign."""
    while after < len(text) and text[after].isspace():
        after += 1
    if text[after : after + 1] == "{":
        end = closing_brace(text, after)
        return after, len(text) if end is None else end + 1, None if end is None else text[after + 1 : end].strip()
    end = after
    while end < len(text) and not text[end].isspace() and text[end] != "$":
        closing = closing_brace(text, end) if text[end] == "{" else None
        end = (end if closing is None else closing) + 1
    return after, end, text[after:end].rstrip(".,;:")


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
    r"|[-=]{3,}(?=\s)|\#{1,6}\s|(?:`{3}|~{3})[a-z]{0,10}\n|`(?!``)|(?<=\n)[-+\u2022]\s)+"
)
_SUBHEADING = re.compile(
    r"\s*(?:\#{1,6}\s|\*\*)?\s?(?i:explanation|reason(?:ing)?|step|solution|note|justification|proof|check|verification)\b"
)
_DENIED = re.compile(r"(?:not|neither|never)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=[\s\"')*_]|\Z)|`")
_CLAUSE_END = re.compile(
    r"\s(?:because|since|as|which|so|when|where|if|by|given|after|from)\s|,\s(?=[a-z]{2})|;|\s[\u2014\u2013]\s"
)
_DOLLARS = r"((?:\\.|[^$\\]){1,500})"
_MATH = re.compile(
    rf"(?<!\\)\$\${_DOLLARS}\$\$|(?<!\\)\${_DOLLARS}\$(?!\d)"
    r"|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]",
    re.DOTALL,
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
_MOST_STATEMENTS = 20
_STATEMENT_LENGTH = 1000


def _statements(text: str, phrase: re.Pattern[str] = _PHRASES[0]) -> Iterator[str]:
    """What follows each "the answer is", the last one first."""
    marks = [
        match
        for match in phrase.finditer(text)
        if not DENIED.search(match[0]) and not _AIM.search(text[max(0, match.start() - 60) : match.start()])
    ]
    for mark in reversed(marks[-_MOST_STATEMENTS:]):
        statement = text[mark.end() : mark.end() + _STATEMENT_LENGTH]
        if "\n" not in mark[0]:
            yield _MARKUP.sub(_fence, statement, count=1)
        elif not _SUBHEADING.match(statement) and not _NUMBERED.match(statement):
            yield _MARKUP.sub(_fence, "\n" + statement, count=1)


def _fence(markup: re.Match[str]) -> str:
    """Of the markup before a statement nothing is left but the mark of a block of code."""
    return markup[0] if markup.start() else "```" * bool(re.search("`{3}|~{3}", markup[0]))


def _formula(math: re.Match[str]) -> str:
    return next(group for group in math.groups() if group is not None).strip().rstrip(".,")


def _boxed(boxes: list[str | None], places: list[str], text: str, form: AnswerForm, truncated: bool) -> str | None:
    if boxes:
        return boxes[-1]
    for place in places:
        if answer := next(filter(None, (_term(part, form) for part in (*_statements(place), place))), None):
            return answer
    for statement in _statements(text):
        if answer := _term(statement, form):
            return answer
    for statement in _hashes(text):
        if number := _number_stated(statement):
            return number
    short = len(text.split()) <= 6 and not (_PHRASES[0].search(text) or _BOX.search(text) or "\n" in text.strip())
    return _term(text, form) if form is AnswerForm.TEXT and short and not truncated else None


def _term(statement: str, form: AnswerForm) -> str | None:
    """The answer that a statement makes, if it makes one."""
    if statement.startswith("```"):
        lines = re.split("`{3}|~{3}", statement[3:], maxsplit=1)[0].strip().splitlines()
        return lines[0].strip() if len(lines) == 1 else None
    if _DENIED.match(statement):
        return None
    sentence = re.split(r"\n|(?<!\d)[.!?](?=\s)|(?<=\d)[.!?](?=\s+[^\d\s]|\s*$)", statement, maxsplit=1)[0]
    # Display mathematics may have lines and full stops of its own, and stand on the next line.
    displayed = _MATH.search(statement)
    lead = displayed and re.fullmatch(r"[^.!?\n\d]{0,30}\s{0,3}", statement[: displayed.start()])
    reach = max(displayed.end(), len(sentence)) if displayed and lead else len(sentence)
    for math in _MATH.finditer(statement[:reach]):
        if not _GOES_ON.match(statement, math.end()):
            return _formula(math) or None
    if verdict := _VERDICT.match(sentence):
        if sentence[verdict.end() : verdict.end() + 1] != ":":
            return None
        sentence = sentence[verdict.end() + 1 :]
    sentence = re.sub(r"`|</?[a-z]+>", "", sentence).strip(" *_=\"'").rstrip(".!?,;:*_=\"' ")
    if form is AnswerForm.TEXT:
        return sentence[:200].strip() or None
    clause = _CLAUSE_END.split(sentence, maxsplit=1)[0].rstrip("., ")
    words = re.findall(r"[A-Za-z]{2,}", clause)
    if len(clause) <= 60 and clause:
        if _TEXT_ANSWERS.fullmatch(clause) or not words:
            return clause if re.search(r"\w", clause) else None
        if len(clause.split()) <= 2 and re.search(r"\d", clause):
            return clause
    numbers = [number for number in _NUMBER.finditer(clause) if not _INDEX.search(clause[: number.start()])]
    if len(numbers) != 1 or len(clause) > 200:
        return None
    ended = value_of(plain(clause[numbers[0].start() :].replace("$", "")).text) is not None  # at most a unit follows
    return _clean(numbers[0]) if ended or numbers[0].start() == 0 else None


_SIGN = r"[-\u2212\u2013]"
_DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|,\\!)[0-9]{3}(?![0-9]))+|[0-9]+)"
# A sign belongs to the number unless it stands between two terms.
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]}}.%]){_SIGN}|(?<=[=:]){_SIGN}\s|(?<=[=:]\s){_SIGN}\s|\A\s*{_SIGN}\s|\b(?i:negative|minus)\s)?"
    rf"(?:(?:US|Rs\.?\s?)?(?:\\?\$|[\u20ac\u00a3\u00a5\u20b9])\s?{_SIGN}?)?"
    r"(?:(?:(?<![\d.])[0-9]{1,9}\s?)?\\[dt]?frac\s?\{-?[0-9]+\}\s?\{[0-9]+\}"
    r"|(?<![A-Za-z_0-9.])(?:[0-9]{1,9}\s(?=[0-9]+\s?/\s?[0-9]))?"
    rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]++(?!\.[0-9]))?"
    r"(?:\s?(?:\\times|\\cdot|[\u00d7\u00b7\u22c5x*])\s?10(?:\s?\^\s?\{?\s?[-\u2212]?[0-9]{1,3}\s?\}?"
    r"|[\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{1,4})|[eE][+-]?[0-9]{1,3}(?!\w))?)"
    rf"(?:(?:\s?(?:\\text\s?\{{\s?|-)?(?i:{_MAGNITUDE})s?\b){{1,2}}|\s?[\u4e07\u4ebf])?"
)
_HASHES = re.compile(
    r"####\s*(?=[-\u2212$*\\\s0-9.\u20ac\u00a3(])|^#{1,3}[ \t]*(?=[^\sA-Za-z#]{1,30}[ \t]*[A-Za-z]*\.?\s*$)",
    re.MULTILINE,
)
_NUMBERED = re.compile(r"\d{1,2}(?:[.):]\s+[A-Za-z*]|(?:st|nd|rd|th)\b)")
_SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?![\d/])")
_TIME = re.compile(r"\d{1,2}\s*:\s*[0-5]\d(?!\d)|\d{1,2}\s*[ap]\.?m\b", re.IGNORECASE)
_OPERATOR = re.compile(r"\s*(?:[-+*/^=\u00d7\u00f7\u2212]|\\times|\\cdot|\\div|x\s)\s*[-($\\\w.]")
_ALTERNATIVE = re.compile(r"[^\S\n]*(?:,?\s?\bor\b)\s+[-$\d]")
_INDEX = re.compile(
    r"\b(?i:agent|solution|step|case|part|method|problem|question|equation|figure|round|option|line)s?\s{0,2}#?\Z"
)
# What may stand around the one number of a box.
_BEFORE = re.compile(r"(?:[A-Za-z]{2,}[\s:,]*)*")
_BEHIND = re.compile(
    r"[\s%]*|\s*[mgL]|\s+[shtlACFJKNVW]|\s*[A-Za-z]{2,}[A-Za-z.,\s/]*|\s*[A-Za-z]{1,4}/[A-Za-z]{1,4}"
    r"|\s*(?:[cdkm]?m|ft|in|yd|mi|units?)(?:\s*/\s*s)?\s*\^\s*\{?\s*[23]\s*\}?"
)
_VERB = re.compile(r"\b(?:makes?|is|are|was|equals?|gives?|totals?|leaves?)\b[^\d]*\Z")
_POWER = re.compile(r"\d+\s?\^\s?\{?\s?-?\d+\s?\}?")

def _number(boxes: list[str | None], places: list[str], text: str, truncated: bool) -> str | None:
    boxes = [box for box in boxes if box is None or not re.fullmatch(r"[A-Z]", box)]  # \boxed{N} of a prompt
    if boxes and (boxes[-1] is not None or truncated):
        return _number_of(boxes[-1]) if boxes[-1] is not None else None
    for place in places:
        if number := _number_of(place) or _number_stated(place):
            return number
    for statement in _hashes(text):
        if (number := _number_stated(statement)) is not None:
            return number or None
    for statement in _statements(text):
        sentence = _SENTENCE_END.split(statement, maxsplit=1)[0]
        if denied := _DENIED.match(sentence):
            sentence = "".join(re.split(r"\bbut\b", sentence, maxsplit=1)[1:])
        if (number := _number_stated(sentence)) is not None:
            return number or None
        line = statement.split("\n", 1)[0]
        if denied or _OPERATOR.search(line):  # denied, or an expression that was not worked out
            start = text.rfind(statement)
            text = text[:start] + text[start + len(_SENTENCE_END.split(line, maxsplit=1)[0]) :]
    text = _TIME.sub("", text)
    if truncated or not (numbers := list(_NUMBER.finditer(text))):
        return None
    indexed = (_INDEX.search(text, max(0, number.start() - 12), number.start()) for number in reversed(numbers))
    return _clean(next((number for number, index in zip(reversed(numbers), indexed) if not index), numbers[-1]))


def _hashes(text: str) -> Iterator[str]:
    """Lines behind ``####`` that begin with a number and are no headings, the last one first."""
    for mark in reversed(list(_HASHES.finditer(text))[-_MOST_STATEMENTS:]):
        line, *rest = text[mark.end() : mark.end() + _STATEMENT_LENGTH].lstrip("* ").split("\n", 1)
        heading = _NUMBERED.match(line) and any(part.strip() for part in rest)
        number = _NUMBER.search(line)
        if number and not heading and not re.search(r"[A-Za-z]", line[: number.start()].replace("\\", "")):
            yield line


def _number_of(content: str) -> str | None:
    """The one number a box holds; ``None`` if it holds several, or something else."""
    if len(content) > _STATEMENT_LENGTH:
        return None
    answer = plain(content.rsplit("=", 1)[-1])
    if answer.note in ("am", "pm") or re.fullmatch(r"\d{1,2}\s*:\s*[0-5]\d", answer.text):
        return None
    spelled = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", answer.text).strip()
    if (number := _NUMBER.fullmatch(spelled)) or (value := value_of(spelled)) is None:
        number = number or _NUMBER.search(spelled)
        alone = number and _BEFORE.fullmatch(spelled, 0, number.start()) and _BEHIND.fullmatch(spelled, number.end())
        return _clean(number) if number and alone else None
    return str(value)


def _number_stated(sentence: str) -> str | None:
    """The number that a sentence comes to; empty where it names alternatives, ``None`` where it states none."""
    sentence = _SPACED.sub(lambda match: match[0].replace(" ", ""), sentence[:_STATEMENT_LENGTH].replace("**", ""))
    numbers = [number for number in _NUMBER.finditer(sentence) if not _INDEX.search(sentence[: number.start()])]
    if not numbers:
        return None
    first, last = numbers[0], numbers[-1]
    if _TIME.match(sentence, first.start()) or _ALTERNATIVE.match(sentence, first.end()):
        return ""
    opens = not re.search(r"\w", sentence[: first.start()])
    if opens and (power := _POWER.match(sentence, first.start())) and (value := value_of(power[0])) is not None:
        return str(value)
    if opens and not _OPERATOR.match(sentence, first.end()):
        clause = re.split(r"\(|,\s|\b(?:because|since|as|which|that)\b", sentence[first.end() :], maxsplit=1)[0]
        behind = _last(_NUMBER, clause)
        return _clean(behind if behind and _VERB.search(clause[: behind.start()]) else first)
    sides = sentence.split("=")
    for side in reversed(sides if len(sides) > 1 else ()):  # 84 = 7 x 12 is 84
        if (value := _NUMBER.search(side)) and not _OPERATOR.match(side, value.end()):
            return _clean(value)
    before = sentence[: last.start()].rstrip()
    operator = before.endswith((*"+-*/^\u00d7\u00f7\u2212(", "\\times", "\\cdot"))
    worked = operator or _OPERATOR.match(sentence, last.end())
    return None if worked else _clean(last)


def _clean(match: re.Match[str]) -> str:
    """A number without separators, units and currency signs; a fraction where it is no decimal."""
    text = plain(re.sub(r"(?<=\d)-(?=[A-Za-z])", " ", match[0])).text
    if re.fullmatch(r"-?\d+(?:\.\d+)?(?:/\d+)?", text):
        return text
    value = value_of(text)
    return text if value is None else str(value)
