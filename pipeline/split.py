"""Who is scored: the two splits, made by the same code, so that what is validated is what is submitted.

`validation` holds out of train what the competition held out of all displays: every display of the last days ("future")
and a sixth of the earlier ones ("present"), as the second-placed team did. `submission` scores clicks_test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ibis
import ibis.expr.types as ir

from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.core.errors import InputError
from pipeline.core.files import atomic_path
from pipeline.core.progress import log
from pipeline.core.relational import look_up
from pipeline.schemas.impressions import COLD, IMPRESSIONS, Part, SplitInfo
from pipeline.schemas.raw import DAY_MS

SplitName = Literal["validation", "submission"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """The section `split` of params.yaml.

    future_days: the last days of train that validation holds out whole.
    present_modulus, present_remainder: of the earlier days, displays with id % modulus == remainder are held out.
    """

    future_days: int = 2
    present_modulus: int = 6
    present_remainder: int = 5

    def __post_init__(self) -> None:
        check(self.future_days >= 0, f"future_days: must be 0 or more, found {self.future_days}")
        check(self.present_modulus >= 2, f"present_modulus: must be 2 or more, found {self.present_modulus}")
        check(
            0 <= self.present_remainder < self.present_modulus,
            f"present_remainder: must be below present_modulus, found {self.present_remainder}",
        )


def write_split(engine: Engine, tables: Path, name: SplitName, config: SplitConfig, out: Path) -> SplitInfo:
    """Write history.parquet, target.parquet and split.json into the folder `out`, whole or not at all.

    Raises InputError if a part would be empty, since nothing could be learned or scored then.
    """
    train_end, validation_from = _borders(engine, tables, config)
    future_from = validation_from if name == "validation" else train_end

    def held_out(rows: ir.Table) -> ir.BooleanValue:
        return rows.future | (rows.display_id % config.present_modulus == config.present_remainder)

    def write(clicks: str, part: Part, change: Callable[[ir.Table], ir.Table]) -> None:
        engine.write_by_ranges(
            tables / f"{clicks}.parquet",
            "display_id",
            lambda rows: change(_impressions(engine, tables, rows, future_from)),
            partial / f"{part}.parquet",
            order_by=("display_id", "ad_id"),
            numbered=True,
        )

    with atomic_path(out) as partial:
        partial.mkdir()
        history = partial / "history.parquet"
        if name == "validation":
            write("clicks_train", "history", lambda rows: rows.filter(~held_out(rows)))
            write("clicks_train", "target", lambda rows: _add_cold_flags(engine, history, rows.filter(held_out(rows))))
        else:
            write("clicks_train", "history", lambda rows: rows)
            write("clicks_test", "target", lambda rows: _add_cold_flags(engine, history, rows))
        info = _summary(engine, partial, name, train_end, future_from)
        info.write(partial)
    log.info("%s: %d displays in history, %d in target", name, info.history_displays, info.target_displays)
    return info


def _borders(engine: Engine, tables: Path, config: SplitConfig) -> tuple[int | None, int | None]:
    """The end of train and the start of validation's future, in ms; None where the events do not reach that far."""
    events = engine.table(tables / "events.parquet")

    def times(clicks: ir.Table) -> ir.Table:
        train = events.semi_join(clicks, "display_id")  # the ids of test may stand among those of train
        return train.aggregate(first=train.timestamp.min(), last=train.timestamp.max())

    ranges = engine.by_ranges(tables / "clicks_train.parquet", "display_id", times, ["first"])
    found = [row for table in ranges for row in table.to_pylist() if row["last"] is not None]
    if not found:
        return None, None
    days = range(min(row["first"] for row in found) // DAY_MS, max(row["last"] for row in found) // DAY_MS + 1)
    train_end = days.stop * DAY_MS
    if config.future_days == 0 or len(days) <= config.future_days:
        if config.future_days:
            log.warning("train covers %d day(s): validation has no future part, only present displays", len(days))
        return train_end, None
    return train_end, train_end - config.future_days * DAY_MS


def _impressions(engine: Engine, tables: Path, clicks: ir.Table, future_from: int | None) -> ir.Table:
    """Whole displays of a clicks table, with what is known of display and ad."""
    events = engine.table(tables / "events.parquet")
    promoted = engine.table(tables / "promoted_content.parquet").rename(ad_document_id="document_id")
    displays = clicks.group_by("display_id").aggregate(ads=clicks.count(), first_ad=clicks.ad_id.min())
    if "clicked" not in clicks.columns:
        clicks = clicks.mutate(clicked=ibis.null("uint8"))
    joined = look_up(clicks, displays, {"display_id": "display_id"})
    joined = look_up(joined, events, {"display_id": "display_id"})
    joined = look_up(joined, promoted, {"ad_id": "ad_id"})
    future = ibis.literal(False) if future_from is None else (joined.timestamp >= future_from).fill_null(False)
    joined = joined.mutate(first=joined.ad_id == joined.first_ad, future=future)
    return joined.select(**{name: joined[name].cast(kind) for name, kind in IMPRESSIONS.items() if name != "row"})


def _add_cold_flags(engine: Engine, history: Path, target: ir.Table) -> ir.Table:
    """Add what history has never seen: the ad, the user, the page. A missing user or page counts as never seen."""
    known = engine.table(history)
    for flag, key in zip(COLD, ("ad_id", "user_id", "document_id"), strict=True):
        seen = known.filter(known[key].notnull()).select(key).distinct().mutate(**{flag: ibis.literal(False)})
        target = look_up(target, engine.once(seen), {key: key})
    return target.mutate(**{flag: target[flag].fill_null(True) for flag in COLD})


def _summary(engine: Engine, folder: Path, name: str, train_end: int | None, future_from: int | None) -> SplitInfo:
    counts = {}
    for part in ("history", "target"):
        table = engine.table(folder / f"{part}.parquet")
        firsts = table.first.cast("int64")
        count = table.aggregate(
            rows=table.count(), displays=firsts.sum(), future=(firsts * table.future.cast("int64")).sum()
        )
        counts[part] = engine.one(count)
        if not counts[part]["rows"]:
            raise InputError(f"the {name} split has no {part} displays: the click files hold too little to train on")
    return SplitInfo(
        name=name,
        labelled=name == "validation",
        views_until=train_end if name == "validation" else None,
        future_from=future_from,
        history_rows=counts["history"]["rows"],
        history_displays=int(counts["history"]["displays"]),
        target_rows=counts["target"]["rows"],
        target_displays=int(counts["target"]["displays"]),
        target_future_displays=int(counts["target"]["future"]),
    )
