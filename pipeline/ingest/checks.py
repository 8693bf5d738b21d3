"""Checks across rows: duplicates, displays without exactly one click, displays in both train and test; and of times.

Most work on a staged file, whose row numbers give the lines. What a policy lets go is noted in the report and in the
temporary table `dropped`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.ingest.locate import place, where
from pipeline.ingest.report import parquet
from pipeline.ingest.staging import Build, Staged
from pipeline.schemas.raw import DAY_MS, EPOCH_MS, MOST_ADS, MOST_DAYS

_LAST_MS = MOST_DAYS * DAY_MS - 1
#: Which rows of events and page views have a time that can be, as SQL.
IN_RANGE = f"timestamp BETWEEN 0 AND {_LAST_MS}"

#: policy: (which displays, what was found, what `drop` does); the last display of the file is judged by itself.
_CLICK_POLICIES = {
    "display_without_click": ("clicks = 0 AND display_id <> {last}", "no click", "leaves such displays out"),
    "display_with_two_clicks": ("clicks > 1", "{clicks} clicks", "leaves such displays out"),
    "cut_display": (
        "clicks = 0 AND display_id = {last}",
        "no click and is the file's last, so the file seems to have been cut",
        "leaves that display out",
    ),
}


def check_duplicates(build: Build, staged: Staged, policy: str, *, best: str = "row") -> None:
    """Find rows with the same key; stop, or drop all but the first in the order `best` (SQL), as the policy says.

    Raises InputError with the first line whose key was there before.
    """
    engine, name, keys = build.engine, staged.source.spec.name, ", ".join(staged.order.names)
    build.report.duplicates[name] = 0
    if staged.order.strict or staged.has_distinct_ids:
        return
    rows = staged.rows(engine)
    engine.sql(
        f"CREATE OR REPLACE TEMP TABLE duplicated AS SELECT row, {keys}, min(row) OVER (PARTITION BY {keys}) AS first, "
        f"row_number() OVER (PARTITION BY {keys} ORDER BY {best}, row) AS place FROM {rows} "
        f"SEMI JOIN (SELECT {keys} FROM {rows} GROUP BY {keys} HAVING count(*) > 1) USING ({keys})"
    )
    found = engine.sql(f"SELECT row, first, {keys} FROM duplicated WHERE row > first ORDER BY row LIMIT 1")
    if not found:
        return
    ((count,),) = engine.sql("SELECT count(*) FROM duplicated WHERE place > 1")
    build.report.duplicates[name] = count
    row, first, *values = found[0]
    what = ", ".join(f"{key} {value}" for key, value in zip(staged.order.names, values, strict=True))
    text = f"{place(staged.source, row)}: {what} is there already, in {where(staged.source, first)}"
    if getattr(build.config, policy) == "error":
        raise InputError(
            f"{text}; expected it once ({count} rows too many in the file); ingest.{policy}: drop keeps one of each"
        )
    engine.sql("INSERT INTO dropped SELECT row FROM duplicated WHERE place > 1")
    build.report.drop(policy, text, "rows", count, count)


class TimeRange:
    """Watches the times of events or page views go by: a call gives those rows of a batch whose time can be.

    A call raises InputError, with the line, at the first other row, unless the policy drops them: then `outside` of
    `rows` were left out, and `note` puts that into the report.
    """

    def __init__(self, build: Build, name: str) -> None:
        self._build, self._source = build, build.inputs[name]
        self._first = ""
        self.rows = 0
        self.outside = 0

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        time = np.from_dlpack(batch.column("timestamp"))  # `to_numpy` would load pandas
        start, self.rows = self.rows, self.rows + len(time)
        if not len(time) or (time.min() >= 0 and time.max() <= _LAST_MS):
            return batch
        inside = (time >= 0) & (time <= _LAST_MS)
        row = int(np.argmin(inside))
        text = (
            f"{place(self._source, start + row)}: timestamp must be milliseconds after {EPOCH_MS} (14 June 2016), "
            f"from 0 to {_LAST_MS} ({MOST_DAYS} days), found {time[row]}"
        )
        if self._build.config.timestamp_out_of_range == "error":
            raise InputError(f"{text}; ingest.timestamp_out_of_range: drop leaves such rows out")
        self._first = self._first or text
        self.outside += int(np.count_nonzero(~inside))
        return batch.filter(pa.array(inside))

    def note(self) -> None:
        """Report what was dropped; InputError if nothing is left."""
        if self.outside:
            self._build.report.drop("timestamp_out_of_range", self._first, "rows", self.outside, self.outside)
        if self.outside and self.outside == self.rows:
            raise InputError(f"{self._source.path}: no row is left; expected times within {MOST_DAYS} days")


def check_clicks(build: Build, staged: Staged) -> None:
    """Every display of clicks_train has exactly one click: stop at, or drop, those that have not.

    Raises InputError with the first line of the first such display, and if no display is left.
    """
    engine = build.engine
    engine.sql(
        "CREATE OR REPLACE TEMP TABLE wrong AS SELECT display_id, min(row) AS first, sum(clicked)::BIGINT AS clicks "
        f"FROM {staged.rows(engine)} GROUP BY display_id HAVING sum(clicked) <> 1"
    )
    for policy, (displays, found, effect) in _CLICK_POLICIES.items():
        bad = f"wrong WHERE {displays.format(last=staged.order.last_id)}"
        rows = engine.sql(f"SELECT first, display_id, clicks, count(*) OVER () FROM {bad} ORDER BY first LIMIT 1")
        if not rows:
            continue
        first, display, clicks, count = rows[0]
        text = f"{place(staged.source, first)}: display {display} has {found.format(clicks=clicks)}"
        if getattr(build.config, policy) == "error":
            raise InputError(
                f"{text}; expected exactly one click ({count} such displays in the file); "
                f"ingest.{policy}: drop {effect}"
            )
        engine.sql("CREATE OR REPLACE TEMP TABLE gone (row BIGINT)")
        their = f"WHERE display_id IN (SELECT display_id FROM {bad})"
        engine.sql(f"INSERT INTO gone SELECT row FROM {staged.rows(engine)} {their}")
        ((dropped,),) = engine.sql("SELECT count(*) FROM gone")
        engine.sql("INSERT INTO dropped FROM gone")
        build.report.drop(policy, text, "displays", count, dropped)
    if not engine.sql(f"SELECT 1 FROM {staged.rows(engine)} LIMIT 1"):
        raise InputError(f"{staged.source.path}: no display is left; expected displays with exactly one click each")


def check_lengths(build: Build, name: str) -> None:
    """Note how many ads the displays of a finished table of clicks have; InputError if one has more than MOST_ADS."""
    table = parquet(build.path(name))
    displays, rows, least, most = build.engine.sql(
        "SELECT count(*), sum(ads)::BIGINT, min(ads), max(ads) FROM "
        f"(SELECT count(*) AS ads FROM {table} GROUP BY display_id)"
    )[0]
    if most > MOST_ADS:
        longest = f"GROUP BY display_id HAVING count(*) = {most} ORDER BY display_id LIMIT 1"
        ((display,),) = build.engine.sql(f"SELECT display_id FROM {table} {longest}")
        raise InputError(
            f"{build.inputs[name].path}: display {display} has {most} ads; expected at most {MOST_ADS}; "
            "the competition's have 2 to 12"
        )
    mean = round(rows / displays, 4)
    build.report.displays[name] = {"displays": displays, "ads_min": least, "ads_mean": mean, "ads_max": most}


def check_apart(build: Build, staged: Staged) -> None:
    """InputError if a display of clicks_test is in clicks_train, whose table is finished."""
    train = parquet(build.path("clicks_train"))
    both = build.engine.sql(
        f"SELECT row, display_id FROM {staged.all_rows} SEMI JOIN {train} USING (display_id) ORDER BY row LIMIT 1"
    )
    if both:
        row, display = both[0]
        raise InputError(
            f"{place(staged.source, row)}: display {display} is in clicks_train too; "
            "expected it in one of the two files"
        )
