"""What a vLLM server is started with; needs no vLLM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpcmaf.config.profile import Generation, Profile
from hpcmaf.engines.adapters import adapter_shape, serving_names
from hpcmaf.engines.base import ServedModels
from hpcmaf.engines.options import AdapterShape, ServerSpec, VllmOptions
from hpcmaf.errors import EngineError
from hpcmaf.jobs.serving import linear_modules
from hpcmaf.micro import base_path


def adapter(folder: Path, modules: list[str], rank: int = 4, extra: dict[str, int] | None = None, odd: str = "") -> str:
    from safetensors.numpy import save_file

    folder.mkdir()
    names = [f"base_model.model.layers.0.{module}.lora_{side}.weight" for module in modules for side in "AB"]
    save_file({name: np.zeros((1, 1), np.float32) for name in [*names, *filter(None, [odd])]},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "rank_pattern": extra or {}}))
    return str(folder)


def spec(options: VllmOptions, adapters: AdapterShape | None = None, device: str = "cuda") -> ServerSpec:
    return ServerSpec("m", None, False, "auto", device, options, adapters)


def test_room_for_every_adapter_of_a_run(tmp_path: Path) -> None:
    found = adapter_shape({
        "critic-0": adapter(tmp_path / "0", ["self_attn.q_proj"], rank=4),
        "critic-1": adapter(tmp_path / "1", ["mlp.up_proj"], rank=4, extra={"mlp.up_proj": 9}),
    })  # fmt: skip
    room = found.joined(AdapterShape(6, 4, ("q_proj", "v_proj")))
    arguments = spec(VllmOptions(), room).arguments()
    assert (arguments["max_loras"], arguments["max_cpu_loras"]) == (6, 12), "two societies may be in use at once"
    assert arguments["max_lora_rank"] == 16, "the next rank that vLLM has, above the largest of any layer"
    assert arguments["lora_target_modules"] == ["q_proj", "up_proj", "v_proj"]
    on_cpu = spec(VllmOptions(), room, "cpu").arguments()
    assert on_cpu["max_loras"] == 49, "a slot stays free for eight societies, or the base's rows get an adapter"
    assert "enable_lora" not in spec(VllmOptions()).arguments()


def test_all_linear_layers_but_the_output() -> None:
    names = linear_modules(ServedModels(str(base_path()), "lora", {}))
    assert set(names) == {f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down")}


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
    before = serving_names({"critic-0": str(folder)})["critic-0"]
    weights.write_bytes(weights.read_bytes()[:20])
    assert serving_names({"critic-0": str(folder)})["critic-0"] != before, "other content has another name"
    with pytest.raises(EngineError, match="torn adapter for critic-0") as raised:
        adapter_shape({"critic-0": str(folder)})
    assert raised.value.kind == "torn"
    weights.unlink()
    with pytest.raises(EngineError, match="no PEFT adapter for critic-0"):
        adapter_shape({"critic-0": str(folder)})


def test_memory_that_vllm_names_is_what_it_gets() -> None:
    options = VllmOptions(gpu_memory_utilization=0.9)
    free = "Free memory on device cuda:0 (70.3/140.0 GiB) on startup is less than desired GPU memory utilization (0.9)"
    assert options.changes(options.smaller(free, "cuda") or options) == "gpu_memory_utilization 0.49"
    assert options.smaller(free.replace("70.3", "5.0"), "cuda") is None, "a GPU that is taken is not worth a start"
    context = "larger than the available KV cache memory. Based on it, the estimated maximum model length is 40960."
    assert options.changes(options.smaller(context, "cuda") or options) == "max_model_len 40960"
    assert options.smaller(context.replace("40960", "16"), "cuda") is None
    fewer = options.smaller("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "cuda")
    assert fewer is not None
    assert (fewer.gpu_memory_utilization, fewer.max_num_seqs) == (0.9, 256)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_giving_up_memory_comes_to_an_end(device: str) -> None:
    """Each step asks for less, says what, and the last step is refused."""
    options: VllmOptions | None = VllmOptions()
    steps = []
    while options is not None:
        steps.append(options)
        options = options.smaller("CUDA out of memory. Tried to allocate 2.00 GiB", device)
    sequences = [step.sequences(device) for step in steps]
    assert sequences == sorted(set(sequences), reverse=True)
    assert 3 <= len(steps) < 10
    for before, after in zip(steps, steps[1:], strict=False):
        assert f"max_num_seqs {after.max_num_seqs}" in before.changes(after)


def test_the_profile_says_it_by_vllms_names() -> None:
    generation = Generation(engine="vllm", max_num_seqs=7, max_model_len=99, kv_cache_dtype="fp8",
                            tensor_parallel=2, vllm_args={"block_size": 32, "hf_overrides": {"a": 1}})  # fmt: skip
    words = " ".join(spec(generation).words())
    for option in ("--max-num-seqs 7", "--max-model-len 99", "--kv-cache-dtype fp8", "--tensor-parallel-size 2",
                   "--block-size 32", '--hf-overrides {"a": 1}', "--enable-sleep-mode"):  # fmt: skip
        assert option in words
    assert "--enforce-eager" not in words and "None" not in words
    on_cpu = " ".join(spec(Generation(kv_cache_gb=0.5), device="cpu").words())
    assert f"--kv-cache-memory-bytes {2**29}" in on_cpu and "--enforce-eager" in on_cpu
    assert "--no-enable-chunked-prefill" in on_cpu and "sleep" not in on_cpu


def test_what_a_server_does_while_agents_are_trained() -> None:
    for what in ("sleep", "stop", "share"):
        assert spec(VllmOptions(while_training=what)).while_training == what
    assert spec(VllmOptions(), device="cpu").while_training == "share"
    assert ServerSpec("m", None, False, "auto", "cuda", VllmOptions(), one_of_many=True).while_training == "stop"


def test_graphs_of_all_sizes_up_to_a_full_step() -> None:
    for most in (7, 512, 1000):
        sizes = spec(VllmOptions(max_num_seqs=most)).arguments()["cudagraph_capture_sizes"]
        assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == most
        assert all(after - before <= 64 for before, after in zip(sizes, sizes[1:], strict=False))
    assert spec(VllmOptions(enforce_eager=True)).arguments()["cudagraph_capture_sizes"] is None


def test_a_cache_of_one_byte_a_number_holds_more_requests() -> None:
    """In longer blocks, unless the user says otherwise."""
    arguments = spec(VllmOptions(kv_cache_dtype="fp8_e4m3")).arguments()
    assert (arguments["max_num_seqs"], arguments["block_size"]) == (1024, 64)
    own = VllmOptions(kv_cache_dtype="fp8_e4m3", vllm_args={"block_size": 16}, max_num_seqs=300)
    assert (spec(own).arguments()["block_size"], spec(own).arguments()["max_num_seqs"]) == (16, 300)


def test_gpus_of_several_engines_are_asked_for() -> None:
    parts = {"name": "site", "launcher": "slurm", "generation": {"engine": "vllm", "engines": 4, "tensor_parallel": 2}}
    with pytest.raises(ValueError, match="generation.engines: 8 GPUs, but slurm.generation.gpus asks for 4"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 4}}})
    assert Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 8}}}).generation.gpus == 8
    with pytest.raises(ValueError, match="engines: only engine: vllm takes more than one"):
        Generation(engines=2)
    parts["generation"] = {"engine": "vllm", "data_parallel": 2}
    with pytest.raises(ValueError, match="parallel: 2 GPUs, but slurm.generation.gpus asks for 1"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 1}}})


def test_an_endpoint_goes_with_its_engine() -> None:
    there = {"url": "http://x/v1", "model": "m"}
    assert Generation.model_validate({"engine": "endpoint", "endpoint": there}).gpus == 0
    for odd in ({"engine": "endpoint"}, {"endpoint": there}):
        with pytest.raises(ValueError, match="endpoint: goes with engine: endpoint"):
            Generation.model_validate(odd)
