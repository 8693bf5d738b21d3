"""Small encoded folders of known content, written through the schema, and data drawn from known models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.factorization.displays import Displays as Read
from pipeline.factorization.training import Learner
from pipeline.schemas.encoded import Encoded, EncodedPart, Field, write_fields
from pipeline.schemas.impressions import COLD, Part

Per = Literal["display", "impression"]


@dataclass(frozen=True)
class Bag:
    """A multi-valued column: row r has ids[offsets[r]:offsets[r + 1]] and their weights."""

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Sequence[Sequence[tuple[int, float]]]) -> Bag:
        """From a list of (id, weight) for each row."""
        flat = [pair for row in rows for pair in row]
        return cls(
            np.cumsum([0, *map(len, rows)]),
            np.array([i for i, _ in flat], dtype=np.int32),
            np.array([w for _, w in flat], dtype=np.float32),
        )

    def row(self, index: int) -> list[tuple[int, float]]:
        chosen = slice(self.offsets[index], self.offsets[index + 1])
        return list(zip(self.ids[chosen].tolist(), self.weights[chosen].tolist(), strict=True))


@dataclass(frozen=True)
class Displays:
    """What a part holds: lengths (D,) of its displays, and for its N rows the columns by field, labels and ids.

    Columns hold a value for each row, also of fields whose value a display's ads share: those are written by display.
    ad_id counts the rows if it is not given, display_id the displays; all displays are present.
    """

    lengths: NDArray[np.int64]
    columns: dict[str, Any]  # an array (N,), or a Bag
    clicked: NDArray[np.uint8] | None = None
    ad_id: NDArray[np.uint32] | None = None
    display_id: NDArray[np.uint32] | None = None
    future: NDArray[np.bool_] | None = None
    offsets: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", np.cumsum([0, *self.lengths]))

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])

    def take(self, displays: Sequence[int] | NDArray[np.int64]) -> Displays:
        """Some displays in a given order."""
        chosen = np.asarray(displays)
        rows = np.concatenate([np.arange(self.offsets[d], self.offsets[d + 1]) for d in chosen])
        columns = {
            name: Bag.of([c.row(r) for r in rows]) if isinstance(c, Bag) else c[rows]
            for name, c in self.columns.items()
        }
        return Displays(
            self.lengths[chosen],
            columns,
            None if self.clicked is None else self.clicked[rows],
            None if self.ad_id is None else self.ad_id[rows],
            None if self.display_id is None else self.display_id[chosen],
            None if self.future is None else self.future[chosen],
        )

    def unlabelled(self) -> Displays:
        return replace(self, clicked=None)


def write_encoded(
    folder: Path,
    fields: Sequence[Field],
    history: Displays,
    target: Displays,
    digest: str = "synthetic",
    hidden: Sequence[str] = (),
) -> Encoded:
    """Write both parts; numeric fields get the mean and scale of history. hidden: as in Encoded."""
    counts: dict[Part, dict[str, int]] = {}
    parts: dict[Part, Displays] = {"history": history, "target": target}
    for name, part in parts.items():
        counts[name] = {"rows": part.rows, "displays": len(part.lengths)}
        _write_part(folder / name, fields, part)
    described = [_described(f, history.columns[f.name]) if f.kind == "numeric" else f for f in fields]
    write_fields(folder, described, counts, digest, hidden)
    return Encoded(folder)


def _described(numeric: Field, values: NDArray[np.floating[Any]]) -> Field:
    return replace(numeric, mean=float(np.nanmean(values)), scale=float(np.nanstd(values)) or 1.0)


def _write_part(folder: Path, fields: Sequence[Field], part: Displays) -> None:
    (folder / "fields").mkdir(parents=True)
    displays = len(part.lengths)
    arrays = {
        "offsets": part.offsets.astype(np.int64),
        "display_id": np.arange(1, displays + 1, dtype=np.uint32) if part.display_id is None else part.display_id,
        "ad_id": np.arange(1, part.rows + 1, dtype=np.uint32) if part.ad_id is None else part.ad_id,
        "future": np.zeros(displays, dtype=bool) if part.future is None else part.future,
        **{name: np.zeros(displays, dtype=bool) for name in COLD if folder.name == "target"},
    }
    if part.clicked is not None:
        arrays["clicked"] = part.clicked.astype(np.uint8)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for f in fields:
        column = by_display(part, f.name) if f.per == "display" else part.columns[f.name]
        if isinstance(column, Bag):
            for kind in ("offsets", "ids", "weights"):
                np.save(folder / "fields" / f"{f.name}.{kind}.npy", getattr(column, kind))
        else:
            dtype = np.float32 if f.kind == "numeric" else np.int32
            np.save(folder / "fields" / f"{f.name}.npy", column.astype(dtype))


def by_display(part: Displays, name: str) -> Any:
    """A column's value for each display; ValueError if the ads of a display do not share it."""
    column, first = part.columns[name], np.repeat(part.offsets[:-1], part.lengths)
    if isinstance(column, Bag):
        rows = [column.row(r) for r in range(part.rows)]
        shared = all(row == rows[at] for row, at in zip(rows, first, strict=True))
        column = Bag.of([rows[at] for at in part.offsets[:-1]])
    else:
        shared = np.array_equal(column, column[first], equal_nan=column.dtype.kind == "f")
        column = column[part.offsets[:-1]]
    if not shared:
        raise ValueError(f"{name}: the ads of a display have different values")
    return column


