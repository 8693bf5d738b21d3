"""The engine's memory is no part of a result: where it is short, stages write the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.runtime import RuntimeConfig
from pipeline.encode import EncodeConfig, encode_split
from pipeline.features.base import write_group
from pipeline.features.smoothing import SmoothingConfig
from pipeline.schemas.encoded import Encoded
from pipeline.views import ViewsConfig, write_views

#: Stage or group -> little more memory than the small world needs on one thread: less ends in an error.
LIMITS = {
    "views": "20MB",
    "exposure": "30MB",
    "trends": "50MB",
    "affinity": "20MB",
    "crosses": "32MB",
    "encode": "16MB",
}


def little(runtime: RuntimeConfig, stage: str) -> RuntimeConfig:
    """On one thread, since how much several need depends on their luck."""
    return replace(runtime, threads=1, memory_limit=LIMITS[stage])


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of all files; the folders, too, are the same if these are."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_views(
    tables: Path, splits: dict[str, Path], views: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    with DuckDBEngine(little(runtime, "views")) as engine:
        write_views(engine, tables, splits["validation"], ViewsConfig(), tmp_path / "views")
    assert content(tmp_path / "views") == content(views["validation"])


@pytest.mark.parametrize("group", ["exposure", "trends", "affinity", "crosses"])
def test_features(
    tables: Path,
    splits: dict[str, Path],
    views: dict[str, Path],
    features: dict[str, Path],
    runtime: RuntimeConfig,
    smoothing: SmoothingConfig,
    tmp_path: Path,
    group: str,
) -> None:
    with DuckDBEngine(little(runtime, group)) as engine:
        write_group(engine, group, tables, splits["validation"], views["validation"], smoothing, tmp_path / group)
    assert content(tmp_path / group) == content(features["validation"] / group)


def test_encode(
    splits: dict[str, Path],
    features: dict[str, Path],
    encoded: dict[str, Encoded],
    runtime: RuntimeConfig,
    group_names: list[str],
    encode_config: EncodeConfig,
    tmp_path: Path,
) -> None:
    with DuckDBEngine(little(runtime, "encode")) as engine:
        encode_split(engine, splits["validation"], features["validation"], group_names, encode_config, tmp_path / "e")
    assert content(tmp_path / "e") == content(encoded["validation"].folder)
