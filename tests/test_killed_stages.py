"""The stages that fit and the blend, killed from outside at any moment: the next run ends like an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pipeline.core.files import write_json
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import write_predictions
from pipeline.stages import blend as blend_stage
from pipeline.stages import leaves as leaves_stage
from pipeline.stages import out_of_fold as out_of_fold_stage
from pipeline.stages import train as train_stage
from pipeline.stages import tune as tune_stage
from tests.synthetic import write_mixed

REPOSITORY = Path(__file__).parents[1]
TRIALS = 5
LONG = {"epochs": 15, "patience": 15, "checkpoint_minutes": 0.0}
PARAMS: dict[str, Any] = {
    "models": {
        "trees": {"kind": "lightgbm", "rounds": 8, "evaluate_every": 2},
        "network": {"kind": "deepfm", "hidden": [8], "batch_displays": 32, **LONG},
        "machine": {"kind": "ffm", **LONG},
        "several": {"kind": "ffm", "seeds": 2, **LONG},
    },
    "leaves": {"trees": 45, "num_leaves": 4, "min_data_in_leaf": 5},
    "tuning": {"trials": TRIALS, "displays": 100, "seed": 3},
    "out_of_fold": {"models": ["several"]},
    "blend": {"members": ["one", "two"], "folds": 3},
    "runtime": {"threads": 1, "device": "cpu", "temp_directory": "temporary"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("killed") / "encoded", displays=200)


def workspace(folder: Path) -> Path:
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS), encoding="utf-8")
    return folder


def started(stage: str, arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The stage as DVC runs it, but slower, so that a kill may fall anywhere in it."""
    code = f"""
import itertools, sys, time, types
import lightgbm as lgb
from pipeline.stages import command, {stage}
from pipeline.core import files
update, replace = lgb.Booster.update, files.Path.replace
def slow_update(self, *arguments):
    time.sleep(0.05)
    return update(self, *arguments)
def slow_replace(self, target):  # a file that is whole, but not yet in its place
    time.sleep(0.05)
    return replace(self, target)
files.Path.replace = slow_replace
if sys.argv[1] in ("tune", "leaves"):
    lgb.Booster.update = slow_update
if sys.argv[1] == "leaves":  # whose params name no checkpoint_minutes: each segment's end becomes a checkpoint
    from pipeline.trees import boosting
    boosting.time = types.SimpleNamespace(monotonic=itertools.count(0, 10_000).__next__)
if sys.argv[1] in ("train", "out_of_fold"):
    from pipeline.factorization import training as factorization
    from pipeline.nn import training as nn
    for trainer in (factorization.Trainer, nn.NetworkTrainer):
        def slow_step(self, *arguments, step=trainer._step):
            time.sleep(0.05)
            step(self, *arguments)
        trainer._step = slow_step
command.run({stage}.main, sys.argv[2:])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", code, stage, *arguments], cwd=folder, env=environment)


def kill_at(process: subprocess.Popen[bytes], begun: Callable[[], bool], delay: float) -> bool:
    """Kill some time after it has `begun`; whether it still ran."""
    until = time.monotonic() + 60
    while not begun() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def touched(folder: Path) -> int:
    """When a file in a folder was last written; 0 if there is none."""
    times = [0]
    for directory, _, names in os.walk(folder):  # which, unlike Path.rglob, bears that a directory is moved meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # moved to its place meanwhile
                times.append(Path(directory, name).stat().st_mtime_ns)
    return max(times)


def validated(folder: Path) -> Path:
    """What a refit reads of the model that it is to be like."""
    write_json(folder / "like" / "fit.json", {"length": 10.0, "curve": []})
    return folder / "like"


@pytest.mark.parametrize(("model", "refit"), [("network", False), ("machine", False), ("machine", True)])
def test_train(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, refit: bool) -> None:
    """Two kills, of which the second hits a run that goes on: the same model, predictions, metrics and curve."""
    command = [f"--encoded={world.folder}", f"--model={model}", "--out=model", "--checkpoint=checkpoint"]
    command += ["--predictions=p.parquet", "--metrics=metrics.json", "--slices=slices.json", "--curve=curve.json"]
    command += [f"--like={validated(tmp_path)}"] * refit
    killed, undisturbed = workspace(tmp_path / "killed"), workspace(tmp_path / "undisturbed")
    checkpoint = killed / "checkpoint"
    for delay in np.random.default_rng().uniform(0, 0.6, 2):
        before = touched(checkpoint)
        begun = lambda before=before: touched(checkpoint) > before  # noqa: E731
        assert kill_at(started("train", command, killed), begun, float(delay))
        assert not (killed / "p.parquet").exists()
    for folder in (killed, undisturbed):
        monkeypatch.chdir(folder)
        train_stage.main(command)
    assert not checkpoint.exists()
    assert "p.parquet" in files(killed)
    assert files(killed) == files(undisturbed)


def test_out_of_fold(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill within each seed's fits: the field has the same bytes, and no seed's scores stay behind."""
    target = world.part("target")
    write_predictions(tmp_path / "p.parquet", target, np.arange(target.rows, dtype=np.float32))
    command = [f"--encoded={world.folder}", "--model=several", f"--like={validated(tmp_path)}"]
    command += [f"--predictions={tmp_path / 'p.parquet'}", "--out=scores/several", "--checkpoint=checkpoint"]
    killed, undisturbed = workspace(tmp_path / "killed"), workspace(tmp_path / "undisturbed")
    checkpoint = killed / "checkpoint"
    delays = np.random.default_rng().uniform(0, 0.4, 2)
    for begun, delay in ((checkpoint.exists, delays[0]), (lambda: any(checkpoint.glob("*.npy")), delays[1])):
        assert kill_at(started("out_of_fold", command, killed), begun, float(delay))
        assert not (killed / "scores" / "several").exists()
    earlier = undisturbed / "scores" / "other"  # which no reader is to find any longer
    earlier.mkdir(parents=True)
    (earlier / "field.json").touch()
    for folder in (killed, undisturbed):
        monkeypatch.chdir(folder)
        out_of_fold_stage.main(command)
    assert not earlier.exists()
    assert "scores/several/history.npy" in files(killed)
    assert files(killed) == files(undisturbed)


