"""What finetuning jobs leave, for every ZeRO stage, tuning and make of model, alone and several by one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from hpcmaf.errors import TrainingError
from hpcmaf.models.chat import ChatFormat
from hpcmaf.seeding import derive_seed
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import global_batches, load_tokens
from hpcmaf.training.job import run_finetune
from hpcmaf.training.launch import Workers
from tests.commands import processes
from tests.environments import package
from tests.training.conftest import SAMPLES, Outcome, is_an_adapter_like, run_batch

pytestmark = pytest.mark.slow
MATRIX = [f"{tuning}-{stage}" for tuning in ("lora", "full") for stage in range(4)]


def largest_difference(a: Outcome, b: Outcome) -> float:
    left, right = a.weights(), b.weights()
    assert left.keys() == right.keys()
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


@pytest.mark.parametrize("name", MATRIX)
def test_output_opens_and_has_learnt(outcomes, name):
    outcome = outcomes[name]
    assert outcome.report["losses"][-1] < outcome.report["losses"][0]
    base = AutoModelForCausalLM.from_pretrained(outcome.job.base)
    ids = torch.tensor([[1, 10, 11, 12]])
    before = base(ids).logits.detach()
    if outcome.job.tuning == "lora":
        model = PeftModel.from_pretrained(base, outcome.output)
        config = json.loads((outcome.output / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == outcome.job.base
    else:
        model = AutoModelForCausalLM.from_pretrained(outcome.output)
        tokenizer = AutoTokenizer.from_pretrained(outcome.output)
        assert tokenizer.chat_template == AutoTokenizer.from_pretrained(outcome.job.base).chat_template
    assert not torch.allclose(model(ids).logits, before, atol=1e-4)
    assert not list(outcome.output.rglob("*.bin")) and not list(outcome.output.rglob("*.pt"))


@pytest.mark.parametrize("stage", range(3))
def test_plain_torch_loop_gives_the_same_weights(outcomes, stage):
    outcome = outcomes[f"full-{stage}"]
    weights, losses = plain_loop(outcome)
    assert outcome.report["losses"] == pytest.approx(losses, abs=2e-4)
    trained = outcome.weights()
    start = AutoModelForCausalLM.from_pretrained(outcome.job.base).state_dict()
    for name, tensor in trained.items():
        step = (weights[name] - start[name]).norm()
        assert (tensor - weights[name]).norm() <= 0.01 * step + 1e-6, name
        assert step > 0 or not torch.is_floating_point(tensor)


def plain_loop(outcome: Outcome):
    """The job without DeepSpeed, batches, padding or hpcmaf's loss: one text at a time."""
    job = outcome.job
    data = load_tokens(Path(job.dataset), ChatFormat.from_pretrained(job.base), max_length=256, loss_on=job.loss_on)
    seed = derive_seed(job.seed, job.iteration, job.agent, "finetune")
    batches = global_batches(data.samples, batch_size=job.batch_size, epochs=job.epochs, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=0.0)
    losses = []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        total, tokens = 0.0, 0
        for sample in batch:
            ids = torch.tensor([sample.input_ids])
            chances = model(ids).logits[0, :-1].log_softmax(-1)
            for position, carries in enumerate(sample.target[1:]):
                if carries:
                    total, tokens = total - chances[position, sample.input_ids[position + 1]], tokens + 1
        loss = total / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = job.learning_rate * (1 - step / len(batches))
        optimizer.step()
        losses.append(loss.item())
    return model.state_dict(), losses


def test_reported_tokens_are_the_tokenizers(outcomes):
    for name, loss_on in (("full-2", "last"), ("all-turns", "all")):
        outcome = outcomes[name]
        tokenizer = AutoTokenizer.from_pretrained(outcome.job.base)
        texts = targets = 0
        for line in Path(outcome.job.dataset).read_text().splitlines():
            messages = json.loads(line)["messages"]
            # Llama's template here: BOS, a mark per turn, EOS behind the assistant's.
            texts += len(
                tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
            )
            said = [m["content"] for m in messages if m["role"] == "assistant"]
            targets += sum(len(text) + 1 for text in (said if loss_on == "all" else said[-1:]))
        epochs = outcome.job.epochs
        assert (outcome.report["training_tokens"], outcome.report["target_tokens"]) == (
            epochs * texts,
            epochs * targets,
        )


