"""Agents' adapters on a vLLM server: loaded while it runs, and self-tested before a debate uses them.

A batch that mixes adapters can give rows to the wrong one without a word (vLLM on CPUs does when all adapter slots are
taken). So known prompts go through the base and every adapter together, then through each alone, by the requests that
debates make, and the two must agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcmaf.engines.base import Completion, Diverged
from hpcmaf.engines.client import Client, ServerError
from hpcmaf.engines.engine import Prompts
from hpcmaf.engines.server import Server
from hpcmaf.errors import EngineError
from hpcmaf.files.publish import file_sha256

_PROBES = ("What is 17 + 25 * 3 - 4?", "12+7*3+5-2*6")
_PROBE_LENGTH, _PROBE_TOKENS = 48, 12
# Mean difference of log-likelihoods that rounding in 32 bits, and in less,
# accounts for: the same row in batches of different shapes.
_ROUNDING, _ROUNDING_SHORT = 0.01, 0.15
# Models nearer to each other than this part of it cannot be told apart:
# an adapter that has hardly been trained is the base, whoever answers.
_ALIKE = 0.2


class MixedUp(EngineError):
    """A server gives rows to the wrong adapter."""


def serving_names(adapters: Mapping[str, str]) -> dict[str, str]:
    """Agent to the name its adapter goes by on a server: with a digest of the files, so no other is taken for it."""
    names = {}
    for agent, folder in adapters.items():
        try:
            files = (Path(folder, file) for file in ("adapter_config.json", "adapter_model.safetensors"))
            names[agent] = "@".join([agent, *(file_sha256(file)[:12] for file in files)])
        except FileNotFoundError as error:
            raise EngineError(f"{folder}: holds no PEFT adapter for {agent}; finetune it again") from error
    return names


async def load_adapters(client: Client, adapters: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Load what a server does not have yet.

    Raises
    ------
    EngineError
        The server refuses one.
    """
    for agent, folder in adapters.items():
        body = {"lora_name": names[agent], "lora_path": str(Path(folder).resolve())}
        try:
            await client.request("POST", "/v1/load_lora_adapter", json=body)
        except ServerError as error:
            if not error.status:
                raise
            if error.status != 400 or "already" not in str(error):
                raise EngineError(f"{folder}: vLLM does not load the adapter of {agent} ({error})") from error


async def check_identity(server: Server, prompts: Prompts, models: Sequence[str], *, precise: bool) -> None:
    """Test that every model (by its serving name, the base among them) answers for itself.

    Parameters
    ----------
    precise
        Whether the server computes in 32 bits.

    Raises
    ------
    MixedUp
        One does not, by more than rounding may do.
    Diverged
        Its numbers are none.
    EngineError
        The server refuses the test.
    """

    async def ask(model: str, probe: int) -> Completion:
        body = {"temperature": 0.0, "max_tokens": _PROBE_TOKENS, "logprobs": 0, "prompt_logprobs": 0}
        try:
            return await server.client.completion({"model": model, "prompt": probes[probe], **body}, prompts.stop_ids)
        except ServerError as error:
            if "not JSON compliant" in str(error):
                raise Diverged(model.partition("@")[0]) from None
            if not error.status or not server.alive:
                raise
            raise EngineError(f"vLLM refuses its self-test: {error}; see {server.facts['log']}") from error

    room, rounding = min(_PROBE_LENGTH, server.facts["context"] // 4), _ROUNDING if precise else _ROUNDING_SHORT
    probes = [prompts.chat.prompt_ids([{"role": "user", "content": text}])[:room] for text in _PROBES]
    rows = [(model, probe) for probe in range(len(probes)) for model in models]
    mixed = await asyncio.gather(*(ask(*row) for row in rows))
    alone: dict[tuple[str, int], Completion] = {}
    for model in models:
        own = [row for row in rows if row[0] == model]
        alone |= zip(own, await asyncio.gather(*(ask(*row) for row in own)), strict=True)
    for (model, probe), made in zip(rows, mixed, strict=True):
        far = {other: _far(made, alone[other, probe]) for other in models}
        nearest = min(models, key=lambda other: far[other])
        apart = _far(alone[model, probe], alone[nearest, probe])
        somebody_else = far[nearest] < far[model] / 3 and min(far[model], apart) > _ALIKE * rounding
        # Far from itself (or not a number); or nearer to itself than rounding allows, yet clearly another model.
        if not far[model] <= rounding or somebody_else:
            raise MixedUp(
                f"vLLM mixes up adapters: in a mixed batch, {model} is {far[model]:.3g} nats a token from itself "
                f"alone, and {far[nearest]:.3g} from {nearest}; use generation.engine: transformers"
            )


def _far(one: Completion, other: Completion) -> float:
    """Mean absolute difference of log-likelihoods, up to the first token in which the two part.

    There both took their likeliest token: those may be compared still.
    """
    same = [a == b for a, b in zip(one.token_ids, other.token_ids, strict=False)]
    until = (same.index(False) if False in same else len(same)) + 1
    values = ((*(made.prompt_logprobs or ()), *(made.logprobs or ())[:until]) for made in (one, other))
    pairs = list(zip(*values, strict=False))
    return sum(abs(a - b) for a, b in pairs) / max(1, len(pairs))
