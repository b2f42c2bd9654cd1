"""Every row of the table of methods, end to end: real debates of a tiny model, real finetuning, one report.

What a row of the table says is held against what its run left behind; nothing is played.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, stdev

import pytest
from click.testing import CliRunner

from hpcmaf.cli.export import command as export
from hpcmaf.debate.consensus import agrees, consensus
from hpcmaf.debate.methods import METHODS
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.evaluation.accuracy import own_measure
from hpcmaf.report.report import aggregate
from hpcmaf.store.verify import verify
from tests.jobs.every_method import EVAL, SEED, TRAIN, M, N, Studied, carry_out
from tests.jobs.playing import samples

pytestmark = pytest.mark.slow

TRAINED = [name for name, row in METHODS.items() if row.trained != "none"]
GENERATORS, CRITICS = ([f"{role}-{n}" for n in range(N)] for role in ("generator", "critic"))
LEARNERS = {"none": [], "single": ["single"], "generators": GENERATORS, "agents": GENERATORS + CRITICS}
LEARNERS["distilled"] = [*LEARNERS["agents"], "single"]
SHAPES = {"debate": (N, M), "answers": (N, 1), "vote": (N, 1), "hints": (1, 2), "answer": (1, 1)}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    """One iteration of every method."""
    with pytest.MonkeyPatch.context() as patch:
        yield carry_out(tmp_path_factory.mktemp("every method"), patch)


@pytest.mark.parametrize("name", METHODS)
def test_from_plan_to_ledger(studied: Studied, name: str) -> None:
    run, learners = studied.run(name), LEARNERS[METHODS[name].trained]
    plan = run.load_plan()
    done = run.done_tasks(plan)
    assert all(set(stage.tasks) == set(done[stage.id]) for stage in plan.stages)
    assert verify(run.root) == []
    assert [stage.id for stage in plan.stages if stage.iteration == 1] == [
        f"it01/{kind}" for kind in ("debate", "merge", "finetune", "eval", "score") if learners
    ]
    for t in sorted({stage.iteration for stage in plan.stages}):
        metrics = json.loads(run.metrics(t).read_text())
        assert (metrics["method"], metrics["task"], metrics["problems"]) == (name, "arithmetic", EVAL)
        assert metrics["unparsable"] < 0.5, "a model that says nothing tests nothing"
        rows = json.loads(run.ledger(t).read_text())["rows"]
        assert {row["stage"] for row in rows} == {stage.kind for stage in plan.stages if stage.iteration == t}
        trained = {row["agent"]: row["training_tokens"] for row in rows if row["stage"] == "finetune"}
        assert set(trained) == set(learners if t else ())
        assert all(tokens > 0 for tokens in trained.values())
        spoken = Counter(turn.kind for debate in studied.debates(name, t, "eval") for turn in turns(debate))
        assert sum(row["calls"] for row in rows if row["stage"] == "eval") == spoken.total()


def turns(debate: Transcript) -> Iterator[Utterance]:
    """Everything that was asked for and said."""
    for spoken in (*debate.answers, *debate.summaries):
        yield from (turn for turn in spoken if turn.prompt)


@pytest.mark.parametrize("name", METHODS)
def test_who_was_finetuned(studied: Studied, name: str) -> None:
    from safetensors.numpy import load_file

    run, learners = studied.run(name), LEARNERS[METHODS[name].trained]
    assert {path.parent.name for path in run.root.rglob("training.json")} == set(learners)
    weights = {}
    for agent in learners:
        folder = run.agent(1, agent)
        report = json.loads((folder / "training.json").read_text())
        assert report["steps"] > 0, f"{agent} had nothing to learn from"
        assert (report["samples"], report["dropped_too_long"]) == (len(samples(run.dataset(1, agent))), 0)
        tensors = load_file(folder / "adapter_model.safetensors")
        # Adapters begin with B at zero; what has been finetuned has moved.
        assert all(tensor.any() for key, tensor in tensors.items() if "lora_B" in key)
        weights[agent] = b"".join(tensors[key].tobytes() for key in sorted(tensors))
    assert len(set(weights.values())) == len(learners), "agents are models of their own"


@pytest.mark.parametrize("name", METHODS)
def test_who_answers_with_which_model_in_evaluation(studied: Studied, name: str) -> None:
    row, run = METHODS[name], studied.run(name)
    t = 1 if name in TRAINED else 0
    place, learners = (name, f"it{t:02d}/eval"), LEARNERS[row.trained]
    assert studied.served[place] == {agent: str(run.agent(1, agent)) for agent in learners}
    kept = {
        f"{debate.problem.id}/r{turn.round}/{turn.kind}/{turn.agent}": turn.text
        for debate in studied.debates(name, t, "eval")
        for turn in turns(debate)
    }
    assert {request.key: completion.text for request, completion in studied.said[place]} == kept
    agents, rounds = SHAPES[row.inference]
    read = agents * (rounds - 1) * row.summaries
    assert len(kept) == EVAL * (agents * rounds + read)
    for request, _ in studied.said[place]:
        _, round, kind, agent = request.key.split("/")
        first = round == "r1"
        number = row.first_answers_by if first and row.first_answers_by is not None else agent
        alone = row.trained in ("single", "distilled")
        seat = "single" if alone else f"{'generator' if first else 'critic'}-{number}"
        assert request.model == (seat if kind == "answer" and seat in learners else None)
        assert request.sampling.temperature == (row.temperature or 1.0)
    firsts = [request.seed for request, _ in studied.said[place] if "/r1/answer/" in request.key]
    assert len(set(firsts)) == len(firsts), "each agent draws its own answer, whoever gives it"


def prompts(studied: Studied, name: str) -> dict[str, str]:
    """Of the base's evaluation: the last turn of every request."""
    return {request.key: request.messages[-1]["content"] for request, _ in studied.said[name, "it00/eval"]}


