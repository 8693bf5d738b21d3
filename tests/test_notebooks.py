"""The notebooks: every script runs from top to bottom on a small world, and the notebook beside it is made from it."""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.files import write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest.build import ingest
from pipeline.ingest.config import IngestConfig
from pipeline.sources.base import wanted
from pipeline.sources.simulated import SimulatedSource, SimulationConfig

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
sys.path.append(str(FOLDER))

from refresh import execute, scripts  # noqa: E402 - a script in the notebooks' folder

SCRIPTS = scripts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world, ingested: tables/ and ingest.json."""
    folder = tmp_path_factory.mktemp("world")
    files = SimulatedSource(SimulationConfig(displays=1_500, seed=3), folder / "raw", folder / "truth").prepare()
    paths = {name: str(files[name]) for name in wanted("full")}
    write_json(folder / "raw" / "manifest.json", {"source": "simulated", "page_views": "full", "files": paths})
    with DuckDBEngine(RuntimeConfig(temp_directory=str(folder / "tmp"), memory_limit="1GB")) as engine:
        ingest(folder / "raw", folder / "tables", folder / "ingest.json", engine, IngestConfig())
    return folder


def test_there_are_notebooks() -> None:
    assert SCRIPTS
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs_on_a_small_world(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBRAIN_TABLES", str(folder / "tables"))
    monkeypatch.setenv("OUTBRAIN_REPORT", str(folder / "ingest.json"))
    notebook = execute(script)  # raises what a cell raises
    outputs = _outputs(notebook)
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    warnings = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not warnings


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_the_script_executed(script: Path) -> None:
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    expected = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    found = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert found == expected, f"{script.name} has changed: python notebooks/refresh.py {script.stem}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    outputs = _outputs(notebook)
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert script.with_suffix(".ipynb").stat().st_size < 1_500_000, "too large to be shown on GitHub"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_missing_world_is_told(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBRAIN_TABLES", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match="make repro"):
        execute(script)


def test_every_notebook_is_in_the_readme() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not [path.stem for path in SCRIPTS if f"({path.stem}.ipynb)" not in text]


def _outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
