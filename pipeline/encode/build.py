"""Features into what models read: codes, bags and numbers in memory-mapped arrays (see schemas.encoded).

The vocabularies are counted by the engine (`vocabulary`). Then each file of features is read once, in order, and each
of its columns is appended to arrays (`columns`), so that no more than a chunk of rows is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.config import check
from pipeline.core.engine import Engine, write_tables
from pipeline.core.files import atomic_path
from pipeline.core.progress import log
from pipeline.encode.arrays import Arrays
from pipeline.encode.columns import (
    BagWriter,
    CategoricalWriter,
    NumberWriter,
    Sample,
    Writer,
    describe,
    fits_half,
)
from pipeline.encode.labels import starts_of, write_labels
from pipeline.encode.reading import read_rows
from pipeline.encode.vocabulary import Codes, build_vocabulary, size_of
from pipeline.schemas.encoded import EncodedPart, Field, write_fields
from pipeline.schemas.features import HINDSIGHT, Column, read_columns
from pipeline.schemas.impressions import PARTS, Part


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """The section `encode` of params.yaml.

    min_count: a value that occurs fewer times (in other displays) shares the code of its frequency.
    min_count_of: the same for single fields. buckets: into how many quantiles a numeric field is cut for its twin.
    """

    min_count: int = 5
    min_count_of: dict[str, int] = field(default_factory=dict)
    buckets: int = 32

    def __post_init__(self) -> None:
        for name, count in {"min_count": self.min_count, **self.min_count_of}.items():
            check(count >= 1, f"{name}: must be 1 or more, found {count}")
        check(self.buckets >= 2, f"buckets: must be 2 or more, found {self.buckets}")


def encode_split(
    engine: Engine,
    split: Path,
    features: Path,
    groups: list[str],
    config: EncodeConfig,
    out: Path,
    *,
    leaks: bool = True,
) -> None:
    """Write data/encoded/SPLIT into the folder `out`, whole or not at all; of HINDSIGHT only if `leaks`."""
    declared = {group: read_columns(features / group) for group in groups}
    columns = {g: tuple(c for c in found if leaks or c.scope not in HINDSIGHT) for g, found in declared.items()}
    hidden = [c.name for g, found in declared.items() for c in found if c not in columns[g]]
    with atomic_path(out) as partial, ThreadPoolExecutor(engine.runtime.cores) as threads:
        for folder in ("vocabulary", "edges", *(f"{part}/fields" for part in PARTS)):
            (partial / folder).mkdir(parents=True)
        arrays = Arrays(partial)
        counts = {part: write_labels(engine, split / f"{part}.parquet", part, arrays) for part in PARTS}
        arrays.complete()
        parts = {part: EncodedPart(partial / part, counts[part]["rows"], counts[part]["displays"]) for part in PARTS}
        fields: list[Field] = []
        for group in groups:
            encoder = _GroupEncoder(engine, features / group, group, columns[group], config, arrays, parts, threads)
            fields += encoder.encode()
        duplicates = {f.name for f in fields if [g.name for g in fields].count(f.name) > 1}
        if duplicates:
            raise ValueError(f"fields {sorted(duplicates)} are declared by more than one group")
        write_fields(partial, fields, counts, arrays.digest(), hidden)
    log.info("%d fields, %d codes", len(fields), sum(f.size for f in fields))


@dataclass(frozen=True, slots=True)
class _GroupEncoder:
    """Encodes the columns of one group."""

    engine: Engine
    folder: Path
    group: str
    columns: Sequence[Column]
    config: EncodeConfig
    arrays: Arrays
    parts: dict[Part, EncodedPart]
    threads: ThreadPoolExecutor

    def encode(self) -> list[Field]:
        fields = {c.name: self._field(c) for c in self.columns}
        vocabularies = {c.name: self._vocabulary(c) for c in self.columns if c.kind != "numeric"}
        for name, vocabulary in vocabularies.items():
            fields[name] = replace(fields[name], size=size_of(vocabulary, self._min_count(name)))
        samples = {c.name: Sample(self.parts["history"].rows) for c in self.columns if c.kind == "numeric"}
        most = dict.fromkeys(samples, 0.0)
        for part in PARTS:
            writers = {c.name: self._writer(part, fields[c.name], vocabularies.get(c.name)) for c in self.columns}
            self._write(part, writers, samples if part == "history" else {})
            for name, writer in writers.items():
                if isinstance(writer, NumberWriter):
                    most[name] = max(most[name], writer.largest)
        numbers = [fields[name] for name in samples]
        for number, twin in self.threads.map(self._number, numbers, samples.values(), most.values()):
            fields |= {number.name: number, twin.name: twin}
        return list(fields.values())

    def _number(self, number: Field, sample: Sample, most: float) -> tuple[Field, Field]:
        """A numeric field that is written, now with mean and scale, and its twin."""
        known = sample.known()
        if fits_half(known, most):
            for part in PARTS:
                self.arrays.narrow(f"{part}/fields/{number.name}")
            known = known.astype(np.float16).astype(np.float32)
        number, twin, edges = describe(number, known, self.config.buckets)
        np.save(self.arrays.folder / "edges" / f"{twin.name}.npy", edges)
        return number, twin

    def _field(self, column: Column) -> Field:
        return Field(
            name=column.name,
            group=self.group,
            kind=column.kind,
            per=column.per,
            meaning=column.meaning,
            scope=column.scope or "static",
        )

    def _min_count(self, name: str) -> int:
        return self.config.min_count_of.get(name, self.config.min_count)

    def _vocabulary(self, column: Column) -> pa.Table:
        history = self.engine.table(self.folder / "history.parquet")
        vocabulary = build_vocabulary(self.engine, history, column, self._min_count(column.name))
        write_tables([vocabulary], self.arrays.folder / "vocabulary" / f"{column.name}.parquet")
        return vocabulary

    def _writer(self, part: Part, of: Field, vocabulary: pa.Table | None) -> Writer:
        name = f"{part}/fields/{of.name}"
        if vocabulary is None:
            return NumberWriter(self.arrays, name)
        codes = Codes(vocabulary, part, of.size)
        return (
            BagWriter(self.arrays, name, codes) if of.kind == "multi" else CategoricalWriter(self.arrays, name, codes)
        )

    def _write(self, part: Part, writers: dict[str, Writer], samples: dict[str, Sample]) -> None:
        """One pass over a part's file."""
        path, offsets, display = self.folder / f"{part}.parquet", self.parts[part].offsets, 0
        for position, batch in read_rows(path, ["first", *writers], self.parts[part].rows):
            starts = starts_of(batch)
            if not np.array_equal(offsets[display : display + len(starts)], position + starts):
                raise ValueError(f"{path}: rows came out of order at row {position}")
            display += len(starts)

            def add(column: Column, batch: pa.RecordBatch = batch, position: int = position) -> None:
                values = batch[column.name]
                if column.name in samples:
                    samples[column.name].add(position, values)
                writers[column.name].add(values.filter(batch["first"]) if column.per == "display" else values)

            list(self.threads.map(add, self.columns))
        self.arrays.complete()
