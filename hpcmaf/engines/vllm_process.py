"""An engine's own process: ``python -m hpcmaf.engines.vllm_process DESCRIPTOR PARENT [MODEL]``."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from hpcmaf.engines.vllm_child import die_with_parent

_CHUNK = 1 << 24


def main() -> None:
    """Serve over a descriptor, as the child of the process named on the command line."""
    die_with_parent(int(sys.argv[2]))
    link = Connection(int(sys.argv[1]))
    try:
        if len(sys.argv) > 3:
            threading.Thread(target=read_ahead, args=(Path(sys.argv[3]),), daemon=True).start()
        # Before anyone says what to serve: an engine that waits for its turn has this behind it.
        import_module("vllm.v1.engine.llm_engine")
        from hpcmaf.engines.vllm_server import serve

        spec = link.recv()
        if spec is not None:
            os.environ.setdefault("VLLM_CACHE_ROOT", spec.cache)
            serve(spec, lambda wait: link.recv() if wait or link.poll(0) else None, link.send)
    except (EOFError, BrokenPipeError):
        pass  # the job is gone, and nobody is left to tell
    sys.stderr.flush()
    # Not by way of vLLM's finalizers: the kernel frees all there is, and
    # tensor parallel workers end with this process.
    os._exit(0)


def read_ahead(model: Path) -> None:
    """Read a model's weights once, so that loading them finds them in the page cache, if they fit there."""
    files = sorted(model.glob("*.safetensors"))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sum(file.stat().st_size for file in files) > free / 2:
        return
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK):
                pass


if __name__ == "__main__":
    main()
