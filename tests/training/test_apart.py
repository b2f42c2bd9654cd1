"""A process that reads for another one: what it says where it cannot, and what becomes of the job then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from hpcmaf.training.apart import ReadApart
from hpcmaf.training.driver import Driver, DriverError, installed

# No machine has so many.
NOWHERE = 4096


def test_without_such_a_gpu_it_says_so(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(100))
    with pytest.raises(DriverError, match="no CUDA driver" if not installed() else "cuDeviceGet"):
        Driver(NOWHERE)
    command = [sys.executable, "-m", "hpcmaf.training.reader", str(NOWHERE), str(file)]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "" and done.stdout.count("\n") == 1
    assert json.loads(done.stdout).keys() == {"error"}
    with pytest.raises(DriverError, match="no CUDA driver" if not installed() else "cuDeviceGet"):
        ReadApart([file], NOWHERE).read()


def test_its_death_is_told(tmp_path):
    apart = ReadApart([tmp_path / "model.safetensors"], NOWHERE)
    os.kill(apart._process.pid, signal.SIGKILL)
    with pytest.raises(DriverError, match="ended with -9"):
        apart.read()
    assert apart._process.returncode == -9


def test_it_ends_with_whoever_began_it(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom hpcmaf.training.apart import ReadApart\n"
        f"print(ReadApart([Path('x')], {NOWHERE})._process.pid, flush=True)\nsys.stdin.read()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    reader = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdin.close()
    # Its standard input has nobody at the other end; what it prints comes to an end with it.
    assert owner.stdout.read() == ""
    owner.stdout.close()
    for _ in range(1000):
        try:
            os.kill(reader, 0)
            with open(f"/proc/{reader}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    break
        except (ProcessLookupError, FileNotFoundError):
            break
        import time

        time.sleep(0.01)
    else:
        pytest.fail("the reader is there yet")
