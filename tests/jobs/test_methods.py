"""Every row of the table of methods, through the real stages with a played engine and finetuning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.debate.methods import METHODS
from hpcmaf.engines import Request
from hpcmaf.errors import ConfigError, DataError
from hpcmaf.files import publish
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from tests.jobs.playing import MUTE, N, Played, play, reply

SMALL = ("debate.rounds=2", "task.train=24", "task.eval=6", "task.prompts=default")
AGENTS = [f"{role}-{n}" for role in ("generator", "critic") for n in range(N)]


@pytest.fixture(scope="module", autouse=True)
def _no_sync() -> Iterator[None]:
    """Nobody pulls the plug here, and forcing thousands of small files to disk takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "sync", lambda path: None)
        yield


def said(request: Request) -> str:
    """What a chat model would write."""
    return reply(request).replace("=", "Answer: ").replace("so ", "Answer: ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """Two iterations of every method."""
    root = tmp_path_factory.mktemp("methods")
    with pytest.MonkeyPatch.context() as patch:
        return {name: play(root / name, patch, *SMALL, f"method={name}", say=said) for name in METHODS}


def kinds(played: Played, stage: str) -> Counter[str]:
    """Requests of a stage by round and kind."""
    return Counter("/".join(request.key.split("/")[1:3]) for request in played.requests[stage])


def test_the_table_is_the_papers() -> None:
    assert list(METHODS) == [
        *("base", "majority", "debate", "star", "majority-ft", "single-agent-ft", "single-agent-ft-no-debate"),
        *("maft", "maft-no-summary", "maft-no-critic", "unique-id", "cooperative", "cooperative-ft"),
        *("single-agent-ft-hot", "no-interaction", "union-data", "maft-dpo", "maft-kto", "maft-grpo", "distil"),
    ]


def test_what_each_method_asks_in_evaluation(runs: dict[str, Played]) -> None:
    answer, vote = {"r1/answer": 6}, {"r1/answer": 6 * N}
    bare = vote | {"r2/answer": 6 * N}
    whole = bare | {"r2/summary": 6 * N}
    wanted = dict.fromkeys(METHODS, whole) | {
        "base": answer,
        "majority": vote,
        "star": answer,
        "majority-ft": vote,
        "single-agent-ft-no-debate": answer,
        "distil": answer,
        "maft-no-summary": bare,
    }
    for name, played in runs.items():
        for t in (0, 2) if METHODS[name].trained != "none" else (0,):
            assert kinds(played, f"it{t:02d}/eval") == wanted[name], name
            metrics = json.loads(played.run.metrics(t).read_text())
            assert (metrics["method"], metrics["problems"]) == (name, 6)


def test_no_interaction_is_maft_but_for_who_answers_first(runs: dict[str, Played]) -> None:
    """Trained on the very same data; in evaluation generator-0 gives all first answers."""
    maft, fixed = runs["maft"], runs["no-interaction"]
    for t in (1, 2):
        for path in maft.run.data(t).iterdir():
            assert path.read_bytes() == (fixed.run.data(t) / path.name).read_bytes()
    first = [r for r in fixed.requests["it01/eval"] if "/r1/" in r.key]
    assert {request.model for request in first} == {"generator-0"}
    assert len({request.seed for request in first}) == len(first), "each agent draws its own answer"
    critics = {r.model for r in fixed.requests["it01/eval"] if "/r2/answer/" in r.key}
    assert critics == set(AGENTS[N:])


def test_ids_and_roles_begin_the_agents_prompts(runs: dict[str, Played]) -> None:
    for request in runs["unique-id"].requests["it00/eval"]:
        _, round, kind, agent = request.key.split("/")
        text = request.messages[-1]["content"]
        if kind == "summary":
            assert "You are" not in text
        else:
            mark = f"{'GEN' if round == 'r1' else 'CRIT'}{int(agent) + 1}"
            assert text.startswith(f"You are {mark}, a {'generation' if round == 'r1' else 'critic'} agent")


def test_cooperation_changes_critics_prompts_alone(runs: dict[str, Played]) -> None:
    plain, together = (
        {r.key: r.messages[-1]["content"] for r in runs[name].requests["it00/eval"]}
        for name in ("debate", "cooperative")
    )
    assert plain.keys() == together.keys()
    for key, text in together.items():
        assert ("joint solution" in text) == ("/r2/answer" in key)
        assert (text == plain[key]) == ("/r2/answer" not in key)


# --- data ---------------------------------------------------------------------


def samples(played: Played, t: int, agent: str) -> Counter[str]:
    lines = played.run.dataset(t, agent).read_text().splitlines()
    return Counter(json.dumps(json.loads(line)["messages"]) for line in lines)


def test_star_retries_wrong_answers_with_a_hint_and_forgets_the_hint(runs: dict[str, Played]) -> None:
    played = runs["star"]
    hinted = {r.key.split("/")[0] for r in played.requests["it01/debate"] if "/r2/" in r.key}
    wanted: Counter[str] = Counter()
    for debate in played.debates(1):
        gold, (first,), (second,) = debate.problem.gold, *debate.answers
        assert (debate.problem.id in hinted) == (first.answer != gold)
        if debate.problem.id in hinted:
            assert f"the correct final answer is {gold}." in second.prompt
        if gold in (first.answer, second.answer):
            text = first.text if first.answer == gold else second.text
            turns = [{"role": "user", "content": first.prompt}, {"role": "assistant", "content": text}]
            wanted[json.dumps(turns)] += 1
    assert samples(played, 1, "single") == wanted
    assert 0 < len(hinted) < 24 and wanted.total() < 24, "each kind has to occur"
    assert not any("Hint" in line for line in samples(played, 1, "single"))
    assert json.loads(played.run.metrics(1).read_text())["pseudo_labels"] is None
    rows = json.loads(played.run.ledger(1).read_text())["rows"]
    assert sum(row["calls"] for row in rows if row["stage"] == "debate") == 24 + len(hinted)


def poisoned(folder: Path, gold: str | None) -> Path:
    """Training problems with this gold answer; evaluation problems keep theirs."""
    folder.mkdir()
    rows = [{"id": f"t{i}", "question": f"{i}+1"} | ({} if gold is None else {"answer": gold}) for i in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test = [{"id": f"e{i}", "question": f"{i}+2*{i}", "answer": "1"} for i in range(2)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    return folder


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trained != "none"])
def test_gold_is_read_by_star_and_evaluation_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Poisoned gold, or none, changes no request and no training set of any method but STaR."""
    outcomes: list[Any] = []
    for gold in ("1", "poison", None):
        source = poisoned(tmp_path / f"{gold}", gold)
        data = ("task.name=jsonl", f"task.source={source}", "task.train=8", "task.eval=2", "debate.agents=2")
        if (name, gold) == ("star", None):
            with pytest.raises(DataError, match="no problem has a gold answer"):
                play(tmp_path / "run", monkeypatch, *SMALL, *data, f"method={name}", say=said)
            continue
        done = play(tmp_path / f"run {gold}", monkeypatch, *SMALL, *data, f"method={name}", say=said, iterations=1)
        asked = {s: sorted((r.key, str(r.messages), r.seed) for r in rs) for s, rs in done.requests.items()}
        outcomes.append((asked, {p.name: p.read_bytes() for p in done.run.data(1).iterdir()}))
    assert any(content for file, content in outcomes[0][1].items() if file.endswith(".jsonl"))
    if name == "star":
        assert len(outcomes) == 2 and outcomes[0] != outcomes[1]
    else:
        assert len(outcomes) == 3 and outcomes[0] == outcomes[1] == outcomes[2]


# --- choosing one ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["unique-id", "cooperative", "cooperative-ft"])
def test_the_micro_models_prompts_have_no_words_for_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="compact prompts have no words"):
        prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=[f"method={name}"]), load_profile())
    assert not (tmp_path / "run").exists()


