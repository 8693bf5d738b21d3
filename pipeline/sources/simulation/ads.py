"""Ads: the catalogue of ads, campaigns and advertisers, how often each is shown and when."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.clock import BLOCK_HOURS, BLOCKS
from pipeline.sources.simulation.documents import SECTIONS, Documents, section
from pipeline.sources.simulation.effects import EFFECTS
from pipeline.sources.simulation.randomness import F32, F64, I64, Stream, shuffled, sparse_ids
from pipeline.sources.simulation.scale import Scale

#: How often an ad is shown: log of the expected count at standard normal scores. In train 22.7 % are shown once, 61.7 %
#: under 10 times, 8.9 % over 100 times, the most shown 211,824 times, 182 times on average.
_SCORES = (-4.6, -0.75, 0.3, 1.35, 2.33, 3.1, 4.6)
_LOG_COUNTS = (-2.5, -0.9, 0.55, 2.85, 8.9, 10.5, 12.4)
#: The most shown 8.9 % take nearly all impressions; no ad takes more than some times their mean share, which is held
#: between 0.24 %, the share of the competition's most shown ad, and 5 %.
_LARGEST_SHARE = (0.0024, 0.05)
_LARGEST_TO_MEAN = 3.0 / 0.089
#: Ads that always run, so that every display finds its ads.
EVERGREENS = 16
#: Share of promoted documents that lie on the network: often for the rarely shown, seldom for the most shown.
_VIEWABLE_RARE = 0.40
_VIEWABLE_HEAD = 0.15
_HEAD = 0.15
#: Days before day 0 from which campaigns may still run, and how many days an ad usually runs.
_OLDEST = 50.0
_LIFE = 35.0
_BLOCKS_A_DAY = 24 // BLOCK_HOURS


class Ads:
    """The ads of a world, as arrays of A rows, in ascending ad_id, which is the order in which they were made.

    ids: ad_id. promoted: place of the ad's document in Documents.promoted; document: the document itself.
    campaign, advertiser: 0.. with their ids in campaign_ids, advertiser_ids. section: of the document's first topic.
    start, stop: blocks of BLOCK_HOURS between which the ad runs. weight: how often it is shown while it runs.
    score: the standard normal score of its popularity. quality: the utility that belongs to the ad alone.
    viewable: (P,) whether a document lies on the network.
    """

    def __init__(self, scale: Scale, seed: int, documents: Documents) -> None:
        self.count = scale.ads
        self._seed = seed
        self._make_hierarchy(scale)
        self._make_lives()
        self._make_popularity(scale)
        self.document = documents.promoted[self.promoted]
        self.section = section(documents.first[self.document].astype(np.int64))
        self._make_quality()
        self._choose_viewable(scale)

    def _make_hierarchy(self, scale: Scale) -> None:
        """Advertisers own documents and campaigns; an ad is a document in a campaign of the same advertiser."""
        stream = Stream(self._seed, "ads.hierarchy")
        docs, campaigns, advertisers = scale.promoted, scale.campaigns, scale.advertisers

        def owned(count: int, salt: int) -> I64:
            """An advertiser each: the first of them once each, the others by size."""
            more = (stream.uniform(np.arange(count), salt) ** 2.5 * advertisers).astype(np.int64)
            return np.where(np.arange(count) < advertisers, np.arange(count), more)

        campaign_owner, document_owner = np.sort(owned(campaigns, 0)), np.sort(owned(docs, 1))
        # Ads 0.. introduce the documents, the next ones the campaigns, the others repeat both.
        owner = np.concatenate([document_owner, campaign_owner, owned(self.count, 2)])[: self.count]
        index = np.arange(self.count)
        self.campaign = _member(campaign_owner, owner, stream.uniform(index, 3) ** 1.6)
        self.promoted = _member(document_owner, owner, stream.uniform(index, 4) ** 1.3)
        self.promoted[:docs] = np.arange(docs)
        self.campaign[docs : docs + campaigns] = np.arange(campaigns)
        self.advertiser = owner
        self.ids = sparse_ids(self.count, 573_098 / 559_583 - 1, Stream(self._seed, "ads.ids"))
        self.campaign_ids = sparse_ids(campaigns, 0.025, Stream(self._seed, "ads.campaign_ids"))
        self.advertiser_ids = shuffled(advertisers, Stream(self._seed, "ads.advertiser_ids")) + 1

    def _make_lives(self) -> None:
        """Starts and stops; then the ads are put in the order of their start, which becomes the order of ad_id."""
        stream = Stream(self._seed, "ads.lives")
        index = np.arange(self.count)
        launch = stream.uniform(self.campaign, 0) * (_OLDEST + 15.0) - _OLDEST  # days
        start = np.minimum(launch + 4.0 * -np.log(stream.uniform(index, 1)), 14.5)
        days = _LIFE * np.exp(0.9 * stream.normal(index, 2))
        order = np.argsort(start, kind="stable")
        for name in ("campaign", "promoted", "advertiser"):
            setattr(self, name, getattr(self, name)[order])
        begin = np.maximum(start[order], 0.0)
        end = begin + days[order]
        self._life = np.clip(np.ceil(days[order] * _BLOCKS_A_DAY), 1, BLOCKS)
        self.start = (begin * _BLOCKS_A_DAY).astype(np.int32)
        self.stop = np.clip(np.ceil(end * _BLOCKS_A_DAY), self.start + 1, BLOCKS).astype(np.int32)
        self.start[:EVERGREENS], self.stop[:EVERGREENS], self._life[:EVERGREENS] = 0, BLOCKS, BLOCKS

    def _make_popularity(self, scale: Scale) -> None:
        stream = Stream(self._seed, "ads.popularity")
        raw = 0.8 * stream.normal(np.arange(self.count)) + 0.6 * stream.normal(self.campaign, 1)
        rank = np.empty(self.count, dtype=np.int64)
        rank[np.argsort(raw, kind="stable")] = np.arange(self.count)
        self.score = _normal_scores(self.count)[rank]
        shows = np.exp(np.interp(self.score, _SCORES, _LOG_COUNTS))
        largest = np.clip(_LARGEST_TO_MEAN / self.count, *_LARGEST_SHARE)
        for _ in range(20):  # the cap lowers the total, hence the cap
            shows = np.minimum(shows, largest * shows.sum())
        # over the life that an ad would have had: one that starts in the last days is not shown the more often for it
        self.weight: F64 = shows / self._life

    def _make_quality(self) -> None:
        """Of one spread over all impressions in every world; else the few most shown ads would make it easy or hard."""
        index = np.arange(self.count)
        quality = EFFECTS["popularity"] * self.score + EFFECTS["age"] * (0.5 - index / self.count)
        for name, member in (("advertiser", self.advertiser), ("campaign", self.campaign), ("ad", index)):
            quality += EFFECTS[name] * Stream(self._seed, f"utility.{name}").normal(member)
        shows = self.weight * (self.stop - self.start)
        centred = quality - np.average(quality, weights=shows)
        spread = np.sqrt(np.average(centred**2, weights=shows))
        self.quality: F32 = (EFFECTS["quality"] * centred / spread).astype(np.float32)

    def _choose_viewable(self, scale: Scale) -> None:
        """A systematic sample of the promoted documents in the order of the clicks that they can expect."""
        clicks = self.weight * (self.stop - self.start) * np.exp(self.quality)
        order = np.argsort(-np.bincount(self.promoted, weights=clicks, minlength=scale.promoted), kind="stable")
        share = np.where(np.arange(scale.promoted) < _HEAD * scale.promoted, _VIEWABLE_HEAD, _VIEWABLE_RARE)
        steps = np.floor(np.cumsum(share) + Stream(self._seed, "ads.viewable").uniform(np.arange(1))[0])
        self.viewable = np.zeros(scale.promoted, dtype=bool)
        self.viewable[order] = np.diff(steps, prepend=0.0) > 0


def _normal_scores(count: int) -> F64:
    """The standard normal quantiles of (i + 0.5) / count, by interpolation in a table that is dense in its tails."""
    knots = np.concatenate([np.logspace(-8, -2, 200), np.linspace(0.011, 0.989, 400), 1 - np.logspace(-2, -8, 200)])
    normal = NormalDist()
    values = [normal.inv_cdf(float(knot)) for knot in knots]
    return np.interp((np.arange(count) + 0.5) / count, knots, values)


def _member(owners: I64, owner: I64, share: F64) -> I64:
    """One of the things whose (sorted) owner is `owner`: the one at this share of them."""
    low = np.searchsorted(owners, owner, side="left")
    high = np.searchsorted(owners, owner, side="right")
    return low + (share * (high - low)).astype(np.int64)


class Offers:
    """The ads that run in one block, to draw from by weight: all of them, or those of one section."""

    def __init__(self, ads: Ads, by_section: I64, block: int) -> None:
        running = by_section[(ads.start[by_section] <= block) & (block < ads.stop[by_section])]
        self.ads = running
        self._runs = (ads.start <= block) & (block < ads.stop)
        self._cumulative = np.concatenate([[0.0], np.cumsum(ads.weight[running])])
        edges = np.searchsorted(ads.section[running], np.arange(SECTIONS + 1))
        self._low = self._cumulative[edges[:-1]]
        self._high = self._cumulative[edges[1:]]

    def draw(self, share: F64, sections: I64) -> I64:
        """An ad at each share of the weight of a section; of all ads where it is -1 or has little to show."""
        total = self._cumulative[-1]
        low, high = self._low[sections], self._high[sections]
        everywhere = (sections < 0) | (high - low < total / SECTIONS / 2)
        low, high = np.where(everywhere, 0.0, low), np.where(everywhere, total, high)
        found = np.searchsorted(self._cumulative, low + share * (high - low), side="right") - 1
        ad: I64 = self.ads[np.clip(found, 0, len(self.ads) - 1)]
        return ad

    def running(self, ad: I64) -> NDArray[np.bool_]:
        """Whether each ad runs in this block; for -1, any answer."""
        runs: NDArray[np.bool_] = self._runs[ad]
        return runs
