"""What the benchmarks say of their measurements, and that what they set side by side is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import ingest, models, other_world, scale, training_memory, training_time
from benchmarks.chances import expected_gain
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.files import read_json, write_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.ingest import build
from pipeline.ingest.config import IngestConfig
from pipeline.metrics import Labelled, reciprocal_rank
from pipeline.schemas.encoded import Encoded
from pipeline.schemas.raw import RAW_FILES

ROOT = Path(__file__).resolve().parents[1]


def measured(name: str, **values: float) -> dict[str, Any]:
    """A line of benchmarks/models.py."""
    speeds = dict.fromkeys(("training", "training_cpu", "inference", "inference_cpu"), 100.0)
    return {"name": name, **speeds, "memory": 1.0, "auc": 0.5, "log_loss": 0.5, "map12": 0.5, **values}


def test_every_contestant_has_a_script_and_is_beside_another() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks" / "contestants").glob("*.py")} - {"run"}
    assert set(models.IN_PEERS) == scripts
    assert not models.CONTESTANTS.keys() & models.ALSO.keys()
    assert set(models.BESIDE) | set(models.BESIDE.values()) <= scripts


def test_unshared_rows_are_the_same_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    truth = models.draw_truth(random)
    parts = {name: models.draw(random, 7, truth) for name in ("history", "target")}
    models.write(tmp_path, parts, models.settings(epochs=1, threads=1), unshared=True)
    shared, unshared = (Encoded(tmp_path / name) for name in ("encoded", "unshared"))
    assert {field.per for field in shared.fields.values()} == {"display", "impression"}
    assert {field.per for field in unshared.fields.values()} == {"impression"}
    for i, name in enumerate(shared.fields):
        for where, per in (("encoded", shared.fields[name].per), ("unshared", "impression")):
            stored = np.load(tmp_path / where / "history" / "fields" / f"{name}.npy")
            lengths = np.diff(parts["history"].offsets)
            rows = np.repeat(stored, lengths) if per == "display" else stored
            np.testing.assert_array_equal(rows, parts["history"].codes[:, i])


def test_models_are_set_beside_what_they_are_judged_by() -> None:
    rows = [
        measured("ours", training=300.0, log_loss=0.4),
        measured("ours_normdnn", training=75.0, map12=0.49),
        measured("ours_dnn"),
        measured("ours_unshared", inference=50.0, log_loss=0.4),
    ]
    lines = models.table(rows).splitlines()
    assert "| ours_normdnn | ours_dnn | 75 | 1.3 |" in lines[3]
    assert "| ours_unshared (also) | ours | 100 | 3.0 | 100 | 50 | 2.0 |" in lines[5]
    told = models.verdicts(rows)
    assert "| cost of training | 1.33 | at most 1.2 | **no** |" in told
    assert "| MAP@12 | -0.0100 | no less | **no** |" in told
    assert "| ours | 3.00 | 2.00 | +0.00000 |" in told
    assert "ours_ffm" not in told
    assert not models.verdicts(rows[:1])


def test_what_is_to_be_expected_is_the_mean_of_many_draws() -> None:
    random = np.random.default_rng(1)
    lengths = random.integers(1, 15, 40)
    offsets = np.append(0, np.cumsum(lengths))
    display = np.repeat(np.arange(40), lengths)
    oracle = random.normal(0, 2, len(display)).astype(np.float32)
    score = np.round(oracle + random.normal(0, 1, len(display)))  # with ties

    def labelled(clicked: Any) -> Labelled:
        return Labelled(
            clicked=clicked, offsets=offsets, display_id=np.arange(40), ad_id=np.arange(len(display)), slices={}
        )

    gains = []
    for _ in range(4000):
        noisy = oracle + random.gumbel(size=len(display))
        labels = labelled(noisy == np.maximum.reduceat(noisy, offsets[:-1])[display])
        gains.append(reciprocal_rank(score, labels.clicked, offsets, labels.display_id, labels.ad_id))
    found = expected_gain(score, oracle, labelled(np.zeros(len(display))))
    np.testing.assert_allclose(found, np.mean(gains, axis=0), atol=0.03)
    assert found.mean() == pytest.approx(np.mean(gains), abs=0.003)
    assert (found <= expected_gain(oracle, oracle, labelled(np.zeros(len(display)))) + 1e-12).all()


def test_fewer_rows_are_the_first_of_more() -> None:
    random = np.random.default_rng(1)
    more = models.draw(random, 8, models.draw_truth(random))
    less = training_memory.first(more, 2)
    assert len(less.codes) == len(less.clicked) == less.offsets[-1] == more.offsets[2]
    np.testing.assert_array_equal(less.codes, more.codes[: len(less.codes)])


def test_memory_that_grows_with_the_rows_is_told() -> None:
    mib = training_memory.MIB
    told = training_memory.report({"a": (100 * mib, 100 * mib), "b": (100 * mib, 400 * mib)}, (1 << 20, 4 << 20))
    assert "| a | 100 | 100 | 1.00 | yes | 0.0 | 0.1 | yes |" in told
    assert "| b | 100 | 400 | 4.00 | **no** | 100.0 | 8.1 | yes |" in told
    assert "**no** |\n" in training_memory.report({"c": (mib, 1000 * mib)}, (1 << 20, 4 << 20))


def test_the_time_of_training_follows_from_a_log() -> None:
    """A stage that ran twice counts as it ran last; what is no model's is left out; tuning does not grow."""
    ran = [
        ("encode@validation", 99),
        ("tune_factorization@ffm", 3600),
        ("train_factorization@ffm", 1),
        ("train_factorization@ffm", 36),
        ("refit_factorization@ffm", 72),
        ("out_of_fold@validation-ffm", 18),
        ("out_of_fold@submission-ffm", 36),
        ("train_network@wide_deep", 360),
        ("blend", 50),
    ]
    log = "".join(f"Running stage '{stage}':\n> python ...\ntook {s}.0 s, 9.9 CPU s, 1.00 GiB\n" for stage, s in ran)
    found = training_time.read_log(log)
    assert set(found) == {"ffm", "wide_deep"}
    told = training_time.report(found, {"validation": 100, "submission": 50}, ("ffm",))
    assert "| ffm | 3600 | 36 | 72 | 54 | 4.0 |" in told  # hours: 1 + 1 + 1 + 0.5 + 0.5
    assert "| wide_deep |  | 360 |  |  | 10.0 |" in told
    assert "| all |  |  |  |  | 14.0 |" in told
    assert "| members of the blend |  |  |  |  | 4.0 |" in told
    limit = training_time.Limited({"validation": 10}, {"validation": 60})
    told = training_time.report(found, {"validation": 100, "submission": 50}, (), {"wide_deep": limit})
    assert "| wide_deep |  | 360 |  |  | 2.5 |" in told  # hours: 60 s of scoring 100 times, 300 s of the fit 10 times


