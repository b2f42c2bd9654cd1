"""Three honest ways to work ``a+b*c+d-e*f``, and the slips each invites.

Every style has its own order of steps and its own way with a product, and
with them its own *hard facts*, on which it slips about every other time. So
the errors of one style repeat and those of different styles rarely agree:
a vote among styles beats its members, and what the vote teaches is to slip
less. Most slips can be unlearned; a fifth of the hard facts are *standing
misconceptions*, usually wrong, that only another style corrects.

A slip is never marked. It changes a number, and every later step goes on
with the changed number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

LARGEST = 29
STYLES = ("direct", "tens", "round")
# The facts' difficulties are part of the language, not of a training seed.
_LANGUAGE_SEED = 20260101


@dataclass(frozen=True, slots=True)
class Noise:
    """How often and how an author of the corpus goes wrong.

    Attributes
    ----------
    hard_right
        Range of the chance to get a hard fact right, drawn once per fact.
    misconceptions
        Share of hard facts that are standing misconceptions.
    misconception_right
        Chance to get such a fact right.
    easy
        Chance of a slip on any other product.
    carry
        Chance, per style, to forget a carry in an addition.
    borrow
        Chance, per style, to forget a borrow in a subtraction.
    follow
        Chance that a critic adopts a product that most solutions agree on.
    adopt_whole
        Chance that it adopts a whole solution that most agree on.
    """

    hard_right: tuple[float, float] = (0.40, 0.75)
    misconceptions: float = 0.2
    misconception_right: float = 0.25
    easy: float = 0.02
    carry: tuple[float, float, float] = (0.20, 0.06, 0.13)
    borrow: tuple[float, float, float] = (0.06, 0.20, 0.13)
    follow: float = 0.8
    adopt_whole: float = 0.6


NOISE = Noise()
NO_NOISE = replace(
    NOISE,
    hard_right=(1.0, 1.0),
    misconceptions=0.0,
    easy=0.0,
    carry=(0, 0, 0),
    borrow=(0, 0, 0),
    follow=1.0,
    adopt_whole=1.0,
)


@dataclass(frozen=True, slots=True)
class Expression:
    """``a+b*c+d-e*f`` with integers in 0..29."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int

    @property
    def text(self) -> str:
        """As the task writes it."""
        return f"{self.a}+{self.b}*{self.c}+{self.d}-{self.e}*{self.f}"

    @property
    def value(self) -> int:
        """The right answer."""
        return self.a + self.b * self.c + self.d - self.e * self.f

    @classmethod
    def draw(cls, rng: random.Random) -> Expression:
        """Six independent uniform integers."""
        return cls(*(int(rng.random() * (LARGEST + 1)) for _ in range(6)))


@dataclass(frozen=True, slots=True)
class Solution:
    """One answer: its text, and the products and result it claims (``None``: cut off)."""

    text: str
    style: int
    p: int | None
    q: int | None
    result: int | None


def is_hard(style: int, x: int, y: int) -> bool:
    """Whether a style is prone to slip on ``x * y``."""
    if style == 0:
        return x >= 10 and y >= 10
    split, _ = _split(x, y)
    if split < 10 or not x or not y:
        return False
    return split % 10 >= 6 if style == 1 else 1 <= split % 10 <= 5


def _split(x: int, y: int) -> tuple[int, int]:
    """Which factor is taken apart, and the other one."""
    return (y, x) if y >= 10 else (x, y)


