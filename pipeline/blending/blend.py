"""Choose how to combine the members by nested cross-validation over displays, and say what each of them is worth.

No display is scored by a combination that has seen its label, nor by a way that was chosen with it: the ways that
compete for a fold's displays are judged on the other folds, each by fits that have seen neither of the two. So the
score that is reported is honest.

Ways differ in MAP@12 by less than its luck, where displays are few, so their likelihood, which takes far fewer of them
to tell, has a say in which of them to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from pipeline.blending.stack import BlendConfig, Sample, Stack, take_labels, thinned
from pipeline.blending.ways import ALONE, STACKERS, Combination, Way, scored, ways
from pipeline.core.progress import bar
from pipeline.metrics import Floats, Judged, Labelled, standard_error, tie_hash, weighted_mean

_DIGITS = 6  # of a mean of float32 losses or gains, that are no rounding
#: The standard deviation of what becomes of MAP@12 beside what the likelihood of a way promises, however many displays
#: tell it; and how much worse stackers are expected to be.
_BROKEN = 2.5e-4
_NO_LUCK = 1e-14  # the variance that two equal rankings are said to differ by


@dataclass(frozen=True, slots=True)
class Blend:
    """combination: fitted on all displays, by the way of that name. out_of_fold: (N,) each display's score by nested
    cross-validation. validated, losses: cross-validated MAP@12 of each way, whose best flatters itself, and -log of the
    click's chance, see `_judged`. chosen: which way each fold's displays were scored by. without: by how much the
    cross-validated MAP@12 falls without each member: that of the chosen way, or, if no such way is left, to that of the
    best other one.
    """

    combination: Combination
    way: str
    out_of_fold: NDArray[np.float32]
    validated: dict[str, float]
    losses: dict[str, float]
    chosen: list[str]
    without: dict[str, float]


def blend(stack: Stack, labels: Labelled, config: BlendConfig) -> Blend:
    """Combine the members' logits; of stacks with no more displays than folds nothing can be learned."""
    every, whole, future = ways(config.members, config.trials), Sample(stack, labels), stack.future
    fold = (tie_hash(labels.display_id, np.zeros_like(labels.display_id)) % np.uint64(config.folds)).astype(np.int64)
    folds = [int(f) for f in np.unique(fold)]
    inner, outer = _all_fits(whole, fold, every, config)
    out_of_fold, chosen = np.zeros(len(stack.logits), np.float32), []
    for f in folds:
        others = [g for g in folds if g != f]
        competing = {way: Judged.joined([inner[way, f, g] for g in others]) for way in every}
        chosen.append(choose(competing, np.concatenate([future[fold == g] for g in others])))
        combination = every[chosen[-1]](whole.take(thinned(fold != f, config.search_displays)))
        out_of_fold[np.repeat(fold == f, stack.lengths)] = scored(combination, stack.take(fold == f))
    way = choose(outer, future)
    return Blend(
        combination=every[way](whole.take(thinned(np.ones(len(fold), bool), config.search_displays))),
        way=way,
        out_of_fold=out_of_fold,
        validated={name: weighted_mean(found.gain, future) for name, found in outer.items()},
        losses={name: weighted_mean(found.loss, future) for name, found in outer.items()},
        chosen=chosen,
        without=_without(whole, fold, way, weighted_mean(outer[way].gain, future), config),
    )


def _all_fits(
    whole: Sample, fold: NDArray[np.int64], every: dict[str, Way], config: BlendConfig
) -> tuple[dict[tuple[str, int, int], Judged], dict[str, Judged]]:
    """Fit every way without each fold and without each pair of folds, and judge it on what it was fitted without.

    Returns inner[way, f, g], of fold g's displays by fits without f and g, and outer[way], of all displays (D,) by fits
    without a display's own fold. The scores themselves are not kept: those of all ways would take several GB.
    """
    folds = [int(f) for f in np.unique(fold)]
    inner: dict[tuple[str, int, int], Judged] = {}
    outer = {way: Judged(np.empty(len(fold), np.float32), np.empty(len(fold), np.float32)) for way in every}
    pairs = list(combinations_with_replacement(folds, 2))
    with bar(len(pairs) * len(every), "blending", "fit") as shown:
        for pair in pairs:
            training = whole.take(thinned(~np.isin(fold, pair), config.search_displays))
            fitted = {}
            for name, way in every.items():
                fitted[name] = way(training)
                shown.update(1)
            for f, g in {pair, pair[::-1]}:
                held_out = whole.take(fold == g)
                for name, combination in fitted.items():
                    found = _judged(combination, held_out)
                    if f == g:
                        outer[name].gain[fold == g], outer[name].loss[fold == g] = found.gain, found.loss
                    else:
                        inner[name, f, g] = found
    return inner, outer


