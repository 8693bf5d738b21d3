"""Texts to numbers, beside a dictionary of Python's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.ingest import numbering
from pipeline.ingest.numbering import Numbering


def rewritten(batches: list[list[str]]) -> tuple[list[int], dict[str, int]]:
    """The numbers of all texts, and the table of them."""
    users, numbers = Numbering("uuid", "user_id"), []
    for texts in batches:
        batch = pa.record_batch({"row": pa.array(range(len(texts))), "uuid": pa.array(texts, pa.string())})
        found = users(batch)
        assert found.schema == users.schema(batch.schema)
        assert found.column("row") == batch.column("row")
        numbers += found.column("user_id").to_pylist()
    schema, rows = users.table()
    table = pa.Table.from_batches(rows, schema)
    assert table["user_id"].to_pylist() == list(range(users.count))
    return numbers, dict(zip(table["uuid"].to_pylist(), table["user_id"].to_pylist(), strict=True))


def expected(batches: list[list[str]]) -> tuple[list[int], dict[str, int]]:
    known: dict[str, int] = {}
    return [known.setdefault(text, len(known)) for texts in batches for text in texts], known


def many(texts: int, batches: int) -> list[list[str]]:
    """Texts of 1 to 40 letters that come again, in other batches and in the same."""
    generator = np.random.default_rng(0)
    known = [f"{number:x}" * (1 + number % 8) for number in generator.integers(0, 1 << 20, texts // 3).tolist()]
    return [[known[i] for i in part] for part in np.array_split(generator.integers(0, len(known), texts), batches)]


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [[]],
        [["a"]],
        [["b", "a", "b"], [], ["a", "c"]],
        [["", "\0", "\0\0", "é", "e"], ["\0", ""]],
        [["x" * 1000, "x" * 1001], ["x" * 1000]],
        many(20_000, 7),
    ],
)
def test_numbers_are_those_of_first_appearance(batches: list[list[str]]) -> None:
    assert rewritten(batches) == expected(batches)


def test_the_table_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "BITS", 3)
    monkeypatch.setattr(numbering, "MOVED", 100)
    batches = many(5_000, 50)
    assert rewritten(batches) == expected(batches)


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts fall on the last slots, and go on at the first."""
    monkeypatch.setattr(numbering, "hashes_of", lambda _, ends: np.full(len(ends) - 1, (1 << 31) - 1))
    batches = many(300, 4)
    assert rewritten(batches) == expected(batches)
