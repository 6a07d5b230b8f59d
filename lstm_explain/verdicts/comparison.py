"""Do several attributions of the same outputs agree?

Attributions by different methods may all add up and still name different steps (Krishna et al. 2022). Where they agree that says little,
since they may be wrong together; where they don't, at most one of them is to be believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import quantile_test

from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import jsonable, number, percent, table
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding
from lstm_explain.verdicts.agreement import overlap, spearman

if TYPE_CHECKING:
    from pandas import DataFrame

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far pairs of attributions agree; NaN where it isn't defined.

    Attributes
    ----------
    by_sequence : ndarray ``(result, result, batch)``
    median, low, high : ndarray ``(result, result)``
        The median over sequences, and its 95 % interval by order statistics, which covers at least as often whatever the values are like
        (Conover 1999, "Practical nonparametric statistics", section 3.2); of fewer than six sequences there is none.
    """

    by_sequence: NDArray[np.float64]
    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def interval(self, one: int, other: int) -> str:
        """The interval of a pair, for people."""
        ends = float(self.low[one, other]), float(self.high[one, other])
        return "[too few sequences]" if np.isnan(ends).any() else f"[{ends[0]:z.2f}, {ends[1]:z.2f}]"


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult:
    """Several attributions of the same outputs, and how far they agree.

    Attributes
    ----------
    names : tuple of str ``(result,)``
    by_step : ndarray ``(result, batch, time)``
        Attributions of steps, in units of the output.
    valid : ndarray of bool ``(batch, time)``
    output : ndarray ``(batch,)``
    explained : tuple of str ``(batch,)``
    signed : Agreement
        Spearman's rank correlation of the attributions over each sequence's steps.
    size : Agreement
        The same of their sizes.
    overlap : Agreement
        Which share of the `fraction` of steps with the largest sizes two have in common.
    chance : float
        The share that random attributions would have in common, on average over sequences.
    fraction : float
    residual, residual_median : ndarray ``(result,)``
        The largest residual of each, and the median over sequences, as a share of the difference of outputs; NaN for a method that
        explains no difference.
    converged : tuple of (int or None) ``(result,)``
        For how many sequences it is within the tolerance; None for a method that doesn't claim to add up.
    padding
    """

    names: tuple[str, ...]
    by_step: NDArray[np.float64]
    valid: NDArray[np.bool_]
    output: NDArray[np.float64]
    explained: tuple[str, ...]
    signed: Agreement
    size: Agreement
    overlap: Agreement
    chance: float
    fraction: float
    residual: NDArray[np.float64]
    residual_median: NDArray[np.float64]
    converged: tuple[int | None, ...]
    padding: Padding

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.names)), 2))

    def __repr__(self) -> str:
        least = min(self._pairs, key=lambda pair: np.nan_to_num(self.signed.median[pair], nan=2.0))
        first, second = (self.names[at] for at in least)
        return (
            f"<Comparison of {', '.join(self.names)}: {first} and {second} agree least, median rank correlation "
            f"{self.signed.median[least]:+.2f} {self.signed.interval(*least)}, {percent(self.overlap.median[least])} of the first "
            f"{percent(self.fraction)} of steps in common (by chance {percent(self.chance)}), {number(len(self.valid))} sequences; padding "
            f"{self.padding}>"
        )

    def check(self, at: int) -> str:
        """What a result's residual says, in words."""
        if np.isnan(self.residual[at]):
            return "doesn't claim to add up"
        within = self.converged[at]
        claim = "doesn't claim to add up" if within is None else f"within tolerance for {within} of {len(self.valid)}"
        return f"residual {self.residual_median[at]:.1e} at the median, {self.residual[at]:.1e} at most, {claim}"

    def _repr_html_(self) -> str:
        rows = []
        for pair in self._pairs:
            cells = (f"{of.median[pair]:+.2f} {of.interval(*pair)}" for of in (self.signed, self.size, self.overlap))
            rows.append((f"{self.names[pair[0]]}, {self.names[pair[1]]}", *cells))
        checks = "; ".join(f"{name}: {self.check(at)}" for at, name in enumerate(self.names))
        caption = f"Medians over {number(len(self.valid))} sequences, 95 % in brackets; {checks}; padding {self.padding}"
        first = f"first {percent(self.fraction)} in common (by chance {percent(self.chance)})"
        return table(caption, ("attributions", "rank correlation", "of sizes", first), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        agreements = {name: vars(getattr(self, name)) for name in ("signed", "size", "overlap")}
        return dict(jsonable(vars(self) | agreements))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each valid step of each sequence and a column for each result. Needs pandas."""
        from pandas import DataFrame

        example, step = np.nonzero(self.valid)
        return DataFrame({"example": example, "step": step} | {name: self.by_step[at][self.valid] for at, name in enumerate(self.names)})


def compare_attributions(
    results: Mapping[str, AttributionResult] | Sequence[AttributionResult], *, fraction: float = 0.1
) -> ComparisonResult:
    """Several attributions of the same outputs, side by side.

    Parameters
    ----------
    results : mapping of str to AttributionResult, or sequence of them
        By name, or named by their methods; of the same outputs of the same sequences.
    fraction : float
        How many steps count as the first ones: this share, rounded up.

    Returns
    -------
    ComparisonResult

    Raises
    ------
    InputError
        If there are fewer than two, or they explain different outputs.

    References
    ----------
    Krishna et al. 2022, "The disagreement problem in explainable machine learning" (rank correlation, agreement of the first features).

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model, x = torch.nn.LSTM(3, 8, batch_first=True), torch.randn(4, 10, 3)
    >>> both = {method: lx.attribute(model, x, target=(-1, 2), method=method) for method in ("integrated_gradients", "occlusion")}
    >>> lx.compare_attributions(both).signed.median.shape
    (2, 2)
    """
    named = _named(results)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise InputError(f"needed fraction above 0 and at most 1, got {fraction!r}")
    first_name, first = next(iter(named.items()))
    for name, result in named.items():
        _check_same(first_name, first, name, result)
    each, valid = [result.by_step for result in named.values()], first.valid
    batch = len(valid)
    signed, size, common = np.full((3, len(each), len(each), batch), np.nan)
    chance = np.zeros(batch)
    for one, other in ((a, b) for a in range(len(each)) for b in range(a, len(each))):
        signed[one, other] = signed[other, one] = spearman(each[one], each[other], valid)
        size[one, other] = size[other, one] = spearman(np.abs(each[one]), np.abs(each[other]), valid)
        shared, chance = overlap(each[one], each[other], valid, fraction)
        common[one, other] = common[other, one] = shared
    deltas = [result.relative_delta for result in named.values()]
    return ComparisonResult(
        names=tuple(named),
        by_step=np.stack(each),
        valid=valid,
        output=first.output,
        explained=first.explained,
        signed=_agreement(signed),
        size=_agreement(size),
        overlap=_agreement(common),
        chance=float(chance.mean()),
        fraction=float(fraction),
        residual=np.array([np.nan if delta is None else float(delta.max()) for delta in deltas]),
        residual_median=np.array([np.nan if delta is None else float(np.median(delta)) for delta in deltas]),
        converged=tuple(None if result.converged is None else int(result.converged.sum()) for result in named.values()),
        padding=first.padding,
    )


def _named(results: Any) -> dict[str, AttributionResult]:
    if isinstance(results, Mapping):
        named = {str(name): result for name, result in results.items()}
    elif isinstance(results, Sequence) and not isinstance(results, str):
        wrong = [result for result in results if not isinstance(result, AttributionResult)]
        if wrong:
            raise InputError(f"needed what lx.attribute returned, got {type(wrong[0]).__name__}")
        named = {result.method: result for result in results}
        if len(named) < len(results):
            raise InputError("needed attributions by different methods, got one twice: give them by name, as {name: result}")
    else:
        raise InputError(f"needed attributions as a mapping from names or a sequence, got {type(results).__name__}")
    for name, result in named.items():
        if not isinstance(result, AttributionResult):
            raise InputError(f"needed what lx.attribute returned for {name!r}, got {type(result).__name__}")
        if not np.isfinite(result.attributions).all():
            raise InputError(f"needed finite attributions, got NaN or infinity in {name!r}")
    if len(named) < 2:
        raise InputError(f"needed at least two attributions to compare, got {len(named)}")
    return named


def _check_same(first_name: str, first: AttributionResult, name: str, result: AttributionResult) -> None:
    if result.valid.shape != first.valid.shape or (result.valid != first.valid).any():
        raise InputError(
            f"needed attributions of the same steps, got others in {name!r} than in {first_name!r}: give both the same lengths"
        )
    if result.explained != first.explained:
        raise InputError(
            f"needed attributions of the same outputs, got {result.explained[0]} in {name!r}, {first.explained[0]} in {first_name!r}"
        )
    gap = float(np.abs(result.output - first.output).max())
    # Two precisions, or two batches, may be rounded otherwise.
    if not gap <= 1e-3 * max(1.0, float(np.abs(first.output).max())):
        raise InputError(f"needed attributions of the same outputs, got outputs that differ by {gap:.2g} in {name!r} and {first_name!r}")


def _agreement(values: NDArray[np.float64]) -> Agreement:
    count = len(values)
    median, low, high = np.full((3, count, count), np.nan)
    for one, other in ((a, b) for a in range(count) for b in range(count)):
        known = values[one, other][np.isfinite(values[one, other])]
        if not len(known):
            continue
        median[one, other] = np.median(known)
        low[one, other], high[one, other] = quantile_test(known, p=0.5).confidence_interval(LEVEL)
    return Agreement(values, median, low, high)
