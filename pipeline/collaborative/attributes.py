"""What documents are about, as one sparse matrix: topics, categories and sources with their confidence.

It is what is known of a document that nobody has viewed yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ibis
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from pipeline.core.engine import Engine

Subject = Literal["topic", "category", "source"]
_TABLES = {
    "topic": ("documents_topics", "topic_id"),
    "category": ("documents_categories", "category_id"),
    "source": ("documents_meta", "source_id"),
}


@dataclass(frozen=True, slots=True)
class Attributes:
    """documents: (M,) document_ids that have any attribute, ascending. weights: (M, A) sparse, float32.

    subjects: name -> its range among the A columns.
    """

    documents: NDArray[np.int64]
    weights: sp.csr_matrix
    subjects: dict[Subject, range]

    def rows(self, documents: NDArray[Any]) -> sp.csr_matrix:
        """The attributes of some documents (n,), repeated or unknown ones among them: (n, A)."""
        at = np.searchsorted(self.documents, documents)
        known = np.append(self.documents, -1)[at] == documents
        ends = np.concatenate([[0], np.cumsum(known)])
        ones = np.ones(ends[-1], np.float32)
        picked = sp.csr_matrix((ones, at[known], ends), (len(at), len(self.documents)))
        return picked @ self.weights


def read_attributes(engine: Engine, tables: Path, subjects: Sequence[Subject], least: int = 1) -> Attributes:
    """The attributes of all documents; values of at least `least` documents."""
    documents, codes, weights, ranges, end = [], [], [], {}, 0
    for subject in subjects:
        name, column = _TABLES[subject]
        table = engine.table(tables / f"{name}.parquet")
        table = table.filter(table[column].notnull())
        weight = table.confidence_level if "confidence_level" in table.columns else ibis.literal(1.0, "float32")
        pairs = table.select("document_id", id=column, weight=weight).group_by(["document_id", "id"])
        found = pairs.aggregate(weight=ibis._.weight.max())  # the greatest, of a pair that the file names again
        counts = found.group_by("id").aggregate(documents=found.count())
        found = found.semi_join(counts.filter(counts.documents >= least), "id")
        rows = engine.to_arrow(found.order_by(["document_id", "id", "weight"]))
        values, code = np.unique(rows["id"].to_numpy(), return_inverse=True)
        documents.append(rows["document_id"].to_numpy())
        codes.append(code + end)
        weights.append(rows["weight"].to_numpy())
        ranges[subject] = range(end, end + len(values))
        end += len(values)
    ids, row = np.unique(np.concatenate(documents), return_inverse=True)
    entries = (np.concatenate(weights).astype(np.float32), (row, np.concatenate(codes)))
    return Attributes(ids.astype(np.int64), sp.csr_matrix(entries, (len(ids), end)), ranges)
