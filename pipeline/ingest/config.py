"""The section `ingest` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["error", "drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What happens to rows that contradict the rules: `error` stops the run, `drop` counts and drops them.

    cut_display: the last display of clicks_train, in the order of the file, has no click: the file was cut there.
    display_without_click, display_with_two_clicks: any other display of clicks_train.
    duplicate_impression: the same ad twice in a display; `drop` keeps one row, the clicked one if there is one.
    duplicate_event: the same display twice in events; `drop` keeps the earliest row.
    timestamp_out_of_range: a row of events or page views whose time is negative or of day `raw.MOST_DAYS` or later.
    duplicate_key: the same ad twice in promoted_content, or document in documents_meta; `drop` keeps the first row.
    """

    cut_display: Policy = "drop"
    display_without_click: Policy = "error"
    display_with_two_clicks: Policy = "error"
    duplicate_impression: Policy = "error"
    duplicate_event: Policy = "error"
    timestamp_out_of_range: Policy = "error"
    duplicate_key: Policy = "error"
