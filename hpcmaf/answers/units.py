"""Units that answers carry, so that ``5 cm`` is ``5`` and still not ``5 m``."""

from __future__ import annotations

import re

_FAMILIES: dict[str, tuple[str, ...]] = {
    "mm": ("millimeter", "millimeters"),
    "cm": ("centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("meter", "meters", "metre", "metres"),
    "km": ("kilometer", "kilometers", "kilometre", "kilometres"),
    "inch": ("in", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard", "yards"),
    "mi": ("mile", "miles"),
    "g": ("gram", "grams"),
    "kg": ("kilogram", "kilograms"),
    "lb": ("lbs", "pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ml": ("mL", "milliliter", "milliliters"),
    "l": ("L", "liter", "liters", "litre", "litres"),
    "s": ("sec", "second", "seconds"),
    "min": ("mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "day": ("days",),
    "week": ("weeks",),
    "month": ("months",),
    "year": ("years",),
    "$": ("dollar", "dollars", "usd"),
    "cent": ("cents",),
    "%": ("percent",),
    "deg": ("degree", "degrees"),
    "rad": ("radian", "radians"),
}
_CANONICAL = {alias: name for name, aliases in _FAMILIES.items() for alias in (name, *aliases)}
# One and two letters after a number may as well be variables, unless they stand apart as these do.
_BARE = frozenset(alias for alias in _CANONICAL if len(alias) > 2) | {"cm", "mm", "km", "kg", "ft", "lb", "oz", "hr"}
_FILLING = frozenset({"square", "cubic", "unit", "units", "sq", "of", "per", "total"})
_NOT_UNITS = frozenset({"and", "or", "base", "if", "for", "when", "where", "to", "mod"})
_WORD = re.compile(r"[A-Za-z]+")
_TAIL = re.compile(
    r"^(?P<value>.*(?:[\d})]|\\pi))\s*(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<bare>[A-Za-z][A-Za-z.\s]*?))\s*(?:\^\s*\{?[23]\}?)?$",
    re.DOTALL,
)
_MAX_LENGTH = 200


def without_unit(text: str) -> tuple[str, str | None]:
    r"""Drop a unit after a number.

    Words in ``\text`` after a number are taken for a unit whatever they are;
    bare words only when they are known.

    Returns
    -------
    value : str
        What stands before the unit; ``text`` itself if there is none.
    unit : str or None
        The unit's canonical name if it is a known one, standing alone.
    """
    if len(text) > _MAX_LENGTH or (match := _TAIL.match(text)) is None:
        return text, None
    quoted = match["text"] is not None
    words = _WORD.findall(match["text"] if quoted else match["bare"])
    if not words or _NOT_UNITS.intersection(words):
        return text, None
    if not quoted and not all(word in _BARE or word in _FILLING for word in words):
        return text, None
    known = [_CANONICAL[word] for word in words if word in _CANONICAL]
    return match["value"].strip(), known[0] if len(known) == 1 else None
