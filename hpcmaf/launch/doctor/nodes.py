"""A cluster's nodes, and which of them a job fits on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcmaf.config.slurm import Resources, Slurm

# name=value, where a value may hold blanks: the next name ends it.
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_:/]*)=")
# gpu:2, gpu:3090:4(S:0-1), gpu:1g.10gb:7, gpu:a100:no_consume:4
_GPU = re.compile(r"(?:^|,)gpu(?::(?!no_consume:)([^:,(]+))?(?::no_consume)?:(\d+)(?=[(,]|$)")
_GONE = frozenset(
    {"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "FUTURE", "INVAL", "INVALID", "INVALID_REG", "ERROR"}
)


@dataclass(frozen=True, slots=True)
class Node:
    """One node; memory in MB, GPUs by type in small letters, as Slurm compares them (``""`` where it has none)."""

    name: str
    partitions: frozenset[str]
    cpus: int
    memory: int
    gpus: dict[str, int]
    state: str

    @property
    def usable(self) -> bool:
        """Whether it runs jobs, or will by itself, as nodes do that are switched off while nobody wants them."""
        words = {word.rstrip("*~#%$@^!-") for word in self.state.upper().split("+")}
        silent = "NOT_RESPONDING" in words or "*" in self.state
        asleep = any(word.startswith("POWER") for word in words)
        return not words & _GONE and (asleep or not silent)


def records(text: str) -> Iterator[dict[str, str]]:
    """Read what ``scontrol show ... --oneliner`` prints."""
    for line in text.splitlines():
        names = list(_FIELD.finditer(line))
        ends = [found.start() for found in names[1:]] + [len(line)]
        if names:
            yield {found[1]: line[found.end() : end].strip() for found, end in zip(names, ends, strict=True)}


def read_nodes(text: str) -> list[Node]:
    """Read ``scontrol show node --oneliner``."""
    nodes = []
    for record in records(text):
        gpus: dict[str, int] = {}
        for kind, count in _GPU.findall(record.get("Gres", "")):
            gpus[kind.lower()] = gpus.get(kind.lower(), 0) + int(count)
        nodes.append(
            Node(
                record.get("NodeName", "?"),
                frozenset(record.get("Partitions", "").split(",")),
                int(record.get("CPUTot", "0")),
                int(record.get("RealMemory", "0")),
                gpus,
                record.get("State", ""),
            )
        )
    return nodes


def minutes(text: str) -> float:
    """Slurm's time limits, ``[days-]hours:minutes:seconds`` and such, in minutes; no limit is infinite."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return math.inf
    days, dash, clock = text.rpartition("-")
    # Without days two numbers are minutes and seconds, and one is minutes.
    parts = [0] * (not dash and clock.count(":") < 2) + [int(part) for part in clock.split(":")]
    hours, rest, seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 1440 + hours * 60 + rest + seconds / 60


def fitting(
    nodes: Sequence[Node], wanted: Resources, cluster: Slurm, section: str
) -> tuple[tuple[str, str] | None, int]:
    """How many nodes a job fits on; where they are too few, what is in the way and what to do.

    Parameters
    ----------
    section
        Of the profile, such as ``slurm.generation``.
    """
    left = list(nodes)
    memory = (wanted.memory_gb or 0) * 1024
    kind = cluster.gpu_type or ""

    def gpus(node: Node) -> int:
        return node.gpus.get(kind.lower(), 0) if kind else sum(node.gpus.values())

    def most(values: Sequence[float]) -> float:
        return max(values, default=0)

    types = ", ".join(sorted({name or "gpu" for node in nodes for name in node.gpus})) or "none"
    typed = f"{kind} GPUs" if kind else "GPUs"
    checks = (
        (
            lambda node: gpus(node) >= wanted.gpus,
            f"no node has {wanted.gpus} {typed}, {most([gpus(node) for node in nodes]):g} at most",
            f"lower {section}.gpus, or set slurm.gpu_type (there are: {types})",
        ),
        (
            lambda node: node.cpus >= wanted.cpus,
            f"no such node has {wanted.cpus} CPUs, {most([node.cpus for node in nodes]):g} at most",
            f"lower {section}.cpus",
        ),
        (
            lambda node: node.memory >= memory,
            f"no such node has {memory / 1024:g} GB, {most([node.memory for node in nodes]) / 1024:.0f} at most",
            f"lower {section}.memory_gb",
        ),
        (lambda node: node.usable, "all nodes that would fit are down or drained", "wait, or name another partition"),
    )
    for check, fault, remedy in checks:
        left = [node for node in left if check(node)]
        if not left:
            return (fault, remedy), 0
    if len(left) < wanted.nodes:
        return (f"{wanted.nodes} nodes are asked for, {len(left)} fit", f"lower {section}.nodes"), len(left)
    return None, len(left)
