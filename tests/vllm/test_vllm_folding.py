"""With an adapter in the weights, everybody says what they say without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcmaf.engines import Sampling
from tests.vllm.societies import AGENTS, ask, lora_agents, run, served, vllm_engine
from tests.vllm.test_vllm_engine import hold_debates

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return lora_agents(tmp_path_factory.mktemp("agents"))


@pytest.fixture
def changeable(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Weights that can be changed, as on a GPU: oneDNN keeps its own copy. Returns who is folded in, in turn."""
    from vllm import _custom_ops

    from hpcmaf.engines.vllm_fold import FoldedWeights

    monkeypatch.setattr(_custom_ops, "_supports_onednn", False)
    turns: list[str | None] = []
    plain = FoldedWeights.fold
    monkeypatch.setattr(FoldedWeights, "fold", lambda self, agent: (turns.append(agent), plain(self, agent))[1])
    monkeypatch.setattr("hpcmaf.engines.vllm_admission._FOLD_TOKENS", 50)
    return turns


def test_greedy_debates_agree_with_transformers(agents: dict[str, str], changeable: list[str | None]) -> None:
    """Every text of every round, while the weights are one agent's after the other's."""
    from hpcmaf.engines.transformers_engine import TransformersEngine

    sampling = Sampling(temperature=0.0, max_new_tokens=80)
    engine = vllm_engine(served(agents), fold_adapters=True, max_num_seqs=8)
    try:
        run(engine, [ask("first")])
        tested = len(changeable)
        assert set(changeable) == {None, *AGENTS}
        texts = hold_debates(engine, 12, sampling)
        assert len(set(changeable[tested:])) >= 3
        peer = TransformersEngine(served(agents), device="cpu")
        assert texts == hold_debates(peer, 12, sampling)
    finally:
        engine.close()


