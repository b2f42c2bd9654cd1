"""Societies whose agents have settings of their own: bases, tuning, sampling, prompts."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.config.recipe import Lora, Recipe
from hpcmaf.debate.methods import Society
from hpcmaf.engines.journal import Journal
from hpcmaf.errors import ConfigError
from hpcmaf.jobs.debate import make_engine, protocol_of
from hpcmaf.jobs.serving import adapter_room, models_of, society_of
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import build_plan
from hpcmaf.store.reader import Store
from hpcmaf.store.verify import verify
from hpcmaf.study.sharing import Keys
from tests.commands import HPCMAF, contents, hpcmaf, invoke
from tests.jobs.playing import run_here
from tests.run.test_local_run import kill_everything
from tests.tiny_models import answering_model

RECIPE = """
model: {path: MISTRAL, dtype: float32}
task: {name: arithmetic, train: 12, eval: 4}
debate: {agents: 3, rounds: 2}
sampling: {max_new_tokens: 6}
training: {epochs: 1, batch_size: 4}
agents:
  "2": {model: {path: PHI}, tuning: full, sampling: {max_new_tokens: 3}}
  critic-1: {prompts: {system: Be brief.}}
  summarizer: {model: {path: PHI}}
iterations: 1
"""


def recipe_of(folder: Path) -> Path:
    """A recipe of two architectures of different vocabularies, each of which says digits of its own."""
    mistral = answering_model(folder / "mistral", "123", context=4096, kind="mistral")
    phi = answering_model(folder / "phi", ["3", "4", "55"], context=4096, kind="phi3")
    recipe = folder / "mixed.yaml"
    recipe.write_text(RECIPE.replace("MISTRAL", str(mistral)).replace("PHI", str(phi)))
    return recipe


@pytest.mark.slow
@pytest.mark.long
def test_two_architectures_in_one_society(tmp_path: Path) -> None:
    recipe, killed = recipe_of(tmp_path), RunDir(tmp_path / "killed")
    words = ["submit", "--recipe", recipe, "--run", killed.root]
    submitting = subprocess.Popen([*HPCMAF, *map(str, words)], stderr=subprocess.DEVNULL)
    journal, deadline = killed.journal(killed.shard(1, "debate", 0)), time.monotonic() + 120
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert kill_everything(killed)
    submitting.wait()
    hpcmaf(*words)
    calm = run_here(tmp_path / "calm", recipe=recipe)
    assert contents(killed) == contents(calm) and verify(killed.root) == []
    checkpoints = {path.parent.name for path in calm.root.glob("it01/agents/*/model.safetensors")}
    assert checkpoints == {"generator-2", "critic-2"}
    adapters = {path.parent.name for path in calm.root.glob("it01/agents/*/adapter_model.safetensors")}
    assert adapters == {f"{role}-{n}" for role in ("generator", "critic") for n in range(2)}
    for name in ("generator-2", "critic-2"):
        assert json.loads((calm.agent(1, name) / "config.json").read_text())["model_type"] == "phi3"

    for iteration, kind in ((1, "debate"), (0, "eval"), (1, "eval")):
        with Store(calm.store(iteration, kind)) as store:
            debates = list(store.transcripts())
        for one in debates:
            assert not {turn.text for turns in one.answers for turn in turns[:2]} & {"4", "55"}
            for turns in (*one.summaries, *([turns[2]] for turns in one.answers)):
                assert {turn.text for turn in turns} <= {"3", "4", "55"}
            assert [len(one.conversation(n, 2)) for n in range(3)] == [4, 5, 4]

    plan = invoke("plan", "--recipe", recipe, "--run", calm.root)
    assert "mistral: 4 trained (lora): generator-0" in plan and "phi: 2 trained (full): generator-2, critic-2" in plan
    assert f"other bases: critic-2: {tmp_path / 'phi'}" in invoke("solve", calm.root, "1+2*3+4-5*6")
    assert "different vocabularies: 2" in invoke("diversity", calm.root, "--iter", "1")
    measures = json.loads(calm.diversity(1).read_text())["measures"]
    assert all(measures[name]["problems"] == 4 for name in ("embedding", "nll", "kl_agents", "kl_base"))
    report = invoke("aggregate", calm.root, "--out", tmp_path / "report")
    assert "mistral + phi" in report
    seconds = dict(re.findall(r"^(.*, phi) .* (\S+) +– +\S+$", report, re.MULTILINE))
    assert seconds["0 (base), phi"] == "–" and float(seconds["1, phi"]) > 0  # of finetuning alone
    for agent, kind in (("critic-2", "phi3"), ("critic-1", "mistral")):
        invoke("export", calm.root, "--agent", agent, "--as", "model", "--out", tmp_path / agent)
        assert json.loads((tmp_path / agent / "config.json").read_text())["model_type"] == kind


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("agents.7.tuning=full", "agents.7: no such agent; there are '0' to '2', generator-N, critic-N and"),
        ("agents.judge.tuning=full", "agents.judge: no such agent"),
        ("agents=[{}, {}, {}, {tuning: full}]", "agents.3: no such agent"),
        ("agents.0=micro", "agents.0: should hold keys (model, tuning, training, sampling, prompts), not 'micro'"),
        ("agents.0.modl.path=x", "agents.0.modl: unknown key; did you mean 'model'?"),
        ("agents.0.model.pth=x", "agents.0.model: pth: unknown key; did you mean 'path'?"),
        ("agents.0.sampling.temperature=-1", "agents.0.sampling: temperature: should be greater than or equal to 0"),
        ("agents.critic-0.training.lora.rank=0", "agents.critic-0.training: lora.rank: should be greater than"),
        ("agents.0.training.quantize=fp8", ""),
        ("agents={'0': {tuning: full, training: {quantize: fp8}}}", "agents.0.training: quantize 'fp8' needs"),
        ("agents.0.training.loss_on=all_turns", "agents.0.training.loss_on: is the same for all agents"),
        ("agents.summarizer.sampling.top_p=0.5", "agents.summarizer.sampling: the summarizer has a model of its own"),
        ("agents.summarizer.model.path=x", ""),
        ("agents.0.prompts=nowhere.yaml", "task.prompts: nowhere.yaml: no such file beside the recipe or here"),
    ],
)
def test_what_an_agent_may_have_of_its_own(settings: str, said: str) -> None:
    if not said:
        assert load_recipe(overrides=[settings]).agents
        return
    with pytest.raises(ConfigError) as error:
        load_recipe(overrides=[settings])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_one_model_for_all_agents_has_no_agents() -> None:
    load_recipe(overrides=["method=star", "agents.summarizer.model.path=x"])
    with pytest.raises(ConfigError, match="agents.0: method star has one model for all agents"):
        load_recipe(overrides=["method=star", "agents.0.sampling.top_p=0.5"])


OWN = (
    *("agents.2.model.path=smol", "agents.2.sampling.top_p=0.5", "agents.critic-2.tuning=full"),
    *("agents.critic-2.sampling.top_k=5", "agents.generator-0.training.lora.rank=64", "training.lora.alpha=7"),
    *("model.revision=old", "model.date='2026-02-03'", "agents.summarizer.model.path=smol", "agents.1.prompts=default"),
)


def test_an_agents_settings_lie_over_its_numbers_and_these_over_the_recipes() -> None:
    recipe = load_recipe(overrides=OWN)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    critic, generator = recipe.of("critic-2"), recipe.of("generator-2")
    assert (critic.sampling.top_p, critic.sampling.top_k, critic.training.tuning) == (0.5, 5, "full")
    assert (generator.sampling.top_k, generator.training.tuning, generator.model) == (0, "lora", critic.model)
    # A revision says nothing about another model; the day is everybody's.
    assert (critic.model.path, critic.model.revision, critic.model.date) == ("smol", None, "2026-02-03")
    assert recipe.of("generator-0").training.lora == recipe.training.lora.model_copy(update={"rank": 64})
    assert recipe.of("critic-0") == recipe.model_copy(update={"agents": {}}) and recipe.of(None) is recipe

    society = society_of(recipe, models_of(recipe, {}), evaluating=True)
    assert society == Society((None, None, "generator-2"), (None, None, "critic-2"), "summarizer")
    trained = dict.fromkeys(recipe.trained, "folder")
    first, adapters, whole = models_of(recipe, trained)
    assert [*first.agents] == ["generator-0", "generator-1", "critic-0", "critic-1"] and first.revision == "old"
    assert ([*adapters.agents], adapters.copies) == (["generator-2"], ("summarizer",))
    assert (whole.base, whole.tuning, [*whole.agents]) == ("smol", "full", ["critic-2"])
    assert [one.copies for one in models_of(recipe, {})] == [(), ("critic-2", "generator-2", "summarizer")]
    training = recipe.training.model_copy(update={"lora": Lora(targets=["q_proj"])})
    assert adapter_room(recipe.model_copy(update={"training": training}), first) == (4, 64, ("q_proj",))

    protocol = protocol_of(recipe, 1, evaluating=False)
    assert {name: sampling.top_p for name, (_, sampling) in protocol.own.items()} == {
        **{f"{role}-2": 0.5 for role in ("generator", "critic")},
        **{f"{role}-1": recipe.sampling.top_p for role in ("generator", "critic")},
    }
    assert protocol.prompt("first", "1+2*3+4-5*6", 0) != protocol.prompt("first", "1+2*3+4-5*6", 1)


def test_studies_share_nothing_between_societies_of_other_bases() -> None:
    problems = {split: {"count": 4, "sha256": split} for split in ("train", "eval")}
    keys = []
    for own in ((), ("agents.2.sampling.top_p=0.5",), ("agents.2.model.path=smol",)):
        plan = build_plan(load_recipe(overrides=own, iterations=1), load_profile(), problems, "base")
        keys.append(set(Keys(plan).found.values()))
    assert not keys[0] & keys[1] and not keys[1] & keys[2] and not keys[0] & keys[2]


def test_another_base_is_another_model_of_an_endpoint() -> None:
    site = ("generation.engine=endpoint", "generation.endpoint={url: 'http://localhost:1/v1', model: own}")
    recipe = load_recipe(overrides=["agents.2.model.path=smol", "method=debate"])
    context = SimpleNamespace(recipe=recipe, profile=load_profile(overrides=site), halvings=0)
    engine = make_engine(context, models_of(recipe, {}), Journal(), None)  # type: ignore[arg-type]
    assert [one.options.model for one in engine.engines.values()] == ["own", "smol"]
