"""Take a label out of the states, as gently as linear algebra can, and see that it is gone.

What a probe finds may be there without being used. Erasing it, and only it, is the step from *can be read* to *is needed*: run the
model on with the erased states, beside states that lost as many random directions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.eraser import Eraser, Whitened
from lstm_explain.analyses.probing.fits import majority
from lstm_explain.analyses.probing.forward import targets
from lstm_explain.analyses.probing.held_out import PIECES, Mean, ask, folds_of
from lstm_explain.analyses.probing.labels import Kind
from lstm_explain.analyses.probing.rows import Rows, rows
from lstm_explain.analyses.probing.scores import METRICS, Interval, draws, interval, score
from lstm_explain.analyses.probing.threads import one_thread
from lstm_explain.display import jsonable, percent, table
from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

SCORES = ("before", "after", "relearned", "random", "majority")
_WORDS = {
    "before": "as they are",
    "after": "erased",
    "relearned": "erased, the probe learned from other groups than the eraser",
    "random": "random directions erased",
    "majority": "not looked at: the majority, or the mean, of the other folds",
}


@dataclass(frozen=True, eq=False, repr=False)
class ErasureResult:
    """What linear probes tell of a label before and after it was erased; all scores on groups that nothing was fitted on.

    Attributes
    ----------
    eraser : Eraser
        Fitted on all steps; ``eraser.apply(states)`` erases.
    rank : int
        How many directions it takes: one for a yes-or-no label or a number, at most one less than the classes.
    before, after : Interval
        The score of a probe of the states, and of the erased states. Eraser and probe are fitted on the same groups, where by construction
        the probe finds nothing: that its score on other groups is at chance says that nothing else was left to it.
    relearned : Interval
        The same where half of the other folds fitted the eraser and the other half the probe: what can still be read of groups that the
        eraser hasn't seen. It comes down as there are more of them.
    random : Interval
        The mean score where as many random directions were erased, in place of the label's.
    majority : Interval
        The score of who says the commonest class, or the mean, of the other folds throughout: half for an AUC, and about one over the
        number of classes or 0 for the others.
    removed, removed_random : float
        The share of the units' variance (each unit's counts the same) that erasing takes, and that random directions take on average.
    random_draws : int
        Random erasures that are averaged.
    kind, metric : str
    classes : tuple of str
    units, steps, groups, folds, resamples : int
    unconverged : int
        Fits that hadn't converged.
    """

    eraser: Eraser
    rank: int
    before: Interval
    after: Interval
    relearned: Interval
    random: Interval
    majority: Interval
    removed: float
    removed_random: float
    random_draws: int
    kind: Kind
    metric: str
    classes: tuple[str, ...]
    units: int
    steps: int
    groups: int
    folds: int
    resamples: int
    unconverged: int

    def __repr__(self) -> str:
        return (
            f"<Erasure: {self.rank} of {self.units} directions, {self.metric} {self.before.value:.3f} before, "
            f"{self.after.value:.3f} after, {self.relearned.value:.3f} relearned, {self.random.value:.3f} with random ones "
            f"(majority {self.majority.value:.3f})>"
        )

    def _repr_html_(self) -> str:
        body = [(_WORDS[name], f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}") for name, one in self.intervals().items()]
        read = f"{self.steps} steps of {self.groups} groups"
        caption = f"{self.rank} of {self.units} directions erased, {percent(self.removed, 2)} of the variance; {read}"
        return table(caption, ("states", self.metric, "95 %"), body)

    def intervals(self) -> dict[str, Interval]:
        """The scores by their names."""
        return {name: getattr(self, name) for name in SCORES}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, the eraser as its arrays; None where a value isn't finite."""
        return dict(jsonable(vars(self) | {"eraser": vars(self.eraser)}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each score. Needs pandas."""
        from pandas import DataFrame

        return DataFrame(self.intervals(), index=list(Interval._fields)).T.rename_axis("states")


@one_thread()
def erase(
    states: NDArray[Any],
    labels: NDArray[Any],
    *,
    groups: Any = None,
    folds: int = 5,
    random_draws: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> ErasureResult:
    """Least-squares concept erasure (LEACE: Belrose et al. 2023, section 4), with what probes find before, after and at random.

    The eraser maps x to x - W⁺ P W (x - mean), where W whitens the states and P projects on what the whitened states share with the label
    (their covariance with a number, or with each class's indicator). Of all affine maps after which no linear probe with a convex loss
    beats the majority on these steps, it changes the states least, in whatever units that is measured.

    Parameters
    ----------
    states : ndarray ``(step, unit)``
    labels : ndarray ``(step,)``
        Booleans, whole numbers or text are classes (-1 or "" where undefined), floating-point numbers are numbers (NaN where undefined).
    groups : sequence ``(step,)``, optional
        Which sequence, file or patient each step belongs to, in one piece each: folds have whole groups, and groups are resampled. If left
        out, the steps are one series, cut into 20 pieces.
    folds : int
        At least three, since an eraser and a probe come from different ones.
    random_draws : int
        Random erasures of the same rank, for the control.
    resamples, seed : int
        Bootstrap samples of groups (Efron 1979) for intervals; for all that is drawn.

    Returns
    -------
    ErasureResult

    Raises
    ------
    InputError
        If shapes don't fit, a state isn't finite, the label has one value only, there are fewer groups than folds, or the label is
        exactly uncorrelated with every unit.

    Examples
    --------
    >>> import numpy as np, lstm_explain as lx
    >>> states = np.random.default_rng(0).normal(size=(1000, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    >>> result = lx.erase(states, states[:, 0] > 0, groups=np.arange(1000) // 20, resamples=100)
    >>> result.rank, round(result.before.value, 2), round(result.after.value, 2), result.random.value > 0.9
    (1, 1.0, 0.5, True)
    """
    if folds < 3:
        raise InputError(f"needed at least 3 folds, to fit, to learn again and to score, got {folds}")
    if min(random_draws, resamples) < 1:
        raise InputError(f"needed at least one random erasure and one resample, got {random_draws} and {resamples}")
    own = rows(states, labels, groups, pieces=PIECES)
    fold = folds_of(own, folds, seed)
    exact = own.states.astype(np.float64)
    whole = Whitened(exact)
    eraser = whole.eraser(targets(own.truth))
    if not eraser.rank:
        raise InputError(
            "needed a label that goes with some unit, got one that is exactly uncorrelated with all: there is nothing to erase"
        )
    rng = np.random.default_rng([seed, 1])
    predicted, unconverged = _predicted(exact, own, fold, random_draws, rng)
    ones, count = np.ones(len(fold), dtype=bool), int(own.groups.max()) + 1
    scores = {
        name: Mean([score(own.truth, each, own.groups, fold, count, ones) for each in several]) for name, several in predicted.items()
    }
    times = draws(count, resamples, seed)
    return ErasureResult(
        eraser=eraser,
        rank=eraser.rank,
        **{name: interval(scores[name], times) for name in SCORES},
        removed=whole.removed(eraser),
        removed_random=float(np.mean([whole.removed(whole.random(eraser.rank, rng)) for _ in range(random_draws)])),
        random_draws=random_draws,
        kind=own.truth.kind,
        metric=METRICS[own.truth.kind],
        classes=own.truth.classes,
        units=exact.shape[1],
        steps=len(fold),
        groups=count,
        folds=folds,
        resamples=resamples,
        unconverged=unconverged,
    )


def _predicted(
    states: NDArray[np.float64], own: Rows, fold: NDArray[np.int64], times: int, rng: np.random.Generator
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Held-out predictions ``(draw, step)`` of each kind; and how many fits hadn't converged."""
    truth, wanted, last = own.truth, targets(own.truth), int(fold.max())
    predicted = {name: np.zeros((times if name == "random" else 1, len(fold))) for name in SCORES}
    predicted["majority"][0] = majority(truth, fold).predicted
    unconverged = 0
    for out in range(last + 1):
        here = fold == out
        white = Whitened(states[~here])
        eraser = white.eraser(wanted[~here])
        others = [one for one in range(last + 1) if one != out]
        first = np.isin(fold, others[::2])
        again = ~here & ~first
        if min(len(np.unique(truth.values[part])) for part in (first, again)) < 2:
            raise InputError("needed two values of the label in each half of the other folds, got one: give more groups, or other folds")
        half = Whitened(states[first]).eraser(wanted[first])
        cases = [("before", 0, states, ~here), ("after", 0, eraser.apply(states), ~here), ("relearned", 0, half.apply(states), again)]
        cases += [("random", draw, white.random(eraser.rank, rng).apply(states), ~here) for draw in range(times)]
        for name, at, changed, known in cases:
            told = ask(truth, changed[known], known, changed[here], fold)
            predicted[name][at, here] = told.predicted
            unconverged += not told.converged
    return predicted, unconverged
