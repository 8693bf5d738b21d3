"""The border between split and everything after it: data/splits/SPLIT/{history,target}.parquet and split.json.

An impression is one ad in one display. Row order is fixed here once (display_id, then ad_id; `row` counts from 0) and
never changes: whatever is computed later aligns with it by position. What is known of the display and of the ad stands
beside the ids, since the columns of a display repeat and cost next to nothing in Parquet.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.files import read_json, write_json

Part = Literal["history", "target"]
PARTS: tuple[Part, ...] = ("history", "target")

#: column -> Ibis type, in order
IMPRESSIONS: dict[str, str] = {
    "row": "int64",
    "display_id": "uint32",
    "ad_id": "uint32",
    "clicked": "uint8",  # null where the label is Kaggle's secret
    "ads": "uint8",  # how many ads the display has
    "first": "boolean",  # the display's first row
    "user_id": "uint32",  # this and the next six: null if the display has no event
    "document_id": "uint32",  # the page
    "timestamp": "int64",  # ms after the epoch
    "platform": "uint8",
    "country": "string",
    "state": "string",
    "dma": "string",
    "ad_document_id": "uint32",  # this and the next two: null if the ad is not in promoted_content
    "campaign_id": "uint32",
    "advertiser_id": "uint32",
    "future": "boolean",  # the display is later than the days that history covers in full
}
#: Further columns of target: what history has never seen.
COLD: tuple[str, ...] = ("cold_ad", "cold_user", "cold_page")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """split.json: what a split is made of.

    views_until: page views at or after this time (ms after the epoch) must not be used; None for all.
    future_from: displays at or after this time (ms) are the future part; None if there is none.
    """

    name: str
    labelled: bool
    views_until: int | None
    future_from: int | None
    history_rows: int
    history_displays: int
    target_rows: int
    target_displays: int
    target_future_displays: int

    def write(self, folder: Path) -> None:
        write_json(folder / "split.json", asdict(self))

    @classmethod
    def read(cls, folder: Path) -> SplitInfo:
        return cls(**read_json(folder / "split.json"))
