"""Choose how to combine the members by nested cross-validation over displays, and say what each of them is worth.

No display is scored by a combination that has seen its label, nor by a way that was chosen with it: the ways that
compete for a fold's displays are judged on the other folds, each by fits that have seen neither of the two. So the
score that is reported is honest.

Ways differ in MAP@12 by less than its luck, so their likelihood, which takes far fewer displays to tell, says which of
them to trust.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.blending.stack import BlendConfig, Sample, Stack, thinned
from pipeline.blending.ways import ALONE, TREES, Combination, Way, ways
from pipeline.core.progress import bar
from pipeline.metrics import Judged, Labelled, map12, standard_error, tie_hash, weighted_mean


@dataclass(frozen=True, slots=True)
class Blend:
    """combination: fitted on all displays, by the way of that name. out_of_fold: (N,) each display's score by nested
    cross-validation. validated, losses: cross-validated MAP@12 of each way, whose best flatters itself, and -log of the
    click's chance. chosen: which way each fold's displays were scored by. without: by how much the chosen way's cross-
    validated MAP@12 falls when it has to do without each member.
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
    judged, scores = _all_fits(whole, fold, every, config)
    outer = {way: Judged.of(score, labels) for way, score in scores.items()}
    out_of_fold, chosen = np.zeros(len(stack.logits), np.float32), []
    for f in folds:
        others = [g for g in folds if g != f]
        inner = {way: Judged.joined([judged[way, frozenset((f, g)), g] for g in others]) for way in every}
        chosen.append(choose(inner, np.concatenate([future[fold == g] for g in others])))
        rows = np.repeat(fold == f, stack.lengths)
        out_of_fold[rows] = scores[chosen[-1]][rows]
    way = choose(outer, future)
    return Blend(
        combination=every[way](whole.take(thinned(np.ones(len(fold), bool), config.search_displays))),
        way=way,
        out_of_fold=out_of_fold,
        validated={name: weighted_mean(found.gain, future) for name, found in outer.items()},
        losses={name: weighted_mean(found.loss, future) for name, found in outer.items()},
        chosen=chosen,
        without=_without(whole, fold, way, config) if len(config.members) > 2 else {},
    )


def _all_fits(
    whole: Sample, fold: NDArray[np.int64], every: dict[str, Way], config: BlendConfig
) -> tuple[dict[tuple[str, frozenset[int], int], Judged], dict[str, NDArray[np.float32]]]:
    """Fit every way without each fold and without each pair of folds.

    Returns judged[way, left out, f], of fold f's displays, and scores[way] (N,), by fits without a display's own fold.
    """
    folds = [int(f) for f in np.unique(fold)]
    judged: dict[tuple[str, frozenset[int], int], Judged] = {}
    scores = {way: np.zeros(len(whole.stack.logits), np.float32) for way in every}
    left_outs = [frozenset((f, g)) for f in folds for g in folds if f <= g]
    with bar(len(left_outs) * len(every), "blending", "fit") as shown:
        for left_out in left_outs:
            training = whole.take(thinned(~np.isin(fold, list(left_out)), config.search_displays))
            held_out = {f: whole.take(fold == f) for f in left_out}
            for name, way in every.items():
                combination = way(training)
                for f, part in held_out.items():
                    score = combination.score(part.stack)
                    judged[name, left_out, f] = Judged.of(score, part.labels)
                    if len(left_out) == 1:
                        scores[name][np.repeat(fold == f, whole.stack.lengths)] = score
                shown.update(1)
    return judged, scores


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
    likeliest = min(weighing, key=lambda way: weighted_mean(judged[way].loss, future))
    return best if clearly(best, likeliest) else likeliest


def _without(whole: Sample, fold: NDArray[np.int64], way: str, config: BlendConfig) -> dict[str, float]:
    """How much MAP@12 a way loses without each member; 0 for the others of a member that is taken alone."""
    if way.endswith(ALONE):
        return dict.fromkeys(config.members, 0.0)
    with_all = _cross_validated(whole, fold, ways(config.members, config.trials)[way], config)
    lost = {}
    for i, member in enumerate(config.members):
        others = ways([name for name in config.members if name != member], config.trials)[way]
        lost[member] = with_all - _cross_validated(whole.without(i), fold, others, config)
    return lost


def _cross_validated(whole: Sample, fold: NDArray[np.int64], way: Way, config: BlendConfig) -> float:
    """MAP@12 of a way."""
    score = np.zeros(len(whole.stack.logits), np.float32)
    for f in np.unique(fold):
        combination = way(whole.take(thinned(fold != f, config.search_displays)))
        score[np.repeat(fold == f, whole.stack.lengths)] = combination.score(whole.stack.take(fold == f))
    return map12(score, whole.labels)
