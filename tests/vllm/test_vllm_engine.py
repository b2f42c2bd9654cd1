"""The vLLM engine says what the transformers engine says, and says so when it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines import Sampling
from hpcmaf.engines.adapters import serving_names
from hpcmaf.engines.client import EndpointEngine
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.options import AdapterShape, Endpoint
from hpcmaf.engines.server import servers_folder
from hpcmaf.errors import EngineError
from hpcmaf.micro import base_path
from tests.engines.test_server import members
from tests.vllm.societies import AGENTS, LOOP, ask, full_agents, lora_agents, run, served, vllm_engine

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.xdist_group("vllm")]
MODULES = tuple(sorted(f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down")))


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return lora_agents(tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What has engines share one server, those of other test processes too."""
    base = tmp_path_factory.getbasetemp()
    run = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "run"
    return {"run": run, "room": AdapterShape(len(AGENTS), 4, MODULES)}


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
    (group,) = engine._groups.values()
    return group.connections[0].server


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
    sampling = Sampling(temperature=0.0, max_new_tokens=80)
    texts = hold_debates(engine, 12, sampling)
    assert texts == hold_debates(peer, 12, sampling)
    assert len({text for turns in texts for text in turns}) > 60


def test_a_draw_depends_on_the_request_alone(engine: Any) -> None:
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], seed=i, temperature=1.0) for i in range(30)]
    together = run(engine, requests)
    assert run(engine, requests[::-1])[::-1] == together
    assert [run(engine, [request])[0] for request in requests[:4]] == together[:4]
    reseeded = run(engine, [replace(request, seed=request.seed + 100) for request in requests])
    assert sum(a != b for a, b in zip(together, reseeded, strict=True)) > 10


def test_more_prompts_than_a_step_holds(engine: Any) -> None:
    """vLLM's CPU build ends where a seeded request's prompt is spread over two steps."""
    long = "+".join(["1*2"] * 20)
    requests = [ask(f"l{i}", f"{i % 10}+{long}", None, seed=i, temperature=1.0, max_new_tokens=2) for i in range(128)]
    assert sum(made.prompt_tokens for made in run(engine, requests)) > 2 * 2048


def test_likelihoods_are_those_of_a_forward_pass(engine: Any, peer: Any, agents: dict[str, str]) -> None:
    """Of prompts, answers and given turns, with the base and an adapter, from both engines."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    chats = [("3+4*5", None), ("9*9+1-2*2", "critic-1")]
    answered = [ask(f"a{i}", text, model, logprobs=True) for i, (text, model) in enumerate(chats)]
    given = [
        replace(request, key=f"g{i}", messages=(*request.messages, {"role": "assistant", "content": "4*5=20;#23"}))
        for i, request in enumerate(answered)
    ]
    plain = ask("plain")
    ours, theirs = (run(side, [*answered, plain, *given]) for side in (engine, peer))
    assert ours[2].logprobs is None and ours[2].prompt_logprobs is None
    for request, completion, other in zip([*answered, plain, *given], ours, theirs, strict=True):
        assert completion.token_ids == other.token_ids
        if request is plain:
            continue
        model = AutoModelForCausalLM.from_pretrained(base_path())
        if request.model:
            model = PeftModel.from_pretrained(model, agents[request.model])
        prompt = engine.prompts.ids(request)
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.inference_mode():
            scores = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        cut = len(prompt) - 1
        for made in (completion, other):
            assert made.prompt_logprobs == pytest.approx(scores[:cut].tolist(), abs=1e-4)
            assert made.logprobs == pytest.approx(scores[cut:].tolist(), abs=1e-4)
    assert all(completion.token_ids == () and completion.text == "" for completion in ours[3:])


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


def test_requests_of_one_problem_do_not_wait_for_another(engine: Any) -> None:
    """While a long answer is being made, a short problem goes through all its rounds."""
    order: list[str] = []

    async def say(key: str, **more: Any) -> None:
        await engine.complete(ask(key, **more))
        order.append(key)

    async def short() -> None:
        for turn in range(3):
            await say(f"short/{turn}", max_new_tokens=2)

    async def together() -> None:
        # A prompt that it has not learned to end: how far each goes is left to chance.
        endless = {"text": "1" * 300, "max_new_tokens": 700, "temperature": 2.0, "top_p": 1.0}
        await asyncio.gather(*(say(f"long/{i}", seed=i, **endless) for i in range(60)), short())

    LOOP.run_until_complete(together())
    assert order.index("short/2") < max(place for place, key in enumerate(order) if key.startswith("long"))


def test_an_empty_answer(tmp_path: Path) -> None:
    """A model that ends its turn at once has said nothing."""
    import torch
    from safetensors.torch import load_file, save_file

    base = Path(shutil.copytree(base_path(), tmp_path / "m"))
    weights = load_file(base / "model.safetensors")
    # With a last norm of zeros all logits are equal, and greedy takes token 0.
    weights["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 0]}))
    engine = vllm_engine(served(base=base))
    (completion,) = run(engine, [ask("k")])
    engine.close()
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", (0,), "stop")


def test_a_server_that_mixes_up_adapters_stops_the_job(agents: dict[str, str]) -> None:
    """With all slots taken vLLM gives the base's rows an adapter on a CPU, without a word."""
    engine = vllm_engine(served(agents), vllm_args={"max_loras": len(AGENTS)})
    with pytest.raises(EngineError, match="mixes up adapters: in a mixed batch, base is") as raised:
        run(engine, [ask("k")])
    engine.close()
    assert "\n" not in str(raised.value)
    with pytest.raises(EngineError, match="mixes up adapters"):
        run(engine, [ask("k")])


