"""Codes, bags and numbers against plain counting."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.core.config import parse
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import ParameterError
from pipeline.encode import EncodeConfig, columns, encode_split, reading, vocabulary
from pipeline.encode.arrays import ArrayWriter
from pipeline.encode.loops import halve
from pipeline.schemas.encoded import Encoded, code_type
from pipeline.schemas.features import MULTI_TYPE, Column, read_columns, write_columns
from pipeline.schemas.impressions import COLD, PARTS

Values = dict[str, list[Any]]
Make = Callable[..., Encoded]


def bucket(count: int, min_count: int) -> int:
    """The code of a value that occurs `count` times: 1, 2, 3, 4, ... for 0, 1, 2-3, 4-7, ..."""
    return 1 + min(count, min_count - 1).bit_length()


def first_own_code(min_count: int) -> int:
    """After "unknown" and the buckets of what occurs fewer than min_count times."""
    return 1 + bucket(min_count - 1, min_count)


def reference(counted: list[Any], values: list[Any], min_count: int, *, own: bool) -> list[int]:
    """Codes of some values. counted: history's, once for each occurrence. own: the values are history's themselves."""
    counts = Counter(value for value in counted if value is not None)
    frequent = sorted((v for v, n in counts.items() if n > min_count), key=lambda v: (-counts[v], v))
    codes = {value: first_own_code(min_count) + at for at, value in enumerate(frequent)}
    return [0 if value is None else codes.get(value, bucket(counts[value] - own, min_count)) for value in values]


@pytest.fixture
def make(engine: DuckDBEngine, tmp_path: Path) -> Make:
    """make(columns, history, target, lengths): encode two parts whose displays have these numbers of rows."""

    def encode_values(
        columns: list[Column],
        history: Values,
        target: Values,
        lengths: tuple[list[int], list[int]],
        config: EncodeConfig | None = None,
        out: str = "encoded",
        flags: dict[str, list[Any]] | None = None,
    ) -> Encoded:
        split, features = tmp_path / "split", tmp_path / "features" / "group"
        for folder in (split, features):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for part, values, of in zip(PARTS, (history, target), lengths, strict=True):
            rows = sum(of)
            display = np.repeat(np.arange(len(of)), of)
            first = pa.array([at == 0 or display[at] != display[at - 1] for at in range(rows)], pa.bool_())
            impressions = {
                "row": pa.array(range(rows), pa.int64()),
                "first": first,
                "display_id": pa.array(100 + 10 * display, pa.uint32()),
                "ad_id": pa.array(range(rows, 0, -1), pa.uint32()),
                "clicked": first.cast(pa.uint8()),
                "future": pa.array([False] * rows, pa.bool_()),
            }
            if part == "target":
                impressions |= {flag: [False] * rows for flag in COLD} | (flags or {})
            pq.write_table(pa.table(impressions), split / f"{part}.parquet")
            arrays = {c.name: pa.array(values[c.name], ibis.dtype(c.dtype).to_pyarrow()) for c in columns}
            pq.write_table(
                pa.table({"row": impressions["row"], "first": first, **arrays}), features / f"{part}.parquet"
            )
        write_columns(features, tuple(columns))
        encode_split(engine, split, tmp_path / "features", ["group"], config or EncodeConfig(), tmp_path / out)
        return Encoded(tmp_path / out)

    return encode_values


def column(name: str, kind: str, per: Literal["impression", "display"] = "impression") -> Column:
    dtype = {"categorical": "uint32", "text": "string", "multi": MULTI_TYPE, "numeric": "float32"}[kind]
    return Column(name=name, kind="categorical" if kind == "text" else kind, dtype=dtype, meaning=name, per=per)  # type: ignore[arg-type]


def codes(encoded: Encoded, part: str, name: str) -> list[int]:
    """Of each row."""
    return by_row(encoded, part, name).tolist()  # type: ignore[no-any-return]


def by_row(encoded: Encoded, part: str, name: str) -> Any:
    """The values of each row; what is stored has one for each display, or for each row."""
    field, of = encoded.fields[name], encoded.part(part)  # type: ignore[arg-type]
    assert of.field(name).shape == ((of.displays if field.per == "display" else of.rows),)
    return of.values(field, np.arange(of.rows))


# --- vocabularies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_count", [1, 2, 3, 4, 5, 8, 9])
def test_codes_by_frequency(make: Make, min_count: int) -> None:
    """The value k occurs k times in history, for k from 1 to 12."""
    history = [k for k in range(1, 13) for _ in range(k)]
    rows = len(history) + 1
    target = [*range(1, 13), 99, None]
    encoded = make(
        [column("x", "categorical")],
        {"x": [*history, None]},
        {"x": target},
        ([1] * rows, [1] * len(target)),
        EncodeConfig(min_count=min_count),
    )
    found = codes(encoded, "target", "x")
    assert found == reference(history, target, min_count, own=False)
    assert codes(encoded, "history", "x") == reference(history, [*history, None], min_count, own=True)
    assert (found[12], found[13]) == (1, 0), "never seen is 1, unknown is 0"
    own = [at + 1 for at in range(12) if found.count(found[at]) == 1 and found[at] >= first_own_code(min_count)]
    assert own == list(range(min_count + 1, 13)), "a code of its own if and only if it occurs more than min_count times"
    assert codes(encoded, "history", "x")[0] == 1, "a singleton of history was never seen elsewhere"
    assert encoded.fields["x"].size == max(found) + 1 == first_own_code(min_count) + len(own)


def test_a_size_counts_the_buckets_even_if_nothing_is_frequent(make: Make) -> None:
    encoded = make([column("x", "categorical")], {"x": [1, 2]}, {"x": [3]}, ([1, 1], [1]), EncodeConfig(min_count=5))
    assert encoded.fields["x"].size == first_own_code(5) == 5
    assert codes(encoded, "target", "x") == [1]
    nothing = make([column("x", "categorical")], {"x": [None, None]}, {"x": [3]}, ([1, 1], [1]), out="nothing")
    assert codes(nothing, "history", "x") == [0, 0]
    assert codes(nothing, "target", "x") == [1]


def test_the_most_frequent_come_first_and_ties_by_value(make: Make) -> None:
    history = ["b"] * 3 + ["c"] * 4 + ["a"] * 3
    target = ["a", "b", "c"]
    encoded = make([column("x", "text")], {"x": history}, {"x": target}, ([1] * 10, [3]), EncodeConfig(min_count=1))
    assert codes(encoded, "target", "x") == [3, 4, 2]
    vocabulary = pq.read_table(encoded.folder / "vocabulary" / "x.parquet").to_pydict()
    assert vocabulary == {
        "value": ["c", "a", "b"],
        "count": [4, 3, 3],
        "code_history": [2, 3, 4],
        "code_target": [2, 3, 4],
    }


def test_a_value_of_a_display_counts_once(make: Make) -> None:
    """Two displays of four rows: 8 rows, but 2 occurrences if all ads of a display share the value."""
    values = {"x": [7] * 8, "y": [7] * 8}
    columns = [column("x", "categorical", "display"), column("y", "categorical", "impression")]
    encoded = make(columns, values, {"x": [7], "y": [7]}, ([4, 4], [1]), EncodeConfig(min_count=4))
    assert codes(encoded, "target", "x") == [bucket(2, 4)]
    assert set(codes(encoded, "history", "x")) == {bucket(1, 4)}
    assert codes(encoded, "target", "y") == [first_own_code(4)]


def test_min_count_of_single_fields(make: Make) -> None:
    history = [1] * 3 + [2]
    columns = [column("x", "categorical"), column("y", "categorical")]
    config = EncodeConfig(min_count=5, min_count_of={"y": 1})
    encoded = make(columns, {"x": history, "y": history}, {"x": [1], "y": [1]}, ([1] * 4, [1]), config)
    assert codes(encoded, "target", "x") == [bucket(3, 5)]
    assert codes(encoded, "target", "y") == [first_own_code(1)] == [2]


def test_categorical_fields_of_the_world(
    splits: dict[str, Path], features: dict[str, Path], encoded: dict[str, Encoded], encode_config: EncodeConfig
) -> None:
    fields = 0
    for split, result in encoded.items():
        for folder in features[split].iterdir():
            tables = {part: pq.read_table(folder / f"{part}.parquet") for part in PARTS}
            for c in read_columns(folder):
                if c.kind != "categorical":
                    continue
                fields += 1
                history = tables["history"][c.name].to_pylist()
                first = tables["history"]["first"].to_pylist()
                counted = [v for v, f in zip(history, first, strict=True) if f] if c.per == "display" else history
                min_count = encode_config.min_count_of.get(c.name, encode_config.min_count)
                for part in PARTS:
                    values = tables[part][c.name].to_pylist()
                    expected = reference(counted, values, min_count, own=part == "history")
                    assert codes(result, part, c.name) == expected, (split, part, c.name)
                    assert max(expected) < result.fields[c.name].size
                assert (result.fields[c.name].kind, result.fields[c.name].per) == ("categorical", c.per)
    assert fields >= 20


def test_more_codes_than_16_bits_hold(make: Make) -> None:
    """Ids up to the largest that there may be, in steps, so that few of those below it occur."""
    ids = np.arange(70_000, dtype=np.uint32) * np.uint32(60_000) + np.uint32(17)
    history, rows = np.repeat(ids, 2).tolist(), 2 * len(ids)
    target = [int(ids[-1]), int(ids[0]), int(ids[0]) + 1, 2**32 - 1, 0, None]
    config = EncodeConfig(min_count=1)
    encoded = make([column("x", "categorical")], {"x": history}, {"x": target}, ([rows], [6]), config)
    assert codes(encoded, "target", "x") == [70_001, 2, 1, 1, 1, 0]
    assert codes(encoded, "history", "x") == np.repeat(np.arange(2, 70_002), 2).tolist()
    assert encoded.part("target").field("x").dtype == np.int32
    assert encoded.fields["x"].size == 70_002


@pytest.mark.parametrize("kind", ["table", "search"])
def test_ids_by_table_and_by_search(make: Make, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(vocabulary, "_TABLE", 100 if kind == "table" else 0)
    history, target = [90, 3, 90, 3, 50, 90], [90, 50, 3, 0, 49, 91, 4_000_000_000, None]
    bag = [pairs((v, 1.0)) if v is not None else None for v in target]
    encoded = make(
        [column("x", "categorical"), column("y", "multi")],
        {"x": history, "y": [pairs((v, 1.0)) for v in history]},
        {"x": target, "y": bag},
        ([6], [8]),
        EncodeConfig(min_count=1),
    )
    assert codes(encoded, "target", "x") == [2, 1, 3, 1, 1, 1, 1, 0]
    assert bags(encoded, "target", "y") == [[(c, 1.0)] for c in (2, 1, 3, 1, 1, 1, 1)] + [[]]


@pytest.mark.parametrize("per", ["impression", "display"])
@pytest.mark.parametrize("empty", ["history", "target"])
def test_a_part_without_rows_and_columns_of_nothing_known(make: Make, per: Any, empty: str) -> None:
    kinds = ("categorical", "text", "multi", "numeric")
    columns = [column(f"{known}_{kind}", kind, per) for known in ("some", "no") for kind in kinds]
    some = {"categorical": [7, 7], "text": ["a", "b"], "multi": [pairs((7, 2.0))] * 2, "numeric": [0.5, 1.5]}
    given = {f"some_{kind}": some[kind] for kind in kinds} | {f"no_{kind}": [None, None] for kind in kinds}
    parts = {part: {n: [] if part == empty else v for n, v in given.items()} for part in PARTS}
    lengths = {part: [] if part == empty else [1, 1] for part in PARTS}
    encoded = make(columns, parts["history"], parts["target"], (lengths["history"], lengths["target"]))
    assert (encoded.part(empty).rows, encoded.part(empty).displays) == (0, 0)  # type: ignore[arg-type]
    other = "target" if empty == "history" else "history"
    for part in PARTS:
        for name in ("no_categorical", "no_text", "no_numeric_bucket"):
            assert codes(encoded, part, name) == [0] * len(lengths[part])
        assert bags(encoded, part, "no_multi") == [[]] * len(lengths[part])
        assert np.isnan(by_row(encoded, part, "no_numeric")).all()
    known = {"categorical": 2, "text": 1} if other == "history" else {"categorical": 1, "text": 1}
    for kind, code in known.items():
        assert codes(encoded, other, f"some_{kind}") == [code, code], kind
    assert by_row(encoded, other, "some_numeric").tolist() == [0.5, 1.5]
    assert codes(encoded, other, "some_numeric_bucket")[0] >= 1


# --- bags ---------------------------------------------------------------------------------------------------------


def bags(encoded: Encoded, part: str, name: str) -> list[list[tuple[int, float]]]:
    """Of each row."""
    of = encoded.part(part)  # type: ignore[arg-type]
    offsets, ids, weights = (of.field(name, kind) for kind in ("offsets", "ids", "weights"))
    types = (np.int64, code_type(encoded.fields[name].size), np.float32)
    assert (offsets.dtype, ids.dtype, weights.dtype) == types
    assert offsets[0] == 0
    assert offsets[-1] == len(ids) == len(weights)
    stored = [list(zip(ids[a:b].tolist(), weights[a:b].tolist(), strict=True)) for a, b in pairwise(offsets)]
    if encoded.fields[name].per == "impression":
        return stored
    return [stored[display] for display in np.repeat(np.arange(of.displays), np.diff(of.offsets))]


def pairs(*of: tuple[int, float]) -> list[dict[str, float]]:
    return [{"id": i, "weight": w} for i, w in of]


def test_bags_keep_their_order_and_weigh_one(make: Make) -> None:
    history = [pairs((9, 0.5), (4, 0.25), (7, 0.25)), pairs((9, 0.2), (4, 0.6)), None, [], pairs((9, 0.0))]
    target = [pairs((4, 3.0), (99, 1.0), (9, 4.0)), None, pairs((7, 0.1))]
    encoded = make([column("x", "multi")], {"x": history}, {"x": target}, ([1] * 5, [1] * 3), EncodeConfig(min_count=1))
    # 9 occurs three times, 4 twice, 7 once, and 99 never
    assert bags(encoded, "history", "x") == [
        [(2, 0.5), (3, 0.25), (1, 0.25)],
        [(2, pytest.approx(0.25)), (3, pytest.approx(0.75))],
        [],
        [],
        [(2, 0.0)],  # nothing is known of the weights
    ]
    assert bags(encoded, "target", "x") == [[(3, 0.375), (1, 0.125), (2, 0.5)], [], [(1, 1.0)]]
    assert encoded.fields["x"].size == 4


def test_an_id_of_a_display_counts_once(make: Make) -> None:
    values = {"x": [pairs((5, 1.0))] * 6}
    target = {"x": [pairs((5, 1.0))]}
    by_display = make([column("x", "multi", "display")], values, target, ([3, 3], [1]), EncodeConfig(min_count=3))
    by_row = make([column("x", "multi")], values, target, ([3, 3], [1]), EncodeConfig(min_count=3), "by_row")
    assert bags(by_display, "target", "x") == [[(bucket(2, 3), 1.0)]]
    assert bags(by_row, "target", "x") == [[(first_own_code(3), 1.0)]]


def test_bags_of_which_history_knows_nothing(make: Make) -> None:
    encoded = make([column("x", "multi")], {"x": [None, []]}, {"x": [pairs((5, 2.0), (6, 2.0))]}, ([1, 1], [1]))
    assert bags(encoded, "history", "x") == [[], []]
    assert bags(encoded, "target", "x") == [[(1, 0.5), (1, 0.5)]]


def test_bags_of_the_world(features: dict[str, Path], encoded: dict[str, Encoded], encode_config: EncodeConfig) -> None:
    long = 0
    for folder in features["validation"].iterdir():
        tables = {part: pq.read_table(folder / f"{part}.parquet") for part in PARTS}
        for c in read_columns(folder):
            if c.kind != "multi":
                continue
            history, first = tables["history"][c.name].to_pylist(), tables["history"]["first"].to_pylist()
            rows = [bag or [] for bag, f in zip(history, first, strict=True) if f or c.per == "impression"]
            counted = [pair["id"] for bag in rows for pair in bag]
            for part in PARTS:
                found = bags(encoded["validation"], part, c.name)
                given = [bag or [] for bag in tables[part][c.name].to_pylist()]
                if c.per == "display":  # a list stands in the first row alone
                    display = np.cumsum(tables[part]["first"].to_numpy()) - 1
                    starts = np.flatnonzero(tables[part]["first"].to_numpy())
                    given = [given[starts[d]] for d in display]
                assert [len(bag) for bag in found] == [len(bag) for bag in given]
                ids = [pair["id"] for bag in given for pair in bag]
                expected = reference(counted, ids, encode_config.min_count, own=part == "history")
                assert [code for bag in found for code, _ in bag] == expected
                weights = [pair["weight"] / sum(p["weight"] for p in bag) for bag in given for pair in bag]
                assert np.allclose([weight for bag in found for _, weight in bag], weights, rtol=2**-11, atol=2**-25)
                long += sum(len(bag) > 1 for bag in found)
    assert long > 100


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, "u1"), (256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "i4"), (2**31, "i4")]
)
def test_codes_are_stored_in_the_smallest_type_that_holds_them(size: int, dtype: str) -> None:
    assert code_type(size) == np.dtype(dtype)
    assert np.iinfo(code_type(size)).max >= size - 1


def test_numbers_and_their_twins(make: Make) -> None:
    history = [float(v) for v in range(100)]
    target = [-5.0, 24.0, 25.0, 49.0, 50.0, 99.0, 1e9, None]
    encoded = make(
        [column("x", "numeric")],
        {"x": [*history, None]},
        {"x": target},
        ([1] * 101, [1] * 8),
        EncodeConfig(buckets=4),
    )
    found = encoded.part("target").field("x")
    assert found.dtype == np.float32
    assert found[:-1].tolist() == target[:-1], "1e9 is too large for float16"
    assert np.isnan(found[-1])
    assert np.isnan(encoded.part("history").field("x")[-1])
    # history's quartiles are 24.75, 49.5 and 74.25
    assert encoded.part("target").field("x_bucket").dtype == np.uint8
    assert codes(encoded, "target", "x_bucket") == [1, 1, 2, 2, 3, 4, 4, 0]
    assert np.bincount(codes(encoded, "history", "x_bucket")).tolist() == [1, 25, 25, 25, 25]
    number, twin = encoded.fields["x"], encoded.fields["x_bucket"]
    assert (number.kind, number.size, number.twin) == ("numeric", 0, None)
    assert (number.mean, number.scale) == (pytest.approx(49.5), pytest.approx(np.std(history)))
    assert (twin.kind, twin.size, twin.twin, twin.mean, twin.scale) == ("categorical", 5, "x", 0.0, 1.0)


def test_a_value_on_an_edge_belongs_above_it(make: Make) -> None:
    """Few values, many quantiles: edges coincide, and each value has a bucket of its own."""
    values = [1.0] * 52 + [2.0] * 30 + [3.0] * 19
    encoded = make(
        [column("x", "numeric")],
        {"x": values},
        {"x": [0.0, 1.0, 1.5, 2.0, 3.0]},
        ([1] * 101, [5]),
        EncodeConfig(buckets=10),
    )
    assert codes(encoded, "target", "x_bucket") == [1, 2, 2, 3, 4]
    assert encoded.fields["x_bucket"].size == 5


def test_more_buckets_than_8_bits_hold(make: Make) -> None:
    values = np.random.default_rng(0).permutation(3000).astype(float).tolist()
    encoded = make(
        [column("x", "numeric")], {"x": values}, {"x": [*values, None]}, ([3000], [3001]), EncodeConfig(buckets=300)
    )
    stored = np.array(values, np.float16).astype(np.float32)
    edges = np.unique(np.quantile(stored.astype(np.float64), np.arange(1, 300) / 300).astype(np.float32))
    assert encoded.part("target").field("x_bucket").dtype == np.uint16
    expected = 1 + np.searchsorted(edges, stored, side="right")
    assert codes(encoded, "history", "x_bucket") == expected.tolist()
    assert codes(encoded, "target", "x_bucket") == [*expected.tolist(), 0]


def test_moments_and_quantiles_of_every_tenth_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_SAMPLE", 100)
    monkeypatch.setattr(reading, "CHUNK", 37)
    values = np.random.default_rng(0).normal(size=991).astype(np.float16).astype(np.float32)
    values[::20] = np.nan
    given = [None if np.isnan(value) else float(value) for value in values]
    kinds = [column("x", "numeric"), column("y", "numeric", "display")]
    encoded = make(kinds, {"x": given, "y": given}, {"x": [0.0], "y": [0.0]}, ([1] * 991, [1]), EncodeConfig(buckets=4))
    known = values[::10][~np.isnan(values[::10])].astype(np.float64)
    edges = np.quantile(known, [0.25, 0.5, 0.75]).astype(np.float32)
    expected = np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))
    for name in ("x", "y"):
        assert encoded.fields[name].mean == pytest.approx(known.mean())
        assert encoded.fields[name].scale == pytest.approx(known.std())
        assert codes(encoded, "history", f"{name}_bucket") == expected.tolist()


@pytest.mark.parametrize("value", [3.0, None])
def test_a_number_that_never_changes_can_be_scaled(make: Make, value: float | None) -> None:
    encoded = make([column("x", "numeric")], {"x": [value] * 4}, {"x": [3.0, None]}, ([4], [2]))
    field = encoded.fields["x"]
    assert (field.mean, field.scale) == (value or 0.0, 1.0)
    found = codes(encoded, "target", "x_bucket")
    assert found[0] > found[1] == 0
    assert max(found) < encoded.fields["x_bucket"].size


@pytest.mark.parametrize(
    ("history", "target", "stored"),
    [
        (np.linspace(0, 1, 500), 65_504.0, "f2"),
        (np.linspace(0, 1, 500), 65_505.0, "f4"),  # of whichever part: both are stored alike
        (np.linspace(0, 1, 500), -1e9, "f4"),
        (np.linspace(0, 1, 500), np.inf, "f4"),
        (np.linspace(1000, 1001, 500), 1.0, "f4"),  # float16 knows but three numbers from 1000 to 1001
        (np.geomspace(1e-9, 1e-6, 500), 1.0, "f4"),
        (np.full(500, 0.1), 0.1, "f2"),
        (np.full(500, np.nan), 1.0, "f2"),
    ],
)
def test_numbers_are_halved_where_that_loses_nothing(
    make: Make, history: NDArray[np.float64], target: float, stored: str
) -> None:
    given = [None if np.isnan(value) else float(value) for value in history]
    encoded = make([column("x", "numeric")], {"x": given}, {"x": [target, 0.1, None]}, ([500], [3]))
    for part, values in (("history", history), ("target", np.array([target, 0.1, np.nan]))):
        assert np.load(encoded.folder / part / "fields" / "x.npy").dtype == stored
        found = by_row(encoded, part, "x")
        assert found.dtype == np.float32
        assert np.array_equal(found, values.astype(stored).astype(np.float32), equal_nan=True)
        assert not (encoded.folder / part / "fields" / "x_bucket.npy").exists()
    assert not list(encoded.folder.rglob("*.before"))


def test_values_on_an_edge_stay_above_it_when_they_are_rounded(make: Make) -> None:
    """float16 rounds 0.1 down: an edge of float32 would be above it."""
    history = [0.1] * 30 + [0.3] * 40 + [0.7] * 31
    encoded = make(
        [column("x", "numeric")], {"x": history}, {"x": [0.0, 0.1, 0.3, 0.7]}, ([101], [4]), EncodeConfig(buckets=10)
    )
    assert np.load(encoded.folder / "target" / "fields" / "x.npy").dtype == np.float16
    assert codes(encoded, "target", "x_bucket") == [1, 2, 3, 4]


def test_a_number_that_float16_cannot_hold_never_becomes_infinite(tmp_path: Path) -> None:
    array = ArrayWriter(tmp_path / "x.npy", np.float16)
    array.append(np.array([65_504.0, -65_504.0, np.nan], np.float32))
    with pytest.raises(ValueError, match=r"x\.npy: found 65520\.0; float16 holds 65504\.0 at most"):
        array.append(np.array([0.0, -65_520.0], np.float32))
    array.close()
    assert np.load(tmp_path / "x.npy")[:2].tolist() == [65_504.0, -65_504.0]


def test_halves_are_rounded_as_numpy_rounds_them() -> None:
    """All float16, what lies in the middle between two of them, and next to it."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    middle = (exact[1:] + exact[:-1]) / 2
    beside = [np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf)]
    numbers = np.concatenate([exact, middle, *beside, np.float32([np.nan, -0.0, 1e-45, -1e-30])])
    found = np.empty(len(numbers), np.uint16)
    halve(numbers, found)
    assert np.array_equal(found, numbers.astype(np.float16).view(np.uint16))


