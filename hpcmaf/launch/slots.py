"""Places for jobs on one machine, and the servers that jobs share between stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile


class KeptServers:
    """A run's servers on this machine, kept running between the tasks that use them.

    Parameters
    ----------
    run
        Names them; see ``hpcmaf.engines.server``.
    """

    def __init__(self, run: str) -> None:
        from hpcmaf.engines import server as servers

        self._find = servers.find
        self.folder = servers.servers_folder(run)
        self._servers: dict[Path, Any] = {}

    def keep(self) -> None:
        """Keep servers that were started since, and forget those that have ended."""
        self._servers = {folder: one for folder, one in self._servers.items() if one.alive}
        for folder in set(self.folder.glob("*/s*")) - self._servers.keys():
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

    def close(self) -> None:
        """Let them end, unless a task still uses them."""
        for one in self._servers.values():
            one.close()
        self._servers.clear()


class Slots:
    """Places for jobs on one machine, and the servers they use; runs that go side by side share them.

    Parameters
    ----------
    profile
        Says how many places there are, and whether there are servers.
    root
        Names the servers: jobs that are started meanwhile share them.
    """

    def __init__(self, profile: Profile, root: Path) -> None:
        self.count = profile.slots()
        self.servers: KeptServers | None = None
        if profile.generation.engine == "vllm":
            from hpcmaf.engines.server import SHARED

            os.environ[SHARED] = str(root.resolve())
            self.servers = KeptServers(os.environ[SHARED])
        self.free = list(range(self.count))

    def give(self, slot: int) -> None:
        """Free a place again."""
        self.free = sorted([*self.free, slot])

    def close(self) -> None:
        """Let the servers end."""
        if self.servers is not None:
            self.servers.close()
