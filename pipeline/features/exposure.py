"""What the user saw, clicked and skipped in other displays, and will see again: the same ad, campaign, topic, ...

Most users come once (88 % in the competition). So the displays of those who come again are put aside once, and each
range of displays meets no more than the other displays of its own users.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from pipeline.core.relational import look_up
from pipeline.features.base import Group, Inputs
from pipeline.features.smoothing import AD_KEYS
from pipeline.features.subjects import SUBJECTS, bags, strongest
from pipeline.schemas.features import Scope, bag, number

#: The names of what two ads may have in common -> the column by which it is told.
KEYS = AD_KEYS | {"publisher": "publisher_id", "source": "source_id"} | {subject: subject for subject in SUBJECTS}
_MEASURES: dict[str, tuple[Scope, str]] = {
    "saw": ("time-causal", "log(1 + earlier displays that showed the user an ad of this {})"),
    "clicked": ("past-clicks", "log(1 + earlier displays in which the user clicked an ad of this {})"),
    "skipped": (
        "past-clicks",
        "log(1 + earlier displays that showed an ad of this {} and the user clicked none of it)",
    ),
    "since": ("time-causal", "log seconds since the user last saw an ad of this {}"),
    "again": ("future", "log(1 + later displays that show the user an ad of this {})"),
}
_COUNTS = tuple(measure for measure in _MEASURES if measure != "since")
#: Of what it is told how long ago it was seen; for the others that says little beside these.
_TIMED = ("ad", "ad_document", "campaign")


def build(inputs: Inputs) -> ir.Table:
    returning = inputs.once(_returning(inputs))
    own = returning.semi_join(inputs.impressions.filter(inputs.impressions.first), "display_id").drop("clicked")
    others = returning.semi_join(own, "user_id")
    others = others.rename({f"{name}_there": name for name in others.columns if name not in ("row", "user_id")})
    pairs = own.inner_join(others.drop("row"), "user_id")
    pairs = pairs.filter(pairs.timestamp != pairs.timestamp_there)
    table = look_up(inputs.impressions, _exposure(_by_display(pairs)), {"row": "row"})
    table = look_up(table, _clicked_documents(pairs), {"display_id": "display_id"})
    counts = {f"{measure}_{key}": table[f"{measure}_{key}"] for key in KEYS for measure in _COUNTS}
    return table.mutate(**{name: (count.fill_null(0) + 1).ln() for name, count in counts.items()})


def _returning(inputs: Inputs) -> ir.Table:
    """The impressions of all users with several displays, in either part, with the KEYS of their ads."""
    needed = ["row", "display_id", "first", "user_id", "timestamp", "clicked", *AD_KEYS.values()]
    both = ibis.union(inputs.history.select(needed), inputs.target.select(needed))
    displays = both.filter(both.first & both.user_id.notnull())
    users = displays.group_by("user_id").aggregate(displays=displays.count())
    table = both.semi_join(users.filter(users.displays > 1), "user_id")
    meta = inputs.table("documents_meta").select("document_id", "source_id", "publisher_id")
    table = look_up(table, meta, {"ad_document_id": "document_id"})
    for subject in SUBJECTS:
        table = look_up(table, inputs.once(strongest(inputs, subject)), {"ad_document_id": "document_id"})
    return table.drop("first")


def _by_display(pairs: ir.Table) -> ir.Table:
    """For each row and each other display of its user: whether a KEY's ad was shown there (1 or 0), and whether it was
    clicked; before: how many ms before the row's display, negative if after; labelled: whether the click is known."""
    same = {key: (pairs[column] == pairs[f"{column}_there"]).fill_null(False) for key, column in KEYS.items()}
    clicked = (pairs.clicked_there == 1).fill_null(False)
    return pairs.group_by(["row", "display_id_there"]).aggregate(
        before=(pairs.timestamp - pairs.timestamp_there).max(),
        labelled=pairs.clicked_there.notnull().cast("int32").max(),
        **{f"shown_{key}": same[key].cast("int32").max() for key in KEYS},
        **{f"clicked_{key}": (same[key] & clicked).cast("int32").max() for key in KEYS},
    )


def _exposure(pairs: ir.Table) -> ir.Table:
    """row -> the measures of all KEYS: counts as int64, `since` in log seconds."""
    earlier = pairs.before > 0
    features: dict[str, ir.Value] = {}
    for key in KEYS:
        shown, clicked = pairs[f"shown_{key}"], pairs[f"clicked_{key}"]
        features[f"saw_{key}"] = shown.sum(where=earlier)
        features[f"clicked_{key}"] = clicked.sum(where=earlier)
        features[f"skipped_{key}"] = (shown * pairs.labelled - clicked).sum(where=earlier)
        features[f"again_{key}"] = shown.sum(where=~earlier)
        if key in _TIMED:
            since = pairs.before.min(where=earlier & (shown == 1))
            features[f"since_{key}"] = (since.cast("float64") / 1000 + 1).ln()
    return pairs.group_by("row").aggregate(**features)


def _clicked_documents(pairs: ir.Table) -> ir.Table:
    """display_id -> clicked_documents: the promoted documents that the user clicked before, with how often."""
    clicked = pairs.filter((pairs.clicked_there == 1) & (pairs.timestamp_there < pairs.timestamp))
    clicked = clicked.filter(clicked.ad_document_id_there.notnull())
    clicked = clicked.select("display_id", "display_id_there", id="ad_document_id_there").distinct()
    counts = clicked.group_by(["display_id", "id"]).aggregate(weight=clicked.count().cast("float32"))
    return bags(counts, "display_id", "clicked_documents")


GROUP = Group(
    scope="past-clicks",
    columns=(
        *(
            number(f"{measure}_{key}", meaning.format(key), scope)
            for key in KEYS
            for measure, (scope, meaning) in _MEASURES.items()
            if measure in _COUNTS or key in _TIMED
        ),
        bag("clicked_documents", "promoted documents that the user clicked in earlier displays", per="display"),
    ),
    build=build,
)
