r"""The process in which Math-Verify runs; started by `hpcmaf.answers.checker`.

A stand-alone script: it reads one JSON line per check from standard input and
writes one per verdict. It is started afresh rather than forked, so neither
threads nor locks nor a GPU context of the parent come with it. It imports
nothing of hpcmaf, so it starts as fast as sympy can be imported.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

MEMORY_BYTES = 4 << 30


def main() -> None:
    """Answer checks until standard input ends or the parent is gone."""
    parent = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    # Own copies of the pipes: what a library prints must not be read as a verdict.
    source, sink = os.dup(0), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    check = _load()
    print("ready", file=sink, flush=True)
    for line in _lines(source, parent):
        request = json.loads(line)
        # The kernel ends this process a little after the deadline even when the parent, who would have
        # done so, is gone, and even inside one long C call that lets no Python handler run.
        signal.setitimer(signal.ITIMER_REAL, request["deadline_s"] + 1.0)
        verdict = check(request["a"], request["b"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=sink, flush=True)


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _lines(source: int, parent: int):
    """Lines of ``source``; ends with it, or when ``parent`` is no longer our parent.

    The end of the pipe alone is not enough: a process forked from the parent
    may hold its other end open.
    """
    pending = b""
    while os.getppid() == parent:
        if not select.select([source], [], [], 2.0)[0]:
            continue
        piece = os.read(source, 1 << 16)
        if not piece:
            return
        pending += piece
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            yield line


def _load():
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    config = [LatexExtractionConfig()]

    def parsed(text: str):
        return parse(f"\\boxed{{{text}}}", extraction_config=config, parsing_timeout=None)

    def check(a: str, b: str) -> bool:
        # Math-Verify treats gold and answer differently, and its own limits on time work in a main thread
        # alone and not inside C code: both directions, no limit, the deadline is the parent's.
        try:
            first, second = parsed(a), parsed(b)
            if not first or not second:
                return False
            return bool(verify(first, second, timeout_seconds=None) or verify(second, first, timeout_seconds=None))
        except Exception:  # noqa: BLE001 - sympy raises of every kind, RecursionError and MemoryError among them
            return False  # what it cannot compare it has not found equal

    check("x+1", "1+x")  # builds the parser's tables now, not on the first deadline
    return check


if __name__ == "__main__":
    main()
