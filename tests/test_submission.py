"""The file that Kaggle takes, against a plain construction."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import submission
from pipeline.core.errors import InputError
from pipeline.metrics import reciprocal_rank, tie_hash
from pipeline.stages.submission import main
from pipeline.submission import write_submission

LENGTHS = [2, 12, 13, 1, 30, 6, 12, 3, 4, 4, 5]


class Case:
    """Predictions and clicks_test in a folder; change the columns, then `write`."""

    def __init__(self, folder: Path, levels: int = 1000) -> None:
        random = np.random.default_rng(1)
        self.folder, self.out = folder, folder / "submissions" / "model.csv"
        ids = np.sort(random.choice(2**32 - 1, len(LENGTHS), replace=False))
        ads = [np.sort(random.choice(2**32 - 1, n, replace=False)) for n in LENGTHS]
        self.expected: dict[str, Any] = {"display_id": np.repeat(ids, LENGTHS), "ad_id": np.concatenate(ads)}
        score = random.integers(-levels, levels, sum(LENGTHS)) / levels
        self.scored = {**{name: ids.copy() for name, ids in self.expected.items()}, "score": score}

    def paths(self) -> tuple[Path, Path]:
        types = {"display_id": pa.uint32(), "ad_id": pa.uint32(), "score": pa.float32()}
        result = []
        for name, columns in (("predictions", self.scored), ("clicks_test", self.expected)):
            result.append(self.folder / f"{name}.parquet")
            pq.write_table(
                pa.table({k: pa.array(v, types[k]) for k, v in columns.items()}), result[-1], row_group_size=7
            )
        return result[0], result[1]

    def write(self) -> int:
        return write_submission(*self.paths(), self.out)

    def naive(self) -> str:
        displays: dict[int, list[tuple[float, int, int]]] = {}
        for display, ad, score in zip(*self.scored.values(), strict=True):
            tie = int(tie_hash(np.array([display]), np.array([ad]))[0])
            displays.setdefault(int(display), []).append((-float(np.float32(score)), tie, int(ad)))
        lines = [f"{display},{' '.join(str(ad) for *_, ad in sorted(ads)[:12])}" for display, ads in displays.items()]
        return "\n".join(["display_id,ad_id", *lines, ""])


@pytest.mark.parametrize("levels", [1, 3, 1000], ids=lambda n: f"{2 * n} values")
@pytest.mark.parametrize("batch", [1, 3, len(LENGTHS) - 1, len(LENGTHS), 1 << 18])
def test_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int, batch: int) -> None:
    monkeypatch.setattr(submission, "_BATCH_DISPLAYS", batch)
    case = Case(tmp_path, levels)
    assert case.write() == len(LENGTHS)
    assert case.out.read_bytes().decode() == case.naive()
    zipped = case.out.with_name("model.csv.gz")
    assert gzip.decompress(zipped.read_bytes()) == case.out.read_bytes()
    before = zipped.read_bytes()
    case.write()
    assert zipped.read_bytes() == before, "no time stamp"


def test_at_most_twelve_ads_and_every_display_once(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.write()
    header, *lines = case.out.read_text().splitlines()
    assert header == "display_id,ad_id"
    assert [len(line.split(",")[1].split(" ")) for line in lines] == [min(n, 12) for n in LENGTHS]
    assert [int(line.split(",")[0]) for line in lines] == list(dict.fromkeys(case.expected["display_id"].tolist()))


def test_the_file_scores_what_the_metric_says(tmp_path: Path) -> None:
    """Many ties: the place of a click in the file must be its rank in MAP@12."""
    case = Case(tmp_path, levels=2)
    case.write()
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    clicked = np.zeros(sum(LENGTHS), np.uint8)
    clicked[offsets[1:] - 1] = 1
    score = case.scored["score"].astype(np.float32)
    display_id, ad_id = case.expected["display_id"], case.expected["ad_id"]
    gain = reciprocal_rank(score, clicked, offsets, display_id[offsets[:-1]], ad_id)
    for line, click, value in zip(case.out.read_text().splitlines()[1:], ad_id[offsets[1:] - 1], gain, strict=True):
        ads = line.split(",")[1].split(" ")
        assert value == (1 / (1 + ads.index(str(click))) if str(click) in ads else 0)


def failure(case: Case) -> str:
    with pytest.raises(InputError) as caught:
        case.write()
    assert not list(case.out.parent.glob("*")), "neither the file nor a part of it is left"
    return str(caught.value)


@pytest.mark.parametrize("column", ["display_id", "ad_id"])
@pytest.mark.parametrize("row", [0, 5, -1])
def test_other_impressions_are_refused(tmp_path: Path, column: str, row: int) -> None:
    case = Case(tmp_path)
    right = int(case.scored[column][row])
    case.scored[column][row] = 4_000_000_000
    row %= sum(LENGTHS)
    message = failure(case)
    assert message.startswith(f"{tmp_path / 'predictions.parquet'}: expected the impressions of {tmp_path}")
    assert message.endswith(f"; in row {row} {column} is 4000000000 where {right} was expected")


@pytest.mark.parametrize("kept", [slice(0, -1), slice(1, None), slice(0, 0)])
def test_missing_impressions_are_refused(tmp_path: Path, kept: slice) -> None:
    case = Case(tmp_path)
    case.scored = {name: values[kept] for name, values in case.scored.items()}
    rows = sum(LENGTHS)
    assert failure(case).endswith(f", {rows} rows; found {len(case.scored['score'])}; run its stage again")


def test_two_ads_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.scored["ad_id"][[3, 4]] = case.scored["ad_id"][[4, 3]]
    assert "in row 3 ad_id is" in failure(case)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(tmp_path: Path, bad: float) -> None:
    case = Case(tmp_path)
    case.scored["score"][7] = bad
    assert failure(case).endswith("with finite scores; found some that are not")


def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.write()
    old = case.out.read_bytes()
    lines, calls = submission._lines, []

    def fail_at_the_third(table: pa.Table) -> bytes:
        calls.append(table.num_rows)
        if len(calls) == 3:
            raise OSError("no space left")
        return lines(table)

    monkeypatch.setattr(submission, "_BATCH_DISPLAYS", 2)
    monkeypatch.setattr(submission, "_lines", fail_at_the_third)
    case.scored["score"] = -case.scored["score"]
    with pytest.raises(OSError, match="no space left"):
        case.write()
    assert len(calls) == 3
    assert sorted(path.name for path in case.out.parent.iterdir()) == ["model.csv", "model.csv.gz"]
    assert case.out.read_bytes() == old


def test_the_stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = Case(tmp_path)
    predictions, clicks_test = case.paths()
    with caplog.at_level("INFO", "pipeline"):
        main([f"--predictions={predictions}", f"--clicks-test={clicks_test}", f"--out={case.out}"])
    assert case.out.read_text() == case.naive()
    assert f"{len(LENGTHS)} displays" in caplog.text
