"""A sample of a layer's steps, recomputed from their inputs by the readable step."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count

import numpy as np
import torch
from torch import Tensor

from lstm_explain.nn.equations import Form, Weights, read, stepper, unedited
from lstm_explain.recording.difference import Difference, compare

SAMPLED = 32
"""At most so many steps of each layer and call."""

_CALLS = count(1)
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, without their whole parts, are spread evenly over 0..1 however many there are (Weyl 1916)."""


def by_sample(
    kind: str,
    form: Form | None,
    weights: Weights,
    x: Tensor,
    signals: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    sizes: Sequence[int],
    reverse: bool,
) -> Iterator[Difference]:
    """All signals at some rows beside what the readable step gives, in each call at others.

    Parameters
    ----------
    x : Tensor ``(rows, input)``
    signals : mapping of str to Tensor ``(rows, unit)``
    initial : mapping of str to Tensor ``(batch, unit)``
        The states before the first step, in the order in which the step takes them.
    """
    rows = spread(len(x), next(_CALLS) * _GOLDEN % 1)
    earlier = _rows_before(rows, sizes, reverse)
    at, before = torch.from_numpy(np.array([rows, earlier]).clip(min=0)).to(x.device)
    states = [_seen(signals[name].index_select(0, before), state, earlier) for name, state in initial.items()]
    expected = stepper(kind, form, weights)(read(x.index_select(0, at), weights), states, unedited)
    found = torch.cat([signal.index_select(0, at) for signal in signals.values()], 1)
    yield compare(found, torch.cat(list(expected.values()), 1))


def spread(rows: int, offset: float) -> list[int]:
    """Some of so many rows, one from each of as many parts, all of which begin equally far from it."""
    some = min(SAMPLED, rows)
    return [int((part + offset) * rows / some) for part in range(some)]


def _rows_before(rows: Sequence[int], sizes: Sequence[int], reverse: bool) -> list[int]:
    """The row that each row's step started from; -1 - b where that is the initial state of sequence b."""
    if (batch := sizes[-1]) == sizes[0]:
        away = batch if reverse else -batch
        return [row + away if 0 <= row + away < batch * len(sizes) else -1 - row % batch for row in rows]
    starts = [0, *accumulate(sizes)]
    found = []
    for row in rows:
        t = bisect_right(starts, row) - 1
        b, other = row - starts[t], t + 1 if reverse else t - 1
        within = 0 <= other < len(sizes) and b < sizes[other]
        found.append(starts[other] + b if within else -1 - b)
    return found


def _seen(seen: Tensor, initial: Tensor, earlier: Sequence[int]) -> Tensor:
    """The states that some rows started from, where those before the first step are put in their places."""
    for at in (at for at, row in enumerate(earlier) if row < 0):
        seen[at] = initial[-1 - earlier[at]]
    return seen
