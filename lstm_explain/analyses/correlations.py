"""Which units do the same? Correlations between all units, and the clusters that they make.

Neighbouring steps resemble each other, so that two units that have nothing to do with each other correlate over many steps as others
would over few, and of many pairs one is always largest. The control keeps every unit as it is but for what it has to do with others: what
is left between two units then is chance, and the largest |r| of all pairs of each draw is what a pair must beat (max-statistic: Westfall &
Young 1993). Each draw turns every unit upside down, about its mean, in a random half of the sequences, which is right for sequences that
have nothing to do with each other, however short, and units that are as likely to go up as down. Where all units drift from the same
beginning in every sequence, it finds too much, and rightly so. Of fewer than 10 sequences nothing is drawn and the result says *not
controlled*. All draws are sums of products like the correlations themselves, and merge like these.

A long series may be recorded in pieces, the state handed on from one call to the next, which then count as sequences. They must be much
longer than the units remember, or it finds too much: of 256 units that forget a twentieth at each step some pair was shown in 40 of 200
series of 12 pieces of 60 steps, and in 13 of pieces of 1000.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import Moments, finite_steps, missing
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import numbered_units
from lstm_explain.trajectory import Padding, Trajectory, together

if TYPE_CHECKING:
    from pandas import DataFrame

Unit = tuple[str, int]
ALPHA = 0.05


class Pair(NamedTuple):
    """Two units."""

    first: Unit
    second: Unit
    correlation: float
    p_family: float
    """Against the largest |r| of each draw; NaN without draws."""


@dataclass(frozen=True, eq=False, repr=False)
class CorrelationsResult:
    """Correlations between units.

    Attributes
    ----------
    correlations : ndarray ``(unit, unit)``
        NaN where one of the two never changed.
    units : tuple of (layer, unit)
        The names of both axes.
    signals : tuple of str ``(unit,)``
    order : tuple of int
        The places of all units in the order of the clustering; units that never changed come last.
    clusters : ndarray of int ``(unit,)``
        Which cluster each unit is in: 0 is the largest; -1 for units that never changed. By average linkage on 1 - |r|: joined
        as long as the mean |r| between the two parts is at least `threshold`.
    threshold : float
    constant : tuple of int
        The places of units that never changed.
    largest_by_chance : ndarray ``(draw,)``
        The largest |r| of any two units, in each draw; empty where chance isn't known.
    steps, sequences : int
    padding : {"none", "known", "unknown"}
    """

    correlations: NDArray[np.float64]
    units: tuple[Unit, ...]
    signals: tuple[str, ...]
    order: tuple[int, ...]
    clusters: NDArray[np.int64]
    threshold: float
    constant: tuple[int, ...]
    largest_by_chance: NDArray[np.float64]
    steps: int
    sequences: int
    padding: Padding

    @property
    def p_values_family(self) -> NDArray[np.float64]:
        """Of each pair, ``(unit, unit)``: how often chance gave any pair as large an |r|; NaN without draws or where there is no r."""
        draws = len(self.largest_by_chance)
        if not draws:
            return np.full(self.correlations.shape, np.nan)
        # A draw that is as good but for rounding counts as as good.
        below = np.searchsorted(np.sort(self.largest_by_chance), np.abs(self.correlations) - 1e-12)
        return np.where(np.isnan(self.correlations), np.nan, (1 + draws - below) / (1 + draws))

    def pairs(self, count: int = 10) -> tuple[Pair, ...]:
        """The pairs of the largest |r|, largest first."""
        one, other = np.triu_indices(len(self.units), 1)
        r, p = self.correlations[one, other], self.p_values_family[one, other]
        ranked = [at for at in np.argsort(-np.abs(np.nan_to_num(r)), kind="stable") if not np.isnan(r[at])]
        return tuple(Pair(self.units[one[at]], self.units[other[at]], float(r[at]), float(p[at])) for at in ranked[:count])

    def members(self, cluster: int) -> tuple[Unit, ...]:
        """The units of one cluster.

        Raises
        ------
        InputError
            If there is no such cluster.
        """
        if not 0 <= cluster <= self.clusters.max():
            raise InputError(f"needed cluster from 0 to {self.clusters.max()}, got {cluster!r}")
        return tuple(self.units[at] for at in np.flatnonzero(self.clusters == cluster))

    @property
    def verdict(self) -> Literal["shown", "not shown", "not controlled"]:
        """Of the largest |r|: whether it is larger than chance gives any pair, at 5 %."""
        (largest,) = self.pairs(1)
        return "not controlled" if np.isnan(largest.p_family) else "shown" if largest.p_family <= ALPHA else "not shown"

    @property
    def missing(self) -> str:
        """What it would take to know chance, where the verdict is *not controlled*; else empty."""
        return missing(len(self.largest_by_chance), self.sequences)

    def __repr__(self) -> str:
        (largest,) = self.pairs(1)
        several = int((np.bincount(self.clusters[self.clusters >= 0]) > 1).sum())
        constant = f"; {len(self.constant)} constant" if self.constant else ""
        return (
            f"<Correlations of {len(self.units)} units over {number(self.steps)} steps: largest |r| {abs(largest.correlation):.3f}, "
            f"{_of(largest.first)} and {_of(largest.second)} ({self._chance}); {several} clusters of several at {self.threshold:g}"
            f"{constant}; padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        rows = [
            (_of(p.first), _of(p.second), f"{p.correlation:.3f}", "" if np.isnan(p.p_family) else f"{p.p_family:.3g}") for p in self.pairs()
        ]
        return table(f"The largest |r|; {self._chance}; padding {self.padding}", ("unit", "unit", "r", "p, family"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each pair, largest |r| first. Needs pandas."""
        from pandas import DataFrame

        pairs = self.pairs(len(self.units) ** 2)
        rows = [(*p.first, *p.second, p.correlation, p.p_family) for p in pairs]
        return DataFrame(rows, columns=["layer", "unit", "other_layer", "other_unit", "correlation", "p_family"])

    @property
    def _chance(self) -> str:
        if self.missing:
            return f"{self.verdict}: {self.missing}"
        return f"{self.verdict}; by chance at most {self.largest_by_chance.max():.3f}"


