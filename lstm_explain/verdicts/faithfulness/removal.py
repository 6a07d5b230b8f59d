"""What the output does as the steps that come first in a ranking are replaced, or as all others are.

A step that is removed gets what another sequence had there: a zero, or a mean, may be a value that the network never met, and says as
much about that as about the step. The sequence keeps its length and the other steps their places; padding stays as it is.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.verdicts.agreement import counts
from lstm_explain.verdicts.faithfulness.setting import Setting

Rank = Literal["signed", "size"]

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""At which comprehensiveness and sufficiency are taken (DeYoung et al. 2020)."""
GRID = (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Points of the curves: shares of the steps."""


class Removal(NamedTuple):
    """How far the output falls, on average over draws.

    Attributes
    ----------
    shares : ndarray ``(batch, point)``
        Of each sequence's steps, how many are the first of a ranking.
    deletion : ndarray ``(ranking, batch, point)``
        The output less what it is without the first steps.
    insertion : ndarray ``(ranking, batch, point)``
        The output less what it is with the first steps only.
    passes : int
    """

    shares: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]
    passes: int

    def area(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of a curve over the share of steps, by the trapezoidal rule: ``(ranking, batch)``."""
        return np.asarray(np.trapezoid(curve, self.shares[None], axis=2))

    def at(self, curve: NDArray[np.float64]) -> NDArray[np.float64]:
        """A curve at `FRACTIONS`: ``(ranking, batch, fraction)``."""
        return curve[:, :, [GRID.index(fraction) for fraction in FRACTIONS]]


def ranks(scores: NDArray[np.float64], valid: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Each step's place in its sequence, the highest score first, ties in a random order, padding last: ``(batch, time)``."""
    order = np.lexsort((rng.random(scores.shape), np.where(valid, -scores, np.inf)), axis=1)
    return np.argsort(order, axis=1)


def donors(batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Another sequence for each one."""
    return (np.arange(batch) + rng.integers(1, batch, batch)) % batch


def replacements(setting: Setting, rows: NDArray[np.int64], donor: NDArray[np.int64]) -> Tensor:
    """What other sequences had at the same steps, from their beginning again where they are shorter: ``(row, time[, feature])``."""
    time = setting.valid.shape[1]
    step = np.arange(time) % setting.valid.sum(1)[donor][:, None]
    return setting.points[torch.from_numpy(donor)[:, None], torch.from_numpy(step)]


def removal(setting: Setting, output: NDArray[np.float64], scores: NDArray[np.float64], rank: Rank, draws: int, seed: int) -> Removal:
    """Replace the first steps of each ranking, and all but these.

    Parameters
    ----------
    setting : Setting
    output : ndarray ``(batch,)``
        The number that was explained.
    scores : ndarray ``(ranking, batch, time)``
        What each ranking orders the steps by.
    rank : {"signed", "size"}
        Whether the output's fall counts, or the size of its change.
    draws : int
        How often replacements are drawn, the same ones for all rankings.
    seed : int
    """
    batch = len(output)
    many = np.stack([counts(share, setting.valid) for share in GRID[1:-1]])
    steps = setting.valid.sum(1)
    # Of a few steps several shares are the same number of them.
    different, back = np.unique(np.minimum(many, steps), axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    fall = np.zeros((2, len(scores), len(different), batch))
    everything = np.zeros(batch)
    passes = 0
    for _ in range(draws):
        donor = donors(batch, rng)
        places = np.stack([ranks(one, setting.valid, rng) for one in scores])
        what = np.indices(fall.shape).reshape(4, -1)
        found = np.zeros(what.shape[1])
        for at in range(0, what.shape[1], setting.rows_at_once):
            part = slice(at, at + setting.rows_at_once)
            kept, ranking, share, row = what[:, part]
            first = places[ranking, row] < different[share, row][:, None]
            found[part] = _fall(setting, output, rank, row, donor[row], first != kept[:, None].astype(bool))
            passes += 1
        fall += found.reshape(fall.shape)
        # With nothing left all rankings are the same.
        for at in range(0, batch, setting.rows_at_once):
            row = np.arange(at, min(at + setting.rows_at_once, batch))
            everything[row] += _fall(setting, output, rank, row, donor[row], np.ones((len(row), setting.valid.shape[1]), dtype=bool))
            passes += 1
    curves = np.zeros((2, len(scores), batch, len(GRID)))
    curves[:, :, :, 1:-1] = fall[:, :, back.ravel()].transpose(0, 1, 3, 2) / draws
    curves[0, :, :, -1] = curves[1, :, :, 0] = everything / draws
    shares = np.concatenate([np.zeros((1, batch)), np.minimum(many, steps) / steps, np.ones((1, batch))]).T
    return Removal(shares, curves[0], curves[1], passes)


def _fall(
    setting: Setting, output: NDArray[np.float64], rank: Rank, row: NDArray[np.int64], donor: NDArray[np.int64], removed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How far the output falls, or is moved, with some steps ``(row, time)`` replaced."""
    device = setting.points.device
    rows = torch.from_numpy(row).to(device)
    gone = setting.wide(torch.from_numpy(removed & setting.valid[row]).to(device))
    points = torch.where(gone, replacements(setting, row, donor), setting.points[rows])
    fallen = output[row] - setting.numbers(points, rows)
    return np.abs(fallen) if rank == "size" else fallen
