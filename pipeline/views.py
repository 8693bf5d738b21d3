"""What the user of each display viewed, before and after it: page views cut to a split's users and put by display.

Two billion page views do not fit, and all features ask for them by display. So page views and displays are dealt into
buckets of users, each bucket is joined by itself, and the result is put in the order of the displays: then a range of
displays finds its views in a few row groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.core.files import atomic_path
from pipeline.core.progress import bar, log
from pipeline.schemas.impressions import PARTS, SplitInfo
from pipeline.schemas.views import DOCUMENT_VIEWS, VIEWS

#: Page views in a bucket, on average, those of users without an event included.
BUCKET_ROWS = 20_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewsConfig:
    """The section `views` of params.yaml.

    most: how many views are kept on either side of a display, the nearest first.
    """

    most: int = 50

    def __post_init__(self) -> None:
        check(self.most >= 1, f"most: must be 1 or more, found {self.most}")


def write_views(engine: Engine, tables: Path, split: Path, config: ViewsConfig, out: Path) -> None:
    """Write the folder `out` as schemas.views says, whole or not at all.

    Views from `views_until` of the split on are left out, and so are views of the display's own page, since the display
    itself is one of them.
    """
    info = SplitInfo.read(split)
    page_views = engine.table(tables / "page_views.parquet")
    if info.views_until is not None:
        page_views = page_views.filter(page_views.timestamp < info.views_until)
    buckets = 1 + pq.read_metadata(tables / "page_views.parquet").num_rows // BUCKET_ROWS
    views = page_views.filter(page_views.user_id.notnull()).select("user_id", "document_id", "timestamp")
    dealt = engine.deal(views, "user_id", buckets)
    parts = {part: engine.table(split / f"{part}.parquet") for part in PARTS}
    displays = ibis.union(*(p.filter(p.first & p.user_id.notnull()).select(_DISPLAY) for p in parts.values()))
    dealt_displays = engine.deal(displays, "user_id", buckets)
    joined = []
    with bar(buckets, "views", "bucket") as shown:
        for bucket in range(buckets):
            joined.append(engine.scratch(f"views-{bucket}.parquet"))
            engine.write(_around(dealt_displays[bucket], dealt[bucket], config.most), joined[-1])
            shown.update(1)
    found = engine.tables(joined)
    with atomic_path(out) as partial:
        partial.mkdir()
        for part in PARTS:
            engine.write_by_ranges(
                split / f"{part}.parquet",
                "display_id",
                lambda rows: found.semi_join(rows.filter(rows.first), "display_id"),
                partial / f"{part}.parquet",
                order_by=("display_id", "delay", "document_id"),
            )
        seen = page_views.group_by("document_id").aggregate(views=page_views.count())
        seen = seen.select(**{name: seen[name].cast(kind) for name, kind in DOCUMENT_VIEWS.items()})
        engine.write(seen.order_by("document_id"), partial / "documents.parquet")
    log.info("views: %s", ", ".join(f"{p} {pq.read_metadata(out / f'{p}.parquet').num_rows}" for p in PARTS))


_DISPLAY = ["display_id", "user_id", "timestamp", "document_id"]


def _around(displays: ir.Table, views: ir.Table, most: int) -> ir.Table:
    """display_id, document_id, delay: the views of each display's user that are nearest to it, before and after."""
    views = views.rename(viewed="document_id", at="timestamp", viewer="user_id")
    pairs = displays.inner_join(views, displays.user_id == views.viewer)
    pairs = pairs.filter(pairs.viewed != pairs.document_id)
    pairs = pairs.select("display_id", document_id=pairs.viewed, delay=pairs["at"] - pairs.timestamp)
    side = ibis.window(group_by=["display_id", pairs.delay >= 0], order_by=[pairs.delay.abs(), pairs.document_id])
    near = pairs.mutate(nearness=ibis.row_number().over(side))
    near = near.filter(near.nearness < most).order_by(["display_id", "delay", "document_id"])
    return near.select(**{name: near[name].cast(kind) for name, kind in VIEWS.items()})