def test_nobody_can_answer_and_nothing_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty training sets, in every method that trains."""
    for name in ("maft", "star", "majority-ft", "union-data"):
        done = play(tmp_path / name, monkeypatch, *SMALL, "debate.agents=2", f"method={name}", say=lambda _: MUTE)
        counts = json.loads((done.run.data(2) / "selection.json").read_text())["datasets"]
        assert {count["kept"] for count in counts.values()} == {0}


def test_transfer_trains_on_one_task_and_is_evaluated_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = poisoned(tmp_path / "other", "1")
    other = f"{{name: jsonl, source: '{source}'}}"
    done = play(tmp_path / "run", monkeypatch, *SMALL, "task.eval=2", f"evaluate_on={other}", say=said, iterations=1)
    train, held = (done.run.read_problems(split, done.plan) for split in ("train", "eval"))
    assert all(problem.id.startswith("arithmetic-") for problem in train) and len(train) == 24
    assert {problem.id for problem in held} == {"e0", "e1"}
    metrics = json.loads(done.run.metrics(1).read_text())
    assert (metrics["task"], metrics["trained_on"]) == ("jsonl", "arithmetic")
    assert "the expression below" not in done.requests["it01/eval"][0].messages[0]["content"]
    assert "the expression below" in done.requests["it01/debate"][0].messages[0]["content"]
