"""Debates that cost less or are counted otherwise, and runs that end at the alarm: whole iterations through the stages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcmaf.cli import cli
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.debate.consensus import consensus, undecided
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines import Request
from hpcmaf.errors import DataError
from hpcmaf.evaluation.alarm import SCHEMA, readings, signals
from hpcmaf.files.publish import write_json
from hpcmaf.jobs.serving import last_society
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.report.report import aggregate
from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from tests.jobs.playing import SHAPE, M, N, Played, play, prepare, reply, run_task

OPTIONS = ("stop=unanimous", "listen=ring", "listen=2", "vote=weighted", "aggregate=judge")
STORES = [(0, "eval"), (1, "debate"), (1, "eval"), (2, "debate"), (2, "eval")]


def often_right(request: Request) -> str:
    """Agreed rounds occur, and so do split ones; a judge may name what nobody said."""
    _, _, kind, agent = request.key.split("/")
    if kind == "judge":
        return "Answer: 77777" if request.seed % 3 == 0 else reply(request).replace("=", "Answer: ")
    drawn = reply(request).replace("=", "Answer: ").replace("so ", "Answer: ")
    easy = sum(map(ord, request.key.split("/")[0])) % 3
    return "Answer: 5" if easy == 0 or (easy == 1 and request.seed % 2) or kind == "summary" else drawn


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Played]]:
    """The full debate and each option, with the same seeds: an engine that is played answers by its seed alone."""
    root = tmp_path_factory.mktemp("cheaper")
    with pytest.MonkeyPatch.context() as patch:
        made = {}
        for name in ("full", *OPTIONS):
            more = () if name == "full" else (f"debate.{name}",)
            made[name] = play(root / name, patch, "task.prompts=default", *more, say=often_right)
        yield made


def both(runs: dict[str, Played], option: str) -> Iterator[tuple[int, Transcript, Transcript]]:
    for t, kind in STORES:
        for full, cheap in zip(runs["full"].debates(t, kind), runs[option].debates(t, kind), strict=True):
            yield t, full, cheap


def test_a_debate_that_stops_has_the_vote_of_the_round_it_stops_at(runs: dict[str, Played]) -> None:
    ended: Counter[int] = Counter()
    for t, full, cheap in both(runs, "stop=unanimous"):
        votes = [consensus(full, m, 0, t) for m in range(1, M + 1)]
        agreed = [m for m, vote in enumerate(votes, 1) if vote.votes == N]
        assert cheap.ended == (agreed[0] if agreed else M) and (cheap.rounds, cheap.agents) == (M, N)
        assert cheap.answers[: cheap.ended] == full.answers[: cheap.ended]
        assert consensus(cheap, M, 0, t) == votes[cheap.ended - 1]
        later = [turn for turns in (*cheap.answers[cheap.ended :], *cheap.summaries[cheap.ended - 1 :]) for turn in turns]
        assert not any(turn.prompt or turn.text or turn.completion_tokens for turn in later)
        ended[cheap.ended] += 1
    assert set(ended) == {1, 2, 3}, "each kind has to occur, or nothing was tested"


def test_rounds_that_are_not_held_cost_nothing_and_train_nobody(runs: dict[str, Played]) -> None:
    run, full = runs["stop=unanimous"], runs["full"]
    for t, kind in STORES:
        stage = f"it{t:02d}/{kind}"
        held = sum(N * (2 * debate.ended - 1) for debate in run.debates(t, kind))
        assert len(run.requests[stage]) == held < len(full.requests[stage])
        rows = json.loads(run.run.ledger(t).read_text())["rows"]
        assert sum(row["calls"] for row in rows if row["stage"] == kind) == held
    for t in (1, 2):
        ended = Counter(debate.ended for debate in run.debates(t))
        found = json.loads((run.run.data(t) / "selection.json").read_text())["datasets"]
        for n in range(N):
            assert found[f"critic-{n}"]["stopped"] == ended[1] + ended[2] and "stopped" not in found[f"generator-{n}"]
            rounds = {line["problem_id"]: line["round"] for line in run.lines(t, f"critic-{n}").values()}
            by_id = {debate.problem.id: debate.ended for debate in run.debates(t)}
            assert rounds and all(m == by_id[problem] > 1 for problem, m in rounds.items())


@pytest.mark.parametrize("option", ["listen=ring", "listen=2"])
def test_sparse_debates_read_fewer_answers(runs: dict[str, Played], option: str) -> None:
    heard = set()
    for _, _, cheap in both(runs, option):
        for m, turns in enumerate(cheap.summaries, 2):
            for n, summary in enumerate(turns):
                read = summary.prompt.split("Solution ")[1:]
                texts = [part.split("\n", 1)[1].split("\n\n")[0] for part in read]
                before = [turn.text for turn in cheap.answers[m - 2]]
                assert all(text in before for text in texts) and len(texts) == (1 if option == "listen=ring" else 2)
                if option == "listen=ring":
                    assert texts == [before[n - 1]]
                heard.add((n, tuple(texts)))
    assert len(heard) > N


def test_weights_are_of_training_debates_alone(runs: dict[str, Played]) -> None:
    run, differs = runs["vote=weighted"], 0
    agreement = {t: json.loads((run.run.data(t) / "selection.json").read_text())["agreement"] for t in (1, 2)}
    for t, kind in STORES:
        source = t - (kind == "debate")
        for debate in run.debates(t, kind):
            assert list(debate.weights) == (agreement[source] if source else [])
            votes: Counter[str] = Counter()
            for turn, weight in zip(debate.answers[-1], debate.weights or [1] * N, strict=True):
                votes[str(turn.answer)] += weight if turn.answer else 0
            found = consensus(debate, M, 0, t)
            assert found.answer is None or votes[found.answer] == max(votes.values())
            plain = consensus(Transcript(debate.problem, debate.answers), M, 0, t)
            differs += found.answer != plain.answer
    assert differs, "weights never mattered, so nothing was tested"
    labels = [run.label(1, debate) for debate in run.debates(1)]
    agreed = [[debate.answers[-1][n].answer == label for n in range(N)] for debate, label in zip(run.debates(1), labels)]
    labelled = sum(label is not None for label in labels)
    assert agreement[1] == [sum(row[n] for row, label in zip(agreed, labels) if label) / labelled for n in range(N)]


def test_a_judge_picks_among_the_answers_or_the_vote_counts(runs: dict[str, Played]) -> None:
    run, kinds = runs["aggregate=judge"], Counter[str]()
    for t, full, judged in both(runs, "aggregate=judge"):
        said = {turn.answer for turn in judged.answers[-1]} - {None}
        choice, found = judged.judgement, consensus(judged, M, 0, t)
        kind = "not asked" if not choice.prompt else "undecided" if choice.answer not in said else "chosen"
        assert (kind == "not asked") == (len(said) < 2) and undecided(judged) == (kind == "undecided")
        assert found == consensus(full, M, 0, t) if kind != "chosen" else found.answer == choice.answer
        kinds[kind] += 1
    assert min(kinds.values()) > 3 and len(kinds) == 3
    for t, kind in STORES:
        asked = [debate for debate in run.debates(t, kind) if debate.judgement.prompt]
        path = run.run.metrics(t) if kind == "eval" else run.run.data(t) / "selection.json"
        found = json.loads(path.read_text())
        share = (found if kind == "eval" else found["health"])["undecided"]
        assert share == sum(map(undecided, asked)) / len(asked)
    rows = json.loads(run.run.ledger(1).read_text())["rows"]
    assert sum(row["calls"] for row in rows if row["agent"] == "judge") > 0


def test_stores_are_sound_and_the_report_tells_what_was_saved(runs: dict[str, Played], tmp_path: Path) -> None:
    assert all(verify(played.run.root) == [] for played in runs.values())
    text = aggregate([played.run.root for played in runs.values()], tmp_path / "report").markdown()
    table = text.partition("## Cost by method")[2].partition("\n## ")[0]
    assert [name for name in OPTIONS if name in table] == list(OPTIONS) and "=None" not in text
    assert "of the judge's replies none of the answers" in text
    shown = CliRunner().invoke(cli, ["inspect", str(runs["aggregate=judge"].run.store(1, "eval"))])
    assert "with summaries, and a judge" in shown.output


# --- the alarm -------------------------------------------------------------------


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    """At most four iterations; from the second on agents say one thing, whatever the problem."""
    played = prepare(tmp_path / "run", monkeypatch, "iterations={auto: 9}", say=lambda r: say(r), iterations=4)
    stage_id = ""

    def say(request: Request) -> str:
        return "=7" if stage_id >= "it02/eval" else often_right(request)

    for stage in played.plan.stages:
        if stage.id not in {left.id for left in played.run.load_plan().stages}:
            break
        stage_id = stage.id
        for task in stage.tasks:
            run_task(played.run, played.plan, stage, task)
    return played


def test_an_alarm_ends_the_run_and_says_what_to_keep(ended: Played) -> None:
    run = ended.run
    assert ended.plan.iterations == 4 and ended.plan.stage("it02/debate").after[-1] == "it01/score"
    assert [stage.id for stage in run.load_plan().stages][-1] == "it02/score" and run.iterations() == [0, 1, 2]
    quiet, rung = readings(run)[:2], readings(run)[2]
    assert not any(one.alarm for one in quiet) and len(rung.alarm) > 1 and "on fewer different answers" in rung.alarm[0]
    best = max(quiet, key=lambda one: (one.agreement, one.iteration)).iteration
    value = json.loads(run.ended.read_text())
    assert value == {"iteration": 2, "kept": best, "alarm": list(rung.alarm)}
    assert last_society(run, ended.recipe) == best
    status = CliRunner().invoke(cli, ["status", str(run.root)])
    assert "done" in status.output and f"the one to keep is iteration {best}" in " ".join(status.output.split())
    text = aggregate([run.root], run.report).markdown()
    assert f"maft, iteration {best} (kept), against" in text and "alarm: iteration 2" in text and "not evaluated" not in text


def test_damaged_signals_are_named_and_stop_nothing(ended: Played) -> None:
    ended.run.signals(1).write_text('{"schema": "hpcmaf-signals/1"}')
    assert CliRunner().invoke(cli, ["status", str(ended.run.root)]).exit_code == 0
    assert "agreement: Field required); no signs" in aggregate([ended.run.root], ended.run.report).markdown()
    ended.run.ended.write_text("{}")
    result = CliRunner().invoke(cli, ["status", str(ended.run.root)])
    assert isinstance(result.exception, DataError) and "ended.json" in str(result.exception)


def test_an_ended_run_stays_ended_until_it_is_wanted_longer(ended: Played) -> None:
    local = load_profile("local", ("generation.problems_per_shard=25",))
    assert prepare_run(ended.run, ended.recipe, local).stages[-1].id == "it02/score"
    longer = load_recipe(overrides=SHAPE, iterations=5)
    assert prepare_run(ended.run, longer, local).stages[-1].id == "it05/score"


def test_it_is_an_alarm_if_ever_more_of_the_base_is_overruled(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for t, others in enumerate((0, 3, 5)):
        found = {"agreement": 0.9, "distinct": 0.5, "length": 9.0, "problem_ids": [f"p{n}" for n in range(20)]}
        found |= {"votes": ["2"] * others + ["1"] * (20 - others), "agreed": [True] * 20}
        run.signals(t).parent.mkdir()
        write_json(run.signals(t), {"schema": SCHEMA} | found)
    assert [one.overruled for one in readings(run)] == [None, 0.15, 0.25]
    assert [len(one.alarm) for one in readings(run)] == [0, 0, 1]


def test_one_answer_a_problem_is_no_agreement(runs: dict[str, Played]) -> None:
    debates = runs["full"].debates(1, "eval")
    alone = [replace(one, answers=((one.answers[0][0],),), summaries=()) for one in debates]
    assert any(signals(debates, seed=0, iteration=1)["agreed"])
    assert not any(signals(alone, seed=0, iteration=1)["agreed"])
