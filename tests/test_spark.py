"""Spark gives what DuckDB gives: expressions one by one, and every stage and feature group on the small world.

One Spark session, of one of the workers, computes everything; the tests compare the files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.collaborative.attributes import read_attributes
from pipeline.collaborative.viewed import read_traced, read_viewed
from pipeline.core import engine as engine_module
from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.engine import Engine, open_engine
from pipeline.core.errors import UserError
from pipeline.core.files import atomic_path, read_json
from pipeline.core.runtime import RuntimeConfig
from pipeline.encode import EncodeConfig, encode_split
from pipeline.features import base
from pipeline.features.smoothing import SmoothingConfig
from pipeline.split import SplitConfig
from pipeline.stages import encode, features, split, views
from pipeline.views import ViewsConfig
from tests.discovery import feature_groups

PARTS = ("history", "target")
#: Groups that are not fitted; what the others ask an engine for is compared apart.
GROUPS = tuple(name for name, group in feature_groups().items() if group.learner is None)
#: Groups that are computed and encoded from the stages' command lines.
ENCODED = ("ids", "context", "views", "rates")
#: What makes Spark quick where there is next to nothing to do.
SMALL = {
    "spark.sql.shuffle.partitions": 2,
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is none")


@pytest.fixture(scope="session")
def spark_runtime(runtime: RuntimeConfig) -> RuntimeConfig:
    pytest.importorskip("pyspark", reason="PySpark is not installed: make spark")
    return replace(runtime, engine="spark", spark_config=SMALL)


# --- expressions --------------------------------------------------------------------------------------------------

NUMBERS = pa.table(
    {
        "n": pa.array(range(8), pa.int64()),
        "id": pa.array([0, 1, 2, 2, 2**31, 2**32 - 1, None, 7], pa.uint32()),
        "small": pa.array([0, 1, 255, 3, None, 5, 6, 6], pa.uint8()),
        "x": pa.array([0.5, 1.5, 2.5, -0.5, -2.5, 0.0, None, 1e6], pa.float64()),
        "y": pa.array([0.1, 0.0, 2.5, -0.0, 0.0, 0.0, 1.0, None], pa.float32()),
        "word": pa.array(["b", "a", None, "B", "aé", "", "b", "Z"], pa.string()),
        "yes": pa.array([True, False, None, True, False, True, None, False], pa.bool_()),
    }
)


def _grouped(table: ir.Table) -> ir.Table:
    return table.group_by(n=table.n % 3).aggregate(
        rows=table.count(),
        some=table.count(where=table.yes),
        known=table.id.count(),
        kinds=table.word.nunique(),
        total=table.id.sum().cast("int64"),
        most=table.small.max(where=table.yes),
        mean=table.x.mean(),
    )


def _listed(table: ir.Table) -> ir.Table:
    pair = ibis.struct({"id": table.id.cast("uint32"), "weight": table.small.cast("float32")})
    kept = table.filter(table.id.notnull()).group_by(n=table.n % 3).aggregate(bag=pair.collect())
    return kept.mutate(bag=kept.bag.sort(), length=kept.bag.length())


def _unnested(table: ir.Table) -> ir.Table:
    bags = _listed(table).select("n", "bag").unnest("bag")
    return bags.select(n=bags.n * 10 + ibis.row_number().over(group_by=bags.n, order_by=bags.bag), id=bags.bag.id)


def _windowed(table: ir.Table) -> ir.Table:
    of_small = ibis.window(group_by=table.n % 2, order_by=[table.small.desc(), table.n])
    before = ibis.window(group_by=table.n % 2, order_by=table.n, preceding=(None, 1), following=None)
    return table.select(
        "n",
        place=ibis.row_number().over(of_small),
        rank=ibis.rank().over(ibis.window(group_by=table.n % 2, order_by=table.small)),
        next=table.id.lead().over(of_small),
        first=table.id.first().over(of_small),
        so_far=table.id.sum().over(before).cast("int64"),
        by_word=ibis.row_number().over(ibis.window(order_by=[table.word, table.n])),
    )


#: name -> an expression over NUMBERS with a column `n` to sort by
EXPRESSIONS: dict[str, Callable[[ir.Table], ir.Table]] = {
    "types": lambda t: t.mutate(more=ibis.literal(3, "uint8"), none=ibis.null("uint32"), half=ibis.literal(0.5)),
    "casts": lambda t: t.select(
        "n",
        **{f"to_{kind}": t.x.abs().cast(kind) for kind in ("int32", "uint32", "int64", "float32")},
        yes=t.yes.cast("int8"),
        number=t.small.cast("string"),
    ),
    "arithmetic": lambda t: t.select(
        "n",
        whole=t.id.cast("int64") * 7 // 3 % 5,
        negative=(t.n - 4) % 3,
        share=t.n / 7 * 0.3,
        rounded=(t.x * 10).round().cast("int64"),
        least=ibis.least(t.n, 3),
        text=t.word + ">" + t.word,
    ),
    "no numbers": lambda t: t.select(
        "n",
        over=t.x / t.y.nullif(0),
        logarithm=(t.x * t.x + 1).ln(),
        nan=ibis.literal(float("nan")) + t.x,
        none=(ibis.literal(float("nan")) + t.x).isnull(),
        some=(ibis.literal(float("nan")) + t.x).notnull(),
        filled=t.x.fill_null(7.0),
    ),
    "groups": _grouped,
    "lists": _listed,
    "unnested": _unnested,
    "windows": _windowed,
    "joins": lambda t: t.left_join(_grouped(t), "n").drop("n_right"),
    "none": lambda t: t.filter(t.n > 99),
}


def write_expressions(engine: Engine, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(NUMBERS, folder / "numbers.parquet")
    table = engine.table(folder / "numbers.parquet")
    for name, function in EXPRESSIONS.items():
        engine.write(function(table).order_by("n"), folder / f"{name}.parquet")
        kept = engine.once(function(engine.once(table)))
        engine.write(kept.order_by("n"), folder / f"{name}.kept.parquet")


# --- stages -------------------------------------------------------------------------------------------------------


def write_params(path: Path, runtime: RuntimeConfig, smoothing: SmoothingConfig, encoding: EncodeConfig) -> None:
    params = {
        "runtime": runtime,
        "split": SplitConfig(),
        "views": ViewsConfig(),
        "smoothing": smoothing,
        "encode": encoding,
    }
    sections = {name: asdict(section) for name, section in params.items()}
    path.write_text(yaml.safe_dump({**sections, "features": list(ENCODED), "leaks": True}), encoding="utf-8")


def run_stages(params: Path, tables: Path, out: Path) -> None:
    """From tables to encoded, from the stages' command lines."""

    def arguments(**options: object) -> list[str]:
        pairs = [(f"--{name}", str(value)) for name, value in {**options, "params": params}.items()]
        return [text for pair in pairs for text in pair]

    for name in ("validation", "submission"):
        split.main(arguments(split=name, tables=tables, out=out / "splits" / name))
    of_validation = out / "splits/validation"
    views.main(arguments(tables=tables, split=of_validation, out=out / "views"))
    for group in ENCODED:
        where = {"tables": tables, "split": of_validation, "views": out / "views", "out": out / "features" / group}
        features.main(arguments(group=group, **where))
    encode.main(arguments(split=of_validation, features=out / "features", out=out / "encoded"))


