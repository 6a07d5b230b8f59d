"""Which of the inputs belong together: by step, by feature, by window, by sensor or word, or by any mask."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_explain.analyses.attribution.joined import Joined
from lstm_explain.errors import InputError

WORDS = ("step", "feature", "element", "input")
REST = "rest"


@dataclass(frozen=True, eq=False)
class Partition:
    """The group of every point, ``(batch, *points)``, as a number from 0, and the groups' names."""

    of: Tensor
    names: tuple[str, ...]
    valid: Tensor

    @property
    def size(self) -> Tensor:
        """How many valid points each group has ``(batch, group)``."""
        return self.sums(self.valid.double()).long()

    def rows(self, rows: Tensor) -> "Partition":
        """The same groups of some examples."""
        return Partition(self.of[rows], self.names, self.valid[rows])

    def sums(self, attributions: Tensor) -> Tensor:
        """The sum over each group ``(batch, group)``, in float64."""
        total = attributions.new_zeros(len(self.of), len(self.names), dtype=torch.float64)
        return total.scatter_add_(1, self.of.flatten(1), torch.where(self.valid, attributions.double(), 0.0).flatten(1))

    @property
    def of_steps(self) -> "Partition | None":
        """The same groups of whole steps; None where a step's features are in different ones."""
        if self.of.dim() == 2 or not bool((self.of == self.of[:, :, :1]).all()):
            return None
        return Partition(self.of[:, :, 0], self.names, self.valid[:, :, 0])

    def shares(self, values: Tensor) -> Tensor:
        """Each group's value ``(batch, group)`` in equal shares on its valid points, so that sums are right."""
        share = values / self.size.clamp(min=1)
        return torch.where(self.valid, share.gather(1, self.of.flatten(1)).reshape(self.of.shape), 0.0)


def partition_of(by: Any, joined: Joined, valid: Tensor, tokens: bool) -> Partition:
    """A partition as it was asked for.

    Parameters
    ----------
    by
        A word; whole number of steps in a window; a mask of whole numbers as Captum's `feature_mask`, or one for each input; or names
        with their features or masks of truth values.
    joined : Joined
    valid : Tensor of bool
        As wide as the points.
    tokens : bool
        Whether the first input is tokens, whose embedding is never divided.

    Raises
    ------
    InputError
        If it isn't one of these, or doesn't fit the inputs, or groups overlap.
    """
    shapes = [(len(valid), *shape) for shape in joined.shapes]
    asked = [shape[:2] if tokens and at == 0 else shape for at, shape in enumerate(shapes)]
    if isinstance(by, Mapping):
        masks, names = _named(by, asked[0], joined)
    elif isinstance(by, str):
        masks, names = _by_word(by, asked, joined)
    elif isinstance(by, (int, np.integer)) and not isinstance(by, bool):
        masks, names = _windows(int(by), asked, joined)
    else:
        masks, names = _masks(by, asked)
    device = valid.device
    whole = [
        mask.to(device).reshape(*mask.shape, *[1] * (len(shape) - mask.dim())).expand(shape)
        for mask, shape in zip(masks, shapes, strict=True)
    ]
    return Partition(joined.join(whole).long(), names, valid)


def _by_word(by: str, shapes: list[tuple[int, ...]], joined: Joined) -> tuple[list[Tensor], tuple[str, ...]]:
    if by not in WORDS:
        raise InputError(f"needed groups as one of {', '.join(WORDS)}, a number of steps, a mask or names with features, got {by!r}")
    if by == "step":
        return _windows(1, shapes, joined)
    masks: list[Tensor] = []
    names: list[str] = []
    for at, (shape, series) in enumerate(zip(shapes, joined.series, strict=True)):
        prefix = "" if joined.single else f"input {at} "
        if by == "input" or by == "feature" and (not series or len(shape) < 3):
            groups, new = torch.zeros(shape, dtype=torch.int64), [f"input {at}"]
        elif by == "feature":
            groups, new = torch.arange(shape[2]).expand(shape), [f"{prefix}feature {feature}" for feature in range(shape[2])]
        else:
            places = list(np.ndindex(*shape[1:]))
            groups = torch.arange(len(places)).reshape(shape[1:]).expand(shape)
            new = [f"{prefix}{list(place)}" for place in places]
        masks.append(groups + len(names))
        names += new
    return masks, tuple(names)


