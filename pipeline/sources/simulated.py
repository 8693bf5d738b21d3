"""A simulated world in the competition's own files, so that everything runs without a download and the truth is known.

The files have the names, columns, dirt, distributions and proportions of Kaggle's, at any size and in bounded memory;
clicks follow from a known utility (pipeline/sources/simulation/utility.py) and, for some, leave a page view of the
promoted document behind, as in the competition. Equal parameters give equal bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.core.config import check
from pipeline.core.files import write_json
from pipeline.core.progress import bar
from pipeline.schemas.raw import RAW_FILES
from pipeline.sources.simulation.displays import DisplayMaker
from pipeline.sources.simulation.document_files import DocumentFiles
from pipeline.sources.simulation.documents import TASTE_SHARE
from pipeline.sources.simulation.effects import EFFECTS
from pipeline.sources.simulation.scale import DISPLAYS, PAGE_VIEWS_PER_DISPLAY
from pipeline.sources.simulation.views import LEAK, PROMOTED, ViewMaker, log_likelihood_ratio
from pipeline.sources.simulation.world import make_world
from pipeline.sources.simulation.writing import open_writer

LEAST_DISPLAYS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """The section `simulation` of params.yaml.

    displays: train and test displays together; the competition has 23,120,126.
    seed: another seed, another world.
    page_views_per_display: page views of all users, a display; the competition has 88.
    """

    displays: int
    seed: int
    page_views_per_display: float = PAGE_VIEWS_PER_DISPLAY

    def __post_init__(self) -> None:
        check(
            LEAST_DISPLAYS <= self.displays <= DISPLAYS,
            f"displays must be from {LEAST_DISPLAYS} to {DISPLAYS}, found {self.displays}",
        )
        check(self.seed >= 0, f"seed must be 0 or more, found {self.seed}")
        check(
            2.0 <= self.page_views_per_display <= 1000.0,
            f"page_views_per_display must be from 2 to 1000, found {self.page_views_per_display}",
        )


class SimulatedSource:
    """Writes the raw files below `raw` and the truth (displays.parquet, truth.json) below `truth`."""

    def __init__(self, config: SimulationConfig, raw: Path, truth: Path) -> None:
        self.config, self.raw, self.truth = config, raw, truth

    def prepare(self) -> dict[str, Path]:
        """Make the world; name -> path of each raw file."""
        config = self.config
        world = make_world(config.displays, config.seed, config.page_views_per_display)
        views = ViewMaker(world)
        with open_writer(self.raw, self.truth, world) as writer:
            for name, rows in DocumentFiles(world).chunks():
                writer.submit(writer.rows, name, rows)
            with bar(config.displays, "simulate", "display") as progress:
                for chunk in DisplayMaker(world).chunks():
                    around, evidence = views.around(chunk)
                    oracle = chunk.utility + log_likelihood_ratio(world, views.shares, chunk, evidence)
                    writer.submit(writer.displays, chunk, oracle.astype(np.float32))
                    writer.submit(writer.views, around)
                    low = int(chunk.index[0])
                    writer.submit(writer.views, views.background(low, low + len(chunk.index)))
                    progress.update(len(chunk.index))
        write_json(
            self.truth / "truth.json",
            {
                "known": True,
                "config": asdict(config),
                "scale": asdict(world.scale),
                "effects": EFFECTS,
                "views": {"leak": LEAK, "promoted": PROMOTED, "taste": TASTE_SHARE},
            },
        )
        return {name: self.raw / f"{name}.csv" for name in RAW_FILES}
