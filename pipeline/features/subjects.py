"""What documents are about, as small look-ups that several groups share."""

from __future__ import annotations

from typing import Literal

import ibis
import ibis.expr.types as ir

from pipeline.features.base import Inputs

Subject = Literal["category", "topic"]
SUBJECTS: tuple[Subject, ...] = ("category", "topic")
#: A weight of 1, in whole units.
UNIT = 10_000


def about(inputs: Inputs, subject: Subject) -> ir.Table:
    """document_id, id, weight (float32): the topics or categories of each document, with their confidence."""
    table = inputs.table({"category": "documents_categories", "topic": "documents_topics"}[subject])
    return table.select("document_id", id=table[f"{subject}_id"], weight=table.confidence_level)


def strongest(inputs: Inputs, subject: Subject) -> ir.Table:
    """document_id, SUBJECT: what each document is most about; of equals the smaller id."""
    table = about(inputs, subject)
    order = ibis.window(group_by="document_id", order_by=[table.weight.desc(), table.id])
    ranked = table.mutate(rank=ibis.row_number().over(order))
    return ranked.filter(ranked["rank"] == 0).select("document_id", **{subject: "id"})


def bags(table: ir.Table, key: str, name: str) -> ir.Table:
    """key -> NAME: a list of {id, weight}, sorted by id, from rows of key, id and weight."""
    pair = ibis.struct({"id": table.id, "weight": table.weight})
    return table.group_by(key).aggregate(pair.collect().name(name)).mutate(**{name: ibis._[name].sort()})


def weighed(inputs: Inputs, subject: Subject) -> ir.Table:
    """document_id, id, weight (int64, in UNITs): confidence times idf, log(documents / documents with that id)."""
    table = about(inputs, subject)
    known = table.group_by("id").aggregate(documents=table.count())
    total = table.aggregate(total=table.document_id.nunique()).total.as_scalar()
    joined = table.inner_join(known, "id")
    idf = (total.cast("float64") / joined.documents).ln() + 0.1  # what stands in every document still counts a little
    return joined.select("document_id", "id", weight=(joined.weight.cast("float64") * idf * UNIT).round().cast("int64"))
