"""What a run came to: scores beside the baselines, where they stand, and what the blend is made of, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.files import read_json
from pipeline.metrics import Labelled, map12, weighted_mean
from pipeline.schemas.encoded import Encoded, EncodedPart
from pipeline.schemas.predictions import read_scores

TEST_DISPLAYS = 6_245_533
#: MAP@12 on the real private leaderboard (one cross-validated), best first.
LEADERBOARD = (
    (0.701, "the competition's first and second place"),
    (0.6974, "the best single FFM of the third-placed team"),
    (0.6922, "the second-placed team's single FFM (cross-validated)"),
    (0.6885, "the third-placed team's single XGBoost"),
    (0.679, "FTRL on hashed pairs with page views"),
    (0.6787, "the same FTRL without the leak"),
    (0.677, "NVIDIA's Wide & Deep with page views"),
    (0.6573, "NVIDIA's Wide & Deep without page views"),
    (0.6555, "LightGBM with default settings on 2.5 % of the rows"),
    (0.6549, "FTRL on hashed pairs without page views"),
    (0.6432, "plain logistic regression"),
    (0.6371, "the smoothed click rate of the ad"),
)

OURS = "this blend, by validation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """MAP@12 of one ranking. validation: present and future weighted. test: where the hidden labels are known."""

    name: str
    validation: float | None
    test: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the summary and the page show.

    whole: the test set has as many displays as the competition's, so it is the competition's. closed: the share of the
    gap between ad CTR and the oracle that the blend closes on test; None unless the world is simulated. leaks: whether
    models may read what no production system could know. twins: the names of a model that may and of the same model
    that may not.
    """

    source: str
    submission: str
    whole: bool
    scores: list[Score]
    closed: float | None
    leaks: bool
    twins: tuple[str, str]
    blend: dict[str, Any]
    warnings: list[str]
    slices: list[dict[str, Any]]


