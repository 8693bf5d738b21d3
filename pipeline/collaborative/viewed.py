"""What a sample of users has viewed, from which factors and networks are fitted, day by day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.engine import Engine
from pipeline.schemas.raw import DAY_MS

Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Viewed:
    """Page views (V,), sorted by user, then by time. user: 0.. in the sample. document: a document_id. day: 0..14."""

    user: NDArray[np.int32]
    document: NDArray[np.uint32]
    day: NDArray[np.int8]

    def days(self) -> Iterator[int]:
        """The days on which anything was viewed, in order."""
        yield from np.unique(self.day).tolist()


def read_viewed(engine: Engine, tables: Path, until: int | None, most: int) -> Viewed:
    """The page views before `until` (ms; None for all) of about `most` users, drawn by a hash of their id."""
    views = engine.table(tables / "page_views.parquet")
    views = views.filter(views.user_id.notnull())
    if until is not None:
        views = views.filter(views.timestamp < until)
    users = engine.table(tables / "users.parquet")
    total = int(engine.one(users.aggregate(users=users.count()))["users"])
    if total > most:  # a multiplicative hash (Knuth), as for the folds of displays
        views = views.filter((views.user_id.cast("int64") * 2_654_435_761) // 65_536 % total < most)
    views = views.select("user_id", "document_id", "timestamp")
    table = engine.to_arrow(views.order_by(["user_id", "timestamp", "document_id"]))
    user = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
    day = table["timestamp"].to_numpy() // DAY_MS
    return Viewed(user.astype(np.int32), table["document_id"].to_numpy(), day.astype(np.int8))