class Author:
    """Writes worked solutions with the slips of a noise level.

    Parameters
    ----------
    noise
        Rates of slips.
    """

    def __init__(self, noise: Noise = NOISE) -> None:
        self.noise = noise
        fate = random.Random(_LANGUAGE_SEED)
        self._right: list[list[float]] = []
        self._fixed: list[list[int]] = []
        for style in range(len(STYLES)):
            chances, kinds = [], []
            for x in range(LARGEST + 1):
                for y in range(LARGEST + 1):
                    misconceived, level, kind = fate.random(), fate.random(), fate.randrange(4)
                    low, high = noise.hard_right
                    right = 1 - noise.easy
                    if is_hard(style, x, y):
                        right = low + (high - low) * level
                        if misconceived < noise.misconceptions:
                            right = noise.misconception_right
                    chances.append(right)
                    kinds.append(kind)
            self._right.append(chances)
            self._fixed.append(kinds)

    def chance(self, style: int, x: int, y: int) -> float:
        """Probability to get ``x * y`` right in a style."""
        return self._right[style][x * (LARGEST + 1) + y]

    def product(self, style: int, x: int, y: int, rng: random.Random) -> tuple[str, int]:
        """Work ``x * y``; return the text from ``x`` to before the ``;``, and the claimed product."""
        slip = rng.random() >= self.chance(style, x, y)
        # Two wrong values per fact, one twice as frequent: they repeat, as habits do.
        kind = self._fixed[style][x * (LARGEST + 1) + y] ^ (slip and rng.random() < 1 / 3)
        split, other = _split(x, y)
        head = f"{x}*{y}="
        if style == 0 or split < 10 or split % 10 == 0 or other == 0:
            wrong = (10, -10, other, -other)[kind] or 10
            claimed = max(0, x * y + (wrong if slip else 0))
            return f"{head}{claimed}", claimed
        units = split % 10
        if style == 1:
            tens, rest = other * (split - units), other * units
            if slip:
                rest = max(0, rest + (other, -other, 10, -10)[kind])
            claimed = tens + rest
            return f"{head}{tens}+{rest}={claimed}", claimed
        above, back = other * (split + 10 - units), other * (10 - units)
        if slip:
            back = max(0, back + (other, -other, 10, -10)[kind])
        claimed = above - back
        return f"{head}{above}-{back}={claimed}", claimed

    def plus(self, style: int, u: int, v: int, rng: random.Random) -> int:
        """``u + v``, at times with a forgotten carry (``v`` is not negative)."""
        if u < 0:
            return -self._minus(style, -u, v, rng)
        forgets = u % 10 + v % 10 >= 10 and rng.random() < self.noise.carry[style]
        return u + v - 10 * forgets

    def _minus(self, style: int, u: int, v: int, rng: random.Random) -> int:
        low, high = sorted((u, v))
        forgets = high % 10 < low % 10 and rng.random() < self.noise.borrow[style]
        size = high - low + 10 * forgets
        return size if u >= v else -size

    def minus(self, style: int, u: int, v: int, rng: random.Random) -> int:
        """``u - v``, at times with a forgotten borrow (``v`` is not negative)."""
        return -self.plus(style, -u, v, rng) if u < 0 else self._minus(style, u, v, rng)

    def total(self, expression: Expression, style: int, p: int, q: int, rng: random.Random) -> tuple[str, int]:
        """Add up, given both products, in the style's own order; text ends with ``#`` and the result."""
        a, d = expression.a, expression.d
        if style == 0:
            first = self.plus(0, a, p, rng)
            second = self.plus(0, first, d, rng)
            result = self.minus(0, second, q, rng)
            return f"{a}+{p}={first};+{d}={second};-{q}#{result}", result
        both = a + d
        if style == 1:
            first = self.minus(1, p, q, rng)
            result = self.plus(1, first, both, rng)
            return f"{p}-{q}={first};+{both}#{result}", result
        first = self.plus(2, both, p, rng)
        result = self.minus(2, first, q, rng)
        return f"{both}+{p}={first};-{q}#{result}", result

    def solve(self, expression: Expression, style: int, rng: random.Random) -> Solution:
        """Write a first answer."""
        b, c, e, f = expression.b, expression.c, expression.e, expression.f
        if style == 1:
            q_text, q = self.product(style, e, f, rng)
            p_text, p = self.product(style, b, c, rng)
            head = f"{q_text};{p_text};"
        else:
            p_text, p = self.product(style, b, c, rng)
            q_text, q = self.product(style, e, f, rng)
            head = f"{p_text};{q_text};"
            if style == 2:
                head = f"{expression.a}+{expression.d}={expression.a + expression.d};{head}"
        tail, result = self.total(expression, style, p, q, rng)
        return Solution(head + tail, style, p, q, result)
