"""What is claimed: that a unit, or some units together, carry a label for the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from lstm_explain.errors import InputError


def _whole(unit: Any) -> bool:
    return not isinstance(unit, bool) and isinstance(unit, Integral) and int(unit) >= 0


@dataclass(frozen=True)
class Claim:
    """That a unit of a layer, or several together, carry a label, for `verify`.

    Parameters
    ----------
    layer : str
        Its name in a recording: ``"lstm.l0"``.
    unit : int, optional
    label : str
        The name of one of the labels that `verify` is given.
    units : sequence of int, optional
        In place of `unit`: units that are asked together, since each alone may fail where others stand in for it.

    Raises
    ------
    InputError
        If there is neither a unit nor units, or both, or they aren't whole numbers, each once.

    Examples
    --------
    >>> import lstm_explain as lx
    >>> print(lx.Claim("lstm.l0", 17, "in_string"))
    lstm.l0 unit 17 carries in_string
    >>> print(lx.Claim("lstm.l0", units=[3, 17], label="in_string"))
    lstm.l0 units 3, 17 carry in_string
    """

    layer: str
    unit: int | None = None
    label: str = "label"
    units: Sequence[int] = ()

    def __post_init__(self) -> None:
        for what, name in (("layer", self.layer), ("label", self.label)):
            if not isinstance(name, str):
                raise InputError(f"needed a claim's {what} as a text, got {name!r}")
        several = tuple(self.units)
        if (self.unit is None) == (not several):
            got = "neither" if self.unit is None else f"{self.unit!r} and {list(several)!r}"
            raise InputError(f"needed a claim about unit= or units=, got {got}")
        given = several if self.unit is None else (self.unit,)
        if bad := [unit for unit in given if not _whole(unit)]:
            raise InputError(f"needed a claim's units as whole numbers from 0 on, got {bad[0]!r}")
        if len(set(given)) < len(given):
            raise InputError(f"needed each of a claim's units once, got {list(given)!r}")
        object.__setattr__(self, "units", tuple(sorted(int(unit) for unit in given)))
        object.__setattr__(self, "unit", self.units[0] if len(self.units) == 1 else None)

    @property
    def named(self) -> str:
        """The layer and its units, for people."""
        return f"{self.layer} unit{'' if len(self.units) == 1 else 's'} {', '.join(map(str, self.units))}"

    def __str__(self) -> str:
        return f"{self.named} {'carries' if len(self.units) == 1 else 'carry'} {self.label}"
