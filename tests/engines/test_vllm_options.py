"""What a vLLM engine is started with; needs no vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcmaf.engines.vllm_cause import workers_heard
from hpcmaf.engines.vllm_options import EngineSpec, VllmOptions, adapter_shape
from hpcmaf.engines.vllm_probe import Heard, Probe, check_likeliest
from hpcmaf.engines.vllm_server import failure
from hpcmaf.errors import EngineError
from hpcmaf.profile import Generation, Profile


def adapter(folder: Path, modules: list[str], rank: int = 4, extra: dict[str, int] | None = None, odd: str = "") -> str:
    from safetensors.numpy import save_file

    folder.mkdir()
    names = [f"base_model.model.layers.0.{module}.lora_{side}.weight" for module in modules for side in "AB"]
    save_file({name: np.zeros((1, 1), np.float32) for name in [*names, *filter(None, [odd])]},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "rank_pattern": extra or {}}))
    return str(folder)


def spec(options: VllmOptions, adapters: dict[str, str] | None = None, device: str = "cuda") -> EngineSpec:
    return EngineSpec("m", None, False, "auto", device, adapters or {}, (), (2,), options, "/cache")


def test_every_adapter_has_a_slot_and_one_is_left(tmp_path: Path) -> None:
    """vLLM on a CPU answers for the wrong model when all slots are taken."""
    adapters = {
        "critic-0": adapter(tmp_path / "0", ["self_attn.q_proj"], rank=4),
        "critic-1": adapter(tmp_path / "1", ["mlp.up_proj"], rank=4, extra={"mlp.up_proj": 9}),
    }
    folding = spec(VllmOptions(fold_adapters=True), adapters).arguments()
    assert (folding["max_loras"], folding["max_lora_rank"]) == (4, 32), "one more for the base, and both in one"
    split = spec(VllmOptions(fold_adapters=True, tensor_parallel=2), adapters).arguments()
    arguments = spec(VllmOptions(), adapters).arguments()
    assert arguments["max_loras"] == split["max_loras"] == 3
    assert arguments["max_lora_rank"] == 16, "the next rank that vLLM has, above the largest of any layer"
    assert arguments["lora_target_modules"] == ["q_proj", "up_proj"]
    assert "enable_lora" not in spec(VllmOptions()).arguments()


@pytest.mark.parametrize(
    ("modules", "rank", "odd", "says"),
    [
        (["lm_head"], 4, "", "serves no adapter that holds lm_head"),
        (["q_proj"], 4, "base_model.model.lm_head.weight", "serves no adapter that holds base_model.model.lm_head"),
        (["q_proj"], 4, "x.q_proj.lora_magnitude_vector", "lora_magnitude_vector"),
        (["q_proj"], 513, "", "rank 513: vLLM serves up to 512"),
    ],
)
def test_adapters_that_vllm_cannot_serve(tmp_path: Path, modules: list[str], rank: int, odd: str, says: str) -> None:
    folder = adapter(tmp_path / "a", modules, rank, odd=odd)
    with pytest.raises(EngineError, match=says) as raised:
        adapter_shape({"critic-0": folder})
    assert "generation.engine: transformers" in str(raised.value)


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    folder = Path(adapter(tmp_path / "a", ["q_proj"]))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(EngineError, match="torn adapter for critic-0"):
        adapter_shape({"critic-0": str(folder)})
    weights.unlink()
    with pytest.raises(EngineError, match="no PEFT adapter for critic-0"):
        adapter_shape({"critic-0": str(folder)})


def test_memory_that_vllm_names_is_what_it_gets() -> None:
    options = VllmOptions(gpu_memory_utilization=0.9)
    free = "Free memory on device cuda:0 (70.3/140.0 GiB) on startup is less than desired GPU memory utilization (0.9)"
    assert options.smaller(free, "cuda") == replace(options, gpu_memory_utilization=0.49)
    assert options.smaller(free.replace("70.3", "5.0"), "cuda") is None, "a GPU that is taken is not worth a start"
    context = "larger than the available KV cache memory. Based on it, the estimated maximum model length is 40960."
    assert options.smaller(context, "cuda") == replace(options, max_model_len=40960)
    assert options.smaller(context.replace("40960", "16"), "cuda") is None
    fewer = options.smaller("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "cuda")
    assert fewer is not None
    assert (fewer.gpu_memory_utilization, fewer.max_num_seqs) == (0.9, 256)


def test_a_worker_without_memory_is_heard_of() -> None:
    """vLLM says only that a worker failed; what it failed of decides what is done."""
    script = """