def test_no_adapter_is_served_stale(
    agents: dict[str, str], shared: dict[str, Any], engine: Any, tmp_path: Path
) -> None:
    """One that changed on disk under the same name answers as it is now, on the server that has the old one."""
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


def test_a_wrong_key_reads_nothing(engine: Any, shared: dict[str, Any]) -> None:
    """Nor can another user of the machine enter the socket's folder."""
    run(engine, [ask("k")])
    server = server_of(engine)
    assert server.folder.stat().st_mode & 0o077 == server.folder.parents[1].stat().st_mode & 0o077 == 0
    transport = httpx.HTTPTransport(uds=server.socket)
    with httpx.Client(transport=transport, base_url="http://x", headers={"Authorization": "Bearer no"}) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.post("/v1/completions", json={"model": "base", "prompt": [1]}).status_code == 401


def test_a_vllm_server_as_somebody_elses(
    engine: Any, peer: Any, monkeypatch: pytest.MonkeyPatch, agents: dict[str, str]
) -> None:
    """Chats over the network, with a key from the environment; counts come from the reply, and a wrong key is said."""
    run(engine, [ask("k", model="critic-0")])
    server = server_of(engine)
    names = serving_names(agents)
    prompts = [("2+3*4", None), ("7*8-1", "critic-0")]

    async def converse(key: str) -> list[Any]:
        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_unix_connection(server.socket)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        gate = await asyncio.start_server(pass_on, "127.0.0.1")
        port = gate.sockets[0].getsockname()[1]
        monkeypatch.setenv("THEIR_KEY", key)
        endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="base", models=names, key_variable="THEIR_KEY")
        foreign = EndpointEngine(endpoint)
        requests = [ask(f"c{i}", text, model) for i, (text, model) in enumerate(prompts)]
        return await asyncio.gather(*map(foreign.complete, requests), return_exceptions=True)

    made = LOOP.run_until_complete(converse(server.facts["key"]))
    expected = run(peer, [ask(f"c{i}", text, model) for i, (text, model) in enumerate(prompts)])
    for one, other in zip(made, expected, strict=True):
        assert (one.text, one.prompt_tokens, one.completion_tokens, one.finish_reason) == (
            other.text, other.prompt_tokens, other.completion_tokens, other.finish_reason,
        )  # fmt: skip
    refused = {str(error) for error in LOOP.run_until_complete(converse("sesame"))}
    assert len(refused) == 1 and "401" in refused.copy().pop() and "the key in THEIR_KEY" in refused.copy().pop()
    assert not any("sesame" in line for line in refused)


def test_the_server_says_what_bounds_it(agents: dict[str, str], shared: dict[str, Any]) -> None:
    notes: list[str] = []
    engine = vllm_engine(served(agents), on_batch=lambda _: notes.append(engine.note()), **shared)
    run(engine, [ask(f"k{i}", seed=i, temperature=1.5, top_p=1.0, max_new_tokens=200) for i in range(200)])
    means = engine.means()
    engine.close()
    assert any(re.fullmatch(
        r"[\d,]+ tokens/s now, [\d,]+ over the stage, \d+ running, \d+ waiting, KV cache \d+%, prefix hits \d+%", note
    ) for note in notes), notes[-1]  # fmt: skip
    assert means["tokens_per_second"] > 0 and means["running"] > 0


