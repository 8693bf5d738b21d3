"""params.yaml read into frozen dataclasses, each of which stands beside the code that reads it.

Unknown keys, missing keys and wrong types are errors that name the key and what was found: a typing mistake must not
cost a night's run. A field's type is one of: bool, int, float, str, `X | None`, `Literal[...]`, `tuple[X, ...]`,
`dict[str, X]` or another dataclass. A field with a default may be left out. Numbers must be finite.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.core.errors import ParameterError

C = TypeVar("C")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster, where it was built


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; ParameterError if it is missing, no YAML or no mapping."""
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - both load safely
    except FileNotFoundError:
        raise ParameterError(f"{path}: no such file; expected a YAML file of parameters") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise ParameterError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value


def section(path: Path, name: str, config: type[C]) -> C:
    """Read the section `name` (dots go deeper: `models.lr`) of a YAML file into the dataclass `config`."""
    value: Any = read_yaml(path)
    for depth, key in enumerate(name.split(".")):
        if not isinstance(value, dict) or key not in value:
            found = ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)
            where = ".".join(name.split(".")[:depth]) or "the top level"
            raise ParameterError(f"{path}: {name} is missing; {where} holds: {found}")
        value = value[key]
    return parse(config, value, f"{path}: {name}")


def parse(config: type[C], value: Any, where: str) -> C:
    """Build the dataclass `config` from a mapping; `where` (file and section) opens every message."""
    if not isinstance(value, dict):
        raise ParameterError(f"{where}: expected a mapping, found {value!r}")
    hints = get_type_hints(config)
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it may hold: {', '.join(fields)}"
            raise ParameterError(f"{where}: unknown key {key!r}{hint}")
    for key, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and key not in value:
            raise ParameterError(f"{where}: missing key {key!r}")
    arguments = {key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return config(**arguments)
    except ParameterError as error:  # raised by a __post_init__, which does not know where it stands
        raise ParameterError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one return a type reads best
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args or isinstance(value, bool) != isinstance(args[0], bool):
            raise ParameterError(f"{where}: must be one of {', '.join(map(repr, args))}, found {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ParameterError(f"{where}: must be a list, found {value!r}")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ParameterError(f"{where}: must be a mapping, found {value!r}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast("type", hint), value, where)
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as a string
            value = float(value)
        except ValueError:
            raise ParameterError(f"{where}: must be a number, found {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ParameterError(f"{where}: must be {names.get(hint, hint.__name__)}, found {value!r}")
    if isinstance(value, float) and not math.isfinite(value):  # it would pass most checks of a range
        raise ParameterError(f"{where}: must be a finite number, found {value}")
    return value


def check(condition: bool, message: str) -> None:
    """For a dataclass' __post_init__: raise ParameterError with `message` unless the condition holds."""
    if not condition:
        raise ParameterError(message)
