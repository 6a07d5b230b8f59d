"""Along which directions does a state move, and how many are there? Principal components of the state's path.

Components are found in any set of units, and a smooth path looks like a curve with a meaning on the first few even where it is a random
walk (Antognini & Sohl-Dickstein 2018, "PCA of high dimensional random walks"). The control keeps each unit as it is but for what it has in
common with others: what is left then is chance, and a component is above chance where its variance, and that of each before it, is larger
than in every draw (parallel analysis: Horn 1965). Each draw turns every unit upside down, about its mean, in a random half of the
sequences, which is right for sequences that have nothing to do with each other, however short, and units that are as likely to go up as
down. Where all units drift from the same beginning in every sequence, it finds too much, and rightly so. Of fewer than 10 sequences nothing
is drawn and the result says *not controlled*.

A long series may be recorded in pieces, the state handed on from one call to the next, which then count as sequences. They must be much
longer than the units remember, or it finds too much: of 256 units that forget a twentieth at each step some component was above chance in
199 of 200 series of 12 pieces of 60 steps, and in 18 of pieces of 1000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import Moments, finite_steps, missing
from lstm_explain.display import jsonable, number, percent, table
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, Trajectory, together

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class LayerComponents:
    """One layer, in one direction.

    Attributes
    ----------
    signal : str
    mean : ndarray ``(unit,)``
    directions : ndarray ``(component, unit)``
        Of length 1 and at right angles, those of the largest variance first; of each the entry that is furthest from zero is positive.
    variance : ndarray ``(component,)``
        Along each, over n - 1 steps.
    by_chance : ndarray ``(draw, component)``
        The variances in each draw of units that have nothing to do with each other; no draws where chance isn't known.
    steps, sequences : int
    """

    signal: str
    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    variance: NDArray[np.float64]
    by_chance: NDArray[np.float64]
    steps: int
    sequences: int

    @property
    def ratio(self) -> NDArray[np.float64]:
        """The share of the whole variance along each component."""
        return np.asarray(self.variance / self.variance.sum())

    @property
    def participation_ratio(self) -> float:
        """(Σλ)² / Σλ², 1 to the number of units: how many directions the path takes (Rajan, Abbott & Sompolinsky 2010)."""
        return float(self.variance.sum() ** 2 / np.square(self.variance).sum())

    @property
    def above_chance(self) -> int | None:
        """How many components, from the first on, have more variance than in any draw; None without draws."""
        if not len(self.by_chance):
            return None
        above = self.variance > self.by_chance.max(0) * (1 + 1e-12)
        return int(np.argmin(above)) if not above.all() else len(above)

    @property
    def missing(self) -> str:
        """What it would take to know chance, where `above_chance` is None; else empty."""
        return missing(len(self.by_chance), self.sequences)

    def needed(self, share: float) -> int:
        """How many components have that share of the variance.

        Raises
        ------
        InputError
            If `share` isn't between 0 and 1.
        """
        if not 0 < share <= 1:
            raise InputError(f"needed share between 0 and 1, got {share}")
        return int(np.searchsorted(np.cumsum(self.ratio), share - 1e-12)) + 1


@dataclass(frozen=True, eq=False, repr=False)
class ComponentsResult:
    """Principal components of every layer's state.

    Attributes
    ----------
    layers : mapping of str to LayerComponents
    padding : {"none", "known", "unknown"}
    """

    layers: Mapping[str, LayerComponents]
    padding: Padding

    @overload
    def project(self, recorded: Trajectory) -> NDArray[np.float64]: ...
    @overload
    def project(self, recorded: Mapping[str, Trajectory]) -> dict[str, NDArray[np.float64]]: ...
    def project(self, recorded: Trajectory | Mapping[str, Trajectory]) -> NDArray[np.float64] | dict[str, NDArray[np.float64]]:
        """Paths along the components, ``(batch, time, component)``, NaN at padding: of a trajectory, or of all layers of a recording.

        Raises
        ------
        InputError
            If a layer isn't one of `layers`, or has other units.
        """
        if not isinstance(recorded, Trajectory):
            return {name: self.project(recorded[name]) for name in self.layers if name in recorded}
        if recorded.name not in self.layers:
            raise InputError(f"needed a trajectory of {', '.join(self.layers)}, got {recorded.name!r}")
        layer = self.layers[recorded.name]
        values = recorded.signal(layer.signal).cpu().double().numpy()
        if values.shape[2] != len(layer.mean):
            raise InputError(f"needed {len(layer.mean)} units of {recorded.name} {layer.signal}, got {values.shape[2]}")
        paths: NDArray[np.float64] = (values - layer.mean) @ layer.directions.T
        paths[~recorded.valid.cpu().numpy()] = np.nan
        return paths

    def __repr__(self) -> str:
        layers = "; ".join(f"{name} {_summary(layer)}" for name, layer in self.layers.items())
        return f"<Components: {layers}; padding {self.padding}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                len(one.mean),
                f"{one.participation_ratio:.1f}",
                percent(one.ratio[0], 1),
                one.needed(0.9),
                f"not controlled: {one.missing}" if one.missing else one.above_chance,
            )
            for name, one in self.layers.items()
        ]
        header = ("layer", "units", "participation ratio", "first component", "components for 90 %", "above chance")
        steps = max(layer.steps for layer in self.layers.values())
        return table(f"Principal components over {number(steps)} steps; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        more = ("ratio", "participation_ratio", "above_chance")
        layers = {name: vars(layer) | {one: getattr(layer, one) for one in more} for name, layer in self.layers.items()}
        return dict(jsonable({"layers": layers, "padding": self.padding}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each layer and component. Needs pandas."""
        from pandas import DataFrame, concat

        frames = [
            DataFrame({"layer": name, "component": range(len(one.variance)), "variance": one.variance, "ratio": one.ratio})
            for name, one in self.layers.items()
        ]
        return concat(frames, ignore_index=True)


