r"""Reading one expression, LaTeX or plain, into its exact normal form.

A recursive descent over a handful of tokens. Every size is bounded (length,
depth, bits, terms), so it answers or raises `Undecided` in microseconds to a
few milliseconds, on any text.
"""

from __future__ import annotations

import re
from fractions import Fraction

from hpcmaf.answers.polynomial import Polynomial, Undecided

MAX_LENGTH = 400
MAX_DEPTH = 40

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|\\([A-Za-z]+)|([A-Za-z]+)|(\*\*|!!|\S))")
_SCIENTIFIC = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,9})\s*")
_MIXED = re.compile(r"\s*(-?)\s*(\d{1,30})\s+(\d{1,30})/(\d{1,30})\s*")
_RATIO = re.compile(r"\s*(\d{1,30})\s*:\s*(\d{1,30})\s*")
_REPEATING = re.compile(r"\s*(-?)\s*(\d{0,30})\.(\d{0,30})\\(?:overline|bar)\s*(?:\{\s*(\d{1,30})\s*\}|(\d))\s*")
# Longer runs of letters are words or functions, not products to be guessed at.
_MAX_PRODUCT_OF_LETTERS = 3
_WORDS = frozenset({"gcd", "lcm", "exp", "no", "yes", "odd", "and", "or", "if", "mod", "max", "min"})
# Symbols without a value of their own here; \infty only ever stands alone.
_SYMBOLS = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi"}
    | {"rho", "sigma", "tau", "phi", "varphi", "psi", "omega", "Delta", "Omega", "infty"}
)


def read(text: str) -> Polynomial:
    """Work out the value of an expression.

    Raises
    ------
    Undecided
        The text is longer or of another kind than can be decided here
        (functions, words, division by a sum); `TooLarge`, a subclass, if it is
        a number with too many digits.
    """
    if len(text) > MAX_LENGTH:
        raise Undecided
    if (match := _SCIENTIFIC.fullmatch(text)) is not None:
        return Polynomial.rational(Fraction(match[1])) * Polynomial.rational(10) ** int(match[2])
    if (match := _MIXED.fullmatch(text)) is not None and int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return Polynomial.rational(-value if match[1] else value)
    if (match := _RATIO.fullmatch(text)) is not None and int(match[2]):
        return Polynomial.rational(Fraction(int(match[1]), int(match[2])))
    if (match := _REPEATING.fullmatch(text)) is not None:
        return Polynomial.rational(_repeating(match))
    parser = _Parser(_tokens(text))
    value = parser.sum()
    if parser.peek is not None:
        raise Undecided
    return value


def _repeating(match: re.Match[str]) -> Fraction:
    r"""``0.1\overline{36}`` is 0.1 + 36/990."""
    sign, whole, fixed, *repeated = match.groups()
    period = repeated[0] or repeated[1]
    value = Fraction(f"{whole or 0}.{fixed or 0}") + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign else value


def _tokens(text: str) -> list[tuple[str, str]]:
    """``(kind, text)``, kind one of number, command, letter, sign."""
    tokens: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(text):
        number, command, word, sign = match.groups()
        if word is not None:
            if len(word) > _MAX_PRODUCT_OF_LETTERS or word in _WORDS:
                raise Undecided
            tokens.extend(("letter", letter) for letter in word)
        elif number is not None:
            tokens.append(("number", number))
        elif command is not None:
            tokens.append(("command", command))
        else:
            tokens.append(("sign", sign))
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    @property
    def peek(self) -> tuple[str, str] | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self) -> tuple[str, str]:
        token = self.peek
        if token is None:
            raise Undecided
        self._position += 1
        return token

    def _accept(self, *tokens: tuple[str, str]) -> bool:
        if self.peek in tokens:
            self._position += 1
            return True
        return False

    def sum(self) -> Polynomial:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Undecided
        value = self._signed_product()
        while self.peek in (("sign", "+"), ("sign", "-")):
            value = value + self._signed_product()
        self._depth -= 1
        return value

    def _signed_product(self) -> Polynomial:
        negative = False
        while self.peek in (("sign", "+"), ("sign", "-")):
            negative ^= self._take()[1] == "-"
        value = self._product()
        return -value if negative else value

    def _product(self) -> Polynomial:
        start, first = self._position, self.peek
        value = self._power()
        if (
            self._position == start + 1
            and first is not None
            and first[0] == "number"
            and first[1].isdigit()
            and self.peek == ("command", "frac")
        ):
            part = self._power()
            share = part.constant()
            # "1\\frac45" is one and four fifths, not a product.
            value = value + part if share is not None and 0 < share < 1 else value * part
        while (token := self.peek) is not None:
            if token in (("sign", "*"), ("command", "cdot"), ("command", "times")):
                self._take()
                value = value * self._signed_power()
            elif token in (("sign", "/"), ("command", "div")):
                self._take()
                value = value / self._signed_power()
            elif token[0] in ("letter", "command") or token in (("sign", "("), ("sign", "{"), ("sign", "[")):
                value = value * self._power()
            elif token[0] == "number":
                raise Undecided  # "2 3" is not a product
            else:
                break
        return value

    def _signed_power(self) -> Polynomial:
        if self._accept(("sign", "-")):
            return -self._power()
        return self._power()

    def _power(self) -> Polynomial:
        base = self._atom()
        while True:
            if self._accept(("sign", "!")):
                base = base.factorial()
            elif self._accept(("sign", "^"), ("sign", "**")):
                exponent = self._exponent()
                if exponent.denominator == 1:
                    base = base ** int(exponent)
                elif exponent.denominator <= 64:
                    base = base.root(exponent.denominator) ** exponent.numerator
                else:
                    raise Undecided
            else:
                return base

    def _exponent(self) -> Fraction:
        negative = self._accept(("sign", "-"))
        # Powers group to the right: a^b^c is a^(b^c). Braces, as LaTeX wants them, make an atom.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Undecided
        value = self._power().constant()
        self._depth -= 1
        if value is None:
            raise Undecided
        return -value if negative else value

    def _atom(self) -> Polynomial:
        kind, text = self._take()
        if kind == "number":
            return Polynomial.rational(Fraction(text if not text.endswith(".") else text[:-1]))
        if kind == "letter":
            return Polynomial.symbol(text)
        if kind == "command":
            return self._command(text)
        closing = {"(": ")", "{": "}", "[": "]"}.get(text)
        if closing is None:
            raise Undecided
        value = self.sum()
        if self._take() != ("sign", closing):
            raise Undecided
        return value

    def _command(self, name: str) -> Polynomial:
        if name in _SYMBOLS:
            return Polynomial.symbol(name)
        if name == "frac":
            top = self._argument()
            return top / self._argument()
        if name == "sqrt":
            degree = 2
            if self._accept(("sign", "[")):
                order = self.sum().constant()
                if order is None or order.denominator != 1 or self._take() != ("sign", "]"):
                    raise Undecided
                degree = int(order)
            # Whoever writes \\sqrt13 means the root of 13, whatever TeX makes of it.
            return self._atom().root(degree)
        raise Undecided

    def _argument(self) -> Polynomial:
        r"""A group, or as in TeX a single digit: \frac43 is 4/3."""
        token = self.peek
        if token is not None and token[0] == "number" and len(token[1]) > 1:
            if not token[1].isdigit():
                raise Undecided
            self._tokens[self._position : self._position + 1] = [("number", token[1][0]), ("number", token[1][1:])]
        return self._atom()
