"""How much of the time does each gate sit at one of its ends?

A gate unit is left-saturated at a step where it is below 0.1 and right-saturated where it is above 0.9 (Karpathy, Johnson & Li
2015, "Visualizing and understanding recurrent networks"); the stricter pair 0.05 and 0.95 stands beside it. A forget gate that is
right-saturated nearly always is a cell that remembers; one that is left-saturated nearly always would be a unit without memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import Sums, tally
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, Trajectory, together

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLDS = ((0.1, 0.9), (0.05, 0.95))
_LOW, _HIGH = zip(*THRESHOLDS, strict=True)
EDGES = np.linspace(0, 1, 41)


@dataclass(frozen=True, eq=False)
class LayerSaturation:
    """One layer, in one direction.

    Attributes
    ----------
    gates : tuple of str
        The names of the gate axis: input, forget and output gate of an LSTM, reset and update gate of a GRU.
    left, right : ndarray ``(gate, threshold, unit)``
        The share of steps below and above each pair of `SaturationResult.thresholds`.
    mean : ndarray ``(gate, unit)``
    histogram : ndarray of int ``(gate, bin)``
        Values of all units between `SaturationResult.edges`.
    steps : int
        Valid steps that were counted.
    nonfinite : ndarray of int ``(gate, unit)``
        How many of them were NaN; these enter nothing else. A unit without any other has NaN shares.
    """

    gates: tuple[str, ...]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    mean: NDArray[np.float64]
    histogram: NDArray[np.int64]
    steps: int
    nonfinite: NDArray[np.int64]

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return int(self.mean.shape[1])


@dataclass(frozen=True, eq=False, repr=False)
class SaturationResult:
    """Saturation of every gate of every layer.

    Attributes
    ----------
    layers : mapping of str to LayerSaturation
    thresholds : tuple of (low, high)
        The pairs of the threshold axis.
    edges : ndarray ``(bin + 1,)``
    padding : {"none", "known", "unknown"}
    """

    layers: Mapping[str, LayerSaturation]
    thresholds: tuple[tuple[float, float], ...]
    edges: NDArray[np.float64]
    padding: Padding

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates of all layers, in order."""
        return tuple(dict.fromkeys(gate for layer in self.layers.values() for gate in layer.gates))

    @property
    def keeps(self) -> str:
        """The gate that keeps the memory: the forget gate, or a GRU's update gate; the first one where there is neither."""
        return next((gate for gate in ("forget_gate", "update_gate") if gate in self.gates), self.gates[0])

    def units_saturated(
        self, side: Literal["left", "right"], gate: str | None = None, *, more_than: float = 0.5, threshold: int = 0
    ) -> tuple[int, int]:
        """How many units of a gate, over all layers that have it, are saturated on a side for more than a share of the steps; of how many.

        The gate is `keeps` if left out.

        Raises
        ------
        InputError
            If `gate` isn't one of `gates`.
        """
        gate = self.keeps if gate is None else gate
        if gate not in self.gates:
            raise InputError(f"needed gate as one of {', '.join(self.gates)}, got {gate!r}")
        shares = [getattr(layer, side)[layer.gates.index(gate), threshold] for layer in self.layers.values() if gate in layer.gates]
        return sum(int((share > more_than).sum()) for share in shares), sum(len(share) for share in shares)

    def __repr__(self) -> str:
        left, of = self.units_saturated("left")
        right, _ = self.units_saturated("right")
        gates = f"{self.keeps.replace('_', ' ')}s"
        return (
            f"<Saturation of {', '.join(self.layers)}: {gates} saturated more than half the time: {left} left, {right} right, "
            f"of {of}; padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, layer in self.layers.items():
            for at, gate in enumerate(layer.gates):
                left, right = layer.left[at, 0], layer.right[at, 0]
                rows.append((name, gate, f"{left.mean():.3f}", f"{right.mean():.3f}", int((left > 0.5).sum()), int((right > 0.5).sum())))
        header = ("layer", "gate", "mean left", "mean right", "units left > half", "units right > half")
        steps = max(layer.steps for layer in self.layers.values())
        low, high = self.thresholds[0]
        return table(f"Saturation (< {low}, > {high}) over {number(steps)} steps; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        layers = {name: vars(layer) for name, layer in self.layers.items()}
        rest = {name: getattr(self, name) for name in ("thresholds", "edges", "padding")}
        return dict(jsonable(rest | {"layers": layers}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each layer, gate, unit and pair of thresholds. Needs pandas."""
        from pandas import DataFrame

        rows = [
            (name, gate, unit, low, high, layer.left[g, k, unit], layer.right[g, k, unit], layer.mean[g, unit], layer.steps)
            for name, layer in self.layers.items()
            for g, gate in enumerate(layer.gates)
            for k, (low, high) in enumerate(self.thresholds)
            for unit in range(layer.units)
        ]
        return DataFrame(rows, columns=["layer", "gate", "unit", "low", "high", "left", "right", "mean", "steps"])


class Saturation:
    """Saturation as a stream: `update` with each trajectory, `merge` with another's, `compute` the result.

    Any split of the data into whole sequences, in any order, gives the same counts exactly.
    """

    def __init__(self) -> None:
        self._layers: dict[str, tuple[Sums, tuple[str, ...]]] = {}
        self._without: list[str] = []
        self._paddings: set[Padding] = set()

    def update(self, trajectory: Trajectory) -> None:
        """Count the valid steps of one layer; a layer's name says which layer it adds to. One without gates adds nothing.

        Raises
        ------
        InputError
            If it has other gates than the layer of that name had before.
        """
        if not trajectory.gates:
            self._without.append(trajectory.name)
            return
        sums, gates = self._layers.setdefault(trajectory.name, (Sums(), trajectory.gates))
        if gates != trajectory.gates:
            raise InputError(f"needed {', '.join(gates)} of {trajectory.name} as before, got {', '.join(trajectory.gates)}")
        self._paddings.add(trajectory.padding)
        sums.add("steps", int(trajectory.valid.sum()))
        for gate in trajectory.gates:
            found = tally(trajectory.signal(gate), trajectory.valid, low=_LOW, high=_HIGH, edges=EDGES)
            sums.add(f"{gate} nonfinite", found.nonfinite)
            sums.add(f"{gate} sum", found.total)
            for low, high, below, above in zip(_LOW, _HIGH, found.below, found.above, strict=True):
                sums.add(f"{gate} < {low}", below)
                sums.add(f"{gate} > {high}", above)
            assert found.histogram is not None
            sums.add(f"{gate} histogram", found.histogram)

    def merge(self, other: Self) -> None:
        """Add what another counted."""
        self._paddings |= other._paddings
        for name, (sums, gates) in other._layers.items():
            self._layers.setdefault(name, (Sums(), gates))[0].merge(sums)

    def compute(self) -> SaturationResult:
        """The result of everything counted so far.

        Raises
        ------
        InputError
            If nothing was counted.
        """
        if not self._layers:
            if self._without:
                raise InputError(f"needed at least one layer with gates, got {', '.join(dict.fromkeys(self._without))}, which has none")
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        layers = {name: _compute(*layer) for name, layer in self._layers.items()}
        return SaturationResult(layers, THRESHOLDS, EDGES, together(self._paddings))


def _compute(sums: Sums, gates: tuple[str, ...]) -> LayerSaturation:
    def stack(names: list[str]) -> NDArray[Any]:
        return np.stack([sums[name] for name in names])

    steps = int(sums["steps"])
    nonfinite = stack([f"{gate} nonfinite" for gate in gates])
    finite = np.where(steps > nonfinite, steps - nonfinite, np.nan)
    left = np.stack([stack([f"{gate} < {low}" for low, _ in THRESHOLDS]) for gate in gates])
    right = np.stack([stack([f"{gate} > {high}" for _, high in THRESHOLDS]) for gate in gates])
    return LayerSaturation(
        gates=gates,
        left=left / finite[:, None],
        right=right / finite[:, None],
        mean=stack([f"{gate} sum" for gate in gates]) / finite,
        histogram=stack([f"{gate} histogram" for gate in gates]),
        steps=steps,
        nonfinite=nonfinite,
    )


def saturation(recording: Recording) -> SaturationResult:
    """How much of the time each gate sits at one of its ends, for every layer of a recording.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.

    Returns
    -------
    SaturationResult

    Raises
    ------
    InputError
        If nothing was recorded.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True)
    >>> with lx.record(model, lengths=[10, 7]) as recording:
    ...     _ = model(torch.zeros(2, 10, 8))
    >>> lx.saturation(recording).layers["l0"].steps
    17
    """
    stream = Saturation()
    for trajectory in recording.values():
        stream.update(trajectory)
    return stream.compute()
