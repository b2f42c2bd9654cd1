"""Strict YAML: what a recipe or profile says is meant, or refused in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from hpcmaf.errors import ConfigError

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """Base of all configuration: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def shipped_folder(name: str, in_checkout: str) -> Path:
    """Folder of files that come with the package.

    They lie at the top of a checkout, where people look for them, and inside
    the package once it is installed.
    """
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / in_checkout


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2, refusing duplicate keys.

    YAML 1.2, because 1.1 reads ``1e-4`` as a string and ``no`` as false.

    Raises
    ------
    ConfigError
        Not YAML, or a key occurs twice.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        key = str(error.problem).split('"')[1] if '"' in str(error.problem) else "a key"
        raise ConfigError(f"{where}, line {line}: key '{key}' is given twice; keep one of them") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({error.problem}); mend the line") from error
    except YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())}); mend the file") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__} where keys and values are expected")
    return value


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay ``--set key=value`` overrides over a mapping; values are YAML.

    Parameters
    ----------
    values
        Left untouched; a changed copy is returned.
    overrides
        Such as ``"debate.agents=5"``.
    """
    result = _copy(values)
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise ConfigError(f"--set {override}: expected key=value, such as --set debate.agents=5")
        node = result
        for part in parts[:-1]:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override}: '{part}' is a plain value and has no keys below it")
        node[parts[-1]] = parse_yaml(text, f"--set {key}")
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def validate(model: type[Model], values: dict[str, Any], where: str) -> Model:
    """Check a mapping against its model.

    Raises
    ------
    ConfigError
        One line for the first fault: file, key, what is wrong, what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not _is_union_label(part))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {_explain(model, key, first)}{more}") from error


def _is_union_label(part: Any) -> bool:
    # pydantic adds the tried member of a union to the location: 'list[str]', 'literal[...]'.
    return isinstance(part, str) and ("[" in part or part in {"str", "int", "float", "bool", "none"})


def _explain(model: type[BaseModel], key: str, fault: Any) -> str:
    field = _find_field(model, key.split("."))
    hint = f"; {field.description}" if field is not None and field.description else ""
    kind = fault["type"]
    if kind == "extra_forbidden":
        *parents, name = key.split(".")
        owner = _find_model(model, parents)
        return f"{key}: unknown key{_suggest(name, owner.model_fields)}"
    if kind == "missing":
        return f"{key}: missing{hint}"
    if kind == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    if kind == "model_type":
        known = ", ".join(_find_model(model, key.split(".") if key else []).model_fields)
        return f"{key}: should hold keys ({known}), not {_shorten(fault['input'])}"
    message = fault["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{key}: {message}, not {_shorten(fault['input'])}{hint}"


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(names)}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _find_model(model: type[BaseModel], parts: Sequence[str]) -> type[BaseModel]:
    for part in parts:
        annotation = model.model_fields[part].annotation
        # Section, or Section | None.
        kinds = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
        model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return model


def _find_field(model: type[BaseModel], parts: Sequence[str]) -> Any:
    known = [part for part in parts if not part.isdigit()]
    for part in known[:-1]:
        if part not in model.model_fields:
            return None
        model = _find_model(model, [part])
    return model.model_fields.get(known[-1]) if known else None
