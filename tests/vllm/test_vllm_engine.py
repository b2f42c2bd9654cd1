"""The vLLM engine says what the transformers engine says, and says so when it cannot."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.engines import Sampling
from hpcmaf.engines.client import EndpointEngine
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import Endpoint
from hpcmaf.errors import EngineError
from tests.engines.test_server import members, until
from tests.vllm.societies import AGENTS, LOOP, ask, full_agent, lora_agents, run, served, vllm_engine

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return lora_agents(tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What has engines share one server, those of other test processes too."""
    base = tmp_path_factory.getbasetemp()
    run = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "run"
    return {"run": run}


@pytest.fixture(scope="module")
def engine(agents: dict[str, str], shared: dict[str, Any]) -> Iterator[Any]:
    started = vllm_engine(served(agents), **shared)
    yield started
    started.close()


@pytest.fixture(scope="module")
def peer(agents: dict[str, str]) -> Any:
    from hpcmaf.engines.transformers_engine import TransformersEngine

    return TransformersEngine(served(agents), device="cpu")


def server_of(engine: Any) -> Any:
    """The one that an engine uses."""
    ((server,),) = engine._groups.values()
    return server


def hold_debates(engine: Any, count: int, sampling: Sampling) -> list[list[str]]:
    """Texts of all turns of some debates between two generators and two critics over three rounds."""
    from hpcmaf.tasks import get_task

    task = get_task("arithmetic")
    problems = task.splits(None, 1, count, 0, None).eval
    protocol = Protocol(3, True, task.prompts("compact"), task.answer_form, sampling, seed=0, iteration=1)

    async def hold() -> list[Any]:
        return await asyncio.gather(*(debate(p, Society.of(2, AGENTS), protocol, engine) for p in problems))

    held = LOOP.run_until_complete(hold())
    return [[turn.text for part in (*t.answers, *t.summaries) for turn in part] for t in held]


def test_greedy_debates_agree_with_transformers(engine: Any, peer: Any) -> None:
    """Every text of every round, adapters and base mixed in the engine's steps."""
    sampling = Sampling(temperature=0.0, max_new_tokens=60)
    texts = hold_debates(engine, 6, sampling)
    assert texts == hold_debates(peer, 6, sampling)
    assert len({text for turns in texts for text in turns}) > 30


def test_a_draw_depends_on_the_request_alone(engine: Any) -> None:
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], seed=i, temperature=1.0) for i in range(15)]
    together = run(engine, requests)
    assert run(engine, requests[::-1])[::-1] == together
    assert [run(engine, [request])[0] for request in requests[:3]] == together[:3]
    reseeded = run(engine, [replace(request, seed=request.seed + 100) for request in requests])
    assert sum(a != b for a, b in zip(together, reseeded, strict=True)) > 5


def test_what_narrows_ends_and_penalizes(engine: Any, peer: Any) -> None:
    (greedy,) = run(engine, [ask("a")])
    (likeliest,) = run(engine, [ask("b", temperature=1.0, top_p=1.0, top_k=1)])
    assert likeliest.token_ids == greedy.token_ids
    stop = greedy.text[3:5]
    for one in (engine, peer):
        (cut,) = run(one, [ask("c", stop=[stop])])
        assert (cut.text, cut.finish_reason) == (greedy.text.partition(stop)[0], "stop")
    # A response that is in no thought goes on as if there were no limit for one.
    (limited,) = run(engine, [ask("e", thinking_tokens=4)])
    assert len(greedy.token_ids) > 4 and limited == greedy
    penalized = [run(one, [ask("d", repetition_penalty=6.0)])[0].text for one in (engine, peer)]
    assert penalized[0] == penalized[1] != greedy.text


def test_more_prompts_than_a_step_holds(engine: Any) -> None:
    """vLLM's CPU build ends where a seeded request's prompt is spread over two steps."""
    long = "+".join(["1*2"] * 20)
    requests = [ask(f"l{i}", f"{i % 10}+{long}", None, seed=i, temperature=1.0, max_new_tokens=2) for i in range(128)]
    assert sum(made.prompt_tokens for made in run(engine, requests)) > 2 * 2048


