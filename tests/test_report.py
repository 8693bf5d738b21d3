"""The report: what is read of a run's results, and what its summary and its page say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.metrics import map12
from pipeline.report import (
    LEADERBOARD,
    OURS,
    Files,
    Report,
    Score,
    closed_gap,
    gather,
    places,
    standing,
    summary,
    verdict,
)
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


def real(report: Report, validation: float, whole: bool = True) -> Report:
    """The same of the real files, whose hidden labels nobody knows."""
    scores = [replace(score, test=None) for score in report.scores if score.name not in ("oracle", "blend")]
    scores.append(Score(name="blend", validation=validation, test=None))
    return replace(report, source="kaggle", whole=whole, closed=None, scores=scores)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.71, "0.7100 would stand above the competition's first and second place (0.701)."),
        (0.6788, "0.6788 would stand below FTRL on hashed pairs with page views (0.679) and above the same FTRL"),
        (0.6549, "below LightGBM with default settings on 2.5 % of the rows (0.6555) and above FTRL on hashed pairs"),
        (0.5, "0.5000 would stand below the smoothed click rate of the ad (0.6371)."),
    ],
)
def test_where_a_score_stands(score: float, text: str) -> None:
    assert text in standing(score)


def test_the_verdict(report: Report) -> None:
    """A simulated world is measured against its oracle, the real files against what others came to on them."""
    assert "closes 100% of the gap" in verdict(report)
    assert "closes 42% of the gap" in verdict(replace(report, closed=0.42))
    assert "closes an unknown share of the gap" in verdict(replace(report, closed=None))
    assert verdict(real(report, 0.68)) == standing(0.68)
    told = verdict(real(report, 0.68, whole=False))
    assert told == f"These are not the competition's whole files, so take it with caution: {standing(0.68)}"


def test_the_known_scores_are_in_order() -> None:
    scores = [score for score, _ in LEADERBOARD]
    assert scores == sorted(scores, reverse=True)
    assert {0.6787, 0.6549} <= set(scores)


def test_the_share_of_the_gap() -> None:
    test: dict[str, float | None] = {"ad_ctr": 0.60, "oracle": 0.80, "blend": 0.65}
    assert closed_gap(test, "ad_ctr") == pytest.approx(0.25)
    assert closed_gap(test | {"blend": 0.55}, "ad_ctr") == pytest.approx(-0.25)
    assert closed_gap(test | {"oracle": 0.60}, "ad_ctr") is None
    assert closed_gap(test | {"ad_ctr": None}, "ad_ctr") is None


def test_the_page_shows_the_place_of_real_files_alone(report: Report, tmp_path: Path) -> None:
    assert places(report) == []
    places_of_real = [what for _, what in places(real(report, 0.6788))]
    at = places_of_real.index(OURS)
    assert places_of_real[at - 1 : at + 2 : 2] == [
        "FTRL on hashed pairs with page views",
        "the same FTRL without the leak",
    ]
    for shown in (report, real(report, 0.6788)):
        write_page(shown, tmp_path / "index.html", tmp_path / "slices.png")
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        assert (f'<tr class="blend"><td>{OURS}</td><td>0.6788</td></tr>' in page) == (shown is not report)
        assert ("Where it stands" in page) == (shown is not report)


def test_the_page_shows_what_the_blend_is_made_of(report: Report, tmp_path: Path) -> None:
    blended = {
        "way": "linear by part",
        "members": ["trees", "rate"],
        "columns": {"present, weight": [0.75, -0.125], "future, weight": [0.5, 0.0625]},
        "context": {
            "present, weight": {"leak=1": 1.5, "ad_shows": 0.25},
            "future, weight": {"leak=1": 2.5, "ad_shows": 0},
        },
        "correlations": [[1.0, 0.3217], [0.3217, 1.0]],
        "validated_map12": {"linear by part": 0.6543},
        "validated_loss": {"linear by part": 1.1234},
        "lost_without": {"trees": 0.0456, "rate": -0.0007},
        "chosen_by_fold": ["linear by part"],
    }
    write_page(replace(report, blend=blended), tmp_path / "index.html", tmp_path / "slices.png")
    rows = rows_of((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert ["trees", "0.750", "0.500", "0.0456", "1.000", "0.322"] in rows
    assert ["rate", "-0.125", "0.062", "-0.0007", "0.322", "1.000"] in rows
    assert ["leak=1", "1.500", "2.500"] in rows
    assert ["ad_shows", "0.250", "0.000"] in rows
    assert ["linear by part", "0.6543", "1.1234"] in rows


def rows_of(page: str) -> list[list[str]]:
    """The cells of each row of its tables."""
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL)]
