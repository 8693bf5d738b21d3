"""What every kind of model must do, whatever it computes; a new module of pipeline/models is tested from day one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.core.config import parse
from pipeline.core.errors import ParameterError
from pipeline.core.runtime import RuntimeConfig
from pipeline.factorization.training import FactorizationConfig
from pipeline.metrics import map12
from pipeline.models.base import Choice, Kind, load_kind, model_config
from pipeline.nn.training import TrainingConfig
from pipeline.schemas import encoded as schemas
from pipeline.schemas.encoded import Encoded, EncodedPart, drawn
from pipeline.schemas.fitting import FitOptions, Fitted
from pipeline.schemas.predictions import labels_of
from tests.discovery import model_kinds
from tests.synthetic import MIXED, Displays, mixed, numeric, write_encoded

KINDS = model_kinds()

#: What makes a kind learn a hundred displays by heart; one that is not named here must manage with its defaults.
OVERFITTING: dict[str, dict[str, Any]] = {
    "lr": {"epochs": 20, "patience": 20},
    "fm": {"epochs": 20, "patience": 20},
    "ffm": {"epochs": 20, "patience": 20},
    **{
        kind: {
            "embedding_learning_rate": 0.05,
            "learning_rate": 0.01,
            "epochs": 20,
            "batch_displays": 16,
            "patience": 20,
            "hidden": (16,),
        }
        for kind in ("deepfm", "wide_deep", "normdnn", "dcnv2", "deeplight")
    },
    "lightgbm": {"rounds": 60, "min_data_in_leaf": 2, "num_leaves": 31, "learning_rate": 0.2},
}

#: Kinds that read the scores of the feature group of their name, and such scores.
SCORING = ("mf", "vae_cf", "dkt")
FIELDS = [*MIXED, *(replace(numeric(f"{group}_score"), group=group) for group in SCORING)]

Floats = NDArray[np.float32]


def scored(displays: Displays) -> Displays:
    """With a score for each kind that reads some: higher where the click is, sometimes unknown."""
    random, columns = np.random.default_rng(0), dict(displays.columns)
    for group in SCORING:
        values = random.normal(displays.clicked, 0.5).astype(np.float32)
        columns[f"{group}_score"] = np.where(random.random(displays.rows) < 0.1, np.float32(np.nan), values)
    return replace(displays, columns=columns)


def with_parameters(*names: str) -> pytest.MarkDecorator:
    """Only for the kinds that have all of these parameters."""
    having = [kind for kind in KINDS if {*names} <= {f.name for f in dataclasses.fields(load_kind(kind).config)}]
    assert having
    return pytest.mark.parametrize("kind", having, indirect=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return load_kind(request.param)


@pytest.fixture(scope="module")
def history() -> Displays:
    return scored(mixed(np.random.default_rng(1), 120))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, history: Displays) -> Encoded:
    """120 displays of history whose click is the ad of the highest code; the target is half of them."""
    folder = tmp_path_factory.mktemp("contract") / "encoded"
    return write_encoded(folder, FIELDS, history, history.take(range(60)))


@pytest.fixture
def single(runtime: RuntimeConfig) -> RuntimeConfig:
    """One thread is faster on so little."""
    return replace(runtime, threads=1)


def overfitting(kind: Kind, **values: Any) -> Any:
    return kind.config(**OVERFITTING.get(kind.name, {}) | values)


def short(kind: Kind, **values: Any) -> Any:
    """A config that fits in a moment."""
    names = {f.name for f in dataclasses.fields(kind.config)}
    brief = {"epochs": 2, "batch_displays": 32, "rounds": 6, "evaluate_every": 2, "min_data_in_leaf": 3, "hidden": (8,)}
    fast = {"learning_rate": 0.05, "embedding_learning_rate": 0.05}
    return kind.config(**{k: v for k, v in (brief | fast).items() if k in names} | values)


def score(kind: Kind, config: Any, encoded: Encoded, options: FitOptions, part: EncodedPart | None = None) -> Floats:
    model = kind.build(config)
    model.fit(encoded, options)
    return model.predict(part or encoded.part("target"))


def test_the_known_kinds_are_found() -> None:
    assert {"ad_ctr", "lr", "fm", "ffm", "deepfm", "lightgbm"} <= set(KINDS)


def test_learns_a_small_set(kind: Kind, world: Encoded, single: RuntimeConfig) -> None:
    model = kind.build(overfitting(kind))
    model.fit(world, FitOptions(runtime=single))
    labels = labels_of(world.part("target"))
    chance = np.mean([map12(np.random.default_rng(i).normal(size=len(labels.ad_id)), labels) for i in range(20)])
    assert map12(model.predict(world.part("target")), labels) > chance + 0.75 * (1 - chance)


@pytest.mark.parametrize("name", SCORING)
def test_scores_of_the_own_group_are_read(
    name: str, world: Encoded, history: Displays, single: RuntimeConfig, tmp_path: Path
) -> None:
    """An ad that has a higher score is likelier; of the other groups' scores none matters."""
    model = load_kind(name).build(load_kind(name).config())
    model.fit(world, FitOptions(runtime=single))
    before = model.predict(world.part("history"))
    for group in SCORING:
        column = f"{group}_score"
        raised = np.nan_to_num(history.columns[column])
        raised[history.offsets[:-1]] += 2
        other = replace(history, columns={**history.columns, column: raised})
        encoded = write_encoded(tmp_path / group, FIELDS, history, other)
        found = model.predict(encoded.part("target"))
        several = history.offsets[:-1][history.lengths > 1]
        if group == name:
            assert (found[several] > before[several]).all()
        else:
            np.testing.assert_array_equal(found, before)