def test_what_training_waits_for_goes_first(engine: Any, agents: dict[str, str], shared: dict[str, Any]) -> None:
    """One request, sent when several evaluations have more on the server than it can run at once."""
    others = [vllm_engine(served(agents), priority=1, **shared) for _ in range(3)]

    async def race() -> int:
        asks = [(one, ask(f"{n}.{i}", max_new_tokens=6)) for n, one in enumerate(others) for i in range(190)]
        waiting = [asyncio.create_task(one.complete(request)) for one, request in asks]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await engine.complete(ask("first", max_new_tokens=6))
        before = sum(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        return before

    before = LOOP.run_until_complete(race())
    for one in others:
        one.close()
    assert before < 400


def test_likelihoods_are_those_of_transformers(engine: Any, peer: Any) -> None:
    """Of prompts, answers and given turns, with the base and an adapter."""
    chats = [("3+4*5", None), ("9*9+1-2*2", "critic-1")]
    answered = [ask(f"a{i}", text, model, logprobs=True) for i, (text, model) in enumerate(chats)]
    given = [
        replace(request, key=f"g{i}", messages=(*request.messages, {"role": "assistant", "content": "4*5=20;#23"}))
        for i, request in enumerate(answered)
    ]
    (plain,) = run(engine, [ask("plain")])
    assert plain.logprobs is None and plain.prompt_logprobs is None
    ours, theirs = (run(side, [*answered, *given]) for side in (engine, peer))
    for made, other in zip(ours, theirs, strict=True):
        assert made.token_ids == other.token_ids and made.prompt_logprobs
        assert made.prompt_logprobs == pytest.approx(other.prompt_logprobs, abs=1e-4)
        assert made.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert all(made.token_ids == () and made.text == "" for made in ours[2:])


def test_prompts_and_answers_without_end(engine: Any, peer: Any) -> None:
    """A full context, one nearly full, and a limit on the answer: as the transformers engine has it."""
    requests = [
        ask("full", "1" * 2000),
        ask("brim", "1" * 1010, max_new_tokens=50),
        ask("near", "1" * 1000, max_new_tokens=50),
        *(ask(f"short{i}", temperature=0.0, max_new_tokens=i) for i in (1, 2, 5)),
    ]
    made = run(engine, requests)
    assert made == run(peer, requests)
    assert (made[0].text, made[0].finish_reason, made[0].token_ids) == ("", "length", ())
    assert made[2].prompt_tokens + made[2].completion_tokens <= 1024
    assert [completion.completion_tokens for completion in made[3:]] == [1, 2, 5]


def test_a_server_that_mixes_up_adapters_stops_the_job(agents: dict[str, str], tmp_path: Path) -> None:
    """With all slots taken vLLM gives the base's rows an adapter on a CPU, without a word.

    One whose numbers are none is named, and the server with it in its cache ends.
    """
    import torch
    from safetensors.torch import load_file, save_file

    cramped = {"run": tmp_path, "vllm_args": {"max_loras": len(AGENTS)}}
    engine = vllm_engine(served(agents), **cramped)
    with pytest.raises(EngineError, match="mixes up adapters: in a mixed batch, base is") as raised:
        run(engine, [ask("k")])
    assert "\n" not in str(raised.value)
    with pytest.raises(EngineError, match="mixes up adapters"):
        run(engine, [ask("k")])
    folder = Path(shutil.copytree(agents["critic-0"], tmp_path / "a"))
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in weights if "lora_B" in key)
    weights[key] = torch.full_like(weights[key], float("nan"))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    diverged = vllm_engine(served({**agents, "critic-0": str(folder)}), **cramped)
    with pytest.raises(EngineError, match="model critic-0: its logits are not numbers, so it has diverged"):
        run(diverged, [ask("k")])
    assert not list(engine.folder.glob("*/s*/server.json")), "what it left in the cache would spoil others' numbers"
    engine.close()
    diverged.close()


