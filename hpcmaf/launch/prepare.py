"""Making a run directory, or finding that it is there already."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from hpcmaf.errors import PlanChangedError
from hpcmaf.launch.basecheck import check_base, check_targets
from hpcmaf.plan import Plan, build_plan, check_continues
from hpcmaf.profile import Profile
from hpcmaf.publish import write_json, write_text
from hpcmaf.recipe import Recipe
from hpcmaf.rundir import RunDir
from hpcmaf.stages.context import base_model
from hpcmaf.tasks import get_task, leak_guard


def prepare_run(run: RunDir, recipe: Recipe, profile: Profile) -> Plan:
    """Plan a run and make its directory, or go on with one of the same plan.

    Problems are drawn once and kept in the run, so a run in progress does not
    need its data source again.

    Raises
    ------
    ConfigError, DataError
        The recipe asks for what its source does not have.
    LeakError
        Evaluation questions occur in the training questions.
    PlanChangedError
        The directory holds a run of another plan.
    """
    check_base(recipe.model)
    if recipe.training.tuning == "lora":
        check_targets(recipe.model, recipe.training.lora)
    task = get_task(recipe.task.name)
    task.prompts(recipe.task.prompts)  # refused here, before the run is bound to them
    if run.plan.exists():
        old = run.load_plan()
        for split in ("train", "eval"):
            run.read_problems(split, old)
        base = fingerprint(base_model(recipe.model.path))
        if not run.begun(old):
            # A damaged model, mended before it said a word: nothing depends on what it was.
            old = replace(old, base=base)
        plan = build_plan(recipe, profile, old.problems, base)
        check_continues(old, plan, str(run.root))
    elif run.iterations():
        # The plan is written before anything else, so this was a run once.
        # Its markers must not be taken for those of another plan.
        raise PlanChangedError(
            f"{run.root}: holds results but no plan.json; restore it, or start a new run with --run NAME"
        )
    else:
        source = Path(recipe.task.source) if recipe.task.source else None
        splits = task.splits(source, recipe.task.train, recipe.task.eval, recipe.seed, recipe.task.levels)
        leak_guard(splits.train, splits.eval)
        problems = {
            "train": run.write_problems("train", splits.train),
            "eval": run.write_problems("eval", splits.eval),
        }
        plan = build_plan(recipe, profile, problems, fingerprint(base_model(recipe.model.path)))
    write_text(run.recipe, _yaml(recipe.model_dump(mode="json")))
    write_text(run.profile, _yaml(profile.model_dump(mode="json")))
    write_json(run.plan, plan.to_json())
    return plan


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