def test_saved_and_loaded_it_predicts_the_same(
    kind: Kind, encoded: dict[str, Encoded], single: RuntimeConfig, tmp_path: Path
) -> None:
    config, target = short(kind), encoded["validation"].part("target")
    model = kind.build(config)
    fitted = model.fit(encoded["validation"], FitOptions(runtime=single))
    predicted = model.predict(target)
    model.save(tmp_path)
    loaded = kind.build(config)
    loaded.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(target), predicted)
    np.testing.assert_array_equal(loaded.predict(target), predicted)
    assert predicted.dtype == np.float32
    assert predicted.shape == (target.rows,)
    assert np.isfinite(predicted).all()
    assert np.std(predicted) > 0.01
    assert_curve(kind, fitted, config)


def assert_curve(kind: Kind, fitted: Fitted, config: Any) -> None:
    """An early stopped fit reports what it measured, and its length is the step of the best measurement."""
    assert fitted.length > 0
    if not kind.search_space:
        return
    assert fitted.curve
    steps = [point["step"] for point in fitted.curve]
    assert steps == sorted(set(steps))
    assert fitted.length == max(fitted.curve, key=lambda point: point["map12"] - point["target_loss"])["step"]
    assert steps[-1] <= getattr(config, "epochs", getattr(config, "rounds", 1))


def test_the_seed_decides(kind: Kind, world: Encoded, runtime: RuntimeConfig) -> None:
    options = FitOptions(runtime=runtime)
    first = score(kind, short(kind), world, options)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    np.testing.assert_array_equal(score(kind, short(kind), world, options), first)
    if "seed" in {f.name for f in dataclasses.fields(kind.config)}:
        for other in (2, 1 << 70):
            assert not np.array_equal(score(kind, short(kind, seed=other), world, options), first)


def test_predictions_are_logits_of_the_click(kind: Kind, encoded: dict[str, Encoded], single: RuntimeConfig) -> None:
    """As many clicks are predicted as there are."""
    world = encoded["validation"]
    predicted = score(kind, short(kind), world, FitOptions(runtime=single)).astype(float)
    clicked = np.asarray(world.part("target").array("clicked"))
    assert (1 / (1 + np.exp(-predicted))).mean() == pytest.approx(clicked.mean(), rel=0.15)


