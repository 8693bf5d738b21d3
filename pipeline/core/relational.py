"""Small idioms of relational expressions that several stages share."""

from __future__ import annotations

import ibis.expr.types as ir


def look_up(table: ir.Table, lookup: ir.Table, by: dict[str, str]) -> ir.Table:
    """Add the columns of `lookup` (one row a key) to every row of `table`, null where the key is unknown; order kept.

    by: column of table -> column of lookup. The key's columns of `lookup` are not added.
    """
    keys = {name: f"_key_{i}" for i, name in enumerate(by.values())}
    renamed = lookup.rename({key: name for name, key in keys.items()})
    joined = table.left_join(renamed, [table[left] == renamed[keys[right]] for left, right in by.items()])
    return joined.drop(*keys.values())