def test_numbers_of_the_world(
    features: dict[str, Path], encoded: dict[str, Encoded], encode_config: EncodeConfig
) -> None:
    fields = halves = 0
    for split, result in encoded.items():
        for folder in features[split].iterdir():
            for c in read_columns(folder):
                if c.kind != "numeric":
                    continue
                fields += 1
                arrays = {
                    part: pq.read_table(folder / f"{part}.parquet")[c.name].to_numpy().astype(np.float64)
                    for part in PARTS
                }
                stored = np.load(result.folder / "history" / "fields" / f"{c.name}.npy").dtype
                arrays = {part: values.astype(stored).astype(np.float64) for part, values in arrays.items()}
                halves += stored == np.float16
                known = arrays["history"][~np.isnan(arrays["history"])]
                share = np.arange(1, encode_config.buckets) / encode_config.buckets
                edges = sorted({np.float32(edge) for edge in np.quantile(known, share)})
                for part, values in arrays.items():
                    assert np.array_equal(by_row(result, part, c.name), values.astype(np.float32), equal_nan=True)
                    expected = [0 if np.isnan(v) else 1 + sum(v >= edge for edge in edges) for v in values]
                    assert codes(result, part, f"{c.name}_bucket") == expected, (split, part, c.name)
                assert result.fields[c.name].mean == pytest.approx(known.mean())
                assert result.fields[c.name].scale == pytest.approx(known.std())
    assert fields > halves >= 20