def test_row_order_is_kept(
    kind: Kind, world: Encoded, history: Displays, single: RuntimeConfig, tmp_path: Path
) -> None:
    """Displays in another order have the same scores in that order, and do not depend on their neighbours."""
    model = kind.build(short(kind))
    model.fit(world, FitOptions(runtime=single))
    straight = model.predict(world.part("history"))
    order = np.random.default_rng(2).permutation(len(history.lengths))[:90]
    other = write_encoded(tmp_path / "encoded", FIELDS, history, history.take(order).unlabelled())
    rows = np.concatenate([np.arange(history.offsets[d], history.offsets[d + 1]) for d in order])
    np.testing.assert_allclose(model.predict(other.part("target")), straight[rows], rtol=1e-4, atol=1e-5)


def test_a_fit_of_given_length_does_not_read_the_target(
    kind: Kind, world: Encoded, single: RuntimeConfig, tmp_path: Path
) -> None:
    shutil.copytree(world.folder, tmp_path / "encoded")
    shutil.rmtree(tmp_path / "encoded" / "target")
    blind, options = Encoded(tmp_path / "encoded"), FitOptions(runtime=single, length=1.5)
    history = world.part("history")
    expected = score(kind, short(kind), world, options, history)
    np.testing.assert_array_equal(score(kind, short(kind), blind, options, history), expected)


def test_a_fit_of_the_same_length_is_the_same_model(kind: Kind, world: Encoded, single: RuntimeConfig) -> None:
    """What early stopping kept is what training for that length gives: measuring has no side effect."""
    model = kind.build(short(kind))
    fitted = model.fit(world, FitOptions(runtime=single))
    again = kind.build(short(kind))
    refitted = again.fit(world, FitOptions(runtime=single, length=fitted.length))
    assert refitted.length == fitted.length
    target = world.part("target")
    np.testing.assert_allclose(again.predict(target), model.predict(target), rtol=1e-5, atol=1e-6)


@with_parameters("patience")
def test_length_matters(kind: Kind, world: Encoded, single: RuntimeConfig) -> None:
    scores = [score(kind, short(kind), world, FitOptions(runtime=single, length=length)) for length in (1.0, 3.0)]
    assert not np.array_equal(*scores)


@with_parameters("epochs", "displays")
@pytest.mark.parametrize(("displays", "epochs"), [(1, 1.0), (1.5, 1.5), (1000, 3.0)])
def test_a_network_learns_from_so_many_displays_at_most(
    kind: Kind, world: Encoded, single: RuntimeConfig, displays: float, epochs: float
) -> None:
    most = round(displays * world.part("history").displays) if displays > 1 else 1
    config = replace(short(kind), epochs=3, displays=most, evaluations=4, patience=100)
    fitted = kind.build(config).fit(world, FitOptions(runtime=single))
    assert fitted.curve[-1]["step"] == pytest.approx(epochs, abs=0.1)


def test_unseen_values(kind: Kind, world: Encoded, history: Displays, single: RuntimeConfig, tmp_path: Path) -> None:
    """Codes that history never had, numbers far away and unknown ones, ads beyond the highest id."""
    target = scored(mixed(np.random.default_rng(9), 50, unseen=True))
    assert target.ad_id is not None
    target = replace(target, ad_id=target.ad_id + np.uint32(1_000_000))
    encoded = write_encoded(tmp_path / "encoded", FIELDS, history, target)
    found = score(kind, short(kind), encoded, FitOptions(runtime=single, length=2.0))
    assert found.shape == (target.rows,)
    assert np.isfinite(found).all()
    unlabelled = write_encoded(tmp_path / "unlabelled", FIELDS, history, target.unlabelled())
    np.testing.assert_array_equal(score(kind, short(kind), unlabelled, FitOptions(runtime=single, length=2.0)), found)


