"""The letter that a response to a multiple-choice question settles on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from hpcmaf.answers.notation import plain

_LONGEST = 400
DENIED = re.compile(
    r"\b(?:not|cannot|neither|nor|either|never|incorrect|wrong|false|unlikely|except|eliminat\w+|rul\w+ out|excluded?"
    r"|doubt\w*|distractors?|instead of|rather than|at first|one of)\b|n't\b|\u4e0d[\u662f\u9009]|[\u274c\u2717\u2718]",
    re.IGNORECASE,
)
_MARKUP = r"[\s*_~\u00ab$\"'`\u201c\u2018(\[{<\\:>#-]"
_SENTENCE = re.compile(r"(?:[^.!?\n;\u3002]|\.(?=\S))+")
_CLAUSE = re.compile(
    r",(?=[^\x00-\x7f])|,\s+(?:(?:then|which|leaving|rather(?!\sthan))\b|(?=it\b))|;|(?:,\s+)?\b(?:but|so|hence|thus|therefore|because|since)\b"
)
_PART = re.compile(r",\s|;|\b(?:while|whereas|but|and(?=\s\(?[A-J]\)?\sis))\b|(?<=[\u274c\u2705\u2713-\u2718])")
_PREDICATE = re.compile(r"(?:is|was|can|could|must|seems|would|should|will|does|has)(?:not|n't)?\b")
# Words that a chosen letter may stand behind.
_BEFORE = (
    r"(?:is|it's|be|was|are|picks?|choose|chose|select|say|guess|prefer|conclude|answer|so|option|choice|letter|therefore"
    r"|thus|hence|then|with|for|to|only|clearly|definitely|probably|likely|certainly|surely|finally"
    r"|and|that|mark|take|believe|think|statement|key|be|not)"
)


def letter_of(boxes: list[str | None], stated: Iterable[str], text: str, letters: str, truncated: bool) -> str | None:
    """Take the choice out of the last box, a statement, a verdict or the last mention, in this order."""
    read = _patterns(letters)
    if boxes and (box := boxes[-1]) is not None and len(box) <= _LONGEST:
        # Spaces around \text keep "A \text{and} B" two letters.
        content = re.sub(r"\\text\w*\s*\{([^{}]*)\}", r" \1 ", plain(box).text or box).strip()
        if read["several"].fullmatch(content):
            return None
        if found := read["boxed"].match(content):
            return found[1].upper() if found[2] or not read["mention"].search(content, found.end()) else None
    for statement in stated:
        if letter := _stated(statement[:_LONGEST], read):
            return letter
    if truncated:
        return None
    text = text.strip()
    whole = read["whole"].fullmatch(text) if len(text) <= _LONGEST else None
    if whole and not read["mention"].search(text, whole.end(1) + 1):
        stands_for = (whole[2] or "").strip(" .!")  # a text that may well say "not"
        if not (DENIED.search if _PREDICATE.match(stands_for) else DENIED.fullmatch)(stands_for):
            return whole[1].upper()
    alone = [line for line in (line.strip(" *_()[].:") for line in text.splitlines()) if line in tuple(letters)]
    if len(alone) == 1:
        return alone[0]
    sentences = [sentence for sentence in _SENTENCE.findall(text) if read["mention"].search(sentence)]
    for clause in (clause for sentence in reversed(sentences) for clause in reversed(_PART.split(sentence))):
        if not DENIED.search(clause) and (verdict := read["verdict"].search(clause)):
            return next(group for group in verdict.groups() if group).upper()
    return _last_mention(sentences, read)


def _stated(statement: str, read: dict[str, re.Pattern[str]]) -> str | None:
    """The one letter of a statement's first sentence that is affirmed."""
    sentence = re.split(r"(?<!\()[.!?](?:\s|$)|\n", statement.strip(), maxsplit=1)[0]
    for clause in _CLAUSE.split(sentence + "."):
        clause = clause.lstrip()
        if match := read["stated"].match(clause):
            return None if read["pair"].match(clause, match.start(match.lastindex)) else match[match.lastindex].upper()
    return None


def _last_mention(sentences: list[str], read: dict[str, re.Pattern[str]]) -> str | None:
    """The last letter that is neither denied, nor part of a list of the choices."""
    mentioned = ""  # in small letters where they are denied
    for clause in (clause for sentence in sentences for clause in _CLAUSE.split(sentence)):
        found = "".join(next(filter(None, match.groups())) for match in read["mention"].finditer(clause))
        mentioned += found.lower() if DENIED.search(clause) or read["pair"].search(clause) else found
    kept = [letter for letter in read["listing"].sub("", mentioned) if letter.isupper()]
    return kept[-1] if kept else None


