"""The control task: labels that say nothing but which type of step it is, so that a probe can only learn them by heart.

Hewitt & Liang (2019, section 2): every type, such as a word, gets one label at random, the same wherever it comes. A network has no reason
to know these labels; a probe that tells them has memorised its types. Here a label is drawn by a hash of type, label name and
seed, so that it doesn't depend on which steps were seen first, and parts of a stream agree on it.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.errors import InputError

LEVELS = 64
"""A number's control label is one of so many of its values: the middles of equally frequent ranges."""


def read(types: Any, valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Types at the valid steps, ``(step,)``.

    Raises
    ------
    InputError
        If they aren't whole numbers, one for each step.
    """
    given = np.asarray(types)
    if given.shape != valid.shape:
        raise InputError(f"needed types of shape {valid.shape}, one for each step, got {given.shape}")
    if given.dtype.kind not in "iu":
        raise InputError(f"needed types as whole numbers, such as the input's symbol, got {given.dtype}")
    return given[valid].astype(np.int64)


def uniform(types: NDArray[np.int64], name: str, seed: int) -> NDArray[np.float64]:
    """A number from 0 to below 1 for each type, drawn by a label's name and a seed (SplitMix64: Steele, Lea & Flood 2014)."""
    key = int.from_bytes(blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    mixed = types.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def level(types: NDArray[np.int64], name: str, seed: int) -> NDArray[np.int64]:
    """Which of a number's values each type gets, by rank: 0 to `LEVELS` - 1."""
    return (uniform(types, name, seed) * LEVELS).astype(np.int64)


def control_truth(truth: Truth, types: NDArray[np.int64], name: str, seed: int) -> Truth:
    """The control labels of some steps: classes as frequent as a label's own, or its values."""
    if truth.kind == "continuous":
        return truth._replace(values=levels_of(truth)[level(types, name, seed)])
    share = np.bincount(truth.values, minlength=len(truth.classes)).cumsum() / len(truth.values)
    return truth._replace(values=np.searchsorted(share, uniform(types, name, seed), side="right"))


def levels_of(truth: Truth) -> NDArray[np.float64]:
    """The values that a number's control label can have."""
    middles = (np.arange(LEVELS) + 0.5) / LEVELS
    return np.asarray(np.quantile(truth.values, middles, method="inverted_cdf"))


def can_be_fitted(truth: Truth, fold: NDArray[np.int64]) -> bool:
    """Whether there is anything to tell apart outside each fold; few types may all have drawn the same."""
    return all(len(np.unique(truth.values[fold != out])) > 1 for out in np.unique(fold))


class Levels:
    """The sums of features over the steps of each level, from which their products with control labels follow once levels have values."""

    def __init__(self) -> None:
        self.n, self.x = np.zeros(LEVELS), np.zeros((LEVELS, 0))

    def update(self, features: NDArray[np.float64], level: NDArray[np.int64]) -> None:
        """Add steps: features ``(step, feature)`` and their levels."""
        here = csr_array((np.ones(len(level)), (level, np.arange(len(level)))), shape=(LEVELS, len(level)))
        self._add(np.bincount(level, minlength=LEVELS).astype(np.float64), here @ features)

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        self._add(other.n, other.x)

    def _add(self, n: NDArray[np.float64], x: NDArray[np.float64]) -> None:
        self.n = self.n + n
        self.x = self.x + x if self.x.size else x

    def gram(self, own: Gram, values: NDArray[np.float64]) -> Gram:
        """The sums of products for the control labels, at the steps of the label's own."""
        gram = Gram()
        gram.n, gram.x, gram.xx = own.n, own.x, own.xx
        gram.y, gram.yy, gram.xy = float(self.n @ values), float(self.n @ values**2), values @ self.x
        return gram


def grams_of(own: Mapping[int, Gram], levels: Mapping[int, Levels], values: NDArray[np.float64]) -> dict[int, Gram]:
    """The control task's sums of products, by fold."""
    return {fold: levels[fold].gram(gram, values) for fold, gram in own.items()}
