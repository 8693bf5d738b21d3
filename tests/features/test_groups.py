"""Adding a group is one file and one line; a group that breaks its promise is stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.features
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import ParameterError
from pipeline.features.base import load_group
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.features import feature_names
from pipeline.stages import encode, features

GROUP = """
from pipeline.features.base import Group, Inputs
from pipeline.schemas.features import Column

def build(inputs: Inputs):
    return {result}

GROUP = Group(
    scope="static",
    columns=(
        Column(name="parity", kind="categorical", dtype="uint8", meaning="whether the ad's id is odd"),
        Column(name="half", kind="numeric", dtype="float32", meaning="half the number of ads", per="display"),
    ),
    build=build,
)
"""
GOOD = "inputs.impressions.mutate(parity=inputs.impressions.ad_id % 2, half=inputs.impressions.ads / 2)"

Add = Callable[[str], str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """add(text): a module with that text, found as if it stood in pipeline/features; gives its name."""
    monkeypatch.setattr(pipeline.features, "__path__", [*pipeline.features.__path__, str(tmp_path)])
    names = []

    def write(text: str) -> str:
        names.append(f"temporary{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(text)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(f"pipeline.features.{name}", None)
        if hasattr(pipeline.features, name):
            delattr(pipeline.features, name)


def write_params(folder: Path, groups: object) -> Path:
    path = folder / "params.yaml"
    path.write_text(
        f"features: {groups}\nleaks: true\nsmoothing: {{}}\nencode: {{min_count: 1}}\n"
        f"runtime: {{threads: 2, temp_directory: {folder / 'tmp'}}}\n"
    )
    return path


def arguments(params: Path, tables: Path, split: Path, views: Path, group: str, out: Path) -> list[str]:
    inputs = [f"--params={params}", f"--tables={tables}", f"--split={split}", f"--views={views}"]
    return [*inputs, f"--group={group}", f"--out={out}"]


def test_a_group_is_one_file_and_one_line(
    add: Add, tables: Path, splits: dict[str, Path], views: dict[str, Path], tmp_path: Path
) -> None:
    name = add(GROUP.format(result=GOOD))
    params = write_params(tmp_path, [name])
    assert feature_names(params) == [name]
    split = splits["validation"]
    features.main(arguments(params, tables, split, views["validation"], name, tmp_path / "features" / name))
    encode.main(
        [
            f"--params={params}",
            f"--split={split}",
            f"--features={tmp_path / 'features'}",
            f"--out={tmp_path / 'encoded'}",
        ]
    )
    rows = pq.read_table(split / "target.parquet")
    found = pq.read_table(tmp_path / "features" / name / "target.parquet")
    assert found["parity"].to_pylist() == [ad % 2 for ad in rows["ad_id"].to_pylist()]
    encoded = Encoded(tmp_path / "encoded")
    assert list(encoded.fields) == ["parity", "half", "half_bucket"]
    target = encoded.part("target")
    half = target.values(encoded.fields["half"], np.arange(target.rows))
    assert half.tolist() == [ads / 2 for ads in rows["ads"].to_pylist()]


def test_a_look_up_is_computed_once_for_all_ranges_of_both_parts(
    add: Add,
    tables: Path,
    splits: dict[str, Path],
    views: dict[str, Path],
    tmp_path: Path,
    short_ranges: Callable[[Path, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, keep = [], DuckDBEngine._keep
    monkeypatch.setattr(DuckDBEngine, "_keep", lambda engine, table: kept.append(table) or keep(engine, table))
    joined = "inputs.impressions.left_join(inputs.once(inputs.table('promoted_content').select('ad_id')), 'ad_id')"
    name = add(GROUP.format(result=GOOD.replace("inputs.impressions.mutate", f"{joined}.mutate")))
    split = short_ranges(splits["validation"], tmp_path / "split")
    told = arguments(write_params(tmp_path, [name]), tables, split, views["validation"], name, tmp_path / "out")
    features.main(told)
    assert len(kept) == 1


BROKEN = {
    "rows are lost": f"({GOOD}).filter(inputs.impressions.ad_id % 10 != 0)",
    "rows are doubled": f"({GOOD}).union({GOOD})",
    "rows are renumbered": f"({GOOD}).mutate(row=inputs.impressions.row + 1)",
}


@pytest.mark.parametrize("result", BROKEN.values(), ids=BROKEN.keys())
def test_a_group_that_loses_the_alignment_is_stopped(
    add: Add, tables: Path, splits: dict[str, Path], views: dict[str, Path], tmp_path: Path, result: str
) -> None:
    name, out = add(GROUP.format(result=result)), tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    told = arguments(write_params(tmp_path, [name]), tables, splits["validation"], views["validation"], name, out)
    with pytest.raises(ValueError, match=r"history.parquet: \d+ rows of which \d+ are out of order"):
        features.main(told)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("old", "old")]


def test_what_is_no_group(add: Add, tmp_path: Path) -> None:
    empty = add("GROUP = None\n")
    with pytest.raises(ParameterError, match=f"pipeline/features/{empty}.py holds no GROUP"):
        load_group(empty)
    for name in ("missing", "not a name", "base.smoothing", "../ids"):
        with pytest.raises(ParameterError, match=f"no group '{name}'; expected a module pipeline/features/{name}.py"):
            load_group(name)
    with pytest.raises(ParameterError, match="holds no GROUP"):
        load_group("smoothing")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("[]", "expected a list of feature groups"),
        ("ids", "expected a list of feature groups, found 'ids'"),
        ("[ids, 3]", "expected a list of feature groups"),
        ("null", "expected a list of feature groups, found None"),
        ("[ids, rates, ids]", "a group stands twice"),
    ],
)
def test_lists_of_groups_that_make_no_sense(tmp_path: Path, groups: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        feature_names(write_params(tmp_path, groups))
