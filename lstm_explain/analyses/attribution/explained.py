"""The one number to explain for each example: out of any model, at points that take the place of its inputs or their embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.joined import Joined
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.recording.stand_in import replaced

Wanted = int | tuple[int, ...] | None
"""A class, or an element of the output; None where the output is one number already."""


def targets_of(target: Any, batch: int) -> list[Wanted]:
    """One target for each example.

    Raises
    ------
    InputError
        If they aren't as many as the examples, or not whole numbers.
    """
    if isinstance(target, (Tensor, np.ndarray)):
        target = target.tolist()
    each = list(target) if isinstance(target, list) else [target] * batch
    if len(each) != batch:
        raise InputError(f"needed one target, or a list of {batch}, one for each example, got {len(each)}")
    return [_whole(one) for one in each]


def _whole(target: Any) -> Wanted:
    parts = target if isinstance(target, (tuple, list)) else (target,)
    if target is None:
        return None
    if not all(isinstance(part, Integral) and not isinstance(part, bool) for part in parts):
        raise InputError(f"needed target as whole numbers, a class or (step, class), got {target!r}")
    return tuple(int(part) for part in parts) if isinstance(target, (tuple, list)) else int(target)


@dataclass(frozen=True)
class Shared:
    """A tensor that isn't by example, however long it is."""

    value: Tensor


class Explained:
    """A model, a target for each example, and how to put points in the place of what it reads.

    Attributes
    ----------
    model : torch.nn.Module
    index : dict of int to tuple
        The element of the output that each example's target turned out to be.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        embedding: str | None,
        args: Any,
        output: Callable[[Any], Tensor] | None,
        targets: list[Wanted],
        lengths: Tensor | None,
        joined: Joined | None = None,
    ) -> None:
        self._joined = joined
        self._model, self._inputs, self._embedding, self._output = model, inputs, embedding, output
        given = () if args is None else tuple(args) if isinstance(args, (tuple, list)) else (args,)
        self._args = tuple(arg.clone() if isinstance(arg, Tensor) and arg.is_inference() else arg for arg in given)
        self._targets, self._lengths = targets, lengths
        shape = f"{tuple(inputs.shape)}, {str(inputs.dtype).removeprefix('torch.')}"
        self._what = f"the model can't be called with inputs of shape {shape}"
        self._turned: bool | None = None
        self.index: dict[int, tuple[int, ...]] = {}

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Points ``(n, time[, feature])``, or of several inputs ``(n, point)``, each of the example that `rows` says, to ``(n,)``.

        Raises
        ------
        InputError
            If the model fails, or a target doesn't fit what it returns.
        """
        explained = tensor_of(self.returned(points, rows), self._output)
        if explained.dim() == 0 or len(explained) != len(rows):
            got = tuple(explained.shape)
            raise InputError(
                f"needed an output whose first axis is the batch, {len(rows)} here, got shape {got}: rearrange it with output="
            )
        if not explained.is_floating_point():
            raise InputError(f"needed an output of real numbers, got {explained.dtype}: choose another with output=")
        elements = self._elements(explained.shape, rows.tolist())
        if all(element == elements[0] for element in elements):
            of_all: tuple[Any, ...] = (slice(None), *elements[0])
            return explained[of_all].clone()
        index = torch.tensor(elements, device=explained.device).reshape(len(rows), -1).long()
        return explained[(torch.arange(len(rows), device=explained.device), *index.unbind(1))]

    def shape(self, points: Tensor, rows: Tensor) -> torch.Size:
        """The shape of the tensor that is explained."""
        return tensor_of(self.returned(points, rows), self._output).shape

    def returned(self, points: Tensor, rows: Tensor) -> Any:
        """What the model returns at points, each of the example that `rows` says."""
        args = [
            arg.value
            if isinstance(arg, Shared)
            else arg[rows.to(arg.device)]
            if isinstance(arg, Tensor) and arg.dim() and len(arg) == len(self._inputs)
            else arg
            for arg in self._args
        ]
        tokens = None if self._embedding is None else self._inputs[rows]
        first, *further = [points] if self._joined is None else self._joined.arguments(points)
        with as_input_error(self._what):
            if self._embedding is None:
                return self._model(first, *further, *args)
            lookup = _Lookup(self, self._embedding, self._inputs[rows], first)
            with replaced(self._model.get_submodule(self._embedding), lookup):
                returned = self._model(tokens, *further, *args)
            if not lookup.calls:
                raise InputError(f"needed {self._embedding} to be called in a forward pass, got a model that passes it by")
            return returned

    def turned(self, asked: Tensor, tokens: Tensor) -> bool:
        """Whether the model asks for tokens time first; learned from the first pass that isn't square."""
        if self._turned is None and len(set(tokens.shape)) == 2:
            self._turned = asked.shape != tokens.shape
        return bool(self._turned)

    def _elements(self, shape: torch.Size, rows: list[int]) -> list[tuple[int, ...]]:
        time = self._inputs.shape[1]
        longest = time if self._lengths is None else max(int(self._lengths[row]) for row in rows)
        for row in rows:
            known = None if self._lengths is None else int(self._lengths[row])
            # Outputs that were packed are cut to the longest sequence of the pass.
            steps = known if known is not None and len(shape) > 1 and shape[1] in (time, longest) else None
            self.index[row] = _element(self._targets[row], shape, steps, row)
        return [self.index[row] for row in rows]


