"""What the user did in order: the documents viewed before the display, and those of the ads that were passed over or
clicked in earlier ones, make a state, against which the promoted document is read out.

Piech et al. 2015 (pipeline.collaborative.dkt), learning on each night from page views and history's displays. The
clicks of history that a state holds, or that its network has learned from, are all earlier than its display.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ibis
import ibis.expr.types as ir
import numpy as np

from pipeline.collaborative.attributes import Attributes, read_attributes
from pipeline.collaborative.dkt import DKTConfig, Trace, fit_traces, normalised, pack
from pipeline.collaborative.nightly import products
from pipeline.collaborative.products import one_thread
from pipeline.collaborative.viewed import VIEWED, read_traced, shown_documents
from pipeline.core.config import check
from pipeline.core.engine import Engine
from pipeline.features.base import Group, Learner, Sources
from pipeline.features.displays import Chunk, Numbers, Walk, by_morning, gap_to_best_rival
from pipeline.schemas.features import number
from pipeline.schemas.impressions import PARTS, Part

#: How many numbers of the state's read-out, and of a document's embedding, become columns.
SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DKTConfig):
    """The section `collaborative.dkt` of params.yaml.

    users: from about how many users' views it learns. least: documents that an attribute must have.
    """

    users: int = 200_000
    least: int = 5

    def __post_init__(self) -> None:
        DKTConfig.__post_init__(self)
        for name in ("users", "least"):
            check(getattr(self, name) >= 1, f"{name}: must be 1 or more, found {getattr(self, name)}")


def fit(engine: Engine, sources: Sources, config: Config) -> Callable[[Part], Walk]:
    """Fit the network of each morning; what is returned describes rows."""
    attributes = read_attributes(engine, sources.tables, ("topic", "category", "source"), config.least)
    history = sources.impressions("history")
    traced = read_traced(engine, sources.tables, history, sources.info.views_until, config.users)
    traces = fit_traces(traced, attributes, config)
    paths = {}
    for part in PARTS:
        paths[part] = engine.scratch(f"before-{part}.parquet")
        engine.write_by_ranges(
            sources.impressions(part),
            "display_id",
            partial(_before, engine, sources, part, config.length),
            paths[part],
            order_by=_BEFORE,
        )
    return lambda part: Walk(
        lambda chunk: score(traces, attributes, chunk, config.length), beside=paths[part], size=_AT_ONCE
    )


_BEFORE = ("display_id", "delay", "what", "document_id")
#: Displays: of each document that their users met, a network reads as many numbers as its gates have.
_AT_ONCE = 1 << 13


def _before(engine: Engine, sources: Sources, part: Part, most: int, rows: ir.Table) -> ir.Table:
    """display_id, delay (ms, negative), what, document_id: what users of some displays viewed before, and what became
    of the ads in history's displays, of `most` of them, the latest: else a user's rows would grow with the square of
    its displays."""
    displays = rows.filter(rows.first).select("display_id", "user_id", "timestamp")
    views = engine.table(sources.views(part))
    views = views.filter(views.delay < 0).semi_join(displays, "display_id")
    views = views.mutate(what=ibis.literal(VIEWED, "int8"))
    shown = engine.once(shown_documents(engine.table(sources.impressions("history")))).rename(shown_at="timestamp")
    pairs = displays.inner_join(shown, "user_id")
    pairs = pairs.filter(pairs.shown_at < pairs.timestamp).mutate(delay=ibis._.shown_at - ibis._.timestamp)
    latest = ibis.window(group_by="display_id", order_by=[ibis.desc(name) for name in _BEFORE[1:]])
    pairs = pairs.mutate(place=ibis.row_number().over(latest)).filter(ibis._.place < most)
    return ibis.union(pairs.select(*_BEFORE), views.select(*_BEFORE))


def score(traces: dict[int, Trace], attributes: Attributes, chunk: Chunk, length: int) -> Numbers:
    """The columns of a chunk of displays, each with the network of its morning; the page is the last document."""
    columns = {column.name: np.full(len(chunk.row), np.nan, np.float32) for column in GROUP.columns}
    displays = len(chunk.page)
    read = np.concatenate([chunk.beside["document_id"], chunk.page])
    order = np.argsort(np.concatenate([chunk.display_of_beside, np.arange(displays)]), kind="stable")
    ends = chunk.beside_offsets[1:] + np.arange(1, displays + 1)
    documents, index = np.unique(np.concatenate([read[order], chunk.ad_document]), return_inverse=True)
    at, known = pack(np.arange(len(read)), np.append(0, ends[:-1]), ends, length)
    became = np.append(chunk.beside["what"], np.full(displays, VIEWED))[order]
    sequence, what = index[: len(read)][at], became[at]
    lengths = known.sum(axis=1)
    about = normalised(attributes.rows(documents))
    unknown = np.diff(about.indptr) == 0
    cold = (unknown[sequence] | ~known).all(axis=1)
    for trace, today in by_morning(chunk, traces):
        chosen, rows = np.flatnonzero(today), np.flatnonzero(today[chunk.display_of_row])
        embeddings = trace.network.documents(about)
        y = trace.network.read_out(embeddings, sequence[chosen], what[chosen], lengths[chosen])
        display = np.searchsorted(chosen, chunk.display_of_row[rows])
        ad = index[len(read) :][rows]
        found = np.empty(len(rows), np.float32)
        products(y, display, embeddings, ad, found)
        found[cold[chosen][display]] = 0
        found[unknown[ad]] = np.nan
        columns["dkt_score"][rows] = found
        axes = trace.axes[:, :SHOWN]
        states = np.where(cold[chosen, None], np.nan, y @ axes)
        vectors = np.where(unknown[:, None], np.nan, embeddings @ axes)
        for k in range(SHOWN):
            columns[f"dkt_user_{k}"][rows] = states[display, k]
            columns[f"dkt_ad_{k}"][rows] = vectors[ad, k]
    columns["dkt_gap"] = gap_to_best_rival(columns["dkt_score"], chunk.offsets)
    return columns


GROUP = Group(
    scope="past-clicks",
    columns=(
        number("dkt_score", "how well the promoted document suits what the user did before"),
        number("dkt_gap", "dkt_score less the best rival's"),
        *(number(f"dkt_user_{k}", f"number {k} of the user's state, read out", per="display") for k in range(SHOWN)),
        *(number(f"dkt_ad_{k}", f"number {k} of the promoted document's embedding") for k in range(SHOWN)),
    ),
    learner=Learner(config=Config, fit=fit, around=one_thread),
)
