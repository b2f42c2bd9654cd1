"""Somebody else's endpoint: counts, limits and keys; what is tried again, and what is said in one line."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.engines import Completion, Request, Sampling
from hpcmaf.engines.client import EndpointEngine
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import Endpoint
from hpcmaf.errors import EngineError

KEY = "a-key-that-nobody-may-read"


class There(ThreadingHTTPServer):
    """An endpoint that does as it is told for each request in turn, and then answers."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plans: list[Callable[[Any], Any]] = []
        self.bodies: list[Any] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        there: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with there.lock:
            there.bodies.append(body)
            there.busy += 1
            there.busiest = max(there.busiest, there.busy)
            plan = there.plans.pop(0) if there.plans else None
        time.sleep(0.02)
        with there.lock:
            there.busy -= 1
        if plan is not None:
            plan(self)
        elif self.headers["authorization"] != f"Bearer {KEY}":
            self.reply(401, {"error": {"message": "Incorrect API key provided"}})
        elif self.path != "/v1/chat/completions":
            self.reply(404, {"detail": "Not Found"})
        else:
            last = body["messages"][-1]["content"]
            choice = {"message": {"role": "assistant", "content": f"re: {last}"}, "finish_reason": "stop"}
            self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})

    def reply(self, status: int, value: Any, **headers: str) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        for name, what in headers.items():
            self.send_header(name.replace("_", "-"), what)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    monkeypatch.setenv("THEIR_KEY", KEY)
    server = There()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(key: str, model: str | None = None, **more: Any) -> Request:
    sampling = Sampling(temperature=0.7, max_new_tokens=100)
    return Request(key, ({"role": "user", "content": key},), model, 5, sampling, **more)


def run(there: There, requests: list[Request], journal: Journal | None = None, **options: Any) -> list[Completion]:
    values = {"url": there.url, "model": "big", "key_variable": "THEIR_KEY"} | options
    engine = EndpointEngine(Endpoint(**values), journal=journal)

    async def together() -> list[Completion]:
        return list(await asyncio.gather(*map(engine.complete, requests)))

    try:
        return asyncio.run(together())
    finally:
        engine.close()


def test_counts_come_from_the_reply_and_survive_a_kill(there: There, tmp_path: Path) -> None:
    requests = [ask(f"q{i}") for i in range(6)]
    made = run(there, requests, Journal(tmp_path / "j"))
    assert made[1] == Completion("re: q1", (), 11, "stop", counted=7)
    assert made[1].completion_tokens == 7
    body = there.bodies[0]
    assert body == {"model": "big", "messages": [{"role": "user", "content": body["messages"][0]["content"]}],
                    "temperature": 0.7, "top_p": 0.9, "max_tokens": 100, "seed": 5}  # fmt: skip
    assert run(there, requests, Journal(tmp_path / "j")) == made
    run(there, [replace(requests[0], sampling=Sampling(top_k=3, thinking_tokens=9))])
    assert there.bodies.pop().items() >= {"top_k": 3, "thinking_token_budget": 9, "max_tokens": 2048}.items()
    assert len(there.bodies) == 6, "nothing that was answered is asked again"


def test_no_more_requests_in_flight_than_agreed(there: There) -> None:
    assert len(run(there, [ask(f"q{i}") for i in range(40)], in_flight=3)) == 40
    assert 1 < there.busiest <= 3


def hang_up(handler: Any) -> None:
    handler.connection.close()
    handler.close_connection = True


