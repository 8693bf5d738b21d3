"""What the user of each display viewed, before and after it: page views cut to a split's users and put by display.

Page views come sorted by user, all features ask for them by display. So displays are sorted by user, too, a range of
users is joined by itself, and the result is put in the order of the displays: then a range of displays finds its views
in a few row groups.
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
from pipeline.schemas.raw import DAY_MS
from pipeline.schemas.views import DOCUMENT_VIEWS, VIEWS

_DISPLAY = ["display_id", "user_id", "timestamp", "document_id"]
#: The order of a display's views.
_ORDER = ("display_id", "delay", "document_id", "traffic_source")


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
    page_views = tables / "page_views.parquet"
    displays = engine.table(_displays_by_user(engine, split))
    joined: list[Path] = []
    with bar(None, "views", "range") as shown:
        for views in engine.ranges(page_views, "user_id"):
            known = views if info.views_until is None else views.filter(views.timestamp < info.views_until)
            joined.append(engine.scratch(f"views-{len(joined)}.parquet"))
            engine.write(_around(displays, known, config.most), joined[-1])
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
                order_by=_ORDER,
            )
        everybody = engine.table(tables / "document_views.parquet")
        engine.write(_documents(everybody, info.views_until), partial / "documents.parquet")
    log.info("views: %s", ", ".join(f"{p} {pq.read_metadata(out / f'{p}.parquet').num_rows}" for p in PARTS))


def _displays_by_user(engine: Engine, split: Path) -> Path:
    """A file of the displays of both parts whose user is known, sorted by user: a range of users skips the others."""
    parts = (engine.table(split / f"{part}.parquet") for part in PARTS)
    displays = ibis.union(*(part.filter(part.first & part.user_id.notnull()).select(_DISPLAY) for part in parts))
    path = engine.scratch("displays.parquet")
    engine.write(displays.order_by(["user_id", "display_id"]), path)
    return path


def _documents(views: ir.Table, until: int | None) -> ir.Table:
    """document_id, views: how often anybody viewed it before `until` (ms), which must be a border of days."""
    if until is not None:
        if until % DAY_MS:
            raise ValueError(f"views_until must be a border of days of {DAY_MS} ms, found {until}")
        views = views.filter(views.day < until // DAY_MS)
    seen = views.group_by("document_id").aggregate(views=views.views.sum()).order_by("document_id")
    return seen.select(**{name: seen[name].cast(kind) for name, kind in DOCUMENT_VIEWS.items()})


def _around(displays: ir.Table, views: ir.Table, most: int) -> ir.Table:
    """The views of each display's user that are nearest to it, before and after, as schemas.views says, in order."""
    views = views.select("traffic_source", viewed="document_id", at="timestamp", viewer="user_id")
    pairs = displays.inner_join(views, displays.user_id == views.viewer)
    pairs = pairs.filter(pairs.viewed != pairs.document_id)
    pairs = pairs.select("display_id", "traffic_source", document_id=pairs.viewed, delay=pairs["at"] - pairs.timestamp)
    nearest = [pairs.delay.abs(), pairs.document_id, pairs.traffic_source]
    side = ibis.window(group_by=["display_id", pairs.delay >= 0], order_by=nearest)
    near = pairs.mutate(nearness=ibis.row_number().over(side))
    near = near.filter(near.nearness < most).order_by(_ORDER)
    return near.select(**{name: near[name].cast(kind) for name, kind in VIEWS.items()})
