"""Runs: from where to where a unit is on."""

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.trajectory import Trajectory


def on(trajectory: Trajectory, signal: str, threshold: float) -> NDArray[np.bool_]:
    """Where each unit is on in either direction, ``(batch, 2 * unit, time)``: first all that are high, then all that are low.

    Off at padding, and where a value is NaN.
    """
    x = trajectory.signal(signal)
    both = torch.cat([x >= threshold, x <= -threshold], dim=2) & trajectory.valid.unsqueeze(2)
    found: NDArray[np.bool_] = both.transpose(1, 2).cpu().numpy()
    return found


def runs(where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """All longest runs of ``(..., time)`` that are on throughout: rows of the leading axes' places, start and stop."""
    edge = np.zeros((*where.shape[:-1], 1), dtype=np.int8)
    change = np.diff(where.astype(np.int8), axis=-1, prepend=edge, append=edge)
    # Starts and stops alternate along each row, so that they come in the same order.
    starts, stops = np.argwhere(change == 1), np.argwhere(change == -1)
    return np.concatenate([starts, stops[:, -1:]], axis=1)
