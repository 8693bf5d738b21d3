"""`dvc repro`, killed in the middle of a stage with all that it has started: the next one ends like an undisturbed one.

The stages are those of dvc.yaml from encoded data to the submission, cut down to two models.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.core.config import read_yaml
from pipeline.core.files import write_json, write_text
from tests.synthetic import write_mixed

ROOT = Path(__file__).parents[1]
SPLITS = ("validation", "submission")
#: Of the stages' `foreach`, what is kept.
STAGES = {
    "train_factorization": ["lr", "ffm"],
    "refit_factorization": ["lr", "ffm"],
    "submission": ["blend"],
}
MEMBERS = ["lr", "ffm"]
PARAMS: dict[str, Any] = {
    "models": {
        "lr": {"kind": "lr", "epochs": 2},
        "ffm": {"kind": "ffm", "epochs": 50, "patience": 50, "evaluations": 1, "checkpoint_minutes": 0.0},
    },
    "blend": {"members": MEMBERS, "folds": 3, "trials": 5},
    "runtime": {"threads": 1, "device": "cpu", "temp_directory": "temporary"},
}


def dvc_yaml() -> dict[str, Any]:
    """dvc.yaml without the stages and models that are left out."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    kept = {name: {**stages[name], "foreach": {k: stages[name]["foreach"][k] for k in STAGES[name]}} for name in STAGES}
    return {"stages": kept | {name: stages[name] for name in ("member", "blend")}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in a checkout before these stages run."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("repro") / "workspace"
    folder.mkdir()
    (folder / "pipeline").symlink_to(ROOT / "pipeline")  # no copy, which would be compiled anew
    shutil.copy(ROOT / ".dvcignore", folder)
    tuned: dict[str, Any] = {f"tuned/{model}.yaml": {} for model in MEMBERS}
    for name, content in ({"dvc.yaml": dvc_yaml(), "params.yaml": PARAMS} | tuned).items():
        write_text(folder / name, yaml.safe_dump(content))
    for seed, split in enumerate(SPLITS):
        target = write_mixed(folder / "data" / "encoded" / split, displays=300, seed=seed).part("target")
        write_json(folder / "artifacts" / "leaves" / split / "trees.json", {"trees": 0, "read": []})
    display_id = np.repeat(target.array("display_id"), np.diff(target.offsets))
    table = pa.table({"display_id": display_id, "ad_id": np.asarray(target.array("ad_id"))})
    (folder / "data" / "tables").mkdir()
    pq.write_table(table, folder / "data" / "tables" / "clicks_test.parquet")
    Repo.init(str(folder), no_scm=True).close()
    settings = (ROOT / ".dvc" / "config").read_text(encoding="utf-8").replace("[core]", "[core]\n    no_scm = true")
    write_text(folder / ".dvc" / "config", settings)
    return folder


def repro(folder: Path) -> subprocess.Popen[bytes]:
    """`dvc repro`, the first of a process group of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, start_new_session=True)


def kill_at(process: subprocess.Popen[bytes], begun: Callable[[], bool]) -> None:
    """Kill DVC and the stage that it runs, as soon as something has `begun`."""
    until = time.monotonic() + 120
    while not begun():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def holds_progress(checkpoint: Path) -> bool:
    """Whether there is something whole from which the next run goes on."""
    walked = os.walk(checkpoint)  # which, unlike Path.rglob, bears that a folder is moved meanwhile
    return any("progress.json" in names and not Path(folder).name.startswith(".") for folder, _, names in walked)


def made(folder: Path) -> dict[str, bytes]:
    """The bytes of all that the stages write."""
    names = ("artifacts", "submissions", "metrics", "plots", "checkpoints", "temporary", "dvc.lock")
    paths = [path for name in names for path in (folder / name, *(folder / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_killed_repro(workspace: Path, tmp_path: Path) -> None:
    killed, undisturbed = (
        shutil.copytree(workspace, tmp_path / name, symlinks=True) for name in ("killed", "undisturbed")
    )
    checkpoint, blend = killed / "checkpoints" / "validation" / "ffm", killed / "artifacts" / "blend"
    predictions = killed / "artifacts" / "predictions"
    kill_at(repro(killed), lambda: holds_progress(checkpoint))
    assert not (predictions / "validation" / "ffm.parquet").exists()
    kill_at(repro(killed), blend.exists)  # the validation split's blend is being written
    assert (predictions / "submission" / "ffm.parquet").exists()
    assert not (killed / "submissions" / "blend.csv").exists()
    for folder in (killed, undisturbed):
        assert repro(folder).wait(120) == 0
    assert "submissions/blend.csv" in made(killed)
    assert made(killed) == made(undisturbed)
