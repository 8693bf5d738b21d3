"""The border between features and encode: data/features/SPLIT/GROUP/{history,target}.parquet and columns.json.

Every file has the rows of its impressions in their order, their columns `row` (to prove it) and `first` (to count
displays), and the columns that the group declares. columns.json says what they are, so that what reads them needs none
of the code that made them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import read_yaml
from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json, write_json

#: categorical: one id or text, null if unknown. multi: a list of {id, weight}. numeric: a number, null if unknown.
Kind = Literal["categorical", "multi", "numeric"]
#: What a history row may know. static: nothing of the labels or of time; time-causal: only what came before its
#: display; future: also page views and events after it, but no labels; out-of-fold: labels of other folds of displays
#: only (target knows those of all history).
Scope = Literal["static", "time-causal", "future", "out-of-fold"]
#: Columns that every file of features takes over from the impressions.
ALIGNMENT = ("row", "first")
MULTI_TYPE = "array<struct<id: uint32, weight: float32>>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A feature.

    dtype: the Ibis type in which it is written.
    per: whether all ads of a display share the value.
    """

    name: str
    kind: Kind
    dtype: str
    meaning: str
    per: Literal["display", "impression"] = "impression"


def write_columns(folder: Path, columns: tuple[Column, ...]) -> None:
    write_json(folder / "columns.json", [asdict(column) for column in columns])


def read_columns(folder: Path) -> tuple[Column, ...]:
    return tuple(Column(**column) for column in read_json(folder / "columns.json"))


def feature_names(params: Path) -> list[str]:
    """The list `features` of params.yaml; ParameterError if it is empty, no list, or holds a name twice."""
    names = read_yaml(params).get("features")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ParameterError(f"{params}: features: expected a list of feature groups, found {names!r}")
    if len(set(names)) < len(names):
        raise ParameterError(f"{params}: features: a group stands twice in {names}")
    return names