def test_no_adapter_is_served_stale(
    agents: dict[str, str], shared: dict[str, Any], engine: Any, tmp_path: Path
) -> None:
    """One that changed on disk under the same name answers as it is now, on the server that has the old one.

    A torn one is named, and does the server no harm.
    """
    run(engine, [ask("k")])
    folder = tmp_path / "critic-0"
    said = {}
    for source in ("critic-0", "critic-1"):
        shutil.copytree(agents[source], folder, dirs_exist_ok=True)
        other = vllm_engine(served({**agents, "critic-0": str(folder)}), **shared)
        said[source] = run(other, [ask("k", model="critic-0")])[0]
        assert server_of(other).folder == server_of(engine).folder
        other.close()
    assert said == {name: run(engine, [ask("k", model=name)])[0] for name in said}
    assert said["critic-0"] != said["critic-1"]
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    torn = vllm_engine(served({**agents, "critic-0": str(folder)}), **shared)
    with pytest.raises(EngineError, match="vLLM does not load the adapter of critic-0") as raised:
        run(torn, [ask("k", model="critic-0")])
    torn.close()
    assert "\n" not in str(raised.value) and run(engine, [ask("k", model="critic-0")])[0] == said["critic-0"]


def test_a_wrong_key_reads_nothing(engine: Any) -> None:
    """Nor can another user of the machine enter the socket's folder."""
    run(engine, [ask("k")])
    server = server_of(engine)
    assert server.folder.stat().st_mode & 0o077 == server.folder.parents[1].stat().st_mode & 0o077 == 0
    transport = httpx.HTTPTransport(uds=server.socket)
    with httpx.Client(transport=transport, base_url="http://x", headers={"Authorization": "Bearer no"}) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.post("/v1/completions", json={"model": "base", "prompt": [1]}).status_code == 401