def test_too_little_memory_is_said_and_less_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    """A cache of 3 MiB holds 768 of the model's 1,024 tokens: contexts become shorter, aloud."""
    engine = vllm_engine(served(), kv_cache_gb=3 / 1024)
    short, long = run(engine, [ask("short"), ask("long", "1" * 900)])
    engine.close()
    assert short.completion_tokens > 0
    assert (long.text, long.finish_reason) == ("", "length")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM has too little memory")]
    assert len(said) == 1
    context = int(said[0].rpartition("starting it with max_model_len ")[2])
    assert 512 <= context < 1024


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_path(), tmp_path / "m"))
    (base / "model.safetensors").write_bytes(b"torn")
    engine = vllm_engine(served(base=base))
    with pytest.raises(EngineError, match="vLLM cannot start: .*; see .*server.log") as raised:
        run(engine, [ask("a"), ask("b")])
    engine.close()
    assert "\n" not in str(raised.value)


def test_whole_checkpoints_take_turns(tmp_path: Path) -> None:
    """Two rounds of three models: each is loaded once a round, and says what transformers says."""
    from hpcmaf.engines.transformers_engine import TransformersEngine

    names = ("generator-0", "generator-1", "critic-0")
    models = served(full_agents(tmp_path, names), "full")

    async def problem(engine: Any, text: str) -> list[str]:
        first = await asyncio.gather(*(engine.complete(ask(f"{text}/{n}", text, n)) for n in names[:2]))
        summary = await engine.complete(ask(f"{text}/s", text + first[0].text[:8]))
        last = await engine.complete(ask(f"{text}/c", text + summary.text[:8], "critic-0"))
        return [*(completion.text for completion in first), summary.text, last.text]

    def held(engine: Any) -> list[list[str]]:
        async def all_of_them() -> list[list[str]]:
            return await asyncio.gather(*(problem(engine, text) for text in ("1+2*3", "4*5-6", "7+8", "9*9-1")))

        return LOOP.run_until_complete(all_of_them())

    engine = vllm_engine(models)
    loads: list[str | None] = []
    connect = engine._connect
    engine._connect = lambda key, number: loads.append(key) or connect(key, number)
    texts = held(engine)
    engine.close()
    assert texts == held(TransformersEngine(models, device="cpu"))
    assert set(loads[:2]) == {"generator-0", "generator-1"}
    assert loads[2:] == [None, "critic-0"], "then the base, then the critic, and no model twice"


def test_completions_are_kept_as_they_come(
    agents: dict[str, str], shared: dict[str, Any], tmp_path: Path, engine: Any
) -> None:
    """What was on disk when the journal was cut is not asked for again; likelihoods survive it too."""
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], logprobs=i % 2 == 0) for i in range(40)]
    undisturbed = run(engine, requests)
    counts: list[int] = []
    writer = vllm_engine(served(agents), journal=Journal(tmp_path / "j"), on_batch=counts.append, **shared)
    assert run(writer, requests) == undisturbed
    writer.close()
    assert sum(counts) == 40
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    kept = [len(json.loads(line)["completions"]) for line in lines]
    assert sum(kept) == 40
    assert writer.seconds == pytest.approx(sum(json.loads(line)["seconds"] for line in lines), abs=0.5)

    half = json.loads(lines[0])
    half["completions"] = half["completions"][:25]
    (tmp_path / "j").write_bytes(json.dumps(half).encode() + b"\n" + lines[0][:30])
    again = vllm_engine(served(agents), journal=Journal(tmp_path / "j"), on_batch=counts.append, **shared)
    sent: list[str] = []
    answer = again.answer
    again.answer = lambda request: sent.append(request.key) or answer(request)
    assert run(again, requests) == undisturbed
    again.close()
    assert len(sent) == 40 - len(half["completions"])


