"""The border between encode and the models: data/encoded/SPLIT, memory-mapped, so that no table is ever held in memory.

    fields.json                     what each field is (see Field), and the number of rows and displays of each part
    vocabulary/FIELD.parquet        value, count, code_history, code_target
    edges/FIELD.npy                 (E,) float32, ascending: the bucketised twin FIELD of a numeric field
    {history,target}/
        offsets.npy                 (D + 1,) int64: display d has the rows offsets[d]:offsets[d + 1]
        display_id.npy              (D,) uint32
        future.npy, cold_*.npy      (D,) bool; cold_* only in target: some ad, the user, the page is new
        ad_id.npy                   (N,) uint32
        clicked.npy                 (N,) uint8, not there where the label is unknown
        fields/FIELD.npy            (D,) or (N,) codes of a categorical field (uint8, uint16 or int32, the smallest that
                                    holds them), or a numeric one (NaN: unknown): float16 where that tells its values
                                    apart (encode.columns), else float32
        fields/FIELD.offsets.npy    (D + 1,) or (N + 1,) uint32, with codes in FIELD.ids.npy, as those above, and
                                    float16 in FIELD.weights.npy: multi-valued

A field whose value all ads of a display share (`Field.per` is "display") stands once for each display, (D,), any other
one for each row, (N,). `EncodedPart.values` gives either by row.

What is stored small is read large, piece by piece (core.computed): `EncodedPart.field` gives float32 for float16, and
int64 for offsets. A bucketised twin has no array of its own: its codes follow from the number and the edges, 0 for
unknown, then 1, 2, ... from the lowest numbers to the highest. They are computed where they are read.

Codes count from 0 within their field: 0 is "unknown", then come the buckets of rare values by their frequency, then the
frequent values, most frequent first. What reads them fuses the fields that it uses into one id space (`fuse`), so that
a model's table holds no row for a field that it does not read.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.computed import Computed, buckets, wide
from pipeline.core.errors import InputError, ParameterError
from pipeline.core.files import atomic_path, read_json, write_json
from pipeline.schemas.features import Scope
from pipeline.schemas.impressions import Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One input of a model.

    per: whether its arrays hold a value for each display or for each impression (row). scope: what it knows
    (schemas.features). size: number of codes (0 for a numeric field).
    twin: the numeric field of which this is the bucketised twin.
    mean, scale: of a numeric field's known values in history; scale is never 0.
    """

    name: str
    group: str
    kind: Literal["categorical", "multi", "numeric"]
    per: Literal["display", "impression"]
    meaning: str
    scope: Scope = "static"
    size: int = 0
    twin: str | None = None
    mean: float = 0.0
    scale: float = 1.0


def twin_name(number: str) -> str:
    """Of the bucketised twin of a numeric field."""
    return f"{number}_bucket"


def code_type(size: int) -> np.dtype[Any]:
    """In which codes below `size` are stored: most fields have few, and there are many rows."""
    return np.dtype(np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32)


#: Of a target's displays, by how many a fit is measured on its way: as many tell its best moment as well as all would.
MEASURED_DISPLAYS = 1_000_000
HEADER = 128  # bytes before the values of a .npy file
_DRAWN_TOGETHER = 1 << 10  # displays, since they lie together


