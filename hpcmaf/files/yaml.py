"""Strict YAML: what a recipe or profile says is meant, or refused in one line."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcmaf.errors import ConfigError
from hpcmaf.files.publish import read_bytes

Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """Base of all configuration: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def added(default: Any, description: str, **limits: Any) -> Any:
    """A key that earlier runs do not have: at its default it stays out of plans, so that they remain the same."""
    return Field(default, description=description, exclude_if=lambda value: value == default, **limits)


def shipped_folder(name: str, in_checkout: str) -> Path:
    """Folder of files that come with the package.

    They are at the top of a checkout, where people look for them, and inside the package once it is installed.
    """
    package = Path(__file__).parent.parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / in_checkout


def find_yaml(name: str, folder: Path, kind: str, option: str = "") -> Path:
    """A file by its path, or by its name among those of a folder that come with the package.

    Raises
    ------
    ConfigError
        Neither; names those that come with the package.
    """
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigError(f"{option}{name}: neither a file nor a shipped {kind}; shipped are {shipped}")


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 into what JSON could say, too; duplicate keys are refused.

    YAML 1.2, because 1.1 reads ``1e-4`` as a string and ``no`` as false.

    Raises
    ------
    ConfigError
        Not YAML, a key occurs twice, or a value is none that a file of ours can have (see :func:`_check_plain`).
    """
    from ruamel.yaml import YAML

    try:
        value = YAML(typ="safe", pure=True).load(text)
    # Of '!!int x', '2024-99-99' or '0x' the parser raises whatever Python's own conversion did.
    except Exception as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split()) or type(error).__name__
        raise ConfigError(f"{where}{line}: not valid YAML ({reason[:200]}); mend it") from error
    _check_plain(value, where)
    return value


# Far beyond what anybody writes; aliases make a page of text stand for more values than there are atoms.
_MOST_VALUES, _DEEPEST = 100_000, 50


def _check_plain(tree: Any, where: str) -> None:
    """Refuse what is neither text, number, truth value, null, list nor mapping of these by text.

    So callers need not expect a date, bytes, a set, a list within itself or a number that cannot be printed.
    """
    values = count(1)

    def check(value: Any, path: tuple[str, ...]) -> None:
        if next(values) > _MOST_VALUES or len(path) > _DEEPEST:
            what = "nested without end, or more than anybody could read"
            raise ConfigError(f"{where}: {what}; write it out, without aliases")
        if fault := _fault(value):
            raise ConfigError(": ".join(filter(None, [where, ".".join(path), fault])))
        if isinstance(value, dict | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                check(item, (*path, str(key)))

    check(tree, ())


def _fault(value: Any) -> str:
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str) or _fault(key)]
        return f"the key {_shorten(wrong[0])} is no text; put it in quotes" if wrong else ""
    if isinstance(value, str):
        unprintable = "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        return f"{_shorten(value)} holds a character that no text has; take it out" if unprintable else ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number; write a finite one"
    if isinstance(value, int | float) and abs(value) >= 2**64:
        return "a number of more than 64 bits; write a smaller one"
    if value is None or isinstance(value, list | int | float):
        return ""
    return f"a {type(value).__name__} is neither text nor number, list or mapping; put it in quotes"


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping."""
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__} where keys and values are expected")
    return value


def apply_overrides(values: dict[str, Any], overrides: Sequence[str | tuple[str, Any]]) -> dict[str, Any]:
    """Lay ``--set key=value`` overrides over a mapping.

    Parameters
    ----------
    values
        Left untouched; a changed copy is returned.
    overrides
        Such as ``"debate.agents=5"``, whose value is YAML, or ``("debate.agents", 5)``.
    """
    result = deepcopy(values)
    for override in overrides:
        key, separator, text = override.partition("=") if isinstance(override, str) else (override[0], "=", "")
        shown = override if isinstance(override, str) else f"{key}={_shorten(override[1])}"
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise ConfigError(f"--set {shown}: expected key=value, such as --set debate.agents=5")
        node = result
        for part in parts[:-1]:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {shown}: '{part}' is a plain value and has no keys below it")
        node[parts[-1]] = parse_yaml(text, f"--set {key}") if isinstance(override, str) else override[1]
    return result


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
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {_explain(model, error.errors()[0])}{more}") from error


def _explain(model: type[BaseModel], fault: Any) -> str:
    """What is wrong, from the types that lead to it."""
    annotation: Any = model
    owner, field, shown = model, None, []
    for part in fault["loc"]:
        kinds = _kinds(annotation)
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if any(part in kind.model_fields for kind in models) or (models and len(kinds) == 1):
            owner = next((kind for kind in models if part in kind.model_fields), models[0])
            field = owner.model_fields.get(part)
            annotation = field.annotation if field else None
        elif isinstance(part, str) and (len(kinds) > 1 or part == "[key]"):
            continue  # which member of a union was tried: 'list[str]', 'int'
        else:
            annotation = next((kind for args in map(get_args, kinds) for kind in args[-1:]), None)
        shown.append(str(part))
    key = ".".join(shown)
    start = f"{key}: " if key else ""
    hint = f"; {field.description}" if field is not None and field.description else ""
    kind = fault["type"]
    if kind == "extra_forbidden":
        return f"{start}unknown key{_suggest(shown[-1], owner.model_fields)}"
    if kind == "missing":
        return f"{start}missing{hint}"
    if kind == "value_error":
        return f"{start}{fault['ctx']['error']}"
    if kind == "model_type":
        known = next(kind.model_fields for kind in _kinds(annotation) if hasattr(kind, "model_fields"))
        return f"{start}should hold keys ({', '.join(known)}), not {_shorten(fault['input'])}"
    message = fault["msg"].removeprefix("Input ").removeprefix("String ")
    return f"{start}{message}, not {_shorten(fault['input'])}{hint}"


def _kinds(annotation: Any) -> list[Any]:
    """Members of a union, or the type itself; without None and annotations."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return [kind for arg in get_args(annotation) if arg is not type(None) for kind in _kinds(arg)]
    return [annotation]


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(names)}"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