def categorical(name: str, size: int, per: Per = "impression") -> Field:
    return Field(name=name, group="synthetic", kind="categorical", per=per, meaning="", size=size)


def multi(name: str, size: int, per: Per = "impression") -> Field:
    return Field(name=name, group="synthetic", kind="multi", per=per, meaning="", size=size)


def numeric(name: str, per: Per = "impression") -> Field:
    return Field(name=name, group="synthetic", kind="numeric", per=per, meaning="")


def draw_clicks(
    random: np.random.Generator, logits: NDArray[np.float64], lengths: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """One click a display, drawn from the softmax of its ads' logits (the largest of logits plus Gumbel noise)."""
    return best_of(logits + random.gumbel(size=len(logits)), lengths)


def best_of(score: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """1 at the highest score of each display."""
    clicked = np.zeros(len(score), dtype=np.uint8)
    start = 0
    for length in lengths:
        clicked[start + int(np.argmax(score[start : start + length]))] = 1
        start += int(length)
    return clicked


@cache
def by_chance(lengths: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard error of MAP@12 when the click's rank in each display is uniform."""
    ranks = [1 / np.arange(1, n + 1) for n in lengths]
    means = np.array([r.mean() for r in ranks])
    variances = np.array([(r**2).mean() for r in ranks]) - means**2
    return float(means.mean()), float(np.sqrt(variances.sum()) / len(lengths))


#: All kinds of field, by impression and by display: what `mixed` fills.
MIXED = [
    categorical("ad", 24),
    categorical("page", 7, "display"),
    multi("topic", 9),
    multi("entity", 5),
    multi("viewed", 6, "display"),
    numeric("age"),
    numeric("rate"),
    numeric("hour", "display"),
]


def mixed(random: np.random.Generator, displays: int, unseen: bool = False) -> Displays:
    """Displays of 1 to 6 ads with every kind of field, among them empty bags and unknown numbers.

    The click is the ad of the highest code, so a model that tells ads apart ranks without a mistake. unseen: ads,
    topics and numbers are such as no other call makes.
    """
    lengths = random.integers(1, 7, displays)
    rows = int(lengths.sum())
    ad = np.concatenate([random.choice(20, length, replace=False) for length in lengths]) + 2
    page = np.repeat(random.integers(0, 7, displays), lengths)
    age, rate = random.normal(5, 3, rows).astype(np.float32), random.normal(0, 1e-3, rows).astype(np.float32)
    age[random.random(rows) < 0.2] = np.nan
    clicked = best_of(ad.astype(np.float64), lengths)
    if unseen:
        ad, age, rate = np.where(random.random(rows) < 0.5, 1, 22 + ad % 2), age * 1e3, np.full(rows, np.nan)
    columns = {
        "ad": ad,
        "page": page,
        "topic": _random_bag(random, rows, 7 if not unseen else 9),
        "entity": _random_bag(random, rows, 5),
        "age": age,
        "rate": rate,
    }
    columns |= _of_displays(random, lengths)
    ids = random.permutation(10 * displays)[:displays].astype(np.uint32)
    return Displays(lengths, columns, clicked, (ad + 100).astype(np.uint32), ids, random.random(displays) < 0.5)


def _of_displays(random: np.random.Generator, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """A bag and a number, sometimes unknown, that all ads of a display share."""
    of = np.repeat(np.arange(len(lengths)), lengths)
    bag, hour = _random_bag(random, len(lengths), 6), random.normal(12, 4, len(lengths)).astype(np.float32)
    hour[random.random(len(lengths)) < 0.2] = np.nan
    return {"viewed": Bag.of([bag.row(d) for d in of]), "hour": hour[of]}


def _random_bag(random: np.random.Generator, rows: int, size: int) -> Bag:
    counts = random.integers(0, 4, rows)
    return Bag.of([[(int(i), float(random.random())) for i in random.integers(0, size, count)] for count in counts])


def alike(displays: Displays, names: Sequence[str]) -> Displays:
    """The same displays, but all ads of one have the first one's values of some columns."""
    first = np.repeat(displays.offsets[:-1], displays.lengths)
    columns = {name: displays.columns[name] for name in names}
    same = {n: Bag.of([c.row(r) for r in first]) if isinstance(c, Bag) else c[first] for n, c in columns.items()}
    return replace(displays, columns={**displays.columns, **same})


def write_mixed(folder: Path, displays: int = 120, seed: int = 0) -> Encoded:
    """`displays` of history, half as many of target, of `mixed`."""
    random = np.random.default_rng(seed)
    return write_encoded(folder, MIXED, mixed(random, displays), mixed(random, displays // 2))


def part_of(folder: Path, fields: Sequence[Field], displays: Displays) -> EncodedPart:
    """A part by itself."""
    return write_encoded(folder, fields, displays, displays.unlabelled()).part("history")


def scored(learner: Learner, displays: Read) -> NDArray[np.float32]:
    """What a factorization model's learner makes of all rows (N,)."""
    found = np.empty(len(displays.clicked), np.float32)
    learner.score(displays, np.arange(len(displays.offsets) - 1), found)
    return found
