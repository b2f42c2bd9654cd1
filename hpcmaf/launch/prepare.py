"""Making a run directory, or finding that it is there already."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Lora, Model, Recipe, TaskSource
from hpcmaf.errors import ConfigError, DataError, EngineError, PlanChangedError
from hpcmaf.files.hub import SECONDS, ask_hub, reason
from hpcmaf.files.publish import Record, read_json, write_json, write_text
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.models.basemodel import base_model
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, build_plan, check_continues, describe_problems
from hpcmaf.tasks import Splits, get_task, leak_guard
from hpcmaf.training.config import check_packages

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_WEIGHTS = {".safetensors", ".bin"}


def prepare_run(run: RunDir, recipe: Recipe, profile: Profile) -> Plan:
    """Plan a run and make its directory, or go on with one of the same plan.

    Problems are drawn once and kept in the run, so a run in progress does not need its data source again.

    Raises
    ------
    ConfigError, DataError, LeakError, PlanChangedError
        As :func:`plan_run` does.
    """
    plan, drawn = plan_run(run, recipe, profile)
    if drawn is not None:
        run.write_problems("train", drawn.train)
        run.write_problems("eval", drawn.eval)
    write_text(run.recipe, _yaml(recipe.model_dump(mode="json")))
    write_text(run.profile, _yaml(profile.model_dump(mode="json")))
    write_json(run.plan, plan.to_json())
    return run.shorten(plan)


def plan_run(run: RunDir, recipe: Recipe, profile: Profile) -> tuple[Plan, Splits | None]:
    """Lay a run out and check that it can be had; writes nothing.

    Returns
    -------
    plan
        What the run will do, or goes on doing.
    drawn
        Its problems, if they do not lie in the run directory yet.

    Raises
    ------
    ConfigError, DataError
        The recipe asks for what its source does not have.
    LeakError
        Evaluation questions occur in the training questions.
    PlanChangedError
        The directory holds a run of another plan.
    """
    trained, paths = recipe.trained, []
    for name in (None, *recipe.named):
        one = recipe.of(name)
        check_base(one.model)
        _validate_template(one.model)
        paths.append(base_model(one.model.path))
        if name is not None and name not in trained:
            continue
        if one.training.tuning == "lora":
            check_targets(one.model, one.training.lora)
        if trained:
            check_packages(quantize=one.training.quantize)
    # Prompts that a task does not have are refused before the run is bound to them.
    for evaluating in (False, True):
        protocol_of(recipe, 0, evaluating=evaluating).validate()
    base = " ".join(map(fingerprint, dict.fromkeys(paths)))
    if run.plan.exists():
        old = run.load_plan()
        for split in ("train", "eval"):
            run.read_problems(split, old)
        if not run.begun(old):
            # A damaged model, mended before it said a word: nothing depends on what it was.
            old = replace(old, base=base)
        plan = build_plan(recipe, profile, old.problems, base)
        check_continues(old, plan, str(run.root))
        return plan, None
    if run.iterations():
        # The plan is written before anything else, so this was a run once. Its markers must not be taken for those of
        # another plan.
        raise PlanChangedError(
            f"{run.root}: holds results but no plan.json; restore it, or start a new run with --run NAME"
        )
    splits = draw(recipe)
    leak_guard(splits.train, splits.eval)
    problems = {"train": describe_problems(splits.train), "eval": describe_problems(splits.eval)}
    return build_plan(recipe, profile, problems, base), splits


def _validate_template(model: Model) -> None:
    """Refuse a user's chat template that loses turns."""
    base = base_model(model.path)
    if model.chat_template and Path(base).is_dir():
        from hpcmaf.models.chat import ChatFormat  # slow, and seldom needed here

        try:
            chat = ChatFormat.from_pretrained(base, trust_remote_code=model.trust_remote_code, **model.chat)
            chat.prompt_ids([{"role": "user", "content": "1+2"}])
        except EngineError as error:
            raise ConfigError(str(error)) from error


def draw(recipe: Recipe) -> Splits:
    """Draw the training problems of the one task and the evaluation problems of the one evaluated on.

    With ``debate.samples`` each training problem is there so often, under ids of its own.
    """

    def drawn(spec: TaskSource, train: int, eval: int) -> Splits:
        source = Path(spec.source) if spec.source else None
        return get_task(spec.name).splits(source, train, eval, recipe.seed, spec.levels)

    if recipe.evaluate_on is None:
        splits = drawn(recipe.task, recipe.task.train, recipe.task.eval)
    else:
        # Every task has two sides; of either only one is used.
        train = drawn(recipe.task, recipe.task.train, 1).train
        splits = Splits(train, drawn(recipe.evaluate_on, 1, recipe.task.eval).eval)
    again = range(2, recipe.debate.samples + 1)
    train = [one for first in splits.train for one in (first, *(replace(first, id=f"{first.id}#{k}") for k in again))]
    return Splits(train, splits.eval)


