"""What lies in a folder of checkpoints, and which of it a job goes on from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from hpcmaf.config.recipe import Lora
from hpcmaf.files.publish import atomic_path
from hpcmaf.training.checkpoint import Checkpoint, at_step, checkpoint_step, identity, newest
from hpcmaf.training.config import FinetuneJob
from tests.training.conftest import chats, write_lines

JOB = FinetuneJob(base="b", dataset="d", output="o")


def made(root: Path, step: int, job: str = "this", **more) -> Path:
    with atomic_path(folder := at_step(root, step)) as temporary:
        (temporary / "state").mkdir(parents=True)
        (temporary / "state" / "part.pt").write_bytes(b"x" * step)
    Checkpoint.publish(folder, [1.0] * step, 2.5, {"job": job} | more)
    return folder


def test_the_last_two_are_kept_and_the_last_is_gone_on_from(tmp_path):
    assert checkpoint_step(tmp_path / "nothing") == 0 and newest(tmp_path / "nothing", {}) is None
    for step in (3, 6, 9):
        made(tmp_path, step)
    read = newest(tmp_path, {"job": "this"})
    assert read is not None and (read.step, list(read.losses), read.seconds) == (9, [1.0] * 9, 2.5)
    assert sorted(p.name for p in tmp_path.glob("*/")) == ["step-00000006", "step-00000009"]
    assert checkpoint_step(tmp_path) == 9


@pytest.mark.parametrize(
    "tear",
    [
        lambda found: found.with_suffix(".json").unlink(),
        lambda found: found.with_suffix(".json").write_text('{"schema": "hpcmaf-check'),
        lambda found: found.with_suffix(".json").write_text("[]"),
        lambda found: (found / "state/part.pt").write_bytes(b"x"),
        lambda found: (found / "state/part.pt").unlink(),
        lambda found: shutil.rmtree(found),
    ],
)
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, tear):
    made(tmp_path, 3)
    tear(made(tmp_path, 6))
    assert newest(tmp_path, {"job": "this"}).step == checkpoint_step(tmp_path) == 3
    # Once the job is there again by itself, nothing of it is left.
    made(tmp_path, 6)
    assert newest(tmp_path, {"job": "this"}).step == 6


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("what", ["marker", "part", "folder"])
def test_what_cannot_be_read_now_is_no_damage(tmp_path, monkeypatch, number, what):
    """Neither passed over, nor deleted by a job that begins at step 0."""
    made(tmp_path, 3)
    made(tmp_path, 6)
    failing = Failing({"marker": "step-00000006.json", "part": "part.pt", "folder": tmp_path.name}[what], number)
    failing.install(monkeypatch)
    monkeypatch.setattr("hpcmaf.training.checkpoint.PATIENCE_S", 0.0)
    for look in (lambda: newest(tmp_path, {"job": "this"}), lambda: checkpoint_step(tmp_path)):
        with pytest.raises(OSError, match="injected") as caught:
            look()
        assert caught.value.errno == number
    failing.times = 0
    assert newest(tmp_path, {"job": "this"}).step == 6


@pytest.mark.parametrize("what", ["step-00000006.json", "part.pt"])
def test_what_fails_once_is_tried_again(tmp_path, monkeypatch, what):
    made(tmp_path, 6)
    failing = Failing(what, errno.ESTALE, times=1)
    failing.install(monkeypatch)
    assert newest(tmp_path, {"job": "this"}).step == 6 and failing.times == 0


def test_a_busy_folder_of_an_old_checkpoint_waits_for_the_next(tmp_path, monkeypatch, capsys):
    for step in (3, 6):
        made(tmp_path, step)
    delete = shutil.rmtree

    def busy(folder):
        if folder.name == "step-00000003":
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        delete(folder)

    monkeypatch.setattr(shutil, "rmtree", busy)
    made(tmp_path, 9)
    assert newest(tmp_path, {"job": "this"}).step == 9
    assert "step-00000003: could not be deleted (Device or resource busy), and stays" in capsys.readouterr().err
    monkeypatch.undo()
    made(tmp_path, 12)
    assert not (tmp_path / "step-00000003").exists()


class Failing:
    """The operating system's calls on one name, which fail so often."""

    def __init__(self, name: str, number: int, times: int = 1_000_000) -> None:
        self.name, self.number, self.times = name, number, times

    def install(self, monkeypatch) -> None:
        """Put it before the calls of this test."""
        for owner, call in ((Path, "stat"), (Path, "read_bytes"), (os, "listdir")):
            monkeypatch.setattr(owner, call, self._before(getattr(owner, call)))

    def _before(self, call):
        def called(path, *some, **more):
            if Path(path).name == self.name and self.times:
                self.times -= 1
                raise OSError(self.number, "injected", str(path))
            return call(path, *some, **more)

        return called


def test_another_jobs_checkpoint_is_named_and_makes_way(tmp_path, capsys):
    made(tmp_path, 7, "other")
    assert newest(tmp_path, {"job": "this"}) is None
    assert "job 'other', not 'this'" in capsys.readouterr().out
    made(tmp_path, 2)
    assert newest(tmp_path, {"job": "this"}).step == checkpoint_step(tmp_path) == 2


def test_a_checkpoint_of_a_version_without_a_key_is_gone_on_from_where_that_is_as_it_was(tmp_path):
    job = JOB.replace(dataset=str(write_lines(tmp_path / "data.jsonl", chats(2))))
    earlier = identity(job, world_size=1)
    del earlier["even_batches"]
    made(tmp_path, 4, **earlier)
    now = {"job": "this"}
    assert newest(tmp_path, identity(job, world_size=1) | now).step == 4
    assert newest(tmp_path, identity(job.replace(even_batches=True), world_size=1) | now) is None


def test_identity_is_what_decides_the_result_and_no_more(tmp_path):
    data = write_lines(tmp_path / "data.jsonl", chats(2))
    job = JOB.replace(dataset=str(data))
    own = identity(job, world_size=2)
    assert own == json.loads(json.dumps(own))
    for change in (
        {"learning_rate": 1e-4},
        {"epochs": 3},
        {"seed": 1},
        {"agent": "critic-0"},
        {"lora": Lora(rank=4)},
        {"zero_stage": 3},
        {"start": "s"},
        {"max_grad_norm": 0.5},
    ):
        assert identity(job.replace(**change), world_size=2) != own, change
    assert identity(job, world_size=3) != own
    moved = tmp_path / "moved.jsonl"
    shutil.copy(data, moved)
    same = job.replace(dataset=str(moved), output="elsewhere", micro_batch_size=2, checkpoint_seconds=5.0)
    assert identity(same, world_size=2) == own
    write_lines(moved, chats(3))
    assert identity(same, world_size=2) != own
