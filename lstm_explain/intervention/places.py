"""Where a signal is changed: which of a layer's units, and which steps of each sequence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.errors import InputError


class Units(NamedTuple):
    """Some of a layer's units: by number, or for each sequence by a mask ``(batch, unit)``; all where neither is given."""

    numbers: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, units: "Sequence[int] | Mapping[str, int | Sequence[int]] | int | Tensor | NDArray[np.bool_] | None") -> "Units":
        """As a user gave them: of named ones, all that have a name, in the order of the names.

        Raises
        ------
        InputError
            If they are neither whole numbers, each once, nor a mask.
        """
        if units is None:
            return cls()
        try:
            if isinstance(units, Mapping):
                given = torch.cat([torch.as_tensor(one).reshape(-1) for one in units.values()])
            else:
                given = torch.as_tensor(units)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"needed units as whole numbers, or as a mask (batch, unit), got {units!r}") from None
        if given.dtype == torch.bool and given.dim() == 2:
            return cls(mask=given)
        given = given.reshape(1) if given.dim() == 0 else given
        whole = given.dim() == 1 and len(given) > 0 and not given.is_floating_point() and given.dtype != torch.bool
        if not whole or len(given.unique()) < len(given):
            raise InputError(f"needed units as whole numbers, each once, or as a mask (batch, unit), got {units!r}")
        return cls(numbers=given.long())

    def fit(self, layer: str, signal: str, width: int) -> None:
        """Whether a signal has these units.

        Raises
        ------
        InputError
            If it doesn't.
        """
        if self.numbers is not None and len(bad := self.numbers[(self.numbers < 0) | (self.numbers >= width)]):
            raise InputError(f"needed units from 0 to {width - 1} of {signal} of {layer}, got {int(bad[0])}")
        if self.mask is not None and self.mask.shape[1] != width:
            raise InputError(f"needed units of {signal} of {layer} as a mask (batch, {width}), got {tuple(self.mask.shape)}")

    def where(self, layer: str, batch: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """A mask ``(batch or 1, 1, unit)``, and the units in the order in which they were named.

        Raises
        ------
        InputError
            If the mask is of another batch.
        """
        everything = torch.arange(width, device=device)
        if self.mask is not None:
            if len(self.mask) != batch:
                raise InputError(f"needed units as a mask of the {batch} sequences that {layer} reads, got {len(self.mask)}")
            return self.mask.to(device)[:, None], everything
        named = everything if self.numbers is None else self.numbers.to(device)
        return torch.zeros(1, 1, width, dtype=torch.bool, device=device).index_fill_(2, named, True), named


class Steps(NamedTuple):
    """Some of the steps of each sequence: a slice, numbers, or a mask ``(batch, time)``; all where none is given."""

    cut: slice | None = None
    numbers: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def of(cls, steps: "slice | Sequence[int] | int | Tensor | NDArray[np.bool_] | None") -> "Steps":
        """As a user gave them.

        Raises
        ------
        InputError
            If they are none of these.
        """
        if steps is None:
            return cls()
        if isinstance(steps, slice):
            try:
                range(1)[steps]
            except (TypeError, ValueError):
                raise InputError(f"needed steps as a slice of whole numbers, got {steps!r}") from None
            return cls(cut=steps)
        try:
            given = torch.as_tensor(steps)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"needed steps as a slice, whole numbers, or a mask (batch, time), got {steps!r}") from None
        if given.dtype == torch.bool and given.dim() == 2:
            return cls(mask=given)
        given = given.reshape(1) if given.dim() == 0 else given
        if given.dim() != 1 or not len(given) or given.is_floating_point() or given.dtype == torch.bool:
            raise InputError(f"needed steps as a slice, whole numbers, or a mask (batch, time), got {steps!r}")
        return cls(numbers=given.long())

    @property
    def from_the_end(self) -> bool:
        """Whether some are counted from where a sequence ends."""
        if self.cut is not None:
            return any(bound is not None and bound < 0 for bound in (self.cut.start, self.cut.stop, self.cut.step))
        return self.numbers is not None and bool((self.numbers < 0).any())

    def where(self, layer: str, steps: Tensor, batch: int, lengths: Tensor | None, *, open_ended: bool) -> Tensor:
        """A mask ``(batch or 1, time or 1)`` over some steps ``(time,)`` that are counted from the beginning of the sequences.

        Parameters
        ----------
        lengths : Tensor of int ``(batch,)`` or None
            How many steps each sequence has in all, None where that isn't known.
        open_ended : bool
            Whether there may be further calls that go on from this one.

        Raises
        ------
        InputError
            If a mask doesn't fit, there are no such steps, or steps are counted from an end that isn't known.
        """
        if self.mask is not None:
            need, time = int(steps[-1]) + 1, self.mask.shape[1]
            if len(self.mask) != batch or time < need:
                raise InputError(f"needed steps of {layer} as a mask {(batch, need)}, got {tuple(self.mask.shape)}")
            return self.mask.to(steps.device)[:, steps]
        if self.from_the_end and lengths is None:
            raise InputError(
                f"needed steps of {layer} from its beginning, since in a loop of calls it isn't known where sequences end, got {self}: "
                "give lengths="
            )
        if self.numbers is not None:
            return self._numbered(layer, steps, lengths, open_ended)
        if self.cut is None:
            return torch.ones(1, 1, dtype=torch.bool, device=steps.device)
        if lengths is None:
            return self._among(steps, int(steps[-1]) + 1)[None]
        own = {length: self._among(steps, length) for length in lengths.unique().tolist()}
        return torch.stack([own[length] for length in lengths.tolist()])

    def missed(self, reached: int) -> int | None:
        """The first of the steps by number, or of a mask, that hasn't come after so many."""
        if self.mask is not None:
            late = self.mask.any(0).nonzero()[:, 0].tolist()
        else:
            late = [] if self.numbers is None else self.numbers.tolist()
        return min((step for step in late if step >= reached), default=None)

    def __str__(self) -> str:
        return str(self.cut if self.numbers is None else self.numbers.tolist())

    def _among(self, steps: Tensor, length: int) -> Tensor:
        """Which steps of a sequence of some length are in the slice."""
        assert self.cut is not None
        return torch.isin(steps, torch.tensor(range(length)[self.cut], dtype=torch.long, device=steps.device))

    def _numbered(self, layer: str, steps: Tensor, lengths: Tensor | None, open_ended: bool) -> Tensor:
        assert self.numbers is not None
        numbers = self.numbers.to(steps.device)
        if lengths is None:
            return torch.isin(steps, numbers)[None]
        longest = int(lengths.max())
        beyond = (numbers < -longest) if open_ended else (numbers < -longest) | (numbers >= longest)
        if len(bad := numbers[beyond]):
            raise InputError(f"needed steps from {-longest} to {longest - 1} of {layer}, got {int(bad[0])}")
        named = torch.where(numbers < 0, lengths[:, None] + numbers, numbers)
        # A step before the beginning is none; one from the beginning may lie after a sequence's end, and is none either.
        return (steps[None, :, None] == named[:, None]).any(2) & (steps < lengths[:, None])
