"""This project's DCN V2 with cross layers of low rank, as it is by default."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "dcnv2")