def refuse_foreign(run: RunDir) -> None:
    """Refuse to make a run of a folder that is already something else.

    Raises
    ------
    ConfigError
        Without a plan, it holds what a run that was stopped while it was made could not have left.
    """
    if run.plan.exists() or not run.root.is_dir() or run.iterations():
        return
    ours = {path.name for path in (run.driver_lock, run.problems("train").parent, run.recipe, run.profile)}
    names = sorted(path.name for path in run.root.iterdir() if not path.name.endswith(".tmp"))
    foreign = [name for name in names if name not in ours]
    if foreign:
        raise ConfigError(
            f"{run.root}: holds {foreign[0]} and is no run directory; name a new or an empty folder with --run"
        )


def fingerprint(base: str) -> str:
    """What identifies a base model.

    A folder is known by its configuration, tokenizer and chat template, and by its weight files' names and sizes
    (hashing an 8B checkpoint would take minutes); a hub id by itself.
    """
    folder = Path(base)
    if not folder.is_dir():
        return base
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".jinja", ".model", ".txt"} and path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in _WEIGHTS:
            digest.update(f"{path.name}:{path.stat().st_size}".encode())
    return f"sha256:{digest.hexdigest()}"


def _yaml(value: Any) -> str:
    from ruamel.yaml import YAML

    stream = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, stream)
    return stream.getvalue()


def check_base(model: Model) -> None:
    """Look for the base's configuration, tokenizer and weights; loads none of them.

    A model of the hub is asked for its configuration, which lands in the cache that the jobs read.

    Raises
    ------
    ConfigError
        The path leads to no model, or the hub has none of this name for us.
    """
    path = base_model(model.path)
    if Path(path).is_dir():
        _check_folder(Path(path))
    elif _HUB_ID.fullmatch(path):
        _check_hub(path, model.revision)
    else:
        raise ConfigError(f"model.path: {path} is no folder here, nor could it be a Hugging Face id; check the path")


def _check_folder(folder: Path) -> None:
    try:
        read_json(folder / "config.json", Record)
    except FileNotFoundError:
        raise ConfigError(f"model.path: {folder} holds no model (config.json is missing); check the path") from None
    except DataError as error:
        raise ConfigError(f"model.path: {folder}/config.json is torn; copy the model again") from error
    names = {path.name for path in folder.iterdir()}
    if names.isdisjoint(_TOKENIZERS):
        raise ConfigError(f"model.path: {folder} holds no tokenizer ({_TOKENIZERS[0]}); copy it there from the model")
    if not any(Path(name).suffix in _WEIGHTS for name in names):
        raise ConfigError(f"model.path: {folder} holds no weights (*.safetensors or *.bin); copy them there")


def check_targets(model: Model, lora: Lora) -> None:
    """Refuse LoRA targets that are nowhere in the base, before a debate is held for them.

    Names are read from the headers of safetensors files; other bases are left to the finetuning job.

    Raises
    ------
    ConfigError
        No module of the base has such a name.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(Path(base_model(model.path)).glob("*.safetensors"))
    if lora.targets == "all-linear" or not files:
        return
    modules: set[str] = set()
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:
                modules.update(name.rpartition(".")[0] for name in opened.keys())
        except SafetensorError as error:
            raise ConfigError(f"model.path: {file} is torn; copy the model again") from error
    if not any(module == target or module.endswith(f".{target}") for module in modules for target in lora.targets):
        known = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
        raise ConfigError(f"training.lora.targets: {', '.join(lora.targets)} not found in {model.path}; it has {known}")


def _check_hub(name: str, revision: str | None) -> None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        ask_hub(lambda hub: hub.model_info(name, revision=revision, timeout=SECONDS))
        hf_hub_download(name, "config.json", revision=revision)
    except Exception as error:
        # The hub's client has a dozen classes for this, of several bases.
        raise ConfigError(
            f"model.path: {name} is no folder here, and not to be had from the hub "
            f"({reason(error)}); check the name and the network, or name a folder with the model"
        ) from error
