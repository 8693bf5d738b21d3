"""The typed tables, one function each: stage the raw file, check it, write data/tables/NAME.parquet."""

from __future__ import annotations

from pipeline.ingest.checks import IN_RANGE, TimeRange, check_apart, check_clicks, check_duplicates, check_lengths
from pipeline.ingest.page_views import page_views
from pipeline.ingest.report import parquet
from pipeline.ingest.staging import Build, ClickCount, finish, load, stage, write
from pipeline.schemas.tables import TABLES


def build_tables(build: Build, wanted_views: str) -> None:
    """Write all tables; page_views, the long one, last, so that an error elsewhere shows early."""
    clicks_train(build)
    clicks_test(build)
    for name in ("clicks_train", "clicks_test"):
        check_lengths(build, name)
    events(build)
    for name in ("promoted_content", "documents_meta"):
        of_distinct(build, name)
    for name in ("documents_categories", "documents_topics", "documents_entities"):
        load(build, name, build.path(name))
    if "sample_submission" in build.inputs:  # no table comes of it, but its rows are checked like all others
        load(build, "sample_submission", build.engine.scratch("sample_submission.parquet"))
    page_views(build, wanted_views)


def clicks_train(build: Build) -> None:
    """The impressions of train; what was watched while they streamed by spares the checks that group them."""
    clicks = ClickCount()
    staged = stage(build, "clicks_train", "display_id", "ad_id", watchers=(clicks,))
    check_duplicates(build, staged, "duplicate_impression", best="clicked DESC")
    if not (staged.order.strict and clicks.is_one):
        check_clicks(build, staged)
    finish(build, staged, by="display_id, ad_id")


def clicks_test(build: Build) -> None:
    staged = stage(build, "clicks_test", "display_id", "ad_id")
    check_duplicates(build, staged, "duplicate_impression")
    check_apart(build, staged)
    finish(build, staged, by="display_id, ad_id")


def events(build: Build) -> None:
    """Events, and the users that they name."""
    times = TimeRange(build, "events")
    staged = stage(build, "events", "display_id", watchers=(times,), scratch=True)
    times.note()
    if times.outside:
        build.engine.sql(f"INSERT INTO dropped SELECT row FROM {staged.all_rows} WHERE NOT {IN_RANGE}")
    check_duplicates(build, staged, "duplicate_event", best="timestamp")
    rows = staged.rows(build.engine)
    in_order = f"SELECT DISTINCT uuid FROM {rows} ORDER BY uuid"  # numbered as they stream by: sorted but once
    write(build, f"SELECT (row_number() OVER () - 1)::UINTEGER AS user_id, uuid FROM ({in_order})", build.path("users"))
    columns, users = ", ".join(TABLES["events"]), parquet(build.path("users"))
    query = f"SELECT {columns} FROM {rows} LEFT JOIN {users} USING (uuid) ORDER BY display_id"
    write(build, query, build.path("events"))
    staged.path.unlink()


def of_distinct(build: Build, name: str) -> None:
    """A table that has one row for each id of its first column."""
    staged = stage(build, name, next(iter(TABLES[name])))
    check_duplicates(build, staged, "duplicate_key")
    finish(build, staged)
