"""Arrays on disk that are appended to, never held: .npy files and their checksums."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.encode.loops import halve, largest
from pipeline.encode.reading import read_chunks
from pipeline.schemas.encoded import HEADER

LARGEST_HALF = float(np.finfo(np.float16).max)


class ArrayWriter:
    """A .npy file of one dimension. Its header comes last: how many values there are is known only then."""

    def __init__(self, path: Path, dtype: DTypeLike) -> None:
        self._file, self._dtype = path.open("wb"), np.dtype(dtype)
        self._file.write(bytes(HEADER))
        self._count = self._checksum = 0

    def append(self, values: NDArray[Any]) -> None:
        """Add values, in the array's own type. ValueError if one is too large for float16."""
        values = self._halved(values) if self._dtype == np.float16 else np.ascontiguousarray(values, self._dtype)
        self._file.write(values.data)
        self._checksum = zlib.crc32(values.data, self._checksum)
        self._count += len(values)

    def _halved(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        numbers = np.ascontiguousarray(values, np.float32)
        if (found := largest(numbers)) > LARGEST_HALF:
            raise ValueError(f"{self._file.name}: found {found}; float16 holds {LARGEST_HALF} at most")
        halves = np.empty(len(numbers), np.uint16)
        halve(numbers, halves)
        return halves

    def close(self) -> int:
        """Complete the file; a checksum of what it holds."""
        with self._file:
            self._file.seek(0)
            header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count,)}
            np.lib.format.write_array_header_1_0(self._file, header)
            if self._file.tell() != HEADER:
                raise ValueError(f"{self._file.name}: a header of {self._file.tell()} bytes; expected {HEADER}")
        return zlib.crc32(f"{self._dtype.str} {self._count}".encode(), self._checksum)


class Arrays:
    """The arrays of an encoded split, below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, ArrayWriter] = {}
        self._checksums: dict[str, int] = {}

    def create(self, name: str, dtype: DTypeLike) -> ArrayWriter:
        """A new array FOLDER/NAME.npy, which `complete` closes."""
        path = f"{name}.npy"
        self._writers[path] = ArrayWriter(self.folder / path, dtype)
        return self._writers[path]

    def narrow(self, name: str) -> None:
        """float16 instead of float32 for an array that is complete."""
        path = self.folder / f"{name}.npy"
        before = path.rename(path.with_suffix(".before"))
        array = ArrayWriter(path, np.float16)
        for values in read_chunks(before):
            array.append(values)
        self._checksums[f"{name}.npy"] = array.close()
        before.unlink()

    def complete(self) -> None:
        """Close all arrays that are open."""
        while self._writers:
            path, writer = self._writers.popitem()
            self._checksums[path] = writer.close()

    def digest(self) -> str:
        """A checksum over all files of the folder, in the order of their names; arrays are not read again for it."""
        value = 0
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            checksum = self._checksums[name] if name in self._checksums else zlib.crc32(path.read_bytes())
            value = zlib.crc32(f"{name} {checksum:08x}\n".encode(), value)
        return f"{value:08x}"
