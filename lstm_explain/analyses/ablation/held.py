"""Passes of a model in which units of a layer hold what they held in another sequence, several sets of units in one pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.errors import InputError, as_input_error
from lstm_explain.intervention.intervene import intervene
from lstm_explain.intervention.values import resample
from lstm_explain.recording.certificate import Certificate
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import layers_in, record, words_of
from lstm_explain.trajectory import Trajectory

Loss = Callable[[Any, Tensor], Tensor]
"""``loss(what the model returned, rows)``: one number for each step ``(row, time)``, or for each sequence ``(row,)``."""


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; put back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class Cost(NamedTuple):
    """What a number of passes costs."""

    passes: int = 0
    sequences: int = 0
    steps: int = 0


class Held:
    """A model, its sequences, and what a layer's units held in each of them.

    Attributes
    ----------
    clean : Tensor ``(batch, time)``
        The loss of the model as it is, in float64; of one number for each sequence, ``(batch, 1)``.
    valid : Tensor of bool ``(batch, time)``
        The steps that count.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor, layer: str, loss: Loss, args: Any, lengths: Tensor | None, batch_size: int, seed: int
    ) -> None:
        self._model, self._inputs, self._layer, self._loss, self._lengths = model, inputs, layer, loss, lengths
        self._args = () if args is None else tuple(args) if isinstance(args, (tuple, list)) else (args,)
        self.batches = torch.arange(len(inputs)).split(batch_size)
        self.donors = _donors(len(inputs), seed)
        self._signals = _carrying(layers_in(model)[layer].module)
        self._recording, self.clean = self._clean()
        self.width = self.trajectory.signal(self._signals[0]).shape[2]
        steps = torch.arange(self.clean.shape[1])
        per_step = self.clean.shape == inputs.shape[:2]
        self.valid = torch.ones_like(self.clean, dtype=torch.bool)
        if lengths is not None and per_step:
            self.valid = steps < lengths[:, None]
        if not bool(self.clean[self.valid].isfinite().all()):
            raise InputError("needed a finite loss, got NaN or infinity from the model as it is")

    @property
    def trajectory(self) -> Trajectory:
        """The layer, as it is."""
        return self._recording[self._layer]

    @property
    def certificate(self) -> Certificate:
        """Of the passes that were recorded."""
        return self._recording.certificate

    def _clean(self) -> tuple[Recording, Tensor]:
        losses = []
        with record(self._model, layers=self._layer, signals=self._signals) as recording:
            for rows in self.batches:
                recording.annotate(lengths=None if self._lengths is None else self._lengths[rows])
                losses.append(self.losses(rows))
        if (count := len(recording[self._layer].valid)) != len(self._inputs):
            raise InputError(
                f"needed a model that runs {self._layer} over each of {len(self._inputs)} sequences once, got {count} sequences of it"
            )
        if len({one.shape[1:] for one in losses}) > 1:
            raise InputError(f"needed a loss of one shape for every batch, got {', '.join(str(tuple(one.shape)) for one in losses)}")
        return recording, torch.cat(losses)

    def losses(self, rows: Tensor) -> Tensor:
        """The loss of one pass over some of the sequences, however often each: ``(row, time)``, or ``(row, 1)``."""
        batch = len(self._inputs)
        args = [arg[rows.to(arg.device)] if isinstance(arg, Tensor) and arg.dim() and len(arg) == batch else arg for arg in self._args]
        with as_input_error(f"the model can't be called with inputs of shape {tuple(self._inputs.shape)}"):
            returned = self._model(self._inputs[rows.to(self._inputs.device)], *args)
        with as_input_error("loss= failed on what the model returned"):
            losses = self._loss(returned, rows)
        time = self._inputs.shape[1]
        if not isinstance(losses, Tensor) or losses.is_complex() or tuple(losses.shape) not in ((len(rows),), (len(rows), time)):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InputError(
                f"needed loss= to give a tensor {(len(rows), time)} or {(len(rows),)}, one for each step or sequence, got {got}"
            )
        return losses.detach().double().cpu().reshape(len(rows), -1)

    def cost(self, sets: int, copies: int) -> Cost:
        """What it takes to hold so many sets, so many of them in each pass."""
        passes = len(self.batches) * -(-sets // copies)
        return Cost(passes, sets * len(self._inputs), sets * self.clean.shape[1] * len(self._inputs))

    def changes(
        self, masks: NDArray[np.bool_], donors: NDArray[np.int64], counted: Tensor, copies: int
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Every set of units held in every sequence, pass by pass.

        Parameters
        ----------
        masks : ndarray of bool ``(set, unit)``
        donors : ndarray of int ``(set, batch)``
            Whose values each set holds in each sequence.
        counted : Tensor of float64 ``(batch, class, time)``
            The steps of each class.
        copies : int
            How many sets are held in one pass.

        Yields
        ------
        Which sets, the sequences ``(row,)``, the change of the loss added up over each class ``(row, set, class)``, and its largest size
        at one step ``(set,)``.
        """
        for rows in self.batches:
            for at in range(0, len(masks), copies):
                sets = slice(at, min(at + copies, len(masks)))
                losses = self._held(rows, masks[sets], donors[sets])
                change = losses - self.clean[rows]
                change = torch.where(self.valid[rows], change, 0.0)
                if not bool(change.isfinite().all()):
                    raise InputError(f"needed a finite loss, got NaN or infinity with units of {self._layer} held")
                yield sets, rows, change.transpose(0, 1) @ counted[rows].transpose(1, 2), change.abs().amax((1, 2))

    def _held(self, rows: Tensor, masks: NDArray[np.bool_], donors: NDArray[np.int64]) -> Tensor:
        """The losses ``(set, row, time)`` of one pass with as many copies of its sequences as there are sets."""
        count = len(masks)
        which = torch.from_numpy(masks).repeat_interleave(len(rows), 0)
        with self.holding(rows.repeat(count), which, torch.from_numpy(donors)[:, rows].flatten()):
            return self.losses(rows.repeat(count)).reshape(count, len(rows), -1)

    def checked(self, masks: NDArray[np.bool_]) -> Certificate:
        """The certificate of one pass over the first batch, in which each sequence has another set held."""
        rows = self.batches[0]
        which = torch.from_numpy(masks[np.arange(len(rows)) % len(masks)])
        with self.holding(rows, which, torch.from_numpy(self.donors)[rows]):
            with record(self._model, lengths=None if self._lengths is None else self._lengths[rows]) as recording:
                self.losses(rows)
        return recording.certificate

    def holding(self, rows: Tensor, units: Tensor, donors: Tensor) -> AbstractContextManager[None]:
        """While units ``(row, unit)`` of some sequences ``(row,)`` hold what others ``(row,)`` had."""
        values: dict[str, Any] = dict.fromkeys(self._signals, resample(self._recording, sequences=donors))
        lengths = None if self._lengths is None else self._lengths[rows]
        return intervene(self._model, self._layer, units=units, lengths=lengths, feedback=True, **values)


def same(held: Held, change: float, layer: str) -> None:
    """Units that are held at their own values must change nothing: else the model isn't the same from pass to pass, or row to row.

    Raises
    ------
    InputError
        If the mean change of the loss is more than rounding.
    """
    exact = held.trajectory.signal(held.trajectory.memory).dtype
    if not change <= torch.finfo(exact).eps ** 0.5 * max(1.0, float(held.clean[held.valid].abs().mean())):
        raise InputError(
            "needed a model whose passes are the same each time, and that reads each sequence by itself, batch first: with units of "
            f"{layer} held at their own values the loss changed by {change:.2g}"
        )


def _donors(batch: int, seed: int) -> NDArray[np.int64]:
    """Another sequence for each one."""
    if batch < 2:
        raise InputError("needed at least two sequences, which give each other their values, got 1")
    return (np.arange(batch) + np.random.default_rng(seed).integers(1, batch, batch)) % batch


def _carrying(module: nn.Module) -> Sequence[str]:
    """The signals that hold a unit: the states that carry it.

    Under a projection a unit has no hidden state of its own; its cell state and its output gate make all that it sends there.
    """
    words = words_of(module)
    if words is None:
        return ("hidden_state",)
    if getattr(module, "proj_size", 0):
        return ("output_gate", "cell_state")
    return tuple(name for name in ("cell_state", "hidden_state") if name in words)