# --- displays, flags, files ---------------------------------------------------------------------------------------


def test_an_array_is_opened_once(encoded: dict[str, Encoded], monkeypatch: pytest.MonkeyPatch) -> None:
    part = encoded["validation"].part("target")
    first = part.array("clicked"), part.field("campaign_id"), part.field("ad_topic", "ids")
    monkeypatch.setattr(np, "load", None)
    again = part.array("clicked"), part.field("campaign_id"), part.field("ad_topic", "ids")
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("split", ["validation", "submission"])
def test_displays_and_labels(splits: dict[str, Path], encoded: dict[str, Encoded], split: str) -> None:
    for part in PARTS:
        rows = pq.read_table(splits[split] / f"{part}.parquet")
        found = encoded[split].part(part)
        starts = np.flatnonzero(rows["first"].to_numpy())
        assert found.offsets.tolist() == [*starts, rows.num_rows]
        assert (found.rows, found.displays) == (rows.num_rows, len(starts))
        assert found.array("display_id").tolist() == rows["display_id"].to_numpy()[starts].tolist()
        assert found.array("ad_id").tolist() == rows["ad_id"].to_pylist()
        labelled = (split, part) != ("submission", "target")
        assert found.labelled == labelled
        if labelled:
            assert found.array("clicked").tolist() == rows["clicked"].to_pylist()
            assert np.add.reduceat(found.array("clicked"), starts).tolist() == [1] * found.displays
        for flag in ("future", *(COLD if part == "target" else ())):
            expected = np.logical_or.reduceat(rows[flag].to_numpy(), starts)
            assert found.array(flag).dtype == bool
            assert found.array(flag).tolist() == expected.tolist(), flag
            assert len(set(expected)) == (1 if part == "history" else 2), f"{flag}: no case of either"


