"""A world by other means than the pipeline's own simulation, as raw files, to see what the pipeline is worth elsewhere.

    python -m benchmarks.other_world --out FOLDER --displays 120000 --seed 11
    dvc exp run -S data.source=directory -S data.directory=FOLDER/raw
    python -m benchmarks.standings --truth FOLDER/truth --without views leak affinity --out REPORT

It shares no code and no assumption with pipeline/sources: users have a taste (Dirichlet) for topics and view documents
by it; an ad's utility is its quality and that of its campaign and advertiser, how well it suits the user's taste and
the page's topic, the place, the platform, the publisher, a pair of page and ad, a drift from day to day, and how often
the user has seen it; the click is drawn from the softmax over the display. A tenth of the clicks show among the page
views. Test is the last two days and a seventh of the others. All is held in memory, some 10 KB a display.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.files import write_json

DAY_MS, DAYS = 86_400_000, 15
_TIMES = 2**31  # more than any time
MOST_SHOWN = 0.004  # of all that ads are shown, one: a heavier one would decide by its luck which model is good
COUNTRIES = ("US", "GB", "CA", "AU", "DE", "FR", "NZ", "IN")
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Strengths:
    """Standard deviations of the utility's parts, or factors of what they multiply. leak: the share of clicks whose
    document is viewed afterwards."""

    ad: float = 0.8
    campaign: float = 0.4
    advertiser: float = 0.2
    taste: float = 5.0
    page: float = 2.5
    platform: float = 0.45
    country: float = 0.4
    publisher: float = 0.3
    pair: float = 0.35
    drift: float = 0.075
    seen: float = -0.25
    leak: float = 0.1


class World:
    """Users, documents and ads. topics: (documents, K) weights; the first `pages` documents are viewed, the others are
    promoted."""

    def __init__(self, displays: int, random: np.random.Generator) -> None:
        self.random, topics = random, 80
        self.users, self.pages, self.ads = int(displays * 0.85), max(3000, displays // 6), max(800, displays // 24)
        promoted = int(self.ads * 0.6)
        documents = self.pages + promoted
        self.campaigns = max(100, self.ads // 8)
        self.advertisers, sources = max(30, self.campaigns // 4), self.pages // 60
        self.document_id = random.permutation(np.sort(random.choice(np.arange(1, 3_000_000), documents, replace=False)))
        self.main = random.choice(topics, documents, p=random.dirichlet(np.full(topics, 0.6)))
        self.second, self.share = random.integers(0, topics, documents), random.uniform(0.5, 1, documents)
        self.topics = np.zeros((documents, topics), np.float32)
        self.topics[np.arange(documents), self.second] += 1 - self.share
        self.topics[np.arange(documents), self.main] += self.share
        of_page = (self.main * 7 + random.integers(0, 7, documents)) % sources
        of_ad = sources + random.integers(0, 2 * self.advertisers, documents)
        self.source = np.where(np.arange(documents) < self.pages, of_page, of_ad)
        publishers = sources // 3
        of_source = [np.arange(sources) % publishers, publishers + random.integers(0, self.advertisers, documents)]
        self.publisher = np.concatenate(of_source)[self.source]
        self.taste = random.dirichlet(np.full(topics, 0.08), self.users).astype(np.float32)
        self.country = random.choice(len(COUNTRIES), self.users, p=[0.8, 0.06, 0.05, 0.03, 0.02, 0.02, 0.01, 0.01])
        self.state = random.integers(0, 30, self.users)
        self.platform = random.choice(3, self.users, p=[0.4, 0.45, 0.15])
        self.popularity = random.pareto(1.1, self.pages) + 0.05
        again = random.integers(0, promoted, self.ads - promoted)
        self.of_ad = self.pages + random.permutation(promoted)[np.concatenate([np.arange(promoted), again])]
        self.campaign = random.integers(0, self.campaigns, self.ads)
        self.advertiser = random.integers(0, self.advertisers, self.campaigns)[self.campaign]
        # ads come and go at an even pace, from so long ago that the first day is as any other
        self.start, self.length = random.integers(-23, DAYS, self.ads), random.integers(3, 24, self.ads)
        self.shown = random.pareto(1.3, self.ads) + 0.1
        # half of the ads run on a day, so none makes more than a hundredth of a day's impressions
        self.shown = np.minimum(self.shown, MOST_SHOWN * self.shown.sum())

    def viewed(self, users: Longs) -> Longs:
        """A document for each view: by the user's taste three times out of four, then by popularity."""
        of_taste = np.cumsum(self.taste[users], axis=1)
        topic = (self.random.random(len(users))[:, None] * of_taste[:, -1:] > of_taste).sum(axis=1)
        found = drawn(self.popularity, self.random.random(len(users)))
        luck, by_taste = self.random.random(len(users)), self.random.random(len(users)) < 0.75
        for k in range(self.taste.shape[1]):
            at, there = np.flatnonzero(by_taste & (topic == k)), np.flatnonzero(self.main[: self.pages] == k)
            if len(there):
                found[at] = there[drawn(self.popularity[there], luck[at])]
        return found