def _of(unit: Unit) -> str:
    return f"{unit[0]} unit {unit[1]}"


class Correlations:
    """Correlations as a stream: `update` with each recording, `merge` with another's, `compute` the result.

    Any split of the data into whole sequences, in any order, gives the same sums to rounding. Kept are the sums of products of all units,
    once and for each draw. The parameters are those of `correlations`.

    Raises
    ------
    InputError
        If `threshold` isn't between 0 and 1, or `draws` is below 0.
    """

    needs = ()
    """``record(model, into=[...])`` hands on whole recordings; nothing else needs to be said."""

    def __init__(
        self,
        *,
        layers: str | Sequence[str] | None = None,
        signal: str | None = None,
        units: Sequence[int] | None = None,
        threshold: float = 0.7,
        draws: int = 19,
        seed: int = 0,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"needed threshold from 0 to 1, an |r|, got {threshold}")
        if draws < 0:
            raise InputError(f"needed draws from 0, got {draws}")
        self._layers = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        self._signal, self._chosen, self._threshold = signal, numbered_units(units), threshold
        self._moments = Moments(draws, seed=seed)
        self._units: tuple[tuple[Unit, str], ...] = ()
        self._paddings: set[Padding] = set()

    def update(self, recording: Recording) -> None:
        """Add some sequences.

        Raises
        ------
        InputError
            If a layer, signal or unit isn't there, layers read other steps, units differ from before, or a value isn't finite.
        """
        if not len(recording):
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        if unknown := [name for name in self._layers or () if name not in recording]:
            raise InputError(f"needed layers of {', '.join(recording)}, got {unknown[0]!r}")
        chosen = {name: one for name, one in recording.items() if self._layers is None or name in self._layers}
        first = next(iter(chosen.values()))
        parts, units = [], []
        for name, trajectory in chosen.items():
            if trajectory.valid.shape != first.valid.shape or bool((trajectory.valid != first.valid).any()):
                raise InputError(f"needed layers that read the same steps, got others in {name} than in {first.name}: choose with layers=")
            signal = trajectory.memory if self._signal is None else self._signal
            wanted = self._wanted(trajectory, signal)
            x = trajectory.signal(signal)[:, :, list(wanted)]
            parts.append([finite_steps(row, valid, f"{name} {signal}") for row, valid in zip(x, trajectory.valid, strict=True)])
            units += [((name, unit), signal) for unit in wanted]
        self._same(tuple(units))
        for rows in zip(*parts, strict=True):
            self._moments.update(np.concatenate(rows, axis=1))
        self._paddings.add(first.padding)

    def merge(self, other: Self) -> None:
        """Add another's sums; it must have been made with the same draws and seed, of the same units."""
        if other._units:
            self._same(other._units)
        self._moments.merge(other._moments)
        self._paddings |= other._paddings

    def compute(self) -> CorrelationsResult:
        """The result of everything added so far.

        Raises
        ------
        InputError
            If nothing was added, or fewer than two units ever change.
        """
        if not self._moments.n:
            raise InputError("needed at least one recording, got none: call update first")
        everything = np.concatenate([self._moments.covariance[None], self._moments.by_chance])
        # A unit that changes by so little that nothing is left of it in its square is as good as constant.
        constant = self._moments.constant | ~(np.diagonal(everything[0]) > 0)
        changing = np.flatnonzero(~constant)
        if len(changing) < 2:
            raise InputError(f"needed at least two units that change, got {len(changing)} of {len(constant)}")
        covariance = everything[:, changing[:, None], changing]
        deviation = np.sqrt(np.diagonal(covariance[0]))
        r = np.clip(covariance / np.outer(deviation, deviation), -1, 1)
        whole = np.full((len(constant), len(constant)), np.nan)
        whole[np.ix_(changing, changing)] = r[0]
        whole[changing, changing] = 1.0
        one, other = np.triu_indices(len(changing), 1)
        order, clusters = _clustered(r[0], self._threshold)
        all_clusters = np.full(len(constant), -1, dtype=np.int64)
        all_clusters[changing] = clusters
        return CorrelationsResult(
            correlations=whole,
            units=tuple(unit for unit, _ in self._units),
            signals=tuple(signal for _, signal in self._units),
            order=(*changing[order].tolist(), *np.flatnonzero(constant).tolist()),
            clusters=all_clusters,
            threshold=self._threshold,
            constant=tuple(np.flatnonzero(constant).tolist()),
            largest_by_chance=np.abs(r[1:, one, other]).max(1),
            steps=self._moments.n,
            sequences=len(self._moments.sequences),
            padding=together(self._paddings),
        )

    def _wanted(self, trajectory: Trajectory, signal: str) -> tuple[int, ...]:
        width = trajectory.signal(signal).shape[2]
        if bad := [unit for unit in self._chosen or () if not 0 <= unit < width]:
            raise InputError(f"needed units from 0 to {width - 1} of {trajectory.name} {signal}, got {bad[0]}")
        return tuple(range(width)) if self._chosen is None else self._chosen

    def _same(self, units: tuple[tuple[Unit, str], ...]) -> None:
        self._units = self._units or units
        if self._units != units:
            raise InputError(
                f"needed the {len(self._units)} units of {_layers(self._units)} as before, got {len(units)} of {_layers(units)}"
            )


