"""How well an attribution foretells what the output does when a set of steps gets the attribution's own baseline."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.verdicts.faithfulness.setting import Setting


class Infidelity(NamedTuple):
    """Infidelity (Yeh et al. 2019), E[(IᵀΦ - (f(x) - f(x - I)))²], with I the difference to the baseline on a random set of steps.

    An attribution with a baseline shares out the difference between the output at the input and at that baseline, so that is the
    difference that it is asked about: of a set of steps it foretells the sum of their attributions.

    Attributes
    ----------
    squared : ndarray ``(ranking, batch)``
        In units of the output, squared. 0 is exact.
    change : ndarray ``(batch,)``
        The mean squared change itself, which is what an attribution that is zero everywhere gets.
    passes : int
    """

    squared: NDArray[np.float64]
    change: NDArray[np.float64]
    passes: int

    @property
    def root(self) -> NDArray[np.float64]:
        """Its root, in units of the output: ``(ranking, batch)``."""
        return np.sqrt(self.squared)

    @property
    def share(self) -> NDArray[np.float64]:
        """Of all squared change, how much isn't foretold: ``(ranking,)``; NaN where nothing changes."""
        total = self.change.sum()
        return self.squared.sum(1) / total if total > 0 else np.full(len(self.squared), np.nan)


def infidelity(setting: Setting, output: NDArray[np.float64], foretold: NDArray[np.float64], subsets: int, seed: int) -> Infidelity:
    """Give sets of steps the baseline, of every size alike.

    Parameters
    ----------
    setting : Setting
        With a baseline.
    output : ndarray ``(batch,)``
    foretold : ndarray ``(ranking, batch, time)``
        What each attribution says that a step contributes.
    subsets : int
        How many sets of each sequence.
    seed : int
    """
    assert setting.baseline is not None
    batch, time = setting.valid.shape
    rng, device = np.random.default_rng(seed), setting.points.device
    squared, change, passes = np.zeros((len(foretold), batch)), np.zeros(batch), 0
    chosen = (rng.random((subsets, batch, time)) < rng.random((subsets, batch, 1))) & setting.valid
    which = np.tile(np.arange(batch), subsets)
    for at in range(0, len(which), setting.rows_at_once):
        part = slice(at, at + setting.rows_at_once)
        row, gone = which[part], chosen.reshape(-1, time)[part]
        rows = torch.from_numpy(row).to(device)
        points = torch.where(setting.wide(torch.from_numpy(gone).to(device)), setting.baseline[rows], setting.points[rows])
        changed = output[row] - setting.numbers(points, rows)
        said = np.where(gone, foretold[:, row], 0.0).sum(2)
        np.add.at(squared.T, row, ((said - changed) ** 2).T)
        np.add.at(change, row, changed**2)
        passes += 1
    return Infidelity(squared / subsets, change / subsets, passes)
