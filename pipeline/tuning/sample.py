"""Samples of displays: on which parameter sets are tried, first on few, then on more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.computed import Computed
from pipeline.core.files import read_json, write_text
from pipeline.schemas.encoded import Encoded, EncodedPart, Field, open_array

#: Each rung holds so many times the displays of the one below; the lowest one holds LEAST or more. On fewer the noise
#: of MAP@12 (0.35 a display) would hide what it is to tell.
FACTOR, LEAST = 4, 10_000


def rungs(encoded: Encoded, displays: int, seed: int, folder: Path) -> list[Encoded]:
    """Samples of growing size, each within the next; the last one has `displays` displays, or all there are."""
    found = [sample(encoded, displays, seed, folder / "0")]
    size = min(displays, _displays(encoded))
    while size // FACTOR >= LEAST:
        size //= FACTOR
        found.insert(0, sample(found[0], size, seed, folder / str(len(found))))
    return found


def _displays(encoded: Encoded) -> int:
    return encoded.part("history").displays + encoded.part("target").displays


def sample(encoded: Encoded, displays: int, seed: int, out: Path) -> Encoded:
    """A random share of the displays of both parts as an encoded split of its own; all if there are no more."""
    parts = {part: encoded.part(part) for part in ("history", "target")}  # type: ignore[arg-type]
    total = _displays(encoded)
    if total <= displays:
        return encoded
    description = read_json(encoded.folder / "fields.json")
    description |= {"fields": [asdict(field) for field in encoded.fields.values()], "digest": encoded.digest}
    random = np.random.default_rng(seed)
    for name, part in parts.items():
        count = max(1, round(part.displays * displays / total))
        chosen = np.sort(random.choice(part.displays, count, replace=False))
        stored = [field for field in encoded.fields.values() if field.name not in part.twins]
        description["parts"][name] = _copy(part, stored, chosen, out / name)
    if (encoded.folder / "edges").exists():
        shutil.copytree(encoded.folder / "edges", out / "edges")
    write_text(out / "fields.json", json.dumps(description))
    return Encoded(out)


def _copy(part: EncodedPart, fields: Iterable[Field], chosen: NDArray[np.int64], out: Path) -> dict[str, int]:
    """Copy the chosen displays of a part, array by array."""
    (out / "fields").mkdir(parents=True)
    rows = _ranges(part.offsets, chosen)
    np.save(out / "offsets.npy", _offsets(part.offsets, chosen))
    for path in sorted(part.folder.glob("*.npy")):
        if path.stem != "offsets":
            np.save(out / path.name, open_array(path)[rows if path.stem in ("ad_id", "clicked") else chosen])
    for field in fields:
        stored = chosen if field.per == "display" else rows
        if field.kind != "multi":
            np.save(out / "fields" / f"{field.name}.npy", part.field(field.name)[stored])
            continue
        offsets = part.field(field.name, "offsets")
        np.save(out / "fields" / f"{field.name}.offsets.npy", _offsets(offsets, stored))
        for kind in ("ids", "weights"):
            np.save(out / "fields" / f"{field.name}.{kind}.npy", part.field(field.name, kind)[_ranges(offsets, stored)])
    return {"rows": len(rows), "displays": len(chosen)}


def _offsets(offsets: NDArray[np.int64] | Computed, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(offsets[chosen + 1] - offsets[chosen])])


def _ranges(offsets: NDArray[np.int64] | Computed, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.asarray(offsets[chosen])
    lengths = np.asarray(offsets[chosen + 1]) - starts
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
