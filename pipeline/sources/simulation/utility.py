"""Why an ad is clicked: the utility of an ad in a display.

A user clicks the ad with the largest utility + Gumbel noise, so utilities are log-odds (a softmax choice) and the
expected click rate of an ad depends on its rivals. For ad a of campaign c and advertiser v, shown on a day at an hour
to user u on platform p in a country and state, on a page of source s and publisher b:

    utility = quality                 advertiser + campaign + ad effects, popularity, age (older ads: lower ids)
            + drift                   slope of c * (day - 7) / 7
            + platform[c, p] + country[v, country] + state[c, state] + daypart[c, hour // 4]
            + publisher[v, b] + source[c, s]
            + taste                   MATCH * closeness(topics of u, topics of a's document) + section[u's first, a's]
            + page                    PAGE * closeness(first topic of the page, topics of a's document)
            + exposure                SEEN if u's last display held a, CLICKED if u clicked it there

Every effect in square brackets is a normal number of its own for each pair (effects.py holds the standard deviations):
an effect that is equal for all ads of a display would cancel. `taste` also drives which pages a user views, so page
views reveal it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.sources.simulation.clock import DAY_MS, HOUR_MS
from pipeline.sources.simulation.documents import closeness, section
from pipeline.sources.simulation.effects import EFFECTS
from pipeline.sources.simulation.randomness import F32, I64
from pipeline.sources.simulation.users import Traits
from pipeline.sources.simulation.world import World

_FIRST_TOPIC = 0.7  # weight of a document's first topic, and of a user's


@dataclass(frozen=True, slots=True)
class Context:
    """Displays, (n,) each: time in ms, the user's traits, the page."""

    time: I64
    traits: Traits
    page: I64


class Utility:
    """The utilities of a world."""

    def __init__(self, world: World) -> None:
        self._ads, self._documents, self._places = world.ads, world.documents, world.places
        self._streams = world.streams("utility", *EFFECTS)

    def __call__(self, context: Context, row: I64, ad: I64, seen: I64) -> F32:
        """(m,) utilities of the ads `ad` in the displays `row`. seen: 1 in the user's last display, 2 clicked there."""
        campaign, advertiser = self._ads.campaign[ad], self._ads.advertiser[ad]
        day = (context.time / DAY_MS).astype(np.float32)
        daypart = context.time % DAY_MS // (4 * HOUR_MS)
        geo = context.traits.geo
        source = self._documents.source[context.page].astype(np.int64)
        return (
            self._ads.quality[ad]
            + self._effect("drift", campaign) * ((day - 7.0) / 7.0)[row]
            + self._effect("platform", campaign, context.traits.platform[row])
            + self._effect("country", advertiser, self._places.country[geo][row])
            + self._effect("state", campaign, self._places.state[geo][row])
            + self._effect("daypart", campaign, daypart[row])
            + self._effect("publisher", advertiser, self._documents.publishers[source][row])
            + self._effect("source", campaign, source[row])
            + self._interest(context, row, ad)
            + np.array([0.0, EFFECTS["seen"], EFFECTS["seen"] + EFFECTS["clicked"]], dtype=np.float32)[seen]
        )

    def _interest(self, context: Context, row: I64, ad: I64) -> F32:
        """What the topics of user, page and ad's document say."""
        document = self._ads.document[ad]
        topics = (self._documents.first[document], self._documents.second[document])
        user = (context.traits.first[row], context.traits.second[row])
        page = self._documents.first[context.page][row]
        weights = (_FIRST_TOPIC, 1.0 - _FIRST_TOPIC)
        weighted = list(zip(weights, topics, strict=True))
        near: F32 = sum((v * closeness()[page, t] for v, t in weighted), np.zeros(len(ad), dtype=np.float32))
        taste: F32 = np.zeros(len(ad), dtype=np.float32)
        for weight, topic in zip(weights, user, strict=True):
            taste += sum((weight * v * closeness()[topic, t] for v, t in weighted), np.zeros(len(ad), dtype=np.float32))
        chemistry = self._effect("section", section(user[0]), section(topics[0].astype(np.int64)))
        return (EFFECTS["match"] * taste + EFFECTS["page"] * near + chemistry).astype(np.float32)

    def _effect(self, name: str, *counters: I64) -> F32:
        return np.float32(EFFECTS[name]) * self._streams[name].normal(*counters)
