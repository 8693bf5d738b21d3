"""The picture of a study."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from pipeline.tuning.picture import _figure, write_picture


def study(trials: int, prune: int = 0) -> optuna.Study:
    found = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    for number in range(trials):
        trial = found.ask()
        rate, layers = (
            trial.suggest_float("rate", 0.01, 1, log=True),
            trial.suggest_categorical("layers", ["[1]", "[2]"]),
        )
        if number < trials - prune:
            found.tell(trial, 0.6 - (rate - 0.3) ** 2 + 0.001 * (layers == "[2]"))
        else:
            trial.report(0.1, 1)
            found.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return found


@pytest.mark.parametrize(("trials", "prune"), [(1, 0), (2, 1), (8, 3)])
def test_all_trials_are_drawn(trials: int, prune: int) -> None:
    found = study(trials, prune)
    history, importances, *slices = _figure(found).axes
    drawn = [tuple(point) for dots in history.collections for point in dots.get_offsets().tolist()]
    assert sorted(drawn) == [(t.number, t.value) for t in found.trials]
    complete = trials - prune
    assert history.lines[0].get_ydata()[-1] == found.best_value  # type: ignore[index]
    assert [axes.get_title() for axes in slices] == ["layers", "rate"]
    assert all(len(axes.collections[0].get_offsets()) == complete for axes in slices)  # type: ignore[arg-type]
    lengths = [bar.get_width() for bar in importances.patches]  # type: ignore[attr-defined]
    assert len(lengths) == 2
    assert sum(lengths) == pytest.approx(1 if complete >= 4 else 0)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(study(6), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_parameters_of_equal_importance_come_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna gives them in the order of a set, which no two processes share."""
    found = {"rate": 0.0, "layers": 0.0}
    monkeypatch.setattr(optuna.importance, "get_param_importances", lambda _: found)
    labels = [label.get_text() for label in _figure(study(6)).axes[1].get_yticklabels()]
    assert labels == ["layers", "rate"]


def test_nothing_searched(tmp_path: Path) -> None:
    write_picture(None, tmp_path / "none.png")
    assert (tmp_path / "none.png").read_bytes().startswith(b"\x89PNG")
