"""What users of one interest click.

A document's category (or topic) is its surest one. A user's interest is what is met most often on the pages viewed
before the display, its own page included; the profile is what is met most on all pages viewed, before and after, the
display's own left out.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    table = inputs.impressions
    for subject in SUBJECTS:
        table = _with_subject(inputs, table, subject)
    for read, label in _MET:
        table = _described(table, _met(inputs, table, inputs.views, read, label), read, label)
    table = table.mutate(fold=fold(table, inputs.smoothing.folds))
    table = look_up_all(table, list(_look_ups(inputs)))
    return table.mutate(**{column.name: table[column.name].fill_null(0) for column in GROUP.columns})


def _keys(label: Label) -> dict[str, str]:
    """What is crossed with what a user reads: name -> column."""
    return ({f"ad_{label}": f"ad_{label}"} if label in SUBJECTS else {}) | _CAMPAIGNS


def _look_ups(inputs: Inputs) -> Iterator[LookUp]:
    """What a row may know of each key by interest."""
    folds = inputs.smoothing.folds
    for read, label in _MET:
        met = inputs.once(_met(inputs, inputs.history, inputs.history_views, read, label))
        history = _described(inputs.history, met, read, label)
        if label in SUBJECTS:
            history = _with_subject(inputs, history, label)
        for name, key in _keys(label).items():
            everywhere = counts(inputs.history if key in inputs.history.columns else history, [key], folds)
            by = [key, f"{label}_{read}"]
            here = counts(history, by, folds)
            known = gains(inputs, inputs.once(everywhere), inputs.once(here), by[:1], by[1:])
            yield known.rename({f"{name}_by_{label}_{read}": "gain"}), key_of(inputs, by)


def _described(table: ir.Table, met: ir.Table, read: str, label: Label) -> ir.Table:
    """Add the column LABEL_READ to impressions."""
    return look_up(table, met.rename({f"{label}_{read}": "id"}), {"display_id": "display_id"})


def _with_subject(inputs: Inputs, table: ir.Table, subject: Label) -> ir.Table:
    """Add the column ad_SUBJECT to impressions."""
    main = _main(inputs, subject).rename({f"ad_{subject}": "id"})
    return look_up(table, main, {"ad_document_id": "document_id"})


def _main(inputs: Inputs, label: Label) -> ir.Table:
    """document_id -> id: the category (or topic) that each document is most about; its publisher."""
    if label in SUBJECTS:
        return inputs.once(strongest(inputs, label).rename(id=label))
    return about(inputs, label).select("document_id", "id")


def _met(inputs: Inputs, impressions: ir.Table, views: ir.Table, read: str, label: Label) -> ir.Table:
    """display_id -> id: what is met most often on the pages that the user of each display has read.

    Of those viewed after it the promoted ones are left out: they tell what was clicked (group `leak`).
    """
    pages = views.filter(views.delay < 0).select("display_id", "document_id")
    if read == "interest":
        displays = impressions.filter(impressions.first & impressions.document_id.notnull())
        more = displays.select("display_id", "document_id")
    else:
        promoted = inputs.table("promoted_content").select("document_id")
        more = views.filter(views.delay >= 0).select("display_id", "document_id").anti_join(promoted, "document_id")
    met = pages.union(more).inner_join(_main(inputs, label), "document_id")
    times = met.group_by(["display_id", "id"]).aggregate(times=met.count().cast("int64"))
    return times.group_by("display_id").aggregate(id=times.id.argmax(times.times * _MANY - times.id.cast("int64")))


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