@lru_cache(maxsize=16)
def _patterns(letters: str) -> dict[str, re.Pattern[str]]:
    upper, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
    after = r"(?![A-Za-z0-9+]|'[A-Za-z]|-\w|\s?[/&]\s?" + upper + ")"
    ahead = rf"(?:{_MARKUP}|\\?(?:text(?:bf|rm|it)?|mathrm|mathbf|boxed)\s?\{{\s?)" + "{0,8}"
    # "A" is an article and "I" a pronoun unless a bracket, an end, or one of these words follows.
    article = r"(?!\s+(?!because|since|as\b|is\b|and\b|for\b|which|with\b|due|by\b|based|given|that|or\b)[a-z])"
    pronoun = r"(?!\s+(?!because\b|since\b|is\b)[a-z]|')"
    bare = f"(?:(?![AI]){upper}{after}|(?=A){upper}{after}{article}|(?=I){upper}{after}{pronoun})"
    words = "the|most|clearly|therefore|thus|simply|definitely|probably|likely|indeed|actually|still|then|now|again"
    adverbs = rf"(?:(?:{words}|hence|certainly),?\s){{0,3}}"
    right = r"(?i:correct|right|true|yes)\b"
    joint = r"(?:/|\\?&|,?\s?\b(?:or|and)\b|[,;\u6216\u548c])"
    sources = {
        # A, B, C in order, from the first on, are the choices as they were given.
        "listing": f"(?i:{letters[:3]}{''.join(f'(?:{letter}' for letter in letters[3:])}{')?' * len(letters[3:])})",
        "boxed": rf"(?:(?i:option|choice|answer|letter)[\s:]*)?[(\[]?\s*({either})\s*"
        r"(?:([)\].:,]\s*(?=[A-Za-z0-9(\\$-]{2}|\d|\Z)|\Z|(?=\s*[(:-]))|(?=[\s,/&]))",
        "several": rf"[(\[]?{either}[)\]]?(?:\s*+{joint}?\s*+[(\[]?{either}[)\]]?)+",
        "stated": rf"{adverbs}{ahead}{adverbs}(?i:(?:option|choice|letter|answer)\s?)?{ahead}"
        rf"(?:(?<=[(\[])\s?({either})\s?[)\]]|({bare})"
        rf"|({either})(?=\s+(?:because|since)\b|[*_$\"'`\u201d\u2019}}~\u00bb]{{0,3}}\s*(?:[.,:;)!]\s|[.]?\s*\Z|\n)))",
        "pair": rf"(?<![A-Za-z]){upper}[)\]*_$\"'`}}]{{0,3}}\s*{joint}\s*(?:\(|\[|(?i:option)\s)?{upper}"
        r"(?![A-Za-z0-9'])",
        "whole": rf"{ahead}(?i:(?:option|choice|answer)\s?)?{ahead}({either})\s?"
        r"(?:[)\].:*_$\"'`}\u201d\u2019]+(?:\s(.*))?)?",
        "verdict": rf"(?<![A-Za-z])(?:[(\[]({upper})[)\]]|({upper}))(?:\)|\*\*)?\s+"
        r"(?:is|seems|must be|would be|has to be)\s+(?:\w+\s)?(?:the\s)?(?:only\s|most\s|best\s)?"
        r"(?:correct|right|true|best|answer|appropriate|accurate)\b"
        rf"|(?:^|[(\[\s])({upper})[)\].]?\s*(?:[:\u2014\u2013-]\s*{right}|[:\u2014\u2013-]?\s*[\u2705\u2713\u2714])"
        rf"|[(\[]({upper})[)\]]\s*{right}"
        rf"|\b(?:correct|right|true|best)\b[^.\n(]{{0,30}}?\b(?:is|be)\s(?:\(({upper})\)|({upper})(?![A-Za-z'+-]))",
        "mention": rf"[(\[]\s?({upper})\s?[)\]]|(?<=\s)({upper})\)(?=\s)|(?:^\W*|(?<=[:,\u2014\u2013=\u2192*_])\s*"
        rf"|\b(?i:{_BEFORE})[\s*_\"'$]{{1,3}}|(?<=[^\x00-\x7f\u7d20\u5211]))(?:({upper})[).](?=\s|\Z)|({bare}))",
    }
    return {name: re.compile(source, re.MULTILINE if name == "mention" else 0) for name, source in sources.items()}
