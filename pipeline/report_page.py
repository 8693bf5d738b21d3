"""The report as pictures and as one HTML page without any dependency on the network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.core.files import atomic_path, write_text
from pipeline.report import OURS, Report, places, verdict, without_leaks

_SLICES = ("weighted", "present", "future", "cold_ad", "cold_user", "cold_page")
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Outbrain Click Prediction: report</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
tr.blend td { font-weight: 600; background: #eef4fb }
img { max-width: 100%; height: auto }
.warning { border-left: 4px solid #d97706; padding-left: .8rem }
</style>
</head>
<body>
<h1>Outbrain Click Prediction</h1>
<p>Source: {{ report.source }}. Submission: <code>{{ report.submission }}</code>. {{ verdict }} {{ without_leaks }}</p>
{% for text in report.warnings %}
<p class="warning">{{ text }}</p>
{% endfor %}
<h2>Scores</h2>
<table>
<tr><th>MAP@12</th><th>validation</th>{% if has_test %}<th>test, hidden labels</th>{% endif %}</tr>
{% for score in report.scores %}
<tr class="{{ score.name }}"><td>{{ score.name }}</td><td>{{ number(score.validation) }}</td>
{% if has_test %}<td>{{ number(score.test) }}</td>{% endif %}</tr>
{% endfor %}
</table>
<p>Validation weighs present and future displays as the leaderboard does. The blend's is cross-validated.</p>
{% if places %}
<h2>Where it stands</h2>
<table>
<tr><th>on the real private leaderboard</th><th>MAP@12</th></tr>
{% for score, what in places %}
<tr{% if what == ours %} class="blend"{% endif %}><td>{{ what }}</td><td>{{ number(score) }}</td></tr>
{% endfor %}
</table>
{% endif %}
<h2>Where the scores come from</h2>
<img alt="MAP@12 by slice and model" src="data:image/png;base64,{{ slices }}">
<table>
<tr><th>model</th><th>slice</th><th>displays</th><th>MAP@12</th><th>AUC</th><th>log loss</th></tr>
{% for row in report.slices %}
<tr class="{{ row.model }}"><td>{{ row.model }}</td><td>{{ row.slice }}</td><td>{{ row.displays }}</td>
<td>{{ number(row.map12) }}</td><td>{{ number(row.auc) }}</td><td>{{ number(row.logloss) }}</td></tr>
{% endfor %}
</table>
<h2>The blend</h2>
<p>The members are combined by: {{ report.blend.way }}. Ways differ in MAP@12 by little more than luck, so each is
judged by two witnesses: its MAP@12, and the MAP@12 that its likelihood (the smaller the loss, the likelier) promises,
at as much a nat as tells the means apart; the fewer the displays, the more the second counts. Of stackers (linear,
trees), which read leaks and cold starts, too, it is not heard: what those tell of the members' mistakes on validation
need not hold of their refits, so a stacker must be ahead in MAP@12 by more than luck. The blend's own score is from
nested cross-validation: neither the combination nor the choice between them has seen a display that it scores.
It chose, fold by fold: {{ report.blend.chosen_by_fold | join(", ") }}. What is lost without a member is that of the
same way without it; if no such way is left, that of the best other one.</p>
<table>
<tr><th>member</th>{% for heading in report.blend.columns %}<th>{{ heading }}</th>{% endfor %}
<th>MAP@12 lost without it</th>
{% for name in report.blend.members %}<th>correlation with {{ name }}</th>{% endfor %}</tr>
{% for name in report.blend.members %}
{% set i = loop.index0 %}
<tr><td>{{ name }}</td>
{% for column in report.blend.columns.values() %}<td>{{ "%.3f" | format(column[i]) }}</td>{% endfor %}
<td>{{ number(report.blend.lost_without.get(name)) }}</td>
{% for value in report.blend.correlations[i] %}<td>{{ "%.3f" | format(value) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% if report.blend.context %}
<p>What it reads beside the members:</p>
<table>
<tr><th>column</th>{% for heading in report.blend.context %}<th>{{ heading }}</th>{% endfor %}</tr>
{% for name in (report.blend.context.values() | first) %}
<tr><td>{{ name }}</td>
{% for column in report.blend.context.values() %}<td>{{ "%.3f" | format(column[name]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
<table>
<tr><th>way to combine</th><th>MAP@12, cross-validated</th><th>loss: -log of the click's chance</th></tr>
{% for way, value in report.blend.validated_map12.items() %}
<tr><td>{{ way }}</td><td>{{ number(value) }}</td><td>{{ number(report.blend.validated_loss[way]) }}</td></tr>
{% endfor %}
</table>
</body>
</html>
""")


def write_page(report: Report, page: Path, picture: Path) -> None:
    """Write the HTML page and, beside `dvc plots`, the picture that it shows as a PNG file."""
    png = _png(slices_figure(report.slices))
    with atomic_path(picture) as partial:
        partial.write_bytes(png)
    text = _PAGE.render(
        report=report,
        verdict=verdict(report),
        without_leaks=without_leaks(report),
        places=places(report),
        ours=OURS,
        has_test=any(score.test is not None for score in report.scores),
        number=lambda value: "–" if value is None else f"{value:.4f}",
        slices=base64.b64encode(png).decode(),
    )
    write_text(page, text)


def slices_figure(slices: list[dict[str, Any]]) -> Figure:
    """MAP@12 of each model, one line of dots a slice."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    models = list(dict.fromkeys(row["model"] for row in slices))
    names = [name for name in _SLICES if any(row["slice"] == name for row in slices)]
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for i, model in enumerate(models):
        found = {row["slice"]: row["map12"] for row in slices if row["model"] == model}
        height = [names.index(name) + 0.12 * (i - (len(models) - 1) / 2) for name in found]
        marker = "D" if model == "blend" else "o"
        axes.scatter(
            list(found.values()), height, label=model, color=colours[i % len(colours)], marker=marker, zorder=3
        )
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("validation MAP@12")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
