"""Steps with less of vLLM's Python are the same steps, and give the same answers at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcmaf.engines.vllm_child import environment
from tests.vllm.pretending import STOP, hold, plain_engine, rows

pytestmark = pytest.mark.slow
ASYNC = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the project's engines run vLLM."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("kind", "blocks"), [("as on a GPU", 60), ("as on a GPU", 2000), ("as on a CPU", 60)])
def test_the_same_steps_and_answers(kind: str, blocks: int, tmp_path: Path) -> None:
    """Also where the cache is too small for all, so that answers are thrown out half made and made again."""
    from hpcmaf.engines.vllm_steps import BriefSteps

    ahead = 2 if kind == "as on a GPU" else 1
    arguments: dict[str, Any] = {"num_gpu_blocks_override": blocks, "block_size": 32, "max_num_batched_tokens": 400}
    arguments |= {"scheduler_cls": ASYNC} if ahead == 2 else {}
    engine = plain_engine(tmp_path, 40, enable_chunked_prefill=True, **arguments)
    scheduler = engine.engine.engine_core.engine_core.scheduler
    work = rows(160)
    plain, right = hold(engine, work, ahead)
    assert scheduler.reset_prefix_cache()
    # The same as a second run of vLLM's own, so that what follows compares steps and nothing else.
    again, answers = hold(engine, work, ahead)
    assert (again.asked, answers) == (plain.asked, right)
    assert scheduler.reset_prefix_cache()
    steps = BriefSteps(scheduler)
    short = 0
    plainly = steps._update

    def update(scheduled: Any, made: Any) -> Any:
        nonlocal short
        short += len(made.req_ids) - len(scheduled.num_scheduled_tokens)
        return plainly(scheduled, made)

    steps._update = update
    brief, answers = hold(engine, work, ahead)
    assert brief.asked == plain.asked
    assert answers == right
    assert (plain.preempted > 0) == (blocks == 60)
    assert {row.id for row in work} == {int(name) for _, name, *_ in answers}
    assert {reason for *_, reason, _, _ in answers} == {"stop", "length"}
    assert {stop for *_, stop, _ in answers} == {None, STOP} and sum(cached for *_, cached in answers) > 0
    tokens = sum(len(made) for _, _, made, *_ in answers)
    assert short > 0.7 * tokens, "most tokens are spared vLLM's own way"
    assert not scheduler.requests and not scheduler.running


def test_what_it_leaves_out_is_left_to_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcmaf.engines.vllm_steps import BriefSteps

    scheduler = plain_engine(tmp_path, 8).engine.engine_core.engine_core.scheduler
    own = scheduler.update_from_output
    for name, value, reason in (
        ("log_stats", True, "statistics"),
        ("num_spec_tokens", 3, "guesses"),
        ("connector", object(), "connectors"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(scheduler, name, value)
            with pytest.raises(ValueError, match=reason):
                BriefSteps(scheduler)
    monkeypatch.delattr(scheduler, "max_model_len")
    with pytest.raises(AttributeError):
        BriefSteps(scheduler)
    assert scheduler.update_from_output == own, "nothing is half changed"
