"""The simulated world: is it, byte for byte, what the competition's files would be, and is its truth the truth?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ParameterError
from pipeline.schemas.raw import DAY_MS, RAW_FILES
from pipeline.sources.simulated import SimulatedSource, SimulationConfig
from pipeline.sources.simulation.documents import category, category_ids, section
from pipeline.sources.simulation.randomness import Permutation, Stream, lookup
from pipeline.sources.simulation.scale import CATEGORIES, DISPLAYS, TOPICS, TRAIN_DISPLAYS, scale_of
from pipeline.sources.simulation.users import Slots

DISPLAYS_MADE = 4_000
MEAN_CLICK_RATE = 0.1936


@dataclass(frozen=True)
class World:
    raw: Path
    truth: Path
    db: duckdb.DuckDBPyConnection

    def one(self, sql: str) -> tuple[float, ...]:
        row = self.db.execute(sql).fetchone()
        assert row is not None
        return row

    def lines(self, name: str) -> list[str]:
        return (self.raw / f"{name}.csv").read_bytes().decode("ascii").splitlines()


def load(raw: Path, truth: Path) -> duckdb.DuckDBPyConnection:
    """A database with a table for each raw file (texts, empty is null) and the truth."""
    db = duckdb.connect()
    db.execute("set threads = 2")
    for name, file in RAW_FILES.items():
        columns = ", ".join(f"'{column.name}': 'VARCHAR'" for column in file.columns)
        path = raw / f"{name}.csv"
        if name == "page_views_sample":  # its lines end in two ways
            continue
        db.execute(
            f"create table {name} as select * from read_csv('{path}', header = true, auto_detect = false, delim = ',',"
            f" quote = '', escape = '', nullstr = '', columns = {{{columns}}})"
        )
    db.execute(f"create table truth as select * from '{truth / 'displays.parquet'}'")
    return db


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def make(folder: Path, displays: int, seed: int, views: float = 88.0) -> None:
    config = SimulationConfig(displays=displays, seed=seed, page_views_per_display=views)
    SimulatedSource(config, folder / "raw", folder / "truth").prepare()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    make(folder, DISPLAYS_MADE, seed=1)
    db = load(folder / "raw", folder / "truth")
    yield World(folder / "raw", folder / "truth", db)
    db.close()


def mean_reciprocal_rank(world: World, score: str) -> float:
    """MAP@12 on test of a score, an SQL expression over `scored`; ties are broken by a hash."""
    return world.one(
        f"""
        with rates as (
            select ad_id, (sum(clicked::int) + 12 * {MEAN_CLICK_RATE}) / (count(*) + 12) as rate
            from clicks_train group by ad_id
        ), viewed as (
            select distinct display_id, ad_id from truth
            join events using (display_id) join promoted_content using (ad_id)
            join page_views v on v.uuid = events.uuid and v.document_id = promoted_content.document_id
                and v.timestamp::bigint > events.timestamp::bigint
        ), scored as (
            select t.*, ln(coalesce(rate, {MEAN_CLICK_RATE})) as rate, v.ad_id is not null as viewed
            from truth t join (select distinct display_id from clicks_test) using (display_id)
            left join rates r on r.ad_id::int = t.ad_id
            left join viewed v on v.display_id = t.display_id and v.ad_id = t.ad_id
        ), ranked as (
            select clicked, row_number() over (
                partition by display_id order by {score} desc, hash(display_id::bigint * 1000003 + ad_id)) as rank
            from scored
        )
        select avg(1.0 / rank) from ranked where clicked = 1
        """
    )[0]


def statistics(world: World) -> dict[str, float]:
    """What the world is calibrated on; to look at a large world, make one and print this."""
    ads, single, below_five, most, further = world.one(
        """
        select (select count(*) / count(distinct display_id) from clicks_train),
            avg((e = 1)::int), avg((e < 5)::int), max(e), avg((v > e)::int)
        from (select uuid, count(*) e from events group by 1)
        left join (select uuid, count(*) v from page_views group by 1) using (uuid)
        """
    )
    views, one_view, promoted, users = world.one(
        """
        select sum(n), avg((n = 1)::int), sum(promoted) / sum(n), count(*) from (
            select uuid, count(*) n, count(p.document_id) promoted from page_views v
            left join (select distinct document_id from promoted_content) p using (document_id) group by uuid)
        """
    )
    joined, exact = world.one(
        f"""
        with e as (select * replace (coalesce(geo_location, '') as geo_location) from events),
        v as (select * replace (coalesce(geo_location, '') as geo_location) from page_views),
        found as (
            select bool_or(v.timestamp::bigint // {DAY_MS} = e.timestamp::bigint // {DAY_MS}) as day,
                bool_or(v.timestamp = e.timestamp) as exact
            from e left join v using (uuid, document_id, platform, geo_location) group by display_id)
        select avg(coalesce(day, false)::int), avg(coalesce(exact, false)::int) from found
        """
    )
    return {
        "ads per display": ads,
        "users with one event": single,
        "users with fewer than five events": below_five,
        "most events of a user": most,
        "event users with further views": further,
        "page views per display": views / DISPLAYS_MADE,
        "users with one view": one_view,
        "users per display": users / DISPLAYS_MADE,
        "views of promoted documents": promoted,
        "events with a view of the day": joined,
        "events with a view of the millisecond": exact,
    }


# --- the bytes ---


@pytest.mark.parametrize("name", RAW_FILES)
def test_every_file_has_kaggles_header_and_values(world: World, name: str) -> None:
    data = (world.raw / f"{name}.csv").read_bytes()
    header, _, body = data.partition(b"\n")
    assert header.decode() == ",".join(RAW_FILES[name].header)
    end = b"\r\n" if name == "page_views_sample" else b"\n"
    assert body.endswith(end)
    assert body.count(b"\r") == (body.count(b"\n") if name == "page_views_sample" else 0)
    assert b'"' not in body
    patterns = [
        re.compile(f"(?:{column.pattern or '.*'}){'?' if column.optional else ''}")
        for column in RAW_FILES[name].columns
    ]
    rows = body.decode("ascii").split(end.decode())[:-1]
    assert rows
    for row in rows[:: max(1, len(rows) // 5_000)]:
        values = row.split(",")
        assert len(values) == len(patterns), row
        assert all(pattern.fullmatch(value) for pattern, value in zip(patterns, values, strict=True)), row


def test_uuids_and_entities_have_kaggles_form(world: World) -> None:
    assert world.one("select min(regexp_full_match(uuid, '[0-9a-f]{14}')::int), count(*) from page_views")[0] == 1
    assert world.one("select min(regexp_full_match(entity_id, '[0-9a-f]{32}')::int) from documents_entities")[0] == 1


def test_displays_are_numbered_and_ordered_as_kaggles(world: World) -> None:
    scale = scale_of(DISPLAYS_MADE)
    for name, first, last in (("clicks_train", 1, scale.train), ("clicks_test", scale.train + 1, DISPLAYS_MADE)):
        ids = np.array([line.split(",")[:2] for line in world.lines(name)[1:]], dtype=np.int64)
        displays, starts, sizes = np.unique(ids[:, 0], return_index=True, return_counts=True)
        assert displays.tolist() == list(range(first, last + 1))
        assert (np.diff(starts) > 0).all(), "displays do not stand in order"
        assert 2 <= sizes.min() < sizes.max() <= 12
        within = np.diff(ids[:, 0]) == 0
        assert (np.diff(ids[:, 1])[within] > 0).all(), "ads do not ascend within a display"
    events = np.array([line.split(",")[:4:3] for line in world.lines("events")[1:]], dtype=np.int64)
    assert events[:, 0].tolist() == list(range(1, DISPLAYS_MADE + 1))
    train, test = events[: scale.train, 1], events[scale.train :, 1]
    assert (np.diff(train) >= 0).all()
    assert (np.diff(test) >= 0).all()
    assert train.min() >= 0
    assert train.max() < 13 * DAY_MS <= test.max() < 15 * DAY_MS
    assert (test >= 13 * DAY_MS).sum() == scale.future
    assert set(test // DAY_MS) == set(range(15)), "present displays are missing from some day"


def test_proportions_of_train_and_test() -> None:
    scale = scale_of(DISPLAYS)
    assert (scale.train, scale.ads, scale.documents) == (TRAIN_DISPLAYS, 559_583, 2_999_334)
    small = scale_of(DISPLAYS_MADE)
    assert small.train / DISPLAYS_MADE == pytest.approx(0.72987, abs=1e-3)
    assert small.future / (small.present + small.future) == pytest.approx(0.5233, abs=1e-3)


def test_one_click_a_display(world: World) -> None:
    assert world.one(
        "select min(n), max(n) from (select sum(clicked::int) n from clicks_train group by display_id)"
    ) == (1, 1)
    assert world.one("select min(n), max(n) from (select sum(clicked) n from truth group by display_id)") == (1, 1)


def test_sample_submission_ranks_the_ads_of_clicks_test(world: World) -> None:
    expected: dict[str, list[str]] = {}
    for line in world.lines("clicks_test")[1:]:
        display, ad = line.split(",")
        expected.setdefault(display, []).append(ad)
    rows = [line.split(",") for line in world.lines("sample_submission")[1:]]
    assert [(display, ads.split(" ")) for display, ads in rows] == list(expected.items())


def test_sample_holds_the_page_views_of_the_first_day(world: World) -> None:
    sample = world.lines("page_views_sample")[1:]
    first_day = [line for line in world.lines("page_views")[1:] if int(line.split(",")[2]) < DAY_MS]
    assert sample == first_day


def test_the_dirt_is_there(world: World) -> None:
    assert world.one(r"select count(*) from events where platform = '\N'")[0] >= 2
    rare = world.one(
        "select count(*) filter (geo_location is null), count(*) filter (geo_location = '--'),"
        " count(*) filter (geo_location = 'EU'), count(*) filter (geo_location = 'NA'),"
        " count(*) filter (geo_location like 'US>__>___'), count(*) filter (geo_location = 'US') from events"
    )
    assert min(rare) >= 1
    missing = world.one(
        "select count(*) - count(source_id), count(*) - count(publisher_id), count(*) - count(publish_time),"
        " count(*) filter (publish_time like '30%'), count(*) filter (publish_time like '00%') from documents_meta"
    )
    assert min(missing) >= 1


def test_every_id_is_known_where_it_must_be(world: World) -> None:
    unknown = world.one(
        """
        select (select count(*) from clicks_train anti join promoted_content using (ad_id)),
            (select count(*) from clicks_test anti join promoted_content using (ad_id)),
            (select count(*) from events anti join documents_meta using (document_id)),
            (select count(*) from page_views anti join documents_meta using (document_id)),
            (select count(*) - count(distinct ad_id) from promoted_content),
            (select count(*) - count(distinct document_id) from documents_meta),
            (select count(*) - count(distinct (document_id, category_id)) from documents_categories),
            (select count(*) - count(distinct (document_id, topic_id)) from documents_topics),
            (select count(*) - count(distinct (document_id, entity_id)) from documents_entities),
            (select count(*) from (select campaign_id from promoted_content group by 1
                having count(distinct advertiser_id) > 1))
        """
    )
    assert set(unknown) == {0}


# --- the distributions ---

EXPECTED = {
    "ads per display": (5.16, 0.1),
    "users with one event": (0.884, 0.01),
    "users with fewer than five events": (0.995, 0.003),
    "event users with further views": (0.75, 0.03),
    "page views per display": (88.0, 0.5),
    "users with one view": (0.639, 0.01),
    "users per display": (31.0, 1.0),
    "views of promoted documents": (0.056, 0.004),
    "events with a view of the day": (0.9976, 0.003),
    "events with a view of the millisecond": (0.68, 0.025),
}


@pytest.fixture(scope="module")
def measured(world: World) -> dict[str, float]:
    return statistics(world)


@pytest.mark.parametrize("name", EXPECTED)
def test_distributions_are_the_competitions(measured: dict[str, float], name: str) -> None:
    value, tolerance = EXPECTED[name]
    assert measured[name] == pytest.approx(value, abs=tolerance)


def test_no_user_has_more_than_49_events(measured: dict[str, float]) -> None:
    assert 5 <= measured["most events of a user"] <= 49


def test_a_few_ads_are_shown_most_and_some_are_new_in_test(world: World) -> None:
    head, new = world.one(
        """
        with shows as (
            select n, percent_rank() over (order by n desc) as rank
            from (select count(*) n from clicks_train group by ad_id))
        select (select sum(n) filter (rank < 0.2) / sum(n) from shows),
            (select avg((ad_id not in (select ad_id from clicks_train))::int) from
                (select distinct ad_id from clicks_test))
        """
    )
    assert 0.5 < head < 0.95
    assert 0.02 < new < 0.35


def test_evenings_in_america_are_busy_and_its_nights_quiet(world: World) -> None:
    night, evening = world.one(
        f"""select count(*) filter (hour between 3 and 5), count(*) filter (hour between 20 and 22)
        from (select timestamp::bigint % {DAY_MS} // 3600000 as hour from events)"""
    )
    assert evening > 2 * night


# --- the truth ---


def test_truth_stands_beside_the_clicks(world: World) -> None:
    truth = pq.read_table(world.truth / "displays.parquet")
    assert [str(kind) for kind in truth.schema.types] == ["uint32", "uint32", "uint8", "float", "float"]
    train = [tuple(map(int, line.split(","))) for line in world.lines("clicks_train")[1:]]
    test = [tuple(map(int, line.split(","))) for line in world.lines("clicks_test")[1:]]
    ids = list(zip(truth["display_id"].to_pylist(), truth["ad_id"].to_pylist(), strict=True))
    assert ids == [row[:2] for row in train] + test
    assert truth["clicked"].to_pylist()[: len(train)] == [row[2] for row in train]
    description = json.loads((world.truth / "truth.json").read_text())
    assert description["known"] is True
    assert description["config"]["displays"] == DISPLAYS_MADE


def test_clicks_follow_the_softmax_of_the_utilities(world: World) -> None:
    """The expected number of clicks among ads of equal predicted chance is the number there is."""
    bins = world.db.execute(
        """
        select avg(p), avg(clicked), count(*) from (
            select clicked, exp(utility) / sum(exp(utility)) over (partition by display_id) as p from truth)
        group by floor(p * 8) order by 1
        """
    ).fetchall()
    assert len(bins) >= 6
    for expected, observed, count in bins:
        assert observed == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


def test_the_leak_is_there(world: World) -> None:
    clicked, skipped, viewable = world.one(
        """
        with shown as (
            select clicked, p.document_id, p.document_id in (select document_id from page_views) as viewable,
                exists (select 1 from page_views v where v.uuid = e.uuid and v.document_id = p.document_id
                    and v.timestamp::bigint > e.timestamp::bigint) as viewed
            from truth join events e using (display_id)
            join (select ad_id::uinteger ad_id, document_id from promoted_content) p using (ad_id)
        )
        select avg(viewed::int) filter (viewable and clicked = 1), avg(viewed::int) filter (viewable and clicked = 0),
            count(distinct document_id) filter (viewable) / count(distinct document_id) from shown
        """
    )
    assert 0.35 < clicked < 0.6
    assert skipped < 0.12
    assert 0.15 < viewable < 0.6


def test_scores_stand_as_on_the_leaderboard(world: World) -> None:
    chance, rate, leak, utility, oracle = (
        mean_reciprocal_rank(world, score)
        for score in ("hash(ad_id)", "rate", "rate + 3 * viewed::int", "utility", "oracle")
    )
    assert chance == pytest.approx(0.48, abs=0.04)
    assert rate > chance + 0.06
    assert leak > rate + 0.01
    assert utility > rate + 0.03
    assert oracle > utility + 0.005
    assert 0.66 < oracle < 0.80


def test_views_reveal_what_users_like(world: World) -> None:
    """Users view documents of few topics: the same topic twice in a row is far more frequent than by chance."""
    same, chance = world.one(
        """
        with topics as (
            select document_id, arg_max(topic_id, confidence_level::double) topic from documents_topics group by 1),
        v as (select uuid, topic, row_number() over (partition by uuid order by timestamp::bigint, document_id) r
            from page_views join topics using (document_id) where uuid in (select uuid from events)),
        pairs as (select avg((a.topic = b.topic)::int) p from v a join v b on a.uuid = b.uuid and b.r = a.r + 1),
        shares as (
            select sum((n / total) ** 2) p from (select count(*) n, sum(count(*)) over () total from v group by topic))
        select pairs.p, shares.p from pairs, shares
        """
    )
    assert same > 2 * chance


# --- the same world twice ---


def test_equal_parameters_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(tmp_path / folder, 1_000, seed)
    a, b, c = (digests(tmp_path / folder) for folder in "abc")
    assert a == b
    assert len(a) == len(RAW_FILES) + 2
    assert [name for name in a if a[name] == c[name]] == []


def test_a_small_world_works_and_leaves_nothing_else(tmp_path: Path) -> None:
    config = SimulationConfig(displays=300, seed=5, page_views_per_display=4.0)
    paths = SimulatedSource(config, tmp_path / "raw", tmp_path / "truth").prepare()
    assert list(paths) == list(RAW_FILES)
    assert sorted(tmp_path.rglob("*.*")) == sorted(
        [*paths.values(), tmp_path / "truth" / "displays.parquet", tmp_path / "truth" / "truth.json"]
    )
    rows = sum(1 for _ in paths["page_views"].open()) - 1
    assert rows == pytest.approx(300 * 4, rel=0.25)


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("pipeline.sources.simulation.writing.Writer.views", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        make(tmp_path, 300, seed=5)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"displays": 10}, "displays must be from"),
        ({"displays": DISPLAYS + 1}, "displays must be from"),
        ({"seed": -1}, "seed must be"),
        ({"page_views_per_display": 0.5}, "page_views_per_display must be"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SimulationConfig(**({"displays": 1_000, "seed": 1} | wrong))  # type: ignore[arg-type]


# --- the parts ---


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000, 4097])
def test_a_permutation_is_one(size: int) -> None:
    places = Permutation(size, Stream(1, "test"))(np.arange(size))
    assert sorted(places.tolist()) == list(range(size))
    if size > 100:
        assert abs(np.corrcoef(places, np.arange(size))[0, 1]) < 0.15


