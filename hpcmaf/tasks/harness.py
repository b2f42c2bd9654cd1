"""What runs inside the sandbox, by the standard library alone: a program that answers calls, and tests that make them.

The two are processes of their own and share no more than two pipes. Nobody trusts the program's side: whatever it
patches, prints or ends, the tests see texts that are values in Python's notation, or nothing.
"""

import ast
import builtins
import json
import os
import sys

LONGEST = 1 << 20  # characters of a reply


def literal(value, loose=False):
    """A plain value in Python's notation; ``loose`` rounds floats, and writes whole ones and bools as integers."""
    if isinstance(value, list | tuple | set | frozenset):
        parts = [literal(one, loose) for one in value]
        if isinstance(value, list | tuple):
            inside = ", ".join(parts)
            return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(parts) == 1)})"
        return f"{{{', '.join(sorted(parts))}}}" if parts else "set()"
    if isinstance(value, dict):
        pairs = [f"{literal(key, loose)}: {literal(one, loose)}" for key, one in value.items()]
        return f"{{{', '.join(sorted(pairs))}}}"
    if loose and isinstance(value, int | float) and value == value and abs(value) != float("inf"):
        return str(int(value)) if value == int(value) else f"{value:.9g}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value).replace("inf", "1e999") if isinstance(value, float) else repr(value)
    raise TypeError(type(value).__name__)


def quiet(*descriptors):
    """Copies of descriptors, as files, and nothing to read or to print to in place of the usual ones."""
    files = [os.fdopen(os.dup(descriptor), mode) for descriptor, mode in descriptors]
    for usual in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), usual)
    return files


def answer_calls(loose):
    """Run a program, then answer calls, a line of JSON for each."""
    calls, replies = quiet((0, "r"), (1, "w"))

    def reply(*found):
        replies.write(json.dumps(found) + "\n")
        replies.flush()

    reply("ready", "")
    # Not "__main__", which would run what a program does as a script; dataclasses look for the module of this name.
    space, failed = {"__name__": "builtins"}, None
    try:
        for source in json.loads(calls.readline()):
            exec(source, space)
    except BaseException as error:
        failed = error
    for line in calls:
        try:
            if failed is not None:
                raise failed
            found = eval(json.loads(line), space)
            try:
                reply("value", literal(found, loose))
            except TypeError:
                reply("other", type(found).__name__)
        except BaseException as error:
            reply("raised", "" if loose else type(error).__name__)


def run_tests(tests, calls):
    """Run tests of a program that is elsewhere; the verdict goes to standard output."""
    replies, verdict, given, calls = quiet((0, "r"), (1, "w"), (tests, "r"), (calls, "w"))
    given = json.load(given)

    def receive():
        try:
            kind, text = json.loads(replies.readline(LONGEST))
        except ValueError:  # the program has ended
            os._exit(0)
        if kind == "raised":
            error = getattr(builtins, str(text), None)
            raise error() if isinstance(error, type) and issubclass(error, Exception) else RuntimeError(text)
        try:
            return ast.literal_eval(text) if kind == "value" else object()
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return object()

    def call(source):
        calls.write(json.dumps(source) + "\n")
        calls.flush()
        return receive()

    class Remote(ast.NodeTransformer):
        """Calls of what only the program defines, with arguments that only its side may be able to make."""

        def visit_Call(self, node):
            name = getattr(node.func, "id", None)
            if name is None or name != given["name"] and (name in space or hasattr(builtins, name)):
                return self.generic_visit(node)
            return ast.Call(ast.Name("__call__", ast.Load()), [ast.Constant(ast.unparse(node))], [])

    def function(*values, **named):
        return call(f"{given['name']}(*{values!r}, **{named!r})")

    receive()
    verdict.write("ready")
    verdict.flush()
    calls.write(json.dumps(given["program"]) + "\n")
    space = {"__name__": "tests"}
    for source in given["before"]:
        try:
            exec(source, space)
        except Exception:  # it needs what only the program has
            pass
    space |= {given["name"]: function, "__call__": call}
    tree = ast.parse(given["tests"])
    tree.body = [Remote().visit(one) if isinstance(one, ast.Assert) else one for one in tree.body]
    exec(compile(ast.fix_missing_locations(tree), "tests", "exec"), space)
    if "check" in space:
        space["check"](function)
    verdict.write(" right")
    verdict.flush()


if __name__ == "__main__":
    sys.set_int_max_str_digits(0)
    if sys.argv[1] == "tests":
        run_tests(int(sys.argv[2]), int(sys.argv[3]))
    else:
        answer_calls(sys.argv[1] == "loose")
