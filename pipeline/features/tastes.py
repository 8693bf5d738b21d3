"""What the user is interested in, and what users with that interest click.

A document's subject is its surest category (or topic). A user's interest is the subject met most often on the pages
viewed before the display, its own page included.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis.expr.types as ir

from pipeline.core.relational import LookUp, look_up, look_up_all
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import counts, fold, gains, key_of
from pipeline.features.subjects import SUBJECTS, Subject, about
from pipeline.schemas.features import number

_MANY = 2**32  # more than any id: ids are ranked by weight * _MANY - id, so the lowest of equals wins


def build(inputs: Inputs) -> ir.Table:
    """KEY_by_SUBJECT_interest: log of (clicks + s b) / (e + s b), where the shows of a key to users of an interest were
    expected to bring e clicks by the key's lift for everybody (see `smoothing`)."""
    table = inputs.impressions
    for subject in SUBJECTS:
        table = _described(inputs, table, _interests(inputs, table, inputs.views, subject), subject)
    table = table.mutate(fold=fold(table, inputs.smoothing.folds))
    table = look_up_all(table, list(_look_ups(inputs)))
    return table.mutate(**{column.name: table[column.name].fill_null(0) for column in GROUP.columns})


def _keys(subject: Subject) -> dict[str, str]:
    """What is crossed with a user's interest: name -> column."""
    return {f"ad_{subject}": f"ad_{subject}", "campaign": "campaign_id", "advertiser": "advertiser_id"}


def _name(key: str, subject: Subject) -> str:
    return f"{key}_by_{subject}_interest"


def _look_ups(inputs: Inputs) -> Iterator[LookUp]:
    """What a row may know of each key by interest."""
    folds = inputs.smoothing.folds
    for subject in SUBJECTS:
        interests = inputs.once(_interests(inputs, inputs.history, inputs.history_views, subject))
        history = _described(inputs, inputs.history, interests, subject)
        for name, key in _keys(subject).items():
            everywhere = counts(inputs.history if key in inputs.history.columns else history, [key], folds)
            by = [key, f"{subject}_interest"]
            here = counts(history, by, folds)
            known = gains(inputs, inputs.once(everywhere), inputs.once(here), by[:1], by[1:])
            yield known.rename({_name(name, subject): "gain"}), key_of(inputs, by)


def _described(inputs: Inputs, table: ir.Table, interests: ir.Table, subject: Subject) -> ir.Table:
    """Add the columns SUBJECT_interest and ad_SUBJECT to impressions."""
    table = look_up(table, interests.rename({f"{subject}_interest": "id"}), {"display_id": "display_id"})
    return look_up(table, _main(inputs, subject).rename({f"ad_{subject}": "id"}), {"ad_document_id": "document_id"})


def _main(inputs: Inputs, subject: Subject) -> ir.Table:
    """document_id -> id: the subject of each document that has the greatest confidence."""
    table = about(inputs, subject)
    rank = (table.weight * 1e6).cast("int64") * _MANY - table.id.cast("int64")
    return inputs.once(table.group_by("document_id").aggregate(id=table.id.argmax(rank)))


def _interests(inputs: Inputs, impressions: ir.Table, views: ir.Table, subject: Subject) -> ir.Table:
    """display_id -> id: the subject met most often on the pages viewed before each display and on its own page."""
    pages = impressions.filter(impressions.first & impressions.document_id.notnull())
    before = views.filter(views.delay < 0).select("display_id", "document_id")
    read = pages.select("display_id", "document_id").union(before)
    met = read.inner_join(_main(inputs, subject), "document_id")
    times = met.group_by(["display_id", "id"]).aggregate(times=met.count().cast("int64"))
    return times.group_by("display_id").aggregate(id=times.id.argmax(times.times * _MANY - times.id.cast("int64")))


GROUP = Group(
    scope="out-of-fold",
    columns=tuple(
        number(
            _name(name, subject),
            f"log of clicks over what the lift of the {name.replace('_', ' ')} lets expect, smoothed, among "
            f"users who view the same {subject} most",
        )
        for subject in SUBJECTS
        for name in _keys(subject)
    ),
    build=build,
)
