"""The competition's files as streams of rows: CSV exactly as Kaggle's, and the truth as Parquet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from pipeline.core.files import atomic_path
from pipeline.schemas.raw import RAW_FILES
from pipeline.sources.simulation.clock import DAY_MS
from pipeline.sources.simulation.displays import Displays
from pipeline.sources.simulation.randomness import F32, I64
from pipeline.sources.simulation.scale import SAMPLE_ROWS
from pipeline.sources.simulation.views import PageViews
from pipeline.sources.simulation.world import World

TRUTH = pa.schema(
    [
        ("display_id", pa.uint32()),
        ("ad_id", pa.uint32()),
        ("clicked", pa.uint8()),
        ("utility", pa.float32()),
        ("oracle", pa.float32()),
    ]
)
_PLATFORM_TEXTS = pa.array(["", "1", "2", "3", r"\N"])
_PENDING = 2


def write_rows(file: BinaryIO, columns: Mapping[str, Any] | pa.Table, line_end: str = "\n") -> None:
    """Append rows without a header; nulls become empty, nothing is quoted."""
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none", eol=line_end, batch_size=16_384)
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    pyarrow.csv.write_csv(table, file, options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """Open files. files: the raw files by name. The tails hold the rows of test until all of train is written."""

    files: dict[str, BinaryIO]
    events_tail: BinaryIO
    truth: pyarrow.parquet.ParquetWriter
    truth_tail: pyarrow.parquet.ParquetWriter
    truth_tail_path: Path


@contextmanager
def open_writer(raw: Path, truth: Path, world: World) -> Iterator[Writer]:
    """A Writer; its files take their places when the context ends, and vanish if it fails."""
    with ExitStack() as stack:

        def open_raw(name: str) -> BinaryIO:
            file = stack.enter_context(stack.enter_context(atomic_path(raw / f"{name}.csv")).open("wb"))
            file.write((",".join(RAW_FILES[name].header) + "\n").encode())
            return file

        files = {name: open_raw(name) for name in RAW_FILES}
        head = stack.enter_context(atomic_path(truth / "displays.parquet"))
        folder = Path(stack.enter_context(TemporaryDirectory(dir=raw, prefix=".simulated-")))
        outputs = Outputs(
            files=files,
            events_tail=stack.enter_context((folder / "events.csv").open("w+b")),
            truth=stack.enter_context(_parquet(head)),
            truth_tail=stack.enter_context(_parquet(folder / "displays.parquet")),
            truth_tail_path=folder / "displays.parquet",
        )
        writer = Writer(world, outputs, stack.enter_context(ThreadPoolExecutor(max_workers=1)))
        yield writer
        writer.finish()


class Writer:
    """All files of a world, written side by side by one thread of their own; see open_writer.

    Chunks come in the order of time; rows of test are held in files beside those of train and appended at the end,
    since the files hold train first.
    """

    def __init__(self, world: World, outputs: Outputs, pool: ThreadPoolExecutor) -> None:
        self._users, self._documents, self._ads = world.users, world.documents, world.ads
        self._places = pa.array(world.places.names)
        self._outputs, self._files = outputs, outputs.files
        self._pool = pool
        self._pending: list[Future[None]] = []
        self._sample_rows = 0

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run a job on the writing thread, in the order of submission; waits while too many are pending."""
        self._settle(_PENDING)
        self._pending.append(self._pool.submit(job, *arguments))

    def finish(self) -> None:
        """Wait for all jobs and append test to train."""
        self._settle(0)
        self._outputs.events_tail.seek(0)
        shutil.copyfileobj(self._outputs.events_tail, self._files["events"], 1 << 22)
        self._outputs.truth_tail.close()
        with pyarrow.parquet.ParquetFile(self._outputs.truth_tail_path) as tail:
            for group in range(tail.num_row_groups):
                self._outputs.truth.write_table(tail.read_row_group(group))

    def rows(self, name: str, columns: Mapping[str, Any]) -> None:
        """Append rows to a raw file."""
        write_rows(self._files[name], columns)

    def displays(self, displays: Displays, oracle: F32) -> None:
        """Append displays to events, clicks, sample_submission and the truth."""
        for test in (False, True):
            shown = np.flatnonzero(displays.is_test == test)
            rows = np.flatnonzero(displays.is_test[displays.row] == test)
            if not len(shown):
                continue
            self._events(displays, shown, self._outputs.events_tail if test else self._files["events"])
            ids = {"display_id": displays.id[displays.row[rows]], "ad_id": self._ads.ids[displays.ad[rows]]}
            clicked = displays.clicked[rows].astype(np.uint8)
            if test:
                write_rows(self._files["clicks_test"], ids)
                joined = _joined(ids["ad_id"], np.bincount(displays.row)[shown])
                write_rows(self._files["sample_submission"], {"display_id": displays.id[shown], "ad_id": joined})
            else:
                write_rows(self._files["clicks_train"], ids | {"clicked": clicked})
            truth = ids | {"clicked": clicked, "utility": displays.utility[rows], "oracle": oracle[rows]}
            (self._outputs.truth_tail if test else self._outputs.truth).write_table(pa.table(truth).cast(TRUTH))

    def _events(self, displays: Displays, shown: I64, file: BinaryIO) -> None:
        events = {
            "display_id": displays.id[shown],
            "uuid": self._users.uuids(displays.user[shown]),
            "document_id": self._documents.ids[displays.page[shown]],
            "timestamp": displays.time[shown],
            "platform": _PLATFORM_TEXTS.take(pa.array(displays.traits.platform[shown])),
            "geo_location": self._places.take(pa.array(displays.traits.geo[shown])),
        }
        write_rows(file, events)

    def views(self, views: PageViews) -> None:
        """Append page views, sorted by document as in Kaggle's file; those of day 0 to the sample too."""
        document_id = self._documents.ids[views.document]
        order = np.sort((document_id << 32) | np.arange(len(document_id))) & 0xFFFFFFFF
        time = views.time[order]
        columns = {
            "uuid": self._users.uuids(views.user[order]),
            "document_id": document_id[order],
            "timestamp": time,
            "platform": _PLATFORM_TEXTS.take(pa.array(views.traits.platform[order].astype(np.int8))),
            "geo_location": self._places.take(pa.array(views.traits.geo[order].astype(np.int16))),
            "traffic_source": views.traffic[order].astype(np.int8),
        }
        table = pa.table(columns)
        write_rows(self._files["page_views"], table)
        first_day = np.flatnonzero(time < DAY_MS)[: SAMPLE_ROWS - self._sample_rows]
        if len(first_day):
            self._sample_rows += len(first_day)
            write_rows(self._files["page_views_sample"], table.take(pa.array(first_day)), "\r\n")

    def _settle(self, pending: int) -> None:
        while len(self._pending) > pending:
            self._pending.pop(0).result()


def _parquet(path: Path) -> pyarrow.parquet.ParquetWriter:
    return pyarrow.parquet.ParquetWriter(path, TRUTH, compression="zstd", compression_level=3)


def _joined(ids: I64, sizes: I64) -> pa.Array:
    """The ids of each display as one text, separated by spaces."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    texts = pa.array(ids).cast(pa.string())
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), " ")
