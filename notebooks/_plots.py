"""What the notebooks share beside their queries: where the tables lie, the pictures' look, small tables and text."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from pipeline.schemas.tables import TABLES

#: The colours of all pictures: the data, its contrast, a third part, and what only serves as a reference.
BLUE, ORANGE, GREEN, GREY = "#2f6690", "#e07a1f", "#6a994e", "#9a9a9a"

_STYLE = {
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def use_style() -> None:
    plt.rcParams.update(_STYLE)


def find(variable: str, default: str) -> Path:
    """The path that an environment variable names, or else `default`; FileNotFoundError says how to make it."""
    path = Path(os.environ.get(variable, default)).resolve()
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; `make repro` makes it, or set {variable} to where it lies")
    return path


def connect(tables: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with a view of each table; it spills to disk beyond OUTBRAIN_MEMORY (4GB)."""
    db = duckdb.connect()
    db.execute(f"SET memory_limit = '{os.environ.get('OUTBRAIN_MEMORY', '4GB')}'")
    db.execute(f"SET temp_directory = '{Path(tempfile.gettempdir()) / 'outbrain-notebook'}'")
    db.execute("SET preserve_insertion_order = false")
    for name in TABLES:
        db.execute(f"CREATE VIEW {name} AS FROM read_parquet('{tables / name}.parquet')")
    return db


def say(text: str) -> None:
    """Show a paragraph with numbers in it."""
    display(Markdown(text))


def show(rows: Iterable[Sequence[str]], columns: Sequence[str] = ("", "here", "competition")) -> None:
    """Show a small table of texts; all columns but the first are aligned to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    display(Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines)))


def count(number: float) -> str:
    return f"{number:,.0f}"


def label_bars(axes: Axes, form: str = "{:.0%}") -> None:
    """Write its value on top of each bar."""
    for container in axes.containers:
        axes.bar_label(container, fmt=form.format, padding=2, fontsize=8.5)
    axes.margins(y=0.12)


#: key -> colour of its lines in the picture of the joins
_KEYS = {"display_id": BLUE, "ad_id": ORANGE, "document_id": GREEN, "user_id": "#8f5da8"}
#: (title, columns, left, top) of each box
_BOXES = (
    ("page_views", ("user_id", "document_id", "timestamp, platform", "geo_location", "traffic_source"), 0.0, 9.6),
    ("events", ("user_id", "display_id", "document_id", "timestamp, platform", "geo_location"), 3.6, 9.6),
    ("clicks_train, clicks_test", ("display_id", "ad_id", "clicked (train)"), 7.2, 9.6),
    ("promoted_content", ("ad_id", "document_id", "campaign_id", "advertiser_id"), 10.8, 9.6),
    ("documents_meta", ("document_id", "source_id", "publisher_id", "publish_time"), 0.0, 3.1),
    ("documents_categories", ("document_id", "category_id", "confidence_level"), 3.6, 3.1),
    ("documents_topics", ("document_id", "topic_id", "confidence_level"), 7.2, 3.1),
    ("documents_entities", ("document_id", "entity_id", "confidence_level"), 10.8, 3.1),
)
_WIDTH, _LINE = 2.9, 0.62


def draw_joins() -> None:
    """The nine tables as boxes, their shared keys as lines."""
    _, axes = plt.subplots(figsize=(10, 5.2))
    at: dict[tuple[str, str], tuple[float, float]] = {}
    for title, columns, left, top in _BOXES:
        at |= _draw_box(axes, title, columns, left, top)
    for key, left, right in (
        ("user_id", "page_views", "events"),
        ("display_id", "events", "clicks_train, clicks_test"),
        ("ad_id", "clicks_train, clicks_test", "promoted_content"),
    ):
        (x0, y0), (x1, y1) = at[left, key], at[right, key]
        axes.plot([x0 + _WIDTH, x1], [y0, y1], color=_KEYS[key], marker="o", markersize=4)
    _draw_documents(axes, at)
    axes.set(xlim=(-0.4, 14.1), ylim=(-0.3, 9.8))
    axes.axis("off")
    axes.set_title("A display joins a user on a page to the ads that were offered; pages and ads are both documents")
    plt.show()


def _draw_box(
    axes: Axes, title: str, columns: Sequence[str], left: float, top: float
) -> dict[tuple[str, str], tuple[float, float]]:
    """Draw a table; give the left end of each column's line."""
    height = _LINE * (len(columns) + 1) + 0.15
    box = FancyBboxPatch((left, top - height), _WIDTH, height, boxstyle="round,pad=0.05", fc="#f7f7f7", ec="#bbbbbb")
    axes.add_patch(box)
    axes.text(left + 0.12, top - 0.45, title, weight="bold", va="center", fontsize=9)
    places = {}
    for i, column in enumerate(columns, 1):
        y = top - 0.45 - i * _LINE
        colour = _KEYS.get(column, "#444444")
        axes.text(left + 0.12, y, column, va="center", fontsize=9, color=colour)
        places[title, column] = (left - 0.02, y)
    return places


def _draw_documents(axes: Axes, at: dict[tuple[str, str], tuple[float, float]]) -> None:
    """All tables that name a document meet on one horizontal line."""
    rail, colour = 4.3, _KEYS["document_id"]
    named = [place for (_, column), place in at.items() if column == "document_id"]
    for x, y in named:
        axes.plot([x, x - 0.25, x - 0.25], [y, y, rail], color=colour, linewidth=1.3)
        axes.plot([x], [y], color=colour, marker="o", markersize=4)
    axes.plot([min(x for x, _ in named) - 0.25, max(x for x, _ in named) - 0.25], [rail, rail], color=colour)
    axes.text(5.2, rail + 0.15, "document_id", color=colour, fontsize=9)
