"""Blending: weights of greatest likelihood, honest out-of-fold scores, and the choice between ways to combine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from pipeline.blending import blend as blend_module
from pipeline.blending.blend import Blend, blend, choose
from pipeline.blending.stack import BlendConfig, Sample, Stack, read_stack, thinned
from pipeline.blending.ways import ByPart, Weighted, scored, ways
from pipeline.blending.weights import (
    Weights,
    correlations,
    likelihood_weights,
    scaled,
    searched_weights,
)
from pipeline.core.errors import ParameterError
from pipeline.metrics import Judged, Labelled, map12, reciprocal_rank, tie_hash
from tests.synthetic import Bag, Displays, categorical, draw_clicks, multi, numeric, write_encoded

Floats = NDArray[np.floating[Any]]


def labelled(random: np.random.Generator, logits: Floats, lengths: NDArray[np.int64], future: float = 0.5) -> Labelled:
    """Clicks drawn from the softmax of the true logits."""
    displays = len(lengths)
    return Labelled(
        clicked=draw_clicks(random, logits, lengths),
        offsets=np.cumsum([0, *lengths]),
        display_id=np.arange(100, 100 + displays, dtype=np.uint32),
        ad_id=np.arange(len(logits), dtype=np.uint32),
        slices={"future": random.random(displays) < future},
    )


def members_of(displays: int, seed: int = 0, **options: Any) -> tuple[NDArray[np.float32], Labelled]:
    """The truth is the sum of two signals; one member sees one, one the other, the third only noise."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 8, displays)
    rows = int(lengths.sum())
    signals = random.normal(0, 1, (rows, 3))
    labels = labelled(random, signals[:, 0] + 0.7 * signals[:, 1], lengths, **options)
    return signals.astype(np.float32), labels


def naive_loss(weights: Weights, logits: Floats, labels: Labelled) -> float:
    """Mean over displays of -log softmax of the click."""
    total = 0.0
    for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
        z = logits[start:end].astype(float) @ weights
        total += np.log(np.exp(z).sum()) - z[np.argmax(labels.clicked[start:end])]
    return total / (len(labels.offsets) - 1)


# --- weights ------------------------------------------------------------------------------------------------------


def test_likelihood_weights_are_the_best() -> None:
    """Against a search that knows no gradient, and near the weights that the clicks were drawn with."""
    logits, labels = members_of(400)
    found = likelihood_weights(logits, labels)
    searched = minimize(
        lambda w: naive_loss(w, logits, labels) if (w >= 0).all() else 1e9,
        np.full(3, 0.3),
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-8},
    )
    np.testing.assert_allclose(found, searched.x, atol=5e-3)
    many, answers = members_of(20_000)
    np.testing.assert_allclose(likelihood_weights(many, answers), [1, 0.7, 0], atol=0.05)


def test_weights_are_not_negative() -> None:
    """Not even of a member that ranks the wrong way round."""
    logits, labels = members_of(2000)
    logits[:, 1] *= -1
    likely = likelihood_weights(logits, labels)
    assert likely[1] == 0
    assert likely[0] > 0
    searched = searched_weights(logits, labels, likely, 30)
    assert (searched >= 0).all()
    assert searched[1] < 0.2 * searched[0]


@pytest.mark.parametrize("scale", [0.05, 3.0, 20.0])
def test_scaling_makes_chances_right(scale: float) -> None:
    """The likelihood as a function of the factor has its greatest value there; the ratio of weights stays."""
    logits, labels = members_of(3000)
    weights = scale * np.array([1.0, 0.7, 0.0])
    found = scaled(weights, logits, labels)
    np.testing.assert_allclose(found / found[0], weights / weights[0], rtol=1e-6)
    best = naive_loss(found, logits, labels)
    assert best < naive_loss(0.97 * found, logits, labels)
    assert best < naive_loss(1.03 * found, logits, labels)


def test_scaling_of_a_member_without_a_signal() -> None:
    logits, labels = members_of(500)
    worse = -logits[:, :1]
    np.testing.assert_array_equal(scaled(np.ones(1), worse, labels), [1])


