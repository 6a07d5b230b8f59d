"""How the sequences of one call lie in memory, and back again into the order in which they came."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lstm_explain.errors import InputError


class Layout(NamedTuple):
    """The layout of one call's input.

    Inside, every input is ``(rows, feature)``: ``sizes[t]`` rows for step t, the longest sequence first.
    """

    sizes: tuple[int, ...]
    batch_first: bool
    unbatched: bool
    packed: bool
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self.sizes[0]

    def state_in(self, state: Tensor) -> Tensor:
        """``(layers, batch, unit)``, or ``(layers, unit)`` for an unbatched call, in the order of the rows."""
        if self.unbatched:
            return state.unsqueeze(1)
        return state if self.sorted_indices is None else state.index_select(1, self.sorted_indices)

    def state_out(self, state: Tensor) -> Tensor:
        """The inverse of `state_in`."""
        if self.unbatched:
            return state.squeeze(1)
        return state if self.unsorted_indices is None else state.index_select(1, self.unsorted_indices)

    def _pack(self, rows: Tensor) -> PackedSequence:
        return PackedSequence(rows, torch.tensor(self.sizes), self.sorted_indices, self.unsorted_indices)

    def _by_step(self, rows: Tensor) -> Tensor:
        return rows.view(len(self.sizes), self.batch, *rows.shape[1:])

    def output(self, rows: Tensor) -> Tensor | PackedSequence:
        """Rows as the caller laid out the input."""
        if self.packed:
            return self._pack(rows)
        steps = self._by_step(rows)
        if self.unbatched:
            return steps.squeeze(1)
        return steps.transpose(0, 1) if self.batch_first else steps

    def rows(self, output: Tensor) -> Tensor:
        """The inverse of `output`: a layer's output, or the data of a packed one, as rows."""
        if self.packed or self.unbatched:
            return output
        return (output.transpose(0, 1) if self.batch_first else output).flatten(0, 1)

    def batch_time(self, rows: Tensor) -> Tensor:
        """Rows as ``(batch, time, ...)`` in the order of the input; zero where a packed sequence has ended."""
        if self.packed:
            return pad_packed_sequence(self._pack(rows), batch_first=True)[0]
        return self._by_step(rows).transpose(0, 1)

    def rows_of(self, signal: Tensor) -> Tensor:
        """The inverse of `batch_time`: what stands where a packed sequence has ended is left out."""
        if not self.packed:
            return signal.transpose(0, 1).flatten(0, 1)
        signal = signal if self.sorted_indices is None else signal.index_select(0, self.sorted_indices)
        return torch.cat([signal[:n, t] for t, n in enumerate(self.sizes)])

    def as_output(self, signal: Tensor) -> Tensor | PackedSequence:
        """What `batch_time` gives as the caller laid out the input."""
        if self.packed:
            return self.output(self.rows_of(signal))
        if self.unbatched:
            return signal.squeeze(0)
        return signal if self.batch_first else signal.transpose(0, 1)

    def lengths(self) -> Tensor:
        """How many steps each sequence has, ``(batch,)``, in the order of the input."""
        sizes = torch.tensor(self.sizes)
        lengths = (sizes.unsqueeze(1) > torch.arange(self.batch)).sum(0)
        return lengths if self.unsorted_indices is None else lengths[self.unsorted_indices.cpu()]


def lay_out(input: Tensor | PackedSequence, *, input_size: int, batch_first: bool, dtype: torch.dtype | None) -> tuple[Tensor, Layout]:
    """The rows of an input, and their layout; `dtype` is the weights', None where the layer may read others too.

    Raises
    ------
    InputError
        If the input isn't what a layer with these sizes can read.
    """
    if isinstance(input, PackedSequence):
        rows, batch_sizes, sorted_indices, unsorted_indices = input
        layout = Layout(tuple(batch_sizes.tolist()), batch_first, False, True, sorted_indices, unsorted_indices)
    elif isinstance(input, Tensor) and input.dim() in (2, 3):
        unbatched = input.dim() == 2
        steps = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if batch_first else input
        time, batch = steps.shape[:2]
        if time == 0 or batch == 0:
            raise InputError(f"needed at least one step of at least one sequence, got an input of shape {tuple(input.shape)}")
        rows = steps.flatten(0, 1)
        layout = Layout((batch,) * time, batch_first, unbatched, False)
    else:
        shape = "(batch, time, feature)" if batch_first else "(time, batch, feature)"
        got = f"a tensor of shape {tuple(input.shape)}" if isinstance(input, Tensor) else type(input).__name__
        raise InputError(f"needed an input of shape {shape}, (time, feature) or a PackedSequence, got {got}")
    if rows.shape[-1] != input_size:
        raise InputError(f"needed {input_size} features in the last axis (input_size), got {rows.shape[-1]}")
    if dtype is not None and rows.dtype != dtype:
        raise InputError(f"needed an input of the weights' dtype {dtype}, got {rows.dtype}: convert one of them with .to()")
    return rows, layout
