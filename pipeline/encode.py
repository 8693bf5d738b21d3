"""Features into what models read: codes, bags and numbers in memory-mapped arrays (see schemas.encoded).

A vocabulary is built from history alone. A value that occurs often gets a code of its own; a rare one shares the code
of its frequency, as the winners did. A history row counts the *other* displays in which its value occurs: so the bucket
"never seen" is trained by the values that occur once, which is what target's unseen values will look like.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.core.files import atomic_path
from pipeline.core.progress import log
from pipeline.core.relational import look_up
from pipeline.schemas.encoded import EncodedPart, Field, code_type, write_fields
from pipeline.schemas.features import Column, read_columns
from pipeline.schemas.impressions import COLD, PARTS, Part

CHUNK = 1 << 20  # rows that are held at once
_QUANTILE_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """The section `encode` of params.yaml.

    min_count: a value that occurs fewer times (in other displays) shares the code of its frequency.
    min_count_of: the same for single fields. buckets: into how many quantiles a numeric field is cut for its twin.
    """

    min_count: int = 5
    min_count_of: dict[str, int] = field(default_factory=dict)
    buckets: int = 32

    def __post_init__(self) -> None:
        for name, count in {"min_count": self.min_count, **self.min_count_of}.items():
            check(count >= 1, f"{name}: must be 1 or more, found {count}")
        check(self.buckets >= 2, f"buckets: must be 2 or more, found {self.buckets}")


def encode_split(
    engine: Engine,
    split: Path,
    features: Path,
    groups: list[str],
    config: EncodeConfig,
    out: Path,
    *,
    leaks: bool = True,
) -> None:
    """Write data/encoded/SPLIT into the folder `out`, whole or not at all; columns of scope `future` if `leaks`."""
    with atomic_path(out) as partial:
        (partial / "vocabulary").mkdir(parents=True)
        counts = {part: _write_labels(engine, split, part, partial / part) for part in PARTS}
        parts = {part: EncodedPart(partial / part, **counts[part]) for part in PARTS}
        fields: list[Field] = []
        for group in groups:
            columns = tuple(c for c in read_columns(features / group) if leaks or c.scope != "future")
            fields += _encode_group(engine, features / group, group, columns, config, partial, parts)
        duplicates = {f.name for f in fields if [g.name for g in fields].count(f.name) > 1}
        if duplicates:
            raise ValueError(f"fields {sorted(duplicates)} are declared by more than one group")
        write_fields(partial, fields, counts, _digest(partial))
    log.info("%d fields, %d codes", len(fields), sum(f.size for f in fields))


# --- labels and ids -----------------------------------------------------------------------------------------------


def _create(path: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A new array on disk that is filled piece by piece."""
    if 0 in shape:
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _write_labels(engine: Engine, split: Path, part: Part, out: Path) -> dict[str, int]:
    (out / "fields").mkdir(parents=True)
    table = engine.table(split / f"{part}.parquet")
    total = engine.one(
        table.aggregate(rows=table.count(), displays=table.first.cast("int64").sum(), labels=table.clicked.count())
    )
    rows, displays = int(total["rows"]), int(total["displays"])
    names = ["ad_id", *(["clicked"] if total["labels"] == rows else [])]
    by_row = {name: _create(out / f"{name}.npy", (rows,), {"ad_id": "u4", "clicked": "u1"}[name]) for name in names}
    flags = ["future", *(COLD if part == "target" else ())]
    by_display = {name: _create(out / f"{name}.npy", (displays,), bool) for name in flags}
    by_display["display_id"] = _create(out / "display_id.npy", (displays,), "u4")
    offsets = _create(out / "offsets.npy", (displays + 1,), "i8")
    at_display = -1  # the display that the last row belongs to
    wanted = ["row", "first", "display_id", *names, *flags]
    for start, batch in _rows(engine, split / f"{part}.parquet", lambda t: t.select(wanted), range(rows)):
        first = _numpy(batch["first"])
        for name, array in by_row.items():
            array[start : start + len(first)] = _numpy(batch[name])
        display = at_display + np.cumsum(first)
        offsets[display[first]] = start + np.flatnonzero(first)
        by_display["display_id"][display[first]] = _numpy(batch["display_id"])[first]
        for flag in flags:  # a display is cold if one of its rows is
            array = by_display[flag]
            array[display[_numpy(batch[flag])]] = True
        at_display = int(display[-1])
    offsets[displays] = rows
    return {"rows": rows, "displays": displays}


