"""The transformers engine: what it returns depends on the request alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hpcmaf.engines import Completion, Request, Sampling, ServedModels
from hpcmaf.engines.generating import SeededSampling, Waiting
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.transformers_engine import TransformersEngine, next_batch
from hpcmaf.errors import EngineError, OutOfMemory, PlatformError
from hpcmaf.micro import base_path
from hpcmaf.models.basemodel import pick_device
from hpcmaf.models.chat import ChatFormat
from hpcmaf.tasks import get_task
from tests.tiny_models import thinking_model, tiny_adapter, tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {f"generator-{n}": str(tiny_adapter(base, folder / str(n), seed=n + 1)) for n in range(3)}


def engine_for(base: Path, agents: dict[str, str] | None = None, **kwargs):
    tuning = kwargs.pop("tuning", "lora")
    return TransformersEngine(ServedModels(str(base), tuning, agents or {}), device="cpu", **kwargs)


def ask(key: str, text: str = "12+3", model: str | None = None, seed: int = 1, **sampling) -> Request:
    chosen = Sampling(**({"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12} | sampling))
    return Request(key, ({"role": "user", "content": text},), model, seed, chosen)


def run(engine, requests: list[Request]) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        return list(await asyncio.gather(*(engine.complete(request) for request in requests)))

    return asyncio.run(all_of_them())


def test_a_completion_does_not_depend_on_its_batch(base: Path, adapters: dict[str, str]) -> None:
    """Rows leave a batch when they have finished, and the others say what they would have said among them."""
    names, sizes, counts = [None, *adapters], list[int](), list[int]()
    requests = [
        ask(f"k{i}", "7*" * (1 + i % 5) + "2", names[i % 4], seed=i, top_p=0.95, max_new_tokens=2 + 3 * (i % 12))
        for i in range(24)
    ]
    engine = engine_for(base, adapters, batch_size=24, on_batch=counts.append)
    engine.load(None).register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    together = run(engine, requests)
    assert sizes[0] == 24 and sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
    assert sum(counts) == 24 and max(counts) < 24, "rows are counted as they end, not all at the last"
    for request, completion in zip(requests[:8], together, strict=False):
        alone = {request.model: adapters[request.model]} if request.model else {}
        assert run(engine_for(base, alone), [request]) == [completion]
    assert len({completion.token_ids for completion in together[4:8]}) == 4
    shuffled = run(engine_for(base, adapters, batch_size=5), requests[::-1])[::-1]
    assert shuffled == together


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_is_plain_greedy_generation(base: Path, penalty: float) -> None:
    """The model's own sampling defaults do not leak in."""
    engine = engine_for(base)
    completion = run(engine, [ask("k", temperature=0.0, repetition_penalty=penalty)])[0]
    model = AutoModelForCausalLM.from_pretrained(base)
    model.generation_config = GenerationConfig(eos_token_id=engine.prompts.stop_ids, pad_token_id=0)
    prompt = torch.tensor([engine.prompts.chat.prompt_ids([{"role": "user", "content": "12+3"}])])
    expected = model.generate(prompt, max_new_tokens=12, do_sample=False, repetition_penalty=penalty)
    assert list(completion.token_ids) == expected[0, prompt.shape[1] :].tolist()
    assert completion.prompt_tokens == prompt.shape[1]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_p": 0.8}, 3),
        ({"top_p": 1.0, "top_k": 2}, 2),
        ({"top_p": 1.0, "min_p": 0.3}, 2),  # exp(-1) = 0.37 of the likeliest, and exp(-1.5) = 0.22
        ({"top_p": 0.7, "top_k": 2}, 1),  # of two tokens the first has 0.73: the nucleus is of what top_k leaves
        ({"top_p": 0.8, "repetition_penalty": 4.0}, 3),  # the tokens 0 and 5 become 1.0 and -8.0
    ],
)
def test_seeds_draw_from_what_is_left_of_the_vocabulary(settings: dict[str, float], kept: int) -> None:
    """Frequencies over 20,000 seeds are the renormalised probabilities of the likeliest, and nothing else occurs."""
    logits, rows = torch.tensor([4.0, 3.0, 2.5, 2.0, 1.0, -2.0]), 20_000
    sample = SeededSampling([ask(str(s), seed=s, **settings) for s in range(rows)], 1, torch.device("cpu"))
    chosen = sample(logits.expand(rows, -1), range(rows), 0, [[0, 5]] * rows)[:, 0]
    left = torch.tensor([1.0, 3.0, 2.5, 2.0, 1.0, -8.0]) if "repetition_penalty" in settings else logits
    expected = torch.where(left >= left.sort(descending=True).values[kept - 1], torch.softmax(left, -1), 0.0)
    observed = torch.bincount(chosen, minlength=6) / rows
    assert torch.all(observed[expected == 0] == 0)
    assert torch.allclose(observed, expected / expected.sum(), atol=4 * 0.5 / rows**0.5)


