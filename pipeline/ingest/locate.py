"""After a failed read: find the first line (CSV) or row (Parquet) that is wrong, and say what is wrong with it.

Only a run that fails anyway pays for this second pass. A CSV is matched against one regular expression, a block at a
time, which goes at about the speed of the disk; the line where the match stops is then judged field by field.
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import pyarrow as pa

from pipeline.core.errors import InputError, UserError
from pipeline.core.progress import log
from pipeline.ingest.batches import NULLS, BadRowsError, arrow_schema, check_batch, to_schema
from pipeline.ingest.readers import BLOCK_BYTES, BOM, RawInput, damaged, open_parquet
from pipeline.schemas.raw import RawColumn, RawFile

_LARGEST = {"UINTEGER": 2**32 - 1, "BIGINT": 2**63 - 1, "UTINYINT": 255}
_LARGEST_FLOAT = 3.4028234663852886e38
_SHOWN = 80
#: By type: values that are right at sight, since they are too short to overflow and hold nothing odd.
_SURELY = {
    "UINTEGER": r"[0-9]{1,9}",
    "FLOAT": r"(?:[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,30})(?:[eE]-[0-9]+)?",
    "VARCHAR": r"[ !#-+\--\[\]-~]+",  # printable ASCII but the quote, the comma and the backslash
}


def explain(source: RawInput, error: Exception) -> Exception:
    """The error to raise in place of `error`, which reading `source` ended with."""
    if isinstance(error, (UserError, MemoryError)):
        return error
    if not isinstance(error, (BadRowsError, pa.ArrowInvalid)):
        if source.form == "csv.zip" and isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)):
            return damaged(source.path, error)
        return InputError(f"{source.path}: cannot be read: {error}")
    log.info("%s: looking for the line that is wrong", source.path)
    found = _first_row(source) if source.form == "parquet" else _first_line(source)
    if found is None:
        return InputError(f"{source.path}: {str(error).splitlines()[0]}")
    row, fault = found
    return InputError(f"{place(source, row)}: {fault}")


def place(source: RawInput, row: int) -> str:
    """Where a row, counted from 0, stands in its file: `events.csv.zip, line 2` is the first row below the header."""
    return f"{source.path.name}, {where(source, row)}"


def where(source: RawInput, row: int) -> str:
    return f"row {row + 1}" if source.form == "parquet" else f"line {row + 2}"


def fault_of(line: bytes, spec: RawFile) -> str:
    """What is wrong with a line of a CSV (without its line end), or an empty text."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"expected UTF-8, found the byte 0x{line[error.start]:02x} at position {error.start + 1}"
    try:
        fields = next(csv.reader([text], strict=True)) if '"' in text else text.split(",")
    except csv.Error as error:
        return f"expected quotes around whole values, found {_quoted(text)} ({error})"
    if len(fields) != len(spec.columns):
        return f"expected {len(spec.columns)} fields ({','.join(spec.header)}), found {len(fields)}: {_quoted(text)}"
    for column, value in zip(spec.columns, fields, strict=True):
        if fault := _fault_of_value(column, value):
            return f"{column.name} must be {fault}, found {_quoted(value)}"
    return ""


def _fault_of_value(column: RawColumn, value: str) -> str:
    """What the value should have been, or an empty text if it is right."""
    if value in NULLS:
        return "" if column.optional else column.expected
    if "\r" in value or not re.fullmatch(column.pattern, value, re.ASCII):
        return column.expected
    if column.sql in _LARGEST and int(value) > _LARGEST[column.sql]:
        return f"{column.expected} of at most {_LARGEST[column.sql]}"
    if column.sql == "FLOAT" and float(value) > _LARGEST_FLOAT:
        return f"{column.expected} of at most {_LARGEST_FLOAT:g}"
    return ""


def _quoted(value: str) -> str:
    return "nothing" if not value else f'"{value[:_SHOWN]}{"..." if len(value) > _SHOWN else ""}"'


def _first_line(source: RawInput) -> tuple[int, str] | None:
    lines, row = source.lines, 0
    good = _good_lines(lines)
    with ExitStack() as stack:
        for block in _blocks(source.text(stack)):
            start = 0
            while start < len(block):
                match = good.match(block, start)
                end = match.end() if match else start
                stop = max(start, block.rfind(b"\n", start, end) + 1)  # `re` up to 3.11.4 ends within the next line
                row += block.count(b"\n", start, stop)
                if stop == len(block):
                    break
                line, newline, _ = block[stop : stop + BLOCK_BYTES].partition(b"\n")
                if fault := fault_of(line.removesuffix(b"\r"), lines):
                    return row, fault
                start = stop + len(line) + len(newline)  # right, but not of the common sort
                row += 1
    return None


def _blocks(text: IO[bytes]) -> Iterator[bytes]:
    """The rows below the header in pieces of whole lines; a line that never ends comes as it is."""
    rest = text.read(BLOCK_BYTES).removeprefix(BOM).partition(b"\n")[2]
    while data := text.read(BLOCK_BYTES):
        rest += data
        whole = rest.rfind(b"\n") + 1
        if not whole and len(rest) > BLOCK_BYTES:
            break
        yield rest[:whole]
        rest = rest[whole:]
    yield rest


def _good_lines(spec: RawFile) -> re.Pattern[bytes]:
    """Matches a run of lines that are certainly right; what it does not match may still be right."""
    fields = []
    for column in spec.columns:
        pattern = _SURELY.get(column.sql, column.pattern) if column.name != "platform" else column.pattern
        fields.append(rf"(?:{pattern}|\\N)?" if column.optional else f"(?:{pattern})")
    return re.compile(rf"(?:{','.join(fields)}\r?\n)*+".encode())


def _first_row(source: RawInput) -> tuple[int, str] | None:
    schema = arrow_schema(source.spec)
    row = 0
    with open_parquet(source.path) as file:
        for batch in file.iter_batches(columns=schema.names):
            if _wrong(batch, schema, source.spec):
                low, high = 0, batch.num_rows  # the first `low` rows are right, the first `high` are not
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if _wrong(batch.slice(0, middle), schema, source.spec) else (middle, high)
                return row + low, _fault_of_row(batch.slice(low, 1), source.spec)
            row += batch.num_rows
    return None


def _wrong(batch: pa.RecordBatch, schema: pa.Schema, spec: RawFile) -> bool:
    try:
        check_batch(to_schema(batch, schema), spec)
    except (BadRowsError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return True
    return False


def _fault_of_row(row: pa.RecordBatch, spec: RawFile) -> str:
    for column in spec.columns:
        one = RawFile(name=spec.name, columns=(column,))
        if _wrong(row.select([column.name]), arrow_schema(one), one):
            value = row.column(column.name)[0].as_py()
            text = "" if value is None else str(value)
            wanted = _fault_of_value(column, text) or column.expected
            return f"{column.name} must be {wanted}, found {_quoted(text)}"
    return "the row cannot be read"
