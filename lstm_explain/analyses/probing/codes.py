"""The online code of a label: what each portion costs, with states and without.

Several labellings of the same steps are coded side by side, since what a probe needs to know of the states is the same for all.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

from lstm_explain.analyses.probing.fits import regressed
from lstm_explain.analyses.probing.labels import Kind, Truth

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
CELLS = 32
"""Cells in a standard deviation of a number."""


class Code(NamedTuple):
    """What both ends know beforehand.

    Attributes
    ----------
    kind : str
    classes : int
    low, high : float
        The smallest and the largest number.
    resolution : float
    penalties : tuple of float
    """

    kind: Kind
    classes: int
    low: float
    high: float
    resolution: float
    penalties: tuple[float, ...]

    @classmethod
    def of(cls, truth: Truth, penalties: tuple[float, ...], resolution: float | None) -> Self:
        """The code for a label."""
        if truth.kind != "continuous":
            return cls(truth.kind, len(truth.classes), np.nan, np.nan, np.nan, penalties)
        y = truth.values
        return cls(truth.kind, 0, float(y.min()), float(y.max()), resolution or float(y.std()) / CELLS, penalties)

    @property
    def uniform(self) -> float:
        """Bits for a step of which nothing is known."""
        cells = self.classes if self.kind != "continuous" else (self.high - self.low) / self.resolution + 1
        return float(np.log2(cells))


class Lengths(NamedTuple):
    """What labellings cost.

    Attributes
    ----------
    bits, reference : ndarray ``(draw, portion)``
        With states and without.
    probes : ndarray ``(draw, penalty)``
        All by each probe alone.
    unconverged : int
        Fits.
    """

    bits: NDArray[np.float64]
    reference: NDArray[np.float64]
    probes: NDArray[np.float64]
    unconverged: int


def code_lengths(x: NDArray[np.float64], y: NDArray[Any], ends: NDArray[np.int64], code: Code) -> Lengths:
    """Code labellings ``(draw, step)`` given states ``(step, unit)`` in portions that end after so many steps."""
    draws, probes = len(y), len(code.penalties)
    bits, reference = np.full((draws, len(ends)), ends[0] * code.uniform), np.full((draws, len(ends)), ends[0] * code.uniform)
    spent, unconverged = np.zeros((draws, 1 + probes)), 0
    errors = np.full((draws, probes), np.nan)
    for portion, (begin, end) in enumerate(zip(ends, ends[1:], strict=False), start=1):
        known, next_ = y[:, :begin], y[:, begin:end]
        before, here = _standardised(x[:begin], x[begin:end])
        if code.kind == "continuous":
            mean, variance = _moments(known, code)
            alone = _normal(next_, mean[:, None], variance, code)
            predicted = _ridge(before, known, here, code.penalties)
            squares = ((next_[:, None] - predicted) ** 2).mean(2)
            # Before a probe has been asked anything, its errors may be as large as those without states.
            assumed = np.where(np.isnan(errors), variance[:, None], np.maximum(errors, code.resolution**2 / 12))
            lengths = np.stack([_normal(next_, predicted[:, one], assumed[:, one], code) for one in range(probes)], axis=1)
            errors = squares
        else:
            alone, lengths, failed = _classes(before, known, here, next_, code)
            unconverged += failed
        costs = np.concatenate([alone[:, None], lengths], axis=1)
        bits[:, portion] = _mixed(spent + costs) - _mixed(spent)
        reference[:, portion] = alone
        spent += costs
    return Lengths(bits, reference, ends[0] * code.uniform + spent[:, 1:], unconverged)


def _mixed(spent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of an even mixture of codes ``(draw, code)``: -log2 of their mean probability."""
    return np.asarray(np.log2(spent.shape[1]) - logsumexp(-spent * np.log(2), axis=1) / np.log(2))


def _standardised(before: NDArray[np.float64], here: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both by the mean and deviation of what came before; a unit that was constant there says nothing here."""
    mean, alive = before.mean(0), before.min(0) < before.max(0)
    scale = np.where(alive, before.std(0), np.inf)
    return (before - mean) / scale, (here - mean) / scale


def _moments(known: NDArray[np.float64], code: Code) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance ``(draw,)`` of what came before and one step of the uniform distribution."""
    steps, middle = known.shape[1] + 1, (code.low + code.high) / 2
    mean = (known.sum(1) + middle) / steps
    squares = ((known - mean[:, None]) ** 2).sum(1) + (middle - mean) ** 2 + (code.high - code.low) ** 2 / 12
    return mean, squares / steps


def _normal(y: NDArray[np.float64], mean: NDArray[np.float64], variance: NDArray[np.float64], code: Code) -> NDArray[np.float64]:
    """Bits ``(draw,)`` of numbers ``(draw, step)``, each to the code's resolution, by normal distributions."""
    deviation = np.sqrt(variance)[:, None]
    # By symmetry in the lower tail, where the logarithm of the distribution is exact.
    upper = (code.resolution / 2 - np.abs(y - mean)) / deviation
    lower = upper - code.resolution / deviation
    far = log_ndtr(upper)
    return np.asarray(-(far + np.log1p(-np.exp(log_ndtr(lower) - far))).sum(1) / np.log(2))


def _ridge(
    before: NDArray[np.float64], known: NDArray[np.float64], here: NDArray[np.float64], penalties: tuple[float, ...]
) -> NDArray[np.float64]:
    """Predictions ``(draw, penalty, step)`` by ridge regression (Hoerl & Kennard 1970)."""
    mean = known.mean(1, keepdims=True)
    left, size, right = np.linalg.svd(before, full_matrices=False)
    onto = (known - mean) @ left
    shrunk = size / (size**2 + np.array(penalties)[:, None])
    return np.asarray((onto[:, None] * shrunk) @ (right @ here.T) + mean[:, None])


def _classes(
    before: NDArray[np.float64], known: NDArray[Any], here: NDArray[np.float64], next_: NDArray[Any], code: Code
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Bits without states ``(draw,)``, of each probe ``(draw, penalty)``; and how many fits hadn't converged."""
    alone, lengths, unconverged = np.zeros(len(known)), np.zeros((len(known), len(code.penalties))), 0
    for draw, (seen, wanted) in enumerate(zip(known, next_, strict=True)):
        counts = np.bincount(seen, minlength=code.classes)
        shares = np.log((counts + 1) / (len(seen) + code.classes))
        alone[draw] = lengths[draw] = -shares[wanted].sum() / np.log(2)
        there = np.flatnonzero(counts)
        if len(there) < 2:
            continue
        log_p = np.tile(shares, (len(wanted), 1))
        for one, penalty in enumerate(code.penalties):
            decision, converged = _logistic(before, seen, here, penalty)
            unconverged += not converged
            # Classes that came before share what those that didn't leave.
            log_p[:, there] = decision - logsumexp(decision, axis=1, keepdims=True) + logsumexp(shares[there])
            lengths[draw, one] = -log_p[np.arange(len(wanted)), wanted].sum() / np.log(2)
    return alone, lengths, unconverged


def _logistic(
    before: NDArray[np.float64], seen: NDArray[np.int64], here: NDArray[np.float64], penalty: float
) -> tuple[NDArray[np.float64], bool]:
    """Log-odds ``(step, class)`` of the classes that were seen, by logistic regression; and whether it converged."""
    probe, converged = regressed(before, seen, 1 / penalty)
    decision, two = probe.decision_function(here), len(probe.classes_) == 2
    return np.stack([np.zeros_like(decision), decision], axis=1) if two else decision, converged