def test_a_long_thought_is_closed_and_the_answer_follows(tmp_path: Path) -> None:
    seen, base = list[int](), thinking_model(tmp_path / "base", "123")
    engine = engine_for(base, journal=Journal(tmp_path / "j"), on_batch=seen.append)
    free = {"max_new_tokens": 60, "top_p": 1.0}
    whole = run(engine, [ask(f"k{n}", seed=n, **free) for n in range(16)])
    counted = sum(seen)
    held = run(engine, [ask(f"k{n}", seed=n, thinking_tokens=6, **free) for n in range(16)])
    assert counted == 16 and sum(seen) == 16 + 32  # a thought may take two requests, and counts as two if it does not
    for before, one in zip(whole, held, strict=True):
        thought, _, answer = one.text.partition("</think>")
        assert thought.startswith("<think>") and thought.count("~") <= 5 and answer.strip() in {"1", "2", "3"}
        assert one.finish_reason == "stop" and one.prompt_tokens == before.prompt_tokens
        assert engine.prompts.chat.decode(one.token_ids) == one.text
        if len(before.token_ids) <= 6:
            assert one == before
    assert {len(one.token_ids) <= 6 for one in whole} == {True, False}
    # Of both requests nothing is computed again, and a full context keeps what there is.
    engine.close()
    resumed = engine_for(base, journal=Journal(tmp_path / "j"))
    resumed.load = None
    assert run(resumed, [ask(f"k{n}", seed=n, thinking_tokens=6, **free) for n in range(16)]) == held
    tight = engine_for(thinking_model(tmp_path / "tight", "123", context=held[0].prompt_tokens + 6))
    for one in run(tight, [ask(f"k{n}", seed=n, thinking_tokens=6, **free) for n in range(4)]):
        assert one.text.startswith("<think>") and len(one.token_ids) <= 6


