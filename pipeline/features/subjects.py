"""What documents are about, as small look-ups that several groups share."""

from __future__ import annotations

from typing import Literal, get_args

import ibis
import ibis.expr.types as ir

from pipeline.features.base import Inputs

Subject = Literal["category", "topic"]
SUBJECTS: tuple[Subject, ...] = ("category", "topic")
#: All that a document can be known by.
Label = Literal["category", "topic", "entity", "source", "publisher"]
LABELS: tuple[Label, ...] = get_args(Label)
#: A weight of 1, in whole units.
UNIT = 10_000


def about(inputs: Inputs, label: Label) -> ir.Table:
    """document_id, id, weight (float32): the ids of a label that each document has, with their confidence (else 1).

    Each is there once: of a pair that a file names again the greatest confidence counts, so that a file that repeats
    itself says no more than one that does not. The text that names an entity becomes a number: its place among all
    entities.
    """
    if label in ("source", "publisher"):
        table = inputs.table("documents_meta")
        table = table.filter(table[f"{label}_id"].notnull())
        return table.select("document_id", id=table[f"{label}_id"], weight=ibis.literal(1.0, "float32"))
    table = inputs.table(
        {"category": "documents_categories", "topic": "documents_topics"}.get(label, "documents_entities")
    )
    table = table.select("document_id", id=table[f"{label}_id"], weight=table.confidence_level)
    if label == "entity":
        names = table.select(name="id").distinct()
        place = ibis.row_number().over(ibis.window(order_by=names.name))
        numbers = inputs.once(names.mutate(id=place.cast("uint32")))
        table = table.rename(name="id").inner_join(numbers, "name").select("document_id", "id", "weight")
    return table.group_by(["document_id", "id"]).aggregate(weight=table.weight.max())


def in_units(table: ir.Table) -> ir.Table:
    """The same with whole weights (int64), in UNITs."""
    return table.mutate(weight=(table.weight * UNIT).round().cast("int64"))


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


def weighed(inputs: Inputs, label: Label) -> ir.Table:
    """document_id, id, weight (int64, in UNITs): confidence times idf, log(documents / documents with that id)."""
    table = about(inputs, label)
    known = table.group_by("id").aggregate(documents=table.count())
    total = table.aggregate(total=table.document_id.nunique()).total.as_scalar()
    joined = table.inner_join(known, "id")
    idf = (total.cast("float64") / joined.documents).ln() + 0.1  # what stands in every document still counts a little
    return joined.select("document_id", "id", weight=(joined.weight.cast("float64") * idf * UNIT).round().cast("int64"))
