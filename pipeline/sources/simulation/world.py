"""A world: everything that is the same for all its displays and page views."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sources.simulation.ads import Ads
from pipeline.sources.simulation.clock import Clock
from pipeline.sources.simulation.documents import Documents
from pipeline.sources.simulation.geography import Geography, geography
from pipeline.sources.simulation.randomness import Stream
from pipeline.sources.simulation.scale import Scale, background_views, scale_of
from pipeline.sources.simulation.users import Users


@dataclass(frozen=True, slots=True)
class World:
    """What is known before the first display. per_display: page views of all users, a display."""

    scale: Scale
    seed: int
    per_display: float
    places: Geography
    clock: Clock
    users: Users
    documents: Documents
    ads: Ads

    def streams(self, owner: str, *names: str) -> dict[str, Stream]:
        """Streams of random numbers of this world by name, apart from those of other owners."""
        return {name: Stream(self.seed, f"{owner}.{name}") for name in names}


def make_world(displays: int, seed: int, per_display: float) -> World:
    """The world with this many displays, train and test together."""
    scale = scale_of(displays)
    places = geography()
    documents = Documents(scale, seed)
    return World(
        scale=scale,
        seed=seed,
        per_display=per_display,
        places=places,
        clock=Clock(scale, seed),
        users=Users(scale, seed, places, background_views(displays, per_display)),
        documents=documents,
        ads=Ads(scale, seed, documents),
    )