def write_others(engine: Engine, tables: Path, out: Path, smoothing: SmoothingConfig) -> None:
    """The groups that `run_stages` leaves out."""
    sources = base.Sources(tables, out / "splits/validation", out / "views")
    for group in (name for name in GROUPS if name not in ENCODED):
        write = base._writer(engine, base.load_group(group), sources, smoothing, None)
        for part in PARTS:
            write(part, out / "features" / group / f"{part}.parquet")


def write_learned_from(engine: Engine, tables: Path, split: Path, path: Path) -> None:
    """What groups that are fitted ask an engine for."""
    traced = read_traced(engine, tables, split / "history.parquet", 10**9, 300)
    viewed = read_viewed(engine, tables, split / "history.parquet", 10**9, 300)
    attributes = read_attributes(engine, tables, ("topic", "source"))
    weights = attributes.weights
    np.savez(
        path,
        user=viewed.user,
        document=viewed.document,
        day=viewed.day,
        became=traced.what,
        of_document=traced.document,
        of_user=traced.user,
        documents=attributes.documents,
        weights=weights.data,
        indices=weights.indices,
        indptr=weights.indptr,
    )


@pytest.fixture(scope="session")
def on_spark(
    build_once: Callable[[str, Callable[[Path], object]], Path],
    tables: Path,
    spark_runtime: RuntimeConfig,
    smoothing: SmoothingConfig,
    encode_config: EncodeConfig,
) -> Path:
    """A folder of all that Spark has made: expressions, splits, views, features, encoded."""

    def make(path: Path) -> None:
        with atomic_path(path) as partial, open_engine(spark_runtime) as engine:  # the stages use its session
            write_expressions(engine, partial / "expressions")
            write_params(partial / "params.yaml", spark_runtime, smoothing, encode_config)
            run_stages(partial / "params.yaml", tables, partial)
            write_others(engine, tables, partial, smoothing)
            write_learned_from(engine, tables, partial / "splits/validation", partial / "learned.npz")

    return build_once("spark", make)


def check_equal(found: Path, expected: Path) -> None:
    """The same schema and values: floats within 1e-6, everything else exactly."""
    ours, theirs = pq.read_table(found), pq.read_table(expected)
    assert ours.schema.equals(theirs.schema)
    assert ours.num_rows == theirs.num_rows
    for name in ours.column_names:
        check_columns(ours[name].combine_chunks(), theirs[name].combine_chunks(), name)


