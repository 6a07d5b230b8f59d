"""Sums that merge, and firsts: the only state that a streaming analysis has.

Integer counts and float64 sums, never means, so that any split into whole sequences, in any order, gives the same counts
exactly and the same sums to rounding; and the first entries in a total order, which are the same ones exactly.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.errors import InputError
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import Tally


def tally(
    signal: Tensor,
    valid: Tensor,
    *,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    edges: NDArray[np.float64] | None = None,
    ln: bool = False,
) -> Tally:
    """What a signal ``(batch, time, unit)`` comes to at the steps that are valid, ``(batch, time)``.

    Parameters
    ----------
    low, high : sequence of float
        As many of each, at most four: how often a value is below, and above.
    edges : ndarray ``(bin + 1,)``, optional
        Of equal bins, the last of which holds its right edge too; what lies outside is left out.
    ln : bool
        Whether the sum of logarithms is wanted.
    """
    rounded = None if edges is None else torch.as_tensor(edges).to(signal.dtype)
    if native.serves(signal) and valid.is_cpu and signal.stride(2) == 1:
        below, above = (torch.tensor(list(ends), dtype=signal.dtype) for ends in (low, high))
        return native.tally(signal, valid, below, above, rounded, ln=ln)
    values = signal[valid]
    finite = values.isfinite()
    nonfinite = count(~finite)
    counted = values.where(finite, 0.0) if nonfinite.any() else values
    shape = (len(low), signal.shape[2])
    histogram = None
    if edges is not None:
        exact = values[finite].to(torch.promote_types(values.dtype, torch.float32)).cpu().numpy()
        histogram = np.histogram(exact, len(edges) - 1, (float(edges[0]), float(edges[-1])))[0].astype(np.int64)
    return Tally(
        nonfinite,
        np.array([count(values < end) for end in low], np.int64).reshape(shape),
        np.array([count(values > end) for end in high], np.int64).reshape(shape),
        total(counted),
        total(counted.double().square()),
        total(values.double().log()) if ln else None,
        histogram,
    )


def count(mask: Tensor) -> NDArray[np.int64]:
    """How often each unit of a mask ``(step, unit)`` is true: ``(unit,)``."""
    # As bytes into int32: several times faster than summing booleans, and exact below 2^31 steps.
    return mask.view(torch.uint8).sum(0, dtype=torch.int32).cpu().numpy().astype(np.int64)


def total(values: Tensor) -> NDArray[np.float64]:
    """The sum of each unit of ``(step, unit)`` in float64: ``(unit,)``."""
    result: NDArray[np.float64] = values.sum(0, dtype=torch.float64).cpu().numpy()
    return result


class Sums:
    """Named arrays that add up: counts (int64) and sums (float64).

    Equal keys add; a key that only one side has is taken over.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def add(self, name: str, values: NDArray[np.int64] | NDArray[np.float64] | int) -> None:
        """Add an array (or an integer) to the one of that name."""
        array = np.asarray(values)
        self._arrays[name] = self._arrays[name] + array if name in self._arrays else array.copy()

    def merge(self, other: Self) -> None:
        """Add all of another's arrays."""
        for name, array in other._arrays.items():
            self.add(name, array)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays


class Gram:
    """All that a least-squares fit of a target to features, and its error on the same steps, need: sums of products.

    Attributes
    ----------
    n : int
        Steps.
    x, y : ndarray ``(feature,)``, float
        Sums of the features and of the target.
    xx, xy, yy : ndarray ``(feature, feature)``, ``(feature,)``, float
        Sums of their products.
    """

    def __init__(self) -> None:
        self.n, self.y, self.yy = 0, 0.0, 0.0
        self.x, self.xy, self.xx = np.zeros(0), np.zeros(0), np.zeros((0, 0))

    def update(self, features: Any, target: NDArray[np.float64], products: NDArray[np.float64] | None = None) -> None:
        """Add steps: features ``(step, feature)``, dense or sparse, in float64; `products` is their own, where it is known already."""
        xx = self.products(features) if products is None else products
        x = np.asarray(features.sum(0), dtype=np.float64).ravel()
        self._add(len(target), x, float(target.sum()), xx, np.asarray(features.T @ target).ravel(), float(target @ target))

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self._add(other.n, other.x, other.y, other.xx, other.xy, other.yy)

    def pad(self, size: int) -> None:
        """Make room for features that weren't seen: they were zero at every step."""
        size = max(size, len(self.x))
        self.x, self.xy, self.xx = (_grown(own, size) for own in (self.x, self.xy, self.xx))

    @staticmethod
    def products(features: Any) -> NDArray[np.float64]:
        """The sum of the products of features, dense."""
        product = features.T @ features
        return np.asarray(product.toarray() if hasattr(product, "toarray") else product, dtype=np.float64)

    def _add(self, n: int, x: NDArray[Any], y: float, xx: NDArray[Any], xy: NDArray[Any], yy: float) -> None:
        self.pad(len(x))
        size = len(self.x)
        self.n, self.y, self.yy = self.n + n, self.y + y, self.yy + yy
        self.x, self.xy, self.xx = self.x + _grown(x, size), self.xy + _grown(xy, size), self.xx + _grown(xx, size)


