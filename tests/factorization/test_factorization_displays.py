"""What the kernels read against plain loops over the arrays: ids, hashes, crosses, and the order of an epoch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import epochs
from pipeline.core.errors import ParameterError
from pipeline.factorization import displays as module
from pipeline.factorization.displays import Displays, Inputs, Reader, Side, named_crosses, readable
from pipeline.schemas.encoded import Encoded, Field
from tests.synthetic import MIXED, alike, mixed, write_encoded


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    fields = [replace(f, per="display" if f.name in ("page", "entity", "age") else "impression") for f in MIXED]
    displays = alike(mixed(np.random.default_rng(0), 150), ("page", "entity", "age"))
    return write_encoded(tmp_path_factory.mktemp("displays") / "encoded", fields, displays, displays)


def lists(side: Side) -> list[list[tuple[int, float]]]:
    """(id, x) of each field of each item."""
    pairs = list(zip(side.ids.tolist(), side.values.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(side.starts[:-1], side.starts[1:], strict=True)]


def stored(world: Encoded, field: Field, item: int) -> list[tuple[int, float]]:
    """(code, x) of a field as it lies on disk."""
    part = world.part("history")
    if field.kind == "multi":
        start, stop = part.field(field.name, "offsets")[item : item + 2]
        both = (part.field(field.name, kind)[start:stop].tolist() for kind in ("ids", "weights"))
        return list(zip(*both, strict=True))
    value = part.field(field.name)[item]
    if field.kind == "categorical":
        return [(int(value), 1.0)]
    number = (value - np.float32(field.mean)) / np.float32(field.scale)
    return [] if np.isnan(number) else [(0, float(number))]


def test_ids_and_values(world: Encoded) -> None:
    inputs = Inputs(list(world.fields.values()))
    ((rows, found),) = Reader(world.part("history"), inputs).in_order()
    assert rows == slice(0, world.part("history").rows)
    np.testing.assert_array_equal(found.offsets, world.part("history").offsets)
    np.testing.assert_array_equal(found.clicked, world.part("history").array("clicked"))
    first, ends = 0, {}
    for f in world.fields.values():
        ends[f.name] = first
        first += max(1, f.size)
    assert inputs.table_size == first
    for side, per in ((found.shared, "display"), (found.own, "impression")):
        fields = [f for f in world.fields.values() if f.per == per]
        assert len(fields) == side.fields >= 3
        for at, values in enumerate(lists(side)):
            f = fields[at % side.fields]
            assert values == [(ends[f.name] + code, x) for code, x in stored(world, f, at // side.fields)]


@pytest.mark.parametrize("bits", [1, 4, 10])
def test_hashing(world: Encoded, bits: int) -> None:
    """All ids lie in a table of 2 ** bits, equal ones stay equal, and few meet where there is room."""
    fields = list(world.fields.values())
    plain, hashed = (Inputs(fields, hash_bits) for hash_bits in (None, bits))
    assert hashed.table_size == 1 << bits
    folded: dict[int, int] = {}
    for inputs_side in ("shared", "own"):
        a, b = (
            getattr(next(iter(Reader(world.part("history"), inputs).in_order()))[1], inputs_side)
            for inputs in (plain, hashed)
        )
        np.testing.assert_array_equal(a.starts, b.starts)
        for i, j in zip(a.ids.tolist(), b.ids.tolist(), strict=True):
            assert folded.setdefault(i, j) == j
    assert max(folded.values()) < 1 << bits
    for column in (*hashed.shared, *hashed.own):
        assert set(column.ids().tolist()) <= set(range(1 << bits))
    if bits == 10:
        assert len(set(folded.values())) == len(folded)


@pytest.mark.parametrize(("a", "b"), [("page", "ad"), ("entity", "topic"), ("entity", "page"), ("age", "ad")])
def test_crosses(world: Encoded, a: str, b: str) -> None:
    """An id for each pair of values, the product of the weights; by display if both fields are."""
    (crossed,) = named_crosses(world, [f"{a} x {b}"])
    both = crossed.first, crossed.second
    plain = Inputs([world.fields["topic"]])
    inputs = Inputs([world.fields["topic"]], None, [crossed], 20)
    ((_, found),) = Reader(world.part("history"), inputs).in_order()
    by = {"display": (found.shared, 1), "impression": (found.own, 2)}
    side, fields = by["display" if {f.per for f in both} == {"display"} else "impression"]
    assert side.fields == fields
    codes: dict[tuple[int, int], int] = {}
    display = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    for item, values in enumerate(lists(side)[fields - 1 :: fields]):
        own = [stored(world, f, display[item] if f.per == "display" and fields == 2 else item) for f in both]
        expected = [((i, j), x * y) for i, x in own[0] for j, y in own[1]]
        assert [x for _, x in values] == pytest.approx([x for _, x in expected], rel=1e-6)
        for (i, _), (pair, _) in zip(values, expected, strict=True):
            assert codes.setdefault(pair, i) == i
            assert plain.table_size <= i < inputs.table_size
    assert len(set(codes.values())) >= 0.8 * len(codes) > 5


@pytest.mark.parametrize("hash_bits", [None, 10])
def test_each_field_and_cross_has_a_region_of_ids(world: Encoded, hash_bits: int | None) -> None:
    """One for all fields if these are hashed; of a cross twice to four times its pairs, or what it may have at most."""
    fields = [world.fields[name] for name in ("ad", "entity", "age")]
    crosses, most = named_crosses(world, ["page x ad", "age x ad", "entity x topic"]), 8
    inputs = Inputs(fields, hash_bits, crosses, most)
    (_, displays), *_ = Reader(world.part("history"), inputs).in_order()
    for columns, side in ((inputs.shared, displays.shared), (inputs.own, displays.own)):
        for j, column in enumerate(columns):
            met = [i for item in lists(side)[j :: side.fields] for i, _ in item]
            first, end = inputs.regions[column.region : column.region + 2]
            assert met
            assert first <= min(met) <= max(met) < end
    sizes = np.diff(inputs.regions)
    assert inputs.regions[0] == 0
    assert inputs.regions[-1] == inputs.table_size
    assert sizes[:-3].tolist() == ([1 << hash_bits] if hash_bits else [max(1, f.size) for f in fields])
    for (a, b), size in zip(crosses, sizes[-3:].tolist(), strict=True):
        pairs = max(1, a.size) * max(1, b.size)
        assert size == 1 << most or 2 * pairs <= size <= 4 * pairs


def test_a_pair_can_be_crossed_twice(world: Encoded) -> None:
    """What is read of one cross does not take the place of another."""
    inputs = Inputs([], None, named_crosses(world, ["page x ad", "page x ad", "entity x ad"]), 20)
    ((_, found),) = Reader(world.part("history"), inputs).in_order()
    once, twice, entities = (lists(found.own)[j::3] for j in range(3))
    size = inputs.regions[1]
    assert [[(i + size, x) for i, x in item] for item in once] == twice
    assert sum(map(len, entities)) > 100
    assert not {i for item in once for i, _ in item}.intersection(i for item in entities for i, _ in item)


def test_crosses_are_checked(world: Encoded) -> None:
    with pytest.raises(ParameterError, match=r"crosses: adx not encoded; there are ad, age"):
        named_crosses(world, ["page x adx"])
    for text in ("page", "page * ad", "page x ad x topic"):
        with pytest.raises(ParameterError, match=f"expected two fields, such as `platform x ad_id`.*{re.escape(text)}"):
            named_crosses(world, [text])


def test_crosses_of_hidden_fields_are_left_out(tmp_path: Path) -> None:
    displays = mixed(np.random.default_rng(0), 5)
    world = write_encoded(tmp_path / "encoded", MIXED, displays, displays, hidden=("leak",))
    found = named_crosses(world, ["leak x ad", "page x ad", "page x leak"])
    assert [(cross.first.name, cross.second.name) for cross in found] == [("page", "ad")]
    with pytest.raises(ParameterError, match="adx not encoded"):
        named_crosses(world, ["leak x adx"])


def test_numbers_give_way_to_their_twins(tmp_path: Path) -> None:
    twin = replace(MIXED[1], name="age_bucket", twin="age")
    displays = mixed(np.random.default_rng(0), 5)
    displays = replace(displays, columns={**displays.columns, "age_bucket": displays.columns["page"]})
    world = write_encoded(tmp_path / "encoded", [*MIXED, twin], displays, displays)
    assert [f.name for f in readable(world, world.select((), ("age", "rate", "ad")))] == ["ad", "age_bucket", "rate"]
    assert [f.name for f in readable(world, world.select((), ("age", "age_bucket")))] == ["age_bucket"]
    assert [f.name for f in readable(world, world.select(("synthetic",), ()), ("age",))] == [*world.fields]


def test_an_epoch_shows_each_display_once(world: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an order that the seed decides; it goes on after any step."""
    monkeypatch.setattr(epochs, "BLOCK", 16)
    monkeypatch.setattr(epochs, "BUFFER_BLOCKS", 3)
    monkeypatch.setattr(module, "STEP", 7)
    reader = Reader(world.part("history"), Inputs([world.fields["ad"], world.fields["page"]]))

    def epoch(seed: int, skip: int = 0) -> list[list[tuple[list[int], int]]]:
        return [[ads(displays, d) for d in order] for displays, order in reader.shuffled((seed, 0), skip)]

    def ads(displays: Displays, d: int) -> tuple[list[int], int]:
        rows = slice(displays.offsets[d], displays.offsets[d + 1])
        return displays.own.ids[rows].tolist(), int(displays.shared.ids[d])

    part = world.part("history")
    pages = part.field("page").tolist()
    everything = [
        (part.field("ad")[a:b].tolist(), 24 + page)
        for a, b, page in zip(part.offsets[:-1], part.offsets[1:], pages, strict=True)
    ]
    steps = epoch(1)
    assert len(steps) == reader.steps_an_epoch()
    assert sorted(d for step in steps for d in step) == sorted(everything)
    assert [d for step in steps for d in step] != everything
    assert epoch(1) == steps
    assert epoch(2) != steps
    for skip in (1, 5, 9, len(steps)):
        assert epoch(1, skip) == steps[skip:]
