"""Raw files to typed tables: data/raw/manifest.json -> data/tables/NAME.parquet and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import parse
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.errors import InputError, ParameterError
from pipeline.core.files import atomic_path, read_json, write_json
from pipeline.ingest.config import IngestConfig
from pipeline.ingest.readers import RawInput, open_input
from pipeline.ingest.report import Report
from pipeline.ingest.staging import Build
from pipeline.ingest.tables import build_tables
from pipeline.schemas.raw import RAW_FILES


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """manifest.json: which source the files come from, which page views are wanted, and the path of each file."""

    source: str
    page_views: Literal["full", "sample", "none"]
    files: dict[str, str]


def ingest(raw: Path, out: Path, report_path: Path, engine: DuckDBEngine, config: IngestConfig) -> None:
    """Read the files that `raw`/manifest.json names; write the folder `out`, then the report.

    Raises InputError for a file that is missing, damaged, or holds what it must not; the message names file and line.
    What existed of `out` and the report then stays as it was.
    """
    manifest = read_manifest(raw / "manifest.json")
    inputs = open_inputs(manifest, raw / "manifest.json")
    with atomic_path(out) as folder:
        folder.mkdir()
        build = Build(engine, config, inputs, folder, Report())
        build_tables(build, manifest.page_views)
        value = build.report.value(engine, folder)
    write_json(report_path, {**value, "source": manifest.source})


def read_manifest(path: Path) -> Manifest:
    """InputError if the manifest is missing or does not say what it must."""
    try:
        return parse(Manifest, read_json(path), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the manifest that the stage before writes") from None
    except (ValueError, ParameterError) as error:
        raise InputError(f"{path}: not a manifest of raw files: {error}") from None


def open_inputs(manifest: Manifest, path: Path) -> dict[str, RawInput]:
    """Check the names, the presence and the headers of all files before any long work; InputError if one is wrong."""
    unknown = [name for name in manifest.files if name not in RAW_FILES]
    missing = [name for name, file in RAW_FILES.items() if file.required and name not in manifest.files]
    if unknown or missing:
        raise InputError(
            f"{path}: expected the files {', '.join(RAW_FILES)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    return {
        name: open_input(file, Path(manifest.files[name])) for name, file in RAW_FILES.items() if name in manifest.files
    }
