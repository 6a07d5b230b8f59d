"""Sums that merge: the only state that a streaming analysis has.

Integer counts and float64 sums, never means, so that any split into whole sequences, in any order, gives the same counts
exactly and the same sums to rounding.
"""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


class Histogram:
    """Counts of values between edges that are fixed in advance; the last bin holds its right edge too."""

    def __init__(self, edges: NDArray[np.float64]) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges) - 1, dtype=np.int64)

    def update(self, values: Tensor) -> None:
        """Count finite values; what lies outside the edges is left out."""
        lowest, highest = float(self.edges[0]), float(self.edges[-1])
        finite = values[values.isfinite()]
        exact = finite.to(torch.promote_types(finite.dtype, torch.float32)).cpu().numpy()
        counts, _ = np.histogram(exact, len(self.counts), (lowest, highest))
        self.counts += counts

    def merge(self, other: Self) -> None:
        """Add another's counts; its edges must be the same."""
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("histograms with different edges don't add")
        self.counts = self.counts + other.counts


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
