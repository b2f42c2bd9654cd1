"""Which answers of a debate an agent is trained on (method, steps 2 to 4)."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli.select import command
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.debate.transcript import Transcript
from hpcmaf.errors import ConfigError, DataError, UsageError
from hpcmaf.selection.select import select, write_selection
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from tests.debate.scripted import changed, debate


def labels(*debates: Transcript, **rules) -> dict[str, dict[str, str]]:
    chosen = select(debates, Rules(**rules), seed=1, iteration=1)
    return {dataset.agent: dataset.labels for dataset in chosen.datasets}


def random_debates(count: int, seed: int = 0) -> list[Transcript]:
    draw = random.Random(seed)
    return [
        debate(f"p{i}", *([draw.choice(["1", "1", "1", "2", None]) for _ in range(3)] for _ in range(2)), gold="1")
        for i in range(count)
    ]


def store(path: Path, debates: list[Transcript], **info) -> Path:
    fields = {"task": "arithmetic", "answer_form": "number", "agents": 3, "rounds": 2, "iteration": 1}
    write_store(path, StoreInfo(**(fields | {"split": "train", "summaries": False} | info)), debates)
    return path


@pytest.mark.parametrize(
    ("rounds", "generators", "critics"),
    [
        # Generator 1 said 7 at once; generator 2 did not, nor is round 1's own vote asked for.
        ([["5", "7", "9"], ["7", "7", "9"]], ["", "+", ""], ["-", "+", ""]),
        # A generator keeps an answer that was right, even if it ends wrong.
        ([["7", "1", "2"], ["8", "7", "7"]], ["+", "", ""], ["", "-", "-"]),
        # What cannot be parsed began wrong.
        ([["7", "1", None], ["7", "7", "7"]], ["+", "", ""], ["+", "-", "-"]),
        # Middle rounds do not matter.
        ([["7", "1", "7"], ["1", "1", "1"], ["7", "7", "2"]], ["+", "", "+"], ["+", "-", ""]),
        # Answers match by equivalence, not by string.
        ([["0.5", "1/2", "2"], ["1/2", "0.50", "2"]], ["+", "+", ""], ["+", "+", ""]),
        # One round trains no critics.
        ([["7", "7", "1"]], ["+", "+", ""], ["", "", ""]),
    ],
)
def test_who_learns_what_from_a_debate(rounds, generators, critics):
    found, signs = labels(debate("a", *rounds)), {"positive": "+", "negative": "-"}
    for role, wanted in (("generator", generators), ("critic", critics)):
        assert [signs.get(found[f"{role}-{n}"].get("a"), "") for n in range(3)] == wanted


def test_disputed_leaves_out_critics_whose_others_agreed():
    # 7 and 7 against 9: to critic-2 the others agree, to the other two they do not.
    one = debate("a", ["7", "7", "9"], ["7", "7", "7"])
    found = labels(one, critics="disputed")
    assert [found[f"critic-{n}"] for n in range(3)] == [{"a": "positive"}, {"a": "positive"}, {}]
    assert found["generator-0"] == labels(one)["generator-0"] == {"a": "positive"}
    assert labels(one)["critic-2"] == {"a": "negative"}


def test_without_a_consensus_there_is_no_data():
    chosen = select([debate("a", ["7", "7", "7"], [None, None, None])], Rules(w=0.5), seed=1, iteration=1)
    assert chosen.unlabelled == ["a"] and not chosen.consensus
    assert not any(dataset.labels for dataset in chosen.datasets)
    tied = select([debate("a", ["1", "2"], ["1", "2"])], Rules(w=0.5), seed=1, iteration=1)
    assert tied.ties == 1 and tied.consensus["a"] in ("1", "2")


@pytest.mark.parametrize("fault", [debate("a", ["1"], ["1"]), debate("b", ["1", "1"])])
def test_mixed_or_repeated_debates_are_refused(fault):
    with pytest.raises(DataError, match=fault.problem.id):
        select([debate("a", ["1", "1"], ["1", "1"]), fault], Rules(w=0.5), seed=1, iteration=1)


def test_files_hold_chats_with_their_provenance(tmp_path):
    one = debate("a", ["7", "1"], ["7", "7"], ["7", "7"])
    summary = write_selection(
        store(tmp_path / "s.h5", [one], agents=2, rounds=3), tmp_path / "out", Rules(w=1.0), seed=1
    )
    generator = json.loads((tmp_path / "out/generator-0.jsonl").read_text())
    assert generator == {
        "messages": one.conversation(0, 1),
        "problem_id": "a",
        "round": 1,
        "label": "positive",
        "consensus": "7",
        "finish_reason": "stop",
    }
    critic = json.loads((tmp_path / "out/critic-1.jsonl").read_text())
    assert critic["messages"] == one.conversation(1, 3) and len(critic["messages"]) == 6
    assert (critic["round"], critic["label"]) == (3, "negative")
    assert (tmp_path / "out/generator-1.jsonl").read_text() == (tmp_path / "out/critic-0.jsonl").read_text() == ""
    assert summary == json.loads((tmp_path / "out/selection.json").read_text())
    assert summary["datasets"]["critic-0"]["positives"] == 1
    assert summary["datasets"]["critic-0"]["realised_w"] is None
    assert summary["datasets"]["critic-1"]["realised_w"] == 1.0


@pytest.mark.parametrize(
    ("mix", "w"), [("exact", 0), ("exact", 0.25), ("exact", 0.5), ("exact", 1), ("cap", 0.3), ("released", 0.3)]
)
def test_same_store_and_seed_same_bytes_as_many_as_are_counted(tmp_path, mix, w):
    source = store(tmp_path / "s.h5", random_debates(120))
    rules = Rules(w=w, mix=mix)
    summary, *_ = [write_selection(source, tmp_path / name, rules, seed=seed) for name, seed in zip("abc", (1, 1, 2))]
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert len(a) == 7 and a == b != c
    for agent, counts in summary["datasets"].items():
        lines = [json.loads(line) for line in a[f"{agent}.jsonl"].splitlines()]
        places = [int(line["problem_id"][1:]) for line in lines]
        assert places == sorted(set(places))  # in the order of the store
        negatives = sum(line["label"] == "negative" for line in lines)
        assert (len(lines), negatives) == (counts["kept"], counts["kept_negatives"])
        assert counts["candidates"] == counts["positives"] + counts["negatives"]
        assert counts["realised_w"] == negatives / len(lines)
        if agent.startswith("critic") and mix == "exact":
            assert abs(counts["realised_w"] - w) <= 1 / len(lines)


def test_gold_labels_are_not_read(tmp_path):
    debates = random_debates(40)
    poisoned = [replace(d, problem=replace(d.problem, gold="poison")) for d in debates]
    write_selection(store(tmp_path / "a.h5", debates), tmp_path / "a", Rules(w=0.5), seed=1)
    write_selection(store(tmp_path / "b.h5", poisoned), tmp_path / "b", Rules(w=0.5), seed=1)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_command_writes_prints_and_refuses(tmp_path):
    source, out = store(tmp_path / "s.h5", random_debates(8)), tmp_path / "out"
    arguments = [str(source), str(out), "--seed", "1", "--w"]
    done = CliRunner().invoke(command, [*arguments, "0.5"], catch_exceptions=False)
    assert json.loads(done.stdout) == json.loads((out / "selection.json").read_text())
    # Agents that learn from little are named; in one round nobody is a critic, so none lacks samples.
    assert "warning: iteration 1: fewer than 10 training samples (" in done.stderr and "critic-0: " in done.stderr
    once = store(tmp_path / "once.h5", [debate(f"p{i}", ["1", "1", "1"]) for i in range(12)], rounds=1)
    assert CliRunner().invoke(command, [str(once), *arguments[1:], "0.5"]).stderr == ""
    with pytest.raises(ConfigError, match="between 0 and 1"):
        CliRunner().invoke(command, [*arguments, "1.5"], catch_exceptions=False)
    CliRunner().invoke(command, [*arguments, "0.5", "--data", "union"], catch_exceptions=False)
    assert {path.name for path in out.iterdir()} == {"single.jsonl", "selection.json"}
    for data, error in (("all", ConfigError), ("gold", DataError)):
        with pytest.raises(error, match=f"data '{data}'"):
            CliRunner().invoke(command, [*arguments, "0.5", "--data", data], catch_exceptions=False)
    # A selection may be replaced; somebody's files may not.
    CliRunner().invoke(command, [*arguments, "0"], catch_exceptions=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("dear")
    with pytest.raises(UsageError, match="not a selection"):
        CliRunner().invoke(command, [str(source), str(tmp_path / "mine"), *arguments[2:], "0"], catch_exceptions=False)
    assert (tmp_path / "mine/letter").read_text() == "dear"


def cut_off(one: Transcript, *turns: tuple[int, int]) -> Transcript:
    """The same debate, in which the responses (round, agent) ended at the limit on tokens."""
    return changed(one, lambda turn: {"finish_reason": "length" if (turn.round, turn.agent) in turns else "stop"})


def kept_and_cut(one: Transcript, cut_off: str = "drop", **settings) -> tuple[set[str], dict[str, int]]:
    chosen = select([one], Rules(w=0.0, cut_off=cut_off), seed=1, iteration=1, **settings)
    cut = {dataset.agent: len(dataset.cut_off) for dataset in chosen.datasets if dataset.cut_off}
    return {dataset.agent for dataset in chosen.datasets if dataset.kept}, cut


def test_responses_that_were_cut_off_are_not_trained_on():
    one = cut_off(debate("a", ["7", "7", "7"], ["7", "7", "7"]), (1, 0), (2, 1))
    assert kept_and_cut(one) == (
        {"generator-1", "generator-2", "critic-0", "critic-2"},
        {"generator-0": 1, "critic-1": 1},
    )
    # With loss on all turns a critic is trained on its first answer, too.
    assert kept_and_cut(one, loss_on="all_turns") == (
        {"generator-1", "generator-2", "critic-2"},
        {"generator-0": 1, "critic-0": 1, "critic-1": 1},
    )
    everybody = {f"{role}-{n}" for role in ("generator", "critic") for n in range(3)}
    assert kept_and_cut(one, cut_off="keep") == (everybody, {"generator-0": 1, "critic-1": 1})
    unknown = changed(one, lambda turn: {"finish_reason": "unknown"})
    assert kept_and_cut(unknown) == (everybody, {})


def test_what_was_cut_off_is_counted_without_a_vote_too():
    assert kept_and_cut(cut_off(debate("a", [None, None], [None, None]), (1, 0))) == (set(), {"generator-0": 1})
    # Nobody plays a critic in one round.
    assert kept_and_cut(cut_off(debate("a", ["7", "7"]), (1, 0)))[1] == {"generator-0": 1}


def test_no_other_way_to_choose_takes_what_was_cut_off():
    one = cut_off(debate("a", ["7", "7", "7"], ["7", "7", "7"]), (1, 0), (2, 1))
    parts, _ = kept_and_cut(one, data="responses")
    assert parts == {"agent-0 round 2", "agent-1 round 1", "agent-2 round 1", "agent-2 round 2"}
    hinted = debate("a", ["4"], ["4"], gold="4")
    assert kept_and_cut(cut_off(hinted, (1, 0)), data="gold")[0] == {"hinted"}
    assert kept_and_cut(cut_off(hinted, (1, 0), (2, 0)), data="gold")[0] == set()


@pytest.mark.parametrize(("way", "kept"), [("drop", 0), ("keep", 1)])
def test_why_a_response_ended_is_in_the_files(tmp_path, way, kept):
    source = store(tmp_path / "s.h5", [cut_off(debate("a", ["7", "7"], ["7", "7"]), (2, 1))], agents=2)
    counts = write_selection(source, tmp_path / "d", Rules(w=0.0, cut_off=way), seed=1)["datasets"]["critic-1"]
    assert (counts["candidates"], counts["kept"], counts["cut_off"]) == (kept, kept, 1)
    assert (tmp_path / "d/critic-1.jsonl").read_text().count('"finish_reason": "length"') == kept
    assert '"finish_reason": "stop"' in (tmp_path / "d/critic-0.jsonl").read_text()


@pytest.mark.parametrize("thinking", ["keep", "strip"])
@pytest.mark.parametrize("data", ["own", "pairs"])
def test_thoughts_are_kept_or_not_in_the_trained_turn_alone(thinking: str, data: str, tmp_path: Path) -> None:
    debates = [changed(one, lambda turn: {"text": f"<think>why</think> {turn.text}"}) for one in random_debates(30)]
    write_selection(
        store(tmp_path / "s.h5", debates), tmp_path / "d", Rules(w=0.5), seed=0, data=data, thinking=thinking
    )
    lines = [json.loads(line) for path in (tmp_path / "d").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert lines
    for line in lines:
        read = line["messages"][:-1] if data == "own" else line["prompt"]
        trained = [line["messages"][-1]] if data == "own" else line["chosen"] + line["rejected"]
        assert not [turn for turn in read if "why" in turn["content"]]
        assert all(
            turn["content"].startswith("<think>why</think> text" if thinking == "keep" else "text") for turn in trained
        )
