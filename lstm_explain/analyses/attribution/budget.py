"""How many rows fit in a pass: measured on the model itself, in bytes."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lstm_explain.analyses.attribution.explained import Explained
from lstm_explain.errors import InputError


def rows_within(budget: int, explained: Explained, points: Tensor) -> int:
    """How many rows fit in so many bytes.

    Raises
    ------
    InputError
        If not one does.
    """
    row = _bytes_of_a_row(explained, points)
    if budget < row:
        raise InputError(f"needed memory_budget of at least {row:,} bytes, which one example takes, got {budget:,}")
    return budget // row


def _bytes_of_a_row(explained: Explained, points: Tensor) -> int:
    """What one more example costs a pass: its points, their gradient, and all that autograd keeps for the backward pass."""
    kept = [_kept(explained, points[:1].repeat_interleave(rows, 0)) for rows in (2, 4)]
    # Parameters and what else doesn't grow with the batch cancel.
    return 2 * points[0].numel() * points.element_size() + max(0, kept[1] - kept[0]) // 2


def _kept(explained: Explained, points: Tensor) -> int:
    """Bytes of all memory that autograd holds on to after a forward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until all is counted, so that no memory is used twice.
        held = explained(points.clone().requires_grad_(), torch.zeros(len(points), dtype=torch.int64, device=points.device))
    del held
    return sum(kept.values())
