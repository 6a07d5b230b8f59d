"""How many units carry a label?

One unit may hold it, or it may take all of them. A linear probe of all units doesn't say; a probe that may look at few of them does,
beside an untrained network's probe that chose as freely.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.forward import forward
from lstm_explain.analyses.probing.held_out import PIECES, Mean, ask, folds_of
from lstm_explain.analyses.probing.labels import Kind
from lstm_explain.analyses.probing.rows import Rows, rows
from lstm_explain.analyses.probing.scores import LEVEL, METRICS, Interval, Score, draws, interval, score
from lstm_explain.analyses.probing.threads import one_thread
from lstm_explain.display import jsonable, table
from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

UNTRAINED = "untrained"


@dataclass(frozen=True, eq=False, repr=False)
class SparseProbeResult:
    """A probe's held-out score against the number of units it may look at.

    Attributes
    ----------
    counts : tuple of int
        Numbers of units.
    scores : tuple of Interval
        Of each count, on groups that neither chose the units nor fitted the probe; bootstrap intervals over groups at 95 %.
    chosen : ndarray of int ``(fold, rank)``
        Which units the other folds chose, in order; a count has the first so many.
    fewest : int
        The smallest count whose score is within the interval of the best count's: the number of units that carry the label, as far as
        these groups can tell. Where `above_chance` is false, none do.
    above_chance : bool
        Whether the best count's score is above chance, of so many counts that might have been the best: by an interval that holds for all
        of them at once.
    untrained : tuple of Interval
        The twins' mean score of each count; empty without twins.
    above : tuple of Interval
        How far the states' score of each count is above the twins', on the same samples of groups, with intervals that hold for all counts
        at once; empty without twins. By the largest excess of any count's score over its mean in each sample (Romano & Wolf 2005), and
        wider for few groups, of which samples vary too little, as Student's t is (Hesterberg 2015).
    fewest_untrained : int or None
        The same as `fewest` of the twins' mean.
    twins : int
    kind, metric : str
    classes : tuple of str
    units, steps, groups, folds, resamples : int
    unconverged : int
        Fits that hadn't converged.
    """

    counts: tuple[int, ...]
    scores: tuple[Interval, ...]
    chosen: NDArray[np.int64]
    fewest: int
    above_chance: bool
    untrained: tuple[Interval, ...]
    above: tuple[Interval, ...]
    fewest_untrained: int | None
    twins: int
    kind: Kind
    metric: str
    classes: tuple[str, ...]
    units: int
    steps: int
    groups: int
    folds: int
    resamples: int
    unconverged: int

    @property
    def best(self) -> int:
        """The count with the highest score."""
        return self.counts[_best(self.scores)]

    @property
    def chance(self) -> float:
        """What a probe that knows nothing scores."""
        return _chance(self.kind, self.classes)

    def score_of(self, count: int) -> Interval:
        """The score of one of the counts.

        Raises
        ------
        InputError
            If it was not asked for.
        """
        if count not in self.counts:
            raise InputError(f"needed one of the counts {', '.join(map(str, self.counts))}, got {count}")
        return self.scores[self.counts.index(count)]

    def __repr__(self) -> str:
        few, best = self.score_of(self.fewest), self.score_of(self.best)
        carried = "" if self.above_chance else "; no count is above chance"
        twins = f"; untrained {self.untrained[self.counts.index(self.fewest)].value:.3f} with as many" if self.twins else "; not controlled"
        return (
            f"<SparseProbe: {self.fewest} of {self.units} units, {self.metric} {few.value:.3f}, within the interval of the best "
            f"({self.best} units, {best.value:.3f}: {best.low:.3f} to {best.high:.3f}){carried}{twins}>"
        )

    def _repr_html_(self) -> str:
        header = ["units", self.metric, "95 %"] + ["untrained", "above it, 95 %"] * bool(self.twins)
        body = []
        for at, count in enumerate(self.counts):
            row = [count, f"{self.scores[at].value:.3f}", _range(self.scores[at])]
            if self.twins:
                row += [f"{self.untrained[at].value:.3f}", _range(self.above[at])]
            body.append(row)
        caption = f"{self.fewest} of {self.units} units are within the interval of the best; {self.steps} steps of {self.groups} groups"
        return table(caption, header, body)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers, intervals as value, low and high; None where a value isn't finite."""
        return dict(jsonable(vars(self) | {"best": self.best, "chance": self.chance}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each count. Needs pandas."""
        from pandas import DataFrame

        columns = {f"score_{part}": [getattr(one, part) for one in self.scores] for part in Interval._fields}
        for name in ("untrained", "above") if self.twins else ():
            columns |= {f"{name}_{part}": [getattr(one, part) for one in getattr(self, name)] for part in Interval._fields}
        return DataFrame(columns, index=list(self.counts)).rename_axis("units")


@one_thread()
def sparse_probe(
    states: NDArray[Any],
    labels: NDArray[Any],
    *,
    groups: Any = None,
    controls: Mapping[str, Any] | None = None,
    counts: Sequence[int] | None = None,
    folds: int = 5,
    resamples: int = 1000,
    seed: int = 0,
) -> SparseProbeResult:
    """How well 1, 2, 4, 8, ... units tell a label together, chosen and fitted on other groups than those that are scored.

    Units are chosen forward, by least squares: each next one is the one that, with those before, explains most of the label (Efroymson
    1960), for classes of the indicator of each, weighted as in linear discriminants. So every count is met exactly, smaller choices are
    part of larger ones, and a unit that repeats a chosen one comes late. The path of an l1 penalty (Tibshirani 1996) skips counts and takes
    several units that say the same: of 32 units that are eight noisy copies each of four parts of a label, at most four by the path told it
    with an AUC of 0.71, four chosen forward with 0.91. Only trying all subsets finds the best: the number is an upper bound for a linear
    probe.

    Parameters
    ----------
    states : ndarray ``(step, unit)``
    labels : ndarray ``(step,)``
        Booleans, whole numbers or text are classes (-1 or "" where undefined), floating-point numbers are numbers (NaN where undefined).
    groups : sequence ``(step,)``, optional
        Which sequence, file or patient each step belongs to, in one piece each: folds have whole groups, and groups are resampled. If left
        out, the steps are one series, cut into 20 pieces.
    controls : mapping, optional
        ``"untrained"``: the states ``(step, unit)`` of an untrained twin (`lx.untrained`) at the same steps, or a list of those of several.
    counts : sequence of int, optional
        Numbers of units; the powers of two and all units if left out.
    folds, resamples, seed : int
        Of whole groups; bootstrap samples of groups (Efron 1979); for both.

    Returns
    -------
    SparseProbeResult

    Raises
    ------
    InputError
        If shapes don't fit, a state isn't finite, the label has one value only, or there are fewer groups than folds.

    Examples
    --------
    >>> import numpy as np, lstm_explain as lx
    >>> states = np.random.default_rng(0).normal(size=(1000, 16))
    >>> result = lx.sparse_probe(states, states[:, 3] + states[:, 7] > 0, groups=np.arange(1000) // 20, resamples=100)
    >>> result.fewest, sorted(result.chosen[0, :2].tolist())
    (2, [3, 7])
    """
    if unknown := sorted(set(controls or ()) - {UNTRAINED}):
        raise InputError(f"needed controls named {UNTRAINED}, got {unknown[0]!r}")
    if resamples < 1:
        raise InputError(f"needed at least one resample, got {resamples}")
    own = rows(states, labels, groups, pieces=PIECES)
    units = own.states.shape[1]
    twins = [_twin(twin, np.shape(states), labels, groups) for twin in _several((controls or {}).get(UNTRAINED))]
    asked = tuple(sorted({2**power for power in range(units.bit_length())} | {units} if counts is None else {int(one) for one in counts}))
    if not asked or asked[0] < 1 or asked[-1] > units:
        raise InputError(f"needed counts from 1 to the {units} units, got {list(asked)}")
    fold = folds_of(own, folds, seed)
    count = int(own.groups.max()) + 1
    times = draws(count, resamples, seed)
    curves, chosen, unconverged = _curves(own, fold, asked, count)
    scores = tuple(interval(one, times) for one in curves)
    of_twins = []
    for twin in twins:
        found, _, failed = _curves(twin, fold, asked, count)
        of_twins.append(found)
        unconverged += failed
    means = [Mean(list(each)) for each in zip(*of_twins, strict=True)]
    untrained = tuple(interval(one, times) for one in means)
    return SparseProbeResult(
        counts=asked,
        scores=scores,
        chosen=chosen,
        fewest=asked[fewest_within(scores)],
        above_chance=max(one.low for one in at_once(curves, times)) > _chance(own.truth.kind, own.truth.classes),
        untrained=untrained,
        above=at_once(curves, times, means) if twins else (),
        fewest_untrained=asked[fewest_within(untrained)] if twins else None,
        twins=len(twins),
        kind=own.truth.kind,
        metric=METRICS[own.truth.kind],
        classes=own.truth.classes,
        units=units,
        steps=len(fold),
        groups=count,
        folds=folds,
        resamples=resamples,
        unconverged=unconverged,
    )


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    if not len(given):
        raise InputError("needed untrained states, got none: give those of at least one twin")
    # A list of two-dimensional arrays, or one of them.
    return [given] if np.ndim(given[0]) < 2 else list(given)


def _twin(states: Any, shape: tuple[int, ...], labels: Any, groups: Any) -> Rows:
    if np.shape(states) != shape:
        raise InputError(f"needed untrained states of the shape {shape} of the trained ones, got {np.shape(states)}")
    return rows(states, labels, groups, pieces=PIECES)


def _curves(rows: Rows, fold: NDArray[np.int64], counts: tuple[int, ...], groups: int) -> tuple[list[Score], NDArray[np.int64], int]:
    """The score of each count, the units that were chosen ``(fold, rank)``, and how many fits hadn't converged."""
    states, truth = rows.states.astype(np.float64), rows.truth
    chosen = forward(states, truth, fold, counts[-1])
    predicted, unconverged = np.zeros((len(counts), len(fold))), 0
    for out, order in enumerate(chosen):
        here = fold == out
        for at, count in enumerate(counts):
            few = order[:count]
            told = ask(truth, states[np.ix_(~here, few)], ~here, states[np.ix_(here, few)], fold)
            predicted[at, here] = told.predicted
            unconverged += not told.converged
    everywhere = np.ones(len(fold), dtype=bool)
    return [score(truth, one, rows.groups, fold, groups, everywhere) for one in predicted], chosen, unconverged


def _chance(kind: Kind, classes: tuple[str, ...]) -> float:
    return {"binary": 0.5, "categorical": 1 / max(1, len(classes)), "continuous": 0.0}[kind]


def at_once(curves: list[Score], times: NDArray[np.float64], others: Sequence[Score] = ()) -> tuple[Interval, ...]:
    """Of each count its score, or how far it is above another, with intervals that hold for all counts at once, at 95 %."""
    from scipy.stats import norm, t

    def of(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        own = np.stack([one(drawn) for one in curves])
        return own - np.stack([one(drawn) for one in others]) if others else own

    groups, side = times.shape[1], (1 + LEVEL) / 2
    value = of(np.ones((1, groups)))
    drawn = of(times)
    drawn = drawn[:, np.isfinite(drawn).all(0)]
    # About their own mean: a group drawn twice is also ranked against itself, which draws scores towards chance.
    excess = drawn - drawn.mean(1, keepdims=True)
    wider = np.sqrt(groups / (groups - 1)) * t.ppf(side, groups - 1) / norm.ppf(side)
    below, above = (wider * np.quantile((sign * excess).max(0), side) for sign in (1, -1))
    return tuple(Interval(float(one), float(one - below), float(one + above)) for one in value[:, 0])


def _best(scores: tuple[Interval, ...]) -> int:
    return int(np.nan_to_num([one.value for one in scores], nan=-np.inf).argmax())


def fewest_within(scores: tuple[Interval, ...]) -> int:
    """The place of the first score that is within the interval of the best one."""
    best = scores[_best(scores)]
    return next((at for at, one in enumerate(scores) if one.value >= best.low), 0)


def _range(one: Interval) -> str:
    return f"{one.low:.3f} to {one.high:.3f}"
