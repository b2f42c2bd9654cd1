"""Data sets of the hub, through its real client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.tasks.conftest import gsm8k_rows, lay

PREPARE = ["-m", "hpcmaf", "data", "prepare", "gsm8k", "--source", "some/problems", "--out", "out"]


class Hub(BaseHTTPRequestHandler):
    """What the hub's client asks for of one data set, whose files lie in a folder."""

    folder: Path

    def do_GET(self) -> None:
        files = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.parquet")]
        if "/resolve/" in self.path:
            body = (self.folder / self.path.split("/resolve/")[1].partition("/")[2]).read_bytes()
        elif "/tree/" in self.path:
            body = json.dumps([{"type": "file", "path": name, "size": 1, "oid": name} for name in files]).encode()
        else:
            assert self.path.endswith("datasets/some/problems/revision/refs%2Fconvert%2Fparquet")
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": "some/problems", "sha": "a" * 40, "siblings": siblings}).encode()
        self.send_response(200)
        for name, value in (("Content-Length", len(body)), ("ETag", f'"{hash(self.path)}"'), ("X-Repo-Commit", "a" * 40)):
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.mark.parametrize(("config", "others"), [("main", {"socratic/train": 3}), ("english", {})])
def test_preferred_configurations_are_read_alone_where_there_are_any(config: str, others: dict[str, int], tmp_path: Path) -> None:
    sizes = {f"{config}/train": 4, f"{config}/test": 2, **others}
    Hub.folder = lay(tmp_path, {f"{name}/0000.parquet": gsm8k_rows(name, count) for name, count in sizes.items()})
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, *PREPARE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        server.shutdown()
    found = json.loads(done.stdout)
    assert (found["train"]["problems"], found["test"]["problems"]) == (4, 2)
    first = json.loads((tmp_path / "out/test.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["gold"]) == ("gsm8k-test-00000", "1000")


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refusing"])
def test_a_hub_that_cannot_be_reached_is_one_line_within_seconds(listening: bool) -> None:
    code = """
import time
from hpcmaf.errors import HpcmafError
from hpcmaf.launch.prepare import check_base
from hpcmaf.config.recipe import Model
from hpcmaf.tasks.readers import from_hub
import huggingface_hub.hf_api
for ask in (lambda: check_base(Model(path="some/model")), lambda: from_hub("some/problems", ())):
    began = time.monotonic()
    try:
        ask()
    except HpcmafError as error:
        print(error.exit_code, round(time.monotonic() - began, 1), error)
"""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:  # connections are taken by the kernel, and nobody ever answers
            server.listen()
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4"], done
    assert all(float(line.split()[1]) < 5 and "from the hub (" in line for line in lines), lines
    assert not done.stderr
