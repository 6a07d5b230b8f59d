"""What a model's passes put out, seen where their loss is computed: how outputs go with labels, and how far they go that way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lstm_explain.analyses.ablation.held import Loss
from lstm_explain.analyses.attribution.explained import tensor_of
from lstm_explain.errors import InputError


class Listener:
    """A loss that hears the output too, so that a pass is read once for both.

    Attributes
    ----------
    along : Tensor ``(row, time, label)`` or None
        How far the last pass's outputs went along each label's direction, each row by the direction of other folds' groups; scaled so that
        it goes up by 1 where the label does, when nothing is changed.
    width : int
        Numbers of output in each step.
    """

    def __init__(self, loss: Loss, output: Callable[[Any], Tensor] | None) -> None:
        self._loss, self._output = loss, output
        self._directions: Tensor | None = None
        self._learning: _Learning | None = None
        self.along: Tensor | None = None
        self.width = 0

    def __call__(self, returned: Any, rows: Tensor) -> Tensor:
        """The loss."""
        losses = self._loss(returned, rows)
        outputs = tensor_of(returned, self._output).detach()
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else None
        if shape is None or tuple(outputs.shape[: len(shape)]) != shape:
            got = f"{tuple(outputs.shape)} beside a loss {shape or type(losses).__name__}"
            raise InputError(f"needed an output for each number of the loss, (row[, time][, class]), got {got}: choose one with output=")
        flat = outputs.double().cpu().reshape(len(rows), 1 if len(shape) == 1 else shape[1], -1)
        self.width = flat.shape[2]
        if self._learning is not None:
            self._learning.update(flat, rows)
        if self._directions is not None:
            self.along = torch.einsum("rto,rlo->rtl", flat, self._directions[self._folds[rows]])
        return losses

    def learn(self, labels: Tensor, group: Tensor, folds: Tensor, passes: Callable[[], object]) -> None:
        """Learn, in passes over all sequences once, how outputs go with labels ``(batch, time, label)``, NaN where they don't count."""
        self._learning, self._folds = _Learning(labels, group), folds
        passes()
        fold_of = torch.zeros(int(group.max()) + 1, dtype=torch.long)
        fold_of[group] = folds
        self._directions = torch.stack([self._learning.direction(fold_of != fold) for fold in range(int(folds.max()) + 1)])
        self._learning = None


class _Learning:
    """Sums over the steps of each group: a regression of outputs on each label, within groups."""

    def __init__(self, labels: Tensor, group: Tensor) -> None:
        self._labels, self._group = labels, group
        self._sums: dict[str, Tensor] = {}

    def update(self, outputs: Tensor, rows: Tensor) -> None:
        labels = self._labels[rows]
        counts, values = (~labels.isnan()).double(), labels.nan_to_num()
        # On padding outputs may be anything.
        outputs = torch.where(counts.any(2, keepdim=True), outputs, 0.0)
        parts = {
            "n": counts.sum(1),
            "l": values.sum(1),
            "ll": values.square().sum(1),
            "y": torch.einsum("rtl,rto->rlo", counts, outputs),
            "ly": torch.einsum("rtl,rto->rlo", values, outputs),
        }
        for name, value in parts.items():
            whole = self._sums.setdefault(name, torch.zeros(int(self._group.max()) + 1, *value.shape[1:], dtype=torch.float64))
            whole.index_add_(0, self._group[rows], value)

    def direction(self, groups: Tensor) -> Tensor:
        """By which outputs are multiplied to go up by 1 where the label does, in some groups: ``(label, output)``."""
        n, l, ll, y, ly = (self._sums[name][groups] for name in ("n", "l", "ll", "y", "ly"))
        mean = l / n.clamp(min=1.0)
        slope = (ly - mean[:, :, None] * y).sum(0) / (ll - mean * l).sum(0)[:, None]
        # Outputs that don't go with a label at all have no direction.
        return (slope / slope.square().sum(1, keepdim=True)).nan_to_num()
