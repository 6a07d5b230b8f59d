"""The first leg: do the units tell the label, on groups that weren't looked at, better than every control?

A single unit is scored as it is, its direction fitted on the other folds; units together by a linear probe. Each untrained twin gets the
same choice: as many of its units, the best on the other folds. The window of the last inputs gets a linear probe of all that it has.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.scores import score
from lstm_explain.analyses.probing.unit_scores import null_for, scores_of
from lstm_explain.verdicts.verification.bounds import Bounds, of_scores

Units = tuple[int, ...]
MAJORITY, WINDOW, UNTRAINED = "majority", "window", "untrained"


class Steps(NamedTuple):
    """The steps that one label is scored at, and where each comes from: ``(step,)``.

    ``window`` is what the last inputs are there, ``(step, feature)``, dense or sparse; None without that control.
    """

    name: str
    truth: Truth
    sequence: NDArray[np.int64]
    group: NDArray[np.int64]
    fold: NDArray[np.int64]
    window: Any


class Scored(NamedTuple):
    """A held-out score, and what it is in each bootstrap draw of groups: ``(draw,)``."""

    value: float
    drawn: NDArray[np.float64]


class Known(NamedTuple):
    """One claim's score, those of its controls, and the chance of as good a score by moved labels."""

    own: Scored
    controls: Mapping[str, Scored]
    p_value: float


def known(
    steps: Steps,
    claims: Sequence[tuple[str, Units]],
    states: Mapping[str, NDArray[Any]],
    twins: Sequence[Mapping[str, NDArray[Any]]],
    times: NDArray[np.float64],
    permutations: int,
    seed: int,
) -> list[Known]:
    """Score the claims about one label.

    Parameters
    ----------
    claims : sequence of (layer, units)
    states : mapping of str to ndarray ``(step, unit)``
        Of each layer, at the label's steps; `twins` has the same of each untrained twin.
    times : ndarray ``(draw, group)``
        How often each draw counts each group.
    permutations : int
        Moves of the label within its sequences, of which each counts the best of all these claims (Westfall & Young 1993).
    seed : int
    """

    def scored(predicted: fits.Fitted) -> Scored:
        found = score(steps.truth, predicted.predicted, steps.group, steps.fold, times.shape[1], np.ones(len(steps.fold), dtype=bool))
        return Scored(float(found(np.ones((1, times.shape[1])))[0]), found(times))

    common = {MAJORITY: scored(fits.majority(steps.truth, steps.fold))}
    if steps.window is not None:
        common[WINDOW] = scored(_probe(steps, steps.window))
    columns, found = [], []
    of_twins: dict[tuple[str, int], dict[str, Scored]] = {}
    for layer, units in claims:
        features = states[layer][:, list(units)].astype(np.float64)
        predicted = _predicted(steps, features, {int(fold): range(len(units)) for fold in np.unique(steps.fold)})
        columns.append(features[:, 0] if len(units) == 1 else predicted.predicted)
        # Claims about as many units of a layer have the same controls.
        if (layer, len(units)) not in of_twins:
            of_twins[layer, len(units)] = {
                f"{UNTRAINED} {number + 1}": scored(_best(steps, twin[layer], len(units))) for number, twin in enumerate(twins)
            }
        found.append((scored(predicted), common | of_twins[layer, len(units)]))
    null = null_for(steps.truth.values, steps.sequence)
    runs = steps.sequence if null == "circular_shift" else steps.group
    chances = scores_of(np.stack(columns, axis=1), steps.truth, runs, null, permutations, seed).p_values_family
    return [Known(own, controls, float(p)) for (own, controls), p in zip(found, chances, strict=True)]


def _best(steps: Steps, states: NDArray[Any], count: int) -> fits.Fitted:
    """What the best so many units say of each fold, by the others."""
    chosen = {fold: order[:count].tolist() for fold, order in fits.Units(states, steps.fold).order(steps.truth).items()}
    return _predicted(steps, states.astype(np.float64), chosen)


def _predicted(steps: Steps, features: NDArray[np.float64], chosen: Mapping[int, Sequence[int]]) -> fits.Fitted:
    """What the units that each fold's others chose say of that fold."""
    if all(len(units) == 1 for units in chosen.values()):
        return fits.single(features, steps.truth, steps.fold, {fold: units[0] for fold, units in chosen.items()})
    whole = np.zeros(len(steps.fold))
    for units in {tuple(units) for units in chosen.values()}:
        fitted = _probe(steps, features[:, list(units)]).predicted
        for fold, own in chosen.items():
            if tuple(own) == units:
                whole[steps.fold == fold] = fitted[steps.fold == fold]
    return fits.Fitted(whole)


def _probe(steps: Steps, features: Any) -> fits.Fitted:
    """A linear probe of all features."""
    if steps.truth.kind != "continuous":
        return fits.logistic(steps.name, features, steps.truth, steps.fold)
    grams = {}
    for fold in np.unique(steps.fold):
        grams[int(fold)] = Gram()
        grams[int(fold)].update(features[steps.fold == fold], steps.truth.values[steps.fold == fold])
    return fits.ridge(features, steps.fold, grams)


def above(claims: Sequence[Known]) -> list[dict[str, Bounds]]:
    """How far each claim's score is above each control's on the same draws, the family being all claims against that control."""
    found: list[dict[str, Bounds]] = [{} for _ in claims]
    for control in dict.fromkeys(name for one in claims for name in one.controls):
        value = np.array([one.own.value - one.controls[control].value for one in claims])
        drawn = np.stack([one.own.drawn - one.controls[control].drawn for one in claims])
        for of, one in zip(found, of_scores(value, drawn), strict=True):
            of[control] = one
    return found