def test_a_vllm_server_as_somebody_elses(engine: Any, peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chats over the network, with a key from the environment; counts come from the reply."""
    run(engine, [ask("k")])
    server = server_of(engine)
    requests = [ask("c0", "2+3*4"), ask("c1", "7*8-1")]

    async def converse() -> list[Any]:
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_unix_connection(server.socket)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        gate = await asyncio.start_server(pass_on, "127.0.0.1")
        port = gate.sockets[0].getsockname()[1]
        monkeypatch.setenv("THEIR_KEY", server.facts["key"])
        foreign = EndpointEngine(Endpoint(url=f"http://127.0.0.1:{port}/v1", model="base", key_variable="THEIR_KEY"))
        return await asyncio.gather(*map(foreign.complete, requests))

    made = LOOP.run_until_complete(converse())
    for one, other in zip(made, run(peer, requests), strict=True):
        assert (one.text, one.prompt_tokens, one.completion_tokens, one.finish_reason) == (
            other.text, other.prompt_tokens, other.completion_tokens, other.finish_reason,
        )  # fmt: skip


def test_the_server_says_what_bounds_it(agents: dict[str, str], shared: dict[str, Any]) -> None:
    line = r"[\d,]+ tokens/s now, [\d,]+ over the stage, \d+ running, \d+ waiting, KV cache \d+%, prefix hits \d+%"
    notes: list[str] = []
    engine = vllm_engine(served(agents), on_batch=lambda _: notes.append(engine.note()), **shared)
    for part in range(10):  # it takes two looks, which a busy server keeps waiting
        more = {"temperature": 1.5, "top_p": 1.0, "max_new_tokens": 200}
        run(engine, [ask(f"k{part}.{i}", seed=i, **more) for i in range(200)])
        if found := any(re.fullmatch(line, note) for note in notes):
            break
    averages = engine.averages()
    engine.close()
    assert found, notes[-1]
    assert averages["tokens_per_second"] > 0 and averages["running"] > 0


def test_whole_checkpoints_take_turns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Three rounds of two models: each is loaded once, and says what transformers says.

    Their cache of 3 MiB holds 768 of 1,024 tokens: contexts become shorter, which is said once.
    """
    from hpcmaf.engines.transformers_engine import TransformersEngine

    models = served(full_agent(tmp_path), "full")

    async def problem(engine: Any, text: str) -> list[str]:
        first = await asyncio.gather(*(engine.complete(ask(f"{text}/{n}", text, n)) for n in ("generator-0", None)))
        summary = await engine.complete(ask(f"{text}/s", text + first[0].text[:8]))
        last = await engine.complete(ask(f"{text}/c", text + summary.text[:8]))
        return [*(completion.text for completion in first), summary.text, last.text]

    def debated(engine: Any) -> list[list[str]]:
        async def all_of_them() -> list[list[str]]:
            return await asyncio.gather(*(problem(engine, text) for text in ("1+2*3", "4*5-6", "7+8", "9*9-1")))

        return LOOP.run_until_complete(all_of_them())

    engine = vllm_engine(models, kv_cache_gb=3 / 1024)
    texts = debated(engine)
    (long,) = run(engine, [ask("long", "1" * 900)])
    engine.close()
    assert texts == debated(TransformersEngine(models, device="cpu"))
    assert (long.text, long.finish_reason) == ("", "length")
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM")]
    assert lines[0].startswith("vLLM has too little memory")
    assert 512 <= int(lines[0].rpartition("starting it with max_model_len ")[2]) < 1024
    assert [line.startswith("vLLM is up after") for line in lines[1:]] == [True] * 2, "no model twice"


def test_a_killed_server(agents: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Kept by the engine before, it is killed under the next: started once more, and a second time the job ends.

    Nothing that was answered is asked again.
    """
    first_user = vllm_engine(served(agents), max_num_seqs=2, run=tmp_path, keep=True)
    run(first_user, [ask("a")])
    first_user.close()
    time.sleep(1)
    victim = vllm_engine(served(agents), max_num_seqs=2, run=tmp_path, journal=Journal(tmp_path / "j"))
    run(victim, [ask("b")])
    assert first_user.parts and not victim.parts
    pids: set[int] = set()

    async def disturbed(requests: list[Any]) -> list[Any]:
        """Kill the server while it owes answers."""
        tasks = [asyncio.ensure_future(victim.complete(request)) for request in requests]
        while not any(server.client.open for group in victim._groups.values() for server in group):
            await asyncio.sleep(0.01)
        (pid,) = victim.folder.glob("*/s*/pid")
        pids.add(group := int(pid.read_text().split()[0]))
        # It stands still, so that what it has answered is read before it is killed.
        os.killpg(group, signal.SIGSTOP)
        for _ in range(20):
            await asyncio.sleep(0.02)
        assert not all(task.done() for task in tasks)
        os.killpg(group, signal.SIGKILL)
        return await asyncio.gather(*tasks, return_exceptions=True)

    def hot(count: int) -> list[Any]:
        more = {"max_new_tokens": 150, "temperature": 2.0, "top_p": 1.0}
        return [ask(f"h{i}", "1" * 300, seed=i, logprobs=i == 0, **more) for i in range(count)]

    first = LOOP.run_until_complete(disturbed(hot(10)))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM stopped working")]
    assert len(lines) == 1 and lines[0].endswith("starting it once more")
    assert all(completion.completion_tokens > 0 for completion in first)

    requests = [replace(request, key=f"second {request.key}") for request in hot(10)]
    second = LOOP.run_until_complete(disturbed(requests))
    errors = [error for error in second if isinstance(error, Exception)]
    assert errors and {type(error) for error in errors} == {EngineError}
    assert all("stopped working a second time" in str(error) and error.kind == "hardware" for error in errors)
    victim.close()
    assert [Journal(tmp_path / "j").find(request) for request in hot(10)] == first, "what was done is kept"
    assert first[0].logprobs and first[0].prompt_logprobs
    until(lambda: not any(victim.folder.glob("*/s*")) and not any(map(members, pids)), 60)
