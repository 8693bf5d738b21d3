"""The typed tables, one function each: stage the raw file, check it, write data/tables/NAME.parquet."""

from __future__ import annotations

from pipeline.ingest.checks import IN_RANGE, TimeRange, check_apart, check_clicks, check_duplicates, check_lengths
from pipeline.ingest.numbering import Numbering
from pipeline.ingest.page_views import page_views
from pipeline.ingest.report import parquet
from pipeline.ingest.staging import Build, ClickCount, finish, load, stage, write
from pipeline.ingest.writing import write_parquet
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
    """Events, and the users that they name, numbered while the file streams by."""
    times, users = TimeRange(build, "events"), Numbering("uuid", "user_id")
    staged = stage(build, "events", "display_id", watchers=(times,), rewriters=(users,))
    times.note()
    if times.outside:
        build.engine.sql(f"INSERT INTO dropped SELECT row FROM {staged.all_rows} WHERE NOT {IN_RANGE}")
    check_duplicates(build, staged, "duplicate_event", best="timestamp")
    as_it_came = finish(build, staged, by="display_id")
    write_parquet(build.path("users"), *users.table())
    if not as_it_came:
        _number_again(build)


def _number_again(build: Build) -> None:
    """Number the users in the order in which events has them by now, without those whose events were dropped."""
    events, users = build.path("events"), build.path("users")
    build.engine.sql(
        "CREATE OR REPLACE TEMP TABLE numbers AS "
        "SELECT user_id AS before, (row_number() OVER () - 1)::UINTEGER AS after "
        f"FROM (SELECT user_id FROM {parquet(events)} GROUP BY user_id ORDER BY min(display_id))"
    )
    for path, order in ((events, "display_id"), (users, "user_id")):
        renumbered = f"SELECT rows.* REPLACE (after AS user_id) FROM {parquet(path)} AS rows"
        write(build, f"{renumbered} JOIN numbers ON user_id = before ORDER BY {order}", path)


def of_distinct(build: Build, name: str) -> None:
    """A table that has one row for each id of its first column."""
    staged = stage(build, name, next(iter(TABLES[name])))
    check_duplicates(build, staged, "duplicate_key")
    finish(build, staged)