def test_a_display_is_cold_if_one_of_its_ads_is(make: Make) -> None:
    flags = {"cold_ad": [False, True, False, False], "cold_user": [True, True, False, False]}
    encoded = make([column("x", "numeric")], {"x": [1.0]}, {"x": [1.0] * 4}, ([1], [3, 1]), flags=flags)
    target = encoded.part("target")
    assert target.array("cold_ad").tolist() == [True, False]
    assert target.array("cold_user").tolist() == [True, False]
    assert target.array("cold_page").tolist() == [False, False]
    assert target.array("display_id").tolist() == [100, 110]


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_small_chunks_change_nothing(
    splits: dict[str, Path],
    features: dict[str, Path],
    encoded: dict[str, Encoded],
    encode_config: EncodeConfig,
    group_names: list[str],
    engine: DuckDBEngine,
    tmp_path: Path,
    short_ranges: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Displays and bags that cross the borders of chunks and ranges; also: the same bytes twice."""
    monkeypatch.setattr(reading, "CHUNK", 499)
    split = short_ranges(splits["validation"], tmp_path / "split")
    for group in group_names:
        short_ranges(features["validation"] / group, tmp_path / "features" / group)
    encode_split(engine, split, tmp_path / "features", group_names, encode_config, tmp_path / "out")
    found, whole = content(tmp_path / "out"), content(encoded["validation"].folder)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []


def test_the_digest_follows_the_content(make: Make) -> None:
    columns = [column("x", "categorical"), column("y", "numeric")]
    history, target, lengths = {"x": [1, 2, 1], "y": [0.5, None, 2.0]}, {"x": [2], "y": [1.0]}, ([1, 2], [1])
    digest = make(columns, history, target, lengths).digest
    assert make(columns, history, target, lengths, out="again").digest == digest
    changes = [
        make(columns, {**history, "y": [0.5, None, 2.5]}, target, lengths, out="number"),
        make(columns, {**history, "x": [1, 2, None]}, target, lengths, out="code"),
        make(columns, history, target, ([2, 1], [1]), out="border"),
        make(columns, history, target, lengths, flags={"clicked": [0]}, out="label"),
        make(columns, history, target, lengths, flags={"cold_page": [True]}, out="flag"),
        make(columns, history, {"x": [2], "y": [None]}, lengths, out="target"),
        make(columns[:1], history, target, lengths, out="fewer"),
        make(
            [column("w", "categorical"), columns[1]],
            {**history, "w": history["x"]},
            {**target, "w": [2]},
            lengths,
            out="name",
        ),
    ]
    digests = [digest, *(change.digest for change in changes)]
    assert len(set(digests)) == len(digests)


def test_names_that_two_groups_share_are_an_error(
    splits: dict[str, Path], features: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    shutil.copytree(features["validation"] / "rates", tmp_path / "features" / "rates")
    shutil.copytree(features["validation"] / "rates", tmp_path / "features" / "copy")
    with pytest.raises(ValueError, match=r"'ad_rate', 'ad_rate_bucket', .* are declared by more than one group"):
        encode_split(
            engine, splits["validation"], tmp_path / "features", ["rates", "copy"], EncodeConfig(), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_without_leaks_no_column_of_the_future_is_encoded(
    splits: dict[str, Path], features: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    groups = ["leak", "context"]
    for leaks in (True, False):
        out = tmp_path / f"leaks-{leaks}"
        encode_split(engine, splits["validation"], features["validation"], groups, EncodeConfig(), out, leaks=leaks)
        encoded = Encoded(out)
        scopes = {field.scope for field in encoded.fields.values()}
        assert ("future" in scopes) == leaks
        assert "static" in scopes
        assert ("leak" in encoded.fields) == leaks
        chosen = {field.name for field in encoded.select((), (), ("static",))}
        assert chosen == {name for name, field in encoded.fields.items() if field.scope == "static"}


def test_rows_out_of_order_are_an_error(
    splits: dict[str, Path], features: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    for rows in (slice(0, 100), slice(1, None)):
        shutil.rmtree(tmp_path / "features", ignore_errors=True)
        shutil.copytree(features["validation"] / "rates", tmp_path / "features" / "rates")
        path = tmp_path / "features" / "rates" / "target.parquet"
        table = pq.read_table(path)
        pq.write_table(table.take(np.arange(table.num_rows)[rows]), path)
        with pytest.raises(ValueError, match=r"rows came out of order at row 0|100 rows where 2123 were expected"):
            encode_split(
                engine, splits["validation"], tmp_path / "features", ["rates"], EncodeConfig(), tmp_path / "out"
            )
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"min_count": 0}, {"min_count_of": {"user_id": 0}}, {"buckets": 1}])
def test_parameters_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="must be"):
        parse(EncodeConfig, wrong, "encode")
