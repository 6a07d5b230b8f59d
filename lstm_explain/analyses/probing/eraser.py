"""The affine map that erases, and the whitening it is made by."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.errors import InputError

ROUNDING = 1e-9
"""Directions whose deviation is below this share of the largest are none: what rounding leaves of repeated, summed or shifted units."""
UNRELATED = 1e-10
"""A canonical correlation below this is rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class Eraser:
    """x - (x - mean) · read · write: what is read off a state, and how it is taken out of it.

    Attributes
    ----------
    mean : ndarray ``(unit,)``
    read : ndarray ``(unit, rank)``
    write : ndarray ``(rank, unit)``
    gone : ndarray of bool ``(unit,)``
        Units of which nothing is left but their mean. They are set to it, since what rounding leaves of a unit goes with the unit, and a
        probe that standardises would see it as large as life.
    """

    mean: NDArray[np.float64]
    read: NDArray[np.float64]
    write: NDArray[np.float64]
    gone: NDArray[np.bool_]

    @property
    def rank(self) -> int:
        """How many directions are erased."""
        return len(self.write)

    def __repr__(self) -> str:
        return f"<Eraser: {self.rank} of {len(self.mean)} directions>"

    def apply(self, states: NDArray[Any]) -> NDArray[np.float64]:
        """States ``(..., unit)`` without what is erased, in float64.

        Raises
        ------
        InputError
            If they have another number of units.
        """
        states = np.asarray(states, dtype=np.float64)
        if states.shape[-1:] != self.mean.shape:
            raise InputError(f"needed states (..., {len(self.mean)}), got shape {states.shape}")
        return np.asarray(np.where(self.gone, self.mean, states - (states - self.mean) @ self.read @ self.write))


class Whitened:
    """States ``(step, unit)`` as uncorrelated directions: centred and scaled they are ``directions * size @ axes``.

    By singular values of the states and not by eigenvalues of their covariance, so that nearly dependent units keep their digits.
    """

    def __init__(self, states: NDArray[np.float64]) -> None:
        self._mean, deviation = states.mean(0), states.std(0)
        self._scale = np.where(states.min(0) < states.max(0), np.where(deviation > 0, deviation, 1.0), 1.0)
        directions, size, axes = np.linalg.svd((states - self._mean) / self._scale, full_matrices=False)
        alive = size > ROUNDING * size[0]
        self._directions, self._size, self._axes = directions[:, alive], size[alive], axes[alive]

    def eraser(self, wanted: NDArray[np.float64]) -> Eraser:
        """LEACE (Belrose et al. 2023, section 4): W⁺ P W, with P on what the whitened states share with the label ``(step, target)``."""
        y = wanted - wanted.mean(0)
        shared, correlation, _ = np.linalg.svd(self._directions.T @ (y / np.linalg.norm(y)), full_matrices=False)
        return self._erasing(shared[:, correlation > UNRELATED])

    def random(self, rank: int, rng: np.random.Generator) -> Eraser:
        """An eraser of so many random directions of the whitened states."""
        basis, _ = np.linalg.qr(rng.normal(size=(len(self._size), rank)))
        return self._erasing(basis)

    def removed(self, eraser: Eraser) -> float:
        """The share of the scaled units' variance that an eraser of these states takes."""
        read = (self._size[:, None] * self._axes * self._scale) @ eraser.read
        return float(((read @ (eraser.write / self._scale)) ** 2).sum() / (self._size**2).sum())

    def _erasing(self, basis: NDArray[np.float64]) -> Eraser:
        whole = self._size[:, None] * self._axes
        read = (self._axes.T / self._size) @ basis / self._scale[:, None]
        left = np.linalg.norm(whole - basis @ (basis.T @ whole), axis=0)
        return Eraser(self._mean, read, basis.T @ whole * self._scale, left <= ROUNDING * np.linalg.norm(whole, axis=0))
