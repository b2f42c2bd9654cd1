"""What this machine and its cluster have, held against what a profile asks for.

Every examination is of its own: one that cannot be made is a finding too, and
the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpcmaf.config.profile import Profile
from hpcmaf.launch.doctor.finding import Finding
from hpcmaf.run.directory import RunDir

__all__ = ["Finding", "examine"]


def examine(profile: Profile, run: RunDir, *, probe_seconds: float | None = None) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Parameters
    ----------
    run
        Where a run is, or would be.
    probe_seconds
        Submit a small job, and wait so long for what it finds on its nodes;
        ``None`` for no such job.
    """
    from hpcmaf.launch.doctor.machine import examine_machine
    from hpcmaf.launch.doctor.place import examine_place

    yield from examine_machine(profile)
    yield from examine_place(run, shared=profile.launcher == "slurm")
    if profile.launcher != "slurm":
        return
    from hpcmaf.launch.doctor.cluster import examine_cluster
    from hpcmaf.launch.doctor.site import examine_site

    known = yield from examine_cluster(profile)
    if known is None:
        return
    nodes = yield from examine_site(profile, run, known)
    if probe_seconds is not None:
        from hpcmaf.launch.doctor.probe import examine_nodes

        yield from examine_nodes(profile, run, nodes=min(2, nodes), seconds=probe_seconds)
    elif profile.cluster.chain == "gated":
        from hpcmaf.launch.doctor.finding import warning

        yield warning("sbatch in jobs", "whether jobs may submit jobs is not known", "--probe finds out")
