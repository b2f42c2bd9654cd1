r"""Words behind a number: units, number words, and those that change what is meant."""

from __future__ import annotations

import re
from math import prod

_FAMILIES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "inch": "inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "mg": "milligram milligrams",
    "kg": "kilogram kilograms",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "ml": "mL milliliter milliliters",
    "l": "L liter liters litre litres",
    "gal": "gallon gallons",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "$": "dollar dollars usd USD",
    "\u20ac": "euro euros EUR",
    "\u00a3": "GBP",
    "\u00a5": "yuan yen RMB CNY JPY",
    "\u20b9": "rupee rupees Rs INR",
    "cent": "cents",
    "%": "percent",
    "deg": "degree degrees",
    "rad": "radian radians",
    "mi/h": "mph",
    "km/h": "kmh kph kmph",
}
_CANONICAL = {alias: name for name, aliases in _FAMILIES.items() for alias in (name, *aliases.split())}
# One and two letters after a number may as well be variables, unless they stand apart as these do.
_SHORT = frozenset({"cm", "mm", "km", "kg", "mg", "ft", "lb", "oz", "hr", "yd", "ml", "mL", "mi", "am", "pm", "Rs", "sq", "cu"})
_NUMBERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_NOTES = frozenset(
    "am pm increase decrease gain loss profit north south east west northeast northwest southeast southwest left right up"
    " down above below clockwise counterclockwise anticlockwise more less higher lower faster slower bc ad bce ce".split()
)
_FILLING = frozenset("unit units of total in each the".split())
# Behind these the number is not the value.
_NOT_UNITS = frozenset(
    "and or base if for when where to mod modulo choose factorial squared cubed half halves third thirds quarter quarters"
    " tenths over times plus minus divided by is are not than at since because with but so as otherwise".split()
)
_PIECE = r"(?:\\text\s*\{[^{}]*\}|\\cdot|/|[A-Za-z][A-Za-z.]*)(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?"
_TAIL = re.compile(rf"(?P<value>.*(?:[\d}})]|\\pi))(?P<space>\s*)(?P<tail>{_PIECE}(?:\s*{_PIECE})*)", re.DOTALL)
_WORD = re.compile(r"(/|\bper\b)|([A-Za-z](?:[A-Za-z]|\.(?=[A-Za-z]))*)\.?(?:\s*\}?\s*\^\s*\{?\s*(-?\d))?")
_EAST_ASIAN = re.compile(r"(?P<value>.*\d)\s*(?P<number>[\u4e07\u4ebf\u5343\u767e]*)[^\x00-\x7f]*", re.DOTALL)
_EAST_ASIAN_NUMBERS = {"\u4e07": 10**4, "\u4ebf": 10**8, "\u5343": 1000, "\u767e": 100}
_MAX_LENGTH = 200


def without_unit(text: str) -> tuple[str, str | None, str | None]:
    r"""Drop the words after a number.

    Words of two letters or more in ``\text`` are taken for a unit whatever they
    are, bare words where they are known or stand apart. ``5 million`` is
    multiplied out.

    Returns
    -------
    value : str
        What stands before the words; ``text`` itself if there are none.
    unit : str or None
        The known unit, with its power, as ``cm^2`` or ``km/h``.
    note : str or None
        A word such as ``am`` or ``increase``.
    """
    if len(text) <= _MAX_LENGTH and not text.isascii() and (match := _EAST_ASIAN.fullmatch(text)):
        factor = prod(_EAST_ASIAN_NUMBERS[character] for character in match["number"])
        return f"({match['value']})\\cdot {factor}" if factor > 1 else match["value"], None, None
    if len(text) > _MAX_LENGTH or (match := _TAIL.fullmatch(text)) is None:
        return text, None, None
    tail = match["tail"]
    words = [(over, word.replace(".", ""), power) for over, word, power in _WORD.findall(tail.replace("\\text", "").replace("\\cdot", ""))]
    names = [word for _, word, _ in words if word]
    if not names or _NOT_UNITS.intersection(map(str.lower, names)):
        return text, None, None
    quoted = "\\text" in tail
    for name in names:
        known = name in _CANONICAL or name.lower() in _NOTES or name.lower() in _NUMBERS or name in _FILLING or name in ("square", "cubic", "sq", "cu")
        bare = known and (len(name) > 2 or name in _SHORT or name in _FILLING)
        apart = bool(match["space"]) and len(name) > 2 and "^" not in tail
        if not (bare or apart or (quoted and (known or len(name) > 1))):
            return text, None, None
    value, unit, note, power, sign = match["value"].strip(), [], None, "", ""
    for over, word, exponent in words:
        low = word.lower()
        if over:
            sign = "/"
        elif low in _NUMBERS:
            value = f"({value})\\cdot {_NUMBERS[low]}"
        elif low in ("square", "sq", "cubic", "cu"):
            power = "2" if low.startswith("sq") else "3"
        elif low in _NOTES:
            note = low
        elif word in _CANONICAL or low in _CANONICAL:
            exponent = exponent or power
            name = _CANONICAL.get(word) or _CANONICAL[low]
            unit.append(f"{sign}{name}{'^' + exponent if exponent not in ('', '1') else ''}")
            sign = power = ""
    return value, "".join(unit) or None, note
