"""`ablation`: hold units of a layer at what they were in another sequence, and measure what that does to the loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lstm_explain.analyses.ablation.held import Cost, Held, Loss, evaluated, same
from lstm_explain.analyses.ablation.intervals import draws, intervals
from lstm_explain.analyses.ablation.result import AblationResult, Effects
from lstm_explain.display import number
from lstm_explain.errors import InputError, did_you_mean
from lstm_explain.recording.runner import layers_in, unwrapped
from lstm_explain.trajectory import checked_lengths

Units = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, int | Sequence[int]] | NDArray[np.int64] | Tensor
_BATCH = 16
_ROWS = 256
"""More rows than these in one pass make no step faster."""
_VALUES = 1 << 25
"""At most so many values of one signal in one pass: bounds memory, changes nothing else."""


class _Class(NamedTuple):
    """The steps of one class of a label, ``(batch, time)``."""

    label: str
    name: str
    here: NDArray[np.bool_]


def _classes(by: Mapping[str, Any] | None, shape: tuple[int, int]) -> list[_Class]:
    """The steps of every class of every label.

    Raises
    ------
    InputError
        If a label doesn't fit, or isn't of classes.
    """
    if by is not None and not isinstance(by, Mapping):
        raise InputError(f"needed by as a mapping from names to labels (batch, time), got {type(by).__name__}")
    found = []
    for label, values in (by or {}).items():
        given = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if given.shape != shape:
            raise InputError(f"needed label {label!r} of shape {shape}, one for each step, got {given.shape}")
        if given.dtype.kind not in "biuU":
            raise InputError(
                f"needed label {label!r} as booleans, whole numbers or text (classes), got {given.dtype}: cut numbers into classes"
            )
        undefined = "" if given.dtype.kind == "U" else -1
        names = [one for one in np.unique(given) if given.dtype.kind == "b" or one != undefined]
        words = ["no", "yes"] if given.dtype.kind == "b" else []
        found += [_Class(label, words[int(one)] if words else str(one), given == one) for one in names]
    return found


def _sets(units: Units | None, width: int, layer: str) -> list[tuple[int, ...]]:
    """The sets of units, each in order.

    Raises
    ------
    InputError
        If they aren't whole numbers of units that the layer has, or a set is empty or names a unit twice.
    """
    if units is None:
        return [(unit,) for unit in range(width)]
    given = units.tolist() if isinstance(units, (Tensor, np.ndarray)) else units
    needed = "needed units as whole numbers, like [3, 17], or as sets of them, like [[3, 17], [5]] or {'quote': [3, 17]}"
    given = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise InputError(f"{needed}, got {given!r}")
    sets = []
    for one in given:
        members = [one] if isinstance(one, (int, np.integer)) else one
        whole = isinstance(members, Sequence) and all(isinstance(u, (int, np.integer)) and not isinstance(u, bool) for u in members)
        if not whole or isinstance(one, bool) or not len(members) or len(set(members)) < len(members):
            raise InputError(f"{needed}, each once in a set, got {one!r}")
        if bad := [unit for unit in members if not 0 <= unit < width]:
            raise InputError(f"needed units from 0 to {width - 1} of {layer}, got {bad[0]}")
        sets.append(tuple(sorted(int(unit) for unit in members)))
    return sets


def _grouped(groups: Sequence[Any] | None, batch: int) -> NDArray[np.int64]:
    """A number for each sequence's group."""
    if groups is None:
        return np.arange(batch)
    if len(groups) != batch:
        raise InputError(f"needed groups for {batch} sequences, got {len(groups)}")
    number_of = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    if len(number_of) < 2:
        raise InputError("needed at least two groups, which the intervals are made of, got one")
    return np.array([number_of[group] for group in groups])


