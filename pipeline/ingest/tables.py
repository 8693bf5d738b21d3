"""The typed tables, one function each: stage the raw file, check it, write data/tables/NAME.parquet."""

from __future__ import annotations

from pipeline.ingest.checks import check_apart, check_clicks, check_duplicates
from pipeline.ingest.report import NO_DATE, parquet
from pipeline.ingest.staging import Build, finish, load, stage, write
from pipeline.schemas.raw import DAY_MS, EPOCH_MS
from pipeline.schemas.tables import TABLES

#: A document published before 1990, or later than a day after the competition's 15 days, has no known time.
_TIME = "try_cast(publish_time AS TIMESTAMP)"
_IMPLAUSIBLE = {
    NO_DATE: f"epoch_ms({_TIME}) IS NULL",
    "publish_time is before 1990": f"{_TIME} < TIMESTAMP '1990-01-01'",
    "publish_time is after the competition": f"epoch_ms({_TIME}) > {EPOCH_MS + 16 * DAY_MS}",
}


def build_tables(build: Build, page_views: str) -> None:
    """Write all tables; page_views, the long one, last, so that an error elsewhere shows early."""
    clicks_train(build)
    clicks_test(build)
    events(build)
    promoted_content(build)
    documents_meta(build)
    for name in ("documents_categories", "documents_topics", "documents_entities"):
        load(build, name, build.path(name))
    if "sample_submission" in build.inputs:  # no table comes of it, but its rows are checked like all others
        load(build, "sample_submission", build.engine.scratch("sample_submission.parquet"))
    views(build, page_views)


def clicks_train(build: Build) -> None:
    staged = stage(build, "clicks_train", "display_id", "ad_id")
    check_duplicates(build, staged, "duplicate_impression", best="clicked DESC")
    check_clicks(build, staged)
    finish(build, staged, by="display_id, ad_id")


def clicks_test(build: Build) -> None:
    staged = stage(build, "clicks_test", "display_id", "ad_id")
    check_duplicates(build, staged, "duplicate_impression")
    check_apart(build, staged)
    finish(build, staged, by="display_id, ad_id")


def events(build: Build) -> None:
    """Events, and the users that they name."""
    staged = stage(build, "events", "display_id")
    check_duplicates(build, staged, "duplicate_event", best="timestamp")
    build.engine.sql(f"CREATE OR REPLACE TEMP TABLE uuids AS SELECT DISTINCT uuid FROM {staged.rows} ORDER BY uuid")
    write(build, "SELECT (row_number() OVER () - 1)::UINTEGER AS user_id, uuid FROM uuids", "users")
    build.engine.sql("DROP TABLE uuids")
    columns, users = ", ".join(TABLES["events"]), parquet(build.path("users"))
    order = "" if staged.order.strict else "ORDER BY display_id"
    write(build, f"SELECT {columns} FROM {staged.rows} LEFT JOIN {users} USING (uuid) {order}", "events")
    staged.path.unlink()


def promoted_content(build: Build) -> None:
    staged = stage(build, "promoted_content", "ad_id")
    check_duplicates(build, staged, "duplicate_key")
    finish(build, staged)


def documents_meta(build: Build) -> None:
    """Source, publisher and time of publication of each document; times that cannot be are null, and counted."""
    staged = stage(build, "documents_meta", "document_id")
    check_duplicates(build, staged, "duplicate_key")
    implausible = " OR ".join(_IMPLAUSIBLE.values())
    write(
        build,
        "SELECT document_id, source_id, publisher_id, "
        f"CASE WHEN NOT ({implausible}) THEN epoch_ms({_TIME}) - {EPOCH_MS} END AS publish_time "
        f"FROM {staged.rows} ORDER BY row",
        "documents_meta",
    )
    for what, condition in _IMPLAUSIBLE.items():
        wrong = f"FROM {staged.rows} WHERE publish_time IS NOT NULL AND {condition}"
        ((count,),) = build.engine.sql(f"SELECT count(*) {wrong}")
        # the farthest from the competition first
        farthest = f"abs(epoch_ms({_TIME}) - {EPOCH_MS}) DESC, publish_time"
        examples = build.engine.sql(f"SELECT publish_time {wrong} GROUP BY publish_time ORDER BY {farthest} LIMIT 3")
        build.report.dirt("documents_meta", what, count, [text for (text,) in examples])
    staged.path.unlink()


def views(build: Build, wanted: str) -> None:
    """Page views, in one pass through the raw file, in its order; an empty table without a file."""
    columns = TABLES["page_views"].items()
    name = _views_file(build, wanted)
    build.report.page_views = {"read": name or "none", "wanted": wanted}
    if name is None:
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns)
        write(build, f"SELECT {nulls} LIMIT 0", "page_views")
        return
    selected = ", ".join(column for column, _ in columns)
    query = f"SELECT {selected} FROM raw_rows LEFT JOIN {parquet(build.path('users'))} USING (uuid)"
    load(build, name, build.path("page_views"), query)


def _views_file(build: Build, wanted: str) -> str | None:
    """The raw file of page views to read; a warning if it is not the wanted one."""
    if wanted == "none":
        return None
    if wanted == "full" and "page_views" in build.inputs:
        return "page_views"
    found = "page_views_sample" if "page_views_sample" in build.inputs else None
    if found is None or wanted == "full":
        missing = "page_views" if wanted == "full" else "page_views_sample"
        outcome = "page_views_sample was read instead" if found else "the table page_views is empty"
        build.report.warn(f"data.page_views is {wanted}, but there is no {missing}: {outcome}")
    return found
