"""Everything that can go wrong in a way the user can mend, and its exit code.

One line per error: what is wrong, where, and what to do. The command line prints that line and leaves with the class's
exit code; a traceback means a defect of this program.
"""

from __future__ import annotations

import errno as codes
import os
import re
from collections.abc import Iterator
from typing import Literal

FailureKind = Literal["hardware", "memory", "lost", "killed", "time", "torn", "refused", "defect"]
"""Why something failed, as far as its reporter knows.

``hardware``: a device, node or file system that may work elsewhere or later;
``memory``: none left; ``lost``: another process or node went away; ``killed``:
by a signal; ``time``: a limit; ``torn``: a file is damaged; ``refused``: the
same input fails the same way again; ``defect``: an error of this program.
"""


class HpcmafError(Exception):
    """A defect of this program, with a traceback; please report it.

    Parameters
    ----------
    kind
        What the failure means for another attempt; the class's own by default.
    errno
        The operating system's number, where one is behind it.
    node
        Where it happened, if that is another node than the one that reports it.

    Attributes
    ----------
    exit_code
        Of the command line; a subclass names its own, or has its parent's.
    """

    exit_code = 1
    kind: FailureKind = "refused"
    errno: int | None = None
    node: str | None = None

    def __init_subclass__(cls, exit_code: int | None = None) -> None:
        cls.exit_code = exit_code or cls.exit_code

    def __init__(
        self, *args: object, kind: FailureKind | None = None, errno: int | None = None, node: str | None = None
    ) -> None:
        super().__init__(*args)
        own = {"kind": kind, "errno": errno, "node": node}
        vars(self).update({name: value for name, value in own.items() if value is not None})


class UsageError(HpcmafError, exit_code=2):
    """A command was called with arguments that make no sense (click's own code)."""


class ConfigError(HpcmafError, exit_code=3):
    """A recipe, profile or override is malformed or asks for the impossible."""


class DataError(HpcmafError, exit_code=4):
    """A data file is missing, torn or not in a layout its loader knows."""


class LeakError(HpcmafError, exit_code=5):
    """Evaluation questions occur among the training questions."""


class StoreError(HpcmafError, exit_code=6):
    """A debate store is damaged, incomplete or of a foreign schema."""


class PlanChangedError(HpcmafError, exit_code=7):
    """A run directory was made by another plan than the one of now."""


class StageError(HpcmafError, exit_code=8):
    """A stage of a run failed; its message names the log."""


class MissingInputError(StageError):
    """A task was started before what it reads was there."""


class RunBusyError(HpcmafError, exit_code=9):
    """Another process is already driving this run."""


class TrainingError(HpcmafError, exit_code=10):
    """Finetuning cannot start or continue."""


class EngineError(HpcmafError, exit_code=11):
    """A generation engine cannot start or refused a request."""


class PlatformError(HpcmafError, exit_code=12):
    """The machine lacks something that is needed: a package, a device, disk space."""


class SlurmError(HpcmafError, exit_code=13):
    """Slurm refused a request, or does not answer."""


class ChainStoppedError(HpcmafError, exit_code=15):
    """The run was stopped, or nothing moves it on although work is left; 'hpcmaf status' says why."""


class OutOfMemory(HpcmafError, exit_code=14):
    """A task needs more memory than there is; a smaller batch may do."""

    kind = "memory"


class Interrupted(HpcmafError, exit_code=130):
    """Stopped by Ctrl-C or SIGTERM; the same command resumes, or begins again."""


class OutputClosedError(HpcmafError, exit_code=141):
    """The reader of the output has closed it, such as head."""


class StopRequested(HpcmafError, exit_code=143):
    """A finetuning job ended at a step, on request; the same command resumes from its checkpoint."""


_REMEDIES = {
    "check the path": (codes.ENOENT, codes.ENOTDIR, codes.EISDIR, codes.ENAMETOOLONG, codes.ELOOP),
    "check its permissions, or name another place": (codes.EACCES, codes.EPERM, codes.EROFS),
    "free space there, or name another place": (codes.ENOSPC, codes.EDQUOT, codes.EFBIG),
    "a file is in the way: name another place": (codes.EEXIST,),
    "raise the limit (ulimit -n)": (codes.EMFILE, codes.ENFILE),
}


# What is the same everywhere, and in a minute: of paths, rights and room, or of programs.
_LASTING = (
    "EPERM ENOENT E2BIG ENOEXEC EBADF ENOMEM EACCES EFAULT EEXIST EXDEV ENOTDIR EISDIR EINVAL EMFILE ENOTTY EFBIG "
    "ENOSPC ESPIPE EROFS EMLINK EDOM ERANGE ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP EILSEQ EDQUOT EOPNOTSUPP ESRCH ECHILD "
    "EOVERFLOW ENOTSOCK EMSGSIZE EDESTADDRREQ EISCONN EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT EAFNOSUPPORT"
).split()
# What else a file system, device or network says: it may be well elsewhere, or later.
TRANSIENT = frozenset(number for number, name in codes.errorcode.items() if name not in {*_LASTING, "ENOTSUP"})
# The operating system's number in the words of libraries that have no attribute for it: HDF5, and those in Rust.
_NUMBER = re.compile(r"\berrno = (\d+)|\(os error (\d+)\)|\bOs ?\{ code: (\d+)|\[Errno (\d+)\]")
_MISSING = re.compile(r"No such file or directory: (.+)$")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def errno_of(error: BaseException | None) -> int | None:
    """The operating system's number behind an error, or behind what caused it."""
    return next((number for cause in causes(error) if (number := _number(cause)) is not None), None)