def test_searched_weights_are_of_greatest_map12() -> None:
    """From a bad start to what ranks almost like the weights that clicks were drawn with; never worse than the start,
    whatever the members' units; the same for the same displays.
    """
    logits, labels = members_of(4000, seed=3)

    def gain(weights: Weights) -> float:
        return map12(logits @ weights.astype(np.float32), labels)

    bad, truth = np.array([0.3, 0.0, 1.0]), np.array([1.0, 0.7, 0.0])
    np.testing.assert_array_equal(searched_weights(logits, labels, bad, 1), bad)
    found = searched_weights(logits, labels, bad, 60)
    assert gain(found) > gain(bad) + 0.9 * (gain(truth) - gain(bad))
    assert gain(searched_weights(logits, labels, truth, 20)) >= gain(truth)
    np.testing.assert_array_equal(found, searched_weights(logits, labels, bad, 60))
    units = np.array([100, 1, 0.01], np.float32)
    rescaled = searched_weights(logits * units, labels, bad / units, 60)
    np.testing.assert_allclose(rescaled * units, found, rtol=1e-4)


# --- the stack ----------------------------------------------------------------------------------------------------


def stack_of(
    logits: Floats, labels: Labelled, context: Floats | None = None, cold: NDArray[np.bool_] | None = None
) -> Stack:
    context = np.empty((len(logits), 0)) if context is None else context
    cold = np.empty((len(labels.display_id), 0), bool) if cold is None else cold
    return Stack(
        logits=logits.astype(np.float32),
        context=context.astype(np.float32),
        names=tuple(f"c{i}" for i in range(context.shape[1])),
        cold=cold,
        flags=tuple(f"cold{i}" for i in range(cold.shape[1])),
        offsets=labels.offsets,
        future=labels.slices["future"],
    )


@pytest.mark.parametrize("most", [1, 7, 50, 1000])
def test_a_sample_has_whole_displays(most: int) -> None:
    logits, labels = members_of(60)
    chosen = thinned(np.arange(60) % 3 != 0, most)
    assert chosen.sum() == min(most, 40)
    assert not chosen[::3].any()
    cold = np.arange(60)[:, None] % 2 == 0
    sample = Sample(stack_of(logits, labels, logits[:, :1], cold), labels).take(chosen)
    for d, at in enumerate(np.flatnonzero(chosen)):
        original = slice(labels.offsets[at], labels.offsets[at + 1])
        copy = slice(sample.stack.offsets[d], sample.stack.offsets[d + 1])
        np.testing.assert_array_equal(sample.stack.logits[copy], logits[original])
        np.testing.assert_array_equal(sample.stack.context[copy, 0], logits[original, 0])
        np.testing.assert_array_equal(sample.labels.clicked[copy], labels.clicked[original])
        np.testing.assert_array_equal(sample.labels.ad_id[copy], labels.ad_id[original])
        assert sample.stack.cold[d] == cold[at]
        assert sample.labels.slices["future"][d] == labels.slices["future"][at] == sample.stack.future[d]


def test_the_context_is_read_from_encoded_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that `leaks: false` hides is left out, and told."""
    part = Displays(
        lengths=np.array([2, 3]),
        columns={
            "leak": np.array([0, 1, 2, 2, 0], np.int32),
            "delay": np.array([1.0, np.nan, 5.0, 3.0, 3.0], np.float32),
            "page": np.array([7, 7, 9, 9, 9], np.int32),
            "bag": Bag.of([[(1, 1.0)]] * 5),
        },
        clicked=np.array([1, 0, 0, 1, 0], np.uint8),
    )
    fields = [categorical("leak", 3), numeric("delay"), categorical("page", 10, "display"), multi("bag", 10)]
    encoded = write_encoded(tmp_path / "encoded", fields, part, part, hidden=("later",))
    logits = np.zeros((5, 1), np.float32)
    with caplog.at_level("INFO", "pipeline"):
        stack = read_stack(encoded, logits, ("leak", "later", "delay", "page"))
    assert caplog.messages == ["blend.context: later is not encoded, so it is left out"]
    assert stack.names == ("leak=0", "leak=1", "leak=2", "delay", *(f"page={code}" for code in range(10)))
    np.testing.assert_array_equal(stack.context[:, :3].argmax(1), [0, 1, 2, 2, 0])
    known = np.array([1.0, 5.0, 3.0, 3.0])
    expected = (np.array([1.0, known.mean(), 5.0, 3.0, 3.0]) - known.mean()) / known.std()
    np.testing.assert_allclose(stack.context[:, 3], expected, atol=1e-6)
    np.testing.assert_array_equal(stack.context[:, 4:].argmax(1), [7, 7, 9, 9, 9])
    with pytest.raises(ParameterError, match=r"blend.context: bag has several values a row"):
        read_stack(encoded, logits, ("bag",))


# --- the ways -----------------------------------------------------------------------------------------------------


def world_with_context(displays: int, seed: int, strength: float = 2.0) -> tuple[Stack, Labelled]:
    """The truth is both signals and a flag, which no member sees and which counts in future displays alone."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 8, displays)
    rows = int(lengths.sum())
    signals, flag = random.normal(0, 1, (rows, 3)), (random.random(rows) < 0.3).astype(float)
    future = random.random(displays) < 0.5
    truth = signals[:, 0] + 0.7 * signals[:, 1] + strength * flag * np.repeat(future, lengths)
    labels = replace(labelled(random, truth, lengths), slices={"future": future})
    return stack_of(signals, labels, flag[:, None]), labels