def test_leaves(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while the trees grow and one while their leaves are written: the same fields, and no scratch stays."""
    command = [f"--encoded={world.folder}", "--out=leaves", "--checkpoint=checkpoint"]
    killed, undisturbed = workspace(tmp_path / "killed"), workspace(tmp_path / "undisturbed")
    delays = np.random.default_rng().uniform(0, 1, 2)
    for begun, delay in (
        (lambda: any((killed / "checkpoint").rglob("trees.npz")), delays[0]),
        ((killed / ".leaves.partial" / "leaf_0").exists, delays[1]),
    ):
        assert kill_at(started("leaves", command, killed), begun, float(delay))
        assert not (killed / "leaves").exists()
    for folder in (killed, undisturbed):
        monkeypatch.chdir(folder)
        leaves_stage.main(command)
    assert "leaves/leaf_44/target.npy" in files(killed)
    assert files(killed) == files(undisturbed)


def trials(journal: Path) -> list[tuple[Any, ...]]:
    """What was tried and what came of it, but for the trials that a kill cut off."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    (summary,) = optuna.get_all_study_summaries(storage)
    found = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()
    return [(t.state, t.params, t.value, t.intermediate_values) for t in found if t.state != TrialState.FAIL]


def test_tune(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kills: no trial is lost, none is doubled, and the winner's file has the same bytes."""
    command = [f"--encoded={world.folder}", "--model=trees", "--study=study", "--out=tuned.yaml"]
    killed, undisturbed = workspace(tmp_path / "killed"), workspace(tmp_path / "undisturbed")
    kills, journal = 0, killed / "study"
    for delay in np.random.default_rng().uniform(0, 0.8, 2):
        size = journal.stat().st_size if journal.exists() else 0
        kills += kill_at(
            started("tune", command, killed),
            lambda size=size: journal.exists() and journal.stat().st_size > size,
            float(delay),
        )
    assert kills == 2
    for folder in (killed, undisturbed):
        monkeypatch.chdir(folder)
        tune_stage.main(command)
    assert len(trials(undisturbed / "study")) == TRIALS + 1
    assert trials(killed / "study") == trials(undisturbed / "study")
    assert (killed / "tuned.yaml").read_bytes() == (undisturbed / "tuned.yaml").read_bytes()


def test_blend(world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no state: whatever a kill leaves behind, the next run writes the same files, and no others."""
    target, random = world.part("target"), np.random.default_rng(5)
    for member in PARAMS["blend"]["members"]:
        score = random.normal(size=target.rows) + np.asarray(target.array("clicked"))
        write_predictions(tmp_path / f"{member}.parquet", target, score.astype(np.float32))
    command = [f"--{split}={world.folder}" for split in ("validation", "submission")]
    command += [f"--{split}-predictions={tmp_path}" for split in ("validation", "submission")]
    command += ["--out=blend", "--metrics=metrics.json", "--slices=slices.json"]
    undisturbed = workspace(tmp_path / "undisturbed")
    monkeypatch.chdir(undisturbed)
    blend_stage.main(command)
    for number, output in enumerate(["blend/.validation.parquet.partial", ".metrics.json.partial"]):
        killed = workspace(tmp_path / f"killed{number}")
        assert kill_at(started("blend", command, killed), (killed / output).exists, 0.0)
        assert not (killed / "slices.json").exists()
        monkeypatch.chdir(killed)
        blend_stage.main(command)
        assert files(killed) == files(undisturbed)


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all files, and the names of all folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}
