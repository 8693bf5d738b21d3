"""A tiny, valid world of raw files, of which each test breaks one thing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.files import read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest.build import ingest
from pipeline.ingest.config import IngestConfig

WORLD = {
    "clicks_train": "display_id,ad_id,clicked\n1,10,0\n1,11,1\n2,10,1\n2,12,0\n2,13,0\n3,11,1\n3,12,0\n",
    "clicks_test": "display_id,ad_id\n4,10\n4,13\n5,11\n5,12\n",
    "events": (
        "display_id,uuid,document_id,timestamp,platform,geo_location\n"
        "1,cc,100,61,3,US>SC>519\n2,aa,101,81,2,US>CA\n3,bb,100,86400000,1,NA\n"
        "4,aa,102,950400000,\\N,--\n5,dd,100,1209599999,,\n"
    ),
    "page_views": (
        "uuid,document_id,timestamp,platform,geo_location,traffic_source\n"
        "zz,100,5,1,GB>H9,1\naa,101,7,2,US>CA>807,2\ncc,100,3,3,EU,3\n"
    ),
    "promoted_content": "ad_id,document_id,campaign_id,advertiser_id\n10,200,1,7\n11,201,2,7\n12,202,3,8\n13,200,4,9\n",
    "documents_meta": (
        "document_id,source_id,publisher_id,publish_time\n200,1,603,2016-06-05 00:00:00\n100,,,\n"
        "201,2,603,1940-06-01 00:00:00\n202,2,,3008-07-25 00:00:00\n101,3,5,0016-01-01 00:00:00\n102,3,5,infinity\n"
    ),
    "documents_categories": "document_id,category_id,confidence_level\n200,1611,0.92\n100,1610,0.07\n",
    "documents_topics": "document_id,topic_id,confidence_level\n200,140,0.0731131601068925\n100,16,1e-05\n",
    "documents_entities": "document_id,entity_id,confidence_level\n200,f9eec25663db4cd83183f5c805186f16,0.67\n",
    "sample_submission": "display_id,ad_id\n4,10 13\n5,11 12\n",
}


class World:
    """Raw files in a folder: change `text[name]`, or write a file by `zip` or `parquet`, then `run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw = folder / "raw"
        self.raw.mkdir()
        self.out = folder / "tables"
        self.report_path = folder / "metrics" / "ingest.json"
        self.text: dict[str, str | bytes] = dict(WORLD)
        self.paths: dict[str, Path] = {}
        self.page_views = "full"
        self.threads = 0
        self.memory_limit = "1GB"

    def change(self, name: str, old: str, new: str) -> None:
        """Replace a piece of a file, which must be there."""
        text = self.text[name]
        assert isinstance(text, str)
        assert old in text
        self.text[name] = text.replace(old, new, 1)

    def data(self, name: str) -> bytes:
        text = self.text[name]
        return text.encode() if isinstance(text, str) else text

    def zip(self, name: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
        """Write a file as NAME.csv.zip; `run` then takes that."""
        path = self.raw / f"{name}.csv.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(f"{name}.csv", self.data(name))
        self.paths[name] = path
        return path

    def parquet(self, name: str, table: Any) -> None:
        """Write an Arrow table as NAME.parquet; `run` then takes that."""
        self.paths[name] = self.raw / f"{name}.parquet"
        pq.write_table(table, self.paths[name])

    def run(self, **policies: str) -> dict[str, Any]:
        """Ingest, and give the report."""
        files = {}
        for name in self.text:
            path = self.paths.get(name, self.raw / f"{name}.csv")
            if name not in self.paths:
                path.write_bytes(self.data(name))
            files[name] = str(path)
        manifest = {"source": "directory", "page_views": self.page_views, "files": files}
        (self.raw / "manifest.json").write_text(json.dumps(manifest))
        runtime = RuntimeConfig(
            threads=self.threads, temp_directory=str(self.folder / "tmp"), memory_limit=self.memory_limit
        )
        with DuckDBEngine(runtime) as engine:
            ingest(self.raw, self.out, self.report_path, engine, IngestConfig(**policies))  # type: ignore[arg-type]
        report: dict[str, Any] = read_json(self.report_path)
        return report

    def table(self, name: str) -> list[tuple[Any, ...]]:
        rows = pq.read_table(self.out / f"{name}.parquet").to_pylist()
        return [tuple(row.values()) for row in rows]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def stage_arguments() -> Callable[[World], list[str]]:
    """The command line of the stage for a world that was run, with a params.yaml of its own."""

    def arguments(world: World) -> list[str]:
        params = world.folder / "params.yaml"
        params.write_text(f"runtime: {{temp_directory: {world.folder / 'tmp'}}}\ningest: {{}}\n")
        paths = {"params": params, "raw": world.raw, "out": world.out, "report": world.report_path}
        return [part for key, path in paths.items() for part in (f"--{key}", str(path))]

    return arguments
