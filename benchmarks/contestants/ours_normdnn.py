"""This project's network with norms: what they cost beside the same without."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "normdnn")
