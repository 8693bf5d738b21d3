"""What the machine may be asked for."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.config import parse
from pipeline.core.errors import ParameterError
from pipeline.core.runtime import RuntimeConfig, temporary_folder


@pytest.mark.parametrize(
    ("size", "mebibytes"), [("8GB", 7629), ("300MB", 286), ("1.5 GB", 1430), ("2GiB", 2048), ("1 TiB", 1 << 20)]
)
def test_sizes(size: str, mebibytes: int) -> None:
    runtime = RuntimeConfig(memory_limit=size)
    assert (runtime.memory_limit, runtime.memory_mebibytes) == (size, mebibytes)


def test_a_stage_may_ask_for_less() -> None:
    runtime = RuntimeConfig(memory_limit="8GB", threads=2)
    assert runtime.at_most("2GB") == RuntimeConfig(memory_limit="2GB", threads=2)
    assert runtime.at_most("9GB") == runtime


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_limit": "8"},
        {"memory_limit": "much"},
        {"memory_limit": "8 GB each"},
        {"threads": -1},
        {"device": "tpu"},
        {"engine": "sqlite"},
        {"spark_config": "more"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        parse(RuntimeConfig, wrong, "runtime")


def test_settings_of_spark_by_path_or_by_name() -> None:
    config = {"spark": {"executor": {"memory": "16g", "cores": 4}}, "spark.sql.adaptive.enabled": False}
    assert RuntimeConfig(spark_config=config).spark_settings == {
        "spark.executor.memory": "16g",
        "spark.executor.cores": "4",
        "spark.sql.adaptive.enabled": "false",
    }


def test_the_temporary_folder_goes(tmp_path: Path) -> None:
    runtime = RuntimeConfig(temp_directory=str(tmp_path / "spill"))
    with temporary_folder(runtime) as folder:
        (folder / "deep").mkdir()
        assert folder.parent == (tmp_path / "spill").resolve()
    assert list((tmp_path / "spill").iterdir()) == []


def test_what_killed_processes_have_left_is_removed(tmp_path: Path) -> None:
    """Of this machine's; not what living ones use, and not what others have put there."""
    runtime = RuntimeConfig(temp_directory=str(tmp_path))
    code = """
import os, signal, sys
from pipeline.core.runtime import RuntimeConfig, make_temporary_folder
folder = make_temporary_folder(RuntimeConfig(temp_directory=sys.argv[1]))
(folder / "sample").write_text("large")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    foreign = tmp_path / left.name.replace(platform.node(), "another")
    foreign.mkdir()
    (tmp_path / "mine").mkdir()
    with temporary_folder(runtime) as one, temporary_folder(runtime) as other:
        assert set(tmp_path.iterdir()) == {foreign, tmp_path / "mine", one, other}
    assert set(tmp_path.iterdir()) == {foreign, tmp_path / "mine"}
