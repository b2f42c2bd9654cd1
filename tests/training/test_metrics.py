"""What a running job tells, and when it stops by itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.errors import ConfigError, TrainingError
from hpcmaf.training.config import FinetuneJob
from hpcmaf.training.data import TokenSample
from hpcmaf.training.process import Process
from hpcmaf.training.stability import check_loss

BATCH = [TokenSample("p7:3", [1, 2, 3], [False, True, True])]
JOB = FinetuneJob(base="b", dataset="d", output="o", agent="critic-1")


@pytest.mark.slow
def test_tensorboard_reads_every_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hpcmaf.training.metrics import Metrics

    watch = Metrics(JOB, Process(0, 1, torch.device("cpu")), tmp_path, 3, 100)
    watch.begin()
    for step in (1, 2, 3):
        watch.step(step, 1 / step, 1e-5, BATCH, {"reward_margin": -2.5 * step})
    watch.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "reward_margin", "learning_rate"} <= set(read.Tags()["scalars"])
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in read.Scalars("loss")] == pytest.approx([1, 0.5, 1 / 3])


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=60), st.sampled_from([0.0, 3.0]))
def test_ordinary_losses_go_on(losses, factor):
    # What falls, and rises by less than a nat, is no spike.
    falling = sorted(losses, reverse=True)
    check_loss([*falling, falling[-1] + 0.9], BATCH, 100, factor, len(BATCH))
    check_loss(losses[:1], BATCH, 100, factor, len(BATCH))


@pytest.mark.parametrize(
    ("losses", "factor", "said"),
    [
        ([0.5] * 9 + [2.0], 3.0, "step 10 of 40 is 2, more than 3 times the usual 0.5 (samples p7:3); lower the"),
        ([float("nan")], 3.0, "step 1 of 40 is nan (samples p7:3)"),
        ([0.5] * 9 + [float("inf")], 0.0, "step 10 of 40 is inf"),
        ([0.5] * 9 + [2.0], 0.0, None),
        ([0.5] * 9 + [1.4], 2.0, None),
        ([0.5] * 5 + [2.0], 3.0, None),
        ([0.001] * 9 + [0.5], 3.0, None),
    ],
)
def test_spikes_and_what_is_no_number_stop_with_step_and_samples(losses, factor, said):
    if said is None:
        check_loss(losses, BATCH, 40, factor, len(BATCH))
    else:
        with pytest.raises(TrainingError) as stopped:
            check_loss(losses, BATCH, 40, factor, len(BATCH))
        assert said in str(stopped.value)


def test_the_mean_of_few_samples_may_scatter_further():
    usual = [0.2] * 9
    with pytest.raises(TrainingError, match="more than 3 times"):
        check_loss([*usual, 1.4], BATCH, 40, 3.0, len(BATCH))
    # An epoch's last batch, an eighth of the others.
    check_loss([*usual, 1.4], BATCH, 40, 3.0, 8 * len(BATCH))
    check_loss([*usual, 3.0], BATCH, 40, 3.0, 8 * len(BATCH))
    with pytest.raises(TrainingError, match="more than 3 times"):
        check_loss([*usual, 3.1], BATCH, 40, 3.0, 8 * len(BATCH))


@pytest.mark.slow
def test_wandb_is_told_only_when_asked_and_missed_in_a_line(tmp_path, monkeypatch):
    from hpcmaf.training.metrics import Metrics

    process, told = Process(0, 1, torch.device("cpu")), []
    monkeypatch.setitem(sys.modules, "wandb", None)
    Metrics(JOB, process, tmp_path, 2, 100).close()
    with pytest.raises(ConfigError, match="wandb is 'maft', but wandb is not installed; pip install wandb"):
        Metrics(JOB.replace(wandb="maft"), process, tmp_path, 2, 100)
    run = SimpleNamespace(
        log=lambda values, step: told.append((step, values["loss"])), finish=lambda: told.append("end")
    )
    made = []
    fake = SimpleNamespace(init=lambda **settings: made.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watch = Metrics(JOB.replace(wandb="maft"), process, tmp_path, 2, 100)
    watch.begin()
    watch.step(1, 0.25, 1e-5, BATCH)
    watch.close()
    assert told == [(1, 0.25), "end"] and made[0]["project"] == "maft" and made[0]["name"] == "critic-1-1"
