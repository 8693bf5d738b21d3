"""Raw files as streams of typed record batches: NAME.csv, NAME.csv.zip or NAME.parquet.

pyarrow reads the text; DuckDB, or a Parquet writer, takes its batches. DuckDB's own read_csv would be the obvious
choice, but it reads the id `1.5` as 2 and `1e3` as 1000, passes over blank lines in silence, stops at a header that
ends in LF before rows that end in CRLF (as page_views_sample.csv has), and reads a pipe on one thread, so that a zip
takes twice as long. pyarrow takes any file object, so a zip is inflated on the way and never lies unpacked on the disk.
"""

from __future__ import annotations

import csv
import queue
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.core.files import zip_members
from pipeline.core.progress import bar
from pipeline.ingest.batches import NULLS, arrow_schema, check_batch, to_schema
from pipeline.ingest.rewriters import REWRITERS, Dirt, Rewriter
from pipeline.schemas.raw import RawColumn, RawFile

#: Bytes of text that become one record batch.
BLOCK_BYTES = 4 << 20
BOM = b"\xef\xbb\xbf"
_HEADER_BYTES = 1 << 16
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
Watcher = Callable[[pa.RecordBatch], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawInput:
    """A raw file that is there: what it must hold, where it lies, in which form, and how its text is laid out."""

    spec: RawFile
    path: Path
    form: str
    byte_order_mark: bool = False
    carriage_returns: bool = False
    empty: bool = False  # there is nothing below the header
    columns: tuple[str, ...] = ()  # of the file, in its order; those that `spec` does not know are not read

    @property
    def unread(self) -> list[str]:
        """The columns that are passed over."""
        return [name for name in self.columns if name not in self.spec.header]

    @property
    def lines(self) -> RawFile:
        """What each line of the CSV must hold: `spec` in the order of the file, and anything in columns of its own."""
        known = {column.name: column for column in self.spec.columns}
        others = {name: RawColumn(name=name, sql="VARCHAR", pattern=".*", optional=True) for name in self.unread}
        return RawFile(name=self.spec.name, columns=tuple({**known, **others}[name] for name in self.columns))

    def text(self, stack: ExitStack) -> IO[bytes]:
        """The bytes of the CSV, from its first byte; InputError if the zip cannot be opened."""
        if self.form == "csv":
            return stack.enter_context(self.path.open("rb"))
        return _member(self.path, stack)


def open_input(spec: RawFile, path: Path) -> RawInput:
    """Check that the file is there and that its header is right, without reading further.

    Raises InputError: no such file, an unknown suffix, a damaged zip, an empty file, columns that are missing or there
    twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {spec.name} as .csv, .csv.zip or .parquet")
    for form in ("csv", "csv.zip", "parquet"):
        if path.name.endswith(f".{form}"):
            break
    else:
        raise InputError(f"{path}: expected a name that ends in .csv, .csv.zip or .parquet")
    if form == "parquet":
        with open_parquet(path) as file:
            names, empty = file.schema_arrow.names, not file.metadata.num_rows
        _check_columns(str(path), names, spec)
        if empty and not spec.may_be_empty:
            raise InputError(f"{path}: the file has no rows; expected some")
        return RawInput(spec=spec, path=path, form=form, empty=empty, columns=tuple(names))
    source = RawInput(spec=spec, path=path, form=form)
    with ExitStack() as stack:
        try:
            head = source.text(stack).read(_HEADER_BYTES)
        except _DAMAGE as error:
            raise damaged(path, error) from None
    return _check_head(source, head)


def damaged(path: Path, error: Exception) -> InputError:
    """What to tell about a zip that cannot be read."""
    if isinstance(error, NotImplementedError):
        return InputError(
            f"{path}: the zip is compressed in a way that cannot be read here ({error}); zip it with deflate"
        )
    return InputError(f"{path}: the zip is damaged or cut off ({error}); fetch the file again")


def _check_head(source: RawInput, head: bytes) -> RawInput:
    path, spec = source.path, source.spec
    expected = ",".join(spec.header)
    if not head:
        raise InputError(f"{path}: the file is empty; expected the header {expected} and rows below it")
    line, newline, rest = head.removeprefix(BOM).partition(b"\n")
    if not newline and len(head) == _HEADER_BYTES:
        raise InputError(f"{path}, line 1: expected the header {expected}, found a line of over {_HEADER_BYTES} bytes")
    text = line.removesuffix(b"\r").decode("utf-8", "replace")
    try:
        names = next(csv.reader([text]), [])
    except csv.Error:  # such as lines that end in CR alone
        names = [text]
    _check_columns(f"{path}, line 1", names, spec)
    empty = not rest and len(head) < _HEADER_BYTES
    if not spec.may_be_empty and not rest.strip():
        raise InputError(f"{path}: the file has a header but no rows below it")
    first_row = rest.partition(b"\n")[0]
    return RawInput(
        spec=spec,
        path=path,
        form=source.form,
        byte_order_mark=head.startswith(BOM),
        carriage_returns=line.endswith(b"\r") or first_row.endswith(b"\r"),
        empty=empty,
        columns=tuple(names),
    )


def _check_columns(where: str, names: list[str], spec: RawFile) -> None:
    """InputError unless each of the competition's columns is there once, wherever: they are found by name."""
    wrong = {
        "missing": [name for name in spec.header if name not in names],
        "twice": [name for name in spec.header if names.count(name) > 1],
    }
    if any(wrong.values()):
        wrong["unknown"] = [name for name in names if name not in spec.header]
        parts = "; ".join(f"{what}: {', '.join(columns)}" for what, columns in wrong.items() if columns)
        raise InputError(f"{where}: expected the columns {', '.join(spec.header)}, found {', '.join(names)} ({parts})")


def _member(path: Path, stack: ExitStack) -> IO[bytes]:
    """The one CSV inside a zip, as a stream."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = zip_members(archive)
        if len(members) != 1:
            found = ", ".join(member.filename for member in members[:5]) or "none"
            raise InputError(f"{path}: expected one file in the zip, {path.name.removesuffix('.zip')}; found: {found}")
        return stack.enter_context(archive.open(members[0]))
    except _DAMAGE as error:
        raise damaged(path, error) from None


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file, or cut off ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class RawStream:
    """One pass through a raw file, as a context manager; then `rows`, `nulls` and `dirt` say what went by.

    `batches` are those of `schema`: geo_location is split, publish_time is a number. `reader` gives them to DuckDB,
    which turns any exception into a text: the exception itself stays in `error`. `watchers` see each batch as it is in
    the file; `rewriters` change it after those that its columns always have. The text is parsed in a thread of its own,
    so that others can join, compress and write meanwhile.
    """

    def __init__(self, source: RawInput, watchers: Sequence[Watcher] = (), rewriters: Sequence[Rewriter] = ()) -> None:
        self.source = source
        self.watchers = watchers
        self._raw = arrow_schema(source.spec)
        self.rows = 0
        self.nulls = dict.fromkeys(self._raw.names, 0)
        self._rewriters = [*(REWRITERS[name]() for name in self._raw.names if name in REWRITERS), *rewriters]
        self.schema = self._raw
        for rewriter in self._rewriters:
            self.schema = rewriter.schema(self.schema)
        self.error: Exception | None = None
        self._batches: queue.Queue[pa.RecordBatch | Exception | None] = queue.Queue(maxsize=4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._parse, name=f"parse {source.path.name}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may wait for room in the queue
            with suppress(queue.Empty):
                self._batches.get_nowait()
            self._thread.join(0.01)
        with suppress(queue.Full):
            self._batches.put_nowait(None)  # wakes a thread of DuckDB's that still waits for rows

    @property
    def dirt(self) -> list[Dirt]:
        return [dirt for rewriter in self._rewriters for dirt in rewriter.dirt if dirt.rows]

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, checked; whatever goes wrong is raised at the batch that it is in."""
        try:
            while (batch := self._batches.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield self._checked(batch)
        except Exception as error:
            self.error = error
            raise

    def _parse(self) -> None:
        try:
            with ExitStack() as stack:
                parquet = self.source.form == "parquet"
                for batch in self._parquet_batches(stack) if parquet else self._csv_batches(stack):
                    self._batches.put(batch)
                    if self._stop.is_set():
                        return
        except Exception as error:  # raised where the batches are received
            self._batches.put(error)
        self._batches.put(None)

    def _checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        check_batch(batch, self.source.spec)
        for watch in self.watchers:
            watch(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self.nulls[name] += column.null_count
        self.rows += batch.num_rows
        for rewrite in self._rewriters:
            batch = rewrite(batch)
        return batch

    def _csv_batches(self, stack: ExitStack) -> Iterator[pa.RecordBatch]:
        progress = stack.enter_context(bar(self.source.path.stat().st_size, self.source.path.name, unit="B"))
        text = self.source.text(stack)
        if self.source.empty:  # pyarrow takes it for an error
            return
        reader = pcsv.open_csv(
            text,
            read_options=pcsv.ReadOptions(block_size=BLOCK_BYTES, column_names=self.source.columns, skip_rows=1),
            # The competition's files quote nothing, but other writers put quotes round texts, or round what needs them,
            # whether they quote the header or not. A blank line becomes a row of nulls, which its first column does
            # not allow.
            parse_options=pcsv.ParseOptions(quote_char='"', ignore_empty_lines=False),
            convert_options=pcsv.ConvertOptions(
                column_types=self._raw,
                include_columns=self._raw.names,
                null_values=list(NULLS),
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            yield batch
            progress.update(_position(text) - progress.n)

    def _parquet_batches(self, stack: ExitStack) -> Iterator[pa.RecordBatch]:
        file = stack.enter_context(open_parquet(self.source.path))
        progress = stack.enter_context(bar(file.metadata.num_rows, self.source.path.name))
        for batch in file.iter_batches(batch_size=122_880, columns=self._raw.names):
            yield to_schema(batch, self._raw)
            progress.update(batch.num_rows)


def _position(text: IO[bytes]) -> int:
    """How many bytes of the file on disk have been read, for the progress bar."""
    compressed = getattr(text, "_fileobj", None)
    return int((compressed or text).tell())
