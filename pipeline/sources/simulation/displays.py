"""Displays: who sees which ads where and when, and which of them is clicked.

Ads are drawn by weight among those that run, at times among those of the page's section, at times from the user's last
display. A display's ads stand in ascending ad_id. Displays are made in the order of time, since what a returning user
saw before matters; the last display of each returning user is the only state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.ads import EVERGREENS, Offers
from pipeline.sources.simulation.clock import BLOCKS
from pipeline.sources.simulation.documents import section
from pipeline.sources.simulation.randomness import F32, F64, I64, lookup, unit
from pipeline.sources.simulation.users import Traits
from pipeline.sources.simulation.utility import Context, Utility
from pipeline.sources.simulation.world import World

#: Most ads in a display.
MOST = 12
#: Share of displays by number of ads: 5.16 on average, 58 % have 4 or 6.
_SIZES = {
    2: 0.068,
    3: 0.098,
    4: 0.303,
    5: 0.094,
    6: 0.275,
    7: 0.009,
    8: 0.074,
    9: 0.053,
    10: 0.023,
    11: 0.001,
    12: 0.002,
}
_DRAWS = 16  # candidates a display; should too few of them differ, ads that always run fill up
_SECTION_SHARE = 0.30  # of the candidates: drawn from the page's section
_AGAIN_SHARE = 0.3  # of the ads of a returning user's last display: candidates again
#: Displays made at once, at most.
CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Displays:
    """Some displays, (n,) each, and their ads, (m,) each, by display and then by ad.

    index: place in the order of time. id: display_id. page, ad: indices into Documents and Ads. time: ms.
    row: 0..n-1, the display of each ad. utility: log-odds. clicked: the ad with the largest utility + noise.
    """

    index: I64
    id: I64
    is_test: NDArray[np.bool_]
    user: I64
    traits: Traits
    page: I64
    time: I64
    row: I64
    ad: I64
    utility: F32
    clicked: NDArray[np.bool_]


class DisplayMaker:
    """Makes the displays of a world in the order of time."""

    def __init__(self, world: World) -> None:
        self._clock, self._users, self._documents, self._ads = world.clock, world.users, world.documents, world.ads
        self._utility = Utility(world)
        self._streams = world.streams("displays", "page", "size", "draw", "again", "fill", "noise")
        self._by_section = np.argsort(world.ads.section, kind="stable")
        self._sizes = lookup(list(_SIZES.values()), 1 << 12)
        self._size_of = np.array(list(_SIZES), dtype=np.int64)
        returning = world.users.with_events - world.users.first_returning
        self._last_ads = np.full((returning, MOST), -1, dtype=np.int32)
        self._last_click = np.full(returning, -1, dtype=np.int32)

    def chunks(self) -> Iterator[Displays]:
        """All displays, in the order of time, at most CHUNK at once."""
        for block in range(BLOCKS):
            low, high = self._clock.block(block)
            offers = Offers(self._ads, self._by_section, block)
            for start in range(low, high, CHUNK):
                yield self._make(np.arange(start, min(start + CHUNK, high)), offers)

    def _make(self, index: I64, offers: Offers) -> Displays:
        user = self._users.of_displays(index)
        traits = self._users.traits(user)
        page = self._documents.hosting(traits, self._streams["page"].bits(index))
        time = self._clock.displays(index)
        context = Context(time, traits, page)
        ads = np.full((len(index), MOST), -1, dtype=np.int64)
        utility = np.zeros((len(index), MOST), dtype=np.float32)
        clicked = np.zeros((len(index), MOST), dtype=bool)
        for rows in self._rounds(user):  # a user's second display in a chunk needs the outcome of the first
            ads[rows] = self._choose(index[rows], user[rows], page[rows], offers)
            utility[rows], clicked[rows] = self._click(context, index, user, rows, ads[rows])
            self._remember(user[rows], ads[rows], clicked[rows])
        full = ads >= 0
        return Displays(
            index=index,
            id=self._clock.display_id(index),
            is_test=self._clock.is_test(index),
            user=user,
            traits=traits,
            page=page,
            time=time,
            row=np.nonzero(full)[0],
            ad=ads[full],
            utility=utility[full],
            clicked=clicked[full],
        )

    def _rounds(self, user: I64) -> Iterator[I64]:
        """The rows of a chunk such that no round holds a user twice, a user's displays in the order of time."""
        order = np.argsort(user, kind="stable")
        ordered = user[order]
        place = np.arange(len(user))
        first = np.maximum.accumulate(np.where(np.diff(ordered, prepend=-1) != 0, place, 0))
        occurrence = np.empty(len(user), dtype=np.int64)
        occurrence[order] = place - first
        for number in range(int(occurrence.max(initial=-1)) + 1):
            yield np.flatnonzero(occurrence == number)

    def _choose(self, index: I64, user: I64, page: I64, offers: Offers) -> I64:
        """(n, 12) the ads of each display in ascending order, then -1."""
        bits = self._streams["draw"].bits(index[:, None], np.arange(_DRAWS))  # (n, draws)
        on_topic = (bits & np.uint64(0x7FF)).astype(np.int64) < round(_SECTION_SHARE * 2048)
        here = section(self._documents.first[page].astype(np.int64))
        drawn = offers.draw(unit(bits), np.where(on_topic, here[:, None], -1))
        returning = np.flatnonzero(user >= self._users.first_returning)
        if len(returning):
            last = self._last_ads[user[returning] - self._users.first_returning].astype(np.int64)  # (r, 12)
            dice = self._streams["again"].uniform(index[returning][:, None], np.arange(MOST))
            again = (last >= 0) & (dice < _AGAIN_SHARE) & offers.running(last)
            drawn[returning, :MOST] = np.where(again, last, drawn[returning, :MOST])
        fill = (self._streams["fill"].bits(index) % np.uint64(EVERGREENS)).astype(np.int64)
        fill = (fill[:, None] + np.arange(MOST)) % EVERGREENS
        size = self._size_of[self._sizes[(self._streams["size"].bits(index) >> np.uint64(52)).astype(np.int64)]]
        return _first_distinct(np.concatenate([drawn, fill], axis=1), size)

    def _click(self, context: Context, index: I64, user: I64, rows: I64, ads: I64) -> tuple[F32, NDArray[np.bool_]]:
        """(n, 12) utilities, and where the click is, of the displays `rows`."""
        full = ads >= 0
        local = np.nonzero(full)[0]
        ad = ads[full]
        seen = np.zeros(ads.shape, dtype=np.int64)
        returning = np.flatnonzero(user[rows] >= self._users.first_returning)
        state = user[rows][returning] - self._users.first_returning
        before = (ads[returning][:, :, None] == self._last_ads[state][:, None, :]).any(axis=2)
        seen[returning] = before.astype(np.int64) + (ads[returning] == self._last_click[state][:, None])
        utility = np.zeros(ads.shape, dtype=np.float32)
        utility[full] = self._utility(context, rows[local], ad, seen[full])
        noisy: F64 = np.full(ads.shape, -np.inf)
        noisy[full] = utility[full] + self._streams["noise"].gumbel(index[rows][local], ad)
        return utility, np.arange(MOST) == noisy.argmax(axis=1)[:, None]

    def _remember(self, user: I64, ads: I64, clicked: NDArray[np.bool_]) -> None:
        returning = np.flatnonzero(user >= self._users.first_returning)
        state = user[returning] - self._users.first_returning
        self._last_ads[state] = ads[returning]
        self._last_click[state] = ads[returning][clicked[returning]]


def _first_distinct(candidates: I64, size: I64) -> I64:
    """(n, 12) the first `size` distinct candidates of each row in ascending order, then -1."""
    width = candidates.shape[1]
    bits = width.bit_length()
    keys = np.sort((candidates << bits) | np.arange(width), axis=1)
    repeated = np.zeros(keys.shape, dtype=bool)
    repeated[:, 1:] = (keys[:, 1:] >> bits) == (keys[:, :-1] >> bits)
    place = np.where(repeated, width, keys & ((1 << bits) - 1))
    by_place = np.sort((place << 32) | (keys >> bits), axis=1)[:, :MOST]
    chosen = np.where(np.arange(MOST) < size[:, None], by_place & 0xFFFFFFFF, 1 << 32)
    chosen.sort(axis=1)
    return np.where(chosen == 1 << 32, -1, chosen)
