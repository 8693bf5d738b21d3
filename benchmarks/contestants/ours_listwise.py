"""The same, trained by the likelihood of each display's click."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, loss="listwise")
