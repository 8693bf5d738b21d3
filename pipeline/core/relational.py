"""Small idioms of relational expressions that several stages share."""

from __future__ import annotations

from collections.abc import Sequence

import ibis.expr.types as ir

#: A table of one row a key, and by what it is found: column of the table that is described -> its own column.
LookUp = tuple[ir.Table, dict[str, str]]


def look_up(table: ir.Table, lookup: ir.Table, by: dict[str, str]) -> ir.Table:
    """Add the columns of `lookup` (one row a key) to every row of `table`, null where the key is unknown; order kept.

    by: column of table -> column of lookup. The key's columns of `lookup` are not added.
    """
    return look_up_all(table, [(lookup, by)])


def look_up_all(table: ir.Table, lookups: Sequence[LookUp]) -> ir.Table:
    """`look_up` of many look-ups, all by columns of `table` itself, as one query without nesting: dozens of nested ones
    are too deep for the compiler."""
    joined = table
    keys: list[str] = []
    for at, (lookup, by) in enumerate(lookups):
        own = {name: f"_key_{at}_{i}" for i, name in enumerate(by.values())}
        renamed = lookup.rename({key: name for name, key in own.items()})
        joined = joined.left_join(renamed, [table[left] == renamed[own[right]] for left, right in by.items()])
        keys += own.values()
    return joined.drop(*keys)
