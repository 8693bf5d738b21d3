"""Predictions are read as they were written, for their own impressions alone; scores become logits by display."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError
from pipeline.metrics import reciprocal_rank
from pipeline.schemas import predictions
from pipeline.schemas.encoded import EncodedPart
from pipeline.schemas.predictions import SCHEMA, labels_of, read_scores, within_display_logits, write_predictions
from tests.synthetic import MIXED, Displays, mixed, write_encoded


@pytest.fixture(scope="module")
def displays() -> Displays:
    return mixed(np.random.default_rng(1), 50)


@pytest.fixture(scope="module")
def part(displays: Displays, tmp_path_factory: pytest.TempPathFactory) -> EncodedPart:
    folder = tmp_path_factory.mktemp("predictions") / "encoded"
    return write_encoded(folder, MIXED, displays, displays).part("target")


@pytest.fixture(params=[7, 1 << 20], ids=["many chunks", "one chunk"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_CHUNK_DISPLAYS", request.param)


def scores(rows: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=rows)).astype(np.float32)


@pytest.mark.usefixtures("chunks")
def test_written_and_read(part: EncodedPart, displays: Displays, tmp_path: Path) -> None:
    score = scores(part.rows)
    write_predictions(tmp_path / "deep" / "scores.parquet", part, score)
    np.testing.assert_array_equal(read_scores(tmp_path / "deep" / "scores.parquet", part), score)
    table = pq.read_table(tmp_path / "deep" / "scores.parquet")
    assert table.schema.equals(SCHEMA)
    assert table["display_id"].to_pylist() == np.repeat(displays.display_id, displays.lengths).tolist()
    assert table["ad_id"].to_pylist() == displays.ad_id.tolist()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scores.parquet"]


def test_same_scores_are_same_bytes(part: EncodedPart, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_predictions(tmp_path / name, part, scores(part.rows))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_of_other_impressions(part: EncodedPart, displays: Displays, tmp_path: Path) -> None:
    write_predictions(tmp_path / "scores", part, scores(part.rows))
    fewer = write_encoded(tmp_path / "fewer", MIXED, displays, displays.take(range(49))).part("target")
    with pytest.raises(InputError, match=rf"expected the {fewer.rows} impressions of .*fewer.*run its stage again"):
        read_scores(tmp_path / "scores", fewer)
    reverse = write_encoded(tmp_path / "reverse", MIXED, displays, displays.take(range(49, -1, -1))).part("target")
    assert reverse.rows == part.rows
    with pytest.raises(InputError, match="found others"):
        read_scores(tmp_path / "scores", reverse)


def test_what_is_no_score(part: EncodedPart, tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        score = scores(part.rows)
        score[7] = bad
        with pytest.raises(ValueError, match="finite"):
            write_predictions(tmp_path / "scores", part, score)
    with pytest.raises(ValueError, match=f"expected {part.rows} "):
        write_predictions(tmp_path / "scores", part, scores(part.rows + 1))
    with pytest.raises(ValueError, match=f"expected {part.rows} "):
        write_predictions(tmp_path / "scores", part, scores(part.rows)[:, None])
    assert not list(tmp_path.iterdir())


def test_labels(part: EncodedPart, displays: Displays) -> None:
    labels = labels_of(part)
    np.testing.assert_array_equal(labels.clicked, displays.clicked)
    np.testing.assert_array_equal(labels.offsets, displays.offsets)
    np.testing.assert_array_equal(labels.display_id, displays.display_id)
    np.testing.assert_array_equal(labels.ad_id, displays.ad_id)
    assert list(labels.slices) == ["future", "cold_ad", "cold_user", "cold_page"]
    np.testing.assert_array_equal(labels.slices["future"], displays.future)


# --- logits within a display --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunks")
def test_logits_of_the_softmax(displays: Displays) -> None:
    """Against a loop: log(p / (1 - p)), p the softmax over the display's ads."""
    score = scores(displays.rows, 3.0)
    found = within_display_logits(score, displays.offsets)
    assert found.dtype == np.float32
    for start, end in zip(displays.offsets[:-1], displays.offsets[1:], strict=True):
        x = [float(value) for value in score[start:end]]
        for i, logit in enumerate(found[start:end]):
            rest = sum(math.exp(value) for j, value in enumerate(x) if j != i)
            assert logit == pytest.approx(x[i] - math.log(rest) if rest else 30, abs=1e-4)


@pytest.mark.usefixtures("chunks")
def test_chances_of_a_display_sum_to_one(displays: Displays) -> None:
    logit = within_display_logits(scores(displays.rows, 5.0), displays.offsets).astype(float)
    sums = np.add.reduceat(1 / (1 + np.exp(-logit)), displays.offsets[:-1])
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_what_displays_share_does_not_matter(displays: Displays) -> None:
    score = scores(displays.rows).astype(float)
    shift = np.repeat(np.random.default_rng(2).normal(0, 1e3, len(displays.lengths)), displays.lengths)
    found = within_display_logits(score + shift, displays.offsets)
    np.testing.assert_allclose(found, within_display_logits(score, displays.offsets), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 8.0, 100.0, 1e6, 1e30])
def test_ranks_stay(displays: Displays, scale: float) -> None:
    """Logits are finite whatever the scores, and the click's rank is kept unless it is hopelessly far behind."""
    score = scores(displays.rows, scale)
    logit = within_display_logits(score, displays.offsets)
    assert np.isfinite(logit).all()
    assert np.abs(logit).max() <= 30
    for start, end in zip(displays.offsets[:-1], displays.offsets[1:], strict=True):
        assert np.argmax(logit[start:end]) == np.argmax(score[start:end])
        order = np.argsort(score[start:end])
        assert (np.diff(logit[start:end][order]) >= 0).all()
    if scale <= 3:
        gains = [
            reciprocal_rank(x, displays.clicked, displays.offsets, displays.display_id, displays.ad_id)
            for x in (score, logit)
        ]
        np.testing.assert_array_equal(*gains)


def test_no_displays() -> None:
    assert within_display_logits(np.empty(0), np.zeros(1, dtype=np.int64)).shape == (0,)


def test_scores_that_are_not_finite_stay_so(displays: Displays) -> None:
    """So that the check where predictions are written finds them."""
    score = scores(displays.rows)
    score[3] = np.nan
    assert not np.isfinite(within_display_logits(score, displays.offsets)).all()
