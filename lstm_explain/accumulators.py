"""Sums that merge: the only state that a streaming analysis has.

Integer counts and float64 sums, never means, so that any split into whole sequences, in any order, gives the same counts
exactly and the same sums to rounding.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def _grown(array: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    return np.pad(array, [(0, size - len(array))] * array.ndim)
