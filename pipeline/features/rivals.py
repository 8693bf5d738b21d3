"""The rivals of an ad in its display: which they are, what the user viewed of them, and how its click rates stand
against theirs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.core.compiled import compiled
from pipeline.core.engine import Engine
from pipeline.features.base import Group, Inputs
from pipeline.features.displays import Bags, Chunk, Columns, Walk, gap_to_best_rival, whole_numbers
from pipeline.features.known import Known, read_known, rows_fold
from pipeline.features.smoothing import AD_KEYS, rates
from pipeline.schemas.features import bag, number

Longs = NDArray[np.int64]

#: What the multi-valued fields list: name -> key column.
_LISTED = {name: key for name, key in AD_KEYS.items() if name != "advertiser"}


def walk(engine: Engine, inputs: Inputs) -> Walk:
    lifts = {key: _read_lifts(engine, inputs, key) for key in AD_KEYS.values()}
    return Walk(lambda chunk: _describe(inputs, lifts, chunk), columns=("ad_id", "campaign_id", "advertiser_id"))


def _read_lifts(engine: Engine, inputs: Inputs, key: str) -> Known:
    rows = engine.to_arrow(rates(inputs, key).drop("shows", "rate"))
    return read_known(inputs, rows, whole_numbers(rows[key]), "lift")


def _describe(inputs: Inputs, lifts: dict[str, Known], chunk: Chunk) -> Columns:
    """rank: 1 for the display's best lift, ties share it. gap: the lift less that of the best rival, 0 without one."""
    keys = {**chunk.more, "ad_document_id": chunk.ad_document}
    ads, fold = np.diff(chunk.offsets), rows_fold(inputs, chunk)
    columns: dict[str, NDArray[np.float32] | Bags] = {
        "rivals": (ads - 1).astype(np.float32)[chunk.display_of_row],
        **{f"rival_{name}": _others(chunk.offsets, keys[key]) for name, key in _LISTED.items()},
        **_viewed(chunk),
    }
    for name, key in AD_KEYS.items():
        lift, rank = lifts[key].of(keys[key], fold), np.empty(len(fold), np.float32)
        _rank(chunk.offsets, lift, rank)
        columns |= {f"{name}_rank": rank, f"{name}_gap": gap_to_best_rival(lift, chunk.offsets)}
    return columns


def _others(offsets: Longs, keys: Longs) -> Bags:
    """The other ads' key for each ad, those that are known, in the order of the ads."""
    ends, found = np.zeros(len(keys) + 1, np.int64), np.empty(int((np.diff(offsets) ** 2).sum()), np.uint32)
    _list(offsets, keys, ends, found)
    return Bags(ends, found[: ends[-1]].copy(), np.ones(ends[-1], np.float32))


def _viewed(chunk: Chunk) -> Columns:
    """Of how many rivals the user viewed the document before and after the display."""
    before, after = (np.zeros(len(chunk.row), np.float32) for _ in range(2))
    borders = chunk.beside_offsets, chunk.after_offsets
    _find(*borders, chunk.beside["document_id"], chunk.offsets, chunk.ad_document, before, after)
    return {
        f"rivals_viewed_{when}": np.add.reduceat(found, chunk.offsets[:-1])[chunk.display_of_row] - found
        for when, found in {"before": before, "after": after}.items()
    }


@compiled
def _rank(offsets: Longs, values: NDArray[np.float64], ranks: NDArray[np.float32]) -> None:
    """1 + how many of its display's values are above each one. values, ranks: (N,)."""
    for d in range(len(offsets) - 1):
        for n in range(offsets[d], offsets[d + 1]):
            above = 1
            for other in range(offsets[d], offsets[d + 1]):
                above += values[other] > values[n]
            ranks[n] = above


@compiled
def _list(offsets: Longs, keys: Longs, ends: Longs, others: NDArray[np.uint32]) -> None:
    """keys: (N,), -1 if unknown. ends: (N + 1,), where each list of others ends."""
    end = 0
    for d in range(len(offsets) - 1):
        for n in range(offsets[d], offsets[d + 1]):
            for other in range(offsets[d], offsets[d + 1]):
                if other != n and keys[other] >= 0:
                    others[end] = keys[other]
                    end += 1
            ends[n + 1] = end


@compiled
def _find(
    borders: Longs,
    after: Longs,
    viewed: Longs,
    offsets: Longs,
    documents: Longs,
    found_before: NDArray[np.float32],
    found_after: NDArray[np.float32],
) -> None:
    """Whether each of the documents (N,) is among those viewed before and after its display."""
    for d in range(len(after)):
        for n in range(offsets[d], offsets[d + 1]):
            for v in range(borders[d], borders[d + 1]):
                if viewed[v] == documents[n] and documents[n] >= 0:
                    if v < after[d]:
                        found_before[n] = 1
                    else:
                        found_after[n] = 1


GROUP = Group(
    scope="out-of-fold",
    columns=(
        number("rivals", "other ads in the display", "static", "display"),
        *(bag(f"rival_{name}", f"{key} of each rival", "static") for name, key in _LISTED.items()),
        number("rivals_viewed_before", "rivals whose document the user viewed before the display", "time-causal"),
        number("rivals_viewed_after", "rivals whose document the user viewed after the display", "future"),
        *(
            column
            for key in AD_KEYS
            for column in (
                number(f"{key}_rank", f"rank of the {key}'s lift, 1 = best"),
                number(f"{key}_gap", f"the {key}'s lift less the best rival's"),
            )
        ),
    ),
    walk=walk,
)
