"""Several engines over one queue, and one engine over several models; with engines of clockwork in vLLM's place."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.debate.protocol import Protocol, debate
from hpcmaf.debate.society import Society
from hpcmaf.engines import Completion, Request, Sampling, ServedModels
from hpcmaf.engines.journal import Journal
from hpcmaf.engines.vllm_devices import environments
from hpcmaf.engines.vllm_engine import VllmEngine
from hpcmaf.engines.vllm_messages import Made
from hpcmaf.engines.vllm_options import EngineSpec, VllmOptions
from hpcmaf.errors import EngineError, PlatformError
from hpcmaf.micro import base_path
from hpcmaf.tasks import get_task

TURN = 0.001


class Clockwork:
    """An engine that makes a token of each of its first ``seats`` requests per turn, and says only ``1``."""

    made: list[Clockwork] = []

    def __init__(self, environment: Any, model: str | None = None) -> None:
        self.environment, self.prepared = environment, model
        self.rows: list[list[Any]] = []
        self.steps: list[int] = []
        self.served: list[Any] = []
        self.ended = self.dead = False
        self.made.append(self)

    def begin(self, spec: EngineSpec, hear: Callable[[tuple[Any, ...]], None]) -> None:
        self.spec, self.hear = spec, hear
        self.number = int(self.environment.get("NUMBER", "0"))
        hear(("ready", {"context": 1024, "memory": 5 + self.number, "weights": 3}))
        self.loop = asyncio.get_running_loop()
        self.loop.call_later(TURN, self.turn)

    def send(self, message: Any) -> None:
        self.served += message[1]
        # Answers of a debate end one by one.
        self.rows += [[row, row.tokens + row.seed % 7] for row in message[1]]

    def turn(self) -> None:
        if self.ended or self.dead:
            return
        now = self.rows[: self.spec.options.seats("cpu")]
        self.steps.append(len(now))
        for entry in now:
            entry[1] -= 1
        done = [entry for entry in now if entry[1] <= 0]
        self.rows = [entry for entry in self.rows if entry[1] > 0]
        if done:
            one = VOCABULARY["1"]
            self.hear(("done", [Made(row.id, (one,), None, None, 2) for row, _ in done], 7))
        self.loop.call_later(TURN, self.turn)

    def die(self) -> None:
        self.dead = True
        self.hear(("failed", "crash", "its process ended (killed by SIGKILL)"))

    def close(self) -> None:
        self.ended = True

    kill = close


VOCABULARY: dict[str, int] = {}


@pytest.fixture(autouse=True)
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Clockwork]]:
    from hpcmaf.chat import ChatFormat

    VOCABULARY.update(ChatFormat.from_pretrained(str(base_path())).tokenizer.get_vocab())
    monkeypatch.setattr("hpcmaf.engines.vllm_life.ProcessLink", Clockwork)
    monkeypatch.setattr("hpcmaf.engines.vllm_engine.find_spec", lambda name: True)
    monkeypatch.setattr(Clockwork, "made", [])
    yield Clockwork


def engine_of(agents: dict[str, str] | None = None, tuning: str = "lora", **more: Any) -> VllmEngine:
    own = {key: more.pop(key) for key in ("journal", "on_batch", "halvings") if key in more}
    served = ServedModels(str(base_path()), tuning, agents or {}, "float32")  # type: ignore[arg-type]
    return VllmEngine(served, VllmOptions(**more), device="cpu", **own)


def ask(key: str, tokens: int = 5, model: str | None = None, temperature: float = 1.0, text: str = "1+2") -> Request:
    return Request(key, ({"role": "user", "content": text},), model, 0, Sampling(temperature, 0.9, tokens))


def run(engine: VllmEngine, requests: list[Request]) -> list[Completion]:
    async def together() -> list[Completion]:
        made = await asyncio.gather(*(engine.complete(request) for request in requests))
        engine.close()
        return made

    return asyncio.run(together())


def test_engines_share_a_queue() -> None:
    """All have work to the end, nothing is made twice, and none hoards what another could take."""
    counts: list[int] = []
    engine = engine_of(engines=3, max_num_seqs=16, on_batch=counts.append)
    # The first third is long: cut by count beforehand, one engine would have it all.
    requests = [ask(f"p{i}/r1/answer/0", 60 if i < 200 else 6) for i in range(600)]
    made = run(engine, requests)
    assert [completion.text for completion in made] == ["1"] * 600
    assert sum(counts) == 600
    links = Clockwork.made
    assert len(links) == 3
    assert sorted(row.id for link in links for row in link.served) == list(range(600))
    work = [sum(link.steps) for link in links]
    assert sum(work) == 200 * 60 + 400 * 6
    assert max(work) < 1.25 * min(work)
    idle = [link.steps.count(0) for link in links]
    assert max(idle) < 0.2 * max(len(link.steps) for link in links), "and they end together"


def test_a_problems_calls_stay_with_the_engine_that_has_read_it() -> None:
    engine = engine_of(engines=2, max_num_seqs=32)
    where: dict[str, list[int]] = {}

    async def problem(name: str) -> None:
        for turn in range(6):
            await engine.complete(ask(f"{name}/r{turn}/answer/0", 3 + int(name[1:]) % 5))

    async def hold() -> None:
        await asyncio.gather(*(problem(f"p{i}") for i in range(200)))
        engine.close()

    send = engine._send

    def watched(seat: Any, dealt: list[Any]) -> None:
        for waiting in dealt:
            where.setdefault(waiting.request.key.partition("/")[0], []).append(seat.number)
        send(seat, dealt)

    engine._crew._send = watched
    asyncio.run(hold())
    moves = sum(a != b for seats in where.values() for a, b in zip(seats, seats[1:], strict=False))
    # 200 to 335 of 1000 in six runs: who is busier depends on the clock. Chance alone gives 500, give or take 16.
    assert moves < 0.45 * 200 * 5, "half of them, were it left to chance"
    assert len({seats[0] for seats in where.values()}) == 2
    assert (engine.reused_tokens, engine.weights_bytes, engine.peak_memory_bytes) == (2 * 1200, 3, 7)


NAMES = [f"{role}-{n}" for role in ("generator", "critic") for n in range(3)]


def hold_debates(engine: VllmEngine, problems: int, rounds: int) -> list[str]:
    """Debates of full finetuned agents; returns the models in the order in which they were loaded."""
    task = get_task("arithmetic")
    asked = task.splits(None, 1, problems, 0, None).eval
    sampling = Sampling(1.0, 0.9, 5)
    protocol = Protocol(rounds, True, task.prompts("compact"), task.answer_form("compact"), sampling, 0, 1)

    async def hold() -> None:
        await asyncio.gather(*(debate(problem, Society.of(3, NAMES), protocol, engine) for problem in asked))
        engine.close()

    asyncio.run(hold())
    return [Path(link.spec.model).name for link in Clockwork.made if hasattr(link, "spec")]


def whole(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in NAMES}


@pytest.mark.parametrize("resumed", [False, True])
def test_whole_models_are_loaded_as_seldom_as_the_protocol_allows(tmp_path: Path, resumed: bool) -> None:
    """Round 1 needs each generator once, every later round the base and each critic; also from half a journal.

    While one works, the one that comes next is read.
    """
    base = base_path().name
    journal = Journal(tmp_path / "j")
    if resumed:
        hold_debates(engine_of(whole(tmp_path), "full", journal=journal), 40, 2)
        lines = (tmp_path / "j").read_text()
        half = lines[: lines.index("}", len(lines) // 2)]  # torn
        (tmp_path / "j").write_text(half)
        Clockwork.made.clear()
        journal = Journal(tmp_path / "j")
    loads = hold_debates(engine_of(whole(tmp_path), "full", journal=journal), 40, 3)
    each = Counter(loads)
    assert each[base] <= 2
    assert all(each[name] <= 1 for name in NAMES[:3])
    assert all(each[name] <= 2 for name in NAMES[3:])
    if not resumed:
        assert loads[:4] == [*NAMES[:3], base]
        assert len(loads) == 3 + 2 * (1 + 3)
    ready = [link for link in Clockwork.made if hasattr(link, "spec")]
    foretold = [Path(link.prepared).name == Path(link.spec.model).name for link in ready if link.prepared]
    assert all(foretold)
    assert len(foretold) >= len(loads) // 2
    assert all(link.ended for link in Clockwork.made)


def test_two_engines_take_whole_models_by_turns(tmp_path: Path) -> None:
    """Each model is on one of them, and none is loaded for a handful of requests, only to be loaded again."""
    loads = hold_debates(engine_of(whole(tmp_path), "full", engines=2, max_num_seqs=16), 40, 2)
    each = Counter(loads)
    assert set(loads) == {*NAMES, base_path().name}
    assert sum(each.values()) <= 8
    assert set(loads[:2]) == set(NAMES[:2])


def test_one_of_two_engines_dies() -> None:
    """The other works on; the dead one is started again, and its requests are not lost. A second death ends all."""
    engine = engine_of(engines=2, max_num_seqs=16)
    requests = [ask(f"p{i}", 8) for i in range(300)]

    async def disturbed() -> list[Any]:
        tasks = [asyncio.ensure_future(engine.complete(request)) for request in requests]
        while not engine.seats[1].in_flight:
            await asyncio.sleep(TURN)
        link: Any = engine.seats[1].life._link
        link.die()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def twice() -> tuple[list[Any], list[Any]]:
        return await disturbed(), await disturbed()

    first, heard = asyncio.run(twice())
    assert [completion.text for completion in first] == ["1"] * 300
    assert len(Clockwork.made) == 3
    errors = {str(error) for error in heard if isinstance(error, EngineError)}
    assert errors == {"vLLM stopped working a second time: its process ended (killed by SIGKILL); see the task's log"}
    assert all(link.ended or link.dead for link in Clockwork.made)


def test_what_leaves_nothing_to_chance_is_made_once(tmp_path: Path) -> None:
    """Greedy agents who are asked the same; each has its own row in the journal. Draws stay everybody's own."""
    counts: list[int] = []
    engine = engine_of(journal=Journal(tmp_path / "j"), on_batch=counts.append)
    same = [ask(f"p0/r1/answer/{n}", temperature=0.0) for n in range(3)]
    other = [ask("p0/r1/answer/3", temperature=0.0, text="1+3"), ask("p0/r1/answer/4", 6, temperature=0.0)]
    drawn = [ask(f"p1/r1/answer/{n}") for n in range(3)]
    made = run(engine, [*same, *other, *drawn])
    assert [completion.text for completion in made] == ["1"] * 8
    (link,) = Clockwork.made
    assert len(link.served) == 1 + 2 + 3
    assert sum(counts) == 8
    journal = Journal(tmp_path / "j")
    assert [journal.find(request) for request in (*same, *other, *drawn)] == made