def test_ids_and_roles_begin_the_agents_prompts(studied: Studied) -> None:
    for key, text in prompts(studied, "unique-id").items():
        _, round, kind, agent = key.split("/")
        if kind == "summary":
            assert "You are" not in text
        else:
            mark = f"{'GEN' if round == 'r1' else 'CRIT'}{int(agent) + 1}"
            assert text.startswith(f"You are {mark}, a {'generation' if round == 'r1' else 'critic'} agent")


def test_cooperation_changes_critics_prompts_alone(studied: Studied) -> None:
    plain, together = prompts(studied, "debate"), prompts(studied, "cooperative")
    assert plain.keys() == together.keys()
    for key, text in together.items():
        assert ("joint solution" in text) == ("/r2/answer" in key)
        assert (text == plain[key]) == ("/r2/answer" not in key)


# --- training sets --------------------------------------------------------------


def chat(debate: Transcript, n: int, m: int) -> str:
    return json.dumps(debate.conversation(n, m))


def confirmed(debate: Transcript, n: int, m: int) -> bool:
    """Whether the vote of the last round is what agent n said in round m."""
    return agrees(debate.answers[m - 1][n].answer, consensus(debate, debate.rounds, SEED, 1), debate)


def union(studied: Studied, name: str, debates: list[Transcript]) -> None:
    """What maft's agents are trained on, together."""
    maft = studied.run("maft")
    assert debates == studied.debates("maft", 1, "debate")
    together = Counter(json.dumps(line) for agent in GENERATORS + CRITICS for line in samples(maft.dataset(1, agent)))
    assert Counter(json.dumps(line) for line in samples(studied.run(name).dataset(1, "single"))) == together


def responses(studied: Studied, name: str, debates: list[Transcript]) -> None:
    """Every answer of every round that the vote confirms."""
    places = [(n, m) for n in range(N) for m in range(1, debates[0].rounds + 1)]
    fit = Counter(chat(debate, n, m) for debate in debates for n, m in places if confirmed(debate, n, m))
    found = samples(studied.run(name).dataset(1, "single"))
    assert Counter(json.dumps(line["messages"]) for line in found) == fit


def pairs(studied: Studied, name: str, debates: list[Transcript]) -> None:
    """Of a round's answers one that the vote confirms over one that it does not: an agent's own, and the next other."""
    for agent in GENERATORS + CRITICS:
        role, n = agent.split("-")[0], int(agent.split("-")[1])
        m, fit = (1 if role == "generator" else M), {}
        for debate in debates:
            right = [confirmed(debate, agent, m) for agent in range(N)]
            others = [agent for agent in (*range(n + 1, N), *range(n)) if right[agent] != right[n]]
            if others:
                texts = [debate.answers[m - 1][agent].text for agent in (n, others[0])]
                fit[debate.problem.id] = (debate.conversation(n, m)[:-1], *(texts if right[n] else texts[::-1]))
        found = samples(studied.run(name).dataset(1, agent))
        assert fit == {
            line["problem_id"]: (line["prompt"], line["chosen"][0]["content"], line["rejected"][0]["content"])
            for line in found
        }


def judged(studied: Studied, name: str, debates: list[Transcript]) -> None:
    """What an agent said in its round, confirmed or not; of groups those in which not all fared alike."""
    labelled = [debate for debate in debates if consensus(debate, M, SEED, 1).answer is not None]
    for agent in GENERATORS + CRITICS:
        role, n = agent.split("-")[0], int(agent.split("-")[1])
        m, grouped, fit = (1 if role == "generator" else M), METHODS[name].data == "groups", Counter()
        for debate in labelled:
            same = [other for other in labelled if other.problem.question == debate.problem.question]
            rewards = [float(confirmed(other, n, m)) for other in same]
            if grouped and len(set(rewards)) < 2:
                continue
            verdict = confirmed(debate, n, m)
            scaled = (verdict - fmean(rewards)) / (stdev(rewards) + 1e-4) if grouped else None
            fit[chat(debate, n, m), "positive" if verdict else "negative", scaled] += 1
        found = samples(studied.run(name).dataset(1, agent))
        assert fit == Counter((json.dumps(line["messages"]), line["label"], line.get("advantage")) for line in found)


