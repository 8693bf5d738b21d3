"""The report of an ingest: what was read, what was dropped, what does not join, and every warning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.duckdb_engine import DuckDBEngine
from pipeline.core.progress import log
from pipeline.ingest.readers import RawStream
from pipeline.ingest.rewriters import PublishTime
from pipeline.schemas.raw import DAY_MS
from pipeline.schemas.tables import TABLES

DAYS = 15
#: The share of keys that do not find their row from which on that is worth a warning.
_MANY = 0.1
#: (table, key, the tables in one of which the key should be found)
_JOINS = (
    ("clicks_train", "display_id", ("events",)),
    ("clicks_test", "display_id", ("events",)),
    ("events", "display_id", ("clicks_train", "clicks_test")),
    ("clicks_train", "ad_id", ("promoted_content",)),
    ("clicks_test", "ad_id", ("promoted_content",)),
    ("events", "document_id", ("documents_meta",)),
    ("promoted_content", "document_id", ("documents_meta",)),
    ("document_views", "document_id", ("documents_meta",)),
    ("documents_categories", "document_id", ("documents_meta",)),
    ("documents_topics", "document_id", ("documents_meta",)),
    ("documents_entities", "document_id", ("documents_meta",)),
)
#: Rows that should be there once, but whose duplicates are only counted.
_COUNTED_KEYS = {
    "documents_categories": "document_id, category_id",
    "documents_topics": "document_id, topic_id",
    "documents_entities": "document_id, entity_id",
}


def parquet(path: Path, options: str = "") -> str:
    """A Parquet file as SQL."""
    text = str(path).replace("'", "''")
    return f"read_parquet('{text}'{f', {options}' if options else ''})"


@dataclass(slots=True)
class Report:
    """Grows while the tables are built; `value` is what is written."""

    files: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    displays: dict[str, dict[str, Any]] = field(default_factory=dict)
    page_views: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Log a warning, and keep it."""
        log.warning("warning: %s", text)
        self.warnings.append(text)

    def add_file(self, stream: RawStream) -> None:
        """Note what went through a finished stream."""
        source, name = stream.source, stream.source.spec.name
        self.files[name] = {"form": source.form, "rows": stream.rows, "nulls": stream.nulls}
        for what, rows, examples in stream.dirt:
            found = {"rows": rows, "examples": examples} if examples else {"rows": rows}
            self.files[name].setdefault("dirt", {})[what] = found
        if source.empty:
            self.warn(f"{source.path.name}: has no rows; what they would tell is unknown")
        if source.unread:
            self.warn(f"{source.path.name}: has columns that are not read: {', '.join(source.unread)}")
        if source.byte_order_mark:
            self.warn(f"{source.path.name}: begins with a byte order mark, which was passed over")
        if source.carriage_returns:
            self.warn(f"{source.path.name}: has lines that end in CRLF, which were read like those that end in LF")

    def drop(self, policy: str, first: str, what: str, count: int, rows: int) -> None:
        """Note what a policy dropped: `first` tells the first case, of `count` cases of `what` in `rows` rows."""
        noted = self.dropped.setdefault(policy, {})
        for key, number in {what: count, "rows": rows}.items():
            noted[key] = noted.get(key, 0) + number
        size = f"{rows} rows" if what == "rows" else f"{count} {what}, {rows} rows"
        self.warn(f"{first}; dropped {size} (ingest.{policy}: drop)")

    def value(self, engine: DuckDBEngine, folder: Path) -> dict[str, Any]:
        """The whole report; reads the finished tables in `folder`."""
        tables = {name: parquet(folder / f"{name}.parquet") for name in TABLES}
        events = _events(engine, tables["events"])
        if events["outside_of_the_days"]:
            self.warn(f"events: {events['outside_of_the_days']} rows have a timestamp outside of the {DAYS} days")
        duplicates = {name: _duplicates(engine, tables[name], keys) for name, keys in _COUNTED_KEYS.items()}
        orphans = _orphans(engine, tables)
        self._warn_of_gaps(orphans, self.displays["clicks_test"]["displays"])
        return {
            "files": self.files,
            "tables": {name: engine.sql(f"SELECT count(*) FROM {table}")[0][0] for name, table in tables.items()},
            "dropped": self.dropped,
            "duplicates": {**self.duplicates, **duplicates},
            "orphans": orphans,
            "events": events,
            "page_views": self.page_views,
            "displays": self.displays,
            "warnings": self.warnings,
        }

    def _warn_of_gaps(self, orphans: dict[str, Any], test_displays: int) -> None:
        """What is unlike the competition's files, though nothing in it is wrong by itself."""
        for name, found in orphans.items():
            if found["share"] >= _MANY:
                self.warn(f"{name}: {found['count']} of {found['of']} ({found['share']:.1%})")
        sample = self.files.get("sample_submission", {}).get("rows", test_displays)
        if sample != test_displays:
            self.warn(f"sample_submission has {sample} displays, clicks_test has {test_displays}")
        unread = self.files["documents_meta"].get("dirt", {}).get(PublishTime.NO_DATE)
        if unread:
            shown = ", ".join(map(repr, unread["examples"]))
            self.warn(
                f"documents_meta: {unread['rows']} values of publish_time are no date (such as {shown}); unknown now"
            )


def _duplicates(engine: DuckDBEngine, table: str, keys: str) -> int:
    ((count,),) = engine.sql(
        f"SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (SELECT count(*) AS n FROM {table} GROUP BY {keys})"
    )
    return int(count)


def _orphans(engine: DuckDBEngine, tables: dict[str, str]) -> dict[str, Any]:
    """For each join that the pipeline makes: how many distinct keys do not find their row."""
    result = {}
    for table, key, others in _JOINS:
        there = " UNION ALL ".join(f"SELECT {key} FROM {tables[other]}" for other in others)
        total, orphans = engine.sql(
            f"WITH keys AS MATERIALIZED (SELECT DISTINCT {key} FROM {tables[table]}) "
            f"SELECT (SELECT count(*) FROM keys), (SELECT count(*) FROM keys ANTI JOIN ({there}) USING ({key}))"
        )[0]
        name = f"{table}.{key} not in {' or '.join(others)}"
        result[name] = {"count": orphans, "of": total, "share": round(orphans / total, 6) if total else 0.0}
    return result


def _events(engine: DuckDBEngine, table: str) -> dict[str, Any]:
    first, last, outside, users = engine.sql(
        f"SELECT min(timestamp), max(timestamp), count(*) FILTER (timestamp NOT BETWEEN 0 AND {DAYS * DAY_MS - 1}), "
        f"max(user_id) + 1 FROM {table}"
    )[0]
    inside = f"timestamp BETWEEN 0 AND {DAYS * DAY_MS - 1}"
    days = engine.sql(f"SELECT DISTINCT timestamp // {DAY_MS} AS day FROM {table} WHERE {inside} ORDER BY day")
    return {
        "days": [day for (day,) in days],
        "first_timestamp": first,
        "last_timestamp": last,
        "outside_of_the_days": outside,
        "users": users,
    }