def _layers(units: tuple[tuple[Unit, str], ...]) -> str:
    return ", ".join(dict.fromkeys(f"{layer} {signal}" for (layer, _), signal in units))


def _clustered(r: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of the leaves, and each unit's cluster, the largest first."""
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - np.abs((r + r.T) / 2)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    # A distance that is the threshold's but for rounding joins.
    found = fcluster(tree, 1 - threshold + 1e-12, "distance")
    _, first, own, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return leaves_list(tree).astype(np.int64), rank[own]


def correlations(
    recording: Recording,
    *,
    layers: str | Sequence[str] | None = None,
    signal: str | None = None,
    units: Sequence[int] | None = None,
    threshold: float = 0.7,
    draws: int = 19,
    seed: int = 0,
) -> CorrelationsResult:
    """How every unit correlates with every other, over all steps, and which make a cluster.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.
    layers : str or sequence of str, optional
        Keys of the recording; all layers if left out, whose units are then correlated with each other's too.
    signal : str, optional
        Any gate or state; the state that remembers if left out: the cell state, or the hidden state where there is no cell.
    units : sequence of int, optional
        The same of every layer; all if left out.
    threshold : float
        The mean |r| between two clusters from which on they are one.
    draws : int
        Of the control, each of which keeps as much as the correlations: 19 are the fewest that can show anything at 5 %. Without any, and
        of fewer than 10 sequences, the result says *not controlled*, and `missing` what it takes.
    seed : int

    Returns
    -------
    CorrelationsResult

    Raises
    ------
    InputError
        If a layer, signal or unit isn't there, layers read other steps, a value isn't finite, or fewer than two units ever change.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True)
    >>> with lx.record(model, lengths=[30, 20]) as recording:
    ...     _ = model(torch.randn(2, 30, 8))
    >>> lx.correlations(recording).correlations.shape
    (16, 16)
    """
    stream = Correlations(layers=layers, signal=signal, units=units, threshold=threshold, draws=draws, seed=seed)
    stream.update(recording)
    return stream.compute()
