"""Which single units go with a label, and could that be chance?

Neighbouring steps resemble each other, in units and in labels alike, so a p-value from labels shuffled step by step is far too small
(69 % of independent pairs came out "significant" at 5 %). Here the null keeps each series as it is and only moves them against
each other: labels are shifted in a circle within their sequence, or whole groups of them change places.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, rankdata

from lstm_explain.analyses.probing.information import how_many, information
from lstm_explain.analyses.probing.labels import Kind, Truth
from lstm_explain.analyses.probing.overlap import overlap
from lstm_explain.analyses.probing.rows import rows
from lstm_explain.display import jsonable, table
from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

Null = Literal["circular_shift", "group_permutation"]
METRICS = {"binary": "AUC, either way", "categorical": "correlation ratio", "continuous": "squared correlation"}
AT_ONCE = 64
"""Permutations in one matrix product."""


@dataclass(frozen=True, eq=False, repr=False)
class UnitScoresResult:
    """How well each unit alone goes with a label.

    Attributes
    ----------
    scores : ndarray ``(unit,)``
        Yes-or-no labels: the area under the ROC curve, either way round (0.5 to 1). Numbers: the squared correlation. Categories: the
        correlation ratio, which is the share of the unit's variance between classes.
    signs : ndarray of int ``(unit,)``
        1 where the unit is higher for yes or for large numbers, -1 where it is lower; 0 for categories and constant units.
    correlation : ndarray ``(unit,)``
        Pearson's with the label, of a yes-or-no label the point-biserial one; NaN for categories, 0 for constant units.
    information : ndarray ``(unit,)``
        Mutual information with the label in bits, of equally full bins, corrected by the jackknife (Zahl 1977) and for chance (Vinh, Epps &
        Bailey 2010): 0 on average where there is none, so that it may be a little below; the label's entropy at most. Steps count as
        independent: neighbours that resemble each other raise it, which the p-values take account of and it doesn't.
    overlap : ndarray ``(unit,)``
        Yes-or-no labels: intersection over union of the yes steps and as many of the unit's highest, or lowest, steps, whichever is more
        (network dissection: Bau et al. 2017, section 2.2, at the label's prevalence); p / (2 - p) by chance. NaN for other labels.
    p_values : ndarray ``(unit,)``
        Each unit by itself, of its score.
    p_values_family : ndarray ``(unit,)``
        Against the best unit of each draw (max-statistic: Westfall & Young 1993): below α, the chance of any false unit is at most α.
    p_values_fdr : ndarray ``(unit,)``
        Benjamini & Hochberg (1995): below α, the expected share of false units among those is at most α.
        The smallest that one unit alone can have is the number of units over permutations + 1.
    kind, metric : str
    null : {"circular_shift", "group_permutation"}
    permutations : int
        The smallest p-value that can come out is 1 / (permutations + 1).
    steps : int
    bins : int
        Into how many a unit, and a label of numbers, was cut for `information`: 32, or fewer where a cell would have below 8 steps.
    constant : tuple of int
        Units that never change; their score is at chance and their p-values are 1.
    """

    scores: NDArray[np.float64]
    signs: NDArray[np.int64]
    correlation: NDArray[np.float64]
    information: NDArray[np.float64]
    overlap: NDArray[np.float64]
    p_values: NDArray[np.float64]
    p_values_family: NDArray[np.float64]
    p_values_fdr: NDArray[np.float64]
    kind: Kind
    metric: str
    null: Null
    permutations: int
    steps: int
    bins: int
    constant: tuple[int, ...]

    def __repr__(self) -> str:
        best = int(self.scores.argmax())
        chance = f"p {self.p_values_family[best]:.3g} over the family"
        shown = int((self.p_values_family <= 0.05).sum())
        constant = f"; {len(self.constant)} constant" if self.constant else ""
        return (
            f"<UnitScores: best is unit {best}, {self.metric} {self.scores[best]:.3f} ({chance}); "
            f"{shown} of {len(self.scores)} units at 5 % over the family{constant}>"
        )

    def _repr_html_(self) -> str:
        order = np.argsort(-self.scores, kind="stable")[:10]
        columns = {self.metric: self.scores, "r": self.correlation, "bits": self.information, "IoU": self.overlap}
        columns |= {"p": self.p_values, "p, family": self.p_values_family, "p, FDR": self.p_values_fdr}
        if self.kind != "binary":
            del columns["IoU"]
        if self.kind == "categorical":
            del columns["r"]
        body = [(int(unit), *(f"{column[unit]:.3g}" for column in columns.values())) for unit in order]
        caption = f"The {len(order)} best of {len(self.scores)} units over {self.steps} steps, by {self.null.replace('_', ' ')}"
        return table(caption, ("unit", *columns), body)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each unit. Needs pandas."""
        from pandas import DataFrame

        names = ("scores", "signs", "correlation", "information", "overlap", "p_values", "p_values_family", "p_values_fdr")
        return DataFrame({name: getattr(self, name) for name in names}).rename_axis("unit")


class Moved:
    """Labels, moved against the states so that nothing but their relation is lost.

    Parameters
    ----------
    runs : ndarray ``(step,)``
        Which sequence, or which group, each step belongs to.
    null : how they are moved
    """

    def __init__(self, runs: NDArray[Any], null: Null) -> None:
        self.order = np.argsort(runs, kind="stable")
        ordered = runs[self.order]
        self.begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self.lengths = np.diff([*self.begins, len(runs)])
        self.null = null

    def places(self, permutations: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Where each step's label comes from: ``(draw, step)``, so many draws at a time."""
        rng = np.random.default_rng(seed)
        begin = np.repeat(self.begins, self.lengths)
        within = np.arange(len(self.order)) - begin
        back = np.argsort(self.order, kind="stable")
        for done in range(0, permutations, AT_ONCE):
            count = min(AT_ONCE, permutations - done)
            if self.null == "circular_shift":
                shift = rng.integers(0, self.lengths, size=(count, len(self.lengths)))
                places = begin + (within - np.repeat(shift, self.lengths, axis=1)) % np.repeat(self.lengths, self.lengths)
            else:
                # Each group gets the labels of another one, over again where that one is shorter.
                other = np.stack([np.repeat(rng.permutation(len(self.begins)), self.lengths) for _ in range(count)])
                places = self.begins[other] + within % self.lengths[other]
            yield self.order[places][:, back]


def null_for(values: NDArray[Any], runs: NDArray[Any]) -> Null:
    """Shifts within sequences, unless the label stays the same throughout more than half of them."""
    _, run = np.unique(runs, return_inverse=True)
    _, codes = np.unique(values, return_inverse=True)
    highest, lowest = np.full(run.max() + 1, -1), np.full(run.max() + 1, len(values))
    np.maximum.at(highest, run, codes)
    np.minimum.at(lowest, run, codes)
    return "circular_shift" if (highest > lowest).mean() >= 0.5 else "group_permutation"


class Standing:
    """States ``(step, unit)`` made ready to be scored against many labels of one kind."""

    def __init__(self, states: NDArray[Any], kind: Kind) -> None:
        exact = states.astype(np.float64)
        self.constant = exact.min(0) == exact.max(0)
        if kind == "binary":
            self._ready = rankdata(exact, axis=0)
        else:
            centred = exact - exact.mean(0)
            self._ready = centred / np.where(self.constant, 1.0, np.sqrt((centred**2).mean(0)))
        self.kind = kind

    def statistics(self, labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
        """Each unit's score for each labelling ``(draw, step)``: ``(draw, unit)``; signed for yes-or-no (-½ to ½) and numbers (-1 to 1)."""
        n = labels.shape[1]
        if self.kind == "binary":
            yes = labels == 1
            count = yes.sum(1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray((yes.astype(np.float64) @ self._ready - count * (count + 1) / 2) / (count * (n - count)) - 0.5)
        if self.kind == "continuous":
            centred = labels - labels.mean(1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.asarray((centred / np.sqrt((centred**2).mean(1, keepdims=True))) @ self._ready / n)
        between = np.zeros((len(labels), self._ready.shape[1]))
        for one in range(classes):
            here = (labels == one).astype(np.float64)
            between += (here @ self._ready) ** 2 / np.maximum(here.sum(1, keepdims=True), 1)
        return np.asarray(between / n)


def _score(kind: Kind, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    # Groups of unequal lengths may leave a draw with one class only, which says nothing.
    statistics = np.nan_to_num(statistics, posinf=0, neginf=0)
    if kind == "categorical":
        return statistics
    return np.abs(statistics) + 0.5 if kind == "binary" else np.square(statistics)


def scores_of(states: NDArray[Any], truth: Truth, runs: NDArray[Any], null: Null | None, permutations: int, seed: int) -> UnitScoresResult:
    """`unit_scores` for a label that is defined at every step."""
    standing, classes = Standing(states, truth.kind), len(truth.classes)
    null = null or null_for(truth.values, runs)
    statistics = standing.statistics(truth.values[None], classes)[0]
    scores = _score(truth.kind, statistics)
    beaten, beaten_by_best = np.zeros(len(scores)), np.zeros(len(scores))
    # A draw that is as good but for rounding counts as as good.
    allowed = scores - 1e-12
    for places in Moved(runs, null).places(permutations, seed):
        drawn = _score(truth.kind, standing.statistics(truth.values[places], classes))
        beaten += (drawn >= allowed).sum(0)
        beaten_by_best += (drawn.max(1, keepdims=True) >= allowed).sum(0)
    p, family = (np.where(standing.constant, 1.0, (1 + count) / (1 + permutations)) for count in (beaten, beaten_by_best))
    units = np.ascontiguousarray(states.T)
    ordered = np.sort(units, axis=1)
    return UnitScoresResult(
        scores=scores,
        signs=np.zeros(len(scores), dtype=np.int64) if truth.kind == "categorical" else np.sign(statistics.round(12)).astype(np.int64),
        correlation=np.full(len(scores), np.nan) if truth.kind == "categorical" else _correlation(states, truth),
        information=information(units, ordered, truth),
        overlap=overlap(units, ordered, truth),
        p_values=p,
        p_values_family=family,
        p_values_fdr=false_discovery_control(p),
        kind=truth.kind,
        metric=METRICS[truth.kind],
        null=null,
        permutations=permutations,
        steps=len(states),
        bins=how_many(truth),
        constant=tuple(np.flatnonzero(standing.constant).tolist()),
    )


def _correlation(states: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
    return np.asarray(Standing(states, "continuous").statistics(truth.values[None].astype(np.float64), 0)[0])


def unit_scores(
    states: NDArray[Any], labels: NDArray[Any], *, groups: Any = None, null: Null | None = None, permutations: int = 999, seed: int = 0
) -> UnitScoresResult:
    """How well each unit alone goes with a label, with p-values that autocorrelation doesn't inflate.

    Parameters
    ----------
    states : ndarray ``(step, unit)``
        For example cell states, sequence after sequence.
    labels : ndarray ``(step,)``
        Booleans, whole numbers or text are classes (-1 or "" where undefined), floating-point numbers are numbers (NaN where undefined).
    groups : sequence ``(step,)``, optional
        Which sequence, file or patient each step belongs to, in one piece each; all of one if left out.
    null : {"circular_shift", "group_permutation"}, optional
        How labels are moved against states: shifted in a circle within each group, or each group gets the labels of another. If left
        out, shifted, unless the label stays the same throughout more than half of the groups. A shift is exact for series that are
        stationary; where states and labels both drift from the same beginning in every group, it finds too much.
    permutations : int
    seed : int

    Returns
    -------
    UnitScoresResult

    Raises
    ------
    InputError
        If shapes don't fit, a state isn't finite, the label has one value only, every unit is constant, or there is nothing to permute.

    Examples
    --------
    >>> import numpy as np, lstm_explain as lx
    >>> rng = np.random.default_rng(0)
    >>> states = rng.normal(size=(400, 8)).cumsum(0)
    >>> lx.unit_scores(states, states[:, 5] > states[:, 5].mean()).scores.argmax()
    np.int64(5)
    """
    if null not in (None, "circular_shift", "group_permutation"):
        raise InputError(f"needed null as circular_shift or group_permutation, got {null!r}")
    if permutations < 1:
        raise InputError(f"needed at least one permutation, got {permutations}")
    states, truth, runs = rows(states, labels, groups)
    constant = np.flatnonzero(states.min(0) == states.max(0))
    if len(constant):
        warnings.warn(f"{len(constant)} of {states.shape[1]} units never change and are at chance: {constant[:8].tolist()}", stacklevel=2)
    null = null or null_for(truth.values, runs)
    if null == "group_permutation" and len(np.unique(runs)) < 2:
        raise InputError("needed at least two groups to permute, got one: give groups=, or shift in a circle")
    return scores_of(states, truth, runs, null, permutations, seed)