def half(handler: Any) -> None:
    """A reply whose end a proxy has cut off, and mended the length."""
    handler.send_response(200)
    for name, value in {"content-type": "application/json", "content-length": "9"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(b'{"choices')


def said(content: Any, reason: Any, **usage: Any) -> tuple[int, dict[str, Any]]:
    """A reply with one choice."""
    return 200, {"choices": [{"message": {"content": content}, "finish_reason": reason}], "usage": usage}


def test_what_passes_is_waited_out(there: There) -> None:
    """A limit on the rate, a server that restarts, and a connection that breaks."""
    there.plans = [
        lambda handler: handler.reply(429, {"error": {"message": "slow down"}}, retry_after="1"),
        lambda handler: handler.reply(503, {}),
        lambda handler: handler.reply(500, {"error": "oh"}),
        hang_up,
        half,
    ]
    began = time.monotonic()
    assert [made.text for made in run(there, [ask("q")])] == ["re: q"]
    assert len(there.bodies) == 6 and time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_variable": "WRONG"}, r"401 .*Incorrect API key provided.*; look at the key in WRONG$"),
        ({"key_variable": None}, r"401 .*; name generation.endpoint.key_variable$"),
        ({"key_variable": "UNSET"}, r"key_variable: UNSET is not set; export it"),
        ({"url": "{url}/odd"}, r"404 .*Not Found.*; look at generation.endpoint$"),
        ({"url": "http://127.0.0.1:9/v1", "patience_minutes": 0.01}, r"no answer \(ConnectError .*for 0.01 minutes"),
    ],
)
def test_what_does_not_pass_is_said_in_one_line(
    there: There, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv("WRONG", "sesame")
    if "url" in options:
        options = options | {"url": options["url"].format(url=there.url)}
    with pytest.raises(EngineError, match=says) as raised:
        run(there, [ask("q"), ask("r")], **options)
    assert "\n" not in str(raised.value) and KEY not in str(raised.value) and "sesame" not in str(raised.value)
    assert raised.value.kind == ("hardware" if "patience_minutes" in options else "refused")


def test_an_endless_wait_ends(there: There) -> None:
    there.plans = [lambda handler: time.sleep(5)] * 9
    with pytest.raises(EngineError, match=r"no answer \(ReadTimeout\), for 0.01 minutes") as raised:
        run(there, [ask("q")], timeout_seconds=0.3, patience_minutes=0.01)
    assert raised.value.kind == "hardware"


def test_what_a_chat_cannot_give(there: There) -> None:
    with pytest.raises(EngineError, match="serves no model of critic-1's own; use generation.engine: vllm"):
        run(there, [ask("q", "critic-1")])
    with pytest.raises(EngineError, match="no likelihoods of prompts; use generation.engine: vllm"):
        run(there, [ask("q", logprobs=True)])
    for value in ({"answer": 42}, said(7, "stop")[1], said("4", ["stop"])[1], said("4", "stop", prompt_tokens="x")[1]):
        there.plans = [lambda handler, value=value: handler.reply(200, value)]
        with pytest.raises(EngineError, match="its reply is no chat completion"):
            run(there, [ask("q")])
    there.plans = [lambda handler: handler.reply(301, {})]
    with pytest.raises(EngineError, match="301 Moved Permanently") as moved:
        run(there, [ask("q")])
    assert moved.value.kind == "refused"


@pytest.mark.parametrize(
    ("reply", "made"),
    [
        ((400, {"error": {"message": "maximum context length is 9 tokens"}}), Completion("", (), 0, "length")),
        ((413, {"error": "prompt is too long"}), Completion("", (), 0, "length")),
        *(
            (said("4", reason), Completion("4", (), 0, "length"))
            for reason in ("max_tokens", "content_filter", "LENGTH")
        ),
        *((said("4", reason), Completion("4", (), 0, "stop")) for reason in ("eos_token", "STOP", None)),
        (said("4", None, completion_tokens=100), Completion("4", (), 0, "length", counted=100)),
        (said([{"type": "text", "text": "4"}], "stop"), Completion("4", (), 0, "stop")),
    ],
)
def test_a_text_without_its_end_is_known_by_any_name(there: There, reply: Any, made: Completion) -> None:
    there.plans = [lambda handler: handler.reply(*reply)]
    assert run(there, [ask("q")]) == [made]
