"""Compiled loops are kept on disk; a tree that cannot be written costs a compilation, not a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from pipeline.core.compiled import compiled

@compiled
def total(values):
    found = 0.0
    for value in values:
        found += value
    return found
"""
RUN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import loops
assert loops.total(np.arange(5.0)) == 10
assert np.isnan(loops.total(np.array([1.0, np.nan])))
print(sum(loops.total.stats.cache_hits.values()) if hasattr(loops.total, "stats") else 0)
"""


def run(folder: Path, **environment: str) -> int:
    """How many compiled loops a process found on disk."""
    given = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], env=given, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "loops.py").write_text(MODULE, encoding="utf-8")
    return tmp_path / "code"


def test_the_second_process_compiles_nothing(folder: Path) -> None:
    assert run(folder) == 0
    assert run(folder) == 1
    assert list((folder / "__pycache__").glob("loops.total-*.nbc"))


def test_a_changed_loop_is_compiled_again(folder: Path) -> None:
    run(folder)
    (folder / "loops.py").write_text(MODULE + "\n# longer\n", encoding="utf-8")
    assert run(folder) == 0


def test_where_nothing_can_be_written(folder: Path, tmp_path: Path) -> None:
    """A file where the cache's folder should be: neither beside the source, nor below a home, can it be made."""
    (folder / "__pycache__").write_text("", encoding="utf-8")
    blocked = tmp_path / "blocked"
    blocked.write_text("", encoding="utf-8")
    assert run(folder, HOME=str(blocked), XDG_CACHE_HOME=str(blocked), NUMBA_CACHE_DIR="") == 0