def test_adapter_goes_on_from_the_previous_one(outcomes):
    before, after = outcomes["lora-0"], outcomes["next"]
    assert after.report["losses"][0] < before.report["losses"][0] - 0.05
    assert largest_difference(before, after) > 0


def test_agent_without_data_keeps_the_base(outcomes):
    adapter = outcomes["empty-lora"]
    assert (adapter.report["steps"], adapter.report["final_loss"], adapter.report["samples"]) == (0, None, 0)
    assert all(not tensor.any() for name, tensor in adapter.weights().items() if "lora_B" in name)
    base = AutoModelForCausalLM.from_pretrained(adapter.job.base).state_dict()
    kept = AutoModelForCausalLM.from_pretrained(outcomes["empty-full"].output).state_dict()
    assert all(torch.equal(base[name], kept[name]) for name in base)


def test_bfloat16_trains_with_float32_masters(outcomes):
    report = outcomes["bfloat16"].report
    assert report["losses"] == pytest.approx(outcomes["lora-0"].report["losses"], abs=0.03)
    # More digits than bfloat16 has: these come from the optimiser's copy.
    tensors = outcomes["bfloat16"].weights().values()
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in tensors)


def test_the_log_says_how_it_is_trained(outcomes):
    assert (
        "of them trained (lora); float32; ZeRO-2; packed; 14 adapted layers fused, 2 gated units kept by halves"
        in outcomes["all-turns"].log.read_text()
    )
    # With dropout, adapters are left to PEFT.
    log = outcomes["other-agent"].log.read_text()
    assert "zero_stage auto: 1 on CPU" in log and "ZeRO-1; packed; 0 adapted layers fused" in log
    assert "bfloat16 with float32 master weights; ZeRO-1" in outcomes["bfloat16"].log.read_text()
    assert "ZeRO-3; loaded in parts; packed" in outcomes["two-processes-lora"].log.read_text()
    assert "ZeRO-3, params offloaded" in outcomes["offload-3"].log.read_text()
    assert "padded" in outcomes["unpacked"].log.read_text()


@pytest.mark.parametrize(
    ("name", "like"),
    [
        # Packing, or cutting a batch into micro-batches or processes.
        *((name, "one-big") for name in ("one-small", "unpacked", "two-processes", "full-2")),
        ("checkpointing", "lora-0"),
        ("two-processes-lora", "lora-0"),
        ("offload-2", "full-2"),
        ("offload-3", "full-2"),
        ("dpo-lora-3", "dpo-lora"),
        ("kto-3", "kto"),
        ("grpo-next-3", "grpo-next"),
    ],
)
def test_where_things_are_computed_and_kept_changes_nothing(outcomes, name, like):
    assert outcomes[name].report["samples"] == SAMPLES
    assert outcomes[name].report["losses"] == pytest.approx(outcomes[like].report["losses"], abs=1e-4)
    if outcomes[name].job.tuning == "full":
        assert largest_difference(outcomes[name], outcomes[like]) < 2e-3  # lr 1e-2
        # Otherwise the tolerance would let anything pass.
        assert largest_difference(outcomes[like], outcomes["empty-full"]) > 1e-2


def test_divergence_stops_with_step_and_samples(outcomes):
    assert "diverged: the loss of step 1 of 6" in outcomes["diverged"].failure
    assert "p" in outcomes["diverged"].failure.split("samples ")[1]
    assert not outcomes["diverged"].output.exists()


@pytest.mark.parametrize("name", ["steep-lora", "steep-full-0", "steep-full-3", "steep-bfloat16"])
def test_gradients_that_are_not_finite_stop_with_step_and_samples(outcomes, name):
    assert "diverged: the gradients of step 1 of 6 are not finite (samples p" in outcomes[name].failure
    assert not outcomes[name].output.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("wrong-rank", "rank 4, alpha 8, but the recipe asks for rank 8"), ("wrong-targets", "lora.targets ['nowhere']")],
)
def test_impossible_adapters_are_refused_in_a_line(outcomes, name, said):
    assert said in outcomes[name].failure