import logging, os
import hpcmaf.engines.vllm_worker
for text in ("CUDA out of memory. Tried to allocate 2.00 GiB", "a later one"):
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logging.getLogger("vllm.v1.executor.multiproc_executor").exception("WorkerProc failed to start.")
"""
    error = Exception("WorkerProc initialization failed due to an exception in a background process.")
    with workers_heard() as heard:
        assert failure(error, heard()) == ("crash", f"Exception: {error}")
        subprocess.run([sys.executable, "-c", script], check=True, stderr=subprocess.DEVNULL)
        kind, reason = failure(error, heard())
    assert (kind, reason) == ("memory", "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert failure(MemoryError(), None)[0] == "memory"
    assert failure(EngineError("no such adapter"), "x") == ("refused", "no such adapter")
    assert VllmOptions(tensor_parallel=2).smaller(reason, "cuda") is not None


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_giving_up_memory_comes_to_an_end(device: str) -> None:
    """Each step asks for less, says what, and the last step is refused."""
    options: VllmOptions | None = VllmOptions()
    steps = []
    while options is not None:
        steps.append(options)
        options = options.smaller("CUDA out of memory. Tried to allocate 2.00 GiB", device)
    seats = [step.seats(device) for step in steps]
    assert seats == sorted(set(seats), reverse=True)
    assert 3 <= len(steps) < 10
    for before, after in zip(steps, steps[1:], strict=False):
        assert f"max_num_seqs {after.max_num_seqs}" in before.changes(after)


def test_the_profile_says_it_by_vllms_names() -> None:
    generation = Generation(engine="vllm", max_num_seqs=7, max_model_len=99, kv_cache_dtype="fp8",
                            tensor_parallel=2, vllm_args={"block_size": 32})  # fmt: skip
    arguments = spec(generation.vllm_options()).arguments()
    assert [arguments[key] for key in ("max_num_seqs", "max_model_len", "kv_cache_dtype", "tensor_parallel_size")] == [
        7, 99, "fp8", 2,
    ]  # fmt: skip
    assert arguments["block_size"] == 32
    assert arguments["distributed_executor_backend"] == "mp"
    on_cpu = spec(Generation(kv_cache_gb=0.5).vllm_options(), device="cpu").arguments()
    assert (on_cpu["kv_cache_memory_bytes"], on_cpu["enforce_eager"]) == (2**29, True)


def test_steps_of_all_sizes_are_recorded() -> None:
    """Also where there are more requests in one than vLLM records steps for."""
    many = spec(VllmOptions(max_num_seqs=1000)).arguments()["compilation_config"]["cudagraph_capture_sizes"]
    assert many == sorted(set(many)) and many[0] == 1 and many[-1] == 1000
    assert all(after - before <= 64 for before, after in zip(many, many[1:], strict=False))
    prompts = spec(VllmOptions(record_prompts=True)).arguments()["compilation_config"]["cudagraph_capture_sizes"]
    assert prompts == sorted(set(prompts)) and {1, 512, 1024, 1536, 8192} <= set(prompts) and prompts[-1] == 8192
    both = VllmOptions(record_prompts=True, max_num_seqs=1000, max_num_batched_tokens=4096)
    sizes = spec(both).arguments()["compilation_config"]["cudagraph_capture_sizes"]
    assert {1000, 1024, 4096} <= set(sizes) and sizes[-1] == 4096
    assert spec(Generation(record_prompts=True).vllm_options()).options.record_prompts
    for options, device in (
        (VllmOptions(), "cuda"),
        (VllmOptions(record_prompts=True), "cpu"),
        (VllmOptions(max_num_seqs=1000, enforce_eager=True), "cuda"),
        (VllmOptions(max_num_seqs=1000), "cpu"),
    ):
        assert "compilation_config" not in spec(options, device=device).arguments()


def test_a_cache_of_one_byte_a_number_holds_more_requests() -> None:
    """In longer blocks, unless the user says otherwise."""
    small = VllmOptions(kv_cache_dtype="fp8_e4m3")
    arguments = spec(small).arguments()
    assert (arguments["max_num_seqs"], arguments["block_size"]) == (1024, 64)
    assert arguments["compilation_config"]["cudagraph_capture_sizes"][-1] == 1024
    assert spec(replace(small, arguments={"block_size": 16})).arguments()["block_size"] == 16
    assert spec(replace(small, max_num_seqs=300)).arguments()["max_num_seqs"] == 300
    for other, device in ((VllmOptions(), "cuda"), (small, "cpu")):
        arguments = spec(other, device=device).arguments()
        assert (arguments["max_num_seqs"], "block_size" in arguments) == ({"cuda": 512, "cpu": 128}[device], False)


def test_gpus_of_several_engines_are_asked_for() -> None:
    parts = {"name": "site", "launcher": "slurm", "generation": {"engine": "vllm", "engines": 4, "tensor_parallel": 2}}
    with pytest.raises(ValueError, match="generation.engines: 8 GPUs, but slurm.generation.gpus asks for 4"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 4}}})
    assert Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 8}}}).generation.gpus == 8
    with pytest.raises(ValueError, match="engines: only engine: vllm takes more than one"):
        Generation(engines=2)
    with pytest.raises(ValueError, match="more than one need engine_process: own"):
        Generation(engine="vllm", engines=2, engine_process="job")


def test_gpus_that_share_a_model_are_asked_for() -> None:
    parts = {"name": "site", "launcher": "slurm", "generation": {"tensor_parallel": 2}}
    with pytest.raises(ValueError, match="tensor_parallel: 2 GPUs, but slurm.generation.gpus asks for 1"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 1}}})
    assert Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 2}}}).generation.tensor_parallel == 2


# What three models say to a prompt, told apart by their likelihoods.
VOICES = {None: (-1.0, -2.0, -0.5), "critic-0": (-1.5, -2.5, -0.2), "critic-1": (-1.6, -2.4, -0.1)}


def ask(mix_up: dict, shift: float = 0.0):
    def answered(rows):
        heard = []
        for model, _ in rows:
            speaks = mix_up.get(model, model) if len({m for m, _ in rows}) > 1 else model
            noise = shift if len({m for m, _ in rows}) > 1 else 0.0
            heard.append(Heard((5, 6), tuple(x + noise for x in VOICES[speaks]), (-0.3 + noise, -0.4 + noise)))
        return heard

    return answered


def test_models_that_answer_for_themselves_pass() -> None:
    Probe(ask({}), list(VOICES), [(1, 2, 3, 4)], "float32").check()
    Probe(ask({}, shift=0.004), list(VOICES), [(1, 2, 3, 4)], "float32").check()
    Probe(ask({}, shift=0.05), list(VOICES), [(1, 2, 3, 4)], "bfloat16").check()


@pytest.mark.parametrize(
    ("mix_up", "dtype"),
    [({None: "critic-1"}, "float32"), ({"critic-0": None}, "float32"), ({"critic-0": "critic-1"}, "bfloat16")],
)
def test_a_model_that_answers_for_another_is_found(mix_up: dict, dtype: str) -> None:
    """Also where the two are as alike as rounding in sixteen bits."""
    with pytest.raises(EngineError, match=f"mixes up adapters: in a mixed batch, {next(iter(mix_up)) or 'base'}"):
        Probe(ask(mix_up), list(VOICES), [(1, 2, 3, 4)], dtype).check()


def test_an_adapter_that_learned_nothing_is_no_mix_up() -> None:
    """It says what the base says, so rounding may bring one's row nearer to the other's."""

    def answered(rows):
        mixed = len({model for model, _ in rows}) > 1
        # In a mixed batch both come out as the adapter alone does, to the bit.
        return [Heard((5,), (-1.0 if mixed or model else -1.02, -2.0), (-0.5,)) for model, _ in rows]

    Probe(answered, [None, "critic-0"], [(1, 2, 3)], "bfloat16").check()
    Probe(ask({}), [None, "critic-0"], [(1, 2, 3, 4)], "bfloat16").check()


def test_guesses_that_a_model_would_refuse_are_found() -> None:
    """Ties are none: sixteen bits have many."""
    check_likeliest([(-0.5, -0.5), (-2.0, -2.0)])
    with pytest.raises(EngineError, match="1 of 2 tokens .* not the likeliest, by up to 22.5 nats; leave out"):
        check_likeliest([(-0.5, -0.5), (-23.0, -0.5)])
    arguments = spec(Generation(engine="vllm", lookup_tokens=5).vllm_options()).arguments()
    assert arguments["speculative_config"]["num_speculative_tokens"] == 5
    assert "speculative_config" not in spec(VllmOptions()).arguments()


def test_numbers_that_are_none_are_a_diverged_model() -> None:
    with pytest.raises(EngineError, match="model base: its logits are not numbers"):
        Probe(lambda rows: [Heard((1,), (float("nan"),), (0.0,)) for _ in rows], [None], [(1, 2)], "float32").check()