def _rows(
    engine: Engine, path: Path, function: Callable[[ir.Table], ir.Table], numbers: range | NDArray[np.int64]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A function of a file's rows, in batches, each with its position; proves that they are these, in order."""
    position = 0
    for table in engine.by_ranges(path, "row", function, ("row",)):
        for batch in table.combine_chunks().to_batches(CHUNK):
            rows, end = _numpy(batch["row"]), position + batch.num_rows
            if end > len(numbers) or (rows[0], rows[-1]) != (numbers[position], numbers[end - 1]):
                raise ValueError(f"{path}: rows came out of order at row {position}")
            yield position, batch
            position = end
    if position != len(numbers):
        raise ValueError(f"{path}: {position} rows where {len(numbers)} were expected")


def _numpy(column: pa.Array) -> NDArray[Any]:
    return np.asarray(column.to_numpy(zero_copy_only=False))


# --- fields -------------------------------------------------------------------------------------------------------


def _encode_group(
    engine: Engine,
    folder: Path,
    group: str,
    columns: tuple[Column, ...],
    config: EncodeConfig,
    out: Path,
    parts: dict[Part, EncodedPart],
) -> list[Field]:
    fields = {
        c.name: Field(name=c.name, group=group, kind=c.kind, per=c.per, meaning=c.meaning, scope=c.scope or "static")
        for c in columns
    }
    vocabularies = {}
    for column in columns:
        if column.kind == "numeric":
            continue
        min_count = config.min_count_of.get(column.name, config.min_count)
        vocabulary = _vocabulary(engine.table(folder / "history.parquet"), column, min_count)
        path = out / "vocabulary" / f"{column.name}.parquet"
        engine.write(vocabulary, path)
        vocabularies[column.name] = engine.once(engine.table(path))
        frequent = engine.one(vocabularies[column.name].aggregate(last=ibis._.code_target.max()))["last"]
        size = max(_reserved(min_count), (frequent or 0) + 1)
        fields[column.name] = replace(fields[column.name], size=size)
    for part, target in parts.items():
        for per in ("display", "impression"):
            chosen = [column for column in columns if column.per == per]
            _write_codes(engine, folder / f"{part}.parquet", chosen, fields, vocabularies, part, target)
    for column in columns:
        if column.kind == "numeric":
            fields[column.name], twin = _numeric(fields[column.name], config.buckets, parts)
            fields[twin.name] = twin
    return list(fields.values())


def _reserved(min_count: int) -> int:
    """Codes before the first frequent value: "unknown", and the buckets of the frequencies below min_count."""
    return 2 + (min_count - 1).bit_length()


def _bucket(count: ir.Value, min_count: int) -> ir.Value:
    """The code of a rare value: one bucket each for 0, 1, 2-3, 4-7, ... occurrences."""
    count = ibis.least(count, min_count - 1)
    return ibis.literal(1) + sum(
        ((count >= 2**power).cast("int32") for power in range((min_count - 1).bit_length())), ibis.literal(0)
    )


def _vocabulary(history: ir.Table, column: Column, min_count: int) -> ir.Table:
    """value, count (displays or rows of history), and the code of a history row and of a target row with that value."""
    if column.per == "display":
        history = history.filter(history.first)
    values = history.select(value=column.name)
    if column.kind == "multi":
        values = values.unnest("value").select(value=ibis._.value.id)
    values = values.filter(values.value.notnull())
    counts = values.group_by("value").aggregate(count=values.count())
    rank = ibis.row_number().over(ibis.window(order_by=[counts["count"].desc(), counts.value]))
    own = rank.cast("int32") + _reserved(min_count)
    frequent = counts["count"] > min_count
    return counts.select(
        "value",
        "count",
        code_history=ibis.ifelse(frequent, own, _bucket(counts["count"] - 1, min_count)).cast("int32"),
        code_target=ibis.ifelse(frequent, own, _bucket(counts["count"], min_count)).cast("int32"),
    ).order_by([ibis.desc("count"), "value"])


def _write_codes(
    engine: Engine,
    path: Path,
    columns: Sequence[Column],
    fields: dict[str, Field],
    vocabularies: dict[str, ir.Table],
    part: Part,
    out: EncodedPart,
) -> None:
    """One pass over a group's file, for columns that are stored by display or for such that are stored by row: the
    codes of categorical fields, the bags of multi-valued ones, the numbers."""
    if not columns:
        return
    by_display = columns[0].per == "display"
    numbers = out.offsets[:-1] if by_display else range(out.rows)  # of the rows that are written

    def codes(table: ir.Table) -> ir.Table:
        if by_display:
            table = table.filter(table.first)
        table = table.select("row", *(column.name for column in columns))
        for column in columns:
            if column.kind == "categorical":
                lookup = vocabularies[column.name].select("value", found_code=f"code_{part}")
                table = look_up(table, lookup, {column.name: "value"})
                code = ibis.ifelse(
                    table[column.name].isnull(), 0, table.found_code.fill_null(1)
                )  # 1: never seen in history
                table = table.mutate(**{column.name: code.cast("int32")}).drop("found_code")
        return table

    arrays = {}
    for column in columns:
        if column.kind != "multi":
            dtype = code_type(fields[column.name].size) if column.kind == "categorical" else np.dtype(np.float32)
            stored = out.folder / "fields" / f"{column.name}.npy"
            arrays[column.name] = _create(stored, (len(numbers),), dtype)
    bags = {
        c.name: _BagWriter(out, c.name, engine.to_arrow(vocabularies[c.name]), part, len(numbers))
        for c in columns
        if c.kind == "multi"
    }
    for start, batch in _rows(engine, path, codes, numbers):
        for name, array in arrays.items():
            array[start : start + batch.num_rows] = _numpy(batch[name])  # a null number becomes NaN
        for name, bag in bags.items():
            bag.add(batch[name])
    for bag in bags.values():
        bag.close()


class _BagWriter:
    """Appends lists of {id, weight} as offsets, codes and weights; the weights of a bag are scaled to sum to 1."""

    def __init__(self, out: EncodedPart, name: str, vocabulary: pa.Table, part: Part, bags: int) -> None:
        known = vocabulary.sort_by("value")
        self._values, self._codes = known["value"].to_numpy(), known[f"code_{part}"].to_numpy().astype(np.int32)
        self._folder, self._name = out.folder / "fields", name
        self._offsets = _create(self._folder / f"{name}.offsets.npy", (bags + 1,), "i8")
        self._offsets[0] = 0
        self._bag = self._total = 0
        self._ids = (self._folder / f"{name}.ids.raw").open("wb")
        self._weights = (self._folder / f"{name}.weights.raw").open("wb")

    def add(self, column: pa.Array) -> None:
        lengths = _numpy(column.value_lengths().fill_null(0)).astype(np.int64)
        flat = column.flatten()
        values, weights = _numpy(flat.field("id")), _numpy(flat.field("weight")).astype(np.float64)
        if len(self._values):
            at = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
            codes = np.where(self._values[at] == values, self._codes[at], 1).astype(np.int32)
        else:
            codes = np.ones(len(values), np.int32)
        bag = np.repeat(np.arange(len(lengths)), lengths)
        total = np.bincount(bag, weights, minlength=len(lengths))
        weights = np.divide(weights, total[bag], out=np.zeros_like(weights), where=total[bag] > 0)
        codes.tofile(self._ids)
        weights.astype(np.float32).tofile(self._weights)
        self._offsets[self._bag + 1 : self._bag + 1 + len(lengths)] = self._total + np.cumsum(lengths)
        self._bag += len(lengths)
        self._total += int(lengths.sum())

    def close(self) -> None:
        """The number of values is known only now: give both files their header."""
        for file, kind, dtype in ((self._ids, "ids", "i4"), (self._weights, "weights", "f4")):
            file.close()
            raw = self._folder / f"{self._name}.{kind}.raw"
            array = _create(self._folder / f"{self._name}.{kind}.npy", (self._total,), dtype)
            for start in range(0, self._total, CHUNK):
                piece = np.fromfile(raw, dtype, count=min(CHUNK, self._total - start), offset=4 * start)
                array[start : start + len(piece)] = piece
            raw.unlink()


def _numeric(number: Field, buckets: int, parts: dict[Part, EncodedPart]) -> tuple[Field, Field]:
    """Mean and scale of a numeric field, and its categorical twin by quantiles of history: 0 unknown, then 1, 2, ..."""
    history = parts["history"]
    rows = np.arange(0, history.rows, max(1, history.rows // _QUANTILE_ROWS))
    sample = history.values(number, rows).astype(np.float64)
    sample = sample[~np.isnan(sample)]
    if len(sample):
        edges = np.unique(np.quantile(sample, np.linspace(0, 1, buckets + 1)[1:-1]).astype(np.float32))
        mean, scale = float(sample.mean()), float(sample.std())
        number = replace(number, mean=mean, scale=scale if scale > 1e-6 else 1.0)
    else:
        edges = np.empty(0, np.float32)
    name = f"{number.name}_bucket"
    for part in parts.values():
        values = part.field(number.name)
        codes = _create(part.folder / "fields" / f"{name}.npy", values.shape, code_type(len(edges) + 2))
        for start in range(0, len(values), CHUNK):
            piece = np.asarray(values[start : start + CHUNK])
            codes[start : start + CHUNK] = np.where(np.isnan(piece), 0, 1 + np.searchsorted(edges, piece, side="right"))
    twin = replace(number, name=name, kind="categorical", size=len(edges) + 2, twin=number.name, mean=0.0, scale=1.0)
    return number, twin


def _digest(folder: Path) -> str:
    """A checksum over all files, in the order of their names."""
    value = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        value = zlib.crc32(str(path.relative_to(folder)).encode(), value)
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                value = zlib.crc32(piece, value)
    return f"{value:08x}"
