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
from hpcmaf.evaluation import score
from hpcmaf.files.publish import check_manifest, manifest_path, write_json
from hpcmaf.launch.slurm.submissions import Submissions, Verdict
from hpcmaf.report import Report
from hpcmaf.report.records import read_run
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan
from hpcmaf.store import verify
from hpcmaf.tasks import get_task
from tests.launch.made_runs import attempted, finish, make_run
from tests.report.conftest import invent, ledger
from tests.tasks.conftest import gsm8k_rows, write_jsonl

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


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def put(tree: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    for key in path[:-1]:
        tree = tree[key]
    change(tree, path[-1])


def emit(value: Any) -> str:
    """JSON, which is YAML, with raw text where it is wanted."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{emit(key)}: {emit(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(emit, value)) + "]"
    if isinstance(value, int) and abs(value) > 10**300:
        return "-1" + "0" * 400
    return json.dumps(value)


@st.composite
def spoilt(draw: st.DrawFn, tree: Any, raw: st.SearchStrategy[Raw]) -> bytes:
    """A file with one to three faults: in its values, its keys or its bytes."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(sorted(places(tree), key=str)))
        value = draw(VALUES | raw)
        kind = draw(st.sampled_from(["value", "value", "value", "value", "key", "delete", "add", "double"]))
        if not path:
            if kind == "add" and isinstance(tree, dict):
                tree[draw(KEYS)] = value
            elif kind == "value" and draw(st.integers(0, 3)) == 0:
                tree = value
                break
            continue
        key = draw(KEYS | raw.filter(lambda r: len(r.text) < 100))

        def change(parent: Any, at: Any, kind: str = kind, key: Any = key, value: Any = value) -> None:
            if kind == "value" or isinstance(parent, list):
                parent[at] = value
            elif kind == "key":
                parent[key] = parent.pop(at)
            elif kind == "delete":
                del parent[at]
            elif kind == "add":
                parent[key] = value
            else:
                parent[at] = [parent[at], parent[at]]

        put(tree, path, change)
        tree = json.loads(json.dumps(tree)) if not has_raw(tree) else tree
        if has_raw(tree):
            break
    data = emit(tree).encode("utf-8", "surrogatepass")
    match draw(st.sampled_from(["as it is"] * 6 + ["cut", "insert", "bom", "latin", "utf-16", "byte"])):
        case "cut":
            return data[: draw(st.integers(0, len(data)))]
        case "insert":
            at = draw(st.integers(0, len(data)))
            return data[:at] + draw(st.sampled_from(list("[]{}:,&*!|>'\"%@`#-?\n\t\x00\x07"))).encode() + data[at:]
        case "bom":
            return b"\xef\xbb\xbf" + data
        case "latin":
            return data + "# é".encode("latin-1")
        case "utf-16":
            return data.decode("utf-8", "replace").encode("utf-16")
        case "byte" if data:
            at = draw(st.integers(0, len(data) - 1))
            return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data


def has_raw(tree: Any) -> bool:
    if isinstance(tree, dict):
        return any(has_raw(key) or has_raw(value) for key, value in tree.items())
    return any(map(has_raw, tree)) if isinstance(tree, list) else isinstance(tree, Raw)


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


def hpcmaf(*words: str) -> None:
    result = CliRunner().invoke(cli, list(words))
    if result.exception is not None:
        expect_one_line(result.exception)


def holds(folder: Path, path: Path, data: bytes, act: Callable[[], object]) -> None:
    """With ``data`` in a file, doing something ends well or in one line, and leaves everything as it was."""
    original = path.read_bytes()
    path.write_bytes(data)
    before = tree_of(folder)
    try:
        act()
    except Exception as error:
        expect_one_line(error)
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


PROMPTS: dict[str, Any] = {
    "system": "Be calm.",
    "examples": [{"question": "1+1", "answer": "2"}],
    "first": "{{ question }} {{ n }}",
    "summarize": "{{ answers | join(', ') }}",
    "update": "{{ summary }} {% if question %}{{ question }}{% endif %}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe, a profile and a study; a run that is half done; prepared problems; no network."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    (folder / "profile.yaml").write_text(json.dumps(PROFILE))
    (folder / "study.yaml").write_text(json.dumps(STUDY))
    (folder / "prompts.yaml").write_text(json.dumps(PROMPTS))
    run, plan, _ = make_run(folder / "run", launcher="local")
    for stage in plan.stages:
        if stage.kind in {"eval", "debate", "merge"} and stage.iteration < 1:
            finish(run, stage)
    failed = next(stage for stage in plan.stages if stage.id == "it01/debate")
    attempted(run, failed, failed.tasks[0], "made.it01.debate.0001", {"type": "DataError", "message": "no"}, "log\n")
    write_json(run.progress(failed, failed.tasks[1]), {"done": 1, "total": 4, "unit": "calls", "pid": 1})
    write_json(run.stopped, {"reason": "no", "stage": failed.id, "task": "00000", "kind": "error", "log": "", "time": 1.0})
    write_json(run.metrics(0), score(invent(6, (0.6, 0.8), 3, 1), seed=0, iteration=0, method="maft", task="arithmetic"))
    write_json(run.ledger(0), ledger(0))
    measures = {name: {"value": 0.5, "se": 0.1, "problems": 6} for name in ("embedding", "nll", "kl_base")}
    diversity = {"schema": "hpcmaf-diversity/1", "iteration": 0, "problems": 6, "encoder": None, "measures": measures}
    write_json(run.diversity(0), diversity)
    counts = {"candidates": 4, "positives": 3, "negatives": 1, "kept": 3, "realised_w": 0.5}
    write_json(run.data(1) / "selection.json", {"schema": "x", "datasets": {"generator-0": counts, "critic-0": counts}})
    source = write_jsonl(folder / "raw" / "train.jsonl", gsm8k_rows("train", 8))
    get_task("gsm8k").prepare(str(source), folder / "prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        yield folder


@pytest.fixture(scope="module")
def slurm_run(folder: Path) -> Iterator[tuple[RunDir, list[dict[str, Any]]]]:
    """A run on a cluster that has forgotten its jobs, and the lines of its log."""
    run, plan, _ = make_run(folder / "slurm-run")
    stage, task = plan.stages[0].id, plan.stages[0].tasks[0]
    log = Submissions(run.submissions)
    log.start()
    log.intend("made.0001", stage, [(task,)])
    log.confirm("made.0001", "7")
    log.intend("made.0002", stage, [(task,)])
    log.refuse("made.0002", "no", 0)
    log.judge(Verdict(stage, task, "made.0001", "hardware", "no", True, 1.0, "node1"))
    log.release("7")
    log.reset([(stage, task)])
    for name in ("squeue", "sacct"):
        (folder / "bin" / name).parent.mkdir(exist_ok=True)
        (folder / "bin" / name).write_text("#!/bin/sh\n")
        (folder / "bin" / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield run, [json.loads(line) for line in run.submissions.read_text().splitlines()]


@given(data=spoilt(RECIPE, YAML))
@often
def test_recipes(folder: Path, data: bytes) -> None:
    path = folder / "recipe.yaml"
    holds(folder, path, data, lambda: hpcmaf("plan", "--recipe", str(path)))


@given(data=spoilt(PROFILE, YAML))
@often
def test_profiles(folder: Path, data: bytes) -> None:
    path = folder / "profile.yaml"
    words = ("plan", "--recipe", str(folder / "recipe.yaml"), "--profile", str(path))
    holds(folder, path, data, lambda: hpcmaf(*words))


@given(data=spoilt(STUDY, YAML))
@often
def test_study_files(folder: Path, data: bytes) -> None:
    path = folder / "study.yaml"
    holds(folder, path, data, lambda: hpcmaf("study", str(path), "--dry-run", "--out", str(folder / "runs")))


OPTIONS = [".".join(map(str, path)) for tree in (RECIPE, PROFILE) for path in places(tree) if path]


@given(key=st.sampled_from(OPTIONS) | KEYS, value=VALUES.map(emit) | YAML.map(emit), site=st.booleans())
@often
def test_options(folder: Path, key: str, value: str, site: bool) -> None:
    path = folder / "recipe.yaml"
    words = ("--recipe", str(path), "--profile", str(folder / "profile.yaml"))
    option = "--set-profile" if site else "--set"
    text = f"{key}={value}".replace("\0", "0")  # no command line can hold it
    holds(folder, path, path.read_bytes(), lambda: hpcmaf("plan", *words, option, text))


@given(data=spoilt(PROMPTS, YAML))
@often
def test_prompt_files(folder: Path, data: bytes) -> None:
    path = folder / "prompts.yaml"
    words = ("--recipe", str(folder / "recipe.yaml"), "--set", "model.path=micro", "--set", f"task.prompts={path}")
    holds(folder, path, data, lambda: hpcmaf("prompts", *words))


def run_of(folder: Path) -> tuple[RunDir, Plan]:
    run = RunDir(folder / "run")
    return run, run.load_plan()


def look(folder: Path) -> None:
    hpcmaf("status", str(folder / "run"), "--json")
    hpcmaf("logs", str(folder / "run"))


@given(data=st.data())
@often
def test_plans(folder: Path, data: st.DataObject) -> None:
    """As it was spoilt, or with a digest that fits again."""
    run, plan = run_of(folder)
    text = data.draw(spoilt(plan.to_json(), JSON))
    if data.draw(st.booleans()):
        try:
            value = json.loads(text)
            body = {key: value[key] for key in ("schema", "recipe", "problems", "base", "stages")}
            value["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            text = json.dumps(value).encode()
        except (ValueError, KeyError, TypeError, RecursionError):
            pass

    def act() -> None:
        look(folder)
        hpcmaf("stage", str(run.root), "it01/debate", "--task", "99999")
        read_run(run.root)

    holds(folder, run.plan, text, act)


@given(data=st.data())
@often
def test_markers(folder: Path, data: st.DataObject) -> None:
    run, plan = run_of(folder)
    stage = plan.stages[0]
    path = run.marker(stage, stage.tasks[0])
    valid = json.loads(path.read_text()) | {"outputs": {"recipe.yaml": "0" * 64}}
    valid["ledger"][0] |= {"agent": "generator-0", "gpu_seconds": 1.0, "calls": 3, "peak_memory_bytes": None}

    def act() -> None:
        look(folder)
        run.missing(stage, stage.tasks[0])

    holds(folder, path, data.draw(spoilt(valid, JSON)), act)


def report_on(folder: Path) -> None:
    hpcmaf("status", str(folder / "run"), "--json")
    report = Report.of([read_run(folder / "run")])
    assert report.markdown() and json.dumps(report.json())


@given(data=st.data())
@often
def test_metrics(folder: Path, data: st.DataObject) -> None:
    path = run_of(folder)[0].metrics(0)
    holds(folder, path, data.draw(spoilt(json.loads(path.read_text()), JSON)), lambda: report_on(folder))


@given(data=st.data(), selection=st.booleans())
@often
def test_ledgers_and_selections(folder: Path, data: st.DataObject, selection: bool) -> None:
    run, _ = run_of(folder)
    path = run.data(1) / "selection.json" if selection else run.ledger(0)

    def act() -> None:
        run.learned(1) if selection else report_on(folder)

    holds(folder, path, data.draw(spoilt(json.loads(path.read_text()), JSON)), act)


@given(data=st.data(), name=st.sampled_from(["attempt.json", "cause.json", "progress.json", "stopped.json"]))
@often
def test_what_tasks_leave(folder: Path, name: str, data: st.DataObject) -> None:
    run, _ = run_of(folder)
    (path,) = [path for path in run.root.rglob(name) if path.is_file()]
    holds(folder, path, data.draw(spoilt(json.loads(path.read_text()), JSON)), lambda: look(folder))


@given(data=st.data())
@often
def test_lines_of_submissions(folder: Path, slurm_run: tuple[RunDir, list[dict[str, Any]]], data: st.DataObject) -> None:
    """One of them is spoilt; Slurm knows of no job."""
    run, lines = slurm_run
    spoiled = data.draw(st.sampled_from(range(len(lines))))
    texts = [data.draw(spoilt(line, JSON)) if n == spoiled else emit(line).encode() for n, line in enumerate(lines)]

    def act() -> None:
        hpcmaf("status", str(run.root), "--json")
        hpcmaf("logs", str(run.root), "--failed")

    holds(folder, run.submissions, b"\n".join(texts), act)


@given(data=st.data())
@often
def test_manifests(folder: Path, data: st.DataObject) -> None:
    problems = folder / "prepared" / "train.jsonl"
    path = manifest_path(problems)

    def act() -> None:
        verify(problems)
        for read in (lambda: check_manifest(problems), lambda: get_task("gsm8k").splits(folder / "prepared", 1, 1, 0)):
            try:
                read()
            except HpcmafError as error:
                expect_one_line(error)

    holds(folder, path, data.draw(spoilt(json.loads(path.read_text()), JSON)), act)


# --- files that are none ------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["directory", "pipe", "empty", "broken disk", "dangling link"])
def test_what_is_no_file(folder: Path, kind: str) -> None:
    """Nobody waits for a pipe, and nothing is read that is not there."""
    run, plan = run_of(folder)
    stage = plan.stages[0]
    paths = [folder / name for name in ("recipe.yaml", "profile.yaml", "study.yaml")]
    paths += [run.plan, run.metrics(0), run.ledger(0), run.stopped, run.marker(stage, stage.tasks[0])]
    paths += [manifest_path(folder / "prepared" / "train.jsonl"), run.data(1) / "selection.json"]
    for path in paths:
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
        hpcmaf("plan", "--recipe", str(folder / "recipe.yaml"), "--profile", str(folder / "profile.yaml"))
        hpcmaf("study", str(folder / "study.yaml"), "--dry-run", "--out", str(folder / "runs"))
        look(folder)
        for act in (
            lambda: read_run(run.root),
            lambda: run.missing(stage, stage.tasks[0]),
            lambda: check_manifest(folder / "prepared" / "train.jsonl"),
            lambda: get_task("gsm8k").splits(folder / "prepared", 1, 1, 0),
            lambda: run.learned(1),
        ):
            try:
                act()
            except Exception as error:
                expect_one_line(error)
        path.rmdir() if kind == "directory" else path.unlink()
        path.write_bytes(original)
