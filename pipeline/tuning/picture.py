"""A study as one picture: its history, how much each parameter matters, and MAP@12 along each of them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.files import atomic_path

#: Completed trials below which nothing can be said of importances.
_ENOUGH = 4
_IN_A_ROW = 3


def write_picture(study: optuna.Study | None, out: Path) -> None:
    """Write a PNG file; with the same study the same bytes. None: nothing was searched."""
    buffer = io.BytesIO()
    _figure(study).savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    with atomic_path(out) as partial:
        partial.write_bytes(buffer.getvalue())


def _figure(study: optuna.Study | None) -> Figure:
    complete = [] if study is None else study.get_trials(states=(TrialState.COMPLETE,))
    if study is None or not complete:
        figure = Figure(figsize=(4, 1))
        figure.text(0.5, 0.5, "nothing was searched", ha="center", va="center")
        return figure
    params = sorted(complete[0].params)
    rows = 1 + math.ceil(len(params) / _IN_A_ROW)
    figure = Figure(figsize=(10, 2.8 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, _IN_A_ROW)
    _history(figure.add_subplot(grid[0, :-1]), study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
    _importances(figure.add_subplot(grid[0, -1]), study, params, enough=len(complete) >= _ENOUGH)
    for i, name in enumerate(params):
        _slice(figure.add_subplot(grid[1 + i // _IN_A_ROW, i % _IN_A_ROW]), complete, name)
    return figure


def _history(axes: Axes, trials: list[FrozenTrial]) -> None:
    axes.set(title="history", xlabel="trial; the first one has the defaults, a diamond below", ylabel="MAP@12")
    for state, style in ((TrialState.PRUNED, "x"), (TrialState.COMPLETE, "o")):
        found = [(i, t.value) for i, t in enumerate(trials) if t.state == state and t.value is not None]
        if found:
            axes.scatter(*zip(*found, strict=True), marker=style, label=state.name.lower())
    values = [t.value if t.state == TrialState.COMPLETE else -math.inf for t in trials]
    axes.plot(np.maximum.accumulate(np.array(values, dtype=float)), drawstyle="steps-post", label="the best so far")
    axes.legend(frameon=False)


def _importances(axes: Axes, study: optuna.Study, params: list[str], *, enough: bool) -> None:
    axes.set(title="importances (PED-ANOVA)")
    found = optuna.importance.get_param_importances(study) if enough else dict.fromkeys(params, 0.0)
    found = dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))  # of equals, Optuna's order is any
    axes.barh(list(found), list(found.values()))
    axes.invert_yaxis()


def _slice(axes: Axes, trials: list[FrozenTrial], name: str) -> None:
    distribution = trials[0].distributions[name]
    values, scores = [t.params[name] for t in trials], [t.value for t in trials]
    if isinstance(distribution, CategoricalDistribution):
        labels = [str(choice) for choice in distribution.choices]
        axes.set_xticks(range(len(labels)), labels)
        values = [labels.index(str(value)) for value in values]
    elif getattr(distribution, "log", False):
        axes.set_xscale("log")
        axes.set_xlim(0.9 * distribution.low, 1.1 * distribution.high)  # type: ignore[attr-defined]
    axes.scatter(values, scores)
    axes.scatter(values[:1], scores[:1], marker="D")
    axes.set(title=name, ylabel="MAP@12")
