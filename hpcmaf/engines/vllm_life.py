"""The life of an engine: start, the next one's preparation, restart with less or once more, end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from hpcmaf.engines.models import ModelPool
from hpcmaf.engines.vllm_cache import cache_folder
from hpcmaf.engines.vllm_link import Hear, ProcessLink, ThreadLink
from hpcmaf.engines.vllm_options import EngineSpec, VllmOptions
from hpcmaf.errors import EngineError

_STARTS_WITH_LESS = 4
_PROBES = ("What is 17 + 25 * 3 - 4?", "12+7*3+5-2*6")
_PROBE_LENGTH = 48


class EngineLife:
    """One engine at a time, and perhaps the process of the next.

    Parameters
    ----------
    pool
        What is served; its weights are not loaded here.
    environment
        Added to that of the engines' processes.

    Attributes
    ----------
    options
        Smaller than they were, once memory did not suffice.
    """

    def __init__(
        self, pool: ModelPool, device: str, options: VllmOptions, environment: Mapping[str, str] | None
    ) -> None:
        self.pool = pool
        self.device = device
        self.options = options
        self._environment = environment
        self._link: ProcessLink | ThreadLink | None = None
        self._spare: ProcessLink | None = None
        self._less, self._crashes = 0, 0

    @property
    def running(self) -> bool:
        """Whether there is an engine, be it still starting."""
        return self._link is not None

    def start(self, group: str | None, hear: Hear) -> None:
        """End the engine there is, and start that of a group.

        Parameters
        ----------
        hear
            Called from a thread with the engine's messages.
        """
        spec = self._spec(group)
        spec.arguments()  # an adapter that cannot be served is said before anything is started
        if self._link is not None:
            self._link.close()
        kind = ThreadLink if self.options.engine_process == "job" else ProcessLink
        self._link, self._spare = self._spare or kind(self._environment), None
        self._link.begin(spec, hear)

    def prepare(self, group: str | None) -> None:
        """Have the process of the next model wait, with its imports done and its weights read."""
        if self._spare is None and self.options.engine_process == "own":
            self._spare = ProcessLink(self._environment, self._weights(group))

    def send(self, message: tuple[object, ...]) -> None:
        """Give the engine a message."""
        assert self._link is not None
        self._link.send(message)

    def failed(self, kind: str, reason: str, ready: bool) -> str:
        """Decide what becomes of an engine that failed.

        Parameters
        ----------
        ready
            Whether it had worked before.

        Returns
        -------
        str
            Why it should be started again; ``options`` may have changed.

        Raises
        ------
        EngineError
            It should not: one line for the user.
        """
        self.kill()
        if kind == "refused":
            raise EngineError(reason)
        less = self.options.smaller(reason, self.device) if kind == "memory" else None
        if less is not None and self._less < _STARTS_WITH_LESS:
            self._less += 1
            changes, self.options = self.options.changes(less), less
            return f"vLLM has too little memory ({reason[:200]}); starting it with {changes}"
        if ready and not self._crashes:
            self._crashes += 1
            return f"vLLM stopped working ({reason[:200]}); starting it once more"
        if ready:
            raise EngineError(f"vLLM stopped working a second time: {reason}; see the task's log")
        remedy = "lower generation.max_num_seqs or max_model_len" if kind == "memory" else "see the task's log"
        raise EngineError(f"vLLM cannot start: {reason}; {remedy}")

    def close(self) -> None:
        """Have the engine stop."""
        self._drop_spare()
        if self._link is not None:
            self._link.close()
            self._link = None

    def kill(self) -> None:
        """End the engine at once."""
        self._drop_spare()
        if self._link is not None:
            self._link.kill()
            self._link = None

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.kill()
            self._spare = None

    def _weights(self, group: str | None) -> str:
        return self.pool.served.base if group is None else self.pool.served.agents[group]

    def _spec(self, group: str | None) -> EngineSpec:
        served = self.pool.served
        room = min(self.pool.context, self.options.max_model_len or self.pool.context) // 4
        probes = (self.pool.chat.prompt_ids([{"role": "user", "content": text}]) for text in _PROBES)
        return EngineSpec(
            model=self._weights(group),
            revision=served.revision if group is None else None,
            trust_remote_code=served.trust_remote_code,
            dtype=served.dtype,
            device=self.device,
            adapters=dict(served.agents) if served.tuning == "lora" else {},
            probes=tuple(tuple(ids[: min(_PROBE_LENGTH, room)]) for ids in probes),
            stop_ids=tuple(self.pool.stop_ids),
            options=self.options,
            cache=str(cache_folder()),
            one_of_many=served.tuning == "full" and Path(self._weights(group)).is_dir(),
        )


def say(line: str) -> None:
    """Tell whoever reads the task's log."""
    print(line, file=sys.stderr, flush=True)