def _summary(layer: LayerComponents) -> str:
    chance = f"not controlled: {layer.missing}" if layer.missing else f"{layer.above_chance} above chance"
    return f"{layer.participation_ratio:.1f} directions of {len(layer.mean)}, {chance}"


class Components:
    """Principal components as a stream: `update` with each trajectory, `merge` with another's, `compute` the result.

    Any split of the data into whole sequences, in any order, gives the same sums to rounding. Kept are the sums of products of each
    layer's units, once and for each draw. The parameters are those of `components`.

    Raises
    ------
    InputError
        If `draws` is below 0.
    """

    def __init__(self, *, layer: str | None = None, signal: str | None = None, draws: int = 19, seed: int = 0) -> None:
        if draws < 0:
            raise InputError(f"needed draws from 0, got {draws}")
        self._layer, self._signal, self._draws, self._seed = layer, signal, draws, seed
        self._layers: dict[str, tuple[str, Moments]] = {}
        self._passed_by: list[str] = []
        self._paddings: set[Padding] = set()

    def update(self, trajectory: Trajectory) -> None:
        """Add one layer's sequences; a layer's name says which layer it adds to.

        Raises
        ------
        InputError
            If it has no such signal, other units than before, or a value that isn't finite.
        """
        if self._layer not in (None, trajectory.name):
            self._passed_by.append(trajectory.name)
            return
        signal = trajectory.memory if self._signal is None else self._signal
        what = f"{trajectory.name} {signal}"
        rows = [finite_steps(row, valid, what) for row, valid in zip(trajectory.signal(signal), trajectory.valid, strict=True)]
        known, moments = self._layers.setdefault(trajectory.name, (signal, Moments(self._draws, seed=self._seed)))
        if known != signal:
            raise InputError(f"needed the {known} of {trajectory.name} as before, got a layer with {signal}")
        for steps in rows:
            moments.update(steps)
        self._paddings.add(trajectory.padding)

    def merge(self, other: Self) -> None:
        """Add another's sums; it must have been made with the same parameters."""
        if self._signal != other._signal:
            raise InputError(f"needed streams of the same signal, {self._signal}, got {other._signal}")
        for name, (signal, moments) in other._layers.items():
            self._layers.setdefault(name, (signal, Moments(self._draws, seed=self._seed)))[1].merge(moments)
        self._paddings |= other._paddings

    def compute(self) -> ComponentsResult:
        """The result of everything added so far.

        Raises
        ------
        InputError
            If nothing was added, or a layer has one step only or no unit that changes.
        """
        if not self._layers:
            if self._passed_by:
                raise InputError(f"needed layer as one of {', '.join(dict.fromkeys(self._passed_by))}, got {self._layer!r}")
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        layers = {name: _compute(name, signal, moments) for name, (signal, moments) in self._layers.items()}
        return ComponentsResult(layers, together(self._paddings))


def _compute(name: str, signal: str, moments: Moments) -> LayerComponents:
    if moments.constant.all():
        raise InputError(f"needed a unit of {name} {signal} that changes, got {len(moments.sums)} constant ones over {moments.n} steps")
    scale = moments.n / (moments.n - 1)
    variance, vectors = np.linalg.eigh(moments.covariance * scale)
    directions = vectors.T[::-1]
    furthest = directions[np.arange(len(directions)), np.abs(directions).argmax(1)]
    return LayerComponents(
        signal=signal,
        mean=moments.mean,
        directions=directions * np.sign(furthest)[:, None],
        variance=np.clip(variance[::-1], 0, None),
        by_chance=np.clip(np.linalg.eigvalsh(moments.by_chance * scale)[:, ::-1], 0, None),
        steps=moments.n,
        sequences=len(moments.sequences),
    )


def components(
    recording: Recording, *, layer: str | None = None, signal: str | None = None, draws: int = 19, seed: int = 0
) -> ComponentsResult:
    """The principal components of each layer's state, and how many of them are above chance.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.
    layer : str, optional
        A key of the recording; all layers if left out.
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    draws : int
        Of the control, each of which keeps as much as the components. Without any, and of fewer than 10 sequences, the result says *not
        controlled*, and each layer's `missing` what it takes.
    seed : int

    Returns
    -------
    ComponentsResult
        ``project(recording)`` has the paths along the components.

    Raises
    ------
    InputError
        If there is no such layer or signal, nothing was recorded, a value isn't finite, or no unit changes.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True)
    >>> with lx.record(model, lengths=[30, 20]) as recording:
    ...     _ = model(torch.randn(2, 30, 8))
    >>> lx.components(recording).project(recording["l0"]).shape
    (2, 30, 16)
    """
    stream = Components(layer=layer, signal=signal, draws=draws, seed=seed)
    for trajectory in recording.values():
        stream.update(trajectory)
    return stream.compute()
