"""Any value of any type anywhere in what is read: one line of a documented exit code, and nothing written.

``HPCMAF_EXAMPLES=1000 pytest tests/test_any_value.py`` tries more than continuous integration does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcmaf.cli import cli
from hpcmaf.config.load import load_recipe
from hpcmaf.config.profile import load_profile
from hpcmaf.errors import HpcmafError, exit_codes
from hpcmaf.evaluation.accuracy import score
from hpcmaf.files.publish import check_manifest, write_json
from hpcmaf.launch.slurm.submissions import Cause, Submissions
from hpcmaf.report.records import read_run
from hpcmaf.report.report import Report
from hpcmaf.run.directory import RunDir
from hpcmaf.store.verify import verify
from hpcmaf.tasks import get_task
from tests.launch.made_runs import attempted, finish, make_run
from tests.report.conftest import invent, ledger
from tests.tasks.conftest import gsm8k_rows, lay

often = settings(
    max_examples=int(os.environ.get("HPCMAF_EXAMPLES", "100")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# --- values that nobody meant -------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """Text that goes into a file as it is."""

    text: str


YAML = st.sampled_from(
    [
        "&a [*a]", "&a {b: *a}", "*b", "!!python/object:os.system x", "!!binary aGk=", "!!binary é", "!!set {a, b}",
        "!!omap [a: b]", "!!pairs [a: b]", "!!int x", "!!int ''", "!!float x", "!!bool x", "!!timestamp x", "!mine {a: 1}",
        "2024-01-01", "2024-99-99", "12:30:45", ".nan", "-.inf", "1e999", "0x", "0x" + "f" * 5000, "9" * 5000, "._",
        "{1: 2}", "{? [a]: b}", "{? {a: b}: c}", "{a: 1, a: 2}", "{<<: 3}", "[" * 3000, "{a: " * 3000, "[" * 60 + "]" * 60,
        "[&a [x, x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b, *b, *b],"
        " &d [*c, *c, *c, *c, *c, *c, *c, *c], &e [*d, *d, *d, *d, *d, *d, *d, *d], [*e, *e, *e, *e, *e, *e, *e, *e]]",
        '"\\0"', '"\\ud800"', "'\x07'", "\x00", "\t", "|", ">", "%", "@", "`", "- - -", "? ?", ": :", "&", "!", "--- 3", "...",
    ]
).map(Raw)  # fmt: skip
JSON = st.sampled_from(
    ["NaN", "-Infinity", "1e999", "9" * 25, "9" * 5000, '"\\ud800"', "[" * 2000, '{"a": ' * 2000, "[" * 500 + "]" * 500]
    + ['{"a": 1, "a": 2}', "\x00", "", "{", "[,]", "'a'", "-", "tru"]
).map(Raw)
KEYS = st.sampled_from(["", "0", "-0", "1", "a.b", ".", "[key]", "str", "list[str]", "schema", "name", "\x1b", "é"]) | st.text(
    max_size=4
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**53, 2**63, 10**25, -(10**400), 0.5, 1.0, -0.0, 1e-320, 1e308])
    | st.sampled_from(["", "x", "micro", "\x1b[31m", "a\nb", "../..", "/", "-", "nan", "true", "a/b", "~", "x" * 5000])
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)
MARKS = st.sampled_from(list("[]{}:,&*!|>'\"%@`#-?\n\t\x00\x07")).map(str.encode) | st.binary(max_size=1)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def emit(value: Any) -> str:
    """JSON, which is YAML, with raw text where it is wanted."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{emit(key)}: {emit(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(emit, value)) + "]" if isinstance(value, list) else json.dumps(value)