def test_displays_of_one_ad(kind: Kind, history: Displays, single: RuntimeConfig, tmp_path: Path) -> None:
    """Among others in history; as all of the target, and as a target of one row."""
    assert (history.lengths == 1).any()
    alone = history.take(np.flatnonzero(history.lengths == 1))
    encoded = write_encoded(tmp_path / "alone", FIELDS, history, alone)
    found = score(kind, short(kind), encoded, FitOptions(runtime=single))
    assert np.isfinite(found).all()
    assert map12(found, labels_of(encoded.part("target"))) == 1
    one = write_encoded(tmp_path / "one", FIELDS, history, alone.take([0]))
    assert score(kind, short(kind), one, FitOptions(runtime=single)).shape == (1,)


def test_files_are_not_changed(kind: Kind, world: Encoded, single: RuntimeConfig) -> None:
    def digest() -> dict[str, str]:
        files = [p for p in sorted(world.folder.rglob("*")) if p.is_file()]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    before = digest()
    score(kind, short(kind), world, FitOptions(runtime=single))
    assert digest() == before


def test_reports_every_measurement(kind: Kind, world: Encoded, single: RuntimeConfig) -> None:
    """A report that raises ends the fit."""
    if not kind.search_space:
        pytest.skip("measures nothing")
    seen: list[tuple[int, float]] = []
    fitted = kind.build(short(kind)).fit(world, FitOptions(runtime=single, report=lambda *said: seen.append(said)))
    assert seen == [(i + 1, point["map12"]) for i, point in enumerate(fitted.curve)]

    class EnoughError(Exception):
        pass

    def enough(step: int, score: float) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        kind.build(short(kind)).fit(world, FitOptions(runtime=single, report=enough))