FEWEST = 10
"""Sequences from which on chance is known: of fewer, even two units that are the same get the same signs throughout too often."""


class Moments:
    """Sums of units and of their products, for covariances: of the units as they are, and of what they have in common by chance.

    Chance is units that are each turned upside down, about their mean, in some sequences and not in others: that keeps each path as it is,
    however slowly it drifts, and leaves to chance with which others it goes. It is exact for sequences that have nothing to do with each
    other and units that are as likely to go up as down. It takes `FEWEST` sequences: of fewer nothing is drawn.

    Sums are taken about a reference, the first sequence's mean, and brought to one when streams merge: of a unit that moves by 1e-6
    around 50 they would otherwise keep nothing.

    Parameters
    ----------
    draws : int
    seed : int

    Attributes
    ----------
    n : int
        Steps.
    reference, sums, low, high : ndarray ``(unit,)``
        What is taken off each unit, what is left in all, and the smallest and largest value.
    products : ndarray ``(unit, unit)``
    turned : ndarray ``(draw, unit, unit)``
        Products about each sequence's own means, with the signs of each draw less without.
    sequences : list of (int, ndarray ``(unit,)``, int)
        Of each one its steps, its means and what its signs are drawn by.
    """

    def __init__(self, draws: int = 0, *, seed: int = 0) -> None:
        self.n, self._made = 0, (draws, seed)
        self.reference = self.sums = self.low = self.high = np.zeros(0)
        self.products, self.turned = np.zeros((0, 0)), np.zeros((draws, 0, 0))
        self.sequences: list[tuple[int, NDArray[np.float64], int]] = []

    def update(self, steps: NDArray[np.float64]) -> None:
        """Add the steps of one sequence ``(time, unit)``, all finite.

        Raises
        ------
        InputError
            If there are other units than before.
        """
        if not len(steps):
            return
        mean = steps.mean(0)
        if not self.n:
            self._begin(mean)
        self._same(steps.shape[1])
        about = steps - self.reference
        self.n += len(steps)
        self.sums = self.sums + about.sum(0)
        self.low, self.high = np.minimum(self.low, steps.min(0)), np.maximum(self.high, steps.max(0))
        self.products += about.T @ about
        # Drawn by what the sequence says, so that it gets the same signs however the data are split.
        by = int.from_bytes(blake2b(steps.tobytes(), digest_size=16).digest())
        self.sequences.append((len(steps), mean, by))
        if len(self.turned):
            own = (steps - mean).T
            products = own @ own.T
            for turned, sign in zip(self.turned, self._signs(by), strict=True):
                turned += products * (np.outer(sign, sign) - 1)

    def merge(self, other: Self) -> None:
        """Add another's sums; it must have been made with the same draws and seed."""
        if self._made != other._made:
            raise InputError("needed streams with the same draws and seed, got others")
        if not other.n:
            return
        if not self.n:
            self._begin(other.reference)
        self._same(len(other.sums))
        apart = other.reference - self.reference
        self.sequences += other.sequences
        self.turned += other.turned
        cross = np.outer(apart, other.sums)
        self.products += other.products + cross + cross.T + other.n * np.outer(apart, apart)
        self.sums = self.sums + other.sums + other.n * apart
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.n += other.n

    @property
    def mean(self) -> NDArray[np.float64]:
        """Each unit's mean."""
        return self.reference + self.sums / self.n

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariances ``(unit, unit)``, over n steps."""
        mean = self.sums / self.n
        return np.asarray(self.products / self.n - np.outer(mean, mean))

    @property
    def by_chance(self) -> NDArray[np.float64]:
        """Covariances by chance, ``(draw, unit, unit)``, over n steps; no draws of fewer than `FEWEST` sequences."""
        whole = self.covariance
        if len(self.sequences) < FEWEST:
            return np.zeros((0, *whole.shape))
        steps, means, drawn_by = zip(*self.sequences, strict=True)
        signs, weight = np.stack([self._signs(one) for one in drawn_by], axis=1), np.array(steps)[:, None] / self.n
        # Of each sequence the distance of its means from all, as often as it has steps.
        apart = (np.stack(means) - self.mean) * np.sqrt(weight)
        # Means are nearer to one that they are part of than to the true one: of variances that are alike this share is left.
        turned = signs * apart / np.sqrt(1 - 2 * weight + np.square(weight).sum())
        mean = (np.sqrt(weight) * turned).sum(1)
        covariance = (
            whole + self.turned / self.n + turned.transpose(0, 2, 1) @ turned - apart.T @ apart - mean[:, :, None] * mean[:, None, :]
        )
        # Each unit then gets back the variance that it has.
        own = np.diagonal(covariance, axis1=1, axis2=2)
        scale = np.sqrt(np.divide(np.diag(whole), own, out=np.ones_like(own), where=own > 0))
        return np.asarray(covariance * scale[:, :, None] * scale[:, None, :])

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which units never changed, exactly."""
        return np.asarray(self.low == self.high)

    def _begin(self, reference: NDArray[np.float64]) -> None:
        units = len(reference)
        self.reference, self.sums = reference.copy(), np.zeros(units)
        self.low, self.high = np.full(units, np.inf), np.full(units, -np.inf)
        self.products, self.turned = np.zeros((units, units)), np.zeros((len(self.turned), units, units))

    def _signs(self, by: int) -> NDArray[np.float64]:
        """The signs of one sequence in each draw, ``(draw, unit)``."""
        drawn = np.random.default_rng([self._made[1], by]).random((len(self.turned), len(self.sums)))
        return np.where(drawn < 0.5, -1.0, 1.0)

    def _same(self, units: int) -> None:
        if units != len(self.sums):
            raise InputError(f"needed {len(self.sums)} units as before, got {units}")


