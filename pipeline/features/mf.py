"""Matrix factorization: how near the promoted document is to what the user viewed before, by what all users viewed.

Hu, Koren, Volinsky 2008 (pipeline.collaborative.ials), fitted anew each night (pipeline.collaborative.nightly).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.collaborative.attributes import read_attributes
from pipeline.collaborative.ials import FactorConfig
from pipeline.collaborative.nightly import NightlyFactors, products
from pipeline.collaborative.viewed import read_viewed
from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.features.base import Group, Learner, Sources
from pipeline.features.displays import Chunk, Numbers, Walk, by_morning, gap_to_best_rival
from pipeline.schemas.features import number
from pipeline.schemas.impressions import Part

#: How many numbers of each factor become columns.
SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(FactorConfig):
    """The section `collaborative.mf` of params.yaml.

    users: on about how many users' views the factors are fitted. least: viewers of a document that has a factor of its
    own; the others get one by their topics and categories. nightly_sweeps: from night to night.
    """

    users: int = 200_000
    least: int = 5
    nightly_sweeps: int = 2

    def __post_init__(self) -> None:
        FactorConfig.__post_init__(self)
        for name in ("users", "least", "nightly_sweeps"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")


def fit(engine: Engine, sources: Sources, config: Config) -> Callable[[Part], Walk]:
    """Fit the factors of each morning; what is returned describes rows."""
    attributes = read_attributes(engine, sources.tables, ("topic", "category"))
    history, until = sources.impressions("history"), sources.info.views_until
    viewed = read_viewed(engine, sources.tables, history, until, config.users)
    factors = NightlyFactors(config, config.least, config.nightly_sweeps, attributes, engine.runtime.cores).fit(viewed)
    return lambda part: Walk(lambda chunk: score(factors, chunk))


def score(factors: NightlyFactors, chunk: Chunk) -> Numbers:
    """The columns of a chunk of displays, each with the factors of its morning."""
    columns = {column.name: np.full(len(chunk.row), np.nan, np.float32) for column in GROUP.columns}
    display_of_row, before = chunk.display_of_row, chunk.beside["delay"] < 0
    read_display = np.concatenate([np.arange(len(chunk.page)), chunk.display_of_beside[before]])
    read_document = np.concatenate([chunk.page, chunk.beside["document_id"][before]])
    for morning, at in by_morning(chunk, factors.mornings):
        rows, reads = np.flatnonzero(at[display_of_row]), np.flatnonzero(at[read_display])
        documents, index = np.unique(
            np.concatenate([chunk.ad_document[rows], read_document[reads]]), return_inverse=True
        )
        ad, read, display = index[: len(rows)], index[len(rows) :], display_of_row[rows]
        items = factors.factors(morning, documents)
        users = factors.fold_in(morning, read_display[reads], read, items, len(chunk.page))
        product, usual, of_user, of_ad = (np.empty(len(rows), np.float32) for _ in range(4))
        products(users, display, items, ad, product)
        products(morning.mean[None], np.zeros_like(ad), items, ad, usual)
        products(users, display, users, display, of_user)
        products(items, ad, items, ad, of_ad)
        lift = product - usual
        cold = np.isnan(product) & ~np.isnan(usual)  # nothing is known of the user: as any other
        columns["mf_score"][rows] = np.where(cold, 0, lift)
        columns["mf_cosine"][rows] = np.where(cold, 0, product / (np.sqrt(of_user * of_ad) + 1e-6))
        for k in range(SHOWN):
            columns[f"mf_user_{k}"][rows] = users[display, k]
            columns[f"mf_ad_{k}"][rows] = items[ad, k]
    columns["mf_gap"] = gap_to_best_rival(columns["mf_score"], chunk.offsets)
    return columns


GROUP = Group(
    scope="past-clicks",
    columns=(
        number("mf_score", "<user, document> less that of the mean user"),
        number("mf_cosine", "cosine of user and document"),
        number("mf_gap", "mf_score less the best rival's"),
        *(number(f"mf_user_{k}", f"number {k} of the user's factor", per="display") for k in range(SHOWN)),
        *(number(f"mf_ad_{k}", f"number {k} of the promoted document's factor") for k in range(SHOWN)),
    ),
    learner=Learner(config=Config, fit=fit),
)