def random_map12(offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The expected 1 / rank (D,) of a random order: the mean of 1/1 ... 1/n, counted to rank 12."""
    lengths = np.diff(offsets)
    ranks = np.arange(1, max(13, int(lengths.max(initial=1)) + 1))
    gains = np.cumsum(np.where(ranks <= 12, 1 / ranks, 0))
    return gains[lengths - 1] / lengths


def test_labels(truth: Path, target: EncodedPart) -> tuple[Labelled, NDArray[np.float32]] | None:
    """The hidden labels of a simulated test and the oracle's scores (N,); None if they are unknown.

    Raises InputError if the truth is about another world.
    """
    if not read_json(truth / "truth.json")["known"]:
        return None
    display_id = target.array("display_id")
    path = truth / "displays.parquet"
    table = pq.read_table(
        path,
        columns=["display_id", "ad_id", "clicked", "oracle"],
        filters=[("display_id", ">=", int(display_id[0])), ("display_id", "<=", int(display_id[-1]))],
    )
    if table.num_rows != target.rows or not np.array_equal(table["ad_id"].to_numpy(), target.array("ad_id")):
        raise InputError(f"{path}: expected the impressions of clicks_test, found others; run the stage raw again")
    labels = Labelled(
        clicked=table["clicked"].to_numpy(),
        offsets=target.offsets,
        display_id=display_id,
        ad_id=target.array("ad_id"),
        slices={"future": np.asarray(target.array("future"))},
    )
    return labels, table["oracle"].to_numpy()


def standing(score: float) -> str:
    """Where a validation score would stand on the real private leaderboard."""
    above = [line for line in LEADERBOARD if line[0] > score]
    below = [line for line in LEADERBOARD if line[0] <= score]
    text = f"On the real private leaderboard {score:.4f} would stand "
    if not above:
        return text + f"above {below[0][1]} ({below[0][0]})."
    text += f"below {above[-1][1]} ({above[-1][0]})"
    return text + (f" and above {below[0][1]} ({below[0][0]})." if below else ".")


def places(report: Report) -> list[tuple[float, str]]:
    """LEADERBOARD with the blend's validation score among it, best first; of a simulated world, whose scores say
    nothing of the real one, none."""
    if report.source == "simulated":
        return []
    return sorted([(_validation(report), OURS), *LEADERBOARD], key=lambda line: -line[0])


def _validation(report: Report) -> float:
    """Of the blend."""
    return next(score.validation for score in report.scores if score.name == "blend") or 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where a run's results lie. All but the first two are folders; `predictions` is the submission split's."""

    manifest: Path
    ingest: Path
    truth: Path
    validation: Path
    submission: Path
    predictions: Path
    blend: Path
    metrics: Path
    slices: Path


def gather(
    files: Files, models: Sequence[str], baseline: str, twins: tuple[str, str], submission: str, *, leaks: bool
) -> Report:
    """Read a run's results. models: that are told of. baseline: the one from which the gap to the oracle is measured.

    twins, leaks: see Report.
    """
    names = tuple(dict.fromkeys((baseline, *models, *twins)))
    validation, submitted = Encoded(files.validation).part("target"), Encoded(files.submission).part("target")
    known = test_labels(files.truth, submitted)

    def test(score: NDArray[np.float32]) -> float | None:
        return None if known is None else map12(score, known[0])

    future = np.asarray(validation.array("future"))
    chance = None if known is None else weighted_mean(random_map12(submitted.offsets), known[0].slices["future"])
    scores = [
        Score(name="random order", validation=weighted_mean(random_map12(validation.offsets), future), test=chance)
    ]
    paths = {name: files.predictions / f"{name}.parquet" for name in names}
    for name, path in {**paths, "blend": files.blend / "submission.parquet"}.items():
        validated = read_json(files.metrics / f"{name}.json")["map12"]
        scores.append(Score(name=name, validation=validated, test=test(read_scores(path, submitted))))
    closed = None
    if known is not None:
        oracle = Score(name="oracle", validation=None, test=test(known[1]))
        closed = closed_gap({score.name: score.test for score in (*scores, oracle)}, baseline)
        scores.append(oracle)
    return Report(
        source=read_json(files.manifest)["source"],
        submission=submission,
        whole=submitted.displays == TEST_DISPLAYS,
        scores=scores,
        closed=closed,
        leaks=leaks,
        twins=twins,
        blend=read_json(files.blend / "blend.json"),
        warnings=read_json(files.ingest)["warnings"],
        slices=[row for name in (*names, "blend") for row in read_json(files.slices / f"{name}.json")],
    )


def closed_gap(test: dict[str, float | None], baseline: str) -> float | None:
    """Which share of the way from the baseline to the oracle the blend has gone, by MAP@12 on test."""
    low, high, reached = test[baseline], test["oracle"], test["blend"]
    if low is None or high is None or reached is None or high <= low:
        return None
    return (reached - low) / (high - low)


def summary(report: Report) -> str:
    """The lines with which a run ends."""
    width = 1 + max(len(score.name) for score in report.scores)
    lines = [
        f"submission: {report.submission}",
        "",
        f"{'MAP@12':<{width}}{'validation':>12}" + f"{'test':>12}" * _has_test(report),
    ]
    for score in report.scores:
        shown = [score.validation, *([score.test] if _has_test(report) else [])]
        lines.append(f"{score.name:<{width}}" + "".join(f"{'-' if v is None else format(v, '.5f'):>12}" for v in shown))
    lines += ["", verdict(report), without_leaks(report), *(f"warning: {text}" for text in report.warnings)]
    return "\n".join(lines) + "\n"


def verdict(report: Report) -> str:
    """What the blend's score means: on the leaderboard if the data is real, against the oracle if it is simulated."""
    if report.source == "simulated":
        share = "an unknown share" if report.closed is None else f"{report.closed:.0%}"
        return f"The blend closes {share} of the gap from ad CTR to the oracle, on test labels that it never saw."
    text = standing(_validation(report))
    return text if report.whole else f"These are not the competition's whole files, so take it with caution: {text}"


def without_leaks(report: Report) -> str:
    """What the score is with and without what no production system could know, in one sentence."""
    if not report.leaks:
        return "Leaks are off: no model has read what no production system could know."
    scores = {score.name: score for score in report.scores}
    column = "test" if _has_test(report) else "validation"
    leaky, causal = (getattr(scores[name], column) for name in report.twins)
    return (
        f"Without what no production system could know (leaks), {report.twins[0]} comes to {causal:.5f} on {column}; "
        f"with it, to {leaky:.5f}."
    )


def _has_test(report: Report) -> bool:
    return any(score.test is not None for score in report.scores)
