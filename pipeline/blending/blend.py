"""Choose how to combine the members by nested cross-validation over displays, and say what each of them is worth.

No display is scored by a combination that has seen its label, nor by a way that was chosen with it: the ways that
compete for a fold's displays are judged on the other folds, each by fits that have seen neither of the two. So the
score that is reported is honest.

Ways differ in MAP@12 by less than its luck, so their likelihood, which takes far fewer displays to tell, says which of
them to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from pipeline.blending.stack import BlendConfig, Sample, Stack, take_labels, thinned
from pipeline.blending.ways import ALONE, TREES, Combination, Way, scored, ways
from pipeline.core.progress import bar
from pipeline.metrics import Judged, Labelled, standard_error, tie_hash, weighted_mean

_DIGITS = 6  # of a mean of float32 losses, that are no rounding


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
    """The way to trust: the likeliest that weighs the members, unless another is clearly better; a member alone, if it
    is clearly better than every combination. Clearly: in MAP@12, by more than two standard errors of the difference.

    A member stopped training at its best on these very displays, which flatters it alone; to combine is the safer bet.
    Trees become likelier by how sure they are of a display, which ranks nothing; and the members that are combined in
    the end have learned from more displays, to which a weight is less sensitive than where a tree has cut.
    """
    means = {way: weighted_mean(found.gain, future) for way, found in judged.items()}

    def clearly(way: str, other: str) -> bool:
        return means[way] - means[other] > 2 * standard_error(judged[way].gain - judged[other].gain, future)

    alone, combined = ([w for w in means if w.endswith(ALONE) == single] for single in (True, False))
    single = max(alone, key=lambda way: means[way])
    if not combined:
        return single
    best = max(combined, key=lambda way: means[way])
    if clearly(single, best):
        return single
    weighing = [way for way in combined if way != TREES]
    # of those that differ by rounding alone the first: the simplest, on every machine
    likeliest = min(weighing, key=lambda way: round(weighted_mean(judged[way].loss, future), _DIGITS))
    return best if clearly(best, likeliest) else likeliest


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