class EncodedPart:
    """One part of a split: arrays by name, opened when they are first read, and then kept open.

    rows: N. displays: D. elsewhere: fields that do not lie in the folder, and the file of each.
    twins: fields that are computed, the number of each, and the file of its edges.
    """

    def __init__(
        self,
        folder: Path,
        rows: int,
        displays: int,
        elsewhere: Mapping[str, Path] | None = None,
        twins: Mapping[str, tuple[str, Path]] | None = None,
    ) -> None:
        self.folder, self.rows, self.displays = folder, rows, displays
        self._elsewhere, self.twins = elsewhere or {}, twins or {}
        self._opened: dict[Path, NDArray[Any]] = {}

    def array(self, name: str) -> NDArray[Any]:
        """An id, a label or a flag: the memory-mapped array NAME.npy."""
        return self._open(self.folder / f"{name}.npy")

    def field(self, name: str, kind: str = "") -> NDArray[Any] | Computed:
        """A field's array, by display or by row; kind: offsets, ids or weights of a multi-valued one."""
        if name in self.twins:
            number, path = self.twins[name]
            edges = np.load(path)
            return buckets(self.field(number), edges, code_type(len(edges) + 2))
        own = self.folder / "fields" / f"{name}{kind and f'.{kind}'}.npy"
        stored = np.asarray(self._open(self._elsewhere.get(name, own)))
        if kind == "offsets" and stored.dtype != np.int64:
            return Computed(stored, np.int64, _copy)
        return wide(stored) if stored.dtype == np.float16 else stored

    def _open(self, path: Path) -> NDArray[Any]:
        if path not in self._opened:
            self._opened[path] = open_array(path)
        return self._opened[path]

    def values(self, field: Field, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """The values of a categorical or numeric field in some rows, whatever it is stored by. (R,) -> (R,)"""
        return np.asarray(self.field(field.name)[self.display_of(rows) if field.per == "display" else rows])

    def display_of(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The display to which each of some rows belongs. (R,) -> (R,) in 0..D-1"""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        return np.asarray(self.array("offsets"))

    @property
    def whole(self) -> list[slice]:
        """All displays, as ranges of them."""
        return [slice(0, self.displays)]

    @property
    def measured(self) -> list[slice]:
        """The displays by which a fit is measured on its way, as ranges of them."""
        return drawn(slice(0, self.displays), MEASURED_DISPLAYS)

    def rows_of(self, displays: Sequence[slice]) -> list[slice]:
        """The rows of each of some ranges of displays."""
        return [slice(int(self.offsets[piece.start]), int(self.offsets[piece.stop])) for piece in displays]

    def offsets_of(self, displays: Sequence[slice]) -> NDArray[np.int64]:
        """The offsets of some ranges of displays, put one behind the other, from 0."""
        if displays == self.whole:
            return self.offsets
        lengths = [np.diff(self.offsets[piece.start : piece.stop + 1]) for piece in displays]
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])

    @property
    def labelled(self) -> bool:
        return self.has("clicked")

    def has(self, name: str) -> bool:
        """Whether there is an array NAME.npy of that name."""
        return (self.folder / f"{name}.npy").exists()


def _copy(stored: NDArray[Any], found: NDArray[Any]) -> None:
    found[:] = stored


def open_array(path: Path) -> NDArray[Any]:
    """Map an array on disk into memory; an empty one is read, since there is nothing to map."""
    return np.load(path, mmap_mode=None if path.stat().st_size <= HEADER else "r")


class Encoded:
    """A split as the models see it.

    hidden: names of fields that `leaks: false` left out.
    scores: a folder with what other models say of the rows (see `write_scores`), each a field as any other.
    """

    def __init__(self, folder: Path, scores: Path | None = None) -> None:
        description = read_json(folder / "fields.json")
        self.folder = folder
        self.fields: dict[str, Field] = {f["name"]: Field(**f) for f in description["fields"]}
        self.digest: str = description["digest"]
        self.own_digest = self.digest  # of what lies in the folder alone
        self.hidden = frozenset(description.get("hidden", ()))
        self._counts: dict[str, dict[str, int]] = description["parts"]
        edges = {path.stem: path for path in (folder / "edges").glob("*.npy")}
        self._twins = {f.name: (f.twin, edges[f.name]) for f in self.fields.values() if f.twin and f.name in edges}
        self._scores: dict[str, Path] = {}
        for path in sorted(scores.glob("*/field.json")) if scores else ():
            self._add_score(path.parent)

    def _add_score(self, folder: Path) -> None:
        found = read_json(folder / "field.json")
        if found["encoded"] != self.own_digest:
            raise InputError(f"{folder}: scores of other data than {self.folder} holds; run its stage again")
        field = Field(**found["field"])
        self.fields[field.name], self._scores[field.name] = field, folder
        self.digest += f"-{found['digest']}"

    def part(self, part: Part) -> EncodedPart:
        elsewhere = {name: folder / f"{part}.npy" for name, folder in self._scores.items()}
        return EncodedPart(self.folder / part, **self._counts[part], elsewhere=elsewhere, twins=self._twins)

    def select(self, groups: Sequence[str], names: Sequence[str], scopes: Sequence[Scope] = ()) -> list[Field]:
        """The fields of some feature groups and the named ones (all if both are empty), of some scopes (all if empty);
        of those that `leaks: false` hides, none.

        Raises ParameterError if a group or a field is not there.
        """
        known = {field.group for field in self.fields.values()}
        for what, asked, there in (("groups", groups, known), ("fields", names, self.fields)):
            unknown = [name for name in asked if name not in there and name not in self.hidden]
            if unknown:
                raise ParameterError(f"{what}: {', '.join(unknown)} not encoded; there are {', '.join(sorted(there))}")
        named = [f for f in self.fields.values() if not (groups or names) or f.group in groups or f.name in names]
        return [field for field in named if not scopes or field.scope in scopes]


def write_fields(
    folder: Path,
    fields: Sequence[Field],
    parts: Mapping[Part, dict[str, int]],
    digest: str,
    hidden: Sequence[str] = (),
) -> None:
    """digest: changes whenever the arrays' contents do, so that a checkpoint can tell whether it still fits."""
    described = [asdict(field) for field in fields]
    write_json(folder / "fields.json", {"fields": described, "parts": parts, "digest": digest, "hidden": list(hidden)})


def write_scores(folder: Path, encoded: Encoded, field: Field, scores: Mapping[Part, NDArray[Any]]) -> None:
    """What a model says of the rows (N,) of both parts as a field, whole or not at all: history.npy, target.npy and
    field.json."""
    digest = 0
    with atomic_path(folder) as partial:
        partial.mkdir()
        for part, score in scores.items():
            np.save(partial / f"{part}.npy", score)
            digest = zlib.crc32(np.ascontiguousarray(score).data, digest)
        write_json(
            partial / "field.json", {"field": asdict(field), "encoded": encoded.own_digest, "digest": f"{digest:08x}"}
        )


def drawn(displays: slice, most: int, seed: int = 0) -> list[slice]:
    """At most so many of a range of displays, as ranges in their order: all of them, or blocks from all over it."""
    total = displays.stop - displays.start
    if total <= most:
        return [displays]
    size = min(_DRAWN_TOGETHER, most)
    starts = np.arange(displays.start, displays.stop, size)
    chosen = np.sort(np.random.default_rng(seed).choice(starts, most // size, replace=False)).tolist()
    return [slice(start, min(start + size, displays.stop)) for start in chosen]


def fuse(fields: Sequence[Field]) -> tuple[NDArray[np.int32], int]:
    """The first id of each field (F,) in one fused id space, and that space's size."""
    sizes = np.array([field.size for field in fields], dtype=np.int64)
    ends = np.cumsum(sizes)
    return (ends - sizes).astype(np.int32), int(ends[-1]) if len(fields) else 0
