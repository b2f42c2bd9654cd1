"""The command line as hostile and clumsy people use it: one line, an exit code, nothing half-done."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcmaf import cli
from hpcmaf.errors import DataError, HpcmafError, exit_codes, one_line, system_error
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Stage
from tests.commands import setting
from tests.tiny_models import tiny_model

DEBATES = {"2+2?": [[[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "\\boxed{4}"}]], "4"]}


def hpcmaf(
    *words: str | bytes, cwd: Path, prepare: Callable[[], None] | None = None, **streams: int
) -> subprocess.CompletedProcess[bytes]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    command = [sys.executable, "-m", "hpcmaf", *words]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    if prepare:  # bytecode that is written under a file size limit would be torn, for every later import
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, preexec_fn=prepare, timeout=600, check=False,
        **streams,
    )  # fmt: skip


def refused(result: subprocess.CompletedProcess[bytes], code: int) -> str:
    """The one line of an error."""
    lines = result.stderr.decode().splitlines()
    assert result.returncode == code, lines
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert not result.stdout
    return lines[0]


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """``main`` in this process, for what needs no process of its own."""
    monkeypatch.setattr(sys, "argv", ["hpcmaf", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nosuch"], 2, "No such command 'nosuch'; see 'hpcmaf --help'"),
        (["data", "prepare"], 2, "see 'hpcmaf data prepare --help'"),
        (["select", "s.h5", "out", "--w", "0.5", "--seed", "x"], 2, "'x' is not a valid integer"),
        (["inspect", "n" * 300], 12, "File name too long; check the path"),
        (["inspect", "two\nlines\x1b[31m"], 6, "two\\nlines\\x1b[31m: no such store"),
        (["inspect", "."], 6, "a folder; name a store in it"),
        (["import", "/dev/zero", "out.h5", "--task", "math"], 4, "/dev/zero: cannot be read (not a regular file)"),
        (["data", "prepare", "words", "--source", "x"], 2, "'words' is not one of"),
        (["data", "prepare", "math", "--source", "/dev/null"], 4, "neither a file nor a folder"),
        (["submit", "--run", ""], 2, "--run is empty"),
        (["submit", "--iters", "1000000000"], 3, "iterations: should be less than or equal to 1000"),
        (["submit", "--set", "debate.agents=1000000000000"], 3, "debate.agents"),
        (["submit", "--set", "debate=3"], 3, "debate: should hold keys (agents, rounds, stop"),
        (["submit", "--set", "training.lora.targets=[]"], 3, "training.lora.targets"),
        (["solve", "run", "1+1?", "--device", "foo"], 2, "'foo' is not one of"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, *words) == code
    assert said in only_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.lora.targets=[nosuch]"], "nosuch not found in micro; it has "),
        (["task.prompts=foo"], "arithmetic has no prompts 'foo'"),
        (["model.path=/dev/null"], "/dev/null is no folder here"),
        (["model.path=not/a/hub/id"], "no folder here, nor could it be a Hugging Face id"),
        (["model.path=some-body/no-such-model"], "not to be had from the hub"),
        (["model.path=empty"], "config.json is missing"),
        (["model.path=torn"], "config.json is torn"),
        (["model.path=mute"], "holds no tokenizer"),
        (["model.path=bare"], "holds no weights"),
        (["model.path=torn.GGUF"], "torn.GGUF cannot be read as GGUF"),
        (["model.chat_template='{{ eos_token }}'"], "model.chat_template leaves out turns of a debate"),
        (["model.chat_template='{% for %}'"], "model.chat_template refuses a debate's turns"),
    ],
)
def test_a_run_is_not_bound_to_a_base_or_prompts_that_do_not_exist(
    overrides: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, files in {"empty": {}, "torn": {"config.json": "{"}, "mute": {"config.json": "{}"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    (tmp_path / "bare" / "tokenizer.json").write_text("{}")
    (tmp_path / "torn.GGUF").write_text("no magic")
    assert run_main(monkeypatch, "submit", "--run", "runs/x", *setting(*overrides)) == 3
    assert said in only_line(capsys)
    assert not (tmp_path / "runs" / "x" / "plan.json").exists()


def test_somebody_elses_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    assert run_main(monkeypatch, "submit", "--run", str(tmp_path / "thesis")) == 3
    assert "holds thesis.tex and is no run directory" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    assert "\\udcff.h5: no such store" in refused(hpcmaf("inspect", b"\xff.h5", cwd=tmp_path), 6)
    (tmp_path / os.fsdecode(b"\xff.h5")).write_bytes(b"x")
    found = hpcmaf("verify", b"\xff.h5", cwd=tmp_path)
    assert found.returncode == 6 and not found.stderr
    assert b"\\udcff.h5: has no manifest" in found.stdout


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "debates.json").write_text(json.dumps(DEBATES))
    (tmp_path / "mine.jsonl").write_text("".join(f'{{"question": "q{n}", "answer": "{n}"}}\n' for n in range(90)))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    before = sorted(tmp_path.iterdir())
    said = refused(hpcmaf("import", "debates.json", "s.h5", "--task", "math", cwd=tmp_path, prepare=small_files), 12)
    assert "s.h5" in said and "free space there" in said
    words = ("data", "prepare", "jsonl", "--source", "mine.jsonl", "--out", "out")
    assert "out/all.jsonl: File too large; free space" in refused(hpcmaf(*words, cwd=tmp_path, prepare=small_files), 12)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == before
    assert hpcmaf(*words, cwd=tmp_path).returncode == 0


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = hpcmaf("--help", cwd=tmp_path, stdout=writing)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


def test_output_that_no_disk_takes(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = hpcmaf("grade", "--gold", "1", "--answer", "1", cwd=tmp_path, stdout=full.fileno())
    assert result.returncode == 12
    assert result.stderr.decode().startswith("error: No space left on device")
    assert len(result.stderr.splitlines()) == 1


def test_closed_streams(tmp_path: Path) -> None:
    def close() -> None:
        os.close(1)
        os.close(2)

    assert hpcmaf("inspect", "nope.h5", cwd=tmp_path, prepare=close).returncode == 6
    assert hpcmaf("grade", "--gold", "1", "--answer", "1", cwd=tmp_path, prepare=close).returncode == 0


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcmaf", "grade", "--jsonl", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        # What a shell runs in the background starts with SIGINT ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin and process.stdout
    process.stdin.write(b'{"gold": "1", "answer": "1"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["equivalent"] is True
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    # Its input stays open: the thread that reads it must not keep it from leaving.
    assert process.wait(timeout=30) == 130
    assert process.stderr
    said = process.stderr.read()
    process.communicate()
    assert said.decode().splitlines() == ["error: interrupted; the same command resumes where this one stopped, or starts again"]  # fmt: skip


def test_help_lists_every_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    for code, about in exit_codes().items():
        assert f"{code:>3}  {about}\n" in printed
    kinds = HpcmafError.__subclasses__()
    assert len({kind.exit_code for kind in kinds} | {0, 1}) == len(kinds) + 2, "two kinds of error share a code"


def test_what_the_system_refuses_names_place_and_remedy() -> None:
    assert str(system_error(PermissionError(13, "Permission denied", "a"))) == (
        "a: Permission denied; check its permissions, or name another place"
    )
    assert str(system_error(OSError(28, "No space left on device"))).startswith("No space left on device; free space")
    assert str(system_error(MemoryError())).startswith("out of memory; ")
    assert one_line("a\nb\x1b \udcff é") == "a\\nb\\x1b \\udcff é"


@pytest.mark.parametrize("content", ["{", "[]", "", '{"outputs": {}, "ledger": [3]}', "[" * 100_000])
def test_a_damaged_marker_is_named(content: str, tmp_path: Path) -> None:
    run, stage = RunDir(tmp_path), Stage(1, "merge", ("all",), ())
    run.marker(stage, "all").parent.mkdir(parents=True)
    run.marker(stage, "all").write_text(content)
    with pytest.raises(DataError, match=r"merge\.all\.json: a damaged marker; delete it, .* does it01/merge all again"):
        run.read_marker(stage, "all")


@pytest.mark.slow
def test_a_damaged_base_mended_lets_the_same_command_go_on(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", context=2048)
    weights = base / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    words = ["submit", "--run", str(tmp_path / "run"), "--iters", "0"]
    words += setting(f"model.path={base}", "task.train=2", "task.eval=2", "sampling.max_new_tokens=4")
    failed = hpcmaf(*words, cwd=tmp_path)
    assert failed.returncode == 8
    errors = [line for line in failed.stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"it00/eval 00000: model {base}: cannot be loaded" in errors[0] and "log: " in errors[0]
    weights.write_bytes(whole)
    assert hpcmaf(*words, cwd=tmp_path).returncode == 0
    # Once it has spoken, the base is what the plan says.
    weights.write_bytes(whole[:5000])
    changed = hpcmaf(*words, cwd=tmp_path)
    assert changed.returncode == 7
