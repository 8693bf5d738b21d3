"""How large each part of a world is, from the number of its displays.

Ads, documents, entities and users grow in proportion to the displays, so that an ad is shown as often as in the
competition. What is few even there (sources, publishers, advertisers, campaigns) shrinks more slowly, so that a small
world still has several of each.
"""

from __future__ import annotations

from dataclasses import dataclass

# The competition's own figures.
TRAIN_DISPLAYS = 16_874_593
TEST_DISPLAYS = 6_245_533
DISPLAYS = TRAIN_DISPLAYS + TEST_DISPLAYS
FUTURE_SHARE = 0.5233  # of the test displays: those of days 13 and 14
TRAIN_DAYS = 13
DAYS = 15
TOPICS = 300
CATEGORIES = 97
SAMPLE_ROWS = 9_999_999
PAGE_VIEWS_PER_DISPLAY = 88.0
#: Page views that a display brings besides its user's other browsing: its own page, now and then a clicked ad.
_VIEWS_OF_A_DISPLAY = 1.06
_FURTHER_VIEWS = 9.0  # of the users with events, a display


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Counts of a world. displays = train + present + future; the last two are the test."""

    displays: int
    train: int
    present: int
    future: int
    ads: int
    promoted: int
    campaigns: int
    advertisers: int
    documents: int
    sources: int
    publishers: int
    entities: int
    null_platforms: int

    @property
    def before(self) -> int:
        """Displays of the days of train: train and present."""
        return self.train + self.present


def scale_of(displays: int) -> Scale:
    """The counts of a world with this many displays, train and test together."""
    share = displays / DISPLAYS

    def shrunk(full: int, power: float, least: int) -> int:
        return max(least, round(full * float(share**power)))

    test = max(2, round(displays * TEST_DISPLAYS / DISPLAYS))
    future = max(1, round(test * FUTURE_SHARE))
    promoted = shrunk(185_709, 1.0, 40)
    advertisers = shrunk(4_385, 0.7, 12)
    campaigns = max(shrunk(34_675, 0.85, 24), advertisers)
    return Scale(
        displays=displays,
        train=displays - test,
        present=test - future,
        future=future,
        ads=max(shrunk(559_583, 1.0, 100), promoted + campaigns),
        promoted=promoted,
        campaigns=campaigns,
        advertisers=advertisers,
        documents=shrunk(2_999_334, 1.0, 800),
        sources=shrunk(14_395, 0.7, 40),
        publishers=shrunk(1_260, 0.6, 12),
        entities=shrunk(1_326_009, 1.0, 300),
        null_platforms=max(2, round(5 * share**0.3)),
    )


def further_views(per_display: float) -> float:
    """Further page views of the users with events, a display, in a world with `per_display` page views a display."""
    return min(_FURTHER_VIEWS, 0.4 * max(per_display - _VIEWS_OF_A_DISPLAY, 0.0))


def background_views(displays: int, per_display: float) -> int:
    """Page views of users without events, such that all page views are `per_display` a display."""
    rest = per_display - _VIEWS_OF_A_DISPLAY - further_views(per_display)
    return max(0, round(displays * rest))
