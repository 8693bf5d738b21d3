"""iALS as a system would run it: fitted anew each night on all views of the days before, from last night's factors.

A display is described by the factors of its morning, so nothing that came later is in them. Users are many and new, so
no factor of theirs is kept: a display's user is folded in, by eq. 4, from what it has viewed up to then. A document
that too few users have viewed has the factor that its topics and categories suggest: a linear map from attributes to
the factors of the documents that are known (Gantner et al. 2010, "Learning attribute-to-feature mappings for cold-start
recommendations").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pipeline.collaborative.attributes import Attributes
from pipeline.collaborative.ials import (
    FactorConfig,
    Floats,
    Lists,
    Longs,
    gram,
    principal_axes,
    solve_rows,
    start,
    sweep,
)
from pipeline.collaborative.viewed import Viewed
from pipeline.core.compiled import compiled
from pipeline.core.progress import bar


@dataclass(frozen=True, slots=True)
class Morning:
    """What is known at the beginning of a day.

    items: (I, K) factors of the first I documents of the vocabulary. square: items'items. mean: (K,) of the users.
    mapping: (A, K) from attributes to factors.
    """

    items: Floats
    square: NDArray[np.float64]
    mean: Floats
    mapping: Floats


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Documents in the order in which they came to be known (by day, then by id), so that no code tells the future.

    documents: (I,) ascending document_ids; codes: (I,) of each. day: (I,) by code: from the end of which it is known.
    """

    documents: Longs
    codes: Longs
    day: Longs

    def code(self, documents: NDArray[np.integer]) -> Longs:
        """The codes of some documents, -1 for those that never came to be known."""
        if not len(self.documents):
            return np.full(len(documents), -1)
        at = np.minimum(np.searchsorted(self.documents, documents), len(self.documents) - 1)
        return np.where(self.documents[at] == documents, self.codes[at], -1)


def vocabulary(document: NDArray[np.integer], day: NDArray[np.integer], least: int) -> Vocabulary:
    """The documents that `least` users have viewed, from the first views (P,) of each pair of user and document."""
    order = np.lexsort((day, document))
    ids, first, count = np.unique(document[order], return_index=True, return_counts=True)
    known = count >= least
    documents, since = ids[known].astype(np.int64), day[order][first[known] + least - 1].astype(np.int64)
    by_day = np.lexsort((documents, since))
    codes = np.empty(len(documents), np.int64)
    codes[by_day] = np.arange(len(documents))
    return Vocabulary(documents, codes, since[by_day])


class NightlyFactors:
    """The factors of each morning. least: viewers that make a document known; sweeps: of each night but the first."""

    def __init__(self, config: FactorConfig, least: int, sweeps: int, attributes: Attributes, threads: int = 1) -> None:
        self.config, self.least, self.sweeps, self.attributes = config, least, sweeps, attributes
        self.threads = threads
        self.vocabulary = vocabulary(np.empty(0, np.int64), np.empty(0, np.int64), least)
        self.mornings: dict[int, Morning] = {}

    def fit(self, viewed: Viewed) -> NightlyFactors:
        """Walk through the days; the views of day v are first known on the morning of day v + 1."""
        pair = viewed.user.astype(np.int64) << 32 | viewed.document
        first = np.unique(pair, return_index=True)[1]  # views of a user come in the order of time
        user, document, day = viewed.user[first], viewed.document[first], viewed.day[first]
        self.vocabulary = vocabulary(document, day, self.least)
        code = self.vocabulary.code(document)
        kept = code >= 0
        user, code, day = user[kept], code[kept], day[kept]
        users = int(viewed.user[-1]) + 1 if len(viewed.user) else 0
        random = np.random.default_rng(self.config.seed)
        items = np.zeros((0, self.config.dim), np.float32)
        with bar(None, "iALS", "night") as shown:
            for today in viewed.days():
                size = int(np.searchsorted(self.vocabulary.day, today, side="right"))
                items = np.concatenate([items, start(random, size - len(items), self.config.dim)])
                chosen = (day <= today) & (code < size)
                offsets = np.concatenate([[0], np.cumsum(np.bincount(user[chosen], minlength=users))])
                items = self._night(items, Lists(offsets, code[chosen].astype(np.int32)), today + 1)
                shown.update(1)
        return self

    def _night(self, items: Floats, viewed: Lists, morning: int) -> Floats:
        c, viewers = self.config, viewed.transposed(len(items))
        users = np.zeros((len(viewed.offsets) - 1, c.dim), np.float32)
        first = not self.mornings
        for _ in range(c.sweeps if first else self.sweeps):
            sweep(viewed, viewers, users, items, c, self.threads)
        active = np.diff(viewed.offsets) > 0
        mean = users[active].mean(axis=0) if active.any() else np.zeros(c.dim, np.float32)
        if first:  # the first numbers shall vary most; later nights go on from there
            turn = principal_axes(gram(items))
            items, mean = items @ turn, mean @ turn
        mapping = self._mapping(items, np.diff(viewers.offsets))
        self.mornings[morning] = Morning(items, gram(items), mean, mapping)
        return items.copy()

    def _mapping(self, items: Floats, viewers: Longs) -> Floats:
        """Ridge regression of the factors on the attributes, a document weighed by its viewers."""
        ids = np.empty(len(items), np.int64)
        known = self.vocabulary.codes < len(items)
        ids[self.vocabulary.codes[known]] = self.vocabulary.documents[known]
        attributes = self.attributes.rows(ids).astype(np.float64)
        weighed = sp.diags_array(viewers / max(1.0, viewers.mean() if len(viewers) else 1.0)) @ attributes
        left = (attributes.T @ weighed).toarray() + np.eye(attributes.shape[1])
        return np.linalg.solve(left, weighed.T @ items).astype(np.float32)

    def factors(self, morning: Morning, documents: Longs) -> Floats:
        """(n, K) factors of some documents, NaN where nothing is known of one."""
        code = self.vocabulary.code(documents)
        own = (code >= 0) & (code < len(morning.items))
        attributes = self.attributes.rows(documents)
        found = np.asarray(attributes @ morning.mapping, np.float32)
        found[np.diff(attributes.indptr) == 0] = np.nan
        found[own] = morning.items[code[own]]
        return found

    def fold_in(self, morning: Morning, display: Longs, document: Longs, factors: Floats, displays: int) -> Floats:
        """(displays, K) users, NaN without any view; `display` and `document` are pairs of a display and an index into
        `factors`, of which some may be unknown and some may repeat."""
        known = ~np.isnan(factors[:, 0])[document] if len(factors) else np.zeros(0, bool)
        pairs = np.unique(display[known] * len(factors) + document[known])
        offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs // len(factors), minlength=displays))])
        users = np.empty((displays, self.config.dim), np.float32)
        columns = (pairs % len(factors)).astype(np.int32)
        viewed = Lists(offsets, columns)
        solve_rows(viewed, factors, morning.square, self.config.alpha, self.config.reg, users)
        users[np.diff(offsets) == 0] = np.nan
        return users


@compiled
def products(left: Floats, left_row: Longs, right: Floats, right_row: Longs, out: Floats) -> None:
    """out[n] = <left[left_row[n]], right[right_row[n]]>, summed in double precision, always in the same order."""
    for n in range(len(out)):
        total = 0.0
        for k in range(left.shape[1]):
            total += np.float64(left[left_row[n], k]) * np.float64(right[right_row[n], k])
        out[n] = total
