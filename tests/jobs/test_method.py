"""The method, fact by fact: sections "One iteration" and "Traps" of its specification.

Two iterations of four agents in three rounds, through the real stages, store,
selection and scoring. Only what needs a model is played: an engine that
answers by the request's seed, and finetuning that writes down its job.
Facts about one room alone are tested in that room's own folder.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.cli import main
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.engines import Request
from hpcmaf.errors import LeakError
from hpcmaf.launch.advance import recover
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from hpcmaf.store.verify import verify
from hpcmaf.tasks import get_task
from hpcmaf.tasks.splits import Splits
from tests.jobs.playing import EVAL, MUTE, SHAPE, TRAIN, M, N, Played, play, prepare, reply, run_task, tasks


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    with pytest.MonkeyPatch.context() as patch:
        return play(tmp_path_factory.mktemp("method") / "run", patch)


def agents(role: str) -> list[str]:
    return [f"{role}-{n}" for n in range(N)]


# --- 1: debate ----------------------------------------------------------------


def test_every_training_problem_is_debated_and_every_evaluation_problem_evaluated(played: Played) -> None:
    """Trap: evaluating on training problems. Each split is where it belongs, whole, and they share nothing."""
    ids = {s: [p.id for p in played.run.read_problems(s, played.plan)] for s in ("train", "eval")}
    assert (len(ids["train"]), len(ids["eval"])) == (TRAIN, EVAL)
    assert not set(ids["train"]) & set(ids["eval"])
    for t in (0, 1, 2):
        assert [d.problem.id for d in played.debates(t, "eval")] == ids["eval"]
    for t in (1, 2):
        assert [d.problem.id for d in played.debates(t)] == ids["train"]


def test_calls_per_problem_for_any_agents_and_rounds(played: Played) -> None:
    """N*M answers and N*(M-1) summaries per problem. Trap: N=3 and M=2 hard-coded."""
    for stage, requests in played.requests.items():
        problems = TRAIN if stage.endswith("debate") else EVAL
        kinds = Counter(request.key.split("/")[2] for request in requests)
        assert kinds == {"answer": N * M * problems, "summary": N * (M - 1) * problems}


def test_who_holds_which_debate(played: Played) -> None:
    """Iteration t's training debate is held by the models of t - 1, its evaluation by those of t; 0 is the base."""
    for stage, models in played.models.items():
        t = int(stage[2:4]) - stage.endswith("debate")
        wanted = {name: str(played.run.agent(t, name)) for name in agents("generator") + agents("critic")}
        assert models == (wanted if t else {})
        for request in played.requests[stage]:
            _, round, kind, agent = request.key.split("/")
            own = f"{'generator' if round == 'r1' else 'critic'}-{agent}" if t and kind == "answer" else None
            assert request.model == own, "the summarizer is the base, in every iteration"


# --- 2: the label ---------------------------------------------------------------


def test_the_label_is_the_plurality_of_the_final_round(played: Played) -> None:
    """The unique plurality of the last round; a tie goes to one of the tied; the unparsable have no vote."""
    seen: Counter[str] = Counter()
    for t in (1, 2):
        for debate in played.debates(t):
            votes = Counter(turn.answer for turn in debate.answers[-1] if turn.answer is not None)
            best = {answer for answer, count in votes.items() if count == max(votes.values())}
            label = played.label(t, debate)
            assert label in best if best else label is None
            seen["tied" if len(best) > 1 else "unique"] += 1
            seen["unparsable"] += any(turn.answer is None for turn in debate.answers[-1])
            first = Counter(turn.answer for turn in debate.answers[0] if turn.answer is not None)
            seen["another round would differ"] += bool(first) and first.most_common(1)[0][0] != label
    assert min(seen.values()) > 5 and len(seen) == 4, "each kind has to occur, or nothing was tested"