@st.composite
def spoilt(draw: st.DrawFn, text: str, raw: st.SearchStrategy[Raw]) -> bytes:
    """A file with up to two faults in its values or keys, and perhaps one in its bytes."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(0, 2))):
        value, key = draw(VALUES | raw), draw(KEYS | raw.filter(lambda one: len(one.text) < 100))
        *above, last = draw(st.sampled_from(sorted(places(tree), key=str))) or (None,)
        if last is None:
            tree = value
            break
        parent = tree
        for step in above:
            parent = parent[step]
        match draw(st.sampled_from(["value"] * 4 + ["key", "delete", "add", "double"])):
            case "key" if isinstance(parent, dict):
                parent[key] = parent.pop(last)
            case "add" if isinstance(parent, dict):
                parent[key] = value
            case "delete":
                del parent[last]
            case "double":
                parent[last] = [parent[last]] * 2
            case _:
                parent[last] = value
    data = emit(tree).encode("utf-8", "surrogatepass")
    at, mark = draw(st.integers(0, len(data))), draw(MARKS)
    torn = [data[:at], data[:at] + mark + data[at:], data[:at] + mark + data[at + 1 :]]
    encoded = [b"\xef\xbb\xbf" + data, data + "# é".encode("latin-1"), data.decode("utf-8", "replace").encode("utf-16")]
    return draw(st.sampled_from([data] * 6 + torn + encoded))


# --- reading them -------------------------------------------------------------------


def tree_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def expect_one_line(error: BaseException) -> None:
    """What ``main`` makes one line of; anything else would be a traceback."""
    if isinstance(error, SystemExit):
        assert error.code in exit_codes()
    elif isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        pass  # main's own streams escape them
    elif not isinstance(error, OSError) and (not isinstance(error, HpcmafError) or error.exit_code == 1):
        raise error


def hpcmaf(*words: str | Path) -> None:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception is not None:
        expect_one_line(result.exception)


def reads(act: Callable[[], object]) -> None:
    """What it does ends well or in one line."""
    try:
        act()
    except Exception as error:
        expect_one_line(error)


def holds(folder: Path, path: Path, data: bytes, act: Callable[[], object]) -> None:
    """With ``data`` in a file, doing something ends well or in one line, and leaves everything as it was."""
    original = path.read_bytes()
    path.write_bytes(data)
    before = tree_of(folder)
    try:
        reads(act)
    finally:
        after = tree_of(folder)
        path.write_bytes(original)
    assert after == before


RECIPE = load_recipe(overrides=["task.train=4", "task.eval=4", "iterations=1"]).model_dump(mode="json") | {
    "evaluate_on": {"name": "words", "source": None, "prompts": "compact", "levels": None}
}
PROFILE = load_profile("h100").model_dump(mode="json")
STUDY = {
    "name": "few",
    "description": "two runs",
    "tasks": ["arithmetic"],
    "models": ["micro"],
    "methods": ["debate", {"name": "mine", "method": "maft", "set": {"debate.agents": 3}}],
    "seeds": [0, 1],
    "iterations": 1,
    "set": {"task.train": 4, "task.eval": 4},
    "baseline": "debate",
    "reference": True,
}
PROMPTS = {
    "system": "Be calm.",
    "examples": [{"question": "1+1", "answer": "2"}],
    "first": "{{ question }} {{ n }}",
    "summarize": "{{ answers | join(', ') }}",
    "update": "{{ summary }} {% if question %}{{ question }}{% endif %}",
}
COUNTS = {"candidates": 4, "positives": 3, "negatives": 1, "kept": 3, "realised_w": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe, a profile and a study; a run that is half done; prepared problems; no network.

    And another run on a cluster that has forgotten its jobs.
    """
    folder = tmp_path_factory.mktemp("any")
    for name, value in {"recipe": RECIPE, "profile": PROFILE, "study": STUDY, "prompts": PROMPTS}.items():
        (folder / f"{name}.yaml").write_text(json.dumps(value))
    run, plan, _ = make_run(folder / "run", launcher="local")
    finish(run, plan.stages[0])
    marker = json.loads(run.marker(plan.stages[0], "00000").read_text()) | {"outputs": {"recipe.yaml": "0" * 64}}
    marker["ledger"][0] |= {"agent": "generator-0", "gpu_seconds": 1.0, "calls": 3, "peak_memory_bytes": None}
    write_json(run.marker(plan.stages[0], "00000"), marker)
    failed = next(stage for stage in plan.stages if stage.id == "it01/debate")
    attempted(run, failed, failed.tasks[0], "made.it01.debate.0001", {"type": "DataError", "message": "no"}, "log\n")
    write_json(run.progress(failed, failed.tasks[1]), {"done": 1, "total": 4, "unit": "calls", "pid": 1})
    write_json(run.stopped, {"reason": "no", "stage": failed.id, "task": "00000", "kind": "error", "log": "", "time": 1.0})
    write_json(run.metrics(0), score(invent(6, (0.6, 0.8), 3, 1), seed=0, iteration=0, method="maft", task="arithmetic"))
    write_json(run.ledger(0), ledger(0))
    measures = {name: {"value": 0.5, "se": 0.1, "problems": 6} for name in ("embedding", "nll", "kl_base")}
    diversity = {"schema": "hpcmaf-diversity/1", "iteration": 0, "problems": 6, "encoder": None, "measures": measures}
    write_json(run.diversity(0), diversity)
    write_json(run.data(1) / "selection.json", {"schema": "x", "datasets": {"generator-0": COUNTS, "critic-0": COUNTS}})
    source = lay(folder / "raw", {"train.jsonl": gsm8k_rows("train", 8)}) / "train.jsonl"
    get_task("gsm8k").prepare(str(source), folder / "prepared")

    forgotten, plan, _ = make_run(folder / "forgotten")
    stage, task = plan.stages[0].id, plan.stages[0].tasks[0]
    log = Submissions(forgotten.submissions)
    log.start()
    log.intend("made.0001", stage, [(task,)])
    log.confirm("made.0001", "7")
    log.intend("made.0002", stage, [(task,)])
    log.refuse("made.0002", "no", 0)
    log.judge((stage, task), Cause("hardware", "no", node="node1", submission="made.0001"))
    log.release("7")
    log.reset([(stage, task)])
    (folder / "bin").mkdir()
    for name in ("squeue", "sacct"):
        (folder / "bin" / name).write_text("#!/bin/sh\n")
        (folder / "bin" / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        yield folder


def plan(folder: Path) -> None:
    hpcmaf("plan", "--recipe", folder / "recipe.yaml", "--profile", folder / "profile.yaml")


def prompts(folder: Path) -> None:
    words = ("--set", "model.path=micro", "--set", f"task.prompts={folder / 'prompts.yaml'}")
    hpcmaf("prompts", "--recipe", folder / "recipe.yaml", *words)


def look(folder: Path, name: str = "run") -> None:
    hpcmaf("status", folder / name, "--json")
    hpcmaf("logs", folder / name)
    hpcmaf("logs", folder / name, "--failed")


def read(folder: Path) -> None:
    look(folder)
    hpcmaf("stage", folder / "run", "it01/debate", "99999")
    made, run = Report([read_run(folder / "run")]), RunDir(folder / "run")
    assert made.markdown() and json.dumps(made.json())
    stage = run.load_plan().stages[0]
    run.missing(stage, stage.tasks[0])


def check(folder: Path) -> None:
    problems = folder / "prepared" / "train.jsonl"
    verify(problems)
    reads(lambda: check_manifest(problems))
    get_task("gsm8k").splits(folder / "prepared", 1, 1, 0)


# Every kind of file, and whoever reads it.
READERS: dict[str, Callable[[Path], object]] = {
    "recipe.yaml": plan,
    "profile.yaml": plan,
    "study.yaml": lambda folder: hpcmaf("study", folder / "study.yaml", "--dry-run", "--out", folder / "runs"),
    "prompts.yaml": prompts,
    "run/plan.json": read,
    "run/it00/done/eval.00000.json": read,
    "run/it00/metrics.json": read,
    "run/it00/ledger.json": read,
    "run/it01/data/selection.json": lambda folder: RunDir(folder / "run").learned(1),
    "run/**/progress.json": look,
    "run/stopped.json": look,
    "forgotten/submissions.jsonl": lambda folder: look(folder, "forgotten"),
    "prepared/train.jsonl.manifest.json": check,
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@often
def test_a_file_of_any_content(folder: Path, name: str, data: st.DataObject) -> None:
    """Of a log one line is spoilt."""
    (path,) = folder.glob(name)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    at = data.draw(st.sampled_from(range(len(lines))))
    text = data.draw(spoilt(lines[at], YAML if path.suffix == ".yaml" else JSON))
    whole = b"\n".join(text if n == at else line.encode() for n, line in enumerate(lines))
    holds(folder, path, whole, lambda: READERS[name](folder))


OPTIONS = [".".join(map(str, path)) for tree in (RECIPE, PROFILE) for path in places(tree) if path]


@pytest.mark.long
@given(key=st.sampled_from(OPTIONS) | KEYS, value=VALUES.map(emit) | YAML.map(emit), site=st.booleans())
@often
def test_an_option_of_any_content(folder: Path, key: str, value: str, site: bool) -> None:
    path, profile = folder / "recipe.yaml", folder / "profile.yaml"
    text = f"{key}={value}".replace("\0", "0")  # no command line can hold it
    words = ("--recipe", path, "--profile", profile, "--set-profile" if site else "--set", text)
    holds(folder, path, path.read_bytes(), lambda: hpcmaf("plan", *words))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["directory", "pipe", "empty", "broken disk", "dangling link"])
def test_what_is_no_file(folder: Path, kind: str) -> None:
    """Nobody waits for a pipe, and nothing is read that is not there."""
    for name, act in READERS.items():
        (path,) = folder.glob(name)
        original = path.read_bytes()
        path.unlink()
        match kind:
            case "directory":
                path.mkdir()
            case "pipe":
                os.mkfifo(path)
            case "empty":
                path.touch()
            case "broken disk":
                path.symlink_to("/proc/self/mem")
            case _:
                path.symlink_to(folder / "gone")
        reads(lambda act=act: act(folder))
        path.rmdir() if kind == "directory" else path.unlink()
        path.write_bytes(original)
