"""How far an attribution moves when the input moves a little."""

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.verdicts.faithfulness.setting import Setting


def max_sensitivity(
    setting: Setting, attributions: NDArray[np.float64], method: str | None, radius: float, perturbations: int, seed: int
) -> NDArray[np.float64]:
    """Max-sensitivity (Yeh et al. 2019): the largest ‖Φ(x') - Φ(x)‖ / ‖Φ(x)‖ over random x' near x, ``(batch,)``.

    Parameters
    ----------
    setting : Setting
    attributions : ndarray ``(batch, time[, feature])``
        Φ(x).
    method : str or None
        Another method than the setting's own, if it is that one's sensitivity.
    radius : float
        Each number of x' is drawn evenly from so many standard deviations around x, over all steps and features; padding stays.
    perturbations : int
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    points = setting.points
    steps = setting.wide(torch.from_numpy(setting.valid).to(points.device)).expand(points.shape)
    width = radius * points[steps].double().std(correction=0).to(points.dtype)
    size = np.linalg.norm(attributions.reshape(len(attributions), -1), axis=1)
    most = np.zeros(len(attributions))
    for _ in range(perturbations):
        noise = 2 * torch.rand(points.shape, generator=generator, dtype=torch.float64) - 1
        moved = torch.where(steps, points + width * noise.to(points), points)
        gap = (setting.at(moved, method).attributions - attributions).reshape(len(attributions), -1)
        most = np.maximum(most, np.linalg.norm(gap, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(most == 0, 0.0, most / size)
