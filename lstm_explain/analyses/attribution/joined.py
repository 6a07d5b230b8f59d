"""Several inputs of one model as one row of points for each example, and back."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_explain.errors import InputError


class Joined:
    """The inputs of a call, laid end to end for each example; a single one keeps its shape.

    Attributes
    ----------
    shapes : tuple of tuple
        Each input without the batch: ``(time[, feature])`` of the first, and of a state ``(layer, unit)``.
    time : int
        Steps of the first.
    further : sequence of Tensor
        The others, batch first.
    """

    def __init__(self, first: Tensor, further: Sequence[Tensor], states: Sequence[bool], nested: Any) -> None:
        self.further = further
        self.shapes = tuple(tuple(part.shape[1:]) for part in (first, *further))
        self.time = first.shape[1]
        self._dtypes, self._states, self._nested = [part.dtype for part in (first, *further)], [False, *states], nested
        self._sizes = [part[0].numel() for part in (first, *further)]

    @property
    def single(self) -> bool:
        """Whether there is one input only."""
        return len(self.shapes) == 1

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Tensors of the inputs' shapes, batch first, as points."""
        if self.single:
            return parts[0]
        return torch.cat([part.flatten(1) for part in parts], 1)

    def split(self, points: Tensor) -> list[Tensor]:
        """Points as tensors of the inputs' shapes, batch first."""
        if self.single:
            return [points]
        return [part.reshape(-1, *shape) for part, shape in zip(points.split(self._sizes, 1), self.shapes, strict=True)]

    def as_given(self, points: Tensor) -> tuple[Tensor, ...]:
        """Points as tensors of the shapes in which the inputs came."""
        return tuple(part.transpose(0, 1) if state else part for part, state in zip(self.split(points), self._states, strict=True))

    def batch_first(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of the turn in `as_given`."""
        return [part.transpose(0, 1) if state else part for part, state in zip(parts, self._states, strict=True)]

    def arguments(self, points: Tensor) -> list[Any]:
        """Points as what the model is called with."""
        if self.single:
            return [points]
        # cuDNN and oneDNN want a state in one piece.
        parts = [part.contiguous().to(dtype) for part, dtype in zip(self.as_given(points), self._dtypes, strict=True)]
        following = iter(parts).__next__
        return [_like(one, following) for one in self._nested]

    def steps(self, valid: Tensor) -> Tensor:
        """Valid steps ``(batch, time)`` as valid points: series are padded like the first input, all else has no padding."""
        return self.join(
            [
                (valid.reshape(len(valid), self.time, *[1] * (len(shape) - 1)) if series else valid.new_ones(1)).expand(len(valid), *shape)
                for shape, series in zip(self.shapes, self.series, strict=True)
            ]
        )

    def donated(self, points: Tensor, donors: Tensor, lengths: Tensor) -> Tensor:
        """Other examples' points in each one's place; a shorter one's steps begin again when they are over, so that no padding comes in."""
        step = torch.arange(self.time, device=points.device) % lengths[donors].unsqueeze(1)
        parts = zip(self.split(points), self.series, strict=True)
        return self.join([part[donors.unsqueeze(1), step] if series else part[donors] for part, series in parts])

    @property
    def series(self) -> tuple[bool, ...]:
        """Whether each input has the first one's steps: ``(batch, time, feature)``."""
        return (True, *(len(shape) == 2 and shape[0] == self.time and not state for shape, state in zip(*self._further(), strict=True)))

    def _further(self) -> tuple[Sequence[tuple[int, ...]], Sequence[bool]]:
        return self.shapes[1:], self._states[1:]


def _like(nested: Any, following: Callable[[], Tensor]) -> Any:
    """Tensors in the place of a tensor or a tuple of them; no layer takes a tuple of one."""
    if not isinstance(nested, tuple):
        return following()
    return tuple(following() for _ in nested) if len(nested) > 1 else following()


def flat(nested: tuple[Any, ...]) -> list[Any]:
    """What is in a tuple, and in the tuples in it, one after the other."""
    return [one for part in nested for one in (flat(part) if isinstance(part, tuple) else (part,))]


def taken_apart(inputs: tuple[Any, ...], padded: bool) -> tuple[list[Tensor], list[bool]]:
    """The inputs after the first, batch first, and which of them are states ``(layer, batch, unit)``: those in a tuple of their own.

    Raises
    ------
    InputError
        If one isn't a tensor of real numbers, or has another batch, or its padding can't be known.
    """
    batch, time = inputs[0].shape[:2]
    parts: list[Tensor] = []
    states: list[bool] = []
    for at, given in enumerate(inputs[1:], 1):
        for part in given if isinstance(given, tuple) else (given,):
            state = isinstance(given, tuple)
            if not isinstance(part, Tensor) or not part.is_floating_point() or part.dim() < (3 if state else 2):
                got = f"shape {tuple(part.shape)}, {part.dtype}" if isinstance(part, Tensor) else type(part).__name__
                shape = "a state (layer, batch, unit)" if state else "(batch, feature) or (batch, time, feature)"
                raise InputError(f"needed input {at} as floating-point numbers, {shape}, got {got}: or give it in additional_forward_args")
            if (count := part.shape[1 if state else 0]) != batch:
                needed = f"the batch of {batch} on its {'second' if state else 'first'} axis"
                raise InputError(f"needed input {at} with {needed}, got {count}; only a state in a tuple of its own has it second")
            if padded and not state and part.shape[1:] == (time,):
                got = f"({batch}, {time})"
                raise InputError(f"needed to know whether input {at} is padded, got {got}: make it (batch, time, 1) where it is a series")
            parts.append(part.detach().transpose(0, 1) if state else part.detach())
            states.append(state)
    return parts, states