def test_a_job_can_be_stopped_while_its_server_starts(agents: dict[str, str]) -> None:
    """Asked to stop, it does so within seconds, and everybody who waits gets the reason."""

    class Stop(Exception):
        pass

    def stop(completions: int) -> None:
        if time.monotonic() > start + 1.5:
            raise Stop

    start = time.monotonic()
    engine = vllm_engine(served(agents), on_batch=stop)

    async def both() -> list[Any]:
        return await asyncio.gather(engine.complete(ask("a")), engine.complete(ask("b")), return_exceptions=True)

    errors = LOOP.run_until_complete(both())
    engine.close()
    assert [type(error) for error in errors] == [Stop, Stop]
    assert time.monotonic() - start < 60
    assert not list(engine.folder.glob("*/s*/server.json"))


def test_a_killed_server_is_started_once_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing that was answered is asked again; the second time it says why."""
    journal = tmp_path / "j"
    engine = vllm_engine(served(), max_num_seqs=2, journal=Journal(journal))
    requests = [ask(f"k{i}", text="1" * 300, seed=i, max_new_tokens=300, temperature=2.0, top_p=1.0) for i in range(9)]
    killed: list[str] = []

    async def disturbed(part: list[Any]) -> list[Any]:
        deaths = len(killed) + 1
        tasks = [asyncio.ensure_future(engine.complete(request)) for request in part]
        while len(killed) < deaths:
            await asyncio.sleep(0.05)
            for pid in engine.folder.glob("*/s*/pid"):
                if any(group.in_flight for group in engine._groups.values()):
                    os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
                    killed.append(pid.read_text())
        return await asyncio.gather(*tasks, return_exceptions=True)

    first = LOOP.run_until_complete(disturbed(requests[:5]))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM stopped working")]
    assert len(lines) == 1 and lines[0].endswith("starting it once more")
    assert all(completion.completion_tokens > 0 for completion in first)
    second = LOOP.run_until_complete(disturbed(requests[5:]))
    engine.close()
    assert {type(error) for error in second} == {EngineError}
    assert all("stopped working a second time" in str(error) and error.kind == "hardware" for error in second)
    assert [Journal(journal).find(request) for request in requests[:5]] == first, "what was done is kept"


def test_a_killed_job_leaves_no_server_and_loses_what_was_in_flight(
    agents: dict[str, str], shared: dict[str, Any], engine: Any, tmp_path: Path
) -> None:
    script = f"""
from tests.vllm.societies import *
from hpcmaf.engines.journal import Journal
requests = [ask(f"k{{i}}", f"{{i}}+2*3", [None, *AGENTS][i % 5], max_new_tokens=60) for i in range(200)]
engine = vllm_engine(served({agents!r}), max_num_seqs=8, run=Path({str(tmp_path)!r}), journal=Journal(Path({str(tmp_path / "j")!r})))
run(engine, requests)
print("finished")
"""  # noqa: E501
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], max_new_tokens=60) for i in range(200)]
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    journal, folder = tmp_path / "j", servers_folder(str(tmp_path.resolve()))
    while not (journal.exists() and journal.stat().st_size):
        assert job.poll() is None
        time.sleep(0.02)
    (pid,) = folder.glob("*/s*/pid")
    group = int(pid.read_text().split()[0])
    os.kill(job.pid, signal.SIGKILL)
    assert "finished" not in job.communicate()[0]
    deadline = time.monotonic() + 30
    while pid.parent.exists() or members(group):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kept = len(Journal(journal))
    assert 0 < kept < 200
    again = vllm_engine(served(agents), journal=Journal(journal), **shared)
    sent: list[str] = []
    answer = again.answer
    again.answer = lambda request: sent.append(request.key) or answer(request)
    resumed = run(again, requests)
    again.close()
    assert len(sent) == 200 - kept
    assert run(engine, requests) == resumed, "greedy text does not depend on where the kill fell"


def test_a_diverged_agent_is_named(agents: dict[str, str], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(agents["critic-0"], tmp_path / "a"))
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in weights if "lora_B" in key)
    weights[key] = torch.full_like(weights[key], float("nan"))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    engine = vllm_engine(served({"generator-0": agents["generator-0"], "critic-0": str(folder)}))
    with pytest.raises(EngineError, match="model critic-0: its logits are not numbers, so it has diverged"):
        run(engine, [ask("k")])
    engine.close()
    assert not list(engine.folder.glob("*/s*/server.json")), "what it left in the cache would spoil others' numbers"
