"""The mean of random draws, and how far it would be from itself with others."""

import torch
from torch import Tensor


class Draws:
    """Draws of a quantity for each example, summed around the first one: what never changes has a standard error of exactly zero."""

    def __init__(self, first: Tensor, times: int) -> None:
        self._first, self._times = first, times
        self._total, self._squares = torch.zeros_like(first), torch.zeros_like(first)

    def add(self, rows: Tensor, values: Tensor) -> None:
        """Add a draw of each of some examples."""
        apart = values - self._first[rows]
        self._total.index_add_(0, rows, apart)
        self._squares.index_add_(0, rows, apart.square())

    @property
    def mean(self) -> Tensor:
        """The mean of all draws."""
        return self._first + self._total / self._times

    @property
    def error(self) -> Tensor | None:
        """The standard error of the mean; None of a single draw."""
        if self._times < 2:
            return None
        variance = (self._squares - self._total.square() / self._times).clamp(min=0) / (self._times - 1)
        return (variance / self._times).sqrt()
