"""The report: what is read of a run's results, and what its summary and its page say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.metrics import map12
from pipeline.report import Files, Report, Score, gather, summary
from pipeline.report_page import write_page
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.predictions import labels_of, write_predictions
from tests.synthetic import MIXED, mixed, write_encoded

MODELS = ("rate", "trees", "blind")
DISPLAYS = 50


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    """A split, which stands for both."""
    random = np.random.default_rng(1)
    parts = [replace(mixed(random, DISPLAYS), display_id=np.arange(DISPLAYS, dtype=np.uint32)) for _ in range(2)]
    return write_encoded(tmp_path / "encoded", MIXED, *parts)


@pytest.fixture
def report(tmp_path: Path, encoded: Encoded) -> Report:
    """A run on a simulated world: `trees` knows the clicks, `rate` and `blind` draw lots."""
    target, random = encoded.part("target"), np.random.default_rng(2)
    clicked = np.asarray(target.array("clicked"), dtype=np.float32)
    for name in MODELS:
        score = clicked if name == "trees" else random.normal(size=target.rows).astype(np.float32)
        write_predictions(tmp_path / f"predictions/{name}.parquet", target, score)
        write_json(tmp_path / f"metrics/{name}.json", {"map12": map12(score, labels_of(target))})
        write_json(tmp_path / f"slices/{name}.json", [_slice(name)])
    write_predictions(tmp_path / "blend/submission.parquet", target, clicked)
    for kind in ("metrics", "slices"):
        write_json(tmp_path / f"{kind}/blend.json", {"map12": 1.0} if kind == "metrics" else [_slice("blend")])
    blended = {"way": "mean", "members": ["trees"], "columns": {"weight": [1.0]}, "correlations": [[1.0]]}
    blended |= {"validated_map12": {}, "validated_loss": {}, "lost_without": {}, "chosen_by_fold": ["mean"]}
    write_json(tmp_path / "blend/blend.json", blended)
    write_json(tmp_path / "manifest.json", {"source": "simulated"})
    write_json(tmp_path / "ingest.json", {"warnings": ["something is odd"]})
    write_json(tmp_path / "truth/truth.json", {"known": True})
    truth = {
        "display_id": np.repeat(target.array("display_id"), np.diff(target.offsets)),
        "ad_id": target.array("ad_id"),
        "clicked": target.array("clicked"),
        "oracle": clicked,
    }
    pq.write_table(pa.table(truth), tmp_path / "truth/displays.parquet")
    files = Files(
        manifest=tmp_path / "manifest.json",
        ingest=tmp_path / "ingest.json",
        truth=tmp_path / "truth",
        validation=encoded.folder,
        submission=encoded.folder,
        predictions=tmp_path / "predictions",
        blend=tmp_path / "blend",
        metrics=tmp_path / "metrics",
        slices=tmp_path / "slices",
    )
    return gather(files, ("trees",), "rate", ("trees", "blind"), "submissions/blend.csv", leaks=True)


def _slice(model: str) -> dict[str, object]:
    return {"model": model, "slice": "weighted", "displays": DISPLAYS, "map12": 0.5, "auc": 0.5, "logloss": 0.5}


def score_of(report: Report, name: str) -> Score:
    return next(score for score in report.scores if score.name == name)


def test_every_model_stands_in_the_summary_once(report: Report) -> None:
    assert [s.name for s in report.scores] == ["random order", "rate", "trees", "blind", "blend", "oracle"]
    assert [row["model"] for row in report.slices] == [*MODELS, "blend"]
    lines = summary(report).splitlines()
    for name in ("rate", "trees", "blind", "blend"):
        score = score_of(report, name)
        assert f"{name:<13}{score.validation:>12.5f}{score.test:>12.5f}" in lines
    assert score_of(report, "trees").test == 1.0
    assert report.closed == 1.0
    assert "warning: something is odd" in lines


def test_the_summary_tells_what_the_leaks_bring(report: Report) -> None:
    blind = score_of(report, "blind").test
    assert blind is not None
    assert blind < 1.0
    told = f"(leaks), trees comes to {blind:.5f} on test; with it, to 1.00000."
    assert told in summary(report)
    unknown = [replace(score, test=None) for score in report.scores if score.name != "oracle"]
    real = replace(report, source="directory", closed=None, scores=unknown)
    assert f"trees comes to {score_of(report, 'blind').validation:.5f} on validation;" in summary(real)


def test_with_leaks_off_the_summary_says_so(report: Report) -> None:
    text = summary(replace(report, leaks=False))
    assert "Leaks are off: no model has read what no production system could know." in text
    assert "trees comes to" not in text


def test_the_page_says_the_same(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path / "index.html", tmp_path / "slices.png")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "with it, to 1.00000." in page
    for name in (*MODELS, "blend"):
        assert f"<td>{name}</td>" in page
