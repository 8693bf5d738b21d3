"""Fitting with several seeds: the mean of their logits, each fitted once, whatever kills the run in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ParameterError
from pipeline.core.files import read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.models.base import load_kind, model_config, seeds_of
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.fitting import FitOptions
from pipeline.schemas.predictions import read_scores
from pipeline.training import train, trained_length
from tests.synthetic import write_mixed

REPOSITORY = Path(__file__).parents[1]
KIND = load_kind("lightgbm")
CONFIG = KIND.config(rounds=12, segment=4, evaluate_every=2, num_leaves=5, min_data_in_leaf=5, checkpoint_minutes=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("seeds") / "encoded", displays=200, seed=4)


def run(world: Encoded, folder: Path, seeds: int, config: Any = CONFIG, length: float | None = None) -> Any:
    """All files lie in `folder`."""
    options = FitOptions(runtime=RuntimeConfig(threads=1), checkpoint=folder / "checkpoint", length=length)
    return train(KIND, config, world, options, folder / "model", folder / "scores.parquet", seeds)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_score_is_the_mean_of_the_seeds(world: Encoded, tmp_path: Path) -> None:
    alone = [run(world, tmp_path / f"{s}", 1, replace(CONFIG, seed=s)) for s in (1, 2, 3)]
    score = run(world, tmp_path / "together", 3)
    np.testing.assert_allclose(score, np.mean(np.float64(alone), axis=0), rtol=1e-6, atol=1e-7)
    assert not np.array_equal(alone[0], alone[1])
    np.testing.assert_array_equal(read_scores(tmp_path / "together/scores.parquet", world.part("target")), score)
    for number in (1, 2, 3):  # each is kept as a model of its own
        loaded = KIND.build(CONFIG)
        loaded.load(tmp_path / f"together/model/seed_{number - 1}")
        np.testing.assert_array_equal(loaded.predict(world.part("target")), alone[number - 1])
    lengths = [trained_length(tmp_path / f"{s}" / "model") for s in (1, 2, 3)]
    assert trained_length(tmp_path / "together/model") == pytest.approx(np.mean(lengths))
    curve = read_json(tmp_path / "together/model/fit.json")["curve"]
    assert curve == read_json(tmp_path / "1/model/fit.json")["curve"]
    assert {p.name for p in (tmp_path / "together").iterdir()} == {"model", "scores.parquet"}


def test_a_refit_averages_as_many(world: Encoded, tmp_path: Path) -> None:
    run(world, tmp_path, 2, length=7.0)
    fits = [read_json(tmp_path / "model" / name / "fit.json") for name in (".", "seed_0", "seed_1")]
    assert fits == [{"length": 7.0, "curve": []}] * 3


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import lightgbm as lgb
from pipeline.schemas.encoded import Encoded
from tests.test_seeds import run

rounds, update = 0, lgb.Booster.update
def counted(self, *arguments):
    global rounds
    rounds += 1
    if rounds == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *arguments)
lgb.Booster.update = counted
run(Encoded(Path(sys.argv[1])), Path(sys.argv[2]), 3)
"""


def test_a_killed_run_ends_as_an_undisturbed_one(world: Encoded, tmp_path: Path) -> None:
    """Killed in the second fit, then in the third: a fit that was done is not done again."""
    run(world, tmp_path / "undisturbed", 3)
    for kill in (18, 16):  # of 12 rounds a fit: 17 done, of which a segment is kept; then 15 more
        command = [sys.executable, "-c", KILLED_RUN, str(world.folder), str(tmp_path / "killed"), str(kill)]
        environment = {**os.environ, "PYTHONPATH": "."}
        assert subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode == -signal.SIGKILL
        assert not (tmp_path / "killed/model").exists()
    done = sorted(path.name for path in (tmp_path / "killed/checkpoint").glob("done-*/*"))
    assert done == ["seed_0", "seed_1"]
    run(world, tmp_path / "killed", 3)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def test_a_fit_of_another_config_is_not_used(world: Encoded, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_RUN, str(world.folder), str(tmp_path / "killed"), "18"]
    subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert list((tmp_path / "killed/checkpoint").glob("done-*/seed_0"))
    other = replace(CONFIG, num_leaves=4)
    run(world, tmp_path / "killed", 3, other)
    run(world, tmp_path / "undisturbed", 3, other)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def test_parameters(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"

    def write(text: str) -> None:
        params.write_text(f"models: {{mine: {{{text}}}}}", encoding="utf-8")

    write("kind: lightgbm, seeds: 3")
    assert seeds_of(params, "mine") == 3
    assert model_config(params, "mine")[1] == KIND.config()
    write("kind: lightgbm")
    assert seeds_of(params, "mine") == 1
    for value in ("0", "1.5", "true", "many"):
        write(f"kind: lightgbm, seeds: {value}")
        with pytest.raises(ParameterError, match=r"models\.mine\.seeds: must be a whole number, 1 or more, found"):
            model_config(params, "mine")
    write("kind: ad_ctr, seeds: 2")
    with pytest.raises(ParameterError, match=r"models\.mine\.seeds: a model of kind ad_ctr has no seed"):
        model_config(params, "mine")
