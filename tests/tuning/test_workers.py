"""Several processes share a study: no trial is lost, doubled, or failed because another worker runs it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline.schemas.encoded import Encoded
from pipeline.tuning.journal import JournalLock
from pipeline.tuning.workers import enrolled, is_alive
from tests.synthetic import write_mixed

REPOSITORY = Path(__file__).parents[2]
TRIALS = 7
PARAMS: dict[str, Any] = {
    "models": {"trees": {"kind": "lightgbm", "rounds": 8, "evaluate_every": 2}},
    "tuning": {"trials": TRIALS, "displays": 100, "seed": 3},
    "runtime": {"threads": 1, "device": "cpu", "temp_directory": "temporary"},
}
#: The stage as DVC runs it, but no tree is grown as long as there is a file `hold`.
STAGE = """
import sys, time
from pathlib import Path
import lightgbm as lgb
from pipeline.stages import command, tune
update = lgb.Booster.update
def patient_update(self, *arguments):
    while Path("hold").exists():
        time.sleep(0.01)
    return update(self, *arguments)
lgb.Booster.update = patient_update
command.run(tune.main, sys.argv[1:])
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return write_mixed(tmp_path_factory.mktemp("workers") / "encoded", displays=200)


def start(world: Encoded, folder: Path, *program: str, out: str = "tuned.yaml") -> subprocess.Popen[bytes]:
    arguments = [f"--encoded={world.folder}", "--model=trees", "--study=studies/trees.journal", f"--out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, *program, *arguments], cwd=folder, env=environment)


def workspace(folder: Path, **changes: dict[str, Any]) -> Path:
    params = {name: values | changes.get(name, {}) for name, values in PARAMS.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def trials(folder: Path) -> list[FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "studies" / "trees.journal")))
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).trials


def wait_for(folder: Path, there: Callable[[list[FrozenTrial]], bool]) -> list[FrozenTrial]:
    until, journal = time.monotonic() + 60, folder / "studies" / "trees.journal"
    while True:
        found = trials(folder) if journal.exists() and b"\n" in journal.read_bytes() else []
        if there(found):
            return found
        assert time.monotonic() < until
        time.sleep(0.01)


def running(found: list[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in found if t.state == TrialState.RUNNING and "worker" in t.user_attrs]


def assert_complete(found: list[FrozenTrial]) -> None:
    """All of the budget was tried, and nothing twice."""
    finished = [t for t in found if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == TRIALS + 1
    assert len({json.dumps(t.params) for t in finished}) == TRIALS + 1
    assert [t.user_attrs.get("defaults") for t in finished].count(True) == 1
    assert {t.state for t in found} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_two_at_once(world: Encoded, tmp_path: Path) -> None:
    workspace(tmp_path)
    (tmp_path / "hold").touch()
    both = [start(world, tmp_path, "-c", STAGE, out=out) for out in ("a.yaml", "b.yaml")]
    wait_for(tmp_path, lambda found: len(running(found)) == 2)
    (tmp_path / "hold").unlink()
    assert [process.wait(100) for process in both] == [0, 0]
    found = trials(tmp_path)
    assert_complete(found)
    assert len(found) == TRIALS + 1
    assert len({t.user_attrs["worker"] for t in found}) == 2
    assert any(a.datetime_complete > b.datetime_start for a, b in itertools.pairwise(found))  # type: ignore[operator]
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    assert [path.name for path in (tmp_path / "studies").iterdir()] == ["trees.journal"]


def test_one_of_two_is_killed(world: Encoded, tmp_path: Path) -> None:
    """The other one tries its set again, and no other set is lost."""
    workspace(tmp_path)
    (tmp_path / "hold").touch()
    first = start(world, tmp_path, "-c", STAGE)
    (of_first,) = wait_for(tmp_path, lambda found: len(running(found)) == 1)
    second = start(world, tmp_path, "-c", STAGE)
    wait_for(tmp_path, lambda found: len(running(found)) == 2)
    name = of_first.user_attrs["worker"]
    first.kill()
    assert first.wait() == -signal.SIGKILL
    (tmp_path / "hold").unlink()
    assert second.wait(100) == 0
    found = trials(tmp_path)
    assert_complete(found)
    (failed,) = [t for t in found if t.state == TrialState.FAIL]
    assert failed.user_attrs["worker"] == name
    (again,) = [t for t in found if t.params == failed.params and t is not failed]
    assert again.user_attrs["worker"] != name
    assert [path.name for path in (tmp_path / "studies").iterdir()] == ["trees.journal"]
    assert (tmp_path / "tuned.yaml").exists()


def test_workers_of_one_command(world: Encoded, tmp_path: Path) -> None:
    """It starts them, ends with them, and does without those that are killed."""
    slow = {"trees": {"kind": "lightgbm", "rounds": 400, "evaluate_every": 2, "patience": 400}}
    workspace(tmp_path, models=slow, tuning={"workers": 3}, runtime={"threads": 3})
    (tmp_path / "hold").touch()  # holds the stage alone, or it might have tried all sets before a helper has started
    stage = start(world, tmp_path, "-c", STAGE)
    wait_for(tmp_path, lambda found: len({t.user_attrs["worker"] for t in running(found)}) >= 2)
    helpers = children(stage.pid)
    assert len(helpers) == 2
    os.kill(helpers[0], signal.SIGKILL)
    (tmp_path / "hold").unlink()
    assert stage.wait(100) == 0
    assert_complete(trials(tmp_path))
    assert (tmp_path / "tuned.yaml").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in helpers)


def children(pid: int) -> list[int]:
    """Its helpers; not the process that multiprocessing keeps beside them."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return [c for c in found if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def test_a_helper_ends_when_its_starter_is_killed(world: Encoded, tmp_path: Path) -> None:
    slow = {"trees": {"kind": "lightgbm", "rounds": 400, "evaluate_every": 2, "patience": 400}}
    workspace(tmp_path, models=slow, tuning={"workers": 2, "trials": 1000})
    stage = start(world, tmp_path, "-m", "pipeline.stages.tune")
    wait_for(tmp_path, lambda found: len({t.user_attrs["worker"] for t in running(found)}) == 2)
    (helper,) = children(stage.pid)
    stage.kill()
    stage.wait()
    until = time.monotonic() + 60
    while Path(f"/proc/{helper}").exists() and b"spawn_main" in Path(f"/proc/{helper}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_who_is_alive(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    lock = JournalLock(journal)
    with enrolled(journal, lock) as one, enrolled(journal, lock) as other, lock:
        assert one != other
        assert is_alive(journal, one)
        assert is_alive(journal, other)
        assert not is_alive(journal, "nobody")
    with lock:
        assert not is_alive(journal, one)
    assert list(tmp_path.iterdir()) == [journal]


def test_a_killed_one_is_not_alive(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from pipeline.tuning.journal import JournalLock
from pipeline.tuning.workers import enrolled
journal = Path(sys.argv[1])
with enrolled(journal, JournalLock(journal)) as name:
    print(name, flush=True)
    time.sleep(100)
"""
    journal = tmp_path / "journal"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, str(journal)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        with JournalLock(journal):
            assert is_alive(journal, name)
        process.kill()
        process.wait()
    with JournalLock(journal):
        assert not is_alive(journal, name)
    assert list(tmp_path.iterdir()) == [journal]
