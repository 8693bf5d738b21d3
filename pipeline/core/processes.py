"""Which of several processes this one is, as `torchrun` tells those that it starts."""

from __future__ import annotations

import os


def rank() -> int:
    """0 for the first one, which alone writes and tells; also where there is no other."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Of those on the same machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
