"""The feature stage against hand-written SQL: the same columns, by one DuckDB query a part, in one run.

    python -m benchmarks.features --scratch FOLDER    # the world stays there, and is made but once

A world of 1/20 of the competition is simulated, unless --displays says another size, and brought up to its features.
Both run in a process of their own, whose start counts, one after the other, and write zstd Parquet in the order of the
rows; the least of some repetitions counts, and all values are compared. The stage has to be within 1.5 times the query.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import GIB, ROOT, Cost, machine, measured, stage, table
from pipeline.core.config import read_yaml
from pipeline.core.runtime import runtime
from pipeline.schemas.impressions import PARTS
from pipeline.sources.simulation.scale import DISPLAYS

LIMIT = 1.5
SPLIT = Path("splits/validation")
RESULT = ROOT / "benchmarks" / "results" / "features.md"

CONTEXT = """
SELECT row, first, platform, country, country || '>' || state AS region, dma,
    (timestamp // 3600000 % 24)::UTINYINT AS hour, (timestamp // 14400000 % 6)::UTINYINT AS daypart,
    (timestamp // 86400000 % 7)::UTINYINT AS weekday
FROM '{split}/{part}.parquet' ORDER BY row
"""

KEYS = {"ad": "ad_id", "ad_document": "ad_document_id", "campaign": "campaign_id", "advertiser": "advertiser_id"}
_FOLD = "((display_id::BIGINT % 2147483648 * 2654435761) // 65536 % {folds})"


def rates_sql(part: str) -> str:
    """Out-of-fold counts as all counts less those of the own fold."""
    history = part == "history"
    tables, joins, columns = [], [], []
    for name, key in KEYS.items():
        counts = "count(*) AS shows, sum(clicked)::BIGINT AS clicks, sum(27720 // ads)::BIGINT AS expected"
        tables.append(f"{name}_all AS (SELECT {key}, {counts} FROM history WHERE {key} IS NOT NULL GROUP BY ALL)")
        tables.append(f"{name}_own AS (SELECT {key}, fold, {counts} FROM history WHERE {key} IS NOT NULL GROUP BY ALL)")
        joins.append(f"LEFT JOIN {name}_all ON {name}_all.{key} = i.{key}")
        if history:
            joins.append(f"LEFT JOIN {name}_own ON {name}_own.{key} = i.{key} AND {name}_own.fold = i.fold")
        n = {
            count: f"coalesce({name}_all.{count}{f' - {name}_own.{count}' if history else ''}, 0) * scale"
            for count in ("shows", "clicks", "expected")
        }
        clicked = f"({n['clicks']} + prior)"
        columns += [
            f"ln({n['shows']} + 1)::FLOAT AS {name}_shows",
            f"ln({clicked} / ({n['shows']} + {{strength}} - {clicked}))::FLOAT AS {name}_rate",
            f"ln({clicked} / ({n['expected']} / 27720 + prior))::FLOAT AS {name}_lift",
        ]
    scale = "{folds}::DOUBLE / ({folds} - 1)" if history else "1.0::DOUBLE"
    return f"""
WITH history AS (SELECT *, {_FOLD} AS fold FROM '{{split}}/history.parquet'),
    base AS (SELECT {{strength}} * sum(clicked)::DOUBLE / count(*) AS prior, {scale} AS scale FROM history),
    i AS (SELECT *, {_FOLD} AS fold FROM '{{split}}/{part}.parquet'),
    {", ".join(tables)}
SELECT row, first, {", ".join(columns)} FROM i CROSS JOIN base {" ".join(joins)} ORDER BY row
"""


IDS = """
WITH category AS (
        SELECT document_id, list({{'id': category_id, 'weight': confidence_level}} ORDER BY category_id) AS about
        FROM '{tables}/documents_categories.parquet' GROUP BY ALL
    ),
    topic AS (
        SELECT document_id, list({{'id': topic_id, 'weight': confidence_level}} ORDER BY topic_id) AS about
        FROM '{tables}/documents_topics.parquet' GROUP BY ALL
    ),
    meta AS (FROM '{tables}/documents_meta.parquet')
SELECT row, first, ad_id, ad_document_id, campaign_id, advertiser_id, ad.source_id AS ad_source_id,
    ad.publisher_id AS ad_publisher_id, cat_ad.about AS ad_category, top_ad.about AS ad_topic, user_id,
    i.document_id AS page_id, page.source_id AS page_source_id, page.publisher_id AS page_publisher_id,
    CASE WHEN first THEN cat_page.about END AS page_category, CASE WHEN first THEN top_page.about END AS page_topic
FROM '{split}/{part}.parquet' i
    LEFT JOIN meta page ON page.document_id = i.document_id LEFT JOIN meta ad ON ad.document_id = ad_document_id
    LEFT JOIN category cat_page ON cat_page.document_id = i.document_id
    LEFT JOIN category cat_ad ON cat_ad.document_id = ad_document_id
    LEFT JOIN topic top_page ON top_page.document_id = i.document_id
    LEFT JOIN topic top_ad ON top_ad.document_id = ad_document_id
ORDER BY row
"""


LEAK = """
WITH placed AS (
        SELECT *, row_number() OVER (PARTITION BY display_id, delay >= 0 ORDER BY delay, document_id) - 1 AS place
        FROM '{views}/{part}.parquet'
    ),
    own AS (
        SELECT display_id, document_id,
            max(delay) FILTER (delay < 0) AS before, min(delay) FILTER (delay >= 0) AS after,
            count(*) FILTER (delay < 0) AS times_before, count(*) FILTER (delay >= 0) AS times_after,
            min(place) FILTER (delay >= 0) AS place
        FROM placed GROUP BY ALL
    )
SELECT row, first,
    (CASE WHEN after IS NOT NULL THEN 3 WHEN before IS NOT NULL THEN 2 WHEN views IS NOT NULL THEN 1 ELSE 0 END)
        ::UTINYINT AS leak,
    ln(after / 1000 + 1)::FLOAT AS leak_delay, ln(place + 1)::FLOAT AS leak_place,
    ln(coalesce(times_after, 0) + 1)::FLOAT AS leak_times, ln(1 - before / 1000)::FLOAT AS seen_since,
    ln(coalesce(times_before, 0) + 1)::FLOAT AS seen_times, ln(coalesce(views, 0) + 1)::FLOAT AS ad_document_views
FROM '{split}/{part}.parquet' i
    LEFT JOIN own ON own.display_id = i.display_id AND own.document_id = ad_document_id
    LEFT JOIN '{views}/documents.parquet' seen ON seen.document_id = ad_document_id
ORDER BY row
"""

DOCUMENTS = """
WITH category AS (
        SELECT document_id, category_id FROM '{tables}/documents_categories.parquet'
        QUALIFY row_number() OVER (PARTITION BY document_id ORDER BY confidence_level DESC, category_id) = 1
    ),
    topic AS (
        SELECT document_id, topic_id FROM '{tables}/documents_topics.parquet'
        QUALIFY row_number() OVER (PARTITION BY document_id ORDER BY confidence_level DESC, topic_id) = 1
    ),
    meta AS (
        FROM '{tables}/documents_meta.parquet'
            LEFT JOIN category USING (document_id) LEFT JOIN topic USING (document_id)
    ),
    daily AS (
        SELECT document_id, day, sum(views) OVER (PARTITION BY document_id ORDER BY day) AS until
        FROM '{tables}/document_views.parquet'
    ),
    i AS (SELECT *, timestamp // 86400000 - 1 AS yesterday FROM '{split}/{part}.parquet')
SELECT row, first,
    age(timestamp - page.publish_time) AS page_age, age(timestamp - ad.publish_time) AS ad_age,
    age(ad.publish_time - page.publish_time) AS page_ad_age,
    (page.source_id = ad.source_id)::UTINYINT AS same_source,
    (page.publisher_id = ad.publisher_id)::UTINYINT AS same_publisher,
    (page.category_id = ad.category_id)::UTINYINT AS same_category,
    (page.topic_id = ad.topic_id)::UTINYINT AS same_topic,
    ln(coalesce(of_page.until, 0) + 1)::FLOAT AS page_views_before,
    ln(coalesce(of_ad.until, 0) + 1)::FLOAT AS ad_views_before
FROM i LEFT JOIN meta page ON page.document_id = i.document_id LEFT JOIN meta ad ON ad.document_id = ad_document_id
    ASOF LEFT JOIN daily of_page ON of_page.document_id = i.document_id AND i.yesterday >= of_page.day
    ASOF LEFT JOIN daily of_ad ON of_ad.document_id = ad_document_id AND i.yesterday >= of_ad.day
ORDER BY row
"""


#: Of a group's columns, by part, with {split}, {tables} and the like to be filled in.
QUERIES: dict[str, Callable[[str], str]] = {
    "context": lambda _: CONTEXT,
    "rates": rates_sql,
    "ids": lambda _: IDS,
    "leak": lambda _: LEAK,
    "documents": lambda _: DOCUMENTS,
}
#: Signed log days.
_AGE = "MACRO age(ms) AS (sign(ms) * ln(abs(ms) / 86400000 + 1))::FLOAT"


def write_by_hand(group: str, world: Path, out: Path) -> None:
    """What the benchmark's own process does: both parts of a group by hand-written SQL."""
    params = world / "params.yaml"
    machine_config, smoothing = runtime(params), read_yaml(params)["smoothing"]  # without Ibis, which takes its time
    out.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {machine_config.cores}")
        connection.execute(f"SET memory_limit = '{machine_config.memory_limit}'")
        connection.execute(f"SET temp_directory = '{out.parent / 'tmp'}'")
        connection.execute(f"CREATE TEMPORARY {_AGE}")
        for part in PARTS:
            filled = QUERIES[group](part).format(
                tables=world / "tables",
                split=world / SPLIT,
                views=world / "views" / SPLIT.name,
                part=part,
                folds=smoothing["folds"],
                strength=smoothing["strength"],
            )
            connection.execute(f"COPY ({filled}) TO '{out / f'{part}.parquet'}' (FORMAT parquet, COMPRESSION zstd)")


def compare(ours: Path, theirs: Path) -> None:
    """ValueError unless all columns have the same values: numbers but for the rounding of float32, all else exactly."""
    for part in PARTS:
        with pq.ParquetFile(ours / f"{part}.parquet") as a, pq.ParquetFile(theirs / f"{part}.parquet") as b:
            names = a.schema_arrow.names
            if names != b.schema_arrow.names or a.metadata.num_rows != b.metadata.num_rows:
                raise ValueError(f"{part}: {names}, {a.metadata.num_rows} rows; {b.schema_arrow.names}")
            for name in names:
                left, right = a.read([name]).combine_chunks()[name], b.read([name]).combine_chunks()[name]
                if pa.types.is_floating(left.type):
                    same = np.allclose(left.to_numpy(), right.to_numpy(), rtol=1e-5, atol=1e-6, equal_nan=True)
                else:
                    same = left.equals(right.cast(left.type))
                if not same:
                    raise ValueError(f"{part}: {name} differs")


def best(commands: dict[str, list[str]], folders: dict[str, Path], repeat: int) -> dict[str, Cost]:
    """Each command's fastest run; they take turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            shutil.rmtree(folders[name], ignore_errors=True)
            costs[name].append(measured(command))
    return {name: min(runs, key=lambda cost: cost.seconds) for name, runs in costs.items()}


def make_world(scratch: Path, displays: int) -> Path:
    """A folder with a world's parameters, tables, validation split and views by display."""
    from benchmarks.scale import make_raw, steps, write_params  # not above: the hand-written query need not load it

    world = scratch / f"world-{displays}"
    params = write_params(world, displays, "4GB", 0)
    make_raw(world, params)
    for step in steps(world / "raw", world, params):
        if step.stage in ("ingest", "split", "views") and step.split in ("", SPLIT.name) and not step.out.exists():
            step.run(world, params)
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=ROOT / "data" / "features-benchmark", help="folder of worlds")
    parser.add_argument("--displays", type=int, default=DISPLAYS // 20, help="of the world (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts (default: 3)")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"the report (default: {RESULT.relative_to(ROOT)})")
    parser.add_argument("--by-hand", nargs=3, metavar=("GROUP", "WORLD", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_hand:
        group, *paths = options.by_hand
        write_by_hand(group, *map(Path, paths))
        return
    world = make_world(options.scratch.resolve(), options.displays)
    split = world / SPLIT
    rows = []
    for group in QUERIES:
        with tempfile.TemporaryDirectory() as scratch:
            folders = {name: Path(scratch) / name for name in ("stage", "query")}
            told = ["--params", world / "params.yaml", "--tables", world / "tables", "--split", split]
            told += ["--views", world / "views" / split.name, "--group", group, "--out", folders["stage"]]
            by_hand = [sys.executable, "-m", "benchmarks.features", "--by-hand", group, world, folders["query"]]
            commands = {"stage": stage("features", *told), "query": [str(word) for word in by_hand]}
            costs = best(commands, folders, options.repeat)
            compare(folders["stage"], folders["query"])
        ours, theirs = costs["stage"], costs["query"]
        ratio, cpu = ours.seconds / theirs.seconds, ours.cpu / theirs.cpu
        peaks = [f"{cost.peak / GIB:.2f}" for cost in (ours, theirs)]
        verdict = "yes" if ratio <= LIMIT else "**no**"
        rows.append(
            [group, f"{ours.seconds:.1f}", f"{theirs.seconds:.1f}", f"{ratio:.2f}", f"{cpu:.2f}", *peaks, verdict]
        )
        print(*rows[-1], flush=True)
    count = sum(pq.read_metadata(split / f"{part}.parquet").num_rows for part in PARTS)
    head = ["group", "stage s", "query s", "ratio", "CPU ratio", "stage GiB", "query GiB", f"within {LIMIT}"]
    found = table(head, rows)
    given = f"Written by `python -m benchmarks.features`, {count:,} rows: {machine()}."
    options.out.write_text(f"# Features\n\n{given}\n\n{found}", encoding="utf-8")
    print(found)


if __name__ == "__main__":
    main()
