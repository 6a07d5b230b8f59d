"""The second and the third leg of all claims about one layer: which sets of units are patched, and what that comes to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.ablation.held import Held, Loss
from lstm_explain.errors import InputError
from lstm_explain.recording.runner import Layer
from lstm_explain.verdicts.verification.asked import Label
from lstm_explain.verdicts.verification.claim import Claim
from lstm_explain.verdicts.verification.listener import Listener
from lstm_explain.verdicts.verification.matched import bar, matched, outgoing
from lstm_explain.verdicts.verification.patched import Patched, Slopes, at_once, pairs, patched

_BATCH = 16


class Slope(NamedTuple):
    """A claim's slope, as `bounds.of_slopes` takes it ``(group,)``, and the values of its matched sets ``(set,)``.

    ``above`` are the sums of how far the slope is above that of the matched set that it must pass; NaN where nothing is matched.
    """

    sums: NDArray[np.float64]
    steps: NDArray[np.float64]
    above: NDArray[np.float64]
    matched: NDArray[np.float64]


class Patching:
    """The claims about one layer.

    Attributes
    ----------
    held : Held
        The layer as it is.
    read_by : tuple of str
        The weights that a unit's outgoing norm is made of.
    passes : int
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        layer: Layer,
        name: str,
        claims: Sequence[Claim],
        labels: Mapping[str, Label],
        loss: Loss,
        output: Callable[[Any], Tensor] | None,
        args: Any,
        lengths: Tensor | None,
        rounds: int,
        most: int,
        seed: int,
    ) -> None:
        self._listener = Listener(loss, output)
        self.held = held = Held(model, inputs, name, self._listener, args, lengths, _BATCH, seed)
        for one in claims:
            if max(one.units) >= held.width:
                raise InputError(f"needed units from 0 to {held.width - 1} of {name}, got {max(one.units)}")
        self._labels = [labels[label] for label in dict.fromkeys(one.label for one in claims)]
        memory = held.trajectory.steps(held.trajectory.memory).double()
        rows = held.batches[0]
        there = torch.arange(held.trajectory.valid.shape[1]) < held.trajectory.valid[rows].sum(1).max()
        hidden = held.trajectory.signals.get("hidden_state")
        norms, self.read_by = outgoing(
            model,
            layer,
            None if hidden is None else hidden[rows][:, there],
            held.trajectory.valid[rows][:, there],
            lambda: held.losses(rows),
        )
        variance = memory.var(0, correction=0).cpu().numpy()
        self._matched = {units: matched(units, variance, norms, most) for units in dict.fromkeys(tuple(one.units) for one in claims)}
        sets = dict.fromkeys([*self._matched, *(one for several in self._matched.values() for one in several)])
        self._at = {units: at for at, units in enumerate(sets)}
        self.passes = rounds * len(held.batches) * -(-len(sets) // at_once(held, self._listener, len(sets)))
        self._found: Patched | None = None

    def run(self, rounds: Sequence[NDArray[np.int64]], group: NDArray[np.int64], fold: NDArray[np.int64], bar: Any) -> None:
        """Patch all sets from the donors of each round ``(batch,)``."""
        values, where = (torch.from_numpy(np.stack([getattr(one, what) for one in self._labels], axis=2)) for what in ("values", "where"))
        valid = self.held.valid
        if valid.shape[1] == 1:
            # One loss for each sequence: what counts is the label at its last step.
            last = (self.held.trajectory.valid.sum(1) - 1).cpu()[:, None, None].expand(-1, 1, values.shape[2])
            values, where = values.gather(1, last), where.gather(1, last)
        self._listener.learn(
            torch.where(where, values, torch.nan),
            torch.from_numpy(group),
            torch.from_numpy(fold),
            lambda: [self.held.losses(rows) for rows in self.held.batches],
        )
        masks = np.zeros((len(self._at), self.held.width), dtype=bool)
        for units, at in self._at.items():
            masks[at, list(units)] = True
        self.certificate = self.held.checked(masks)
        every = [(donors, pairs(values, where, donors)) for donors in rounds]
        self._found = patched(self.held, self._listener, masks, every, group, bar)

    def _slope(self, claim: Claim, slopes: Slopes) -> Slope:
        label = [one.name for one in self._labels].index(claim.label)
        at, others = self._at[tuple(claim.units)], [self._at[one] for one in self._matched[tuple(claim.units)]]
        own, values = slopes.sums[at, label], slopes.value[others, label]
        above = own - slopes.sums[others[bar(values)], label] if others else np.full_like(own, np.nan)
        return Slope(own, slopes.steps[label], above, values)

    def used(self, claim: Claim) -> Slope:
        """The rise of the loss per difference of labels."""
        assert self._found is not None
        return self._slope(claim, self._found.used)

    def suffices(self, claim: Claim) -> Slope:
        """How far outputs move per difference of labels."""
        assert self._found is not None
        return self._slope(claim, self._found.suffices)

    def change(self, claim: Claim) -> float:
        """The mean change of the loss."""
        assert self._found is not None
        return float(self._found.change[self._at[tuple(claim.units)]])

    @property
    def noop(self) -> float:
        """The largest change of the loss at one step when units hold their own values."""
        assert self._found is not None
        return self._found.noop