def test_slots_give_each_user_as_many_as_it_owns() -> None:
    slots = Slots(10_000, {1: 0.8, 2: 0.15, 7: 0.05})
    owned = np.bincount(slots.owner(np.arange(10_000)))
    assert len(owned) == slots.users
    assert set(owned.tolist()) == {1, 2, 7}
    assert (owned[: slots.single_users] == 1).all()
    assert (owned == 7).mean() == pytest.approx(0.05, abs=0.005)


def test_streams_are_uniform_and_normal_and_apart() -> None:
    index = np.arange(200_000)
    uniform, normal = Stream(1, "a").uniform(index), Stream(1, "b").normal(index)
    assert np.bincount((uniform * 20).astype(int), minlength=20).std() < 400
    assert (normal.mean(), normal.std()) == pytest.approx((0.0, 1.0), abs=0.01)
    assert abs(np.corrcoef(uniform, Stream(1, "c").uniform(index))[0, 1]) < 0.01
    assert abs(np.corrcoef(uniform, Stream(1, "a").uniform(index, 1))[0, 1]) < 0.01
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.01


def test_a_lookup_table_holds_each_value_by_its_share() -> None:
    assert np.bincount(lookup([1, 2, 1], 8)).tolist() == [2, 4, 2]


def test_categories_lie_in_the_sections_of_their_topics() -> None:
    topics = np.arange(TOPICS)
    assert len(set(category_ids().tolist())) == CATEGORIES
    assert (category(topics) % 20 == section(topics)).all()
    assert set(category(topics).tolist()) == set(range(CATEGORIES))