@with_parameters("patience")
def test_a_large_target_is_measured_by_some_of_it(
    kind: Kind, world: Encoded, single: RuntimeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best moment is chosen by displays from all over the target, and by no others."""
    monkeypatch.setattr(schemas, "MEASURED_DISPLAYS", 30)
    monkeypatch.setattr(schemas, "_DRAWN_TOGETHER", 8)
    model, target = kind.build(short(kind)), world.part("target")
    fitted = model.fit(world, FitOptions(runtime=single))
    some = drawn(slice(0, target.displays), 30)
    rows = np.concatenate([np.arange(piece.start, piece.stop) for piece in target.rows_of(some)])
    assert 0 < len(rows) < target.rows
    best = max(fitted.curve, key=lambda point: point["map12"] - point["target_loss"])
    assert map12(model.predict(target)[rows], labels_of(target, some)) == pytest.approx(best["map12"], abs=1e-9)


@with_parameters("fields", "groups")
@pytest.mark.parametrize("name", ["fields", "groups"])
def test_unknown_fields_and_groups(kind: Kind, world: Encoded, single: RuntimeConfig, name: str) -> None:
    with pytest.raises(ParameterError, match="adx"):
        kind.build(short(kind, **{name: ("adx",)})).fit(world, FitOptions(runtime=single))


@with_parameters("fields")
def test_reads_only_its_fields(
    kind: Kind, world: Encoded, history: Displays, single: RuntimeConfig, tmp_path: Path
) -> None:
    fields = ("page", "rate", "ad")
    shutil.copytree(world.folder, tmp_path / "encoded")
    for path in tmp_path.glob("encoded/*/fields/*.npy"):
        if path.stem not in fields:
            path.unlink()
    config, options = short(kind, fields=fields), FitOptions(runtime=single)
    expected = score(kind, config, world, options)
    np.testing.assert_array_equal(score(kind, config, Encoded(tmp_path / "encoded"), options), expected)


@with_parameters("fields")
@pytest.mark.parametrize("fields", [("age", "rate"), ("ad",), ("topic",)])
def test_fields_of_one_kind(kind: Kind, world: Encoded, single: RuntimeConfig, fields: tuple[str, ...]) -> None:
    if fields == ("topic",) and not issubclass(kind.config, (TrainingConfig, FactorizationConfig)):
        with pytest.raises(ParameterError, match="topic"):
            score(kind, short(kind, fields=fields), world, FitOptions(runtime=single))
        return
    assert np.isfinite(score(kind, short(kind, fields=fields), world, FitOptions(runtime=single))).all()


@pytest.mark.parametrize("name", ["lr", "fm", "ffm"])
def test_numbers_that_are_named_are_read_as_they_are(
    name: str, history: Displays, single: RuntimeConfig, tmp_path: Path
) -> None:
    """Others by their bucketised twins, which here know nothing."""
    twin = replace(MIXED[1], name="rate_bucket", twin="rate")
    columns = {**history.columns, "rate": history.columns["ad"].astype(np.float32), "rate_bucket": 0 * history.ad_id}
    displays = replace(history, columns=columns)
    encoded = write_encoded(tmp_path / "encoded", [*FIELDS, twin], displays, displays)
    kind, labels = load_kind(name), labels_of(encoded.part("target"))
    found = {
        fields: map12(score(kind, overfitting(kind, fields=fields), encoded, FitOptions(runtime=single)), labels)
        for fields in (("rate", "page"), ("rate_bucket", "page"))
    }
    assert found["rate", "page"] > 0.95
    assert found["rate_bucket", "page"] < 0.7


@pytest.mark.parametrize(("rounds", "measured"), [(1, [1]), (4, [1, 3, 4]), (6, [1, 3, 6])])
def test_the_first_and_the_last_tree_are_measured(
    world: Encoded, single: RuntimeConfig, rounds: int, measured: list[int]
) -> None:
    kind = load_kind("lightgbm")
    fitted = kind.build(short(kind, rounds=rounds, evaluate_every=3)).fit(world, FitOptions(runtime=single))
    assert [point["step"] for point in fitted.curve] == measured


def test_trees_need_a_field(world: Encoded, single: RuntimeConfig, tmp_path: Path) -> None:
    """A group may hold none: here all have several values."""
    shutil.copytree(world.folder, tmp_path / "encoded")
    description = json.loads((tmp_path / "encoded" / "fields.json").read_text())
    for f in description["fields"]:
        f["group"] = "bags" if f["kind"] == "multi" else "others"
    (tmp_path / "encoded" / "fields.json").write_text(json.dumps(description))
    kind = load_kind("lightgbm")
    with pytest.raises(ParameterError, match=r"groups \['bags'\]: hold no field that trees read"):
        kind.build(short(kind, groups=("bags",))).fit(Encoded(tmp_path / "encoded"), FitOptions(runtime=single))


# --- parameters ---------------------------------------------------------------------------------------------------


def values_of(space: Any) -> list[Any]:
    """All choices, or both ends and some between."""
    if isinstance(space, Choice):
        return list(space.values)
    low, high = float(space.low), float(space.high)
    assert low < high
    between = np.geomspace(low, high, 7) if space.log else np.linspace(low, high, 7)
    found = [low, *between[1:-1].tolist(), high]
    return sorted({round(value) for value in found}) if space.whole else found


def as_yaml(value: Any) -> Any:
    """As it stands after tuning wrote it and training read it."""
    return yaml.safe_load(yaml.safe_dump(list(value) if isinstance(value, tuple) else value))


def test_every_value_of_the_search_space_is_accepted(kind: Kind) -> None:
    default = kind.config()
    for name, space in kind.search_space.items():
        assert name in {f.name for f in dataclasses.fields(kind.config)}
        for value in values_of(space):
            parsed = parse(kind.config, {name: as_yaml(value)}, "tuned")
            assert parsed == replace(default, **{name: value})


def test_search_starts_are_within_the_space(kind: Kind) -> None:
    """And differ from each other and from the defaults, so that none is tried twice."""
    known = [kind.config()]
    for changes in kind.starts:
        config = replace(kind.config(), **changes)
        assert config not in known
        known.append(config)
        for name, value in changes.items():
            space = kind.search_space[name]
            if isinstance(space, Choice):
                assert value in space.values
            else:
                assert space.low <= value <= space.high
                assert isinstance(value, int) or not space.whole


def test_search_space_is_data(kind: Kind) -> None:
    """Its repr names a study: it must not hold what has another repr in the next process."""
    assert " at 0x" not in repr(kind.search_space)


@pytest.mark.parametrize("kind_name", KINDS)
def test_the_rows_of_params_yaml_are_accepted(kind_name: str) -> None:
    params = Path(__file__).parents[2] / "params.yaml"
    models: dict[str, Any] = yaml.safe_load(params.read_text(encoding="utf-8"))["models"]
    names = [name for name, row in models.items() if row["kind"] == kind_name]
    assert names
    for name in names:
        assert model_config(params, name)[0].name == kind_name


def test_tuned_values_override(tmp_path: Path) -> None:
    params, tuned = tmp_path / "params.yaml", tmp_path / "tuned.yaml"
    params.write_text("models: {mine: {kind: deepfm, hidden: [8], dropout: 0.5, l2: 1e-3}}", encoding="utf-8")
    tuned.write_text("hidden: [128, 64]\nl2: 2.5e-05\n", encoding="utf-8")
    _, config = model_config(params, "mine", tuned)
    assert (config.hidden, config.dropout, config.l2) == ((128, 64), 0.5, 2.5e-5)
    tuned.write_text("{}\n", encoding="utf-8")
    assert model_config(params, "mine", tuned) == model_config(params, "mine")
    tuned.write_text("hiden: [128]\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"tuned\.yaml: unknown key 'hiden'; did you mean hidden"):
        model_config(params, "mine", tuned)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {other: {kind: lr}}", r"models\.mine is missing; models holds other"),
        ("models: {mine: {l2: 1}}", "missing key 'kind'"),
        ("models: {mine: {kind: lrr}}", "no model of kind 'lrr'"),
        ("models: {mine: {kind: base}}", "holds no Config"),
        ("models: {mine: {kind: deepfm, l2: -1}}", "l2: must be 0 or more, found -1"),
        ("models: {mine: {kind: lr, seed: -1}}", "seed: must be 0 or more, found -1"),
        ("models: {mine: {kind: deepfm, hidden: 64}}", "hidden: must be a list, found 64"),
        ("models: {mine: {kind: deepfm, dropout: 1}}", "dropout: must be from 0 to below 1, found 1"),
        ("models: {mine: {kind: lightgbm, objective: mse}}", "objective: must be one of"),
        ("models: {mine: {kind: lightgbm, lambda_l2: -5}}", "lambda_l2: must be 0 or more, found -5"),
        ("models: {mine: {kind: lightgbm, max_bin: 1}}", "max_bin: must be 2 or more, found 1"),
        ("models: {mine: {kind: lightgbm, num_leaves: 200000}}", "num_leaves: must be from 2 to 131072, found 200000"),
        ("models: {mine: {kind: lightgbm, learning_rate: .inf}}", "learning_rate: must be a finite number, found inf"),
        ("models: {mine: {kind: ad_ctr, strength: 0}}", "strength: must be above 0, found 0"),
    ],
)
def test_mistakes_in_parameters(tmp_path: Path, text: str, message: str) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=message):
        model_config(params, "mine")


def test_nothing_is_predicted_before_it_is_learned(kind: Kind, world: Encoded) -> None:
    if kind.name == "ad_ctr":
        pytest.skip("every ad has the mean click rate then")
    with pytest.raises(ValueError, match="fit or load"):
        kind.build(kind.config()).predict(world.part("target"))
