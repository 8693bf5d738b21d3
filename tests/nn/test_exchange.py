"""Two processes that torchrun starts learn what one process learns."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.core.runtime import RuntimeConfig
from pipeline.nn.batches import Inputs
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import read_scores
from tests.synthetic import MIXED, write_mixed

REPOSITORY = Path(__file__).parents[2]
#: Of two batches an epoch the first is cut into two pieces, the second is one piece, so that one process has none.
MODEL = {
    "kind": "wide_deep",
    "crosses": ["page x ad", "ad x viewed"],
    "cross_bits": 8,
    "batch_displays": 400,
    "epochs": 4,
    "evaluations": 2,
    "hidden": [16, 8],
    "dropout": 0.3,
    "l2": 1e-3,
    "embedding_learning_rate": 0.02,
    "checkpoint_minutes": 0.0,
}
TORCHRUN = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"


def train(folder: Path, encoded: Encoded, *launcher: str) -> subprocess.CompletedProcess[str]:
    """By the stage's command line, in a process of its own or in several."""
    arguments = [f"--{name}={folder / name}" for name in ("out", "predictions", "metrics", "slices", "curve")]
    command = [sys.executable, *launcher, "-m", "pipeline.stages.train", f"--params={folder.parent / 'params.yaml'}"]
    command += ["--model=wide", f"--encoded={encoded.folder}", f"--checkpoint={folder / 'checkpoint'}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)


def test_two_processes_learn_what_one_learns(runtime: RuntimeConfig, tmp_path: Path) -> None:
    world = write_mixed(tmp_path / "encoded", displays=500, seed=3)
    own = dataclasses.asdict(replace(runtime, threads=1))
    params = {"models": {"wide": MODEL}, "runtime": own}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    alone, both = tmp_path / "alone", tmp_path / "both"
    train(alone, world)
    said = train(both, world, *TORCHRUN).stderr
    assert said.count("validation MAP@12") == 1, "one process tells and writes"
    assert sorted(p.name for p in both.iterdir()) == sorted(p.name for p in alone.iterdir())
    assert sorted(p.name for p in (both / "out").iterdir()) == ["fit.json", "network.pt"]
    curves = [json.loads((folder / "curve").read_text()) for folder in (alone, both)]
    assert [p["step"] for p in curves[1]] == [p["step"] for p in curves[0]]
    assert [p["loss"] for p in curves[1]] == pytest.approx([p["loss"] for p in curves[0]], rel=1e-4)
    assert curves[0][-1]["loss"] < 0.95 * curves[0][0]["loss"]
    states = [torch.load(f / "out" / "network.pt", weights_only=True)["network"] for f in (alone, both)]
    of_displays = int(Inputs(MIXED).impression.first_ids.min())
    for state in states:  # weights of displays move all its rows alike, which the loss does not see: rounding alone
        state["embed.weight"][:of_displays, 0] = 0
    for name, tensor in states[0].items():  # Adam steps as far by a gradient that is only rounding as by any other
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-2, atol=2e-3)
    scores = [read_scores(folder / "predictions", world.part("target")) for folder in (alone, both)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-2, atol=5e-3)