def check_columns(ours: pa.Array, theirs: pa.Array, name: str) -> None:
    assert ours.is_null().equals(theirs.is_null()), name
    if pa.types.is_list(ours.type):
        assert ours.value_lengths().equals(theirs.value_lengths()), name
        check_columns(ours.flatten(), theirs.flatten(), name)
    elif pa.types.is_struct(ours.type):
        for field in ours.type.names:
            check_columns(ours.field(field), theirs.field(field), f"{name}.{field}")
    elif pa.types.is_floating(ours.type):
        left, right = (np.asarray(column.to_numpy(zero_copy_only=False)) for column in (ours, theirs))
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7, err_msg=name)
    else:
        assert ours.equals(theirs), name


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_means_the_same(on_spark: Path, engine: DuckDBEngine, tmp_path: Path, name: str) -> None:
    write_expressions(engine, tmp_path)
    for file in (f"{name}.parquet", f"{name}.kept.parquet"):
        check_equal(on_spark / "expressions" / file, tmp_path / file)


@pytest.mark.parametrize("name", ["validation", "submission"])
def test_a_split_is_the_same(on_spark: Path, splits: dict[str, Path], name: str) -> None:
    found = on_spark / "splits" / name
    assert read_json(found / "split.json") == read_json(splits[name] / "split.json")
    for part in PARTS:
        assert (found / f"{part}.parquet").read_bytes() == (splits[name] / f"{part}.parquet").read_bytes()


def test_page_views_by_display_are_the_same(on_spark: Path, views: dict[str, Path]) -> None:
    files = sorted(path.name for path in views["validation"].iterdir())
    assert len(files) >= 3
    for file in files:
        assert pq.read_metadata(views["validation"] / file).num_rows > 100
        check_equal(on_spark / "views" / file, views["validation"] / file)


def test_groups_were_found() -> None:
    assert {*ENCODED, "affinity", "crosses", "exposure", "leak", "rivals", "trends"} <= set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_the_same(on_spark: Path, features: dict[str, Path], group: str) -> None:
    for part in PARTS:
        check_equal(
            on_spark / "features" / group / f"{part}.parquet", features["validation"] / group / f"{part}.parquet"
        )


def test_what_groups_are_fitted_on_is_the_same(
    on_spark: Path, tables: Path, splits: dict[str, Path], engine: DuckDBEngine, tmp_path: Path
) -> None:
    write_learned_from(engine, tables, splits["validation"], tmp_path / "learned.npz")
    found, expected = np.load(on_spark / "learned.npz"), np.load(tmp_path / "learned.npz")
    assert min(len(expected["user"]), len(expected["weights"])) > 100
    for name in expected.files:
        assert np.array_equal(found[name], expected[name]), name


def test_what_models_read_is_the_same(
    on_spark: Path,
    splits: dict[str, Path],
    features: dict[str, Path],
    engine: DuckDBEngine,
    encode_config: EncodeConfig,
    tmp_path: Path,
) -> None:
    found, expected = on_spark / "encoded", tmp_path / "encoded"
    encode_split(engine, splits["validation"], features["validation"], list(ENCODED), encode_config, expected)
    files = sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(found) for path in found.rglob("*") if path.is_file())
    assert len(files) > 50
    for file in files:
        if file.suffix == ".parquet":
            check_equal(found / file, expected / file)
        elif file.suffix == ".npy":
            left, right = np.load(found / file), np.load(expected / file)
            assert (left.shape, left.dtype) == (right.shape, right.dtype)
            if left.dtype.kind == "f":
                np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7, err_msg=str(file))
            else:
                assert np.array_equal(left, right), file


# --- the session --------------------------------------------------------------------------------------------------


def test_a_stage_is_quiet_and_leaves_nothing(
    tables: Path,
    spark_runtime: RuntimeConfig,
    smoothing: SmoothingConfig,
    encode_config: EncodeConfig,
    tmp_path: Path,
) -> None:
    """Neither in the folder where it runs, nor in temp_directory, nor on the terminal but for its own lines."""
    work, params = tmp_path / "work", tmp_path / "params.yaml"
    work.mkdir()
    write_params(params, replace(spark_runtime, temp_directory=str(tmp_path / "spill")), smoothing, encode_config)
    command = [sys.executable, "-m", "pipeline.stages.split", "--split", "validation", "--tables", str(tables)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "split"), "--params", str(params)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(Path(engine_module.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    told, took = done.stderr.splitlines()
    assert told.startswith("validation: ")
    assert took.startswith("took ")
    assert list(work.iterdir()) == list((tmp_path / "spill").iterdir()) == []


def test_no_java(spark_runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"Java 17 or later.*{tmp_path}.*found none"):
        open_engine(spark_runtime)


def test_an_old_java(spark_runtime: RuntimeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"Java 17 or later; found .*1\.8\.0_402"):
        open_engine(spark_runtime)


def test_no_pyspark(runtime: RuntimeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("pyspark", "pipeline.core.spark"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(UserError, match="make spark"):
        open_engine(replace(runtime, engine="spark"))