def test_folding_that_changes_an_answer_is_left_off(
    agents: dict[str, str], changeable: list[str | None], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from hpcmaf.engines.vllm_fold import FoldedWeights

    monkeypatch.setattr(FoldedWeights, "_fold_part", lambda *_: None)  # the adapter gets into no weights
    engine = vllm_engine(served(agents), fold_adapters=True)
    try:
        alone = run(engine, [ask("a", model="critic-0")])[0]
        assert "adapters are not folded into the weights: with critic-0 in them" in capfd.readouterr().err
        from hpcmaf.engines.transformers_engine import TransformersEngine

        assert alone == run(TransformersEngine(served(agents), device="cpu"), [ask("a", model="critic-0")])[0]
    finally:
        engine.close()


def test_weights_that_cannot_be_changed_are_left_alone(agents: dict[str, str], capfd: Any) -> None:
    """vLLM's CPU build computes with a copy of its own."""
    engine = vllm_engine(served(agents), fold_adapters=True)
    try:
        assert run(engine, [ask("a", model="critic-0")])[0].text
        assert "not folded into the weights: model.layers.0.self_attn" in capfd.readouterr().err
    finally:
        engine.close()


@pytest.mark.parametrize("slots", [[-1, -1], [2], [0, -1, 1, 1, -1], [3, 0, 3]])
def test_kernels_are_told_what_vllm_tells_them(slots: list[int]) -> None:
    import numpy as np
    import torch
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

    from hpcmaf.engines.vllm_rows import tell_kernels

    tokens = np.arange(1, len(slots) + 1) * 3
    ours, theirs = (LoRAKernelMeta.make(4, 100, "cpu") for _ in range(2))
    for meta in (ours, theirs):
        for name in ("token_lora_mapping", "token_indices_sorted_by_lora_ids"):
            getattr(meta, name).zero_()
    by_token = torch.from_numpy(np.array(slots).repeat(tokens))
    theirs.prepare_tensors(by_token)
    if theirs.no_lora_flag_cpu[0]:
        return
    tell_kernels(ours, np.array(slots), tokens)
    for name, value in vars(theirs).items():
        if isinstance(value, torch.Tensor) and name != "no_lora_flag_cpu":
            assert getattr(ours, name).tolist() == value.tolist(), name


def test_rows_of_vllms_second_model_runner() -> None:
    """The base's rows get the stand-in, and those of whoever is folded in get nothing."""
    from types import SimpleNamespace

    import numpy as np
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.gpu.lora_utils import LoraState

    from hpcmaf.engines.vllm_rows import LoraRows

    requests = {id: LoRARequest(f"a{id}", id, str(Path("/nowhere"))) for id in (1, 2, 3)}
    state = LoraState(8)
    manager = SimpleNamespace(lora_index_to_id=[2, 1, 3, None], punica_wrapper_mapping={"model": SimpleNamespace()})
    told: list[Any] = []
    runner = SimpleNamespace(
        lora_state=state,
        lora_manager=SimpleNamespace(_adapter_manager=manager),
        _set_active_loras=lambda *inputs: told.append(inputs),
    )
    rows = LoraRows(runner, requests, stand_in=3)
    for place, request in enumerate([None, requests[1], requests[2]]):
        state.add_request(f"r{place}", place, request)
    names, places, tokens = ["r0", "r1", "r2"], np.array([0, 1, 2]), np.array([1, 2, 1])
    assert state.get_activate_loras(names) == {requests[1], requests[2]}
    assert state.make_lora_inputs(names, places, tokens)[1] == (0, 1, 1, 2)
    rows.fold(1)
    assert state.get_activate_loras(names) == {requests[2], requests[3]}
    assert state.get_activate_loras(["r1"]) == set()
    assert state.make_lora_inputs(names, places, tokens)[:2] == ((3, 0, 2), (3, 0, 0, 2))


def test_rows_are_told_without_folding_as_vllm_tells_them() -> None:
    """Where the kernels are known, the base's rows among them."""
    from types import SimpleNamespace

    import numpy as np
    import torch
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.gpu.lora_utils import LoraState

    from hpcmaf.engines.vllm_rows import LoraRows

    requests = {id: LoRARequest(f"a{id}", id, "/nowhere") for id in (1, 2)}
    state, (ours, outputs, theirs) = LoraState(8), (LoRAKernelMeta.make(3, 50, "cpu") for _ in range(3))
    kernels = SimpleNamespace(token_mapping_meta=ours, prompt_mapping_meta=outputs)
    manager = SimpleNamespace(lora_index_to_id=[2, 1, None], punica_wrapper_mapping={"model": kernels})
    runner = SimpleNamespace(
        lora_state=state, lora_manager=SimpleNamespace(_adapter_manager=manager), _set_active_loras=None
    )
    LoraRows(runner, requests)
    for place, id in enumerate([1, None, 2, 1]):
        state.add_request(f"r{place}", place, requests.get(id))
    names, tokens = [f"r{n}" for n in range(4)], np.array([1, 3, 5, 1])
    assert state.get_activate_loras(names) == set(requests.values())
    runner._set_active_loras(*state.make_lora_inputs(names, np.arange(4), tokens))
    # Adapter 1 lies in slot 1, and adapter 2 in slot 0.
    theirs.prepare_tensors(torch.tensor([1, -1, -1, -1, 0, 0, 0, 0, 0, 1]))
    for name in ("token_lora_mapping", "token_indices_sorted_by_lora_ids"):
        assert getattr(ours, name)[:10].tolist() == getattr(theirs, name)[:10].tolist(), name
    for name in ("active_lora_ids", "num_tokens_per_lora", "lora_token_start_loc", "num_active_loras_cpu"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name
    assert not ours.no_lora_flag_cpu[0] and outputs.no_lora_flag_cpu[0]
    # The base alone needs no kernel.
    runner._set_active_loras(*state.make_lora_inputs(["r1"], np.array([1]), np.array([4])))
    assert ours.no_lora_flag_cpu[0]