def test_every_way_learns_and_gives_chances() -> None:
    """Each on displays that it has not seen: better than any member, and the softmax of its score is a chance."""
    train, test = world_with_context(4000, 1), world_with_context(4000, 2)
    alone = max(map12(test[0].logits[:, m], test[1]) for m in range(3))
    scores = {}
    for name, way in ways(["a", "b", "noise"], 20).items():
        combination = way(Sample(*train))
        score = combination.score(test[0])
        assert score.shape == (len(test[0].logits),)
        assert score.dtype == np.float32
        scores[name] = map12(score, test[1])
        if not name.endswith(" alone"):
            assert scores[name] > alone + 0.02, name
            assert abs(likelihood_weights(score[:, None], test[1])[0] - 1) < 0.12, name
        assert all(len(column) == 3 for column in combination.explain().values())
    assert scores["linear"] > scores["likelihood"] + 0.01, "it reads the context"
    assert scores["trees"] > scores["likelihood"] + 0.02, "they read the context, and whether a display is future"
    assert scores["linear by part"] > scores["linear"] + 0.01, "the flag counts in future displays alone"
    for name in ("likelihood", "searched"):
        assert abs(scores[f"{name} by part"] - scores[name]) < 0.01


@pytest.mark.parametrize("way", ["linear", "trees"])
def test_stackers_read_what_is_new(way: str) -> None:
    """One member knows the users and is noise to new ones, the other the reverse: whom to trust depends on the flag."""

    def world(seed: int) -> Sample:
        random = np.random.default_rng(seed)
        lengths, cold = random.integers(2, 8, 4000), random.random((4000, 1)) < 0.5
        signals = random.normal(0, 1, (lengths.sum(), 2))
        truth = 1.5 * np.where(np.repeat(cold[:, 0], lengths), signals[:, 1], signals[:, 0])
        labels = labelled(random, truth, lengths)
        return Sample(stack_of(signals, labels, cold=cold), labels)

    train, test = world(1), world(2)
    every = ways(["a", "b"], 20)
    scores = {name: map12(every[name](train).score(test.stack), test.labels) for name in ("likelihood", way)}
    assert scores[way] > scores["likelihood"] + 0.05


def test_linear_weights_are_those_of_the_truth() -> None:
    stack, labels = world_with_context(6000, 3)
    found = ways(["a", "b", "noise"], 20)["linear by part"](Sample(stack, labels)).explain()
    assert set(found) == {"present, weight", "future, weight"}
    for column in found.values():
        np.testing.assert_allclose(column, [1, 0.7, 0], atol=0.15)


def test_what_else_is_read_is_explained_by_name() -> None:
    """The flag of the context counts in future displays alone; each flag of a display has a column of what it adds."""
    stack, labels = world_with_context(6000, 3)
    stack = replace(stack, cold=np.random.default_rng(1).random((6000, 1)) < 0.5, flags=("cold_ad",))
    sample, every = Sample(stack, labels), ways(["a", "b", "noise"], 20)
    linear = every["linear by part"](sample)
    assert set(linear.explain()) == {f"{part}, {what}" for part in PARTS for what in ("weight", "more if cold_ad")}
    np.testing.assert_allclose(linear.explain()["future, more if cold_ad"], [0, 0, 0], atol=0.25)
    shown = linear.explain_context()
    assert shown["present, weight"] == {"c0": pytest.approx(0, abs=0.25)}
    assert 1.5 < shown["future, weight"]["c0"] < 2, "drawn to 0 by the ridge"
    trees = every["trees"](sample)
    (shares,) = trees.explain_context().values()
    assert list(shares) == ["c0", "future", "ads", "cold_ad"]
    assert shares["c0"] > 0.2
    assert sum(shares.values()) + sum(trees.explain()["share of the trees' gain"]) == pytest.approx(1)
    assert every["likelihood by part"](sample).explain_context() == {}


