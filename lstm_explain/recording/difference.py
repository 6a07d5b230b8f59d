"""How far recorded values are from recomputed ones."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """The largest absolute difference and value where both are finite, and how many values aren't.

    The difference is infinite where those that aren't finite stand at other places, or the shapes differ.
    """

    difference: float
    scale: float
    nonfinite: int


def wide(tensor: Tensor) -> Tensor:
    """Detached, and in at least float32."""
    tensor = tensor.detach()
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def compare(one: Tensor, other: Tensor) -> Difference:
    """Compare two tensors of a shape, in at least float32."""
    if one.shape != other.shape:
        return Difference(math.inf, 0.0, 0)
    a, b = wide(one), wide(other)
    scale = _largest(a)
    apart = 0.0 if torch.equal(a, b) else _largest(a - b)
    if math.isfinite(apart) and math.isfinite(scale):
        return Difference(apart, scale, 0)
    finite = a.isfinite()
    nonfinite = int((~finite).sum())
    if not torch.equal(finite, b.isfinite()):
        return Difference(math.inf, 0.0, nonfinite)
    if not finite.any():
        return Difference(0.0, 0.0, nonfinite)
    return Difference(_largest((a - b)[finite]), _largest(a[finite]), nonfinite)


def _largest(values: Tensor) -> float:
    """The largest absolute value; NaN if there is one."""
    low, high = (float(end) for end in torch.aminmax(values))
    return max(abs(low), abs(high)) if low == low else math.nan