def test_what_was_about_to_be_written_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is interrupted when the thread for the disk has not begun yet."""

    async def never(*_: Any) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr("asyncio.to_thread", never)
    monkeypatch.setattr("hpcmaf.engines.vllm_record._SECONDS", 0.0)
    requests = [ask(f"p{i}") for i in range(20)]
    made = run(engine_of(journal=Journal(tmp_path / "j")), requests)
    journal = Journal(tmp_path / "j")
    assert [journal.find(request) for request in requests] == made


def test_memory_that_ran_out_before_is_not_asked_for_again() -> None:
    sizes = [engine_of(max_num_seqs=64, halvings=n).seats[0].size for n in (0, 1, 2, 9)]
    assert sizes == [64, 32, 16, 16]


def test_each_engine_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,MIG-6,7")
    values = [own["CUDA_VISIBLE_DEVICES"] for own in environments("cuda", VllmOptions(engines=2, tensor_parallel=2))]
    assert values == ["4,5", "MIG-6,7"]
    assert environments("cuda", VllmOptions(tensor_parallel=2)) == [{}], "one engine has all there are"
    assert environments("cpu", VllmOptions(engines=2)) == [{}, {}]
    with pytest.raises(PlatformError, match="5 engines of 1 GPU each, but this task sees 4; lower generation.engines"):
        environments("cuda", VllmOptions(engines=5))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert environments("cuda", VllmOptions(engines=2)) == [{"CUDA_VISIBLE_DEVICES": n} for n in "01"]
