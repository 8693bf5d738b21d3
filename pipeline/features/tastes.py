"""What users of one interest click.

A document's category (or topic) is its surest one. A user's interest is what is met most often on the pages viewed
before the display, its own page included; the profile is what is met most on all pages viewed, before and after, the
display's own left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import LookUp, look_up, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import counts, fold, gains, key_of
from pipeline.features.subjects import SUBJECTS, Label, about, strongest
from pipeline.schemas.features import Scope, number

_MANY = 2**32  # more than any id: ids are ranked by weight * _MANY - id, so the lowest of equals wins


#: Name -> column, crossed with all that is met.
_CAMPAIGNS = {"campaign": "campaign_id", "advertiser": "advertiser_id"}
#: What is read of a user -> what is counted of it, scope.
_READ: dict[str, tuple[tuple[Label, ...], Scope]] = {
    "interest": (SUBJECTS, "out-of-fold"),
    "profile": (("category", "publisher"), "out-of-fold-future"),
}
_MET = [(read, label) for read, (labels, _) in _READ.items() for label in labels]


def build(inputs: Inputs) -> ir.Table:
    """KEY_by_LABEL_READ: log of (clicks + s b) / (e + s b), where the shows of a key to users of an interest (or a
    profile) were expected to bring e clicks by the key's lift for everybody (see `smoothing`)."""
    history = inputs.once(_described(inputs, inputs.history, inputs.history_views))
    table = inputs.within(history) if inputs.part == "history" else _described(inputs, inputs.impressions, inputs.views)
    table = table.mutate(fold=fold(table, inputs.smoothing.folds))
    table = look_up_all(table, list(_look_ups(inputs, history)))
    return table.mutate(**{column.name: table[column.name].fill_null(0) for column in GROUP.columns})


def _keys(label: Label) -> dict[str, str]:
    """What is crossed with what a user reads: name -> column."""
    return ({f"ad_{label}": f"ad_{label}"} if label in SUBJECTS else {}) | _CAMPAIGNS


def _look_ups(inputs: Inputs, history: ir.Table) -> Iterator[LookUp]:
    """What a row may know of each key by interest. history: described."""
    folds = inputs.smoothing.folds
    for read, label in _MET:
        for name, key in _keys(label).items():
            by = [key, f"{label}_{read}"]
            everywhere, here = (inputs.once(counts(history, keys, folds)) for keys in (by[:1], by))
            known = gains(inputs, everywhere, here, by[:1], by[1:])
            yield known.rename({f"{name}_by_{label}_{read}": "gain"}), key_of(inputs, by)


def _described(inputs: Inputs, impressions: ir.Table, views: ir.Table) -> ir.Table:
    """What there is to know of impressions: what their users read (LABEL_READ), what their ads are about
    (ad_SUBJECT)."""
    table = look_up(impressions, _met(inputs, impressions, views), {"display_id": "display_id"})
    for subject in SUBJECTS:
        main = _main(inputs, subject).rename({f"ad_{subject}": "id"})
        table = look_up(table, main, {"ad_document_id": "document_id"})
    return table.select(
        *("row", "first", "display_id", "clicked", "ads", *_CAMPAIGNS.values()),
        *(f"ad_{subject}" for subject in SUBJECTS),
        *(f"{label}_{read}" for read, label in _MET),
    )


def _main(inputs: Inputs, label: Label) -> ir.Table:
    """document_id -> id: the category (or topic) that each document is most about; its publisher."""
    if label in SUBJECTS:
        return inputs.once(strongest(inputs, label).rename(id=label))
    return about(inputs, label).select("document_id", "id")


def _met(inputs: Inputs, impressions: ir.Table, views: ir.Table) -> ir.Table:
    """display_id -> LABEL_READ: what is met most often on the pages that the user of each display has read.

    Of those viewed after it the promoted ones are left out: they tell what was clicked (group `leak`).
    """
    labels = list(dict.fromkeys(label for _, label in _MET))
    main = ibis.union(*(_main(inputs, label).mutate(label=ibis.literal(i, "int8")) for i, label in enumerate(labels)))
    times = _pages(inputs, impressions, views).inner_join(main, "document_id")
    times = times.group_by(["display_id", "label", "id"]).aggregate(
        **{read: times.count(where=times[read]).cast("int64") for read in _READ}
    )
    most = {
        f"{label}_{read}": times.id.argmax(
            times[read] * _MANY - times.id.cast("int64"), where=(times.label == labels.index(label)) & (times[read] > 0)
        )
        for read, label in _MET
    }
    return times.group_by("display_id").aggregate(**most)


def _pages(inputs: Inputs, impressions: ir.Table, views: ir.Table) -> ir.Table:
    """display_id, document_id: the pages that count, each time that they do; READ: for which (true or false)."""
    promoted = inputs.table("promoted_content").select("document_id")
    displays = impressions.filter(impressions.first & impressions.document_id.notnull())
    found = {
        (True, False): displays,
        (True, True): views.filter(views.delay < 0),
        (False, True): views.filter(views.delay >= 0).anti_join(promoted, "document_id"),
    }
    return ibis.union(
        *(
            pages.select("display_id", "document_id", **dict(zip(_READ, map(ibis.literal, of), strict=True)))
            for of, pages in found.items()
        )
    )


GROUP = Group(
    scope="out-of-fold",
    columns=tuple(
        number(
            f"{name}_by_{label}_{read}",
            f"log of clicks over what the lift of the {name.replace('_', ' ')} lets expect, smoothed, among "
            f"users who view the same {label} most",
            _READ[read][1],
        )
        for read, label in _MET
        for name in _keys(label)
    ),
    build=build,
)
