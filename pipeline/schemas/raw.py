"""The competition's raw files: names, columns and what a value must look like.

Source: the competition's data page and the first rows of its files. `\\N` is the files' own mark for "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Days are counted from 04:00 UTC, the start of 14 June 2016; `timestamp` is milliseconds after this epoch (ms).
EPOCH_MS = 1_465_876_799_998
DAY_MS = 86_400_000
#: Times from this day on are none of the competition's, which has 15 days: likely they count from another epoch, or in
#: another unit. What follows the tables relies on it: a day fits into an int8, and `trends`, whose weights grow to
#: 2^(day / 3 + 10), can add up all displays in an int64.
MOST_DAYS = 40
#: How many ads a display may have (the competition's have 2 to 12): `impressions` count them in a byte.
MOST_ADS = 255

_ID = r"[0-9]{1,10}"
_CONFIDENCE = r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawColumn:
    """A column of a raw file.

    sql: the DuckDB type in which it is read.
    pattern: what a value must match in full, or an empty text for "anything".
    expected: the pattern in words, for messages.
    optional: whether an empty value is the file's own way to say "unknown".
    """

    name: str
    sql: str
    pattern: str = ""
    expected: str = ""
    optional: bool = False


def _id(name: str, *, optional: bool = False) -> RawColumn:
    return RawColumn(name=name, sql="UINTEGER", pattern=_ID, expected="a whole number", optional=optional)


def _text(name: str, *, optional: bool = False) -> RawColumn:
    return RawColumn(name=name, sql="VARCHAR", pattern=".+", expected="a text", optional=optional)


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFile:
    """A file of the competition: NAME.csv, NAME.csv.zip or NAME.parquet.

    required: no run can do without it. may_be_empty: it may have no rows, since a run can do without what they say.
    """

    name: str
    columns: tuple[RawColumn, ...] = field(repr=False)
    required: bool = True
    may_be_empty: bool = False

    @property
    def header(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


_TIMESTAMP = RawColumn(
    name="timestamp", sql="BIGINT", pattern=r"-?[0-9]{1,18}", expected="milliseconds after the epoch"
)
_PLATFORM = RawColumn(name="platform", sql="VARCHAR", pattern=r"[123]|\\N", expected=r"1, 2, 3 or \N", optional=True)
_GEO = _text("geo_location", optional=True)
_SCORE = RawColumn(name="confidence_level", sql="FLOAT", pattern=_CONFIDENCE, expected="a number")
_VIEWS = (
    _text("uuid"),
    _id("document_id"),
    _TIMESTAMP,
    _PLATFORM,
    _GEO,
    RawColumn(
        name="traffic_source", sql="UTINYINT", pattern=r"[123]", expected="1 (internal), 2 (search) or 3 (social)"
    ),
)

_FILES = (
    RawFile(
        name="clicks_train",
        columns=(
            _id("display_id"),
            _id("ad_id"),
            RawColumn(name="clicked", sql="UTINYINT", pattern=r"[01]", expected="0 or 1"),
        ),
    ),
    RawFile(name="clicks_test", columns=(_id("display_id"), _id("ad_id"))),
    RawFile(
        name="events",
        columns=(_id("display_id"), _text("uuid"), _id("document_id"), _TIMESTAMP, _PLATFORM, _GEO),
    ),
    RawFile(name="page_views", columns=_VIEWS, required=False, may_be_empty=True),
    RawFile(name="page_views_sample", columns=_VIEWS, required=False, may_be_empty=True),
    RawFile(
        name="promoted_content",
        columns=(_id("ad_id"), _id("document_id"), _id("campaign_id"), _id("advertiser_id")),
    ),
    RawFile(
        name="documents_meta",
        columns=(
            _id("document_id"),
            _id("source_id", optional=True),
            _id("publisher_id", optional=True),
            _text("publish_time", optional=True),
        ),
    ),
    RawFile(name="documents_categories", columns=(_id("document_id"), _id("category_id"), _SCORE), may_be_empty=True),
    RawFile(name="documents_topics", columns=(_id("document_id"), _id("topic_id"), _SCORE), may_be_empty=True),
    RawFile(name="documents_entities", columns=(_id("document_id"), _text("entity_id"), _SCORE), may_be_empty=True),
    RawFile(name="sample_submission", columns=(_id("display_id"), _text("ad_id")), required=False),
)

#: All raw files by name, in the order in which Kaggle's page lists them.
RAW_FILES: dict[str, RawFile] = {file.name: file for file in _FILES}