PARTS = ("present", "future")


def test_a_part_with_few_displays_is_combined_like_the_whole() -> None:
    stack, labels = world_with_context(2000, 4)
    rare = np.zeros(2000, bool)
    rare[:20] = True
    stack, labels = replace(stack, future=rare), replace(labels, slices={"future": rare})
    found = ways(["a", "b", "noise"], 20)["likelihood by part"](Sample(stack, labels)).explain()
    whole = ways(["a", "b", "noise"], 20)["likelihood"](Sample(stack, labels)).explain()
    assert found["future, weight"] == whole["weight"]
    assert found["present, weight"] != whole["weight"]


def test_same_sample_same_combination() -> None:
    stack, labels = world_with_context(1500, 5)
    for name, way in ways(["a", "b", "noise"], 20).items():
        scores = [way(Sample(stack, labels)).score(stack) for _ in range(2)]
        np.testing.assert_array_equal(*scores, err_msg=name)


# --- the blend ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> tuple[Stack, Labelled]:
    logits, labels = members_of(1500, seed=1)
    return stack_of(logits, labels), labels


CONFIG = BlendConfig(members=("first", "second", "noise"), folds=3, trials=20)


@pytest.fixture(scope="module")
def result(world: tuple[Stack, Labelled]) -> Blend:
    return blend(*world, CONFIG)


def test_a_blend_beats_its_members(result: Blend) -> None:
    """On displays that it has not seen; what tells nothing weighs next to nothing."""
    logits, answers = members_of(5000, seed=2)
    alone = [map12(logits[:, i], answers) for i in range(3)]
    assert map12(result.combination.score(stack_of(logits, answers)), answers) > max(alone) + 0.02
    assert set(result.validated) == set(ways(CONFIG.members, CONFIG.trials))
    assert result.validated["searched"] > max(result.validated[f"{name} alone"] for name in CONFIG.members) + 0.02
    assert len(result.chosen) == CONFIG.folds
    assert set(result.chosen) <= set(result.validated)


def test_what_a_member_is_worth(result: Blend) -> None:
    assert set(result.without) == set(CONFIG.members)
    assert result.without["first"] > result.without["second"] > 0.01
    assert abs(result.without["noise"]) < 0.005


def test_what_two_members_are_worth(world: tuple[Stack, Labelled]) -> None:
    """Without one of them there is the other one alone."""
    stack, labels = world
    logits = stack.logits[:, :2]
    found = blend(replace(stack, logits=logits), labels, replace(CONFIG, members=("first", "second"), trials=2))
    assert not found.way.endswith("alone")
    for i, name in enumerate(("first", "second")):
        expected = found.validated[found.way] - map12(logits[:, 1 - i], labels)
        assert found.without[name] == pytest.approx(expected, abs=1e-6)


def test_what_a_member_that_is_taken_alone_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the best way to combine all others has less; they themselves are worth nothing."""
    signals, labels = members_of(1500, seed=3)
    truth = signals[:, 0] + np.float32(0.7) * signals[:, 1]
    stack = stack_of(np.column_stack([truth, signals[:, :2]]), labels)
    with monkeypatch.context() as patched:
        patched.setattr(blend_module, "choose", lambda judged, future: "truth alone")
        found = blend(stack, labels, replace(CONFIG, members=("truth", "first", "second"), trials=2))
    assert found.without["first"] == found.without["second"] == 0.0
    rest = blend(stack_of(signals[:, :2], labels), labels, replace(CONFIG, members=("first", "second"), trials=2))
    best = max(rest.validated.values())
    assert best > max(rest.validated["first alone"], rest.validated["second alone"])
    assert found.without["truth"] == pytest.approx(found.validated["truth alone"] - best, abs=1e-6)


def test_blocks_of_displays_make_no_difference(
    world: tuple[Stack, Labelled], result: Blend, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, trials=1)  # a search of many goes another way where a last digit differs
    whole_at_once = blend(*world, config)
    monkeypatch.setattr("pipeline.blending.stack._BLOCK_DISPLAYS", 100)
    monkeypatch.setattr("pipeline.blending.weights._BLOCK_DISPLAYS", 100)
    found = blend(*world, config)
    assert (found.way, found.chosen) == (whole_at_once.way, whole_at_once.chosen)
    np.testing.assert_allclose(found.out_of_fold, whole_at_once.out_of_fold, rtol=1e-5, atol=1e-6)
    assert found.losses == pytest.approx(whole_at_once.losses, abs=1e-6)
    stack, labels = world
    whole = result.combination.score(stack)
    np.testing.assert_allclose(scored(result.combination, stack), whole, rtol=1e-5, atol=1e-6)
    expected = [[np.corrcoef(a, b)[0, 1] for b in centred(stack, labels).T] for a in centred(stack, labels).T]
    np.testing.assert_allclose(correlations(stack.logits, labels), expected, atol=1e-6)


def centred(stack: Stack, labels: Labelled) -> Floats:
    """The logits, each display's mean taken out."""
    pieces = np.split(stack.logits.astype(float), labels.offsets[1:-1])
    return np.concatenate([piece - piece.mean(0) for piece in pieces])


