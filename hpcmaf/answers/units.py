r"""Words behind a number: units, number words, and those that change what is meant."""

from __future__ import annotations

import re
from math import prod

_FAMILIES = (
    "mm millimeter millimetre,cm centimeter centimetre,m meter metre,km kilometer kilometre,inch inches in,"
    "ft foot feet,yd yard,mi mile,g gram,mg milligram,kg kilogram,lb pound,oz ounce,ton tonne,"
    "ml mL milliliter millilitre,l L liter litre,gal gallon,qt quart,pt pint,cup,s sec second,"
    "min minute,h hr hour,day,week,month,year yr,$ dollar usd USD,\u20ac euro EUR,\u00a3 GBP,"
    "\u00a5 yuan yen RMB CNY JPY,\u20b9 rupee Rs INR,cent,% percent,deg degree,rad radian,clock oclock,mi/h mph,km/h kmh kph kmph"
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
_EAST_ASIAN = {"\u4e07": 10**4, "\u4ebf": 10**8, "\u5343": 1000, "\u767e": 100}
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
_PIECE = r"(?:\\text\s*\{[^{}]*\}|\\cdot|/|[A-Za-z][A-Za-z.]*)(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_TAIL = re.compile(rf"(?P<value>.*(?:[\d}})]|\\pi))(?P<space>\s*)(?P<tail>{_PIECE}(?:\s*{_PIECE})*)", re.DOTALL)
_EAST_ASIAN_TAIL = re.compile(r"(.*\d)\s*([\u4e07\u4ebf\u5343\u767e]*)(?:(?![\x00-\x7f])\w)*", re.DOTALL)
_WORD = re.compile(r"(/|\bper\b)|([A-Za-z](?:[A-Za-z]|\.(?=[A-Za-z]))*)\.?(?:\s*\}?\s*\^\s*\{?\s*(-?\d))?")


def without_unit(text: str) -> tuple[str, str | None, str | None]:
    r"""The value without the words after it, the known unit with its power, and a note such as ``am`` or ``increase``.

    Words of two letters or more in ``\text`` are taken for a unit whatever they are, bare words where they are known or
    stand apart. ``5 million`` is multiplied out.
    """
    if not text.isascii() and (match := _EAST_ASIAN_TAIL.fullmatch(text[:200])):
        factor = prod(_EAST_ASIAN[character] for character in match[2])
        return f"({match[1]})\\cdot {factor}" if factor > 1 else match[1], None, None
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
