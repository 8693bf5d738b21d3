"""Two processes that train one model: as good as one process, written by the first alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
import yaml

from pipeline.core.errors import InputError, ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import map12
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import labels_of, read_scores
from pipeline.stages import train as train_stage
from pipeline.trees.machines import joined, share

REPOSITORY = Path(__file__).parents[2]
MODELS: dict[str, Any] = {
    "trees": {"kind": "lightgbm", "rounds": 40, "segment": 10, "groups": ["rates", "leak"], "num_leaves": 7},
    "rate": {"kind": "ad_ctr"},
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def arguments(folder: Path, encoded: Encoded, machines: list[str], model: str = "trees") -> list[str]:
    """Of the stage train; all that it writes lies in `folder`."""
    folder.mkdir(exist_ok=True)
    params = {"models": MODELS, "runtime": {"threads": 1, "device": "cpu", "machines": machines}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    files = {"params": "params.yaml", "out": "model", "predictions": "scores.parquet", "checkpoint": "checkpoint"}
    files |= {name: f"{name}.json" for name in ("metrics", "slices", "curve")}
    paths = [f"--{name}={folder / file}" for name, file in files.items()]
    return [*paths, f"--encoded={encoded.folder}", f"--model={model}"]


def test_two_machines_train_one_model(encoded: dict[str, Encoded], tmp_path: Path) -> None:
    world = encoded["validation"]
    train_stage.main(arguments(tmp_path / "alone", world, []))
    machines = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [sys.executable, "-m", "pipeline.stages.train"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started = [
        subprocess.Popen(
            [*command, *arguments(tmp_path / f"rank{rank}", world, machines), f"--rank={rank}"], env=environment
        )
        for rank in (1, 0)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    assert [path.name for path in (tmp_path / "rank1").iterdir()] == ["params.yaml"]
    alone, together = tmp_path / "alone", tmp_path / "rank0"
    assert {p.name for p in together.iterdir()} == {p.name for p in alone.iterdir()}
    target = world.part("target")
    labels = labels_of(target)
    scores = [read_scores(folder / "scores.parquet", target) for folder in (alone, together)]
    found, chance = [map12(score, labels) for score in scores], map12(np.zeros(target.rows), labels)
    assert found[1] == pytest.approx(found[0], abs=0.1 * (found[0] - chance))
    assert np.corrcoef(*scores)[0, 1] > 0.9
    for folder in (alone, together):  # the root of the first tree knows how many rows it was grown from
        first = lgb.Booster(model_file=folder / "model" / "trees.txt").dump_model()["tree_info"][0]["tree_structure"]
        assert first["internal_count"] == pytest.approx(0.8 * world.part("history").rows, rel=0.03)
        assert json.loads((folder / "curve.json").read_text(encoding="utf-8"))[0]["step"] == 1


def test_shares_are_whole_and_even() -> None:
    for displays, machines in ((10, 3), (2, 2), (7, 1), (1, 2)):
        shares = [share(displays, machines, rank) for rank in range(machines)]
        assert [d for part in shares for d in range(displays)[part]] == list(range(displays))
        assert max(len(range(displays)[s]) for s in shares) - min(len(range(displays)[s]) for s in shares) <= 1
    assert share(10, 3, None) == slice(0, 10)


def test_mistakes(encoded: dict[str, Encoded], tmp_path: Path) -> None:
    world = encoded["validation"]
    with pytest.raises(ParameterError, match=r"--rank 1: expected the number, from 0, of one of runtime\.machines"):
        train_stage.main([*arguments(tmp_path, world, []), "--rank=1"])
    with pytest.raises(ParameterError, match="machine 0 alone fits models of kind ad_ctr"):
        train_stage.main([*arguments(tmp_path, world, ["a:1", "b:1"], "rate"), "--rank=1"])
    for machines in (("a",), ("a:0",), ("a:70000",), ("a b:1",)):
        with pytest.raises(ParameterError, match="machines: expected host:port"):
            RuntimeConfig(machines=machines)
    with pytest.raises(ParameterError, match="machines: each must be named once, found a:1 more often"):
        RuntimeConfig(machines=("a:1", "b:1", "a:1"))
    with (
        pytest.raises(InputError, match=r"host 'no\.such\.host\.invalid' is not known"),
        joined(["no.such.host.invalid:1", "b:1"], 0),
    ):
        pass


def test_one_machine_is_no_network() -> None:
    for machines, rank in (((), 0), (("a:1",), 0), (("a:1", "b:1"), None)):
        with joined(machines, rank) as parameters:
            assert parameters == {}
