"""What a sample of users has viewed, and what became of the ads that they were shown: from it factors and networks are
fitted, day by day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

from pipeline.core.engine import Engine
from pipeline.schemas.raw import DAY_MS

Longs = NDArray[np.int64]

#: What became of a document, in the order in which it comes at the same time: a page, the ads that stand on it and were
#: passed over, the one that was clicked.
VIEWED, PASSED, CLICKED = range(3)


@dataclass(frozen=True, slots=True)
class Viewed:
    """Page views (V,), sorted by user, then by time. user: 0.. in the sample. document: a document_id. day: 0..14."""

    user: NDArray[np.int32]
    document: NDArray[np.uint32]
    day: NDArray[np.int8]

    def days(self) -> Iterator[int]:
        """The days on which anything was viewed, in order."""
        yield from np.unique(self.day).tolist()


@dataclass(frozen=True, slots=True)
class Traced(Viewed):
    """Page views and the promoted documents of displays (V,), sorted by user, time, and what the user did.

    time: ms. what: VIEWED, PASSED or CLICKED.
    """

    time: Longs
    what: NDArray[np.int8]


def read_viewed(engine: Engine, tables: Path, impressions: Path, until: int | None, most: int) -> Viewed:
    """What about `most` users, drawn by a hash of their id, viewed before `until` (ms; None for all): their page views,
    and of the displays of `impressions`, whose clicks are known, the page and the ad that was clicked."""
    shown = shown_documents(engine.table(impressions))
    clicked = _of_sample(engine, tables, shown.filter(shown.what == CLICKED).drop("what"), most)
    views = ibis.union(_pages(engine, tables, impressions, until, most), clicked)
    table = engine.to_arrow(views.order_by(["user_id", "timestamp", "document_id"]))
    user = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
    day = table["timestamp"].to_numpy() // DAY_MS
    return Viewed(user.astype(np.int32), table["document_id"].to_numpy(), day.astype(np.int8))


def read_traced(engine: Engine, tables: Path, impressions: Path, until: int | None, most: int) -> Traced:
    """The same with what became of all ads in the displays of `impressions`."""
    views = _pages(engine, tables, impressions, until, most).mutate(what=ibis.literal(VIEWED, "int8"))
    shown = _of_sample(engine, tables, shown_documents(engine.table(impressions)), most)
    both = ibis.union(views, shown.select(*views.columns))
    table = engine.to_arrow(both.order_by(["user_id", "timestamp", "what", "document_id"]))
    user = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
    time = table["timestamp"].to_numpy()
    day, what = (time // DAY_MS).astype(np.int8), table["what"].to_numpy()
    return Traced(user.astype(np.int32), table["document_id"].to_numpy(), day, time, what)


def shown_documents(impressions: ir.Table) -> ir.Table:
    """user_id, timestamp, document_id, what: the promoted documents that known users passed over or clicked."""
    known = impressions.filter(impressions.user_id.notnull() & impressions.ad_document_id.notnull())
    what = ibis.ifelse(known.clicked == 1, CLICKED, PASSED).cast("int8")
    return known.select("user_id", "timestamp", document_id="ad_document_id", what=what)


def _pages(engine: Engine, tables: Path, impressions: Path, until: int | None, most: int) -> ir.Table:
    """user_id, document_id, timestamp of page views, and of displays whose page no view of the day tells of: of most
    displays there is one, but a run may do without page views, or with a sample of them."""

    def chosen(rows: ir.Table) -> ir.Table:
        known = rows.filter(
            rows.user_id.notnull(), rows.timestamp.notnull() if until is None else rows.timestamp < until
        )
        known = known.select("user_id", "document_id", "timestamp", day=known.timestamp // DAY_MS)
        return _of_sample(engine, tables, known, most)

    displays = engine.table(impressions)
    views = chosen(engine.table(tables / "page_views.parquet"))
    rest = chosen(displays.filter(displays.first, displays.document_id.notnull()))
    rest = rest.anti_join(views, ["user_id", "document_id", "day"])
    return ibis.union(views.drop("day"), rest.drop("day"))


def _of_sample(engine: Engine, tables: Path, rows: ir.Table, most: int) -> ir.Table:
    """The rows of about `most` users, by a multiplicative hash (Knuth), as for the folds of displays."""
    users = engine.table(tables / "users.parquet")
    total = int(engine.one(users.aggregate(users=users.count()))["users"])
    if total <= most:
        return rows
    return rows.filter((rows.user_id.cast("int64") * 2_654_435_761) // 65_536 % total < most)