def missing(draws: int, sequences: int) -> str:
    """What it takes to know chance, where nothing was drawn of so many sequences; empty where something was."""
    if draws:
        return ""
    if sequences < FEWEST:
        return f"needed {FEWEST} sequences, got {sequences}: record more, or long ones in pieces, each much longer than units remember"
    return "needed draws from 1, got 0"


def finite_steps(signal: Tensor, valid: Tensor, what: str) -> NDArray[np.float64]:
    """One sequence ``(time, unit)`` at the steps that are valid, ``(time,)``, in float64.

    Raises
    ------
    InputError
        If a value isn't finite; `what` names the signal.
    """
    steps: NDArray[np.float64] = signal[valid].cpu().double().numpy()
    if not np.isfinite(steps).all():
        raise InputError(f"needed finite values of {what}, got {int((~np.isfinite(steps)).sum())} NaN or infinite ones in a sequence")
    return steps


def in_circle(series: NDArray[Any], steps: NDArray[np.int64]) -> NDArray[Any]:
    """Series ``(unit, time)``, each moved back in a circle by its own number of steps, below `time`."""
    twice = np.concatenate([series, series], 1)
    # Row by row, as pieces of memory: many times faster than by index.
    return np.stack([row[at : at + series.shape[1]] for row, at in zip(twice, steps, strict=True)])


class First:
    """The first `count` entries of all that come, in the order of their keys.

    No two keys are the same and any two can be compared, so that the order in which entries come, and how they are split over
    streams that merge, changes nothing.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._keys: list[Any] = []
        self._entries: list[Any] = []

    def admits(self, key: Any) -> bool:
        """Whether an entry with this key would be among the first so far."""
        return len(self._keys) < self.count or key < self._keys[-1]

    def add(self, key: Any, entry: Any) -> None:
        """Take an entry in, if it is among the first."""
        if self.admits(key):
            at = bisect_left(self._keys, key)
            self._keys.insert(at, key)
            self._entries.insert(at, entry)
            del self._keys[self.count :], self._entries[self.count :]

    def merge(self, other: Self) -> None:
        """Take in all that another has."""
        for key, entry in zip(other._keys, other._entries, strict=True):
            self.add(key, entry)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)


def _grown(array: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.pad(array, [(0, size - len(array))] * array.ndim)
