"""What `verify` was asked, read and checked: claims, labels as numbers, which steps count, groups and their folds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.analyses.probing.labels import Kind, Truth, read, resolve
from lstm_explain.errors import InputError
from lstm_explain.verdicts.verification.claim import Claim


class Label(NamedTuple):
    """A label that something is claimed of.

    ``values (batch, time)`` are numbers, yes is 1, NaN where it isn't defined; ``where (batch, time)`` are the steps at which it matters.
    """

    name: str
    kind: Kind
    values: NDArray[np.float64]
    where: NDArray[np.bool_]

    def truth(self, here: NDArray[np.bool_]) -> Truth:
        """Its values at some steps ``(batch, time)``, as probes take them."""
        values = self.values[here]
        return Truth("continuous", values, ()) if self.kind == "continuous" else Truth("binary", values.astype(np.int64), ("no", "yes"))


def claims_of(claims: Any, known: Iterable[str]) -> tuple[Claim, ...]:
    """One claim or several.

    Raises
    ------
    InputError
        If something else is among them, one comes twice, or one is about a layer that isn't there.
    """
    several = (claims,) if isinstance(claims, Claim) else tuple(claims) if isinstance(claims, Sequence) else ()
    if not several or (bad := [one for one in several if not isinstance(one, Claim)]):
        raise InputError(f"needed an lx.Claim or a list of them, got {type(bad[0] if several else claims).__name__}")
    if len(set(several)) < len(several):
        twice = next(one for one in several if several.count(one) > 1)
        raise InputError(f"needed each claim once, got twice that {twice}")
    layers = list(known)
    for one in several:
        if one.layer not in layers:
            raise InputError(f"needed a claim about one of {', '.join(layers) or '(no recurrent layers)'}, got {one.layer!r}")
    return several


def labels_of(
    labels: Any, claimed: Iterable[str], where: Mapping[str, Any] | None, valid: NDArray[np.bool_], group: NDArray[np.int64]
) -> dict[str, Label]:
    """The labels that something is claimed of.

    Raises
    ------
    InputError
        If one is missing, doesn't fit, is of more than two classes, or is the same throughout each group.
    """
    given = dict(labels) if isinstance(labels, Mapping) else {"label": labels}
    names = list(dict.fromkeys(claimed))
    if unknown := [name for name in names if name not in given]:
        raise InputError(f"needed claims about one of the labels {', '.join(given)}, got {unknown[0]!r}")
    if unknown := sorted(set(where or ()) - set(given)):
        raise InputError(f"needed where= for one of the labels {', '.join(given)}, got {unknown[0]!r}")
    found = {}
    for name in names:
        if np.shape(given[name]) != valid.shape:
            raise InputError(f"needed label {name!r} of shape {valid.shape}, one value for each step, got {np.shape(given[name])}")
        found[name] = _label(name, given[name], (where or {}).get(name), valid)
        here = valid & ~np.isnan(found[name].values)
        several = [one for one in np.unique(group) if len(np.unique(found[name].values[here & (group == one)[:, None]])) > 1]
        if len(several) < 2:
            raise InputError(
                f"needed label {name!r} to vary within groups, got one value throughout {'each' if not several else 'all but one'} of "
                f"{len(np.unique(group))}: put sequences with different values into one group"
            )
    return found


def _label(name: str, given: Any, where: Any, valid: NDArray[np.bool_]) -> Label:
    array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    one = read(name, np.where(valid, array, np.nan) if array.dtype.kind == "f" else array)
    here = one.defined & valid
    truth = resolve(name, one.values[here], one.continuous)
    if truth.kind == "categorical":
        raise InputError(
            f"needed label {name!r} as yes or no, or as a number, got {len(truth.classes)} classes: make a label of each class"
        )
    values = np.full(valid.shape, np.nan)
    values[here] = truth.values
    if where is None:
        return Label(name, truth.kind, values, valid)
    mask = np.asarray(where.detach().cpu() if isinstance(where, Tensor) else where)
    if mask.shape != valid.shape or mask.dtype != bool:
        raise InputError(f"needed where= of {name!r} as booleans of shape {valid.shape}, got {mask.dtype} of shape {mask.shape}")
    if not (mask & here).any():
        raise InputError(f"needed where= of {name!r} to be true at some step where the label is defined, got none")
    return Label(name, truth.kind, values, mask & valid)


def donors_of(group: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A sequence of another group for each one, drawn by `seed`: ``(batch,)``."""
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(np.flatnonzero(group != own)) for own in group])
