"""When a decomposition has handed out the whole output."""

import torch
from torch import Tensor


def whole(residual: Tensor, output: Tensor, size: Tensor, tolerance: float, dtype: torch.dtype) -> Tensor:
    """Whether what is left over is within the tolerance of the output, or as near as its shares are rounded; each ``(batch,)``.

    Parameters
    ----------
    size : Tensor
        The sum of the shares' sizes. Shares far beyond the output that cancel don't excuse what they leave over.
    """
    eps = torch.finfo(dtype).eps
    rounding = torch.minimum(8 * eps * size, eps**0.75 * output.abs().clamp(min=1))
    return residual.abs() <= torch.maximum(tolerance * output.abs(), rounding)
