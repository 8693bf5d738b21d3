"""This project's DeepFM on the same rows, in which no field is the same for all ads of a display."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, encoded="unshared")
