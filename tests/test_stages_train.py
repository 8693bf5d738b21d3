"""The stages train and blend from their command lines: what a stage writes is what the next one reads."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pipeline.core.config import read_yaml
from pipeline.core.errors import InputError, ParameterError
from pipeline.core.files import read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.metrics import evaluate, map12
from pipeline.models.base import model_config
from pipeline.report import Report, Score
from pipeline.report_page import write_page
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import labels_of, read_scores
from pipeline.stages import blend as blend_stage
from pipeline.stages import command
from pipeline.stages import encode as encode_stage
from pipeline.stages import train as train_stage
from pipeline.stages.check import check_params

MODELS: dict[str, dict[str, Any]] = {
    "rate": {"kind": "ad_ctr"},
    "deep": {
        "kind": "deepfm",
        "groups": ["ids", "context", "leak", "rates"],
        "embedding_dim": 4,
        "embedding_optimizer": "adam",
        "embedding_learning_rate": 0.001,
        "hidden": [8],
        "epochs": 2,
        "evaluations": 2,
        "patience": 4,
    },
    "trees": {"kind": "lightgbm", "rounds": 12, "evaluate_every": 4, "groups": ["rates"]},
}


class Workspace:
    """A folder with params.yaml in which stages are run as `dvc.yaml` runs them."""

    def __init__(self, folder: Path, encoded: dict[str, Encoded], runtime: RuntimeConfig) -> None:
        self.folder, self.encoded = folder, encoded
        params = {
            "models": MODELS,
            "blend": {"members": list(MODELS), "folds": 3},
            "runtime": dataclasses.asdict(replace(runtime, threads=1)),
        }
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        (folder / "tuned.yaml").write_text("{}\n", encoding="utf-8")

    def path(self, name: str) -> Path:
        return self.folder / name

    def json(self, name: str) -> Any:
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def train(self, split: str, model: str, *arguments: str) -> None:
        f = self.folder
        train_stage.main(
            [
                f"--params={f / 'params.yaml'}",
                f"--encoded={self.encoded[split].folder}",
                f"--model={model}",
                f"--tuned={f / 'tuned.yaml'}",
                f"--out={f / 'models' / split / model}",
                f"--predictions={f / 'predictions' / split / model}.parquet",
                f"--checkpoint={f / 'checkpoints' / split / model}",
                *arguments,
            ]
        )

    def validate(self, model: str) -> None:
        f = self.folder
        self.train(
            "validation",
            model,
            f"--metrics={f / 'metrics' / model}.json",
            f"--slices={f / 'slices' / model}.json",
            f"--curve={f / 'curves' / model}.json",
        )

    def submit(self, model: str) -> None:
        self.train("submission", model, f"--like={self.folder / 'models' / 'validation' / model}")

    def blend(self) -> None:
        f = self.folder
        blend_stage.main(
            [
                f"--params={f / 'params.yaml'}",
                f"--out={f / 'blend'}",
                f"--metrics={f / 'metrics' / 'blend.json'}",
                f"--slices={f / 'slices' / 'blend.json'}",
                *(f"--{split}={encoded.folder}" for split, encoded in self.encoded.items()),
                *(f"--{split}-predictions={f / 'predictions' / split}" for split in self.encoded),
            ]
        )


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory, encoded: dict[str, Encoded], runtime: RuntimeConfig
) -> Workspace:
    """All models fitted on both splits, and their blend."""
    made = Workspace(tmp_path_factory.mktemp("stages"), encoded, runtime)
    for model in MODELS:
        made.validate(model)
        made.submit(model)
    made.blend()
    return made


def test_nothing_else_is_written(workspace: Workspace) -> None:
    made = {path.relative_to(workspace.folder).parts[0] for path in workspace.folder.iterdir()}
    assert made - {"checkpoints"} == {
        *("params.yaml", "tuned.yaml", "models", "predictions", "metrics", "slices", "curves", "blend")
    }
    assert not list(workspace.folder.glob("checkpoints/*/*"))
    assert not list(workspace.folder.rglob("*.partial"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("split", ["validation", "submission"])
def test_predictions_are_those_of_the_model(workspace: Workspace, model: str, split: str) -> None:
    kind, config = model_config(workspace.path("params.yaml"), model)
    loaded, target = kind.build(config), workspace.encoded[split].part("target")
    loaded.load(workspace.path(f"models/{split}/{model}"))
    written = read_scores(workspace.path(f"predictions/{split}/{model}.parquet"), target)
    np.testing.assert_array_equal(loaded.predict(target), written)


@pytest.mark.parametrize("model", [*MODELS, "blend"])
def test_metrics_are_those_of_the_predictions(workspace: Workspace, model: str) -> None:
    target = workspace.encoded["validation"].part("target")
    name = "blend/validation.parquet" if model == "blend" else f"predictions/validation/{model}.parquet"
    score, labels = read_scores(workspace.path(name), target), labels_of(target)
    metrics = workspace.json(f"metrics/{model}.json")
    assert metrics["map12"] == pytest.approx(map12(score, labels), abs=1e-6)
    rows = workspace.json(f"slices/{model}.json")
    for row, expected in zip(rows, evaluate(score, labels), strict=True):
        assert row == {"model": model} | {k: pytest.approx(v, abs=1e-6, nan_ok=True) for k, v in expected.items()}
    assert {row["slice"] for row in rows} >= {"weighted", "present", "future"}
    for part in ("present", "future"):
        assert metrics[f"map12_{part}"] == next(row["map12"] for row in rows if row["slice"] == part)


@pytest.mark.parametrize("model", ["deep", "trees"])
def test_a_refit_is_as_long(workspace: Workspace, model: str) -> None:
    fits = [workspace.json(f"models/{split}/{model}/fit.json") for split in ("validation", "submission")]
    assert fits[0]["length"] == fits[1]["length"] > 0
    assert fits[1]["curve"] == []
    curve = workspace.json(f"curves/{model}.json")
    assert curve == [{"model": model, **point} for point in fits[0]["curve"]]
    best = max(curve, key=lambda point: point["map12"] - point["target_loss"])
    assert fits[0]["length"] == best["step"]
    assert workspace.json(f"metrics/{model}.json")["map12"] == pytest.approx(best["map12"], abs=1e-6)


def test_the_submission_is_what_validation_chose(workspace: Workspace) -> None:
    """Ranks within each display are those of the members' logits times the weights that validation chose."""
    blended, target = workspace.json("blend/blend.json"), workspace.encoded["submission"].part("target")
    assert blended["members"] == list(MODELS)
    assert set(blended["lost_without"]) == set(MODELS)
    assert set(blended["chosen_by_fold"]) <= set(blended["validated_map12"])
    assert blended["way"] in ("mean", "equal", "likelihood", "searched")
    assert np.diag(blended["correlations"]).tolist() == [1.0] * 3
    members = [read_scores(workspace.path(f"predictions/submission/{model}.parquet"), target) for model in MODELS]
    weights = blended["columns"]["weight"]
    total = sum(w * member.astype(float) for w, member in zip(weights, members, strict=True))
    score = read_scores(workspace.path("blend/submission.parquet"), target).astype(float)
    table = pq.read_table(workspace.path("blend/submission.parquet"))
    display_id = np.repeat(target.array("display_id"), np.diff(target.offsets))
    np.testing.assert_array_equal(table["display_id"].to_numpy(), display_id)
    p = np.exp(total - np.repeat(np.maximum.reduceat(total, target.offsets[:-1]), np.diff(target.offsets)))
    p = p / np.repeat(np.add.reduceat(p, target.offsets[:-1]), np.diff(target.offsets))
    np.testing.assert_allclose(1 / (1 + np.exp(-score)), p, atol=1e-4)


