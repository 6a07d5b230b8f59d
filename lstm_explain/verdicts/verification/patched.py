"""What becomes of the behaviour when units hold what they held in a run whose label differs.

Units hold, at every step, what they held in another sequence, and later steps see it. At some steps that sequence's label is another one
than the sequence's own, at others the same; both legs hold the first against the second, so that what a unit does for reasons of its own
cancels. *Used*: the loss rises with the difference of the labels. *Suffices*: the output moves to where outputs are with the other
sequence's label, along the direction in which outputs go with the label in runs of other groups. Both are slopes within groups, made of
sums over groups.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.analyses.ablation.held import Held, same
from lstm_explain.errors import InputError
from lstm_explain.verdicts.verification.listener import Listener

_ROWS = 256
"""More rows than these in one pass make no step faster."""
_VALUES = 1 << 25
"""At most so many values of a signal or of the output in one pass: bounds memory, changes nothing else."""


class Slopes(NamedTuple):
    """Slopes as quotients of sums over groups: ``sums (set, label, group)`` to ``steps (label, group)``."""

    sums: NDArray[np.float64]
    steps: NDArray[np.float64]

    @property
    def value(self) -> NDArray[np.float64]:
        """``(set, label)``; NaN where labels don't vary enough to tell."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.sums.sum(-1) / self.steps.sum(-1))


class Patched(NamedTuple):
    """What patching came to.

    ``used`` is the change of the loss per difference of labels; ``suffices`` is how far outputs move per difference, where 1 is as far
    as they go with the label when nothing is patched; ``change (set,)`` is the mean change of the loss, ``noop`` the largest change at one
    step when a set holds its own values.
    """

    used: Slopes
    suffices: Slopes
    change: NDArray[np.float64]
    noop: float


class Pairs(NamedTuple):
    """The labels of sequences and of those that they are patched from, each ``(batch, time, label)``, for one round of donors.

    ``weight`` is 1 where both labels are defined and both sequences have the step, else 0; ``where`` is 1 where the label matters.
    """

    own: Tensor
    donors: Tensor
    weight: Tensor
    where: Tensor


def pairs(labels: Tensor, where: Tensor, donors: NDArray[np.int64]) -> Pairs:
    """Labels ``(batch, time, label)``, NaN where undefined and on padding, beside the donors' at the same step."""
    there = torch.from_numpy(donors)
    weight = (~labels.isnan() & ~labels[there].isnan()).double()
    return Pairs(labels.nan_to_num(), labels[there].nan_to_num(), weight, where.double())


def patched(
    held: Held,
    listener: Listener,
    masks: NDArray[np.bool_],
    rounds: Sequence[tuple[NDArray[np.int64], Pairs]],
    group: NDArray[np.int64],
    bar: Any,
) -> Patched:
    """Patch every set of units ``(set, unit)`` from the donors of each round ``(batch,)``; `listener` must know outputs' directions."""
    along = _clean(held, listener)
    groups, count = int(group.max()) + 1, rounds[0][1].own.shape[2]
    by_set = np.zeros((len(masks), count, _OF_SET, groups))
    by_pair = np.zeros((count, _OF_PAIR, groups))
    change, steps, noop = np.zeros(len(masks)), int(held.valid.sum()) * len(rounds), 0.0
    copies = at_once(held, listener, len(masks))
    for rows in held.batches:
        kept = torch.where(held.valid[rows], _losses(held, rows, masks[:1], np.arange(len(group)))[0] - held.clean[rows], 0.0).abs()
        same(held, float(kept.sum() / held.valid[rows].sum()), held.trajectory.name)
        noop = max(noop, float(kept.max()))
        for donors, pair in rounds:
            of_pair, basis = _of_pair(Pairs(*(part[rows] for part in pair)))
            np.add.at(by_pair.transpose(2, 0, 1), group[rows], of_pair.numpy())
            for at in range(0, len(masks), copies):
                part = slice(at, at + copies)
                rise = _losses(held, rows, masks[part], donors) - held.clean[rows]
                rise = torch.where(held.valid[rows], rise, 0.0)
                moved = listener.along.reshape(len(masks[part]), len(rows), -1, count) - along[rows]  # type: ignore[union-attr]
                moved = torch.where(held.valid[rows][:, :, None], moved, 0.0)
                if not bool(rise.isfinite().all() and moved.isfinite().all()):
                    raise InputError("needed a finite loss and output, got NaN or infinity with units patched")
                change[part] += rise.sum((1, 2)).numpy()
                # (set, row, label, sum)
                sums = torch.cat(
                    [torch.einsum("srt,rtlb->srlb", rise, basis[..., :2]), torch.einsum("srtl,rtlb->srlb", moved, basis[..., 2:])], -1
                )
                np.add.at(by_set[part].transpose(3, 0, 1, 2), group[rows], sums.transpose(0, 1).numpy())
                bar.update()
    used, suffices = _slopes(by_set, by_pair)
    return Patched(used, suffices, change / steps, noop)


