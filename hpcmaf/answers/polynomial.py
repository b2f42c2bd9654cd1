r"""Exact values without sympy: sums of rational multiples of roots, pi, i and variables.

Why not sympy: it takes over a second to import, some milliseconds per answer,
and hangs on towers of powers. Nearly every answer to a school problem is a
number such as \frac{3\sqrt3}{4} or 288\pi or a small polynomial; those have a
normal form that a page of code computes in microseconds, with a bound on
every intermediate size. Whatever does not fit raises `Undecided`.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import isqrt

MAX_BITS = 14_000  # 4,214 digits: Python refuses to print more than 4,300
MAX_TERMS = 60
MAX_RADICAND = 10**8
MAX_FACTORIAL = 1000

# A monomial: (squarefree positive radicand, sorted ((symbol, exponent), ...)).
# Products of distinct monomials are linearly independent over the rationals
# when the symbols are independent, so the normal form is unique.
Monomial = tuple[int, tuple[tuple[str, int], ...]]
ONE: Monomial = (1, ())


class Undecided(Exception):
    """The text is not of the kind that can be decided here."""


class TooLarge(Undecided):
    """The value is a number, but too large to be worked out."""


class Polynomial:
    """A sum of terms; immutable by convention, compared by value.

    Attributes
    ----------
    terms : dict[Monomial, Fraction]
        Without zero coefficients.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Monomial, Fraction]) -> None:
        self.terms = {key: value for key, value in terms.items() if value}
        if len(self.terms) > MAX_TERMS:
            raise Undecided
        for value in self.terms.values():
            if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
                raise TooLarge

    @classmethod
    def rational(cls, value: Fraction | int) -> Polynomial:
        """A constant."""
        return cls({ONE: Fraction(value)})

    @classmethod
    def symbol(cls, name: str) -> Polynomial:
        """A variable, or ``pi``, or ``i`` whose square is -1."""
        return cls({(1, ((name, 1),)): Fraction(1)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for key, value in other.terms.items():
            terms[key] = terms.get(key, Fraction(0)) + value
        return Polynomial(terms)

    def __neg__(self) -> Polynomial:
        return Polynomial({key: -value for key, value in self.terms.items()})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        if len(self.terms) * len(other.terms) > MAX_TERMS * 16:
            raise Undecided
        terms: dict[Monomial, Fraction] = {}
        for left, first in self.terms.items():
            for right, second in other.terms.items():
                key, factor = _multiply(left, right)
                terms[key] = terms.get(key, Fraction(0)) + first * second * factor
        return Polynomial(terms)

    def __truediv__(self, other: Polynomial) -> Polynomial:
        return self * other.inverse()

    def inverse(self) -> Polynomial:
        """One over a single term, or over ``a + b*root`` (or ``a + b*i``) by its conjugate."""
        if len(self.terms) == 1:
            ((radicand, symbols), value), *_ = self.terms.items()
            inverted = tuple((name, -power) for name, power in symbols)
            sign = 1
            if ("i", -1) in inverted:
                inverted = tuple(("i", 1) if pair == ("i", -1) else pair for pair in inverted)
                sign = -1
            return Polynomial({(radicand, inverted): Fraction(sign) / value / radicand})
        if len(self.terms) == 2:
            (first, a), (second, b) = sorted(self.terms.items())
            conjugate = Polynomial({first: a, second: -b})
            norm = self * conjugate
            if len(norm.terms) == 1 and norm.constant() is not None:
                return conjugate * norm.inverse()
        raise Undecided

    def __pow__(self, exponent: int) -> Polynomial:
        if abs(exponent) > MAX_BITS:
            if self.constant() in (0, 1, -1) and self.terms:
                return self if exponent % 2 else self * self
            raise Undecided if self.constant() is None else TooLarge
        base, exponent = (self.inverse(), -exponent) if exponent < 0 else (self, exponent)
        result = Polynomial.rational(1)
        while exponent:
            if exponent & 1:
                result = result * base
            exponent >>= 1
            if exponent:
                base = base * base
        return result

    def root(self, degree: int) -> Polynomial:
        """The real root of a rational constant: any square root, higher roots only if rational."""
        value = self.constant()
        if value is None or not 2 <= degree <= 64:
            raise Undecided
        if degree == 2:
            whole, rest = _extract_square(abs(value.numerator) * value.denominator)
            symbols = (("i", 1),) if value < 0 else ()
            return Polynomial({(rest, symbols): Fraction(whole, value.denominator)})
        if value < 0 and degree % 2 == 0:
            raise Undecided
        numerator = _integer_root(abs(value.numerator), degree)
        denominator = _integer_root(value.denominator, degree)
        return Polynomial.rational(Fraction(numerator if value >= 0 else -numerator, denominator))

    def constant(self) -> Fraction | None:
        """The value, if this is a rational number."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(ONE) if len(self.terms) == 1 else None

    def monic(self) -> Polynomial:
        """Divided by the coefficient of its last term: equal for equations that are multiples."""
        if not self.terms:
            return self
        leading = self.terms[max(self.terms)]
        return Polynomial({key: value / leading for key, value in self.terms.items()})

    def factorial(self) -> Polynomial:
        """``n!`` of a small natural number."""
        value = self.constant()
        if value is None or value.denominator != 1 or value < 0:
            raise Undecided
        if value > MAX_FACTORIAL:
            raise TooLarge
        result = 1
        for factor in range(2, int(value) + 1):
            result *= factor
        return Polynomial.rational(result)


def _multiply(left: Monomial, right: Monomial) -> tuple[Monomial, int]:
    whole, radicand = _extract_square(left[0] * right[0])
    powers = dict(left[1])
    for name, power in right[1]:
        powers[name] = powers.get(name, 0) + power
    if "i" in powers:
        quarter = powers.pop("i") % 4
        if quarter >= 2:
            whole = -whole
        if quarter % 2:
            powers["i"] = 1
    return (radicand, tuple(sorted((name, power) for name, power in powers.items() if power))), whole


@lru_cache(maxsize=4096)
def _extract_square(value: int) -> tuple[int, int]:
    """``(s, r)`` with ``value == s*s*r`` and r squarefree."""
    if value in (0, 1):
        return value, 1
    if value.bit_length() > MAX_BITS:
        raise TooLarge
    exact = isqrt(value)
    if exact * exact == value:
        return exact, 1
    if value > MAX_RADICAND:
        raise Undecided
    whole, rest, factor = 1, 1, 2
    while factor * factor <= value:
        power = 0
        while value % factor == 0:
            value //= factor
            power += 1
        whole *= factor ** (power // 2)
        rest *= factor ** (power % 2)
        factor += 1
    return whole, rest * value


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= value:
            low = middle
        else:
            high = middle - 1
    if low**degree != value:
        raise Undecided
    return low