def test_a_text_that_ends_responses_is_not_shown(base: Path) -> None:
    whole = run(engine_for(base), [ask(f"k{n}", seed=n, max_new_tokens=40) for n in range(8)])
    text = next(one.text for one in whole if len(one.text) > 8)
    stop = text[5:7]
    cut = run(engine_for(base), [ask(f"k{n}", seed=n, max_new_tokens=40, stop=[stop, "never"]) for n in range(8)])
    for one, before in zip(cut, whole, strict=True):
        assert one.text == before.text.partition(stop)[0]
        assert one.finish_reason == ("stop" if stop in before.text else before.finish_reason)
        assert one.token_ids == before.token_ids[: len(one.token_ids)]
    assert sum(map(len, (one.token_ids for one in cut))) < sum(map(len, (one.token_ids for one in whole)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_diverged_model_is_named(temperature: float, broken: float) -> None:
    requests = [ask("a", model=None), ask("b", model="critic-1", temperature=temperature)]
    scores = torch.zeros(2, 5)
    scores[1, 3] = broken
    sample = SeededSampling(requests, 1, torch.device("cpu"))
    with pytest.raises(EngineError, match="model critic-1: its logits are not numbers, so it has diverged"):
        sample(scores, range(2), 0)
    scores[1, 3] = -float("inf")
    sample(scores, range(2), 0)


def waiting(key: str, length: int, model: str | None) -> Waiting:
    return Waiting(ask(key, model=model), [1] * length, None)  # type: ignore[arg-type]


def test_a_model_with_half_a_batch_waiting_gets_one_to_itself() -> None:
    """Of several such the longest prompt decides; the rest travels mixed, longest first."""

    def batch(queue: list[Waiting], size: int) -> list[str]:
        return [one.request.key for one in next_batch(queue, size)]

    a = [waiting(f"a{i}", 10 + i, "critic-0") for i in range(5)]
    assert batch([*a, waiting("b", 400, None)], 8) == ["a4", "a3", "a2", "a1", "a0"]
    b = [waiting(f"b{i}", 90, "generator-0") for i in range(4)]
    assert batch([*a, *b], 8) == ["b0", "b1", "b2", "b3"]
    mixed = [waiting("a", 10, "generator-0"), waiting("b", 300, None), waiting("c", 150, "critic-1")]
    assert batch(mixed, 64) == ["b", "c", "a"]


def test_what_is_trained_on_is_what_was_generated() -> None:
    """Token for token: the prompt the model was given, then the tokens it drew, with one template for both."""
    prompts = get_task("arithmetic").prompts("compact")
    engine = engine_for(base_path())
    given_to_model: list[list[int]] = []

    def read(_, args, kwargs) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            given_to_model.extend(kwargs["input_ids"].tolist())

    engine.load(None).register_forward_pre_hook(read, with_kwargs=True)
    chat = ChatFormat.from_pretrained(str(base_path()))
    messages: tuple = ()
    read = [prompts.render("first", "3+4*5+6-7*8"), prompts.render("update", "3+4*5+6-7*8", "4*5=20 -27")]
    for n, text in enumerate(read):
        messages = (*messages, {"role": "user", "content": text})
        request = Request(str(n), messages, None, n, Sampling(max_new_tokens=80))
        (completion,) = run(engine, [request])
        messages = (*messages, {"role": "assistant", "content": completion.text})
        sample = chat.sample(json.loads(json.dumps(messages)))
        assert completion.finish_reason == "stop"
        assert sample.input_ids == given_to_model[n] + list(completion.token_ids)
        assert sample.target == [False] * len(given_to_model[n]) + [True] * completion.completion_tokens
        assert given_to_model[n].count(chat.tokenizer.bos_token_id) == 1


def test_longest_prompts_go_first_and_no_round_waits(base: Path) -> None:
    """A problem whose answers are there moves on while others are still unanswered."""
    engine = engine_for(base, batch_size=2)
    order: list[str] = []
    generate = engine._generate
    engine._generate = lambda batch: order.extend(w.request.key for w in batch) or generate(batch)

    async def problem(name: str) -> None:
        await asyncio.gather(*(engine.complete(ask(f"{name}/1/{n}", name)) for n in range(2)))
        await engine.complete(ask(f"{name}/2", name * 9))

    async def all_problems() -> None:
        await asyncio.gather(*(problem(name) for name in ("1", "22", "333")))

    asyncio.run(all_problems())
    assert order[:2] == ["333/1/0", "333/1/1"]
    assert order.index("333/2") < order.index("1/1/0"), "round 2 of one problem waited for round 1 of another"


def test_whole_checkpoints_are_loaded_once_each(base: Path, tmp_path: Path) -> None:
    agents = {f"generator-{n}": str(tiny_model(tmp_path / str(n), seed=10 + n)) for n in range(3)}
    requests = [ask(f"k{i}", "5" * (i + 1), f"generator-{i % 3}", seed=i) for i in range(12)]
    engine = engine_for(base, agents, tuning="full", batch_size=2)
    used: list[object] = []
    load = engine.load
    engine.load = lambda group: used.append(load(group)) or used[-1]
    made = run(engine, requests)
    assert len(used) > 3 and len(set(map(id, used))) == 3
    for n, folder in enumerate(agents.values()):
        alone = engine_for(Path(folder), batch_size=2)
        assert run(alone, [replace(one, model=None) for one in requests[n::3]]) == made[n::3]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_journal_spares_finished_batches(base: Path, adapters: dict[str, str], tmp_path: Path, tuning: str) -> None:
    """After a death in the third batch the first two are not computed again, and the others are those of before."""
    folders = adapters if tuning == "lora" else {name: str(base) for name in adapters}
    requests = [ask(f"k{i}", "9" * (i + 1), [*folders][i % 2], seed=i) for i in range(8)]

    def batches(last: int, journal: Journal) -> list[list[str]]:
        engine = engine_for(base, folders, tuning=tuning, batch_size=2, journal=journal)
        generate, made = engine._generate, list[list[str]]()

        def dying(batch):
            made.append([one.request.key for one in batch])
            if len(made) == last:
                raise RuntimeError("killed")
            return generate(batch)

        engine._generate = dying
        with contextlib.suppress(RuntimeError):
            completions.append(run(engine, requests))
        return made

    completions, path = list[list[Completion]](), tmp_path / "journal.jsonl"
    undisturbed = batches(9, Journal())
    assert batches(3, Journal(path)) == undisturbed[:3]
    with path.open("ab") as file:
        file.write(b'{"seconds": 1.0, "completions": [["abc", "torn')
    journal = Journal(path)
    assert len(journal) == 4 and journal.seconds > 0
    assert batches(9, journal) == undisturbed[2:]
    assert completions[0] == completions[1]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (RuntimeError("kernel"), "kernel"),
        (torch.OutOfMemoryError("no"), "1 requests at once need more memory"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_an_error_reaches_everybody_who_waits(base: Path, raised: Exception, says: str) -> None:
    engine = engine_for(base, batch_size=1)

    def broken(*_):
        raise raised

    if isinstance(raised, OSError):
        engine.journal.write = broken
    else:
        engine._generate = broken

    async def both() -> list[object]:
        return await asyncio.gather(engine.complete(ask("a")), engine.complete(ask("b")), return_exceptions=True)

    results = asyncio.run(both())
    assert all(says in str(result) for result in results)
    assert isinstance(results[0], OutOfMemory) == ("memory" in says)


def test_what_cannot_be_served_is_said(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no PEFT adapter for critic-0"):
        run(engine_for(base, {"critic-0": str(tmp_path)}), [ask("k")])
    with pytest.raises(PlatformError, match="no GPU"):
        pick_device("cuda")


def test_a_stop_within_a_batch_loses_none_of_it(base: Path, tmp_path: Path) -> None:
    counts: list[int] = []

    class Stop(Exception):
        pass

    def count(completions: int) -> None:
        counts.append(completions)
        if sum(counts) == 3:
            raise Stop

    engine = engine_for(base, on_batch=count, journal=Journal(tmp_path / "j"))
    requests = [ask(f"k{i}", seed=i, max_new_tokens=2 + 3 * i) for i in range(8)]
    with pytest.raises(Stop):
        run(engine, requests)
    engine.close()
    assert sum(counts) == 8 and max(counts) < 8
    assert engine.note().endswith(" tokens/s")
    assert len(Journal(tmp_path / "j")) == 8, "the batch was finished and is kept"
