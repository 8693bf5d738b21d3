"""What becomes of places and dates as a raw file streams by, and how many of them say nothing."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.ingest.batches import array_of
from pipeline.schemas.raw import DAY_MS, EPOCH_MS

#: A geo_location that says nothing.
NOWHERE = "--"


class Dirt(NamedTuple):
    """Values that say nothing, or only in part: what is wrong with them, in how many rows, some of them."""

    what: str
    rows: int
    examples: list[str]


class Rewriter(Protocol):
    """Makes handier columns of a column of texts, batch by batch, and counts what it cannot use."""

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of the batches that are made of batches of this one."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...

    @property
    def dirt(self) -> list[Dirt]: ...


class Geography:
    """Splits geo_location (`US>CA>807`) into country, state and dma, and counts what cannot be split.

    Works on the distinct values of a batch, of which there are few, and leaves codes of texts, as it gets them. `EU` is
    kept as a country, since it says something; `NA` is Namibia.
    """

    PARTS = ("country", "state", "dma")

    def __init__(self) -> None:
        self.nowhere = 0
        self.odd = 0
        self.examples: list[str] = []

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema after the split."""
        at = schema.get_field_index("geo_location")
        fields, kind = list(schema), pa.dictionary(pa.int32(), pa.string())
        return pa.schema([*fields[:at], *[pa.field(name, kind) for name in self.PARTS], *fields[at + 1 :]])

    @property
    def dirt(self) -> list[Dirt]:
        return [
            Dirt(f"geo_location is {NOWHERE}", self.nowhere, []),
            Dirt("geo_location has over three parts", self.odd, self.examples),
        ]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        at = batch.schema.get_field_index("geo_location")
        values: list[str] = batch.column(at).dictionary.to_pylist()
        codes = codes_of(batch.column(at))
        places = [value.split(">") for value in values]
        self._count(values, places, codes)
        parts = [_recode([_part(place, k) for place in places], codes) for k in range(len(self.PARTS))]
        columns = [*batch.columns[:at], *parts, *batch.columns[at + 1 :]]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema(batch.schema))

    def _count(self, values: list[str], places: list[list[str]], codes: NDArray[np.int32]) -> None:
        nowhere = [k for k, place in enumerate(places) if place[0] in ("", NOWHERE)]
        odd = [k for k, place in enumerate(places) if len(place) > len(self.PARTS)]
        if not nowhere and not odd:
            return
        counts = np.bincount(codes, minlength=len(values))
        self.nowhere += int(counts[nowhere].sum())
        self.odd += int(counts[odd].sum())
        self.examples = (self.examples + [values[k] for k in odd if values[k] not in self.examples])[:3]


def _part(place: list[str], k: int) -> str | None:
    return place[k] if k < len(place) and place[k] not in ("", NOWHERE) else None


def codes_of(values: pa.DictionaryArray) -> NDArray[np.int32]:
    """The codes of an array; that of a null is the first that the dictionary does not have."""
    indices, unknown = values.indices, len(values.dictionary)
    codes = np.frombuffer(indices.buffers()[1], np.int32)[indices.offset : indices.offset + len(indices)]
    return np.where(_valid(indices), codes, np.int32(unknown)) if indices.null_count else codes


def _valid(values: pa.Array) -> NDArray[np.bool_]:
    return np.from_dlpack(values.is_valid().cast(pa.uint8())) == 1


def _recode(texts: list[str | None], codes: NDArray[np.int32]) -> pa.DictionaryArray:
    """The texts at these codes, as a dictionary that holds each text once; null at the code after the last."""
    known = list(dict.fromkeys(text for text in texts if text is not None))
    place = {text: i for i, text in enumerate(known)}
    places = np.array([-1 if text is None else place[text] for text in [*texts, None]], np.int32)[codes]
    encoded = [text.encode() for text in known]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    texts_once = pa.StringArray.from_buffers(len(known), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
    return pa.DictionaryArray.from_arrays(array_of(pa.int32(), places, places >= 0), texts_once)


class PublishTime:
    """Turns publish_time (`2016-06-05 00:00:00`) into milliseconds after the competition's epoch.

    A document published before 1990, or later than a day after the competition's 15 days, has no known time: such
    times are null, like those that are no date, and counted.
    """

    KINDS = ("publish_time is no date", "publish_time is before 1990", "publish_time is after the competition")
    NO_DATE = KINDS[0]
    _FIRST = int(np.datetime64("1990-01-01", "ms").astype(np.int64))
    _LAST = EPOCH_MS + 16 * DAY_MS

    def __init__(self) -> None:
        self._rows = np.zeros(len(self.KINDS), np.int64)
        self._examples: list[dict[str, int]] = [{} for _ in self.KINDS]  # with their times

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the time as a number."""
        at = schema.get_field_index("publish_time")
        return schema.set(at, pa.field("publish_time", pa.int64()))

    @property
    def dirt(self) -> list[Dirt]:
        found = zip(self.KINDS, self._rows, self._examples, strict=True)
        return [Dirt(what, int(rows), list(examples)) for what, rows, examples in found]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        at = batch.schema.get_field_index("publish_time")
        texts = batch.column(at)
        time = _milliseconds(texts)
        wrong = [time == _NO_TIME, time < self._FIRST, time > self._LAST]
        valid = _valid(texts)
        kind = np.where(valid, np.select(wrong, range(len(wrong)), -1), -1)
        if (kind >= 0).any():
            self._count(texts, time, kind)
        numbers = array_of(pa.int64(), time - EPOCH_MS, valid & (kind < 0))
        return batch.set_column(at, "publish_time", numbers)

    def _count(self, texts: pa.StringArray, time: NDArray[np.int64], kind: NDArray[np.int64]) -> None:
        for k, examples in enumerate(self._examples):
            rows = np.flatnonzero(kind == k)
            self._rows[k] += len(rows)
            examples |= {texts[i].as_py(): int(time[i]) for i in rows.tolist()}
            # the farthest from the competition first
            first = sorted(examples, key=lambda text: (-abs(examples[text] - EPOCH_MS), text))[:3]
            self._examples[k] = {text: examples[text] for text in first}


_NO_TIME = int(np.iinfo(np.int64).min)


def _milliseconds(texts: pa.StringArray) -> NDArray[np.int64]:
    """Texts that tell a time (UTC) as ISO 8601 does, in milliseconds after 1970; _NO_TIME for any other. Of nulls:
    anything."""
    try:
        return np.frombuffer(texts.cast(pa.timestamp("ms")).buffers()[1], np.int64, len(texts))
    except pa.ArrowInvalid:  # one of them, at least
        distinct = texts.dictionary_encode()
        times = _one_by_one(pc.utf8_rtrim(distinct.dictionary, characters="Z"))
        return np.append(times, _NO_TIME)[codes_of(distinct)]


def _one_by_one(texts: pa.StringArray) -> NDArray[np.int64]:
    """The same for texts some of which are wrong: halves that are not are read at once."""
    try:
        return np.frombuffer(texts.cast(pa.timestamp("us")).buffers()[1], np.int64, len(texts)) // 1000
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return np.array([_NO_TIME])
        middle = len(texts) // 2
        return np.concatenate([_one_by_one(texts[:middle]), _one_by_one(texts[middle:])])


#: What reads a column that is not kept as it is.
REWRITERS: dict[str, type[Rewriter]] = {"geo_location": Geography, "publish_time": PublishTime}
