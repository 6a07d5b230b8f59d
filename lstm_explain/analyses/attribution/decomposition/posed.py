"""The question that a decomposition answers: a model, points in the place of its inputs, and the number that is handed out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import (
    LOOSEST,
    STEPS_AT_ONCE,
    TOLERANCE,
    as_points,
    check_independent,
    copies,
    element_in_words,
    numbers,
)
from lstm_explain.analyses.attribution.explained import Explained, targets_of
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding, checked_lengths


class Posed(NamedTuple):
    """Points ``(batch, time[, feature])`` and what the model makes of them, in evaluation mode."""

    model: nn.Module
    explained: Explained
    points: Tensor
    embedding: str | None
    lengths: Tensor | None
    """How many steps of each example are real, where that is known, ``(batch,)``."""
    rows_at_once: int
    output: Tensor
    """The number itself, as the model computes it, ``(batch,)``."""
    tolerance: float
    seen: Any
    """What was watched while it did."""

    @property
    def rows(self) -> Tensor:
        """Every example once."""
        return torch.arange(len(self.points), device=self.points.device)

    @property
    def valid(self) -> Tensor:
        """Which steps are real, ``(batch, time)``."""
        batch, time = self.points.shape[:2]
        return torch.ones(batch, time, dtype=torch.bool) if self.lengths is None else torch.arange(time) < self.lengths.unsqueeze(1)

    @property
    def padding(self) -> Padding:
        """What is known of it."""
        return "unknown" if self.lengths is None else "none" if bool(self.valid.all()) else "known"

    @property
    def settings(self) -> dict[str, Any]:
        """What is needed to repeat it, whatever the method."""
        return {"tolerance": self.tolerance, "embedding": self.embedding, "dtype": str(self.points.dtype).removeprefix("torch.")}

    def in_words(self) -> tuple[str, ...]:
        """Which element of the output each example's number is."""
        return tuple(element_in_words(self.explained.index[row]) for row in range(len(self.points)))

    def whole(self, shares: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether shares ``(batch, any)`` are all of the output, within the tolerance or as near as they are rounded.

        Shares far beyond the output that cancel don't excuse what they leave over.
        """
        eps, output = torch.finfo(self.points.dtype).eps, np.array(self.output.tolist())
        size = np.abs(output)
        rounding = np.minimum(8 * eps * np.abs(shares).sum(1), eps**0.75 * size.clip(min=1))
        near: NDArray[np.bool_] = np.abs(shares.sum(1) - output) <= np.maximum(self.tolerance * size, rounding)
        return near


def pose(
    model: nn.Module,
    inputs: Any,
    target: Any,
    *,
    additional_forward_args: Any,
    output: Callable[[Any], Tensor] | None,
    embedding: str | None,
    lengths: Tensor | Sequence[int] | None,
    tolerance: float | None,
    internal_batch_size: int | None,
    watched: AbstractContextManager[Any] | None = None,
) -> Posed:
    """Check a question, as `attribute` does, and have the model's own answer.

    Parameters
    ----------
    watched : context manager, optional
        Entered for the pass that answers; what it yields is `Posed.seen`.

    Raises
    ------
    InputError
        If an argument doesn't fit, or the output isn't finite.
    """
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise InputError(f"needed a positive tolerance, got {tolerance!r}")
    if internal_batch_size is not None and not (isinstance(internal_batch_size, int) and internal_batch_size > 0):
        raise InputError(f"needed internal_batch_size as a positive whole number, got {internal_batch_size!r}")
    points, path, _ = as_points(model, inputs, embedding)
    batch, time = points.shape[:2]
    known = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
    explained = Explained(model, inputs.detach().clone(), path, additional_forward_args, output, targets_of(target, batch), known)
    rows_at_once = internal_batch_size or max(1, STEPS_AT_ONCE // time)
    # Of tokens, the first pass must not be square: it shows whether the model turns them.
    beside = None if path is None else copies(explained, points, time)
    with watched or nullcontext() as seen:
        at_points = numbers(explained, points, rows_at_once, "")
    check_independent(copies(explained, points, time) if beside is None else beside, at_points, points.dtype)
    allowed = TOLERANCE.get(points.dtype, LOOSEST) if tolerance is None else tolerance
    return Posed(model, explained, points, path, known, rows_at_once, at_points, allowed, seen)
