"""What a running job tells, and when it stops by itself."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmaf.errors import ConfigError, TrainingError
from hpcmaf.recipe import load_recipe
from hpcmaf.training.data import TokenSample
from hpcmaf.training.divergence import check_loss
from hpcmaf.training.events import EventFile, crc32c
from hpcmaf.training.spec import FinetuneJob

BATCH = [TokenSample("p7:3", [1, 2, 3], [False, True, True])]
JOB = FinetuneJob(base="b", dataset="d", output="o", agent="critic-1")


def records(path: Path) -> list[bytes]:
    """TFRecords, each checked against its checksums."""
    content, found = path.read_bytes(), []

    def unmasked(at: int) -> int:
        rotated = (struct.unpack_from("<I", content, at)[0] - 0xA282EAD8) & 0xFFFFFFFF
        return (rotated << 15 | rotated >> 17) & 0xFFFFFFFF

    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        assert unmasked(at + 8) == crc32c(content[at : at + 8])
        found.append(content[at + 12 : at + 12 + length])
        assert unmasked(at + 12 + length) == crc32c(found[-1])
        at += 16 + length
    return found


def test_checksum_is_castagnolis():
    # RFC 3720, B.4
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_event_files_hold_every_step(tmp_path):
    events = EventFile(tmp_path / "tensorboard")
    events.add(300, {"loss": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, scalar = records(path)
    assert version.endswith(b"\x1a\x0dbrain.Event:2")
    # step = 300 (field 2), then summary { value { tag: "loss", simple_value: 0.5 } }
    value = b"\x0a\x04loss\x15" + struct.pack("<f", 0.5)
    assert scalar[9:] == b"\x10\xac\x02" + b"\x2a" + bytes([len(value) + 2]) + b"\x0a" + bytes([len(value)]) + value
    events.close()


def test_tensorboard_itself_reads_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventFile(tmp_path)
    for step in (1, 2, 300):
        events.add(step, {"loss": 1 / step, "reward_margin": -2.5 * step})
    events.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(read.Tags()["scalars"]) == ["loss", "reward_margin"]
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 300]
    assert [event.value for event in read.Scalars("loss")] == pytest.approx([1, 0.5, 1 / 300])
    assert [event.value for event in read.Scalars("reward_margin")] == [-2.5, -5.0, -750.0]


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


@pytest.mark.parametrize("factor", [0.5, 1.0, -1.0])
def test_impossible_factors_are_refused_in_a_line(factor):
    with pytest.raises(ConfigError, match="loss_spike"):
        replace(JOB, loss_spike=factor)
    with pytest.raises(ConfigError, match="loss_spike"):
        load_recipe(overrides=[f"training.loss_spike={factor}"])


@pytest.mark.slow
def test_wandb_is_told_only_when_asked_and_missed_in_a_line(tmp_path, monkeypatch):
    import torch

    from hpcmaf.training.place import Place
    from hpcmaf.training.watching import Watch

    place, told = Place(0, 1, torch.device("cpu")), []
    monkeypatch.setitem(sys.modules, "wandb", None)
    Watch(JOB, place, tmp_path / "a.jsonl", 2, 100).close()
    with pytest.raises(ConfigError, match="wandb is 'maft', but wandb is not installed; pip install wandb"):
        Watch(replace(JOB, wandb="maft"), place, tmp_path / "b.jsonl", 2, 100)
    run = SimpleNamespace(
        log=lambda values, step: told.append((step, values["loss"])), finish=lambda: told.append("end")
    )
    made = []
    fake = SimpleNamespace(init=lambda **settings: made.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    watch = Watch(replace(JOB, wandb="maft"), place, tmp_path / "c.jsonl", 2, 100)
    watch.begin()
    watch.step(1, 0.25, 1e-5, BATCH)
    watch.close()
    assert told == [(1, 0.25), "end"] and made[0]["project"] == "maft" and made[0]["name"] == "critic-1-1"