def test_cross_validation_is_that_of_unseen_displays(world: tuple[Stack, Labelled], result: Blend) -> None:
    stack, labels = world
    for i, name in enumerate(CONFIG.members):
        assert result.validated[f"{name} alone"] == pytest.approx(map12(stack.logits[:, i], labels))
    fold = folds_of(labels, CONFIG.folds)
    for f, way in enumerate(result.chosen):
        others = Sample(stack, labels).take(fold != f)
        expected = ways(CONFIG.members, CONFIG.trials)[way](others).score(stack)
        rows = np.repeat(fold == f, stack.lengths)
        np.testing.assert_allclose(result.out_of_fold[rows], expected[rows], rtol=1e-5, atol=1e-6)


def folds_of(labels: Labelled, folds: int) -> NDArray[np.int64]:
    hashed = tie_hash(labels.display_id, np.zeros_like(labels.display_id)) % np.uint64(folds)
    return hashed.astype(np.int64)


def test_no_display_is_scored_by_its_own_label(world: tuple[Stack, Labelled], result: Blend) -> None:
    """With the clicks of one fold moved elsewhere, its scores and the way that was chosen for it stay as they were."""
    stack, labels = world
    rows_of = np.repeat(folds_of(labels, CONFIG.folds), stack.lengths)
    assert np.bincount(rows_of).min() > 1000
    for held_out in range(CONFIG.folds):
        clicked = labels.clicked.copy()
        worst = np.zeros_like(clicked)
        for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
            worst[start + np.argmin(stack.logits[start:end, 0])] = 1
        clicked[rows_of == held_out] = worst[rows_of == held_out]
        after = blend(stack, replace(labels, clicked=clicked), CONFIG)
        assert after.chosen[held_out] == result.chosen[held_out]
        np.testing.assert_array_equal(after.out_of_fold[rows_of == held_out], result.out_of_fold[rows_of == held_out])
        assert (after.out_of_fold[rows_of != held_out] != result.out_of_fold[rows_of != held_out]).mean() > 0.99


def test_a_single_member(world: tuple[Stack, Labelled]) -> None:
    stack, labels = world
    single = replace(stack, logits=stack.logits[:, :1])
    found = blend(single, labels, replace(CONFIG, members=("only",)))
    assert (found.way, found.without) == ("only alone", {})
    (weights,) = found.combination.explain().values()
    assert weights == pytest.approx([1], abs=0.2)  # more than 0.7 of it is noise to this member
    assert found.validated["only alone"] == pytest.approx(map12(single.logits[:, 0], labels))


@pytest.mark.parametrize("future", [0.0, 1.0])
def test_only_present_or_only_future(future: float) -> None:
    logits, labels = members_of(900, future=future)
    found = blend(stack_of(logits, labels), labels, CONFIG)
    assert labels.slices["future"].all() == bool(future)
    assert all(0 < value < 1 for value in found.validated.values())
    gain = reciprocal_rank(found.out_of_fold, labels.clicked, labels.offsets, labels.display_id, labels.ad_id)
    assert gain.mean() == pytest.approx(map12(found.out_of_fold, labels))


def test_it_can_search_on_fewer_displays(world: tuple[Stack, Labelled], result: Blend) -> None:
    found = blend(*world, replace(CONFIG, search_displays=500))
    assert (found.out_of_fold != 0).all()
    assert not np.array_equal(found.out_of_fold, result.out_of_fold)


# --- the choice ---------------------------------------------------------------------------------------------------