def drawn(weights: Floats, luck: Floats) -> Longs:
    """Indices (n,) by weight, from uniform numbers (n,)."""
    total = np.cumsum(weights)
    return np.minimum(np.searchsorted(total, luck * total[-1], side="right"), len(weights) - 1)


def shown_ads(world: World, day: Longs, lengths: Longs) -> tuple[Longs, Longs]:
    """display, ad of each impression: of those that run on its day, by how much each is shown, none twice."""
    display = np.repeat(np.arange(len(day)), lengths)
    ad, again = np.zeros(len(display), np.int64), np.arange(len(display))
    for _ in range(60):
        for today in range(DAYS):
            at = again[day[display[again]] == today]
            live = np.flatnonzero((world.start <= today) & (today < world.start + world.length))
            ad[at] = live[drawn(world.shown[live], world.random.random(len(at)))]
        order = np.lexsort((ad, display))
        twice = (np.diff(display[order]) == 0) & (np.diff(ad[order]) == 0)
        again = order[1:][twice]
        if not len(again):
            break
    kept = np.ones(len(ad), bool)
    kept[again] = False
    return display[kept], ad[kept]


def utility(
    world: World, display: Longs, ad: Longs, user: Longs, page: Longs, time: Longs, strengths: Strengths
) -> Floats:
    """(N,) of the impressions; user, page, time: of the displays."""
    s, normal = strengths, world.random.normal
    who, where, what = user[display], page[display], world.of_ad[ad]
    quality = normal(0, s.ad, world.ads) + normal(0, s.campaign, world.campaigns)[world.campaign]
    quality += normal(0, s.advertiser, world.advertisers)[world.advertiser]
    z = quality[ad] + np.cumsum(normal(0, s.drift, (world.ads, DAYS)), axis=1)[ad, time[display] // DAY_MS]
    z += s.taste * np.einsum("nk,nk->n", world.taste[who], world.topics[what])
    z += s.page * np.einsum("nk,nk->n", world.topics[where], world.topics[what])
    z += normal(0, s.platform, (3, world.campaigns))[world.platform[who], world.campaign[ad]]
    z += normal(0, s.country, (len(COUNTRIES), world.advertisers))[world.country[who], world.advertiser[ad]]
    by_publisher = normal(0, s.publisher, (world.publisher.max() + 1, world.taste.shape[1]))
    z += by_publisher[world.publisher[where], world.main[what]]
    z += normal(0, s.pair, 1000)[(where * 1_000_003 + ad * 7919) % 1000]
    order = np.lexsort((time[display], ad, who))
    first = np.append(True, (np.diff(who[order]) != 0) | (np.diff(ad[order]) != 0))
    place = np.arange(len(order))
    before = np.empty(len(order))
    before[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return z + s.seen * np.log1p(before)


def write_world(out: Path, displays: int, seed: int, strengths: Strengths) -> None:
    """raw/NAME.csv as the competition's files are, truth/displays.parquet and truth/truth.json as `raw` writes them."""
    random = np.random.default_rng(seed)
    world = World(displays, random)
    weight = random.pareto(2.2, world.users) + 0.25
    user = np.sort(random.choice(world.users, displays, p=weight / weight.sum()))
    hour = np.clip(random.normal(15, 5, displays), 0, 23.98)
    time = random.integers(0, DAYS, displays) * DAY_MS + (hour * 3_600_000).astype(np.int64)
    time += random.integers(0, 60_000, displays)
    page, day = world.viewed(user), time // DAY_MS
    shares = [0.05, 0.17, 0.24, 0.08, 0.24, 0.06, 0.1, 0.02, 0.04]
    display, ad = shown_ads(world, day, random.choice([2, 3, 4, 5, 6, 7, 8, 9, 12], displays, p=shares))
    z = utility(world, display, ad, user, page, time, strengths)
    luck = z + random.gumbel(size=len(z))
    best = np.maximum.reduceat(luck, np.flatnonzero(np.append(True, np.diff(display) != 0)))
    clicked = luck == best[display]

    viewer, at, document = all_views(world, user, time, page, user[display], time[display], ad, clicked, strengths.leak)
    test = (day >= DAYS - 2) | (random.random(displays) < 1 / 7)
    number = np.empty(displays, np.int64)
    number[np.lexsort((time, test))] = np.arange(1, displays + 1)
    ad_id = random.permutation(np.sort(random.choice(np.arange(1, 600_000), world.ads, replace=False)))
    oracle = z + told_by_views(world, user[display], time[display], world.of_ad[ad], clicked, viewer, at, document)
    order = np.lexsort((ad_id[ad], number[display]))
    impressions = {"display_id": number[display], "ad_id": ad_id[ad], "clicked": clicked.astype(np.uint8)}
    impressions = {name: values[order] for name, values in impressions.items()}
    (out / "truth").mkdir(parents=True, exist_ok=True)
    told = pa.table({**impressions, "oracle": oracle[order].astype(np.float32)})
    pq.write_table(told, out / "truth" / "displays.parquet")
    write_json(
        out / "truth" / "truth.json", {"known": True, "displays": displays, "seed": seed, "effects": asdict(strengths)}
    )

    of_test = test[display][order]
    raw = {
        "clicks_train": {name: values[~of_test] for name, values in impressions.items()},
        "clicks_test": {name: impressions[name][of_test] for name in ("display_id", "ad_id")},
        **visits(world, number, user, time, page, viewer, at, document),
        "promoted_content": {
            "ad_id": ad_id,
            "document_id": world.document_id[world.of_ad],
            "campaign_id": 1 + world.campaign,
            "advertiser_id": 1 + world.advertiser,
        },
        **documents(world),
    }
    (out / "raw").mkdir(parents=True, exist_ok=True)
    for name, columns in raw.items():
        pcsv.write_csv(pa.table(columns), out / "raw" / f"{name}.csv")
    shown, first = np.unique(raw["clicks_test"]["display_id"], return_index=True)
    offered = np.split(raw["clicks_test"]["ad_id"], first[1:])
    lines = [f"{number},{' '.join(map(str, ads))}" for number, ads in zip(shown, offered, strict=True)]
    (out / "raw" / "sample_submission.csv").write_text("\n".join(["display_id,ad_id", *lines, ""]), encoding="utf-8")


def visits(
    world: World, number: Longs, user: Longs, time: Longs, page: Longs, viewer: Longs, at: Longs, document: Longs
) -> dict[str, dict[str, np.ndarray]]:
    """The tables of displays (number, user, time, page) and, in any order, page views (viewer, at, document)."""
    random = world.random
    users = random.choice(2**50, world.users * 3 // 2, replace=False)
    uuid = np.array([f"{number:013x}" for number in users.tolist()])
    states = np.array([f">S{number:02d}" for number in range(30)])
    place = np.char.add(np.array(COUNTRIES)[world.country], states[world.state])
    place = np.where(world.country == 0, np.char.add(place, np.char.add(">", (500 + world.state).astype(str))), place)
    of_viewer, order = np.minimum(viewer, world.users - 1), random.permutation(len(viewer))
    by_number = np.argsort(number)
    return {
        "events": {
            "display_id": number[by_number],
            "uuid": uuid[user][by_number],
            "document_id": world.document_id[page][by_number],
            "timestamp": time[by_number],
            "platform": 1 + world.platform[user][by_number],
            "geo_location": place[user][by_number],
        },
        "page_views": {
            "uuid": uuid[viewer][order],
            "document_id": world.document_id[document][order],
            "timestamp": at[order],
            "platform": 1 + world.platform[of_viewer][order],
            "geo_location": place[of_viewer][order],
            "traffic_source": random.choice([1, 2, 3], len(viewer), p=[0.55, 0.3, 0.15]),
        },
    }


def all_views(
    world: World,
    user: Longs,
    time: Longs,
    page: Longs,
    shown_to: Longs,
    shown_at: Longs,
    ad: Longs,
    clicked: NDArray[np.bool_],
    leak: float,
) -> tuple[Longs, Longs, Longs]:
    """user, time and document of each view: the displays' pages, others by taste, some clicks a little later, promoted
    documents at any time, and what users without a display view."""
    random = world.random
    views = [(user, time, page)]
    often = np.repeat(np.arange(world.users), random.geometric(1 / 14, world.users))
    views.append((often, random.integers(0, DAYS * DAY_MS, len(often)), world.viewed(often)))
    leaks = np.flatnonzero(clicked & (random.random(len(clicked)) < leak))
    later = shown_at[leaks] + 800 + random.lognormal(10.2, 1.0, len(leaks)).astype(np.int64)
    views.append((shown_to[leaks], np.minimum(later, DAYS * DAY_MS - 1), world.of_ad[ad[leaks]]))
    some = random.choice(often, len(often) // 25)
    promoted = world.of_ad[drawn(world.shown, random.random(len(some)))]
    views.append((some, random.integers(0, DAYS * DAY_MS, len(some)), promoted))
    strangers = np.arange(world.users, world.users * 3 // 2)
    strangers = np.repeat(strangers, random.geometric(1 / 6, len(strangers)))
    popular = drawn(world.popularity, random.random(len(strangers)))
    views.append((strangers, random.integers(0, DAYS * DAY_MS, len(strangers)), popular))
    viewer, at, document = (np.concatenate(column) for column in zip(*views, strict=True))
    return viewer, at, document


def told_by_views(
    world: World,
    user: Longs,
    time: Longs,
    promoted: Longs,
    clicked: NDArray[np.bool_],
    viewer: Longs,
    at: Longs,
    document: Longs,
) -> Floats:
    """(N,): what it adds to the log odds of a click that the user views the promoted document so long after the
    display, or does not."""
    size, ads = len(world.document_id), np.flatnonzero(document >= world.pages)
    views = np.sort((viewer[ads] * size + document[ads]) * _TIMES + at[ads])
    shown = (user * size + promoted) * _TIMES + time
    following = views[np.minimum(np.searchsorted(views, shown), len(views) - 1)]
    after = (following >= shown) & (following // _TIMES == shown // _TIMES)
    # delays in steps of a factor of 1.5; 0: no view
    delay = np.where(after, 1 + (2.5 * np.log1p(np.where(after, following - shown, 0))).astype(np.int64), 0)
    of_clicks, of_others = (np.bincount(delay[which], minlength=delay.max() + 1) + 0.5 for which in (clicked, ~clicked))
    return np.log(of_clicks / of_clicks.sum() / (of_others / of_others.sum()))[delay]


def documents(world: World) -> dict[str, dict[str, np.ndarray]]:
    """The tables of what documents are about."""
    random, ids = world.random, world.document_id
    two = world.second != world.main
    published = np.datetime64("2016-06-10") - random.integers(0, 600, len(ids)).astype("timedelta64[D]")
    entity = [f"e{number:04d}" for number in (20 * world.main + random.integers(0, 20, len(ids))).tolist()]
    return {
        "documents_meta": {
            "document_id": ids,
            "source_id": 1 + world.source,
            "publisher_id": 1 + world.publisher,
            "publish_time": np.char.add(published.astype(str), " 00:00:00"),
        },
        "documents_topics": {
            "document_id": np.concatenate([ids, ids[two]]),
            "topic_id": np.concatenate([world.main, world.second[two]]),
            "confidence_level": np.concatenate([0.9 * world.share, 0.9 * (1 - world.share[two]) + 0.01]).round(4),
        },
        "documents_categories": {
            "document_id": ids,
            "category_id": 1000 + world.main // 4,
            "confidence_level": np.full(len(ids), 0.9),
        },
        "documents_entities": {
            "document_id": ids,
            "entity_id": np.array(entity),
            "confidence_level": np.full(len(ids), 0.7),
        },
    }


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--out", type=Path, required=True, help="folder of raw/ and truth/ (output)")
    command.add_argument("--displays", type=int, default=120_000, help="train and test together (default: %(default)s)")
    command.add_argument("--seed", type=int, default=11)
    options = command.parse_args()
    write_world(options.out, options.displays, options.seed, Strengths())


if __name__ == "__main__":
    main()