def test_neither_shards_nor_order_change_a_byte(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties, samples and sets are independent of shard, batch and order."""
    other = play(tmp_path / "other", monkeypatch, shard=7)
    assert len(other.plan.stage("it01/debate").tasks) > len(played.plan.stage("it01/debate").tasks)
    for t in (1, 2):
        for path in played.run.data(t).iterdir():
            assert path.read_bytes() == (other.run.data(t) / path.name).read_bytes()
        assert played.run.metrics(t).read_bytes() == other.run.metrics(t).read_bytes()


def test_without_any_answer_there_is_no_data_and_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All unparsable: no label, no data, wrong in accuracy. Trap: such problems dropped from the denominator."""
    silent = {f"/r{M}/answer/{n}" for n in range(N)}

    def say(request: Request) -> str:
        problem, place = request.key.split("/", 1)
        return MUTE if f"/{place}" in silent and int(problem.rsplit("-", 1)[1]) % 2 else "=1"

    done = play(tmp_path / "run", monkeypatch, say=say)
    mute = {d.problem.id for d in done.debates(1) if all(turn.answer is None for turn in d.answers[-1])}
    assert 10 < len(mute) < TRAIN - 10
    selection = json.loads((done.run.data(1) / "selection.json").read_text())
    assert set(selection["unlabelled"]) == mute and selection["labelled"] == TRAIN - len(mute)
    for agent in agents("generator"):
        assert set(done.lines(1, agent)) == {d.problem.id for d in done.debates(1)} - mute
    metrics = json.loads(done.run.metrics(1).read_text())
    gold = [d.problem.gold == "1" and any(turn.answer for turn in d.answers[-1]) for d in done.debates(1, "eval")]
    assert metrics["problems"] == len(metrics["scores"]["vote@M"]) == EVAL
    assert metrics["scores"]["vote@M"] == "".join(str(int(right)) for right in gold)


# --- 3 and 4: data --------------------------------------------------------------


def test_a_generators_data(played: Played) -> None:
    """(x, y[1,n]) iff y[1,n] ~ y^, also where agent n's own final answer is wrong."""
    ended_wrong = 0
    for t in (1, 2):
        debates = {d.problem.id: d for d in played.debates(t)}
        for n, agent in enumerate(agents("generator")):
            right = {p for p, d in debates.items() if d.answers[0][n].answer == played.label(t, d) is not None}
            assert set(played.lines(t, agent)) == right
            ended_wrong += sum(debates[p].answers[-1][n].answer != played.label(t, debates[p]) for p in right)
    assert ended_wrong > 20


def test_a_critics_data(played: Played) -> None:
    """The trajectory iff y[M,n] ~ y^; negative iff y[1,n] !~ y^ or unparsable, else positive; half of each."""
    for t in (1, 2):
        debates = {d.problem.id: d for d in played.debates(t)}
        counts = json.loads((played.run.data(t) / "selection.json").read_text())["datasets"]
        for n, agent in enumerate(agents("critic")):
            sides: dict[str, set[str]] = {"positive": set(), "negative": set()}
            for p, d in debates.items():
                if d.answers[-1][n].answer == played.label(t, d) is not None:
                    sides["positive" if d.answers[0][n].answer == played.label(t, d) else "negative"].add(p)
            kept = played.lines(t, agent)
            assert all(p in sides[line["label"]] for p, line in kept.items())
            smaller = min(map(len, sides.values()))
            assert Counter(line["label"] for line in kept.values()) == {"positive": smaller, "negative": smaller}
            assert counts[agent]["positives"] == len(sides["positive"])
            assert counts[agent]["negatives"] == len(sides["negative"])
            assert (counts[agent]["kept"], counts[agent]["realised_w"]) == (2 * smaller, 0.5)
            assert smaller > 5


def test_samples_are_what_was_asked_and_said(played: Played) -> None:
    """A sample is the very chat the agent was sent, with its reply: x, y[1,n], s[2,n], y[2,n], ...

    Trap: training on another rendering than generation saw.
    """
    for t in (1, 2):
        asked = {request.key: request for request in played.requests[f"it{t:02d}/debate"]}
        for role, round in (("generator", 1), ("critic", M)):
            for n, agent in enumerate(agents(role)):
                for problem, line in played.lines(t, agent).items():
                    request = asked[f"{problem}/r{round}/answer/{n}"]
                    assert line["messages"] == [*request.messages, {"role": "assistant", "content": reply(request)}]
                    assert line["round"] == round
                    read = [asked[f"{problem}/r{m}/summary/{n}"] for m in range(2, round + 1)]
                    for summary, message in zip(read, line["messages"][2::2], strict=True):
                        assert reply(summary) in message["content"]


# --- 5: finetuning ----------------------------------------------------------------


def test_each_model_learns_from_its_own_data_of_this_iteration_alone(played: Played) -> None:
    """2N models, each on its own set; nothing is carried over; each goes on from its own previous checkpoint."""
    everyone = agents("generator") + agents("critic")
    assert set(played.jobs) == {(t, agent) for t in (1, 2) for agent in everyone}
    for (t, agent), job in played.jobs.items():
        assert Path(job.dataset) == played.run.dataset(t, agent)
        assert Path(job.output) == played.run.agent(t, agent)
        assert job.start == (str(played.run.agent(1, agent)) if t == 2 else None)
        assert job.base.endswith("weights") and job.loss_on == "last_turn"
    texts = [{str(line["messages"]) for agent in everyone for line in played.lines(t, agent).values()} for t in (1, 2)]
    answers = [{(d.problem.id, str(d.answers)) for d in played.debates(t)} for t in (1, 2)]
    assert not answers[0] & answers[1], "iterations draw anew"
    for t in (1, 2):
        said = {str(d.conversation(n, m)) for d in played.debates(t) for n in range(N) for m in (1, M)}
        assert texts[t - 1] <= said


# --- 6: evaluation ------------------------------------------------------------------


def test_evaluation_questions_among_the_training_questions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checked by hash where a run begins, whoever made the splits: exit 5, one line, no run. Trap: the same."""
    task = get_task("arithmetic")
    whole = task.splits(None, 5, 5, 0)
    leaking = Splits(whole.train, [*whole.eval[:4], type(whole.eval[0])("odd", f" {whole.train[2].question} ", "1")])
    monkeypatch.setattr(type(task), "splits", lambda *_: leaking)
    with pytest.raises(LeakError, match="1 evaluation questions .* odd"):
        prepare_run(RunDir(tmp_path / "run"), load_recipe(overrides=SHAPE), load_profile())
    monkeypatch.setattr("sys.argv", ["hpcmaf", "submit", "--run", str(tmp_path / "again"), "--iters", "1"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 5
    assert capsys.readouterr().err.count("error: ") == 1
    assert not (tmp_path / "run/plan.json").exists() and not (tmp_path / "again/plan.json").exists()


# --- resume ---------------------------------------------------------------------------


def killed_at(played: Played, stage: Stage, task: str, moment: int) -> bool:
    """Run a task in a process that dies at its ``moment``-th look before or after a rename; whether it did."""
    child = os.fork()
    if child == 0:
        replace, passed = os.replace, iter(range(1000))

        def dying(*paths: Any) -> None:
            for act in (lambda: None, lambda: replace(*paths)):
                act()
                if next(passed) == moment:
                    os._exit(9)

        os.replace = dying
        try:
            run_task(played.run, played.plan, stage, task)
        except BaseException:  # noqa: BLE001 - this process must not return into pytest
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 9}, f"{stage.id} {task} failed after a kill"
    return code == 9


def test_a_journal_stays_until_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between publishing and its marker, a shard is replayed from its journal and not computed again."""
    played = prepare(tmp_path / "run", monkeypatch, "task.train=4", "task.eval=2", iterations=0)
    stage, task = next(tasks(played.plan))
    shard = played.run.shard(0, "eval", 0)

    def killed(*_: object) -> None:
        assert shard.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_marker", killed)
        with pytest.raises(KeyboardInterrupt):
            run_task(played.run, played.plan, stage, task)
    assert played.run.journal(shard).exists() and not played.run.done(stage, task)
    run_task(played.run, played.plan, stage, task)
    assert not played.run.journal(shard).exists() and played.run.done(stage, task)


@pytest.mark.slow
def test_killed_before_and_after_any_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files appear by renames alone, so these are all the states a kill can leave. Trap: no resume.

    With the options of debates that leave files of their own.
    """
    small = ("debate.agents=2", "debate.rounds=2", "task.train=8", "task.eval=4", "task.prompts=default")
    small += ("iterations={auto: 1}", "debate.stop=unanimous", "debate.vote=weighted", "debate.aggregate=judge")
    whole = play(tmp_path / "whole", monkeypatch, *small, shard=4, iterations=1)
    torn = prepare(tmp_path / "torn", monkeypatch, *small, shard=4, iterations=1)
    kills = 0
    for stage, task in tasks(torn.plan):
        moment = 0
        while killed_at(torn, stage, task, moment):
            moment += 1
        assert torn.run.done(stage, task) and moment > 1
        kills += moment
    assert kills > 60
    assert recover(torn.run, torn.plan) == []
    assert not list(torn.run.root.rglob("*.tmp"))
    assert verify(torn.run.root) == []
    names = [path.relative_to(whole.run.root) for path in whole.run.root.rglob("*") if path.is_file()]
    compared = [name for name in names if name.suffix in {".h5", ".jsonl"} or name.name in {"metrics.json", "model"}]
    assert len(compared) > 10
    for name in compared:
        assert (torn.run.root / name).read_bytes() == (whole.run.root / name).read_bytes(), name
