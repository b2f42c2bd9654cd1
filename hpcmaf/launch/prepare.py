"""Making a run directory, or finding that it is there already."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from hpcmaf.config.profile import Profile
from hpcmaf.config.recipe import Model, Recipe, TaskSource
from hpcmaf.debate.methods import METHODS
from hpcmaf.engines.basemodel import base_model
from hpcmaf.errors import ConfigError, EngineError, PlanChangedError
from hpcmaf.files.publish import write_json, write_text
from hpcmaf.jobs.debate import protocol_of
from hpcmaf.jobs.serving import trained_agents
from hpcmaf.launch.basecheck import check_base, check_targets
from hpcmaf.run.directory import RunDir
from hpcmaf.run.plan import Plan, build_plan, check_continues, describe_problems
from hpcmaf.tasks import Splits, get_task, leak_guard
from hpcmaf.training.config import check_gpu_type, check_packages


def prepare_run(run: RunDir, recipe: Recipe, profile: Profile) -> Plan:
    """Plan a run and make its directory, or go on with one of the same plan.

    Problems are drawn once and kept in the run, so a run in progress does not
    need its data source again.

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
    write_profile(run, profile)
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
    trained, paths = trained_agents(recipe), []
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
            if profile.slurm is not None:
                check_gpu_type(quantize=one.training.quantize, gpu_type=profile.slurm.gpu_type)
    _validate_prompts(recipe)
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
        # The plan is written before anything else, so this was a run once.
        # Its markers must not be taken for those of another plan.
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
        from hpcmaf.engines.chat import ChatFormat  # slow, and seldom needed here

        try:
            chat = ChatFormat.from_pretrained(base, trust_remote_code=model.trust_remote_code, **model.chat)
            chat.prompt_ids([{"role": "user", "content": "1+2"}])
        except EngineError as error:
            raise ConfigError(str(error)) from error


def _validate_prompts(recipe: Recipe) -> None:
    """Refuse prompts that a task does not have before the run is bound to them."""
    method, debate = METHODS[recipe.method], recipe.debate
    practice, inference = (
        shape(debate.agents, debate.rounds) for shape in (method.rollout_shape, method.inference_shape)
    )
    protocol_of(recipe, method, recipe.task, practice.rounds, 0).validate()
    protocol_of(recipe, method, recipe.evaluation, inference.rounds, 0).validate()


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


def write_profile(run: RunDir, profile: Profile) -> None:
    """Keep the profile in the run, where its jobs read it."""
    write_text(run.profile, _yaml(profile.model_dump(mode="json")))


def refuse_foreign(run: RunDir) -> None:
    """Refuse to make a run of a folder that is already something else.

    Raises
    ------
    ConfigError
        Without a plan, it holds what a run that was stopped while it was
        made could not have left.
    """
    if run.root.exists() and not run.root.is_dir():
        raise ConfigError(f"{run.root}: a file is in the way of the run directory; name another with --run")
    if run.plan.exists() or not run.root.exists() or run.iterations():
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

    A folder is known by its configuration, tokenizer and chat template, and
    by its weight files' names and sizes (hashing an 8B checkpoint would take
    minutes); a hub id by itself.
    """
    folder = Path(base)
    if not folder.is_dir():
        return base
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".jinja", ".model", ".txt"} and path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in {".safetensors", ".bin"}:
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
