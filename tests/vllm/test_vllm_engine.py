"""The vLLM engine says what the transformers engine says, and says so when it cannot."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines import Sampling
from hpcmaf.engines.journal import Journal
from hpcmaf.errors import EngineError
from hpcmaf.micro import base_path
from tests.vllm.societies import AGENTS, ask, full_agents, lora_agents, run, served, vllm_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return lora_agents(tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def engine(agents: dict[str, str]) -> Iterator[Any]:
    started = vllm_engine(served(agents))
    yield started
    started.close()


@pytest.fixture(scope="module")
def peer(agents: dict[str, str]) -> Any:
    from hpcmaf.engines.transformers_engine import TransformersEngine

    return TransformersEngine(served(agents), device="cpu")


def hold_debates(engine: Any, count: int, sampling: Sampling) -> list[list[str]]:
    """Texts of all turns of some debates between two generators and two critics over three rounds."""
    from hpcmaf.tasks import get_task

    task = get_task("arithmetic")
    problems = task.splits(None, 1, count, 0, None).eval
    protocol = Protocol(3, True, task.prompts("compact"), task.answer_form("compact"), sampling, seed=0, iteration=1)

    async def hold() -> list[Any]:
        return await asyncio.gather(*(debate(p, Society.of(2, AGENTS), protocol, engine) for p in problems))

    held = asyncio.run(hold())
    return [[turn.text for part in (*t.answers, *t.summaries) for turn in part] for t in held]


def test_greedy_debates_agree_with_transformers(engine: Any, peer: Any) -> None:
    """Every text of every round, adapters and base mixed in the engine's steps."""
    sampling = Sampling(temperature=0.0, max_new_tokens=80)
    texts = hold_debates(engine, 12, sampling)
    assert texts == hold_debates(peer, 12, sampling)
    assert len({text for turns in texts for text in turns}) > 60


def test_prompts_taken_together_change_nothing(agents: dict[str, str], peer: Any) -> None:
    """As on a GPU: every few steps, and never more than there are places."""
    engine = vllm_engine(served(agents), "own", prompts_every=5, max_num_seqs=8)
    sampling = Sampling(temperature=0.0, max_new_tokens=40)
    try:
        assert hold_debates(engine, 8, sampling) == hold_debates(peer, 8, sampling)
    finally:
        engine.close()


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
        prompt = engine.pool.prompt(request)
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

    async def both() -> None:
        # A prompt that it has not learned to end, so it goes on to the limit.
        await asyncio.gather(say("long", text="1" * 300, max_new_tokens=300, temperature=2.0, top_p=1.0), short())

    asyncio.run(both())
    assert order == ["short/0", "short/1", "short/2", "long"]


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


@pytest.mark.parametrize(
    ("silent", "says"),
    [
        ({"arguments": {"max_loras": len(AGENTS)}}, "mixes up adapters: in a mixed batch, base is"),
        ({"lookup_tokens": 4}, "keeps wrong guesses: .* leave out generation.lookup_tokens"),
    ],
)
def test_what_vllm_gets_wrong_without_a_word_stops_the_job(agents: dict[str, str], silent: Any, says: str) -> None:
    """With all slots taken vLLM gives the base's rows an adapter on a CPU, and with guesses it writes nonsense."""
    engine = vllm_engine(served(agents), **silent)
    with pytest.raises(EngineError, match=says) as raised:
        run(engine, [ask("k")])
    engine.close()
    assert "\n" not in str(raised.value)
    with pytest.raises(EngineError, match=says):
        run(engine, [ask("k")])


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


def test_too_little_memory_is_said_and_less_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    """A cache of 3 MiB holds 768 of the model's 1,024 tokens: contexts become shorter, aloud."""
    engine = vllm_engine(served(), kv_cache_gb=3 / 1024)
    short, long = run(engine, [ask("short"), ask("long", "1" * 900)])
    engine.close()
    assert short.completion_tokens > 0
    assert (long.text, long.finish_reason) == ("", "length")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("vLLM has too little memory")]
    assert len(said) == 1
    assert f"starting it with max_model_len {engine.seats[0].context}" in said[0]
    assert 512 <= engine.seats[0].context < 1024


def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_path(), tmp_path / "m"))
    (base / "model.safetensors").write_bytes(b"torn")
    engine = vllm_engine(served(base=base))
    with pytest.raises(EngineError, match="vLLM cannot start: .*; see the task's log") as raised:
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

        return asyncio.run(all_of_them())

    engine = vllm_engine(models)
    loads: list[str | None] = []
    start = engine.seats[0].start
    engine.seats[0].start = lambda group: loads.append(group) or start(group)
    texts = held(engine)
    engine.close()
    assert texts == held(TransformersEngine(models, device="cpu"))
    assert set(loads[:2]) == {"generator-0", "generator-1"}
    assert loads[2:] == [None, "critic-0"], "then the base, then the critic, and no model twice"


def test_completions_are_kept_as_they_come(agents: dict[str, str], tmp_path: Path, engine: Any) -> None:
    """What was on disk when the journal was cut is not asked for again; likelihoods survive it too."""
    requests = [ask(f"k{i}", f"{i}+2*3", [None, *AGENTS][i % 5], logprobs=i % 2 == 0) for i in range(40)]
    undisturbed = run(engine, requests)
    counts: list[int] = []
    writer = vllm_engine(served(agents), journal=Journal(tmp_path / "j"), on_batch=counts.append)
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
    again = vllm_engine(served(agents), journal=Journal(tmp_path / "j"), on_batch=counts.append)
    sent: list[str] = []
    row = again._row
    again._row = lambda id, waiting, room: sent.append(waiting.request.key) or row(id, waiting, room)
    assert run(again, requests) == undisturbed
    again.close()
    assert len(sent) == 40 - len(half["completions"])


def test_a_job_can_be_stopped_while_its_engine_starts(agents: dict[str, str]) -> None:
    """Asked to stop, it does so within seconds, and everybody who waits hears of it."""

    class Stop(Exception):
        pass

    def stop(completions: int) -> None:
        if time.monotonic() > start + 1.5:
            raise Stop

    start = time.monotonic()
    engine = vllm_engine(served(agents), process="own", on_batch=stop)

    async def both() -> list[Any]:
        return await asyncio.gather(engine.complete(ask("a")), engine.complete(ask("b")), return_exceptions=True)

    heard = asyncio.run(both())
    engine.close()
    assert [type(error) for error in heard] == [Stop, Stop]
    assert engine.seats[0].launches == 1
    assert time.monotonic() - start < 30
