"""The network of ours_normdnn without norms, against which their cost and worth are judged."""

from __future__ import annotations

from typing import Any

import ours


def run(benchmark: Any) -> Any:
    return ours.run(benchmark, "normdnn", embedding_norm="none", hidden_norm="none")
