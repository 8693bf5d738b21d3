"""Page views: of the users with events, around their displays; and of the many users without.

A display brings: a view of its own page (nearly always, mostly at the same millisecond); with LEAK of the clicks on an
ad whose document lies on the network, a view of that document shortly after; and for three users in four further
views, some near the display, the others anywhere in the 15 days. Further views, and all views of users without events,
follow the user's taste, and PROMOTED of them go to a promoted document that lies on the network. Promoted documents
that do not are never viewed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.sources.simulation.clock import DAY_MS
from pipeline.sources.simulation.displays import Displays
from pipeline.sources.simulation.randomness import F64, I64, U64, bit_slice, lookup, unit
from pipeline.sources.simulation.scale import DAYS, background_views, further_views
from pipeline.sources.simulation.users import Traits
from pipeline.sources.simulation.world import World

#: Share of the clicks on ads with a document on the network after which the user is seen to view that document.
LEAK = 0.45
#: Share of the views that go to promoted documents.
PROMOTED = 0.055
_LEAK_LAG_MS = 60_000.0  # median
_LEAK_LAG_SPREAD = 1.2
_OWN = 0.9975  # share of displays with a view of their page
_EXACT = 0.6807  # of these: at the same millisecond
_OWN_LAG_MS = 20_000.0
_BROWSERS = 0.735  # share of users with events who have further views
_MOST_FURTHER = 300
_NEARBY = 0.6  # share of the further views around the display
_NEARBY_MS = 1_500_000.0
_TRAFFIC = (0.66, 0.22, 0.12)
_END = DAYS * DAY_MS - 1


@dataclass(frozen=True, slots=True)
class PageViews:
    """Page views, (n,) each. document: index into Documents. time: ms. traffic: 1 internal, 2 search, 3 social."""

    user: I64
    traits: Traits
    document: I64
    time: I64
    traffic: I64


@dataclass(frozen=True, slots=True)
class Evidence:
    """What page views after a display say about its click.

    viewed: sorted keys row * P + place of the promoted documents viewed after the display `row`.
    later: (n,) number of further views after each display.
    """

    viewed: I64
    later: I64


class ViewMaker:
    """Makes the page views of a world."""

    def __init__(self, world: World) -> None:
        self._scale, self._clock, self._users = world.scale, world.clock, world.users
        self._documents, self._ads = world.documents, world.ads
        self._streams = world.streams(
            "views",
            "own",
            "lag",
            "leak",
            "leak_lag",
            "browser",
            "number",
            "further",
            "time",
            "other",
            "order",
            "traffic",
        )
        self._browsers, self._mean_number = _browsing(world.per_display)
        self._total = background_views(world.scale.displays, world.per_display)
        on_network = np.flatnonzero(self._ads.viewable)
        order = on_network[np.argsort(self._streams["order"].bits(on_network), kind="stable")]
        weights = (np.arange(len(order)) + 4.0) ** -0.8
        self._viewable = order
        self._cumulative: F64 = np.cumsum(weights) / weights.sum()
        #: (P,) share of each promoted document among the views of promoted documents; 0 if it is never viewed.
        self.shares: F64 = np.zeros(world.scale.promoted)
        self.shares[order] = weights / weights.sum()
        self._traffic = lookup(_TRAFFIC, 256) + 1

    def around(self, displays: Displays) -> tuple[PageViews, Evidence]:
        """The page views that displays bring, and what they say about the clicks."""
        own_row, own_time = self._own(displays)
        leak_row, leak_place, leak_time = self._leaks(displays)
        row, document, time = self._further(displays)
        after = time > displays.time[row]
        place = self._documents.place[document].astype(np.int64)
        known = after & (place >= 0)
        viewed = np.concatenate([leak_row, row[known]]) * self._scale.promoted
        viewed += np.concatenate([leak_place, place[known]])
        evidence = Evidence(np.unique(viewed), np.bincount(row[after], minlength=len(displays.index)))
        rows = np.concatenate([own_row, leak_row, row])
        documents = np.concatenate([displays.page[own_row], self._documents.promoted[leak_place], document])
        times = np.concatenate([own_time, leak_time, time])
        traffic = self._traffic_of(self._streams["traffic"].bits(displays.index[rows], times))
        return PageViews(displays.user[rows], displays.traits.of(rows), documents, times, traffic), evidence

    def background(self, low: int, high: int) -> PageViews:
        """The page views of users without events while the displays at the places [low, high) happen."""
        total, displays = self._total, self._scale.displays
        index = np.arange(low * total // displays, high * total // displays)
        user = self._users.of_views(index)
        traits = self._users.traits(user)
        time = self._clock.views(index, max(total, 1))
        bits = self._streams["other"].bits(index)
        document = self._browse(traits, bits, time)
        return PageViews(user, traits, document, time, self._traffic_of(bits * np.uint64(0x9E3779B97F4A7C15)))

    def _own(self, displays: Displays) -> tuple[I64, I64]:
        """Rows and times of the views of the displays' own pages, on the same day as the display."""
        bits = self._streams["own"].bits(displays.index)
        row = np.flatnonzero(unit(bits) < _OWN)
        time = displays.time[row]
        dice = self._streams["lag"].uniform(displays.index[row])
        exact = dice < _EXACT
        lag = 1 + (-np.log(self._streams["lag"].uniform(displays.index[row], 1)) * _OWN_LAG_MS).astype(np.int64)
        moved = np.where(bit_slice(bits[row], 0, 1) == 1, time + lag, time - lag)
        day = time // DAY_MS * DAY_MS
        return row, np.where(exact, time, np.clip(moved, day, day + DAY_MS - 1))

    def _leaks(self, displays: Displays) -> tuple[I64, I64, I64]:
        """Rows, promoted documents and times of the views that follow clicks."""
        row, place = displays.row[displays.clicked], self._ads.promoted[displays.ad[displays.clicked]]
        index = displays.index[row]
        leaks = self._ads.viewable[place] & (self._streams["leak"].uniform(index) < LEAK)
        row, place, index = row[leaks], place[leaks], index[leaks]
        lag = _LEAK_LAG_MS * np.exp(_LEAK_LAG_SPREAD * self._streams["leak_lag"].normal(index).astype(np.float64))
        return row, place, np.minimum(displays.time[row] + 1 + lag.astype(np.int64), _END)

    def _further(self, displays: Displays) -> tuple[I64, I64, I64]:
        """Rows, documents and times of further views."""
        browses = self._streams["browser"].uniform(displays.user) < self._browsers
        number = 1 + (-np.log(self._streams["number"].uniform(displays.index)) * self._mean_number).astype(np.int64)
        number = np.where(browses, np.minimum(number, _MOST_FURTHER), 0)
        row = np.repeat(np.arange(len(number)), number)
        each = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
        index = displays.index[row]
        dice = self._streams["time"].uniform(index, each)
        side = (dice / _NEARBY - 0.5) * 2.0  # uniform on (-1, 1) where the view is nearby
        size = np.clip(1.0 - np.abs(side), 1e-12, 1.0)
        nearby = displays.time[row] - (np.sign(side) * np.log(size) * _NEARBY_MS).astype(np.int64)
        anywhere = self._clock.quantile(np.clip((dice - _NEARBY) / (1.0 - _NEARBY), 0.0, 1.0))
        time = np.where(dice < _NEARBY, np.clip(nearby, 0, _END), anywhere)
        traits = displays.traits.of(row)
        return row, self._browse(traits, self._streams["further"].bits(index, each), time), time

    def _browse(self, traits: Traits, bits: U64, time: I64) -> I64:
        """The document of each view: by taste, or one of the promoted documents on the network."""
        document = self._documents.viewed(traits, bits, time // DAY_MS)
        promoted = np.flatnonzero(bit_slice(bits, 48, 16) < round(PROMOTED * 65536))
        share = (bits[promoted] & np.uint64((1 << 44) - 1)).astype(np.float64) * 2.0**-44
        place = np.minimum(np.searchsorted(self._cumulative, share, side="right"), len(self._viewable) - 1)
        document[promoted] = self._documents.promoted[self._viewable[place]]
        return document

    def _traffic_of(self, bits: U64) -> I64:
        return self._traffic[bit_slice(bits, 56, 8)]


def _browsing(per_display: float) -> tuple[float, float]:
    """The share of users with further views, and the mean of the exponential that gives their number beyond one."""
    further = further_views(per_display)
    browsers = min(_BROWSERS, further)
    beyond = further / browsers - 1.0 if browsers else 0.0
    return browsers, 1.0 / float(np.log1p(1.0 / beyond)) if beyond > 0 else 0.0


def log_likelihood_ratio(world: World, shares: F64, displays: Displays, evidence: Evidence) -> F64:
    """(m,) log P(the views after the display | this ad was clicked) - log P(the same | another one was).

    The document is viewed with probability q in any case, and after a click with LEAK + (1 - LEAK) q, where
    q = 1 - (1 - PROMOTED * share) ** later. 0 for documents that nobody views. shares: ViewMaker.shares.
    """
    place = world.ads.promoted[displays.ad]
    keys = displays.row * len(shares) + place
    found = np.searchsorted(evidence.viewed, keys)
    viewed = np.zeros(len(keys), dtype=bool)
    inside = found < len(evidence.viewed)
    viewed[inside] = evidence.viewed[found[inside]] == keys[inside]
    log_unseen = evidence.later[displays.row] * np.log1p(-PROMOTED * shares[place])
    by_chance = np.maximum(-np.expm1(log_unseen), 1e-9)
    yes = np.log(LEAK + (1.0 - LEAK) * by_chance) - np.log(by_chance)
    return np.where(world.ads.viewable[place], np.where(viewed, yes, np.log1p(-LEAK)), 0.0)