def test_how_sure_a_way_is_of_a_part_makes_no_difference(world: tuple[Stack, Labelled]) -> None:
    """Scores that are right in each part are as likely as those that are twice as large in one of them."""
    stack, labels = world
    right = np.full(stack.logits.shape[1], 0.5)
    surer = ByPart(Weighted(right), Weighted(2 * right))
    plain, scaled = (blend_module._judged(way, Sample(stack, labels)) for way in (Weighted(right), surer))
    np.testing.assert_array_equal(plain.gain, scaled.gain)
    np.testing.assert_allclose(plain.loss, scaled.loss, rtol=1e-4)
    reversed_ = blend_module._judged(Weighted(-right), Sample(stack, labels))
    assert reversed_.loss.mean() > plain.loss.mean() + 0.01


def judged_of(displays: int, means: dict[str, tuple[float, float]]) -> dict[str, Judged]:
    """Gains and losses by display around these means; those of two ways differ by a standard error of 0.28 and 0.14 /
    sqrt(displays)."""
    random = np.random.default_rng(0)
    found = {}
    for name, (gain, loss) in means.items():
        noise = random.normal(0, 1, (2, displays))
        noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, keepdims=True)
        found[name.replace("_", " ")] = Judged(gain + 0.2 * noise[0], loss + 0.1 * noise[1])
    return found


MEMBERS = {"a_alone": (0.66, 1.30), "b_alone": (0.70, 1.20)}  # 0.04 of MAP@12 for 0.1 nats


@pytest.mark.parametrize(
    ("displays", "means", "best"),
    [
        (4_000, {**MEMBERS, "mean": (0.700, 1.19), "searched": (0.701, 1.195)}, "mean"),  # too few to tell by MAP@12
        (4_000_000, {**MEMBERS, "mean": (0.700, 1.19), "searched": (0.701, 1.195)}, "searched"),
        (4_000, {**MEMBERS, "mean": (0.699, 1.195)}, "mean"),
        (4_000_000, {**MEMBERS, "mean": (0.699, 1.195)}, "b alone"),
        (4_000, {**MEMBERS, "mean": (0.701, 1.19), "searched": (0.702, 1.190)}, "searched"),  # alike but for it
        # what stackers promise does not count
        (4_000, {**MEMBERS, "mean": (0.701, 1.19), "trees": (0.704, 1.10)}, "mean"),
        (4_000, {**MEMBERS, "mean": (0.701, 1.19), "linear by part": (0.704, 1.10)}, "mean"),
        (4_000_000, {**MEMBERS, "mean": (0.701, 1.19), "trees": (0.702, 1.25)}, "trees"),
        (4_000_000, {**MEMBERS, "mean": (0.701, 1.19), "linear": (0.702, 1.25)}, "linear"),
        (4_000, {"a_alone": (0.66, 1.30)}, "a alone"),
    ],
)
def test_few_displays_are_judged_by_likelihood_many_by_map12(
    displays: int, means: dict[str, tuple[float, float]], best: str
) -> None:
    assert choose(judged_of(displays, means), np.zeros(displays, dtype=bool)) == best


def test_of_equal_ways_the_simplest_is_chosen() -> None:
    judged = judged_of(1000, MEMBERS)
    judged |= {"mean": judged["b alone"], "linear": judged["b alone"]}
    assert choose(judged, np.zeros(1000, dtype=bool)) == "b alone"


def test_correlations() -> None:
    """Against numpy, each display's mean taken out in a loop; a shift by display changes nothing."""
    logits, labels = members_of(50)
    logits[:, 2] += logits[:, 0]
    centred = logits.astype(float)
    for start, end in zip(labels.offsets[:-1], labels.offsets[1:], strict=True):
        centred[start:end] -= centred[start:end].mean(0)
    np.testing.assert_allclose(correlations(logits, labels), np.corrcoef(centred.T), atol=1e-6)
    shift = np.repeat(np.random.default_rng(1).normal(0, 5, 50), np.diff(labels.offsets))[:, None]
    np.testing.assert_allclose(
        correlations((logits + shift).astype(np.float32), labels), correlations(logits, labels), atol=1e-4
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": ()}, "members: expected at least one model"),
        ({"members": ("lr", "lr")}, "members: one stands twice"),
        ({"members": ("lr",), "folds": 2}, "folds: must be from 3 to 20, found 2"),
        ({"members": ("lr",), "folds": 21}, "folds: must be from 3 to 20, found 21"),
        ({"members": ("lr",), "trials": 0}, "trials: must be 1 or more, found 0"),
    ],
)
def test_mistakes_in_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        BlendConfig(**values)