def _windows(steps: int, shapes: list[tuple[int, ...]], joined: Joined) -> tuple[list[Tensor], tuple[str, ...]]:
    """Groups of so many steps of each series; what has no steps is a group of its own."""
    if steps < 1:
        raise InputError(f"needed a positive number of steps in a window, got {steps}")
    masks: list[Tensor] = []
    names: list[str] = []
    for at, (shape, series) in enumerate(zip(shapes, joined.series, strict=True)):
        prefix = "" if joined.single else f"input {at} "
        if series:
            step = torch.arange(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
            starts = range(0, shape[1], steps)
            new = [f"{prefix}step {a}" if steps == 1 else f"{prefix}steps {a}-{min(a + steps, shape[1]) - 1}" for a in starts]
            groups = step // steps
        else:
            groups, new = torch.zeros(shape, dtype=torch.int64), [f"input {at}"]
        masks.append(groups + len(names))
        names += new
    return masks, tuple(names)


def _masks(by: Any, shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], tuple[str, ...]]:
    """Masks of whole numbers; the same number is the same group, in whichever input."""
    given = by if isinstance(by, tuple) else (by,)
    if len(given) != len(shapes):
        raise InputError(f"needed a mask for each of {len(shapes)} inputs, got {len(given)}")
    masks = [_fitting(mask, shape, "a mask of whole numbers") for mask, shape in zip(given, shapes, strict=True)]
    for mask in masks:
        if mask.is_floating_point() or mask.dtype == torch.bool:
            raise InputError(f"needed a mask of whole numbers, one for each group, got {mask.dtype}")
    numbers = torch.cat([mask.flatten() for mask in masks]).unique()
    return [torch.searchsorted(numbers, mask.contiguous()) for mask in masks], tuple(f"group {int(one)}" for one in numbers)


def _named(by: Mapping[Any, Any], shape: tuple[int, ...], joined: Joined) -> tuple[list[Tensor], tuple[str, ...]]:
    """Features, or masks of truth values, by name; what no name has is the rest."""
    if not joined.single:
        raise InputError('needed one input for names with features, got several: give by="input", or a mask for each')
    if not by:
        raise InputError("needed at least one group, got none")
    mask = torch.full(shape, len(by))
    for at, (name, wanted) in enumerate(by.items()):
        here = _chosen(name, wanted, shape)
        if bool((mask[here] < len(by)).any()):
            other = list(by)[int(mask[here].min())]
            raise InputError(f"needed groups that don't overlap, got {name!r} and {other!r} with inputs in common")
        mask = torch.where(here, at, mask)
    names = [str(name) for name in by]
    return [mask], tuple(names if bool((mask < len(by)).all()) else [*names, REST])


def _chosen(name: Any, wanted: Any, shape: tuple[int, ...]) -> Tensor:
    """The inputs of one group as truth values."""
    if not isinstance(wanted, slice) and np.asarray(wanted).dtype == bool:
        return _fitting(wanted, shape, f"the mask of {name!r}")
    if len(shape) < 3:
        raise InputError(f"needed the group {name!r} as a mask of truth values that broadcasts to {shape}, got {type(wanted).__name__}")
    features = list(range(shape[2]))
    try:
        chosen = features[wanted] if isinstance(wanted, slice) else [features[index(one)] for one in np.atleast_1d(wanted)]
    except (TypeError, ValueError, IndexError):
        raise InputError(f"needed the group {name!r} as features from 0 to {shape[2] - 1}, or a mask, got {wanted!r}") from None
    one = torch.zeros(shape[2], dtype=torch.bool)
    one[chosen] = True
    return one.expand(shape)


def _fitting(mask: Any, shape: tuple[int, ...], what: str) -> Tensor:
    try:
        return torch.as_tensor(mask).detach().cpu().expand(shape)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, (Tensor, np.ndarray)) else type(mask).__name__
        raise InputError(f"needed {what} that broadcasts to {shape}, got {got}") from None