class _Lookup:
    """In place of an embedding's forward pass: the points, in the order in which the model asks for them."""

    def __init__(self, explained: Explained, path: str, tokens: Tensor, points: Tensor) -> None:
        self._explained, self._path, self._tokens, self._points = explained, path, tokens, points
        self.calls = 0

    def __call__(self, input: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise InputError(f"needed {self._path} to be called once in a forward pass, got a second call: its tokens can't be told apart")
        turned = self._explained.turned(input, self._tokens)
        expected = self._tokens.T if turned else self._tokens
        if input.shape != expected.shape or not torch.equal(input.long(), expected.long()):
            raise InputError(f"needed {self._path} to be called with the inputs, got {tuple(input.shape)} that differs: name another layer")
        return self._points.transpose(0, 1) if turned else self._points


def tensor_of(returned: Any, output: Callable[[Any], Tensor] | None) -> Tensor:
    """The tensor to explain, out of what the model returned."""
    if output is not None:
        with as_input_error("output= failed on what the model returned"):
            returned = output(returned)
    elif isinstance(returned, (tuple, list)) and returned and isinstance(returned[0], Tensor):
        returned = returned[0]
    if not isinstance(returned, Tensor):
        raise InputError(f"needed a tensor to explain, got {type(returned).__name__}: say how to get one with output=")
    return returned


def _element(target: Wanted, shape: torch.Size, valid: int | None, example: int) -> tuple[int, ...]:
    """A target as an index into one example's output; negative steps count from its last valid one."""
    axes = shape[1:]
    match target, len(axes):
        case None, 0:
            return ()
        case int(), 1:
            return (_class(target, axes[0]),)
        case (int(step),), 1:
            return (_step(step, axes[0], valid, example),)
        case (int(step), int(one)), 2:
            return (_step(step, axes[0], valid, example), _class(one, axes[1]))
    if len(axes) > 2:
        raise InputError(f"needed an output (batch[, step][, class]), got {tuple(shape)}: choose from it with output=")
    wanted = ("None", "a class, or a step as (step,)", "(step, class)")[len(axes)]
    raise InputError(f"needed target as {wanted} for an output of shape {tuple(shape)}, got {target}")


def _class(one: int, classes: int) -> int:
    if not 0 <= one < classes:
        raise InputError(f"needed target class from 0 to {classes - 1}, got {one}")
    return one


def _step(step: int, steps: int, valid: int | None, example: int) -> int:
    steps = steps if valid is None else valid
    if not -steps <= step < steps:
        raise InputError(f"needed target step from {-steps} to {steps - 1} for example {example}, got {step}")
    return step % steps