class _Counted:
    """Which steps are counted together: all, and those of each class."""

    def __init__(self, held: Held, classes: list[_Class], group: NDArray[np.int64]) -> None:
        everything = held.valid.numpy()
        masks = torch.from_numpy(np.stack([everything, *(one.here & everything for one in classes)], axis=1))
        self.masks = masks.double()
        self.group, self.groups = group, int(group.max()) + 1
        self.steps = self.by_group(self.masks.sum(2).numpy())
        self.clean = (self.masks @ torch.where(held.valid, held.clean, 0.0)[:, :, None])[:, :, 0].sum(0).numpy()

    def by_group(self, of: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(batch, class)`` added up to ``(class, group)``."""
        summed = np.zeros((of.shape[1], self.groups))
        np.add.at(summed.T, self.group, of)
        return summed

    def summed(
        self, held: Held, masks: NDArray[np.bool_], donors: NDArray[np.int64], copies: int, bar: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What holding each set changes, added up ``(set, class, group)``, and its largest change at one step ``(set,)``."""
        change = np.zeros((len(masks), len(self.group), self.masks.shape[1]))
        largest = np.zeros(len(masks))
        for sets, rows, found, most in held.changes(masks, donors, self.masks, copies):
            change[sets, rows.numpy()] = found.transpose(0, 1).numpy()
            largest[sets] = np.maximum(largest[sets], most.numpy())
            bar.update()
        return np.stack([self.by_group(one) for one in change]), largest

    def effects(self, sums: NDArray[np.float64], noop: NDArray[np.float64], times: NDArray[np.float64], classes: slice) -> list[Effects]:
        """The effects of one family ``(set, class, group)``: those of all sets on some classes."""
        count, here = len(sums), range(len(self.steps))[classes]
        if not len(here):
            return []
        members = sums[:, classes].transpose(1, 0, 2).reshape(-1, self.groups)
        steps = np.repeat(self.steps[classes], count, axis=0)
        each = [one.reshape(len(here), count) for one in intervals(members, steps, times)]
        found = []
        for at, one in enumerate(here):
            change, low, high, family_low, family_high = (of_all[at] for of_all in each)
            n, total = self.steps[one], self.steps[one].sum()
            rounding = float(np.abs(np.divide(noop[one], n, out=np.zeros_like(n), where=n > 0)).max())
            with np.errstate(invalid="ignore"):
                shown = (family_low > rounding) | (family_high < -rounding)
            clean = float(self.clean[one] / total) if total else float("nan")
            found.append(Effects(change, low, high, family_low, family_high, shown, clean, rounding, int(total), int((n > 0).sum())))
        return found


def _together(costs: Sequence[Cost]) -> Cost:
    return Cost(*(sum(parts) for parts in zip(*costs, strict=True)))


def ablation(
    model: nn.Module,
    inputs: Tensor,
    layer: str,
    *,
    loss: Loss,
    units: Units | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    by: Mapping[str, Any] | None = None,
    groups: Sequence[Any] | None = None,
    order: Literal["removal"] | None = None,
    additional_forward_args: Any = None,
    seed: int = 0,
    resamples: int = 1000,
    copies: int | None = None,
    progress: bool | None = None,
) -> AblationResult:
    """What each unit of a layer does for the loss: the change when it holds, at every step, what it held in another sequence.

    Persistent resample ablation: all that a unit carries from step to step, and all that it sends out (of an LSTM its hidden and its cell
    state, under a projection its cell state and output gate; of a GRU or RNN its hidden state), is held at what one other sequence had at
    the same step, and later steps see it. The other sequence is drawn once and is the same for all units. Unlike a zero or a mean these
    are values that the rest of the network knows, in the order in which it knows them, and what is taken away is only what they say of this
    sequence. What a held unit changes in others that stand in for it isn't undone: an effect of zero doesn't mean a unit without a role.

    Intervals are from a bootstrap of groups that is studentised, and "shown" counts how many sets, and classes, were asked: the
    largest studentised deviation among them is what a draw is judged by (Romano & Wolf 2005). The model runs in evaluation mode, and is
    as it was when this returns.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs, *additional_forward_args)``; reads the batch first, each sequence by itself (which is checked).
    inputs : Tensor ``(batch, time, ...)``
    layer : str
        Its name in a recording, as for `intervene`.
    loss : callable
        ``loss(output, rows)`` gives ``(row, time)``, a number for each step, or ``(row,)``, for each sequence: a loss or any other
        measure. `output` is what the model returned for the sequences ``rows (row,)``, a tensor of their numbers in which each may
        come several times: ``targets[rows]`` are theirs.
    units : sequence of int or of sequences of int, or mapping of str to either, optional
        The units, or the sets of units that are held together; each unit by itself if left out. A mapping names them:
        ``{"quote": 17, "depth": [3, 60]}``.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each sequence are real. Padding is neither held nor counted.
    by : mapping of str to array ``(batch, time)``, optional
        Labels to split the change by: booleans, whole numbers (-1 where undefined) or text ("" where undefined).
    groups : sequence ``(batch,)``, optional
        Which sequences belong together (files, patients) and are drawn together; each by itself if left out.
    order : {"removal"}, optional
        Afterwards remove the sets one after the other, each held on top of those before, the least change first. The order is greedy: by
        what each does alone, in a network that has all the others; and it is chosen on the data that the curve is measured on.
    additional_forward_args : optional
        What else the model is called with; tensors whose first axis is as long as the batch go along with their sequence.
    seed : int
        Draws whose values are held, and the groups.
    resamples : int
        Bootstrap draws of groups.
    copies : int, optional
        How many sets are held in one pass, each in a copy of its sequences; as many as make 256 rows, or fewer for long sequences.
    progress : bool, optional
        Whether a bar says how many forward passes there are; on a terminal, if left out.

    Returns
    -------
    AblationResult
        With the cost in forward passes, two certificates, and what holding the first set at its own values changes: nothing, to rounding.

    Raises
    ------
    InputError
        If an argument doesn't fit the model or its output, the loss isn't finite, there is one sequence or group only, or a pass that
        changes nothing changes the loss.
    RecordingError, CertificateError
        If the layer can't be run by its equations, or isn't what they say.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model, x = torch.nn.LSTM(8, 16, batch_first=True), torch.randn(4, 10, 8)
    >>> result = lx.ablation(model, x, "l0", loss=lambda output, rows: output[0][:, :, 3], units=[3, 5])
    >>> result.effects.change.shape, result.passes
    ((2,), 3)
    """
    model = unwrapped(model)
    known = layers_in(model)
    if layer not in known:
        names = ", ".join(known) or "(no recurrent layers)"
        raise InputError(f"needed layer as one of {names}, got {layer!r}{did_you_mean(layer, known)}")
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or 0 in inputs.shape:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"needed inputs as a tensor (batch, time, ...), got {got}")
    batch, time = inputs.shape[:2]
    if batch < 2:
        raise InputError("needed at least two sequences, since each holds what another one had, got 1")
    if not callable(loss):
        raise InputError(f"needed loss as a function of the model's output and the sequences' numbers, got {type(loss).__name__}")
    if order not in (None, "removal"):
        raise InputError(f"needed order as 'removal' or None, got {order!r}")
    for name, value in (("copies", copies), ("resamples", resamples)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"needed {name} as a positive whole number, got {value!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"needed seed as a whole number from 0 on, got {seed!r}")
    group = _grouped(groups, batch)
    classes = _classes(by, (batch, time))
    steps = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
    width = getattr(known[layer].module, "hidden_size", None)
    if width is not None:
        _sets(units, width, layer)
    with evaluated(model):
        held = Held(model, inputs.detach(), layer, loss, additional_forward_args, steps, _BATCH, seed)
        if classes and held.clean.shape != (batch, time):
            raise InputError("needed a loss for each step (row, time) to split it by labels, got one for each sequence")
        sets = _sets(units, held.width, layer)
        at_once = copies or max(1, min(1 + len(sets), _ROWS // len(held.batches[0]), _VALUES // (len(held.batches[0]) * time * held.width)))
        masks = np.zeros((1 + len(sets), held.width), dtype=bool)
        for at, one in enumerate(sets):
            masks[1 + at, list(one)] = True
        # The control: what is recorded of one set is put where it was, and all others go on by the equations.
        masks[0] = masks[1]
        counted = _Counted(held, classes, group)
        own, others = np.arange(batch)[None], np.tile(held.donors, (len(sets), 1))
        first = len(held.batches[0])
        parts = [held.cost(len(masks), at_once), Cost(len(held.batches), batch, batch * time), Cost(1, first, first * time)]
        cost = _together(parts + [held.cost(len(sets), at_once)] * (order is not None))
        said = f"{layer}: {number(cost.passes)} forward passes of up to {at_once * first} sequences"
        hidden = None if progress is None else not progress
        with tqdm(total=cost.passes, initial=len(held.batches), desc=said, unit="pass", disable=hidden) as bar:
            certificate = held.checked(masks[1:])
            bar.update()
            change, largest = counted.summed(held, masks, np.concatenate([own, others]), at_once, bar)
            noop = change[0]
            same(held, float(np.abs(noop[0]).sum() / counted.steps[0].sum()), layer)
            times = draws(counted.groups, resamples, seed)
            (effects,) = counted.effects(change[1:], noop, times, slice(1))
            by_class = counted.effects(change[1:], noop, times, slice(1, None))
            removed, ranks = None, None
            if order is not None:
                ranks = np.argsort(effects.change, kind="stable")
                curve, _ = counted.summed(held, np.logical_or.accumulate(masks[1:][ranks], axis=0), others, at_once, bar)
                (removed,) = counted.effects(curve, noop, times, slice(1))
    split: dict[str, dict[str, Effects]] = {}
    for of, found in zip(classes, by_class, strict=True):
        split.setdefault(of.label, {})[of.name] = found
    return AblationResult(
        layer=layer,
        units=tuple(sets),
        names=tuple(map(str, units)) if isinstance(units, Mapping) else tuple("+".join(map(str, one)) for one in sets),
        effects=effects,
        by=split,
        order=ranks,
        removal=removed,
        donors=held.donors,
        noop=float(largest[0]),
        passes=cost.passes,
        sequences=cost.sequences,
        steps=cost.steps,
        certificate=held.certificate,
        ablated_certificate=certificate,
        resamples=resamples,
        seed=seed,
        padding=held.trajectory.padding,
    )
