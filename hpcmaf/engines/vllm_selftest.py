"""What a vLLM engine has to pass before a debate believes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpcmaf.engines.vllm_messages import Row
from hpcmaf.engines.vllm_probe import CERTAIN_TOKENS, NUCLEUS, PROBE_TOKENS, Heard, Probe, check_likeliest
from hpcmaf.errors import EngineError

if TYPE_CHECKING:
    from hpcmaf.engines.vllm_server import Engine


def check(engine: Engine) -> None:
    """Test that every model answers for itself; see ``vllm_probe``.

    Raises
    ------
    EngineError
        One does not, or wrong guesses are kept.
    """
    dtype = str(engine.engine.vllm_config.model_config.dtype).removeprefix("torch.")
    probe = Probe(lambda rows: _ask(engine, rows), [None, *engine.loras], engine.spec.probes, dtype)
    probe.check()
    _check_folding(engine, probe)
    if engine.spec.options.lookup_tokens:
        check_likeliest(_without_choice(engine))
    engine.engine.reset_prefix_cache()


def _check_folding(engine: Engine, probe: Probe) -> None:
    """Test that every model still answers for itself, whoever is folded in; fold nobody if one does not."""
    folding = engine.folding
    if folding is None:
        return
    try:
        for agent in (*engine.loras, None):
            folding.fold(agent)
            engine.engine.reset_prefix_cache()
            probe.check()
    except EngineError as error:
        engine.fold_nobody(f"with {agent or 'nobody'} in them, {error}")
    folding.changes, folding.seconds = 0, 0.0


def _ask(engine: Engine, rows: Sequence[tuple[str | None, tuple[int, ...]]]) -> list[Heard]:
    for number, (model, prompt) in enumerate(rows):
        engine.add(Row(number, list(prompt), model, 0, 0.0, 1.0, PROBE_TOKENS, True))
    heard: dict[int, Heard] = {}
    while engine.engine.has_unfinished_requests():
        for made in engine.step():
            heard[made.id] = Heard(made.token_ids, made.prompt_logprobs or (), made.logprobs or ())
    return [heard[number] for number in range(len(rows))]


def _without_choice(engine: Engine) -> list[tuple[float, float]]:
    """Log-likelihoods of tokens that could be no others, of all models, and of the likeliest in their places.

    Half of the rows are greedy, half are drawn from a nucleus that holds one
    token wherever that has as much probability.
    """
    rows = [
        (model, prompt * 2, drawn)
        for prompt in engine.spec.probes
        for model in (None, *engine.loras)
        for drawn in (False, True)
    ]
    for number, (model, prompt, drawn) in enumerate(rows):
        top_p = NUCLEUS if drawn else 1.0
        row = Row(number, list(prompt), model, number, float(drawn), top_p, CERTAIN_TOKENS, True)
        engine.add(row, likeliest=True)
    made: list[tuple[float, float]] = []
    while engine.engine.has_unfinished_requests():
        for output in engine.engine.step():
            heard: Any = output.outputs[0]
            for token, beside in zip(heard.token_ids, heard.logprobs, strict=True):
                best = max(one.logprob for one in beside.values())
                if best > math.log(NUCLEUS):
                    made.append((beside[token].logprob, best))
    return made
