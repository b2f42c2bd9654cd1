"""What vLLM's scheduler does in Python for every token of a step, cut down to what it needs.

With a thousand requests in a step, vLLM goes through all of them four times:
it asks for room in the cache, writes down the token, makes a message of it,
and takes the message apart to see that the answer goes on. That is 16 us a
token on one machine and twice that on many hosts of GPUs (tests/benchmarks/bench_steps.py),
which with fp8 is as long as the GPU needs. But of sixteen tokens fourteen need
no block, fill none and end nothing, and nobody waits for a token before its
answer is whole. Those are written down here; all others go vLLM's own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any


class BriefSteps:
    """Stands before a vLLM scheduler in this process.

    Parameters
    ----------
    scheduler
        vLLM's, of either kind (synchronous or asynchronous).

    Raises
    ------
    AttributeError, ImportError, StopIteration
        This vLLM is built otherwise than those known.
    ValueError
        It does what this leaves out: several kinds of cache, tokens guessed
        ahead, statistics.
    """

    def __init__(self, scheduler: Any) -> None:
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.kv_cache_interface import FullAttentionSpec
        from vllm.v1.request import Request, RequestStatus

        groups = scheduler.kv_cache_config.kv_cache_groups
        cache = scheduler.kv_cache_manager
        for reason, wrong in {
            "several kinds of cache": len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec,
            "a window of attention": len(groups) == 1 and bool(getattr(groups[0].kv_cache_spec, "sliding_window", 0)),
            "guesses": bool(scheduler.num_spec_tokens or scheduler.num_lookahead_tokens),
            "connectors": scheduler.connector is not None or scheduler.ec_connector is not None,
            "statistics": scheduler.log_stats or scheduler.finished_req_ids_dict is not None,
            "hashes of other blocks": cache.block_pool.hash_block_size != groups[0].kv_cache_spec.block_size,
        }.items():
            if wrong:
                raise ValueError(reason)
        self.scheduler = scheduler
        self.block = groups[0].kv_cache_spec.block_size
        self.longest = scheduler.max_model_len
        self._running, self._final = RequestStatus.RUNNING, RequestOutputKind.FINAL_ONLY
        # What vLLM counts of a request in flight, from one version to the next.
        counts = Request.__init__.__code__.co_names
        self._counted = "num_in_flight_tokens" in counts
        self._stale = next(name for name in ("num_stale_output_tokens", "async_tokens_to_discard") if name in counts)
        self._nothing = cache.empty_kv_cache_blocks
        self._allocate, self._update = cache.allocate_slots, scheduler.update_from_output
        cache.allocate_slots = self.allocate
        scheduler.update_from_output = self.update

    def allocate(self, request: Any, count: int, *more: Any, **named: Any) -> Any:
        """Room for a request's next tokens: nothing new where the next one's block has begun."""
        if count == 1 and request.status is self._running:
            if request.num_computed_tokens % self.block and len(request._all_token_ids) % self.block:
                return self._nothing
        return self._allocate(request, count, *more, **named)

    def update(self, scheduled: Any, made: Any) -> Any:
        """Take in a step's tokens; messages are made for answers that end, with all that was kept back."""
        sampled, index, requests = made.sampled_token_ids, made.req_id_to_index, self.scheduler.requests
        block, running, counted, stale = self.block, self._running, self._counted, self._stale
        rest: dict[str, int] = {}
        theirs: dict[str, Any] = {}
        # A step of nothing but parts of prompts may bring no tokens at all.
        none: list[int] = []
        for name, count in scheduled.num_scheduled_tokens.items():
            request, tokens = requests.get(name), sampled[index[name]] if sampled else none
            if request is not None and request.status is running and len(tokens) == 1:
                try:
                    ends, last = request.hpcmaf_ends
                except AttributeError:
                    ends, last = request.hpcmaf_ends = self._ends(request)
                known, token, ahead = request._all_token_ids, tokens[0], request.num_output_placeholders
                length = len(known) + 1
                if (
                    length < last
                    and length % block
                    and (request.num_computed_tokens - ahead + 1) % block
                    and token not in ends
                    and not getattr(request, stale)
                ):
                    known.append(token)
                    request._output_token_ids.append(token)
                    request.hpcmaf_kept += 1
                    if ahead:
                        request.num_output_placeholders = ahead - 1
                    if counted:
                        request.num_in_flight_tokens -= count
                    continue
            rest[name], theirs[name] = count, request
        told = self._update(replace(scheduled, num_scheduled_tokens=rest), made)
        self._complete(told, theirs)
        return told

    def _ends(self, request: Any) -> tuple[Set[int], int]:
        """Tokens that may end an answer, and how long it can get; 0 where every token has to be told."""
        wanted = request.sampling_params
        request.hpcmaf_kept = 0
        plain = (
            wanted is not None
            and wanted.output_kind == self._final
            and wanted.num_logprobs is None
            and wanted.prompt_logprobs is None
            and not wanted.min_tokens
            and wanted.repetition_detection is None
            and not request.use_structured_output
            and not request.has_encoder_inputs
            and not request.resumable
        )
        if not plain:
            return frozenset(), 0
        last = min(self.longest, request.num_prompt_tokens + request.max_tokens)
        return frozenset((wanted.eos_token_id, *(wanted.stop_token_ids or ()))), last

    def _complete(self, told: Any, requests: Mapping[str, Any | None]) -> None:
        """Give messages the tokens that were kept back."""
        for messages in told.values():
            for message in messages.outputs:
                request = requests.get(message.request_id)
                kept = getattr(request, "hpcmaf_kept", 0)
                if kept:
                    message.new_token_ids = request._output_token_ids[-kept - len(message.new_token_ids) :]
                    request.hpcmaf_kept = 0
