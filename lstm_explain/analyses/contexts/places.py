"""Which steps of a sequence stand for it: its peaks, and steps drawn by chance that any machine draws alike."""

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def peaks(values: Tensor, apart: int) -> Tensor:
    """Where each unit of ``(batch, time, unit)`` is higher than at any step less than `apart` away; of equal ones, at the first.

    Two peaks of a sequence are at least `apart` steps apart, and its highest step is one: who is a peak is known from its sequence
    alone, so that no split changes it. Steps at minus infinity are none.
    """
    steps = min(apart, values.shape[1]) - 1
    if steps < 1:
        return values > -torch.inf
    # The largest of so many steps from each on, by doubling; the same array has those before a step and those after it.
    largest, width = torch.nn.functional.pad(values, (0, 0, steps, steps), value=-torch.inf), 1
    while 2 * width <= steps:
        largest, width = torch.maximum(largest[:, :-width], largest[:, width:]), 2 * width
    if (rest := steps - width) > 0:
        largest = torch.maximum(largest[:, :-rest], largest[:, rest:])
    return (values > largest[:, : values.shape[1]]) & (values >= largest[:, steps + 1 :])


def highest(values: Tensor, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The `count` highest rows of each unit of ``(row, unit)``, of equal ones the first: their rows and units.

    Those at minus infinity are never taken.
    """
    last = values.topk(min(count, len(values)), dim=0).values[-1]
    rows, units = torch.nonzero((values >= last) & (values > -torch.inf), as_tuple=True)
    falling, row, unit = ((-values[rows, units]).cpu().numpy(), rows.cpu().numpy(), units.cpu().numpy())
    order = np.lexsort((row, falling, unit))
    row, unit = row[order], unit[order]
    taken = np.arange(len(unit)) - np.searchsorted(unit, unit) < count
    return row[taken], unit[taken]


def lots(name: str | int, steps: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each step of a sequence, as if drawn by chance, from its name and the step alone.

    By SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
    """
    seed = np.frombuffer(blake2b(repr(name).encode(), digest_size=8).digest(), dtype=np.uint64)
    z = seed + (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
