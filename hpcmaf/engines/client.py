"""Clients of servers that speak the OpenAI-compatible HTTP API."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from hpcmaf.engines.base import Completion, Request
from hpcmaf.engines.engine import BaseEngine
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import Endpoint
from hpcmaf.errors import EngineError

# httpx looks at every connection of a pool for every request; several small pools stay quick.
_POOL = 48
# vLLM closes a connection that was idle for five seconds.
_LIMITS = httpx.Limits(max_connections=_POOL, max_keepalive_connections=_POOL, keepalive_expiry=2.0)
# Open files, of which every request in flight takes one.
_FILES = 4096
_LONGEST_PAUSE = 30.0
# Statuses below 500 that may be others a moment later.
_PASSING = {408, 425, 429}
# As servers call the end of a whole text, and refuse a prompt that is too long.
_WHOLE = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete"}
_TOO_LONG = re.compile(r"context.(length|window|size)|(prompt|input|messages?) (is|are) too long", re.IGNORECASE)


class ServerError(EngineError):
    """A server refused a request with an HTTP ``status``, or gave no answer (0) after all retries."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, kind="refused" if status else "hardware")
        self.status = status


class Client:
    """Sends requests to one server, again where it is busy, fails, or a connection breaks.

    Parameters
    ----------
    settings
        Keyword arguments of ``httpx.AsyncClient``.
    uds
        Unix socket, in place of the network.
    in_flight
        Most requests at once.
    patience
        Seconds for which one request is sent again.
    alive
        Whether there is any sense in going on.

    Attributes
    ----------
    open
        Prompts that are not completed.
    slots
        Taken by a request for a completion while it is in flight.
    """

    def __init__(
        self, settings: Mapping[str, Any], *, uds: str | None = None, in_flight: int = 64, patience: float = 20.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        transports = (httpx.AsyncHTTPTransport(uds=uds, limits=_LIMITS) for _ in range(-(-in_flight // _POOL)))
        self._next = itertools.cycle([httpx.AsyncClient(transport=one, **settings) for one in transports])
        self.patience, self.alive, self.open = patience, alive, 0
        self.slots = asyncio.Semaphore(in_flight)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES)), hard))

    async def request(self, method: str, path: str, **more: Any) -> Any:
        """Send one request, with more arguments of httpx; returns the reply's JSON, or its text.

        Raises
        ------
        ServerError
            It was refused, or there was no answer.
        """
        deadline = time.monotonic() + self.patience
        for attempt in itertools.count():
            pause = min(_LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                reply = await next(self._next).request(method, path, **more)
                if reply.is_success:
                    return reply.json() if "json" in reply.headers.get("content-type", "") else reply.text
            except (httpx.TransportError, httpx.DecodingError, ValueError) as error:
                # A connection that the server has closed, a server that is going, or a reply in pieces.
                failure = ServerError(0, f"no answer ({f'{type(error).__name__} {error}'.strip()})")
            else:
                reason = f"{reply.status_code} {reply.reason_phrase} {reply.text}"
                failure = ServerError(reply.status_code, " ".join(reason.split())[:300])
                if reply.status_code < 500 and reply.status_code not in _PASSING:
                    raise failure
                after = reply.headers.get("retry-after", "0")
                pause = max(pause, min(_LONGEST_PAUSE, float(after) if after.isdecimal() else _LONGEST_PAUSE))
            if not self.alive() or time.monotonic() + pause > deadline:
                raise failure
            await asyncio.sleep(pause)

    async def completion(self, body: Mapping[str, Any], stop_ids: Sequence[int]) -> Completion:
        """Complete a prompt of token ids on a vLLM server; the text is left out."""
        fixed = {"return_token_ids": True, "stop_token_ids": list(stop_ids)}
        self.open += 1
        try:
            async with self.slots:
                choice = (await self.request("POST", "/v1/completions", json={**fixed, **body}))["choices"][0]
        finally:
            self.open -= 1
        if choice["finish_reason"] not in ("stop", "length"):
            raise EngineError(f"vLLM gave a request up ({choice['finish_reason']})", kind="hardware")
        likely, ids, prompt = choice.get("logprobs"), body["prompt"], choice.get("prompt_logprobs")
        return Completion(
            "",
            tuple(choice["token_ids"]),
            len(ids),
            choice["finish_reason"],
            tuple(likely["token_logprobs"]) if likely else None,
            tuple(row[str(id)]["logprob"] for row, id in zip(prompt[1:], ids[1:], strict=True)) if prompt else None,
        )


class EndpointEngine(BaseEngine):
    """An ``Engine`` on an endpoint that answers chats, such as a hosted model.

    Raises
    ------
    EngineError
        The variable of the key is not set.
    """

    def __init__(
        self, options: Endpoint, *, journal: Journal | None = None, on_batch: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(None, journal, on_batch)
        self.options, variable = options, options.key_variable
        key = os.environ.get(variable, "").strip() if variable else ""
        if variable and not key:
            raise EngineError(f"generation.endpoint.key_variable: {variable} is not set; export it before you start")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        settings = {"base_url": options.url, "headers": headers, "timeout": options.timeout_seconds}
        self._client = Client(settings, in_flight=options.in_flight, patience=60 * options.patience_minutes)

    async def send(self, request: Request) -> Completion:
        """Have a server complete a request; see ``BaseEngine``."""
        options, sampling = self.options, request.sampling
        url, variable = options.url, options.key_variable
        if request.logprobs:
            raise EngineError(f"{url}: chats have no likelihoods of prompts; use generation.engine: vllm")
        if request.model is not None:
            raise EngineError(f"{url}: serves no model of {request.model}'s own; use generation.engine: vllm")
        body = {"model": options.model, "messages": list(request.messages), "seed": request.seed % 2**31,
                "temperature": sampling.temperature, "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens, **sampling.further}  # fmt: skip
        try:
            async with self._client.slots:
                reply = await self._client.request("POST", "chat/completions", json=body)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            text, ended = choice["message"].get("content") or "", choice.get("finish_reason")
            prompt, made = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            # Whatever stands there for a text without its end, such as max_tokens or content_filter.
            whole = made < sampling.max_new_tokens if ended is None else ended.lower() in _WHOLE
            if not isinstance(text, str):  # some send it in parts
                text = "".join(part["text"] for part in text if part["type"] == "text")
            return Completion(text, (), prompt, "stop" if whole else "length", counted=made)
        except ServerError as error:
            if error.status in {400, 413, 422} and _TOO_LONG.search(str(error)):
                return Completion("", (), 0, "length")
            key = f"look at the key in {variable}" if variable else "name generation.endpoint.key_variable"
            if error.status in range(300, 500) and error.status not in _PASSING:
                remedy = {401: key, 403: key}.get(error.status, "look at generation.endpoint")
                raise EngineError(f"{url}: {error}; {remedy}") from None
            waited = f"for {options.patience_minutes:g} minutes (generation.endpoint.patience_minutes)"
            raise EngineError(f"{url}: {error}, {waited}; the same command resumes", kind="hardware") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise EngineError(f"{url}: its reply is no chat completion; see generation.endpoint.url") from None
