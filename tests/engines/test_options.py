"""What a vLLM server is started with; needs no vLLM."""

from __future__ import annotations

from typing import Any

import pytest

from hpcmaf.config.profile import Generation, Profile
from hpcmaf.engines.base import ServedModels
from hpcmaf.engines.options import AdapterShape, VllmOptions, configuration, smaller
from hpcmaf.jobs.serving import linear_modules
from hpcmaf.micro import base_path


def arguments(options: VllmOptions, adapters: AdapterShape | None = None, device: str = "cuda") -> dict[str, Any]:
    return options.arguments(ServedModels("m", "lora", {}), device, adapters)


def test_room_for_every_adapter_of_a_run() -> None:
    room = AdapterShape(2, 9, ("q_proj", "up_proj"))
    found = arguments(VllmOptions(), room)
    assert (found["max_loras"], found["max_cpu_loras"]) == (2, 4), "two societies may be in use at once"
    assert found["max_lora_rank"] == 16, "the next rank that vLLM has"
    assert found["lora_target_modules"] == ["q_proj", "up_proj"]
    on_cpu = arguments(VllmOptions(), room, "cpu")
    assert on_cpu["max_loras"] == 17, "a slot stays free for eight societies, or the base's rows get an adapter"
    assert "enable_lora" not in arguments(VllmOptions())


def test_all_linear_layers_but_the_output() -> None:
    names = linear_modules(ServedModels(str(base_path()), "lora", {}))
    assert set(names) == {f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down")}


def test_memory_that_vllm_names_is_what_it_gets() -> None:
    started = arguments(VllmOptions(gpu_memory_utilization=0.9))
    free = "Free memory on device cuda:0 (70.3/140.0 GiB) on startup is less than desired GPU memory utilization (0.9)"
    assert smaller(started, free) == {"gpu_memory_utilization": 0.49}
    assert smaller(started, free.replace("70.3", "5.0")) is None, "a GPU that is taken is not worth a start"
    context = "larger than the available KV cache memory. Based on it, the estimated maximum model length is 40960."
    assert smaller(started, context) == {"max_model_len": 40960}
    assert smaller(started, context.replace("40960", "16")) is None
    blocks = "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    assert smaller(started, blocks) == {"max_num_seqs": 256, "gpu_memory_utilization": 0.9}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_giving_up_memory_comes_to_an_end(device: str) -> None:
    started, steps = arguments(VllmOptions(), device=device), 0
    while (less := smaller(started, "CUDA out of memory. Tried to allocate 2.00 GiB")) is not None:
        assert all(value < started[name] for name, value in less.items()) and len(less) == 2
        started, steps = started | less, steps + 1
    assert 2 <= steps < 10


@pytest.mark.parametrize(
    ("profile", "expected", "without"),
    [
        (
            {"max_num_seqs": 7, "max_model_len": 99, "tensor_parallel": 2, "vllm_args": {"hf_overrides": {"a": 1}}},
            {"max-num-seqs": 7, "max-model-len": 99, "tensor-parallel-size": 2, "hf-overrides": '{"a": 1}',
             "enable-sleep-mode": True},
            {"enforce-eager", "model", "block-size"},
        ),
        # A cache of one byte a number holds more requests, in longer blocks unless the user says otherwise.
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv-cache-dtype": "fp8_e4m3", "max-num-seqs": 1024, "block-size": 64}, set()),
        ({"kv_cache_dtype": "fp8", "vllm_args": {"block_size": 16}}, {"block-size": 16}, set()),
        ({"while_training": "share"}, {}, {"enable-sleep-mode"}),
        (
            {"kv_cache_gb": 0.5, "device": "cpu"},
            {"kv-cache-memory-bytes": 2**29, "enforce-eager": True, "no-enable-chunked-prefill": True},
            {"enable-sleep-mode"},
        ),
    ],
)  # fmt: skip
def test_the_profile_says_it_by_vllms_names(profile: dict[str, Any], expected: dict[str, Any], without: set[str]) -> None:
    generation = Generation(engine="vllm", **profile)
    device = "cuda" if generation.device == "auto" else generation.device
    found = configuration(arguments(generation, device=device))
    assert found.items() >= expected.items()
    assert not without & set(found) and None not in found.values()


def test_graphs_of_all_sizes_up_to_a_full_step() -> None:
    for most in (7, 512, 1000):
        sizes = configuration(arguments(VllmOptions(max_num_seqs=most)))["cudagraph-capture-sizes"]
        assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == most
        assert all(after - before <= 64 for before, after in zip(sizes, sizes[1:], strict=False))
    assert "cudagraph-capture-sizes" not in configuration(arguments(VllmOptions(enforce_eager=True)))


def test_gpus_of_several_engines_are_asked_for() -> None:
    parts = {"name": "site", "launcher": "slurm", "generation": {"engine": "vllm", "engines": 4, "tensor_parallel": 2}}
    with pytest.raises(ValueError, match="generation.engines: 8 GPUs, but slurm.generation.gpus asks for 4"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 4}}})
    assert Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 8}}}).generation.gpus == 8
    with pytest.raises(ValueError, match="engines: only engine: vllm takes more than one"):
        Generation(engines=2)
    parts["generation"] = {"engine": "vllm", "tensor_parallel": 2}
    with pytest.raises(ValueError, match="parallel: 2 GPUs, but slurm.generation.gpus asks for 1"):
        Profile.model_validate(parts | {"slurm": {"generation": {"gpus": 1}}})


def test_an_endpoint_goes_with_its_engine() -> None:
    there = {"url": "http://x/v1", "model": "m"}
    assert Generation.model_validate({"engine": "endpoint", "endpoint": there}).gpus == 0
    for odd in ({"engine": "endpoint"}, {"endpoint": there}):
        with pytest.raises(ValueError, match="endpoint: goes with engine: endpoint"):
            Generation.model_validate(odd)
