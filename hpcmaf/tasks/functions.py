"""Tasks whose answers are Python functions: HumanEval and MBPP."""

from __future__ import annotations

import ast
import builtins

from hpcmaf.answers.code import defined, parsed
from hpcmaf.errors import DataError
from hpcmaf.tasks.code import CodeFiles, CodePrompts
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.readers import Row
from hpcmaf.tasks.sources import within

# MBPP's splits by number; the first ten are for worked examples.
_SPLITS = (("dev", 10), ("test", 510), ("val", 600))


def humaneval(row: Row) -> Problem:
    """One problem of HumanEval: the head of a function, and tests as gold; its canonical solution is not read."""
    about = {"entry_point": row.text("entry_point")}
    return Problem(row.text("task_id").replace("/", "-"), row.text("prompt"), row.text("test"), about)


def mbpp(row: Row) -> Problem:
    """One problem of MBPP, of the whole file or the sanitized one: a sentence, and asserts as gold.

    The question also shows how the asserts call the function, or nobody could know its name and arguments; what it
    should return stays out.
    """
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


_VARIANTS = {"default": CodePrompts()}
TASKS = {
    "humaneval": CodeFiles(
        name="humaneval",
        parse=humaneval,
        layouts=within("", "openai_humaneval/", "data/"),
        configs=("openai_humaneval",),
        variants=_VARIANTS,
    ),
    "mbpp": CodeFiles(
        name="mbpp",
        parse=mbpp,
        split_of=mbpp_split,
        layouts=within("", "full/", "sanitized/", "data/"),
        configs=("full",),
        variants=_VARIANTS,
    ),
}
