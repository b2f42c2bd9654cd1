"""Answers that are programs (HumanEval, MBPP): one vote for the same outputs, right where the tests pass.

Programs are called as in the question, and with such arguments changed a little, drawn from the question alone. One
that returns on none of these calls, or does not end on all of them in time, is no answer. An answer is the program
under a line with a digest of its outputs, which is its key in votes; the problem's tests (its gold) mark it.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import random
import re
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.errors import DataError
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks import sandbox as sandboxes
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import shipped

_FENCED = re.compile(r"^[ \t]*(```|~~~)([^\n]*)\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("", "python", "py", "python3")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
CALLS = 24
_LONGEST_CALL = 2000


@dataclass(frozen=True)
class Code:
    """The grader of programs."""

    sandbox: str = "namespaces"  # or "limits"

    def check(self) -> None:
        """Refuse a machine that cannot run programs safely."""
        sandboxes.check(self.sandbox)

    def extract(self, text: str, problem: Problem) -> str | None:
        """The last program that defines the function, under a digest of its outputs."""
        self.check()
        for program in reversed(programs(text)):
            if (name := function_of(problem, program)) in defined(program):
                break
        else:
            return None
        setup = parsed(problem.meta.get("setup", ""))
        made = {node.id for node in ast.walk(setup or ast.Module([])) if isinstance(node, ast.Name)}
        calls = calls_of(problem.question, name, frozenset(made.union(defined(program))))
        found = sandboxes.outputs(_sources(problem, program), calls, self.sandbox)
        if found is None or (calls and not any(reply.startswith('["value"') for reply in found)):
            return None
        # Without a call that the question shows, programs are the same where they are written alike.
        seen = "\n".join(found) if calls else "\n".join(filter(None, map(str.strip, program.splitlines())))
        return f"# outputs {hashlib.sha256(seen.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}\n{program}"

    def key(self, answer: str, problem: Problem) -> str | None:
        """The line with the digest."""
        return answer.partition("\n")[0]

    def right(self, answer: str, problem: Problem) -> bool:
        """Whether the problem's tests pass."""
        self.check()
        name, sources = function_of(problem, answer), tuple(_sources(problem, answer))
        return _passes(name, sources, problem.gold or "assert False", self.sandbox)


_passes = lru_cache(maxsize=4096)(sandboxes.passes)


def function_of(problem: Problem, program: str) -> str:
    """The function that is asked for: the problem's, or the last one of a program that the question names."""
    if name := problem.meta.get("entry_point") or (re.findall(r"\bdef (\w+)", problem.question) or [""])[-1]:
        return name
    words = set(re.findall(r"\w+", problem.question))
    names = defined(program)
    return ([name for name in names if name in words] or names or [""])[-1]


