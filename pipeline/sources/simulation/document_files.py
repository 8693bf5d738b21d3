"""The rows of documents_meta, documents_categories, documents_topics, documents_entities and promoted_content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.sources.simulation.documents import category, category_ids
from pipeline.sources.simulation.randomness import F64, I64, lookup, shuffled, unit
from pipeline.sources.simulation.scale import TOPICS
from pipeline.sources.simulation.users import hexadecimal
from pipeline.sources.simulation.world import World

Rows = Mapping[str, Any]
_CHUNK = 100_000
#: Shares of documents without the value; often a promoted document off the network has no publisher.
_NO_SOURCE, _NO_PUBLISHER, _NO_TIME = 0.001, 0.01, 0.337
_NO_PUBLISHER_OFF_NETWORK = 0.4
_ODD_YEAR = 0.0006  # years 30xx and 00xx, each
_WITH_CATEGORIES, _WITH_TOPICS, _WITH_ENTITIES = 0.943, 0.832, 0.597
_ONE_CATEGORY, _PLAIN_PAIR = 0.06, 0.55
_TOPIC_NUMBERS = {1: 11, 2: 14, 3: 16, 4: 16, 5: 14, 6: 10, 7: 7, 8: 5, 9: 3, 10: 2, 12: 1, 15: 1}
_ENTITY_NUMBERS = {1: 27, 2: 21, 3: 14, 4: 10, 5: 8, 6: 6, 7: 4, 8: 3, 9: 2, 10: 5}
_NEWEST = np.datetime64("2016-06-29T00:00:00", "s")


class DocumentFiles:
    """Makes the rows of the files about documents, in chunks, in the order of source as Kaggle's are."""

    def __init__(self, world: World) -> None:
        self._scale, self._documents, self._ads = world.scale, world.documents, world.ads
        self._streams = world.streams("files", "meta", "category", "topic", "entity", "entity_id", "topic_ids")
        self._topic_ids = shuffled(TOPICS, self._streams["topic_ids"])
        self._category_ids = category_ids()

    def chunks(self) -> Iterator[tuple[str, Rows]]:
        """(name of the file, columns) chunk by chunk."""
        ads = self._ads
        yield (
            "promoted_content",
            {
                "ad_id": ads.ids,
                "document_id": self._documents.ids[ads.document],
                "campaign_id": ads.campaign_ids[ads.campaign],
                "advertiser_id": ads.advertiser_ids[ads.advertiser],
            },
        )
        order = np.argsort(self._documents.source, kind="stable")
        for start in range(0, len(order), _CHUNK):
            document = order[start : start + _CHUNK]
            yield "documents_meta", self._meta(document)
            yield "documents_categories", self._categories(document)
            yield "documents_topics", self._topics(document)
            yield "documents_entities", self._entities(document)

    def _meta(self, document: I64) -> Rows:
        stream = self._streams["meta"]
        source = self._documents.source[document]
        place = self._documents.place[document]
        off_network = (place >= 0) & ~self._ads.viewable[place]
        no_publisher = stream.uniform(document, 0) < np.where(off_network, _NO_PUBLISHER_OFF_NETWORK, _NO_PUBLISHER)
        # The first documents show each kind of dirt, so that every world has it.
        return {
            "document_id": self._documents.ids[document],
            "source_id": _with_nulls(
                self._documents.source_ids[source], (stream.uniform(document, 1) < _NO_SOURCE) | (document == 2)
            ),
            "publisher_id": _with_nulls(
                self._documents.publisher_ids[self._documents.publishers[source]], no_publisher | (document == 3)
            ),
            "publish_time": self._publish_time(document),
        }

    def _publish_time(self, document: I64) -> pa.Array:
        stream = self._streams["meta"]
        recent = stream.uniform(document, 2) < 0.35
        age = -np.log(stream.uniform(document, 3)) * np.where(recent, 12.0, 700.0)  # days
        seconds = np.minimum(age, 6000.0) * 86_400
        time = _NEWEST - seconds.astype("timedelta64[s]")
        midnight = stream.uniform(document, 4) < 0.56
        hours, days = (time.astype(f"datetime64[{one}]").astype("datetime64[s]") for one in "hD")
        time = np.where(midnight, days, hours)
        text = pc.strftime(pa.array(time), format="%Y-%m-%d %H:%M:%S")
        dice = stream.uniform(document, 5)
        for low, year, example in ((0.0, "30", 0), (_ODD_YEAR, "00", 1)):
            odd = ((dice >= low) & (dice < low + _ODD_YEAR)) | (document == example)
            text = pc.if_else(pa.array(odd), pc.utf8_replace_slice(text, 0, 2, year), text)
        missing = ((stream.uniform(document, 6) < _NO_TIME) & (document > 1)) | (document == 4)
        return pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), text)

    def _categories(self, document: I64) -> Rows:
        stream = self._streams["category"]
        document = document[stream.uniform(document, 0) < _WITH_CATEGORIES]
        first = category(self._documents.first[document].astype(np.int64))
        second = category(self._documents.second[document].astype(np.int64))
        second = np.where(second == first, (first + 20) % len(self._category_ids), second)
        kind = stream.uniform(document, 1)
        sure = np.round(0.4 + 0.5 * stream.uniform(document, 2), 9)
        doubtful = np.round(0.035 + 0.04 * stream.uniform(document, 3), 9)
        plain = kind < _ONE_CATEGORY + _PLAIN_PAIR
        confidence = np.stack([np.where(plain, 0.92, sure), np.where(plain, 0.07, doubtful)], axis=1)
        single = kind < _ONE_CATEGORY
        confidence[single, 0] = 1.0
        keep = np.stack([np.ones(len(document), dtype=bool), ~single], axis=1)
        both = np.stack([first, second], axis=1)
        row = np.nonzero(keep)[0]
        return {
            "document_id": self._documents.ids[document[row]],
            "category_id": self._category_ids[both[keep]],
            "confidence_level": _decimal(confidence[keep]),
        }

    def _topics(self, document: I64) -> Rows:
        stream = self._streams["topic"]
        document = document[stream.uniform(document, 0) < _WITH_TOPICS]
        number = _draw(_TOPIC_NUMBERS, stream.uniform(document, 1))
        row, each = _expand(number)
        first = self._documents.first[document].astype(np.int64)[row]
        second = self._documents.second[document].astype(np.int64)[row]
        other = ((stream.bits(document, 2) % np.uint64(TOPICS)).astype(np.int64)[row] + 7 * each) % TOPICS
        topic = np.where(each == 0, first, np.where(each == 1, second, other))
        keep = (each == 0) | ((each == 1) & (second != first)) | ((each > 1) & (other != first) & (other != second))
        top = 0.06 + 0.25 * stream.uniform(document, 3)[row]
        level = 0.008 + (top - 0.008) * 0.62**each * (0.8 + 0.2 * stream.uniform(document[row], 4 + each))
        return {
            "document_id": self._documents.ids[document[row[keep]]],
            "topic_id": self._topic_ids[topic[keep]],
            "confidence_level": np.round(level[keep], 15),
        }

    def _entities(self, document: I64) -> Rows:
        stream = self._streams["entity"]
        document = document[stream.uniform(document, 0) < _WITH_ENTITIES]
        row, each = _expand(_draw(_ENTITY_NUMBERS, stream.uniform(document, 1)))
        topic = self._documents.first[document].astype(np.int64)[row]
        bits = stream.bits(document[row], 2 + each)
        rank = (unit(bits) ** 3 * self._scale.entities).astype(np.int64)  # the head of each topic's own order
        entity = (stream.bits(topic, 0, rank) % np.uint64(self._scale.entities)).astype(np.int64)
        first_time = np.zeros(len(row), dtype=bool)
        first_time[np.unique(row * self._scale.entities + entity, return_index=True)[1]] = True
        row, each, entity = row[first_time], each[first_time], entity[first_time]
        top = 0.22 + 0.73 * stream.uniform(document, 1, 1)[row] ** 2
        level = 0.2 + (top - 0.2) * 0.8**each * (0.9 + 0.1 * stream.uniform(document[row], 2 + each, 1))
        names = self._streams["entity_id"]
        return {
            "document_id": self._documents.ids[document[row]],
            "entity_id": pc.binary_join_element_wise(
                hexadecimal(names.bits(entity, 0), 8), hexadecimal(names.bits(entity, 1), 8), ""
            ),
            "confidence_level": np.round(level, 15),
        }


def _expand(number: I64) -> tuple[I64, I64]:
    """For `number[i]` things of each i: the i of each thing, and its place 0.. among those of i."""
    row = np.repeat(np.arange(len(number)), number)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)


def _draw(shares: Mapping[int, int], dice: F64) -> I64:
    table = lookup(list(shares.values()), 1000)
    return np.array(list(shares), dtype=np.int64)[table[(dice * 1000).astype(np.int64)]]


def _with_nulls(values: I64, missing: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=missing)


def _decimal(values: F64) -> pa.Array:
    """As text, whole numbers without a point: 1, 0.92, 0.07."""
    text = pa.array(values).cast(pa.string())
    return pc.replace_substring_regex(text, r"\.0$", "")