def test_progress_is_written_per_step(outcomes):
    outcome = outcomes["full-2"]
    lines = outcome.steps
    assert [line["step"] for line in lines] == list(range(1, outcome.report["steps"] + 1))
    assert [line["loss"] for line in lines] == outcome.report["losses"]
    rates = [line["learning_rate"] for line in lines]
    assert rates == pytest.approx([1e-2 * (1 - step / 6) for step in range(6)])
    assert lines[-1]["eta_s"] == 0 and lines[-1]["tokens_per_s"] > 0

    parameters = AutoModelForCausalLM.from_pretrained(outcome.job.base).num_parameters()
    assert lines[-1]["tflops"] == pytest.approx(6e-12 * parameters * lines[-1]["tokens_per_s"], rel=0.01)
    shown = EventAccumulator(str(outcome.work.parent / "tensorboard")).Reload()
    for key in ("loss", "learning_rate"):
        assert [(event.step, pytest.approx(event.value)) for event in shown.Scalars(key)] == [
            (line["step"], line[key]) for line in lines
        ]


# Three of one base, one of them by preference, and one of another.
AGENTS = ["dropout", "other-agent", "dpo-lora", "lora-2"]


@pytest.fixture(scope="module")
def trained(outcomes, tmp_path_factory) -> tuple[Path, dict[str, FinetuneJob]]:
    """Those jobs by the same processes, and a failing one among them."""
    folder = tmp_path_factory.mktemp("a list")
    jobs = {name: outcomes[name].job.replace(output=str(folder / name)) for name in AGENTS}
    broken = jobs["dropout"].replace(base=str(folder / "nothing"), output=str(folder / "broken"))
    order = [*list(jobs.items())[:3], ("broken", broken), ("lora-2", jobs["lora-2"])]
    with Workers() as workers:
        for name, job in order:
            if name == "broken":
                with pytest.raises(TrainingError, match="nothing: cannot be loaded"):
                    run_finetune(job, folder / f"{name}.logs", workers=workers)
            else:
                run_finetune(job, folder / f"{name}.logs", workers=workers)
        assert processes(str(folder))
    assert not processes(str(folder)), "nobody outlives the block"
    return folder, jobs


@pytest.mark.parametrize("name", AGENTS)
def test_the_same_bytes_as_from_a_job_of_its_own(outcomes, trained, name):
    folder, _ = trained
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name / file).read_bytes() == (outcomes[name].output / file).read_bytes()
    report = json.loads((folder / name / "training.json").read_text())
    assert report["losses"] == outcomes[name].report["losses"]
    assert 0 < report["startup_seconds"] < report["wall_seconds"]


def test_another_agent_learns_other_weights(outcomes):
    one, other = (outcomes[name].output / "adapter_model.safetensors" for name in ("dropout", "other-agent"))
    assert one.read_bytes() != other.read_bytes()


def test_the_base_is_loaded_once(trained):
    folder, _ = trained
    logs = {name: (folder / f"{name}.logs" / "finetune.log").read_text() for name in AGENTS}
    assert "from the job before" not in logs["dropout"]
    for name in ("other-agent", "dpo-lora"):
        assert "from the job before: base" in logs[name]
    # After a failure, others begin anew.
    assert "from the job before" not in logs["lora-2"]
    assert not (folder / "broken").exists() and not list(folder.glob("*.logs/jobs-*"))


def test_a_base_in_4_bits_trains_nearly_alike_and_its_adapter_is_one_like_any_other(outcomes, tmp_path):
    """With a bitsandbytes of the test's own: PEFT imports it wherever it finds it, a second of every task's start."""
    packages, plain = package("bitsandbytes", "bitsandbytes>=0.49"), outcomes["lora-0"]
    jobs = {"quantized": plain.job.replace(quantize="4bit", zero_stage=2, processes=2)}
    quantized = run_batch(tmp_path, jobs, packages=packages)["quantized"]
    losses, exact = quantized.report["losses"], plain.report["losses"]
    assert losses[-1] < losses[0] and losses == pytest.approx(exact, abs=0.1)
    assert losses != pytest.approx(exact, abs=1e-4)
    assert "in 4 bits; ZeRO-2" in quantized.log.read_text()
    is_an_adapter_like(quantized, plain)
