"""Documents as sparse vectors, and what is added up of them, against plain loops."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.features.vectors import Index, Names, Read, Vectors, read_attribute, read_index, read_vectors

DOCUMENTS, IDS, DISPLAYS = 60, 25, 200


@pytest.mark.parametrize("spread", [1, 7, 10**6])
@pytest.mark.parametrize("number", [0, 1, 2, 1000])
def test_places(number: int, spread: int) -> None:
    rng = np.random.default_rng(number + spread)
    ids = np.unique(rng.integers(0, number * spread + 1, number))
    wanted = np.concatenate([ids, rng.integers(-2, 2 * number * spread + 5, 500), [-1, 2**32 - 1, 2**62]])
    known = {one: place for place, one in enumerate(ids.tolist())}
    assert Index(ids).places(wanted).tolist() == [known.get(one, -1) for one in wanted.tolist()]


def test_names_are_found_as_ids_are() -> None:
    found = Names(pa.array(["US", "GB>LND"])).places(pa.chunked_array([["GB>LND", None], ["DE", "US"]]))
    assert found.tolist() == [1, -1, -1, 0]


def test_attributes_and_indexes_are_read_in_any_order(tmp_path: Path, engine: DuckDBEngine) -> None:
    table = {"document_id": pa.array([9, 2, 5, 7], pa.uint32()), "source": pa.array([70, 80, 70, 90], pa.uint16())}
    pq.write_table(pa.table(table), tmp_path / "sources.parquet")
    sources = engine.table(tmp_path / "sources.parquet")
    attribute, index = read_attribute(engine, sources, "source"), read_index(engine, sources.source)
    assert attribute.of(np.array([5, 3, 2, -1, 9])).tolist() == [70, -1, 80, -1, 70]
    assert index.places(np.array([80, 9, 70, 90])).tolist() == [1, -1, 0, 2]
    assert len(index) == 3
    nothing = read_attribute(engine, sources.filter(sources.source > 90), "source")
    assert nothing.of(np.array([5, -1])).tolist() == [-1, -1]


@pytest.fixture
def weights() -> dict[int, Counter[int]]:
    """document -> id -> weight; of some documents all weights are 0."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 2**31, IDS).tolist()
    return {
        document * 3: Counter(
            {one: int(rng.integers(0, 4)) * (document % 9 > 0) for one in rng.choice(ids, 4).tolist()}
        )
        for document in range(DOCUMENTS)
    }


@pytest.fixture
def vectors(weights: dict[int, Counter[int]], engine: DuckDBEngine) -> Vectors:
    rows = [(document, one, weight) for document, bag in weights.items() for one, weight in bag.items()]
    rows += [(1, None, 2), (None, 5, 2), (1, 5, None)]
    np.random.default_rng(2).shuffle(rows)
    columns = [pa.array(column, pa.int64()) for column in zip(*rows, strict=True)]
    path = engine.scratch("weights.parquet")
    pq.write_table(pa.table(columns, names=["document_id", "id", "weight"]), path)
    return read_vectors(engine, engine.table(path))


def reading(seed: int) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """The documents of each display, some unknown; the same in a row, and where each display's begin and end."""
    rng = np.random.default_rng(seed)
    read = [(3 * rng.integers(0, DOCUMENTS + 5, rng.integers(0, 9))).tolist() for _ in range(DISPLAYS)]
    return read, np.array([one for each in read for one in each]), np.cumsum([0, *map(len, read)])


def added_up(weights: dict[int, Counter[int]], documents: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for document in documents:
        for one, weight in weights.get(document, Counter()).items():
            found[one] = found.get(one, 0) + weight
    return found


@pytest.mark.parametrize("repeated", [False, True])
def test_sums(weights: dict[int, Counter[int]], vectors: Vectors, repeated: bool) -> None:
    read, documents, offsets = reading(3)
    times = np.arange(len(documents), dtype=np.int32) % 3 + 1 if repeated else None
    found = vectors.sums(Read(offsets[:-1], offsets[1:], vectors.documents.places(documents), times))
    for d, own in enumerate(read):
        counted = own if times is None else np.repeat(own, times[offsets[d] : offsets[d + 1]]).tolist()
        chosen = slice(found.offsets[d], found.offsets[d + 1])
        pairs = list(zip(found.ids[chosen].tolist(), found.weights[chosen].tolist(), strict=True))
        assert pairs == sorted(added_up(weights, counted).items())


def test_cosines(weights: dict[int, Counter[int]], vectors: Vectors) -> None:
    read, documents, offsets = reading(4)
    ads, ad_documents, ad_offsets = reading(5)
    places = (vectors.documents.places(each) for each in (documents, ad_documents))
    found = vectors.cosines(Read(offsets[:-1], offsets[1:], next(places)), ad_offsets, next(places))
    expected = []
    for own, others in zip(read, ads, strict=True):
        user = added_up(weights, own)
        for document in others:
            ad = weights.get(document, Counter())
            squares = (sum(w * w for w in bag.values()) for bag in (user, ad))
            length = math.sqrt(math.prod(squares))
            product = sum(w * user.get(one, 0) for one, w in ad.items())
            expected.append(product / length if length else math.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert min(np.isnan(found).sum(), (found == 0).sum(), (found > 0.5).sum()) > 20
