"""DPO, KTO and GRPO: the losses are TRL's, and what they are trained on is what the debates say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hpcmaf.config.load import load_recipe
from hpcmaf.config.recipe import Selection as Rules
from hpcmaf.errors import ConfigError
from hpcmaf.launch.prepare import draw
from hpcmaf.models.chat import ChatFormat
from hpcmaf.selection.select import select
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenPair, TokenSample, load_tokens
from hpcmaf.training.dpo import Dpo
from hpcmaf.training.grpo import Grpo
from hpcmaf.training.kto import Kto
from hpcmaf.training.objective import Objective
from hpcmaf.training.process import Process
from tests.debate.scripted import debate
from tests.selection.test_select import cut_off
from tests.training.conftest import Outcome

RESPONSES = ["so 4", "it may be 12", "no", "7, or not", "so it is 4", "-"]
VERDICTS = [True, False, True, True, False, False]
ADVANTAGES = [1.2, -0.7, 0.4, 0.0, -1.5, 0.9]
BETA, MINORITY = 0.3, 1.7

# What TRL's own public trainer says of the model as it has moved: its batch in our form, and its loss.
Theirs = tuple[list[Any], torch.Tensor]


def samples_of(batch: Mapping[str, torch.Tensor], signals: list[float]) -> list[TokenSample]:
    found = []
    for row, (ids, mask, target) in enumerate(
        zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    ):
        there = mask.bool()
        found.append(TokenSample(f"p{row}", ids[there].tolist(), target[there].bool().tolist(), signals[row]))
    return found


# Of all of TRL's trainers here.
SETTINGS: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
PROMPTS = [f"{i}+{i * i}?" for i in range(6)]


def first_batch(kind: Any, *settings: Any, base: Path, rows: Any) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
    trainer = kind(*settings, train_dataset=rows, processing_class=tokenizer_of(base))
    batch = next(iter(trainer.get_train_dataloader()))
    return batch, trainer.compute_loss(trainer.model, batch)


def tokenizer_of(base: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = "<unk>"
    return tokenizer


def dpo(base: Path, start: Any, moved: Any, folder: Path) -> Theirs:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = Dataset.from_dict({"prompt": PROMPTS[:3], "chosen": RESPONSES[:3], "rejected": RESPONSES[3:]})
    arguments = DPOConfig(str(folder), per_device_train_batch_size=3, beta=BETA, **SETTINGS)
    batch, loss = first_batch(DPOTrainer, moved, start, arguments, base=base, rows=rows)
    texts = samples_of(batch, [1.0] * 6)
    return [TokenPair(one.id, one, other) for one, other in zip(texts[:3], texts[3:], strict=True)], loss


def kto(base: Path, start: Any, moved: Any, folder: Path) -> Theirs:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    rows = Dataset.from_dict({"prompt": PROMPTS, "completion": RESPONSES, "label": VERDICTS})
    arguments = KTOConfig(
        str(folder), per_device_train_batch_size=6, beta=BETA, undesirable_weight=MINORITY, **SETTINGS
    )
    batch, loss = first_batch(KTOTrainer, moved, start, arguments, base=base, rows=rows)
    return samples_of(batch, [1.0 if verdict else -1.0 for verdict in VERDICTS]), loss


def grpo(base: Path, start: Any, moved: Any, folder: Path) -> Theirs:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = tokenizer_of(base)
    arguments = GRPOConfig(
        str(folder), per_device_train_batch_size=6, num_generations=6, beta=BETA, epsilon=0.2, loss_type="bnpo",
        max_completion_length=16, **SETTINGS,
    )  # fmt: skip
    trainer = GRPOTrainer(
        moved, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["?"] * 6}), processing_class=tokenizer,
    )  # fmt: skip
    prompts = tokenizer(PROMPTS)["input_ids"]
    completions = [tokenizer(text, add_special_tokens=False)["input_ids"] + [2] for text in RESPONSES]
    inputs = {}
    for what, side, texts in (("prompt", "left", prompts), ("completion", "right", completions)):
        padded = tokenizer.pad({"input_ids": texts}, padding_side=side, return_tensors="pt")
        inputs |= {f"{what}_ids": padded["input_ids"], f"{what}_mask": padded["attention_mask"]}
    whole = torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), 1)
    mask = torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), 1)
    target = torch.cat((torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]), 1)
    with torch.no_grad():
        width = inputs["completion_ids"].shape[1]
        logits = start(input_ids=whole, attention_mask=mask).logits[:, -width - 1 : -1].log_softmax(-1)
    before = logits.gather(2, inputs["completion_ids"][..., None])[..., 0]
    weighted = torch.tensor([a * (MINORITY if a < 0 else 1) for a in ADVANTAGES])
    inputs |= {"advantages": weighted, "old_per_token_logps": before, "ref_per_token_logps": before}
    loss = trainer.compute_loss(trainer.model, inputs)
    return samples_of({"input_ids": whole, "attention_mask": mask, "completion_mask": target}, ADVANTAGES), loss


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "theirs"), [(Dpo, dpo), (Kto, kto), (Grpo, grpo)])
def test_loss_and_gradient_are_trls(
    bases: dict[str, Path],
    tmp_path: Path,
    objective: type[Objective],
    theirs: Callable[[Path, Any, Any, Path], Theirs],
) -> None:
    """After a step, where ratios, drift and divergence are not what they began with; however the batch is cut."""
    base = bases["llama"]
    start = AutoModelForCausalLM.from_pretrained(base).eval()
    moved, ours = copy.deepcopy(start), copy.deepcopy(start)
    ids = torch.tensor([AutoTokenizer.from_pretrained(base)("".join(RESPONSES))["input_ids"]])
    moved(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter -= parameter.grad * 0.5
    moved.zero_grad()
    their_model = copy.deepcopy(moved)
    samples, loss = theirs(base, start, their_model, tmp_path)
    loss.backward()
    job = FinetuneJob(
        base=str(base), dataset="", output="", device="cpu", micro_batch_size=2, minority_weight=MINORITY,
        dpo_beta=BETA, kto_beta=BETA, grpo_beta=BETA,
    )  # fmt: skip
    made = objective(ours, job, Process(0, 1, torch.device("cpu")), samples, packed=False)
    ours.load_state_dict(moved.state_dict())
    made.begin(samples)
    parts = made.parts(samples)
    assert len(parts) == 3
    # A process that has nothing left to do takes part in the others' passes all the same.
    total = sum(made.loss(part, samples[0]) for part in [*parts, []]) / made.weight(samples)
    total.backward()
    torch.testing.assert_close(total, loss, rtol=1e-5, atol=1e-6)
    for (name, own), (_, their) in zip(ours.named_parameters(), their_model.named_parameters(), strict=True):
        assert own.grad is not None and own.grad.abs().max() > 0, name
        torch.testing.assert_close(own.grad, their.grad, rtol=1e-4, atol=1e-7)
    assert all(value != 0 for value in made.measured())


@pytest.mark.slow
def test_what_is_confirmed_becomes_likelier_and_what_is_not_less(outcomes: dict[str, Outcome]) -> None:
    lines = {name: outcomes[name].steps for name in ("kto", "grpo", "grpo-next")}
    first, last = lines["kto"][0], lines["kto"][-1]
    # The reference is the model as it starts.
    assert (first["loss"], first["value"], first["drift"]) == pytest.approx((0.5 * 2 / 3 + 0.5 / 3, 0, 0), abs=1e-4)
    assert last["loss"] < first["loss"] and last["value"] > 0
    assert lines["grpo"][0]["divergence"] == pytest.approx(0, abs=1e-6) and lines["grpo"][-1]["divergence"] > 0
    # The next iteration's is still that from the base.
    assert lines["grpo-next"][0]["divergence"] > 1e-4
    gains = gained(outcomes["kto"]), gained(outcomes["grpo"])
    assert all(confirmed > refused + 0.1 for confirmed, refused in gains), gains


def gains(outcome: Outcome, texts: Sequence[TokenSample]) -> list[float]:
    """By how much likelier texts have become than to the model a job started from, by transformers and peft."""

    def likelihoods(model: Any) -> list[float]:
        found = []
        for text in texts:
            ids = torch.tensor([text.input_ids])
            with torch.no_grad():
                each = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            found.append(float(each[torch.tensor(text.target[1:])].sum()))
        return found

    job, base = outcome.job, AutoModelForCausalLM.from_pretrained(outcome.job.base).eval()
    start = PeftModel.from_pretrained(base, job.start).eval() if job.start else base
    before = likelihoods(start)  # what follows changes it
    if job.tuning == "full":
        trained = AutoModelForCausalLM.from_pretrained(outcome.output)
    else:
        trained = PeftModel.from_pretrained(start.unload() if job.start else base, outcome.output)
    return [now - then for now, then in zip(likelihoods(trained.eval()), before, strict=True)]


def gained(outcome: Outcome) -> tuple[float, float]:
    """By how much likelier confirmed responses, and others, have become."""
    job = outcome.job
    chat = ChatFormat.from_pretrained(job.base)
    samples = load_tokens(Path(job.dataset), chat, max_length=256, objective=job.objective).samples
    found = list(zip(samples, gains(outcome, samples), strict=True))
    confirmed, others = (fmean(gain for one, gain in found if (one.signal > 0) == won) for won in (True, False))
    return confirmed, others


# --- out of debates -------------------------------------------------------------------


def test_groups_are_of_one_agent_and_question() -> None:
    """Two debates of one question, of which the second is cut off for generator 1: it has no group of its own then."""
    first, second = debate("a", ["7", "1", "7"], ["7", "7", "7"]), debate("a#2", ["1", "7", None], ["7", "7", "1"])
    second = replace(second, problem=replace(second.problem, question=first.problem.question))
    alone = debate("b", ["7", "1", "7"], ["7", "7", "7"])
    rules = Rules(w=0.5, form_reward=0.5)
    found = select([first, second, alone], rules, seed=1, iteration=1, data="groups")
    chosen = {part.agent: part for part in found.datasets}
    # 1.5 and 0.5 of reward; then 1.5 and nothing, as no answer could be read.
    scaled = pytest.approx(0.5 / (0.5**0.5 + 1e-4))
    assert chosen["generator-0"].advantages == {"a": scaled, "a#2": -chosen["generator-0"].advantages["a"]}
    assert chosen["generator-2"].advantages["a"] == pytest.approx(0.75 / (1.125**0.5 + 1e-4))
    assert chosen["critic-0"].kept == set() and chosen["critic-2"].kept == {"a", "a#2"}
    cut = select([first, cut_off(second, (1, 1)), alone], rules, seed=1, iteration=1, data="groups").datasets
    assert {part.agent for part in cut if part.kept} == {"generator-0", "generator-2", "critic-2"}


def test_either_word_turns_an_objective_on_and_grpo_asks_for_groups() -> None:
    for name, samples in (("dpo", 1), ("kto", 1), ("grpo", 4)):
        for override in (f"method=maft-{name}", f"training.objective={name}"):
            recipe = load_recipe(overrides=[override])
            assert (recipe.method, recipe.training.objective) == (f"maft-{name}", name)
            assert recipe.debate.samples == samples
            assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe
    assert load_recipe().training.objective == "sft"
    drawn = draw(load_recipe(overrides=["method=maft-grpo", "debate.samples=3", "task.train=2"]))
    first, second = drawn.train[0].id, drawn.train[3].id
    assert [problem.id for problem in drawn.train] == [f"{id}{k}" for id in (first, second) for k in ("", "#2", "#3")]
    assert [problem.question for problem in drawn.train[:3]] == [drawn.train[0].question] * 3


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=maft-grpo", "debate.samples=1"],
        ["method=distil", "training.objective=grpo"],
        ["method=star", "training.objective=dpo"],
        ["method=maft-dpo", "training.objective=sft"],
        ["training.objective=ppo"],
        ["method=maft-dpo", "training.dpo_beta=0"],
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"debate\.samples: grpo|training\.(objective|dpo_beta)") as refused:
        load_recipe(overrides=overrides)
    assert "\n" not in str(refused.value)
