"""Completions of unfinished work, kept so that a kill costs only what was in flight.

The debate is deterministic given its completions. What an engine of static batches has to do after a kill is therefore
what it had to do when it formed the batch that was lost, so it forms the same one: with the same neighbours, hence with
the same floating-point rounding, hence byte for byte the same text. (A batch of other neighbours differs in the last
bits, and one draw in a million with it.) A streaming engine writes completions as they come; what a repeated one
differs in changes the digests of whatever read it, so nothing that read the lost text is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import IO

from hpcmaf.engines.base import Completion, Request
from hpcmaf.files.locking import say


def request_digest(request: Request) -> str:
    """Digest of everything that decides a request's completion, within a run."""
    value = [request.key, request.messages, request.model, request.seed, request.logprobs, request.begun]
    text = json.dumps([*value, request.sampling.model_dump()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Journal:
    """Append-only log of completions, and the clock of their generation.

    A damaged line costs what it held, and no more. One writer at a time (the
    task's claim sees to that). Without a path nothing is kept.

    Attributes
    ----------
    earlier
        Seconds that what the file has took to generate, so that a resumed task reports its whole cost.
    seconds
        These, and those from the first request to the last completion since.
    last_model
        Model of the last completion in the file, once that was found.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.last_model = path, None
        self.earlier = self._began = 0.0
        self._last = ""
        self._known: dict[str, Completion] = {}
        self._unwritten: list[tuple[Request, Completion]] = []
        self._file: IO[bytes] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._load(self._file)
        self.seconds = self._written = self.earlier

    def _load(self, file: IO[bytes]) -> None:
        file.seek(0)
        whole = damaged = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                entry = json.loads(line)
                completions = {
                    digest: Completion(*(tuple(value) if isinstance(value, list) else value for value in row))
                    for digest, *row in entry["completions"]
                }
                seconds = float(entry["seconds"])
            except (ValueError, KeyError, TypeError):
                damaged += 1
                continue
            self._known.update(completions)
            self._last = next(reversed(completions), self._last)
            self.earlier += seconds
        # What follows was being written when the process died; new lines must not be glued to it.
        file.truncate(whole)
        file.seek(0, os.SEEK_END)
        if damaged:
            say(f"{self.path}: {damaged} line(s) are damaged; what they held is generated again")

    def __len__(self) -> int:
        """Completions that earlier attempts made."""
        return len(self._known)

    def find(self, request: Request) -> Completion | None:
        """The completion of a request, if an earlier attempt made it; else the clock runs."""
        digest = request_digest(request)
        if digest == self._last:
            self.last_model = request.model
        if (found := self._known.get(digest)) is None:
            self._began = self._began or time.monotonic()
        return found

    @property
    def running(self) -> float:
        """Seconds since the first request that no earlier attempt has answered."""
        return time.monotonic() - self._began if self._began else 0.0

    def append(self, request: Request, completion: Completion) -> None:
        """Have a completion written with the next line.

        It is not remembered then: no completion is requested twice, and the token ids of a large shard take a gigabyte.
        """
        self._unwritten.append((request, completion))
        self.seconds = self.earlier + self.running

    def write(self) -> None:
        """Log the completions that came since the last line; on disk when this returns."""
        entries, self._unwritten = self._unwritten, []
        if self._file is None or not entries:
            return
        names = [field.name for field in fields(Completion)]
        rows = [[request_digest(request), *(getattr(made, name) for name in names)] for request, made in entries]
        line = {"seconds": self.seconds - self._written, "completions": rows}
        self._written = self.seconds
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the log; it stays until the shard is published."""
        if self._file is not None and not self._file.closed:
            self.write()
            self._file.close()

    def remove(self) -> None:
        """Delete the log, once the shard it served is published."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
