"""Documents: topic, source, publisher; and which document a user with given preferences views.

Each document has two topics out of 300. Topics belong to 20 sections, categories (97) to sections too. A source belongs
to a publisher, a publisher leans to one topic, and half of its documents take that topic. Viewers choose a topic first
(mostly one that they prefer) and then a document of that topic, of which the head is viewed far more than the tail.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from pipeline.sources.simulation.randomness import F32, I64, U64, Stream, bit_slice, lookup, shuffled, sparse_ids
from pipeline.sources.simulation.scale import CATEGORIES, TOPICS, Scale
from pipeline.sources.simulation.users import TOPIC_BITS, TOPIC_SHARES, Traits

SECTIONS = 20
#: Share of page views that follow the user's preferred topics; the rest follow the popularity of topics.
TASTE_SHARE = 0.65
#: Share of the documents of a topic, from its head on, that carry displays.
_HOST_SHARE = 0.3
_SAME_SECTION = 0.4
_TABLE = 1 << 16
#: The first digits are a group of the categories' taxonomy: (group, first, last).
_CATEGORY_GROUPS = (
    *((10, 0, 0), (11, 0, 0), (12, 2, 12), (13, 2, 8), (14, 2, 9), (15, 2, 16), (16, 2, 14), (17, 2, 12)),
    *((18, 2, 10), (19, 2, 15), (20, 2, 7), (21, 0, 0)),
)


def section(topic: I64) -> I64:
    """The section of each topic."""
    return topic % SECTIONS


def category(topic: I64) -> I64:
    """The category, 0..96, of each topic; it lies in the topic's section."""
    here = section(topic)
    members = (CATEGORIES - 1 - here) // SECTIONS + 1
    return here + SECTIONS * ((topic // SECTIONS) % members)


def category_ids() -> I64:
    """(97,) the four digits under which the files know each category."""
    ids = [group * 100 + i for group, first, last in _CATEGORY_GROUPS for i in range(first, last + 1)]
    return np.array(ids, dtype=np.int64)[shuffled(CATEGORIES, Stream(0, "categories"))]


@cache
def closeness() -> F32:
    """(300, 300) how close two topics are: 1 the same, 0.4 of the same section, else 0."""
    topics = np.arange(TOPICS)
    near = section(topics)[:, None] == section(topics)[None, :]
    return np.where(np.eye(TOPICS, dtype=bool), 1.0, np.where(near, _SAME_SECTION, 0.0)).astype(np.float32)


class Documents:
    """The documents of a world, as arrays of D rows.

    ids: document_id, ascending. first, second: topics. source: 0..; publishers: of each *source*, 0.. .
    promoted: (P,) the documents that ads lead to. place: (D,) their place in `promoted`, -1 for all others.
    """

    def __init__(self, scale: Scale, seed: int) -> None:
        self.count = scale.documents
        self.ids = sparse_ids(self.count, 0.0005, Stream(seed, "documents.ids"))
        self._make_sources(scale, seed)
        self._make_topics(seed)
        self.promoted = shuffled(self.count, Stream(seed, "documents.promoted"))[: scale.promoted]
        self.place = np.full(self.count, -1, dtype=np.int32)
        self.place[self.promoted] = np.arange(scale.promoted)
        self._index_topics(seed)
        self._topics = lookup(TOPIC_SHARES, 1 << TOPIC_BITS)

    def _make_sources(self, scale: Scale, seed: int) -> None:
        names = Stream(seed, "documents.sources")
        table = lookup(1.0 / (np.arange(scale.sources) + 4.0), _TABLE)
        self.source = table[bit_slice(names.bits(np.arange(self.count)), 0, 16)].astype(np.int32)
        self.publishers = np.concatenate(  # each publisher has a source at least
            [
                np.arange(scale.publishers),
                (names.uniform(np.arange(scale.sources - scale.publishers), 1) ** 2 * scale.publishers).astype(
                    np.int64
                ),
            ]
        )
        self.source_ids = sparse_ids(scale.sources, 0.03, Stream(seed, "documents.source_ids"))
        self.publisher_ids = shuffled(scale.publishers, names) + 1

    def _make_topics(self, seed: int) -> None:
        stream = Stream(seed, "documents.topics")
        bits = stream.bits(np.arange(self.count))
        table = lookup(TOPIC_SHARES, 1 << TOPIC_BITS)
        leaning = table[bit_slice(stream.bits(np.arange(len(self.publishers)), 1), 0, TOPIC_BITS)]
        own = table[bit_slice(bits, 0, TOPIC_BITS)]
        leans = bit_slice(bits, 24, 1) == 1
        self.first = np.where(leans, leaning[self.publisher(np.arange(self.count))], own).astype(np.int16)
        self.second = table[bit_slice(bits, 12, TOPIC_BITS)].astype(np.int16)

    def _index_topics(self, seed: int) -> None:
        """Lists of the documents of each topic that are not promoted, in random order: the order of popularity."""
        plain = np.flatnonzero(self.place < 0)
        order = np.lexsort((Stream(seed, "documents.popularity").bits(plain), self.first[plain]))
        self._by_topic = plain[order]
        sizes = np.bincount(self.first[plain], minlength=TOPICS)
        filled = np.flatnonzero(sizes)
        nearest = filled[np.minimum(np.searchsorted(filled, np.arange(TOPICS)), len(filled) - 1)]
        self._sizes = sizes[nearest]  # a topic without documents borrows the next one's
        self._starts = (np.cumsum(sizes) - sizes)[nearest]

    def publisher(self, document: I64) -> I64:
        """The publisher, 0..publishers-1, of each document."""
        return self.publishers[self.source[document]]

    def viewed(self, traits: Traits, bits: U64, day: I64) -> I64:
        """The document that a user views: (n,) indices. bits: 64 random bits a view."""
        topic = self._preferred(traits, bits)
        size = self._sizes[topic]
        share = bit_slice(bits, 24, 20) * 2.0**-20
        share *= share
        rank = (size * (share * share)).astype(np.int64)
        fresh = bit_slice(bits, 44, 1) == 1  # half of the views go to what is new on that day
        rank = np.where(fresh, (rank + day * 7919) % size, rank)
        document: I64 = self._by_topic[self._starts[topic] + rank]
        return document

    def hosting(self, traits: Traits, bits: U64) -> I64:
        """The page on which a user meets a display: like `viewed`, but among the pages that carry displays."""
        topic = self._preferred(traits, bits)
        size = np.ceil(self._sizes[topic] * _HOST_SHARE)
        share = bit_slice(bits, 24, 20) * 2.0**-20
        rank = (size * (share * share * share)).astype(np.int64)
        document: I64 = self._by_topic[self._starts[topic] + rank]
        return document

    def _preferred(self, traits: Traits, bits: U64) -> I64:
        dice = bit_slice(bits, 0, 10)
        bound = round(TASTE_SHARE * 1024)
        preferred = np.where(dice < bound * 2 // 3, traits.first, traits.second)
        return np.where(dice < bound, preferred, self._topics[bit_slice(bits, 10, TOPIC_BITS)])