def voted(studied: Studied, name: str, debates: list[Transcript]) -> None:
    """All first answers that the vote confirms; without any, the first of such last ones, as if said at once."""
    fit: Counter[str] = Counter()
    for debate in debates:
        firsts = [chat(debate, n, 1) for n in range(N) if confirmed(debate, n, 1)]
        lasts = [n for n in range(N) if confirmed(debate, n, M)]
        if not firsts and lasts:
            turns = debate.conversation(lasts[0], M)
            firsts = [json.dumps([turns[0], turns[-1]])]
        fit.update(firsts)
    found = samples(studied.run(name).dataset(1, "single"))
    assert Counter(json.dumps(line["messages"]) for line in found) == fit
    assert {line["round"] for line in found} == {1, M}, "each kind has to occur"
    for agent in GENERATORS + CRITICS:
        own, maft = (studied.run(method).dataset(1, agent).read_bytes() for method in (name, "maft"))
        assert own == maft


DATA: dict[str, Callable[[Studied, str, list[Transcript]], None]] = {
    "union": union,
    "responses": responses,
    "pairs": pairs,
    "judged": judged,
    "groups": judged,
    "voted": voted,
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_sets_hold_what_the_method_says_and_nothing_else(studied: Studied, name: str) -> None:
    row, debates = METHODS[name], studied.debates(name, 1, "debate")
    assert [debate.problem.id for debate in debates] == [
        problem.id for problem in studied.run(name).read_problems("train", studied.run(name).load_plan())
    ]
    assert {(debate.agents, debate.rounds) for debate in debates} == {SHAPES[row.rollout]}
    critics = [debate.answers[1][0].prompt for debate in debates if row.rollout == "debate"]
    assert {("joint solution" in prompt) for prompt in critics} <= {row.critic_style == "cooperate"}
    assert {bool(debate.summaries) for debate in debates} == {row.summaries and row.rollout == "debate"}
    if row.data in DATA:  # the others' in tests of played runs
        DATA[row.data](studied, name, debates)


def test_star_retries_wrong_answers_with_a_hint_and_forgets_the_hint(studied: Studied) -> None:
    run = studied.run("star")
    hinted = {r.key.split("/")[0] for r, _ in studied.said["star", "it01/debate"] if "/r2/" in r.key}
    wanted: Counter[str] = Counter()
    for debate in studied.debates("star", 1, "debate"):
        gold, (first,), (second,) = debate.problem.gold, *debate.answers
        assert (debate.problem.id in hinted) == (not debate.right(first.answer))
        if debate.problem.id in hinted:
            assert f"the correct final answer is {gold}." in second.prompt
        if debate.right(first.answer) or debate.right(second.answer):
            text = first.text if debate.right(first.answer) else second.text
            turns = [{"role": "user", "content": first.prompt}, {"role": "assistant", "content": text}]
            wanted[json.dumps(turns)] += 1
    found = Counter(json.dumps(line["messages"]) for line in samples(run.dataset(1, "single")))
    assert found == wanted
    assert 0 < len(hinted) < TRAIN and wanted.total() < TRAIN, "each kind has to occur"
    assert not any("Hint" in line for line in found)
    assert json.loads(run.metrics(1).read_text())["pseudo_labels"] is None
    rows = json.loads(run.ledger(1).read_text())["rows"]
    assert sum(row["calls"] for row in rows if row["stage"] == "debate") == TRAIN + len(hinted)


def test_a_society_is_exported_as_one_model(studied: Studied, tmp_path: Path) -> None:
    """Of another method than distil it is finetuned there and then, on what distil's one model has learnt from."""
    from transformers import AutoModelForCausalLM

    for name in ("maft", "distil"):
        words = [str(studied.run(name).root), "--as", "society-in-one", "--out", str(tmp_path / name)]
        assert CliRunner().invoke(export, words, catch_exceptions=False).exit_code == 0
    work = studied.run("maft").iteration(1) / "society-in-one"
    assert (work / "data" / "single.jsonl").read_bytes() == studied.run("distil").dataset(1, "single").read_bytes()
    ours, theirs = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("maft", "distil"))
    # The same base, data, seed and schedule.
    assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_all_methods_stand_in_one_table(studied: Studied) -> None:
    study = studied.study
    report = aggregate([entry.run.root for entry in study.runs], study.report, baseline=study.baseline)
    assert report.missing == []
    table, costs = report.method_tables()
    assert table.title == "Methods: base" and costs.title == "Cost by method"
    assert sum("maft" in sentence for _, sentence in report.findings) > 3
    for shown in (table, costs):
        assert {row[0] for row in shown.rows} == set(METHODS)
    accuracy = table.header.index("arithmetic")
    for name, row in ((row[0], row) for row in table.rows):
        metrics = json.loads(studied.run(name).metrics(1 if name in TRAINED else 0).read_text())
        value = metrics["accuracy"][own_measure(metrics)]["value"]
        assert row[accuracy].startswith(f"{100 * value:.2f} ± ")
    assert {row.group.line for row in report.rows if row.tested and row.tested.result} == set(METHODS) - {"debate"}
