"""torchrun for one finetuning job, with its imports done once.

``torchrun SCRIPT`` imports torch in the agent and then everything in every
worker. Here the same elastic agent *forks* its workers: the launch is the one
torchrun makes (agent, c10d rendezvous, rank variables), and a job saves an
import of torch, and with P processes on CPU P - 1 imports of all. CUDA is first
touched in the workers, so forking is safe. A job of one process needs none of
it, and is done here.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
import uuid
from pathlib import Path
from typing import Any

from hpcmaf.imports.metas import metas_later
from hpcmaf.training.failure import ended, logged, oom_kills, recorded
from hpcmaf.training.nodes import NodePlace, announce, announced
from hpcmaf.training.orders import Order
from hpcmaf.training.spec import FinetuneJob
from hpcmaf.training.stopping import ask, asked, heed_signals
from hpcmaf.training.unneeded import skip_skew

_PR_SET_PDEATHSIG = 1
# Between the agent's looks at its workers.
_MONITOR_S = 0.02


def die_with_parent(parent: int) -> None:
    """Be killed when the process that started this one is, however that goes (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def main(arguments: list[str]) -> int:
    """Run the job in ``work``, or the series of ``--series INBOX``; see :mod:`hpcmaf.training.worker`."""
    parent, *rest = arguments
    inbox = Path(rest[1]) if rest[0] == "--series" else None
    node = NodePlace.from_json(rest[4]) if len(rest) > 4 else None

    def work() -> Path:
        # Of the job that is being done.
        return Path(rest[0] if inbox is None else Order.last(inbox).work)

    # Asked to stop, the agent only tells its workers: they need it until they
    # have written their checkpoint.
    heed_signals(lambda *_: ask(work()))
    die_with_parent(int(parent))
    before = oom_kills()
    # Collecting garbage among ever more modules is 8% of the imports below.
    gc.disable()
    with recorded(work()):
        job = FinetuneJob.read(work() / "job.json")
    if asked(work()):
        return 0
    if job.alone:
        return _by_itself(inbox, rest)
    with recorded(work()):
        metas_later()
        from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        from hpcmaf.training import start

        done: Any = start
        if not start.apart(job):
            from hpcmaf.training import worker

            # Takes seconds, and is shared by all workers.
            worker.preload(job)
            done = worker
        start.settle()
        if asked(work()):
            return 0
        if node is None:
            skip_skew()
            meeting = _alone()
        else:
            _kept = _open(work(), node) if node.rank == 0 else None
            meeting = _among(node, announced(work()))
        config = LaunchConfig(
            nproc_per_node=job.processes,
            max_restarts=0,
            start_method="fork",
            # Not in /tmp, where nobody would clear them away.
            logs_specs=DefaultLogsSpecs(log_dir=str((inbox or work()) / "elastic")),
            # SIGTERM, which is among the default ones, is heeded above.
            signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
            rdzv_backend="c10d",
            monitor_interval=_MONITOR_S,
            **meeting,
        )
        rank = None if node is None else node.rank
        try:
            if inbox is not None:
                elastic_launch(config, done.serve)(str(inbox))
            else:
                elastic_launch(config, done.run)(*rest[:3], float(rest[3]), rank)
        except ChildFailedError as error:
            # The worker has recorded why; the agent's summary belongs in the log.
            print(error, file=sys.stderr)
            local, first = min(error.failures.items(), key=lambda item: item[1].timestamp)
            # Of others the log says more.
            if first.exitcode in (-signal.SIGKILL, -signal.SIGBUS):
                where = "" if node is None else f" on {node.local_address}"
                ended(f"process {local}{where}", first.exitcode, before).record(work())
            return 1
    return 0


def _by_itself(inbox: Path | None, rest: list[str]) -> int:
    """The work of a job of one process, in this one: there is nobody to meet, and nothing to watch over."""
    from hpcmaf.training import start

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    try:
        if inbox is not None:
            start.serve(str(inbox))
        else:
            start.run(*rest[:3], float(rest[3]))
    except Exception as error:
        # Also one that replaces another, such as while leaving after a failure.
        if not logged(error):
            traceback.print_exc()
        return 1
    return 0


def _alone() -> dict[str, object]:
    # Port 0 lets the rendezvous take a free one, so jobs on one machine never
    # meet. Not "localhost", which a container may not know.
    place = {"run_id": uuid.uuid4().hex, "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    return {"min_nodes": 1, "max_nodes": 1} | place


def _open(work: Path, node: NodePlace) -> Any:
    """The store through which the nodes meet, at a port that it finds, and keeps while somebody keeps it.

    The rendezvous opens a store by itself, but at a port that has to be named
    before, when nobody can know whether it will be free; within a process the
    two are the same one.
    """
    from torch.distributed import TCPStore

    store = TCPStore(node.host, 0, is_master=True, multi_tenant=True, wait_for_workers=False)
    announce(work, node, store.port)
    return store


def _among(node: NodePlace, endpoint: str) -> dict[str, object]:
    return {
        "min_nodes": node.nodes,
        "max_nodes": node.nodes,
        "run_id": node.run_id,
        "rdzv_endpoint": endpoint,
        "rdzv_configs": {"is_host": node.rank == 0, "join_timeout": int(node.joining_s)},
        "local_addr": node.local_address,
    }


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Somebody waits, and all that Python would still do is take a thousand modules apart.
    os._exit(ended)
