"""What a hand-written query of a feature group is, and by what names it reads a world.

Views are there of all typed tables, by their names, of the split (`history`, `target`), of its page views by display
(`history_views`, `target_views`), and of how often anybody viewed a document (`viewed`); variables of the smoothing
(`folds`, `strength`). A query is written for DuckDB alone, as one who knows it would, and without the stage's code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.schemas.impressions import Part


@dataclass(frozen=True, slots=True)
class Query:
    """The SQL of a group.

    select: of a part, the columns that the stage writes, in the order of the rows. before: statements that make what
    the queries of both parts read.
    """

    select: Callable[[Part], str]
    before: Sequence[str] = ()