def test_the_page_shows_what_the_blend_found(workspace: Workspace, tmp_path: Path) -> None:
    blended, slices = workspace.json("blend/blend.json"), workspace.json("slices/blend.json")
    scores = [Score(name=name, validation=0.5, test=None) for name in (*MODELS, "blend")]
    report = Report(
        source="kaggle", submission="blend.csv", whole=True, scores=scores, closed=None, leaks=True,
        twins=("deep", "rate"), blend=blended, warnings=[], slices=slices,
    )  # fmt: skip
    write_page(report, tmp_path / "index.html", tmp_path / "slices.png")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL)]
    assert any(blended["lost_without"].values())
    for i, name in enumerate(MODELS):
        shown = [f"{column[i]:.3f}" for column in blended["columns"].values()]
        shown += [f"{blended['lost_without'][name]:.4f}", *(f"{value:.3f}" for value in blended["correlations"][i])]
        assert [name, *shown] in rows


def test_the_same_again_is_the_same_bytes(workspace: Workspace, tmp_path: Path, runtime: RuntimeConfig) -> None:
    again = Workspace(tmp_path, workspace.encoded, runtime)
    for model in MODELS:
        again.validate(model)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file() and path.suffix != ".pt":  # a zip file
            assert path.read_bytes() == workspace.path(str(path.relative_to(tmp_path))).read_bytes(), path


