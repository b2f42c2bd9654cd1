"""Asking a society: who speaks, what is shown, and what cannot be asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpcmaf.cli.solve import command
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.engines import Request
from hpcmaf.errors import DataError, UsageError
from hpcmaf.launch.prepare import prepare_run
from hpcmaf.run.directory import RunDir
from tests.debate.scripted import ScriptedEngine

QUESTION = "What is 1+2*3+4-5*6?"


def say(request: Request) -> str:
    """Who said it is in it; agents 0 and 1 agree, the third differs, and nobody is right."""
    _, round, kind, agent = request.key.rsplit("/", 3)
    return f"{request.model} in {round}: {kind} {agent} #{'7' if agent in '01' else '8'}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked of the engine; it answers by ``say``."""
    requests: list[Request] = []

    def engine(served: Any, device: str) -> ScriptedEngine:
        made = ScriptedEngine(say)
        made.requests = requests
        return made

    monkeypatch.setattr("hpcmaf.engines.transformers_engine.TransformersEngine", engine)
    return requests


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunDir]:
    """``make(method, iteration's models, ...)``: a run that was planned, with folders for models."""

    def made(method: str, *iterations: tuple[str, ...], tokens: int = 80) -> RunDir:
        run = RunDir(tmp_path / "run")
        sizes = ("task.train=4", "task.eval=4", f"sampling.max_new_tokens={tokens}")
        recipe = load_recipe(overrides=(f"method={method}", *sizes))
        prepare_run(run, recipe, load_profile())
        for t, agents in enumerate(iterations, start=1):
            for agent in agents:
                run.agent(t, agent).mkdir(parents=True)
        return run

    return made


EVERYBODY = tuple(f"{role}-{n}" for role in ("generator", "critic") for n in range(3))


def solve(run: RunDir, *words: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(command, [str(run.root), *words], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_last_society_that_is_whole_debates(make: Callable[..., RunDir], asked: list[Request]) -> None:
    run = make("maft", EVERYBODY, EVERYBODY[:-1])
    found = json.loads(solve(run, QUESTION, "--json"))
    assert (found["iteration"], found["method"], found["answer"]) == (1, "maft", "7")
    assert found["problem"]["question"] == QUESTION
    assert found["models"] == [list(EVERYBODY[:3]), list(EVERYBODY[3:])]
    assert [turn["agent"] for turn in found["summaries"][0]] == [0, 1, 2]
    for m, turns in enumerate(found["answers"], start=1):
        for n, turn in enumerate(turns):
            assert turn["text"] == f"{found['models'][m - 1][n]} in r{m}: answer {n} #{turn['answer']}"
    assert found["votes"] == [{"answer": "7", "votes": 2, "agrees": [True, True, False], "tied": False}] * 2
    # The summarizer is always the base.
    assert Counter(request.model for request in asked) == Counter([*EVERYBODY, None, None, None])
    # As in an evaluation of that iteration, but under an id of its own.
    assert all(request.key.startswith("question-") for request in asked)


def test_an_earlier_society_and_other_draws(make: Callable[..., RunDir], asked: list[Request]) -> None:
    run = make("maft", EVERYBODY)
    for words in ((), (), ("--seed", "5"), ("--iter", "0")):
        solve(run, QUESTION, *words)
    one, again, other, base = (asked[low : low + 9] for low in range(0, 36, 9))
    assert sorted(request.seed for request in one) == sorted(request.seed for request in again)
    assert not {request.seed for request in one} & {request.seed for request in other}
    assert {request.model for request in base} == {None}


@pytest.mark.parametrize(
    ("method", "models", "generators", "critics"),
    [
        ("no-interaction", EVERYBODY, ["generator-0"] * 3, list(EVERYBODY[3:])),
        ("star", ("single",), ["single"], None),
        ("debate", (), [None] * 3, [None] * 3),
    ],
)
def test_inference_is_the_methods(
    make: Callable[..., RunDir],
    asked: list[Request],
    method: str,
    models: tuple[str, ...],
    generators: list[str | None],
    critics: list[str | None] | None,
) -> None:
    run = make(method, models)
    found = json.loads(solve(run, QUESTION, "--json"))
    assert found["models"] == ([generators] if critics is None else [generators, critics])
    assert found["iteration"] == (1 if models else 0)
    text = solve(run, QUESTION)
    assert ("(model: base)" in text) == (None in [*generators, *(critics or ())])
    assert ("the untouched base" in text) == (method == "debate")


def test_everything_is_shown(make: Callable[..., RunDir], asked: list[Request]) -> None:
    run = make("maft", EVERYBODY)
    plain = solve(run, "-", stdin=f"{QUESTION}\n")
    said = [say(request) for request in asked]
    assert len(said) == 9 and all(text in plain for text in said)
    assert plain.startswith(f"question: {QUESTION}\nsociety: maft, iteration 1, N=3, M=2\nanswer: 7\n")
    assert plain.count("vote: 7, 2 of 3") == 2 and "--- prompt" not in plain
    assert asked[0].messages[-1]["content"] in solve(run, QUESTION, "--prompts")


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ([QUESTION, "--iter", "2"], DataError, "the model of generator-0 is missing"),
        (["what?"], DataError, "no arithmetic expression"),
        ([" "], UsageError, "QUESTION is empty"),
    ],
)
def test_what_cannot_be_asked(
    make: Callable[..., RunDir], asked: list[Request], words: list[str], error: type[Exception], told: str
) -> None:
    run = make("maft", EVERYBODY)
    with pytest.raises(error, match=told):
        CliRunner().invoke(command, [str(run.root), *words], catch_exceptions=False)
    assert not asked
