r"""Answer equivalence against plain Math-Verify: time and verdicts, in one run.

    python -m results.bench.equivalence [--pairs 400] [--seed 0] [--gold FILE]

Two workloads: answers against another spelling of themselves (known to be
equal), and random pairs of different answers. Without ``--gold`` the answers
are made here; with it they are a JSON list of objects with ``answer`` (or of
strings), and the equal pairs are each answer against itself with other
spacing. Different texts may still be equal, so every verdict "equivalent"
among the random pairs is printed to be looked at. Both sides start warm; neither verdict is cached. Math-Verify is used the
way its own readme does: parse both, verify gold against answer.

Prints, per workload, pairs per second of both, their ratio, and how many
equal pairs were missed; then the pairs on which the verdicts of the two differ.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from hpcmaf import answers

Pair = tuple[str, str]


def made(draw: random.Random) -> Pair:
    """One answer in two spellings, of the kinds and shares that school problems ask for."""
    a, b, c = (draw.randint(2, 60) for _ in range(3))
    kinds: list[tuple[int, Callable[[], Pair]]] = [
        (50, lambda: (str(a * b - c), f"{a * b - c}.0")),
        (12, lambda: (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{a * c}}}{{{b * c}}}")),
        (6, lambda: (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}")),
        (3, lambda: (rf"\frac{{{a}}}{{\sqrt{{{b}}}}}", rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}")),
        (4, lambda: (rf"{a}\pi", rf"{a} \cdot \pi")),
        (4, lambda: (rf"{a}^\circ", str(a))),
        (3, lambda: (rf"\${a},{b + 100}", f"{a}{b + 100}")),
        (3, lambda: (rf"{a} \text{{ cm}}^2", str(a))),
        (4, lambda: (f"({a},{b})", rf"\left( {a}, {b} \right)")),
        (2, lambda: (rf"[{a},\infty)", rf"[{a}, \infty)")),
        (2, lambda: (f"{a}, {b}", f"{b},{a}")),
        (2, lambda: (rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}", rf"\begin{{bmatrix}}{a}\\{b}\end{{bmatrix}}")),
        (3, lambda: (f"{a}x^2+{b}x-{c}", f"-{c}+{b}x+{a}x^2")),
        (2, lambda: (f"(x+{a})(x-{b})", f"x^2+{a}x-{b}x-{a * b}")),
        (2, lambda: (f"x={a}", str(a))),
        (2, lambda: (f"{a}+{b}i", f"{b}i+{a}")),
        (1, lambda: (rf"\sin({a}x)", rf"\sin(x \cdot {a})")),
        (1, lambda: (rf"\frac{{{a}}}{{x+{b}}}", rf"\frac{{{a}}}{{{b}+x}}")),
    ]
    weights, makers = zip(*kinds, strict=True)
    return draw.choices(makers, weights)[0]()


def workloads(answers: list[str] | None, pairs: int, draw: random.Random) -> dict[str, list[Pair]]:
    """Pairs that are equal, and pairs that are not (or, of given answers, seldom are)."""
    if answers is None:
        equal = [made(draw) for _ in range(pairs)]
        answers = [pair[0] for pair in equal]
    else:
        equal = [(answer, f" {answer} ") for answer in answers]
    distinct = sorted(set(answers))
    return {"equal": equal, "different": [tuple(draw.sample(distinct, 2)) for _ in range(pairs)]}  # type: ignore[misc]


def timed(compare: Callable[[str, str], bool], pairs: list[Pair]) -> tuple[float, list[bool]]:
    """Seconds for all pairs, and the verdicts."""
    start = time.perf_counter()
    verdicts = [compare(*pair) for pair in pairs]
    return time.perf_counter() - start, verdicts


def main() -> None:
    """Run both workloads with both graders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gold", type=Path)
    arguments = parser.parse_args()
    given = None
    if arguments.gold is not None:
        given = [item if isinstance(item, str) else item["answer"] for item in json.loads(arguments.gold.read_text())]

    from math_verify import parse, verify

    def math_verify(gold: str, answer: str) -> bool:
        return verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))

    math_verify("x+1", "1+x")
    answers.equivalent("x+1", "1+x")
    for name, pairs in workloads(given, arguments.pairs, random.Random(arguments.seed)).items():
        ours_s, ours = timed(answers.equivalent, pairs)
        theirs_s, theirs = timed(math_verify, pairs)
        differ = [pair for pair, one, other in zip(pairs, ours, theirs, strict=True) if one != other]
        print(
            f"{name}: {len(pairs)} pairs; hpcmaf {ours_s:.3f} s ({len(pairs) / ours_s:.0f}/s), "
            f"math-verify {theirs_s:.3f} s ({len(pairs) / theirs_s:.0f}/s), ratio {theirs_s / ours_s:.0f}"
        )
        if name == "equal":
            print(f"  judged different: hpcmaf {ours.count(False)}, math-verify {theirs.count(False)}")
        for pair in (pair for pair, verdict in zip(pairs, ours, strict=True) if verdict and name == "different"):
            print("  judged equivalent:", *pair, sep="  ")
        for pair in differ[:20]:
            print("  verdicts differ:", *pair, sep="  ")


if __name__ == "__main__":
    main()