def _judged(combination: Combination, sample: Sample) -> Judged:
    """What its scores are worth in each display of a sample, as float32; those of present and of future displays are
    scaled apart, each to their greatest likelihood: how sure a way is of a part ranks nothing."""
    score, future = scored(combination, sample.stack), sample.stack.future
    judged = Judged(np.empty(len(future), np.float32), np.empty(len(future), np.float32))
    for part in (~future, future):
        if part.any():
            found = Judged.scaled(score[np.repeat(part, sample.stack.lengths)], take_labels(sample.labels, part))
            judged.gain[part], judged.loss[part] = found.gain, found.loss
    return judged


def choose(judged: dict[str, Judged], future: NDArray[np.bool_]) -> str:
    """The way of the greatest MAP@12 to be expected; of equals the simplest.

    Two witnesses are heard on how far each way is from the likeliest mean of the members: the difference in MAP@12
    itself, and the one that the difference in likelihood promises, at as much MAP@12 a nat as tells the means apart.
    Each counts by the inverse of its variance, as two measurements of one thing do; of the promise that is its own luck
    and _BROKEN. So few displays are judged by likelihood, many by MAP@12.

    What stackers promise is not heard: they are expected to be a little worse. Trees become likelier by how sure they
    are of a display, which ranks nothing. And what the context tells of the members' mistakes on validation need not
    hold of their refits, which have learned from more: in simulated worlds, whose test can be told, it did not.
    """

    def mean_and_variance(value: Floats) -> tuple[float, float]:
        return weighted_mean(value, future), standard_error(value, future) ** 2

    means = {way: found for way, found in judged.items() if way not in STACKERS}
    likeliest = min(means.values(), key=lambda found: round(weighted_mean(found.loss, future), _DIGITS))
    gains = {way: mean_and_variance(found.gain - likeliest.gain) for way, found in judged.items()}
    nats = {way: mean_and_variance(likeliest.loss - found.loss) for way, found in judged.items()}
    told, together = (sum(nats[way][0] * other[way][0] for way in means) for other in (nats, gains))
    a_nat = max(0.0, together / told) if told else 0.0

    def expected(way: str) -> float:
        gain, luck = gains[way][0], max(gains[way][1], _NO_LUCK)
        promised, doubt = (-_BROKEN, 0.0) if way in STACKERS else (a_nat * nats[way][0], a_nat**2 * nats[way][1])
        doubt += _BROKEN**2
        return round((gain * doubt + promised * luck) / (luck + doubt), _DIGITS)

    return max(judged, key=expected)


def _without(
    whole: Sample, fold: NDArray[np.int64], way: str, with_all: float, config: BlendConfig
) -> dict[str, float]:
    """How much of the MAP@12 `with_all` a way loses without each member; none without the others of one taken alone.

    Where the way itself is gone, since its only member is, or since a single one is left, the best of all other ways
    takes its place.
    """
    lost = {}
    for i, member in enumerate(config.members if len(config.members) > 1 else ()):
        if way.endswith(ALONE) and way != f"{member}{ALONE}":
            lost[member] = 0.0
            continue
        others = ways([name for name in config.members if name != member], config.trials)
        others = {way: others[way]} if way in others else others
        lost[member] = with_all - max(_cross_validated(whole, fold, i, others, config))
    return lost


def _cross_validated(
    whole: Sample, fold: NDArray[np.int64], member: int, every: dict[str, Way], config: BlendConfig
) -> list[float]:
    """MAP@12 of some ways without a member."""
    gains = [np.empty(len(fold), np.float32) for _ in every]
    for f in np.unique(fold):
        training = whole.take(thinned(fold != f, config.search_displays)).without(member)
        held_out = whole.take(fold == f).without(member)
        for gain, way in zip(gains, every.values(), strict=True):
            gain[fold == f] = _judged(way(training), held_out).gain
    return [weighted_mean(gain, whole.stack.future) for gain in gains]