def errno_in(text: str) -> int | None:
    """The operating system's number in the words of an error or a log."""
    found = _NUMBER.search(text)
    return int(found[found.lastindex or 0]) if found else None


def _number(error: BaseException) -> int | None:
    known = getattr(error, "errno", None)
    if known is None and isinstance(error, FileNotFoundError) and (missing := _MISSING.search(str(error))):
        # safetensors says so of every file that it cannot open, whatever the reason is.
        try:
            open(missing[1], "rb").close()
        except OSError as reason:
            return reason.errno
        return codes.EAGAIN
    return known if isinstance(known, int) else errno_in(str(error))


# By name, as this must import no torch: what the classes of errors say by themselves.
_NAMED: dict[str, FailureKind] = {
    "MemoryError": "memory",
    "OutOfMemoryError": "memory",
    "DistError": "lost",
    "ConnectionError": "lost",
    "HTTPException": "lost",
    "TransportError": "lost",
    "gaierror": "lost",
    "TimeoutError": "hardware",
    "TimeoutExpired": "hardware",
    "BrokenProcessPool": "killed",
    "KeyboardInterrupt": "killed",
}
# Words of torch, CUDA, NCCL and gloo, which have no classes for theirs; the first kind that is found decides.
_WORDS: dict[FailureKind, re.Pattern[str]] = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in (
        (
            "memory",
            r"out of memory|(can.t|cannot) allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|MemoryError"
            r"|kv cache|free memory on device|memory for the cache blocks",
        ),
        # Of programs rather than of machines.
        ("defect", r"device-side assert|no kernel image|invalid (device (function|ordinal)|configuration|argument)"),
        (
            "lost",
            r"connection (was )?(closed|reset|refused)|remote process|broken pipe|socket|store->get|rendezvous|\bgloo\b"
            r"|waiting for clients|couldn.t connect",
        ),
        (
            "hardware",
            r"CUDA (error|driver|failure|unknown error)|Triton Error|CUBLAS_STATUS|CUDNN_STATUS|cuda(Error|GetDevice)"
            r"|NCCL (error|failure|WARN|operations|communicator)|nccl(Unhandled|System|Remote)|NVLink|NVML"
            r"|\bECC\b|\bXid\b|fell off the bus|GPU is lost|bus error"
            r"|(CUDA-capable devices?|CUDA GPUs|NVIDIA driver)\b|watchdog|shared memory object"
            r"|stale file handle|input/output error|start new thread",
        ),
        ("killed", r"killed by signal|worker .*exited unexpectedly"),
    )
}


def kind_of_words(text: str) -> FailureKind | None:
    """What the words of an error or a log are about; ``None`` where they are not known."""
    return next((kind for kind, words in _WORDS.items() if words.search(text)), None)


def failure_kind(error: BaseException) -> FailureKind:
    """The kind of a failure, from the error itself or from what caused it."""
    known = next((kind for cause in causes(error) if (kind := _own_kind(cause)) is not None), None)
    return known or ("refused" if isinstance(error, HpcmafError | OSError) else "defect")


def _own_kind(error: BaseException) -> FailureKind | None:
    if isinstance(error, HpcmafError) and ("kind" in vars(error) or error.kind != HpcmafError.kind):
        return error.kind
    number, names = _number(error), [kind.__name__ for kind in type(error).__mro__]
    if number == codes.ENOMEM:
        return "memory"
    # Parents of other processes pass on the words in which those died; the dynamic linker has only words.
    worded = isinstance(error, RuntimeError | ImportError | TrainingError | EngineError)
    words = kind_of_words(str(error)) if worded or (isinstance(error, OSError) and number is None) else None
    named = next((_NAMED[name] for name in names if name in _NAMED), None)
    return words or named or ("hardware" if number in TRANSIENT else None)


def system_error(error: OSError | MemoryError) -> PlatformError:
    """What the operating system refused, as one line for the user.

    For failures that no code nearer to them has explained: a full disk, a folder without permission, a name too long.
    """
    if isinstance(error, MemoryError):
        return PlatformError(f"out of memory ({error}); free some, or use less".replace(" ()", ""), kind="memory")
    remedy = next((text for text, codes in _REMEDIES.items() if error.errno in codes), "check the machine")
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = f"{' -> '.join(dict.fromkeys(names))}: " if names else ""
    return PlatformError(f"{where}{error.strerror or error}; {remedy}", kind=failure_kind(error), errno=errno_of(error))


def printable(text: str, keep: str = "") -> str:
    """Text with everything escaped that a terminal cannot show or would obey, but for characters to keep."""
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Text that is safe to print, without a line's end in it."""
    return printable(text.strip())


def brief(error: BaseException) -> str:
    """What another package's exception says, short enough for a line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def exit_codes() -> dict[int, str]:
    """Every exit code and what it means, from the classes above."""
    kinds = (HpcmafError, *HpcmafError.__subclasses__())
    meanings = {kind.exit_code: (kind.__doc__ or "").split("\n")[0] for kind in kinds}
    return {0: "Done."} | dict(sorted(meanings.items()))