def test_tuned_values_are_used(workspace: Workspace, tmp_path: Path, runtime: RuntimeConfig) -> None:
    other = Workspace(tmp_path, workspace.encoded, runtime)
    other.path("tuned.yaml").write_text("embedding_dim: 16\nhidden: [4, 4]\n", encoding="utf-8")
    other.validate("deep")
    network = torch.load(tmp_path / "models/validation/deep/network.pt", weights_only=True)["network"]
    assert network["embed.weight"].shape[1] == 17
    assert network["mlp.layers.3.weight"].shape == (4, 4)


def test_a_model_that_diverges_is_told_without_a_traceback(
    workspace: Workspace, tmp_path: Path, runtime: RuntimeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Workspace(tmp_path, workspace.encoded, runtime)
    other.path("tuned.yaml").write_text("embedding_learning_rate: 1.0e+30\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        command.run(lambda arguments: other.validate("deep"), [])
    told = capsys.readouterr().err
    assert told.endswith("error: scores must be finite; the model has diverged, try a smaller learning rate\n")
    assert "Traceback" not in told


def test_mistakes(workspace: Workspace, tmp_path: Path, runtime: RuntimeConfig) -> None:
    other = Workspace(tmp_path, workspace.encoded, runtime)
    with pytest.raises(ParameterError, match=r"models\.deeep is missing; models holds"):
        other.validate("deeep")
    with pytest.raises(InputError, match="no labels to stop early by"):
        other.train("submission", "deep")
    assert not other.path("models").exists()


def test_a_group_that_params_do_not_name_yet(
    splits: dict[str, Path], features: dict[str, Path], runtime: RuntimeConfig, tmp_path: Path
) -> None:
    """`entities`, named in `features` and by the ffm, is checked, encoded and learned from."""
    params = read_yaml(Path("params.yaml"))
    params["features"].append("entities")
    params["models"]["ffm"] |= {"groups": ["ids", "entities"], "epochs": 1}
    params["runtime"] = dataclasses.asdict(replace(runtime, threads=1))
    path, encoded = tmp_path / "params.yaml", tmp_path / "encoded"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    check_params(path)
    f, split = features["validation"], splits["validation"]
    encode_stage.main([f"--params={path}", f"--split={split}", f"--features={f}", f"--out={encoded}"])
    command = [f"--params={path}", f"--encoded={encoded}", "--model=ffm", f"--out={tmp_path / 'ffm'}"]
    train_stage.main([*command, f"--predictions={tmp_path / 'p.parquet'}", f"--checkpoint={tmp_path / 'c'}"])
    target = Encoded(encoded).part("target")
    assert len(read_scores(tmp_path / "p.parquet", target)) == target.rows
    read = read_json(tmp_path / "ffm" / "fields.json")["fields"]
    assert {"ad_id", "ad_entity", "page_entity"} <= {field["name"] for field in read}