def test_every_raw_file_is_set_against_a_copy_of_the_same_rows(tmp_path: Path) -> None:
    files = {name.partition(".")[0] for name in ingest.TEXT}
    assert files == {name for name, file in RAW_FILES.items() if file.required} | {"page_views"}
    ingest.world(tmp_path, 400, 0)
    before = {name: len((tmp_path / name).read_text(encoding="utf-8").splitlines()) - 1 for name in ingest.REPEATED}
    for name in ingest.REPEATED:
        ingest.repeat(tmp_path / name, 3 * (tmp_path / name).stat().st_size)
    runtime = RuntimeConfig(threads=1, temp_directory=str(tmp_path / "tmp"))
    for label in ingest.TEXT:
        ingest.ours(tmp_path / label, tmp_path, runtime)
        ingest.bare(tmp_path / label, tmp_path, runtime)
        ours, bare = (pq.read_metadata(tmp_path / f"{name}.parquet") for name in (label.partition(".")[0], "bare"))
        if label in before:
            assert ours.num_rows == 3 * before[label], label
        if label != "page_views.csv":  # of which ours keeps those of users with an event
            assert ours.num_rows == bare.num_rows, label


def results_of(seconds: dict[int, float], peak: int) -> scale.Results:
    """Worlds of one stage that takes so many CPU seconds."""
    worlds = {
        size: [scale.Run("encode", "validation", scale.Cost(cpu, cpu, peak, peak, 0), 1000, 100)]
        for size, cpu in seconds.items()
    }
    tight = {"encode validation": worlds[min(worlds)][0]}
    counts = {size: {"events": 100 // size, "clicks_test": 200 // size} for size in worlds}
    return scale.Results("a machine", "4GB", worlds, counts, tight, "")


def test_growth_beyond_what_is_allowed_is_told() -> None:
    line = "| every stage: {} | encode validation {:.2f} | {} | {} |"
    told = scale.limits(results_of({160: 1.0, 80: 2.0, 40: 4.0}, scale.GIB).worlds)
    assert line.format("power of CPU time", 1, 1.1, "yes") in told
    assert line.format("peak GiB at 1/40, with mapped files", 1, 8, "yes") in told
    told = scale.limits(results_of({160: 1.0, 80: 4.0, 40: 16.0}, 9 * scale.GIB).worlds)
    assert line.format("power of CPU time", 2, 1.1, "**no**") in told
    assert line.format("peak GiB at 1/40, with mapped files", 9, 8, "**no**") in told
    assert scale.limits(results_of({320: 1.0}, 1).worlds).count("not measured") == 2


def test_a_report_of_growth_is_made_anew_from_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "scale.md"
    monkeypatch.setattr("sys.argv", ["scale", "--report", "--out", str(out)])
    with pytest.raises(SystemExit):
        scale.main()
    results = results_of({160: 1.0, 80: 2.0, 40: 4.0}, scale.GIB)
    results.save(tmp_path / "scale.json")
    scale.main()
    assert out.read_text(encoding="utf-8") == scale.report(results)
    assert scale.limits(results.worlds) in scale.report(results)


def test_the_other_world_is_one_for_the_pipeline(tmp_path: Path, runtime: RuntimeConfig) -> None:
    """Its files pass ingest without a warning; its truth is that of clicks_test, and its oracle ranks by it."""
    other_world.write_world(tmp_path, 2000, 1, other_world.Strengths())
    again = tmp_path / "again"
    other_world.write_world(again, 2000, 1, other_world.Strengths())
    for path in (tmp_path / "raw").iterdir():
        assert path.read_bytes() == (again / "raw" / path.name).read_bytes()
    files = {path.stem: str(path) for path in (tmp_path / "raw").iterdir()}
    write_json(tmp_path / "manifest.json", {"source": "directory", "page_views": "full", "files": files})
    with DuckDBEngine(runtime) as engine:
        build.ingest(tmp_path, tmp_path / "tables", tmp_path / "ingest.json", engine, IngestConfig())
    assert read_json(tmp_path / "ingest.json")["warnings"] == []
    test = pq.read_table(tmp_path / "tables" / "clicks_test.parquet", columns=["display_id", "ad_id"])
    truth = pq.read_table(tmp_path / "truth" / "displays.parquet")
    told = truth.filter(pa.array(truth["display_id"].to_numpy() >= test["display_id"][0].as_py()))
    for name in test.column_names:
        np.testing.assert_array_equal(told[name].to_numpy(), test[name].to_numpy())
    number, first = np.unique(told["display_id"].to_numpy(), return_index=True)
    clicked = told["clicked"].to_numpy()
    assert (np.add.reduceat(clicked, first) == 1).all()
    offsets, ads = np.append(first, len(clicked)), told["ad_id"].to_numpy()
    oracle, luck = told["oracle"].to_numpy(), np.random.default_rng(0).random(len(clicked))
    gains = [reciprocal_rank(score, clicked, offsets, number, ads).mean() for score in (oracle, luck)]
    assert gains[0] > gains[1] + 0.15