@lru_cache(maxsize=4096)
def calls_of(question: str, name: str, known: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The calls of a function that a question shows, and such calls with arguments changed a little.

    Arguments may use ``known`` names alone: an ``f(x)`` in words is no call.
    """
    shown: dict[str, ast.Call] = {}
    for match in re.finditer(rf"(?<!\w)(?<!def ){re.escape(name)}\(", question):
        ends = [end.end() for end in re.finditer(r"\)", question[match.end() : match.end() + _LONGEST_CALL])]
        texts = (question[match.start() : match.end() + end].replace("\n", " ") for end in ends[:40])
        if tree := next((tree for text in texts if (tree := parsed(text))), None):
            call = tree.body[0].value  # type: ignore[attr-defined]
            if {node.id for node in ast.walk(call) if isinstance(node, ast.Name)} <= known | {name}:
                shown.setdefault(ast.unparse(call), call)
    uniform = random.Random(derive_seed("calls", question)).random
    found = dict.fromkeys(shown)
    plain = [call for call in shown.values() if all(_value(one) is not None for one in call.args)]
    for number in range(4 * CALLS if plain else 0):
        call = plain[number % len(plain)]
        changed = [_changed(_value(argument)[0], lambda below: int(uniform() * below)) for argument in call.args]
        named = [ast.unparse(keyword) for keyword in call.keywords]
        if len(found) < CALLS:
            found.setdefault(f"{name}({', '.join([*map(repr, changed), *named])})")
    return tuple(found)


def _sources(problem: Problem, program: str) -> list[str]:
    """What defines a program's function: the question's own code, the program, and what its calls need."""
    question = problem.question if defined(problem.question) else ""
    return [source for source in (question, program, problem.meta.get("setup", "")) if source]


def _value(argument: ast.expr) -> tuple[Any] | None:
    """An argument's value in a tuple, where it is written as one."""
    try:
        return (ast.literal_eval(argument),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _changed(value: Any, draw: Callable[[int], int]) -> Any:
    """A value like another; ``draw`` gives a whole number from 0 to below its argument."""
    if isinstance(value, bool):
        return bool(draw(2))
    if isinstance(value, int):
        return (1 + draw(abs(value) + 2)) * (-1 if value < 0 else 1) if value else draw(3)
    if isinstance(value, float):
        return round(value * (draw(21) / 20), 2)
    if not isinstance(value, str | list | tuple) or not value:
        return value
    parts = [one if isinstance(value, str) else _changed(one, draw) if draw(2) else one for one in value]
    one, place = parts.pop(draw(len(parts))), draw(len(parts) + 1)
    parts[place:place] = [one] * (draw(3) if parts else 1)  # left out, moved, or doubled
    return "".join(parts) if isinstance(value, str) else type(value)(parts)


# --- programs in responses ---------------------------------------------------------


def parsed(program: str) -> ast.Module | None:
    """A program's syntax tree; ``None`` for what is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def defined(program: str) -> list[str]:
    """Names of the functions and classes that a program defines, in order."""
    tree = parsed(program)
    return [node.name for node in tree.body if isinstance(node, _DEFINITIONS)] if tree else []


def programs(text: str) -> list[str]:
    """Python with definitions in a text: its fenced blocks in order, or without any all of it."""
    blocks = [(block[2].strip("`~ \t").casefold(), block[3]) for block in _FENCED.finditer(text.replace("\r\n", "\n"))]
    found = [textwrap.dedent(code.removesuffix("\n")) for language, code in blocks if language in _LANGUAGES]
    return [program for program in (found if blocks else [text]) if defined(program)]


# --- HumanEval and MBPP ------------------------------------------------------------

# MBPP's splits by number; the first ten are for worked examples.
_SPLITS = (("dev", 10), ("test", 510), ("val", 600))


def humaneval(row: Row) -> Problem:
    """One problem of HumanEval: the head of a function, and tests as gold; its canonical solution is not read."""
    about = {"entry_point": row.text("entry_point")}
    return Problem(row.text("task_id").replace("/", "-"), row.text("prompt"), row.text("test"), about)


def mbpp(row: Row) -> Problem:
    """One problem of MBPP, of the whole file or the sanitized one; its question shows the asserts' calls."""
    tests = row.values.get("test_list")
    if not isinstance(tests, list) or (tree := parsed("\n".join(map(str, tests)))) is None:
        raise DataError(f"{row.where}: test_list is no list of asserts; repair or remove the record")
    calls = [(node.func.id, node) for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")]
    code = str(row.values.get("code") or "")
    own, used = defined(code), {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names = [name for name, _ in calls if not hasattr(builtins, name)]
    if not names:
        raise DataError(f"{row.where}: its asserts call no function; repair or remove the record")
    name = next((name for name in names if name in own), names[0])
    shown = dict.fromkeys(ast.unparse(call) for called, call in calls if called == name)
    # Asserts may use what the reference solution imports.
    reference = [node for node in getattr(parsed(code), "body", ()) if isinstance(node, ast.Import | ast.ImportFrom)]
    imports = [ast.unparse(node) for node in reference if used & {one.asname or one.name for one in node.names}]
    given = row.values.get("test_imports") or []
    given = [*(given if isinstance(given, list) else [given]), row.values.get("test_setup_code") or ""]
    setup = "\n".join(map(str, [*imports, *given])).strip()
    return Problem(
        f"mbpp-{row.text('task_id')}",
        "\n".join([row.text("text", "prompt"), "The function is called like this:", *shown]),
        "\n".join(map(str, tests)),
        {"entry_point": name} | ({"setup": setup} if setup else {}),
    )


def mbpp_split(row: Row) -> str:
    """A row's split, by its number where it is in a file of all of them."""
    number = str(row.values.get("task_id"))
    if row.split != "all" or not number.isdecimal():
        return row.split
    return next((name for name, last in _SPLITS if int(number) <= last), "train")


TASKS = {
    "humaneval": shipped(humaneval, AnswerForm.CODE, "code", configs=("openai_humaneval",)),
    "mbpp": shipped(mbpp, AnswerForm.CODE, "code", split_of=mbpp_split, configs=("full",)),
}
