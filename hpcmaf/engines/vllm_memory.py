"""How much of the machine's memory a job may still take."""

from __future__ import annotations

from pathlib import Path


def spare_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are free, in the machine and in every control group that this process is in.

    Slurm keeps a job to its ``--mem`` by such a group, and ends it for what
    goes beyond; what files have in the page cache can be given up, and counts
    as free.
    """
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return free
    for line in lines:
        number, _, path = line.split(":", 2)
        if number != "0":  # the older kind of groups keeps its limits elsewhere
            continue
        group = groups / path.lstrip("/")
        while group != groups.parent:
            free = min(free, _spare(group, free))
            group = group.parent
    return free


def _spare(group: Path, otherwise: int) -> int:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return otherwise
    return otherwise if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
