"""This project's Wide & Deep without crosses."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "wide_deep")