_OF_SET, _OF_PAIR = 5, 9
"""How many sums there are of a set's loss (2) and output (3), and of a pair's labels: 3 for the loss, 6 for the output."""


def at_once(held: Held, listener: Listener, sets: int) -> int:
    """How many sets are patched in one pass, each in a copy of its sequences."""
    first, time = len(held.batches[0]), held.trajectory.valid.shape[1]
    return max(1, min(sets, _ROWS // first, _VALUES // (first * time * max(held.width, listener.width))))


def _clean(held: Held, listener: Listener) -> Tensor:
    """How far outputs go along the labels' directions with nothing patched, ``(batch, time, label)``."""
    found = []
    for rows in held.batches:
        held.losses(rows)
        found.append(listener.along)
    return torch.cat(found)  # type: ignore[arg-type]


def _losses(held: Held, rows: Tensor, masks: NDArray[np.bool_], donors: NDArray[np.int64]) -> Tensor:
    """The losses ``(set, row, time)`` of one pass with as many copies of its sequences as there are sets."""
    which = torch.from_numpy(masks).repeat_interleave(len(rows), 0)
    copies = rows.repeat(len(masks))
    with held.holding(copies, which, torch.from_numpy(donors)[copies]):
        return held.losses(copies).reshape(len(masks), len(rows), -1)


def _of_pair(pair: Pairs) -> tuple[Tensor, Tensor]:
    """The sums of labels ``(row, label, sum)``, and what a change is multiplied with for its own, ``(row, time, label, sum)``."""
    weight, matters = pair.weight, pair.weight * pair.where
    differs = (pair.donors - pair.own).abs() * pair.where
    theirs, own = pair.donors, pair.own
    basis = torch.stack([weight, weight * differs, matters, matters * theirs, matters * own], 3)
    products = [weight, weight * differs, weight * differs**2]
    products += [matters, matters * theirs, matters * own, matters * theirs**2, matters * own**2, matters * theirs * own]
    return torch.stack(products, 3).sum(1), basis


def _slopes(by_set: NDArray[np.float64], by_pair: NDArray[np.float64]) -> tuple[Slopes, Slopes]:
    """The two slopes within groups."""
    n, a, aa, m, d, r, dd, rr, dr = by_pair.transpose(1, 0, 2)
    y, ya, q, qd, qr = by_set.transpose(2, 0, 1, 3)
    n, m = np.maximum(n, 1), np.maximum(m, 1)
    used = Slopes(ya - y * a / n, aa - a * a / n)
    dd, rr, dr = dd - d * d / m, rr - r * r / m, dr - d * r / m
    qd, qr = qd - q * d / m, qr - q * r / m
    # The coefficient of the donor's label beside that of the sequence's own one: what the latter leaves of the former is what counts
    # (Frisch & Waugh 1933).
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = dr.sum(-1, keepdims=True) / rr.sum(-1, keepdims=True)
        left = dd - 2 * shared * dr + shared**2 * rr
        # Labels that are collinear but for so much can't be told apart.
        left = np.where(left.sum(-1, keepdims=True) > _LEAST * dd.sum(-1, keepdims=True), left, np.nan)
        theirs = (qd - shared * qr).sum(-1, keepdims=True) / left.sum(-1, keepdims=True)
        own = (qr.sum(-1, keepdims=True) - theirs * dr.sum(-1, keepdims=True)) / rr.sum(-1, keepdims=True)
        # What the two leave unexplained in each group, as a deviation from the slope.
        rest = (qd - theirs * dd - own * dr) - shared * (qr - theirs * dr - own * rr)
    return used, Slopes(rest + theirs * left, left)


_LEAST = 1e-9
