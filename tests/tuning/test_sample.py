"""Samples of displays: each is a split like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.runtime import RuntimeConfig
from pipeline.nn.batches import Inputs
from pipeline.nn.reading import Reader
from pipeline.schemas.encoded import Encoded
from pipeline.tuning import sample as module
from pipeline.tuning.sample import rungs, sample
from tests.synthetic import MIXED, Bag, Displays, by_display, mixed, write_encoded


@pytest.fixture(scope="module")
def parts() -> dict[str, Displays]:
    random = np.random.default_rng(5)
    return {"history": mixed(random, 300), "target": mixed(random, 100)}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Displays]) -> Encoded:
    return write_encoded(tmp_path_factory.mktemp("sample") / "encoded", MIXED, parts["history"], parts["target"])


@pytest.mark.parametrize("name", ["history", "target"])
def test_a_sample_has_whole_displays_and_aligned_fields(
    large: Encoded, parts: dict[str, Displays], tmp_path: Path, name: Any
) -> None:
    """Every array of the sample is that of the chosen displays, in their order."""
    found, displays = sample(large, 120, 1, tmp_path / "sample").part(name), parts[name]
    assert found.displays == {"history": 90, "target": 30}[name]
    ids = found.array("display_id").tolist()
    chosen = [displays.display_id.tolist().index(i) for i in ids]
    assert chosen == sorted(set(chosen))
    assert chosen[-1] - chosen[0] > found.displays
    expected = displays.take(chosen)
    assert found.rows == expected.rows
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    for array in ("ad_id", "clicked", "future"):
        np.testing.assert_array_equal(found.array(array), getattr(expected, array))
    for f in MIXED:
        column = by_display(expected, f.name) if f.per == "display" else expected.columns[f.name]
        if isinstance(column, Bag):
            for kind in ("offsets", "ids", "weights"):
                np.testing.assert_array_equal(found.field(f.name, kind), getattr(column, kind))
        else:
            np.testing.assert_array_equal(found.field(f.name), column)


def test_a_sample_has_every_file(encoded: dict[str, Encoded], runtime: RuntimeConfig, tmp_path: Path) -> None:
    """Of a real split, too; and it is read by networks as any split."""
    whole = encoded["validation"]
    found = sample(whole, 300, 1, tmp_path / "sample")
    arrays = {path.relative_to(whole.folder) for path in whole.folder.rglob("*.npy")}
    assert {path.relative_to(found.folder) for path in found.folder.rglob("*.npy")} == arrays
    assert sum(found.part(part).displays for part in ("history", "target")) == 300  # type: ignore[arg-type]
    assert found.fields == whole.fields
    rows = [rows for rows, _ in Reader(found.part("target"), Inputs(list(found.fields.values())), 16).in_order()]
    assert rows[-1].stop == found.part("target").rows


def test_a_sample_depends_on_its_seed(large: Encoded, tmp_path: Path) -> None:
    samples = [sample(large, 120, seed, tmp_path / name) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    ids = [encoded.part("history").array("display_id") for encoded in samples]
    np.testing.assert_array_equal(ids[0], ids[1])
    assert not np.array_equal(ids[0], ids[2])


def test_a_small_split_is_its_own_sample(large: Encoded, tmp_path: Path) -> None:
    assert sample(large, 400, 1, tmp_path / "sample") is large
    assert not list(tmp_path.iterdir())


def test_rungs_lie_within_each_other(large: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 20)
    found = rungs(large, 320, 1, tmp_path)
    ids = [set(e.part("history").array("display_id").tolist()) for e in found]
    assert [len(i) + e.part("target").displays for i, e in zip(ids, found, strict=True)] == [20, 80, 320]
    assert ids[0] < ids[1] < ids[2]
    assert len(rungs(large, 79, 1, tmp_path / "few")) == 1
    whole = rungs(large, 1000, 1, tmp_path / "whole")
    assert len(whole) == 3
    assert whole[-1] is large
