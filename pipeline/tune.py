"""Optuna over a model's search space, on a sample of displays; a study survives a kill without losing a trial."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pipeline.core.computed import Computed
from pipeline.core.config import check
from pipeline.core.files import read_json, write_text
from pipeline.core.progress import bar, log
from pipeline.core.runtime import RuntimeConfig, temporary_folder
from pipeline.metrics import DivergedError
from pipeline.models.base import Choice, Kind, SearchSpace
from pipeline.schemas.encoded import Encoded, EncodedPart, Field, open_array
from pipeline.schemas.fitting import FitOptions

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningConfig:
    """The section `tuning` of params.yaml.

    trials: how many parameter sets are tried beside the defaults; 0 keeps the defaults.
    minutes: no trial starts after so many; None for no limit.
    displays: the sample of displays, history and target together, on which they are tried.
    """

    trials: int = 4
    minutes: float | None = None
    displays: int = 20_000
    seed: int = 1

    def __post_init__(self) -> None:
        check(self.trials >= 0, f"trials: must be 0 or more, found {self.trials}")
        check(self.minutes is None or self.minutes >= 0, f"minutes: must be 0 or more, found {self.minutes}")
        check(self.displays >= 100, f"displays: must be 100 or more, found {self.displays}")
        check(self.seed >= 0, f"seed: must be 0 or more, found {self.seed}")


def tune(
    kind: Kind, config: Any, encoded: Encoded, runtime: RuntimeConfig, tuning: TuningConfig, journal: Path, out: Path
) -> None:
    """Write the winner's parameters to the YAML file `out`; it is empty if the defaults won.

    The study lies in `journal`, under a name that changes with the data, the defaults, the search space and the sample:
    a second call goes on where the first one ended, a call on other data starts afresh. Each trial's sampler is seeded
    by the number of finished trials, so a killed and resumed study tries the same sets as an undisturbed one.
    """
    winner: dict[str, Any] = {}
    if tuning.trials and kind.search_space:
        study = _study(kind, config, encoded, tuning, journal)
        with temporary_folder(runtime) as folder:
            sampled = sample(encoded, tuning.displays, tuning.seed, folder / "sample")
            _search(study, kind, config, sampled, runtime, tuning)
        best = min((t for t in study.trials if t.state == TrialState.COMPLETE), key=lambda t: (-t.value, t.number))
        if not best.user_attrs.get("defaults"):
            winner = _decoded(kind.search_space, best.params)
        finished = len(study.get_trials(states=_FINISHED))
        log.info("tuning: of %d trials one won with MAP@12 %.5f: %s", finished, best.value, winner or "the defaults")
    write_text(out, yaml.safe_dump({k: _plain(v) for k, v in winner.items()}, sort_keys=True))


def _study(kind: Kind, config: Any, encoded: Encoded, tuning: TuningConfig, journal: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    what = [kind.name, asdict(config), repr(kind.search_space), tuning.displays, tuning.seed, encoded.digest]
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    lock = _JournalLock(journal)
    lock.repair()
    storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    study = optuna.create_study(
        storage=storage,
        study_name=f"{kind.name}-{name}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # left behind by a killed run; it is tried again
        study.tell(trial.number, state=TrialState.FAIL)
    return study


class _JournalLock:
    """A lock that the kernel gives back when its holder dies.

    Optuna's own is a link beside the journal: a run that is killed while it writes leaves it behind, and where the
    journal's path is relative the next run waits for it forever.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._file = journal, -1

    def acquire(self) -> bool:
        file = os.open(self._journal, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file = file
        return True

    def release(self) -> None:
        os.close(self._file)

    def repair(self) -> None:
        """Cut off half a line, such as a loss of power leaves: whatever was written behind it would be lost, too."""
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        self.acquire()
        try:
            whole = self._journal.read_bytes().rfind(b"\n") + 1
            os.truncate(self._file, whole)
        finally:
            self.release()


def _search(
    study: optuna.Study, kind: Kind, config: Any, encoded: Encoded, runtime: RuntimeConfig, tuning: TuningConfig
) -> None:
    distributions = {name: _distribution(space) for name, space in kind.search_space.items()}
    started = time.monotonic()
    with bar(tuning.trials + 1, "tuning", "trial") as shown:
        while (finished := len(study.get_trials(states=_FINISHED))) <= tuning.trials:
            shown.update(finished - shown.n)
            if finished and tuning.minutes is not None and time.monotonic() - started > 60 * tuning.minutes:
                log.warning("tuning: stopped after %d of %d trials, at its limit of time", finished, tuning.trials + 1)
                break
            study.sampler = optuna.samplers.TPESampler(seed=tuning.seed * 100_003 + finished, n_startup_trials=8)
            if finished == 0:  # the defaults come first, so that tuning never chooses what is worse on its own sample
                trial = study.ask()
                trial.set_user_attr("defaults", True)
                tried = config
            else:
                trial = study.ask(distributions)
                tried = replace(config, **_decoded(kind.search_space, trial.params))
            try:
                study.tell(trial, _score(kind, tried, encoded, runtime, trial))
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
            except DivergedError:
                study.tell(trial, 0.0)  # a result too: as bad as it gets


def _score(kind: Kind, config: Any, encoded: Encoded, runtime: RuntimeConfig, trial: optuna.Trial) -> float:
    """The best MAP@12 during a fit; raises TrialPruned if it falls behind the other trials."""

    def report(step: int, score: float) -> None:
        trial.report(score, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    fitted = kind.build(config).fit(encoded, FitOptions(runtime=runtime, report=report))
    return max(point["map12"] for point in fitted.curve)


def _distribution(space: Any) -> BaseDistribution:
    if isinstance(space, Choice):
        return CategoricalDistribution([json.dumps(value) for value in space.values])
    if space.whole:
        return IntDistribution(int(space.low), int(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _decoded(space: SearchSpace, params: dict[str, Any]) -> dict[str, Any]:
    """Choices travel through Optuna as JSON, since its storage holds no tuples."""
    decoded = {name: json.loads(v) if isinstance(space[name], Choice) else v for name, v in params.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in decoded.items()}


def _plain(value: Any) -> Any:
    """For YAML: five significant digits say all that a search knows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return list(value) if isinstance(value, tuple) else value


# --- a sample of displays -----------------------------------------------------------------------------------------


def sample(encoded: Encoded, displays: int, seed: int, out: Path) -> Encoded:
    """A random share of the displays of both parts as an encoded split of its own; all if there are no more."""
    parts = {part: encoded.part(part) for part in ("history", "target")}  # type: ignore[arg-type]
    total = sum(part.displays for part in parts.values())
    if total <= displays:
        return encoded
    description = read_json(encoded.folder / "fields.json")
    description |= {"fields": [asdict(field) for field in encoded.fields.values()], "digest": encoded.digest}
    random = np.random.default_rng(seed)
    for name, part in parts.items():
        count = max(1, round(part.displays * displays / total))
        chosen = np.sort(random.choice(part.displays, count, replace=False))
        stored = [field for field in encoded.fields.values() if field.name not in part.twins]
        description["parts"][name] = _copy(part, stored, chosen, out / name)
    if (encoded.folder / "edges").exists():
        shutil.copytree(encoded.folder / "edges", out / "edges")
    write_text(out / "fields.json", json.dumps(description))
    return Encoded(out)


def _copy(part: EncodedPart, fields: Iterable[Field], chosen: NDArray[np.int64], out: Path) -> dict[str, int]:
    """Copy the chosen displays of a part, array by array."""
    (out / "fields").mkdir(parents=True)
    rows = _ranges(part.offsets, chosen)
    np.save(out / "offsets.npy", _offsets(part.offsets, chosen))
    for path in sorted(part.folder.glob("*.npy")):
        if path.stem != "offsets":
            np.save(out / path.name, open_array(path)[rows if path.stem in ("ad_id", "clicked") else chosen])
    for field in fields:
        stored = chosen if field.per == "display" else rows
        if field.kind != "multi":
            np.save(out / "fields" / f"{field.name}.npy", part.field(field.name)[stored])
            continue
        offsets = part.field(field.name, "offsets")
        np.save(out / "fields" / f"{field.name}.offsets.npy", _offsets(offsets, stored))
        for kind in ("ids", "weights"):
            np.save(out / "fields" / f"{field.name}.{kind}.npy", part.field(field.name, kind)[_ranges(offsets, stored)])
    return {"rows": len(rows), "displays": len(chosen)}


def _offsets(offsets: NDArray[np.int64] | Computed, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(offsets[chosen + 1] - offsets[chosen])])


def _ranges(offsets: NDArray[np.int64] | Computed, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.asarray(offsets[chosen])
    lengths = np.asarray(offsets[chosen + 1]) - starts
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
