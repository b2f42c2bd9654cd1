"""The vLLM servers that jobs of one machine share between stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from hpcmaf.config.profile import Profile


class Servers:
    """Keeps servers that jobs have started until the context ends; without ``engine: vllm`` there are none.

    Parameters
    ----------
    root
        Names the servers: jobs that are started meanwhile share them, also
        those of several runs.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self._servers: dict[Path, Any] = {}
        self._folder: Path | None = None
        if profile.generation.engine == "vllm":
            from hpcmaf.engines import server

            os.environ[server.SHARED] = str(root.resolve())
            self._folder, self._find = server.servers_folder(os.environ[server.SHARED]), server.find

    def keep(self) -> None:
        """Keep servers running that jobs have started since, and forget those that have ended."""
        self._servers = {folder: one for folder, one in self._servers.items() if one.alive}
        for folder in set(self._folder.glob("*/s*") if self._folder else ()) - self._servers.keys():
            if (folder / "server.json").exists() and (found := self._find(folder)) is not None:
                self._servers[folder] = found

    def rest(self) -> None:
        """Free the GPUs of servers that nobody uses, as each was started to: by sleep, by ending, or not at all."""
        self.keep()
        for one in self._servers.values():
            todo = one.facts["while_training"]
            if todo == "share" or one.used() or (todo == "sleep" and one.control("/sleep?level=1")):
                continue
            one.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the servers end, unless a task still uses them."""
        for one in self._servers.values():
            one.close()
