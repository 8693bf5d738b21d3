"""The border between features and encode: data/features/SPLIT/GROUP/{history,target}.parquet and columns.json.

Every file has the rows of its impressions in their order, their columns `row` (to prove it) and `first` (to count
displays), and the columns that the group declares. columns.json says what they are, so that what reads them needs none
of the code that made them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.core.config import read_yaml
from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json, write_json

#: categorical: one id or text, null if unknown. multi: a list of {id, weight}. numeric: a number, null if unknown.
Kind = Literal["categorical", "multi", "numeric"]
#: What a row may know. static: nothing of the labels or of time; time-causal: only what came before its display;
#: past-clicks: also labels of history's displays before it; future: page views and events after it, too, but no labels;
#: out-of-fold: labels of history whenever they were given, a history row only those of other folds of displays;
#: out-of-fold-future: both of the last.
Scope = Literal["static", "time-causal", "past-clicks", "future", "out-of-fold", "out-of-fold-future"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
#: What a production system could not know.
HINDSIGHT: tuple[Scope, ...] = ("future", "out-of-fold-future")
#: Of what a column says something: of a display, whose ads share the value, or of one of its ads.
Per = Literal["display", "impression"]
#: Columns that every file of features takes over from the impressions.
ALIGNMENT = ("row", "first")
MULTI_TYPE = "array<struct<id: uint32, weight: float32>>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A feature.

    dtype: the Ibis type in which it is written.
    per: whether all ads of a display share the value; if it is a list, it stands in the display's first row alone.
    scope: what it may know; None for the scope of its group.
    """

    name: str
    kind: Kind
    dtype: str
    meaning: str
    per: Per = "impression"
    scope: Scope | None = None


def category(name: str, dtype: str, meaning: str, per: Per = "impression") -> Column:
    """A column of ids or texts."""
    return Column(name=name, kind="categorical", dtype=dtype, meaning=meaning, per=per)


def bag(name: str, meaning: str, scope: Scope | None = None, per: Per = "impression") -> Column:
    """A column of lists of ids with weights."""
    return Column(name=name, kind="multi", dtype=MULTI_TYPE, meaning=meaning, scope=scope, per=per)


def number(name: str, meaning: str, scope: Scope | None = None, per: Per = "impression") -> Column:
    """A column of numbers."""
    return Column(name=name, kind="numeric", dtype="float32", meaning=meaning, scope=scope, per=per)


def write_columns(folder: Path, columns: tuple[Column, ...]) -> None:
    write_json(folder / "columns.json", [asdict(column) for column in columns])


def read_columns(folder: Path) -> tuple[Column, ...]:
    return tuple(Column(**column) for column in read_json(folder / "columns.json"))


def feature_names(params: Path) -> list[str]:
    """The groups of params.yaml: `features`, then `collaborative.groups`; ParameterError if the first is empty, one is
    no list, or a name stands twice."""
    contents = read_yaml(params)
    collaborative = contents.get("collaborative", {})
    lists = {
        "features": contents.get("features"),
        "collaborative.groups": collaborative.get("groups", []) if isinstance(collaborative, dict) else None,
    }
    for where, names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ParameterError(f"{params}: {where}: expected a list of feature groups, found {names!r}")
    if not lists["features"]:
        raise ParameterError(f"{params}: features: expected a list of feature groups, found []")
    names = [name for each in lists.values() for name in each or ()]
    if len(set(names)) < len(names):
        raise ParameterError(f"{params}: features: a group stands twice in {names}")
    return names


def leaks_allowed(params: Path) -> bool:
    """The switch `leaks` of params.yaml, whether models may read columns of scope `future`; ParameterError if none."""
    value = read_yaml(params).get("leaks")
    if not isinstance(value, bool):
        raise ParameterError(f"{params}: leaks: must be true or false, found {value!r}")
    return value
