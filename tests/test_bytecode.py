"""Compiled modules are kept where Python was told not to keep them, and nothing changes elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcmaf.bytecode import keep_bytecode, nowhere_to_keep
from hpcmaf.launch.doctor import machine
from hpcmaf.usercache import user_cache, writable

# What a job does: it decides, imports something big, and starts another process.
JOB = """
import json, os, subprocess, sys
from hpcmaf.bytecode import keep_bytecode
keep_bytecode(os.environ)
import torch, transformers
child = "import sys, torch; print(torch.__cached__, sys.dont_write_bytecode)"
said = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout.split()
print(json.dumps([torch.__cached__, os.path.exists(torch.__cached__), *said]))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with packages named as the big ones."""
    for name in ("torch", "transformers"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("number = 1\n")
    return tmp_path / "site"


def job(site: Path, home: Path, **environment: str) -> list:
    root = Path(__file__).parents[1]
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{site}:{root}", "XDG_CACHE_HOME": str(home)} | environment
    done = subprocess.run([sys.executable, "-c", JOB], env=own, cwd=site, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_told_to_keep_nothing_keeps_it_in_the_users_cache(site, tmp_path):
    home = tmp_path / "home"
    kept, there, childs, childs_flag = job(site, home, PYTHONDONTWRITEBYTECODE="1")
    assert there and kept == childs and childs_flag == "False"
    assert Path(kept).is_relative_to(home / "hpcmaf" / "bytecode")
    assert not list(site.rglob("*.pyc"))
    # Only the first compiles.
    first = Path(kept).stat().st_mtime_ns
    job(site, home, PYTHONDONTWRITEBYTECODE="1")
    assert Path(kept).stat().st_mtime_ns == first


def test_a_job_that_can_keep_modules_beside_their_sources_does(site, tmp_path):
    kept, there, *_ = job(site, tmp_path / "home")
    assert there and Path(kept).is_relative_to(site)
    # Now that they lie there, being told to keep nothing costs nothing.
    again = job(site, tmp_path / "home", PYTHONDONTWRITEBYTECODE="1")
    assert again == [kept, True, kept, "True"] and not (tmp_path / "home").exists()


def test_a_place_somebody_chose_stays(site, tmp_path):
    chosen = tmp_path / "chosen"
    kept, there, *_ = job(site, tmp_path / "home", PYTHONPYCACHEPREFIX=str(chosen))
    assert there and Path(kept).is_relative_to(chosen) and not (tmp_path / "home").exists()


def test_why_is_told(site, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    for name in ("torch", "transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert nowhere_to_keep() is None
    # Tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert nowhere_to_keep() == f"{site / 'torch'} takes no .pyc files"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert nowhere_to_keep() == "PYTHONDONTWRITEBYTECODE is set"


def test_doctor_says_where_modules_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "nowhere_to_keep", lambda: "PYTHONDONTWRITEBYTECODE is set")
    finding = machine._bytecode()
    assert finding.text == f"PYTHONDONTWRITEBYTECODE is set: jobs keep compiled modules in {tmp_path}/hpcmaf/bytecode"
    monkeypatch.setattr(machine, "user_cache", lambda name: tmp_path / f"hpcmaf-{name}-0")
    assert machine._bytecode().level == "warning"
    monkeypatch.setattr(machine, "nowhere_to_keep", lambda: None)
    assert machine._bytecode().text == "compiled modules are kept"


def test_without_a_home_a_folder_of_the_machine_serves(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    folder = writable(tmp_path / "file" / "below", "things")
    assert folder == tmp_path / "tmp" / f"hpcmaf-things-{os.getuid()}" and folder.is_dir()
    assert "Not a directory; what would be kept there is kept under" in capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert user_cache("things") == tmp_path / "home" / "hpcmaf" / "things"


def test_a_folder_that_others_may_have_filled_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    usual = tmp_path / f"hpcmaf-things-{os.getuid()}"
    assert writable(tmp_path / "file" / "below", "things") == usual
    usual.chmod(0o777)
    other = writable(tmp_path / "file" / "below", "things")
    assert other != usual and other.stat().st_mode & 0o777 == 0o700
    # A link to a folder of one's own is a way to have somebody else's things read from it.
    usual.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    usual.symlink_to(tmp_path / "elsewhere")
    assert writable(tmp_path / "file" / "below", "things") not in (usual, tmp_path / "elsewhere")


def test_nowhere_at_all_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("hpcmaf.bytecode.nowhere_to_keep", lambda: "there is nowhere")
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    keep_bytecode(environment)
    assert environment == {"PYTHONDONTWRITEBYTECODE": "1"}
    monkeypatch.setattr(machine, "nowhere_to_keep", lambda: "there is nowhere")
    finding = machine._bytecode()
    assert finding.level == "warning" and "every job compiles them anew" in finding.text
