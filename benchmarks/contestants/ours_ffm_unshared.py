"""This project's FFM on the same rows, in which no field is the same for all ads of a display."""

from __future__ import annotations

from typing import Any

import ours_ffm


def run(benchmark: Any) -> Any:
    return ours_ffm.run(benchmark, "unshared")
