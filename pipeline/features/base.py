"""What a feature group is, and how it is computed: range by range for one part of one split, order kept.

A group is a module of this package that holds one `GROUP`; its name is the module's name. To add one, write the module
and put its name into `features` in params.yaml; if it learns from the split before it can say anything (`learner`),
into `collaborative.groups`.

Most groups are plain Ibis, so that both engines (core.engine) compute them. Some of what DuckDB understands Spark does
not, or it means something else there:
- `collect(order_by=)`, asof joins: collect structs, and sort the lists.
- Unnest a column in a select, by itself (`table.select(id=table.ids.unnest())`): Spark takes no more than that, and
  `Table.unnest` becomes a lateral join, for which DuckDB needs many times longer.
- `hash()`, `approx_nunique()`, `arbitrary()`, `first()` and `last()` of groups without an order: hash by arithmetic
  (smoothing.fold), aggregate by min, max, or argmax of what is unique.
- Timestamps: stay with integers (ms). SQL text: never.
- Division by zero is an error in Spark, and a logarithm of zero null: guard them (`nullif(0)`, `+ 1`).
- Sums of floats, and ranks by floats that are equal but for their last bit: count in integers.

What compares all ads of a display, or sums up all that is known of all that its user viewed, makes hundreds of rows of
each display, for which an engine takes many times as long as a loop over arrays: such a group walks through the
displays (features.displays), on the machine that runs the stage.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq

from pipeline.core.config import section
from pipeline.core.engine import Engine
from pipeline.core.errors import ParameterError
from pipeline.core.files import atomic_path
from pipeline.features.displays import Walk, write_walk
from pipeline.features.smoothing import SmoothingConfig
from pipeline.schemas.features import ALIGNMENT, Column, Scope, write_columns
from pipeline.schemas.impressions import PARTS, Part, SplitInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a group is computed from.

    impressions: the rows to describe, a range of whole displays; windows over `display_id` are exact. history: the
    impressions of the split's whole history, the only rows whose labels may be used. target: those of its whole target,
    their labels hidden (null). part_views: what the users of the part's displays viewed around them; history_views: the
    same of the whole history; document_views: how often anybody viewed a document (all: schemas.views). table: a typed
    table by name; of page_views, only what is before `info.views_until` may be used. once: wraps a look-up that is the
    same for all ranges, so that it is computed at the first. within: cuts a table with a `display_id` to the displays
    of this range, without reading the rest of it.
    """

    part: Part
    impressions: ir.Table
    history: ir.Table
    target: ir.Table
    part_views: ir.Table
    history_views: ir.Table
    document_views: ir.Table
    table: Callable[[str], ir.Table]
    once: Callable[[ir.Table], ir.Table]
    within: Callable[[ir.Table], ir.Table]
    info: SplitInfo
    smoothing: SmoothingConfig

    @property
    def views(self) -> ir.Table:
        """What the users of these displays viewed around them."""
        return self.within(self.part_views)


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders that a learner reads: typed tables, a split, its page views by display."""

    tables: Path
    split: Path
    views_folder: Path

    @property
    def info(self) -> SplitInfo:
        return SplitInfo.read(self.split)

    def impressions(self, part: Part) -> Path:
        return self.split / f"{part}.parquet"

    def views(self, part: Part) -> Path:
        return self.views_folder / f"{part}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """What a group does that no relational expression says: it is fitted on the split, and then describes its rows.

    config: its parameters, the section `collaborative.GROUP` of params.yaml. fit: gives how the rows of each part are
    described. around: what holds meanwhile.
    """

    config: type[Any]
    fit: Callable[[Engine, Sources, Any], Callable[[Part], Walk]]
    around: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """A feature group, computed by one of three.

    scope: of all columns that name none of their own. build: an expression with `row`, `first` and the declared
    columns, one row for each of `inputs.impressions`. walk: reads what must be known to describe the rows of
    `inputs.part` chunk by chunk. learner: see Learner.
    """

    scope: Scope
    columns: tuple[Column, ...]
    build: Callable[[Inputs], ir.Table] | None = None
    walk: Callable[[Engine, Inputs], Walk] | None = None
    learner: Learner | None = None

    def __post_init__(self) -> None:
        scoped = tuple(replace(column, scope=column.scope or self.scope) for column in self.columns)
        object.__setattr__(self, "columns", scoped)


def load_group(name: str) -> Group:
    """The GROUP of pipeline/features/NAME.py; ParameterError if there is no such module."""
    if not name.isidentifier() or importlib.util.find_spec(f"pipeline.features.{name}") is None:
        raise ParameterError(f"features: no group {name!r}; expected a module pipeline/features/{name}.py")
    group = getattr(importlib.import_module(f"pipeline.features.{name}"), "GROUP", None)
    if not isinstance(group, Group):
        raise ParameterError(f"features: pipeline/features/{name}.py holds no GROUP, so it is no feature group")
    return group


def learner_config(params: Path, name: str) -> Any:
    """The parameters `collaborative.NAME` of a group that learns; ParameterError if they are wrong or it does not."""
    learner = load_group(name).learner
    if learner is None:
        raise ParameterError(f"collaborative.groups: {name} is not fitted; it belongs into `features`")
    return section(params, f"collaborative.{name}", learner.config)


def write_group(
    engine: Engine,
    name: str,
    tables: Path,
    split: Path,
    views: Path,
    smoothing: SmoothingConfig,
    out: Path,
    learning: Any = None,
) -> None:
    """Compute both parts of a group into the folder `out`, whole or not at all.

    learning: the config of a group's learner; None for its defaults. Raises ValueError if the group's result is not
    aligned with the impressions or not what it declares: a bug in it.
    """
    group, sources = load_group(name), Sources(tables, split, views)
    with group.learner.around() if group.learner else nullcontext(), atomic_path(out) as folder:
        write = _writer(engine, group, sources, smoothing, learning)
        folder.mkdir()
        for part in PARTS:
            write(part, folder / f"{part}.parquet")
            _check_part(group, sources.impressions(part), folder / f"{part}.parquet")
        write_columns(folder, group.columns)


def _writer(
    engine: Engine, group: Group, sources: Sources, smoothing: SmoothingConfig, learning: Any
) -> Callable[[Part, Path], None]:
    """What writes a part's file: `row`, `first` and the declared columns, in the impressions' order."""
    if group.learner is not None:
        walk_of = group.learner.fit(engine, sources, learning or group.learner.config())
    elif group.walk is not None:
        walk_of = partial(_walk, engine, group.walk, _inputs(engine, sources, smoothing))
    else:
        return _by_ranges(engine, group, sources, smoothing)

    def write(part: Part, path: Path) -> None:
        files = sources.impressions(part), sources.views(part)
        write_walk(walk_of(part), *files, group.columns, path, engine.runtime.cores)

    return write


def _walk(engine: Engine, walk: Callable[[Engine, Inputs], Walk], inputs: Inputs, part: Part) -> Walk:
    return walk(engine, replace(inputs, part=part))


def _by_ranges(
    engine: Engine, group: Group, sources: Sources, smoothing: SmoothingConfig
) -> Callable[[Part, Path], None]:
    inputs = _inputs(engine, sources, smoothing)

    def write(part: Part, path: Path) -> None:
        build = _columns(engine, group, replace(inputs, part=part, part_views=engine.table(sources.views(part))))
        engine.write_by_ranges(sources.impressions(part), "display_id", build, path, order_by=("row",))

    return write


def _inputs(engine: Engine, sources: Sources, smoothing: SmoothingConfig) -> Inputs:
    """The inputs of all of history."""
    history, views = engine.table(sources.impressions("history")), engine.table(sources.views("history"))
    return Inputs(
        part="history",
        impressions=history,
        history=history,
        target=engine.table(sources.impressions("target")).mutate(clicked=ibis.null("uint8")),
        part_views=views,
        history_views=views,
        document_views=engine.table(sources.views_folder / "documents.parquet"),
        table=cache(lambda name: engine.table(sources.tables / f"{name}.parquet")),  # the same object, else not `once`
        once=engine.once,
        within=lambda table: table,
        info=sources.info,
        smoothing=smoothing,
    )


def _columns(engine: Engine, group: Group, inputs: Inputs) -> Callable[[ir.Table], ir.Table]:
    """The group's columns, in their declared types, as a function of a range of impressions."""

    def build(impressions: ir.Table) -> ir.Table:
        @cache
        def borders() -> dict[str, int]:  # for the groups that ask
            ids = impressions.display_id
            return engine.one(impressions.aggregate(low=ids.min(), high=ids.max()))

        def within(table: ir.Table) -> ir.Table:  # by numbers, which the engine compares with those of a row group
            return table.filter(table.display_id.between(borders()["low"], borders()["high"]))

        assert group.build is not None
        table = group.build(replace(inputs, impressions=impressions, within=within))
        return table.select(*ALIGNMENT, **{c.name: _written(table, c) for c in group.columns})

    return build


def _written(table: ir.Table, column: Column) -> ir.Value:
    """A column as its file holds it: lists that all ads of a display share stand in its first row alone, since to write
    them again for each ad would take most of the time and disk of what holds them."""
    value = table[column.name].cast(column.dtype)
    if column.kind == "multi" and column.per == "display":
        return ibis.ifelse(table.first, value, ibis.null(column.dtype))
    return value


def _check_part(group: Group, impressions: Path, path: Path) -> None:
    expected = pq.read_metadata(impressions).num_rows
    found = astray = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["row"]):
            row = np.from_dlpack(batch["row"])  # `to_numpy` would load pandas, which takes as long as a small group
            astray += int(np.count_nonzero(row != np.arange(found, found + len(row))))
            found += len(row)
        names = file.schema_arrow.names
    if found != expected or astray:
        raise ValueError(f"{path}: {found} rows of which {astray} are out of order; expected {expected} in order")
    if names != [*ALIGNMENT, *(column.name for column in group.columns)]:
        raise ValueError(f"{path}: columns {names} are not what the group declares")
