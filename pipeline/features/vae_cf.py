"""The user's taste, by what it viewed before, and how far the promoted document suits it: even one that nobody has
viewed yet, since a taste is one for topics, categories and sources.

Liang et al. 2018 (pipeline.collaborative.mult_vae), learning on each night (pipeline.collaborative.nightly_tastes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from pipeline.collaborative.attributes import Attributes, Subject, read_attributes
from pipeline.collaborative.mult_vae import Tastes, VAEConfig
from pipeline.collaborative.nightly import products
from pipeline.collaborative.nightly_tastes import fit_tastes
from pipeline.collaborative.products import one_thread
from pipeline.collaborative.viewed import read_viewed
from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.features.base import Group, Learner, Sources
from pipeline.features.displays import Chunk, Numbers, Walk, by_morning, gap_to_best_rival
from pipeline.schemas.features import number
from pipeline.schemas.impressions import Part

#: How many numbers of the taste, and of a document in its space, become columns.
SHOWN = 4
SUBJECTS: tuple[Subject, ...] = ("topic", "category", "source")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(VAEConfig):
    """The section `collaborative.vae_cf` of params.yaml.

    users: from about how many users' views it learns. least: documents that an attribute must have. explore: a seed to
    draw z from its posterior instead of taking the mean, so that what the model is unsure of is tried; null: the mean.
    """

    users: int = 200_000
    least: int = 5
    explore: int | None = None

    def __post_init__(self) -> None:
        VAEConfig.__post_init__(self)
        for name in ("users", "least"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")
        check(self.explore is None or self.explore >= 0, f"explore: must be 0 or more, or null, found {self.explore}")


def fit(engine: Engine, sources: Sources, config: Config) -> Callable[[Part], Walk]:
    """Fit the network of each morning; what is returned describes rows."""
    attributes = read_attributes(engine, sources.tables, SUBJECTS, config.least)
    history, until = sources.impressions("history"), sources.info.views_until
    viewed = read_viewed(engine, sources.tables, history, until, config.users)
    mornings = fit_tastes(viewed, attributes, config) if len(attributes.documents) else {}
    return lambda part: Walk(lambda chunk: score(mornings, attributes, chunk, config.explore))


def score(mornings: dict[int, Tastes], attributes: Attributes, chunk: Chunk, explore: int | None = None) -> Numbers:
    """The columns of a chunk of displays, each with the network of its morning."""
    columns = {column.name: np.full(len(chunk.row), np.nan, np.float32) for column in GROUP.columns}
    before = chunk.beside["delay"] < 0
    read_display = np.concatenate([np.arange(len(chunk.page)), chunk.display_of_beside[before]])
    read = attributes.rows(np.concatenate([chunk.page, chunk.beside["document_id"][before]]))
    shape = (len(chunk.page), len(read_display))
    bags = sp.csr_matrix((np.ones(shape[1], np.float32), (read_display, np.arange(shape[1]))), shape) @ read
    cold = np.diff(bags.indptr) == 0
    for tastes, at in by_morning(chunk, mornings):
        displays, rows = np.flatnonzero(at), np.flatnonzero(at[chunk.display_of_row])
        draw = None if explore is None else np.random.default_rng((explore, int(chunk.display_id[displays[0]])))
        z = tastes.taste(bags[displays], draw)
        display = np.searchsorted(displays, chunk.display_of_row[rows])
        documents, ad = np.unique(chunk.ad_document[rows], return_inverse=True)
        about = attributes.rows(documents)
        _add_lifts(columns, rows, tastes, z, display, about, ad, cold[displays])
        shown = np.where(cold[displays, None], np.nan, z @ tastes.axes[:, :SHOWN])
        vectors = np.nansum([tastes.documents(about, s)[0] for s in tastes.subjects], axis=0) @ tastes.axes[:, :SHOWN]
        vectors[np.diff(about.indptr) == 0] = np.nan
        for k in range(SHOWN):
            columns[f"vae_cf_user_{k}"][rows] = shown[display, k]
            columns[f"vae_cf_ad_{k}"][rows] = vectors[ad, k]
    columns["vae_cf_gap"] = gap_to_best_rival(columns["vae_cf_score"], chunk.offsets)
    return columns


def _add_lifts(
    columns: Numbers,
    rows: np.ndarray,
    tastes: Tastes,
    z: np.ndarray,
    display: np.ndarray,
    about: sp.csr_matrix,
    ad: np.ndarray,
    cold: np.ndarray,
) -> None:
    """log pi(z) less log popularity, the mean of a document's attributes; by subject, and the mean of the subjects."""
    partition, lifts = tastes.log_partition(z), []
    for s, (name, subject) in enumerate(zip(SUBJECTS, tastes.subjects, strict=True)):
        vectors, constant = tastes.documents(about, subject)
        product = np.empty(len(rows), np.float32)
        products(z, display, vectors, ad, product)
        lift = product + constant[ad] - partition[display, s]
        lifts.append(np.where(cold[display] & ~np.isnan(lift), 0, lift))
        columns[f"vae_cf_{name}"][rows] = lifts[-1]
    known = ~np.isnan(lifts)
    total = np.nansum(lifts, axis=0)
    columns["vae_cf_score"][rows] = np.divide(
        total, known.sum(axis=0), out=np.full(len(rows), np.nan, np.float32), where=known.any(axis=0)
    )


GROUP = Group(
    scope="past-clicks",
    columns=(
        number(
            "vae_cf_score", "log of the document's probability for the user over that for all, mean of its subjects"
        ),
        *(number(f"vae_cf_{subject}", f"the same, by the document's {subject} alone") for subject in SUBJECTS),
        number("vae_cf_gap", "vae_cf_score less the best rival's"),
        *(number(f"vae_cf_user_{k}", f"number {k} of the user's taste", per="display") for k in range(SHOWN)),
        *(number(f"vae_cf_ad_{k}", f"number {k} of the promoted document in that space") for k in range(SHOWN)),
    ),
    learner=Learner(config=Config, fit=fit, around=one_thread),
)
