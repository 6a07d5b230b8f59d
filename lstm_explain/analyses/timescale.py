"""How long does each cell remember?

First the *survival* curve, S(k): the share of a cell's content that k steps of its forget gate leave, the product of k consecutive
forget gates averaged over all such runs of steps; and its *half-life*, the k at which half is left. A curve, because a cell that
holds for long and is then reset has no single timescale. Beside them the *forget timescale* τ = -1 / mean(ln f), after Mahto
et al. (2021), who take -1 / ln of one gate; the geometric mean is what a product of gates decays by; and the *reset rate*,
the share of steps with f below 0.1.

All of these follow the direct path only, cell to cell through f. With peepholes the cell also reaches itself through its own
gates, and the true one-step retention is the diagonal of ∂c_t/∂c_{t-1} at fixed h. In the default wiring, with
f' = f(1-f), i' = i(1-i), g' = 1-g²::

    ∂c_t/∂c_{t-1} = diag(f) + diag(f'⊙c_{t-1}) W_cf + diag(i'⊙g) W_ci + diag(i⊙g') W_cg

in the ``graves`` wiring without the last term; diagonal peepholes make it diagonal. Its off-diagonal part is what cells do to
each other, given as a share of the matrix's Frobenius norm.

In a GRU the update gate z is the share of the state that is kept, and stands in for f. An RNN has no such gate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.accumulators import Sums, tally, total
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.nn.equations import peephole_of
from lstm_explain.nn.kernels import native
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, Trajectory, together

if TYPE_CHECKING:
    from pandas import DataFrame

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
RESET = 0.1
KEEPS = ("forget_gate", "update_gate")
"""The gates that say which share of a state is kept."""
_SEQUENCES = 8
"""How many sequences are worked on at once: bounds memory, changes nothing else."""


@dataclass(frozen=True, eq=False)
class LayerTimescale:
    """One layer, in one direction.

    Attributes
    ----------
    gate : str
        The gate that says which share is kept: ``"forget_gate"``, or a GRU's ``"update_gate"``; below it is f.
    lags : ndarray of int ``(lag,)``
        Those that the longest sequence reaches.
    survival : ndarray ``(lag, unit)``
    runs : ndarray of int ``(lag,)``
        How many runs of consecutive steps each lag was averaged over.
    half_life : ndarray ``(unit,)``
        In steps, interpolated in the logarithm; infinite where more than half is left at the longest lag.
    timescale : ndarray ``(unit,)``
        τ in steps; infinite where every f is 1.
    reset_rate, forget_mean : ndarray ``(unit,)``
    retention : ndarray ``(unit,)``
        The mean one-step retention, peepholes included; equal to `forget_mean` without them.
    off_diagonal : ndarray ``(unit,)``
        The share of a cell's row of ∂c_t/∂c_{t-1} that comes from other cells, root mean square over steps; 0 to 1.
    off_diagonal_share : float
        The same for the whole matrix.
    steps : int
        Valid steps that were counted.
    """

    gate: str
    lags: NDArray[np.int64]
    survival: NDArray[np.float64]
    runs: NDArray[np.int64]
    half_life: NDArray[np.float64]
    timescale: NDArray[np.float64]
    reset_rate: NDArray[np.float64]
    forget_mean: NDArray[np.float64]
    retention: NDArray[np.float64]
    off_diagonal: NDArray[np.float64]
    off_diagonal_share: float
    steps: int

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return len(self.half_life)


@dataclass(frozen=True, eq=False, repr=False)
class TimescaleResult:
    """How long the cells of every layer remember.

    Attributes
    ----------
    layers : mapping of str to LayerTimescale
    padding : {"none", "known", "unknown"}
    """

    layers: Mapping[str, LayerTimescale]
    padding: Padding

    def __repr__(self) -> str:
        halves = ", ".join(f"{name} {_steps(float(np.median(layer.half_life)))}" for name, layer in self.layers.items())
        return f"<Timescale: median half-life {halves}; padding {self.padding}>"

    def _repr_html_(self) -> str:
        rows = []
        for name, layer in self.layers.items():
            low, median, high = np.quantile(layer.half_life, [0.1, 0.5, 0.9], method="nearest")
            cells = [_steps(float(value)) for value in (low, median, high)]
            rows.append((name, *cells, f"{layer.forget_mean.mean():.3f}", f"{layer.retention.mean():.3f}"))
        header = ("layer", "half-life 10 %", "median", "90 %", "mean f", "mean retention")
        return table(f"Half-lives of cells, in steps; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value is infinite or not a number, with the reason."""
        layers = {}
        for name, layer in self.layers.items():
            layers[name] = vars(layer) | {
                "half_life_none": f"more than half is left after {layer.lags[-1]} steps, the longest run that was measured",
                "timescale_none": "the forget gate was 1 at every step",
                "off_diagonal_share_none": None if np.isfinite(layer.off_diagonal_share) else "the gates are not finite",
            }
        return dict(jsonable({"layers": layers, "padding": self.padding}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each layer and unit. Needs pandas."""
        from pandas import DataFrame, concat

        columns = ("half_life", "timescale", "reset_rate", "forget_mean", "retention", "off_diagonal")
        frames = [
            DataFrame({"layer": name, "unit": range(layer.units)} | {column: getattr(layer, column) for column in columns})
            for name, layer in self.layers.items()
        ]
        return concat(frames, ignore_index=True)


def _steps(value: float) -> str:
    return number(round(value, 1)) if np.isfinite(value) else "beyond the longest lag"


class Timescale:
    """Timescales as a stream: `update` with each trajectory, `merge` with another's, `compute` the result.

    Any split of the data into whole sequences, in any order, gives the same counts exactly and the same sums to rounding.
    """

    def __init__(self) -> None:
        self._layers: dict[str, Sums] = {}
        self._gates: dict[str, str] = {}
        self._without: list[str] = []
        self._paddings: set[Padding] = set()

    def update(self, trajectory: Trajectory) -> None:
        """Add one layer's sequences; a layer's name says which layer it adds to. One without a gate that keeps adds nothing.

        Raises
        ------
        InputError
            If signals or units that are needed weren't kept.
        """
        gate = next((name for name in KEEPS if name in trajectory.gates), None)
        if gate is None:
            self._without.append(trajectory.name)
            return
        if trajectory.units is not None and "weight_ch" in trajectory.weights:
            raise InputError(
                f"needed all units of {trajectory.name}, whose peepholes join them, got {len(trajectory.units)}: record without units="
            )
        if self._gates.setdefault(trajectory.name, gate) != gate:
            raise InputError(f"needed the {self._gates[trajectory.name]} of {trajectory.name} as before, got a layer with {gate}")
        sums = self._layers.setdefault(trajectory.name, Sums())
        self._paddings.add(trajectory.padding)
        sums.add("steps", int(trajectory.valid.sum()))
        keep = trajectory.signal(gate)
        found = tally(keep, trajectory.valid, low=[RESET], high=[1.0], ln=True)
        assert found.ln is not None
        f_sum, f_squares = (np.where(found.nonfinite > 0, np.nan, sums_of) for sums_of in (found.total, found.squares))
        sums.add("resets", found.below[0])
        sums.add("f", f_sum)
        sums.add("ln f", found.ln)
        _add_survival(sums, keep, trajectory.valid, trajectory.edited())
        if "weight_ch" in trajectory.weights:
            _add_retention(sums, trajectory)
        else:
            sums.add("retention", f_sum)
            sums.add("diagonal²", f_squares)
            sums.add("off²", np.zeros(len(f_sum)))

    def merge(self, other: Self) -> None:
        """Add what another counted."""
        self._paddings |= other._paddings
        self._gates |= other._gates
        for name, sums in other._layers.items():
            self._layers.setdefault(name, Sums()).merge(sums)

    def compute(self) -> TimescaleResult:
        """The result of everything counted so far.

        Raises
        ------
        InputError
            If nothing was counted.
        """
        if not self._layers:
            if self._without:
                raise InputError(f"needed at least one layer with a forget or update gate, got {', '.join(dict.fromkeys(self._without))}")
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        return TimescaleResult({name: _compute(self._gates[name], sums) for name, sums in self._layers.items()}, together(self._paddings))


def _add_survival(sums: Sums, f: Tensor, valid: Tensor, edited: Tensor) -> None:
    """Sums of the products of k consecutive forget gates ``(batch, time, unit)``, over the runs that are valid throughout.

    A run doesn't go on over a step whose state was edited: what it started from isn't what the step before had left.
    """
    lags = [lag for lag in LAGS if lag <= f.shape[1]]
    runs = _runs(valid, edited, lags)
    for lag in lags:
        sums.add(f"runs {lag}", int(runs[lag].sum()))
    if native.serves(f) and valid.is_cpu and f.stride(2) == 1 and not edited.any():
        for lag, left in zip(lags, native.survival(f, valid, lags), strict=True):
            sums.add(f"survival {lag}", left)
        return
    for rows in torch.arange(len(f), device=f.device).split(_SEQUENCES):
        for lag, product in _products(f[rows], {lag: mask[rows] for lag, mask in runs.items()}):
            sums.add(f"survival {lag}", total(product.flatten(0, 1)))


def _runs(valid: Tensor, edited: Tensor, lags: Sequence[int]) -> dict[int, Tensor]:
    """Where runs of so many steps begin, ``(batch, time - lag + 1)``: two shorter ones end to end."""
    runs = {1: valid}
    for lag in lags[1:]:
        first, n = lag // 2, valid.shape[1] - lag + 1
        runs[lag] = runs[first][:, :n] & runs[lag - first][:, first : first + n] & ~edited[:, first : first + n]
    return runs


def _products(f: Tensor, runs: Mapping[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """The product of each run: one multiplication for each length, and no logarithm that a zero could break."""
    products: dict[int, Tensor] = {}
    for lag, begins in runs.items():
        first, n = lag // 2, begins.shape[1]
        if lag == 1:
            product = f.to(torch.promote_types(f.dtype, torch.float32))
        else:
            product = products[first][:, :n] * products[lag - first][:, first : first + n]
        products[lag] = product.where(begins.unsqueeze(2), 0.0)
        yield lag, products[lag]
        for done in [old for old in products if 2 * old < lag]:
            del products[done]


def _add_retention(sums: Sums, trajectory: Trajectory) -> None:
    """Sums over steps of the diagonal of ∂c_t/∂c_{t-1} with peepholes, and of the squares on and off it, row by row."""
    assert trajectory.form is not None
    i, f, g = (trajectory.steps(name) for name in ("input_gate", "forget_gate", "cell_candidate"))
    c = trajectory.before("cell_state")[trajectory.valid]
    slopes = {"f": f * (1 - f) * c, "i": i * (1 - i) * g, "g": i * (1 - g * g)}
    peepholes = {gate: peephole_of(gate, trajectory.weights.get("weight_ch"), trajectory.form) for gate in slopes}
    rows = {gate: slopes[gate] for gate, W in peepholes.items() if W is not None}
    square = trajectory.form.peephole == "full"
    diagonals = {gate: W.diagonal() if square else W.reshape(-1) for gate, W in peepholes.items() if W is not None}

    diagonal = f.clone()
    for gate, slope in rows.items():
        diagonal.addcmul_(slope, diagonals[gate])
    off = torch.zeros_like(f)
    if square:
        # The squared norm of a row's off-diagonal part is a quadratic form in its slopes: no matrix is built for any step.
        others = {gate: W - torch.diag(W.diagonal()) for gate, W in peepholes.items() if W is not None}
        for a, slope_a in rows.items():
            for b, slope_b in rows.items():
                off.addcmul_(slope_a * slope_b, (others[a] * others[b]).sum(1))
    sums.add("retention", total(diagonal))
    sums.add("diagonal²", total(diagonal.double().square()))
    sums.add("off²", total(off.clamp(min=0)))


def _compute(gate: str, sums: Sums) -> LayerTimescale:
    def get(name: str) -> NDArray[Any]:
        return np.asarray(sums[name])

    steps = int(get("steps"))
    lags = np.array([lag for lag in LAGS if f"runs {lag}" in sums and get(f"runs {lag}") > 0], dtype=np.int64)
    runs = np.array([int(get(f"runs {lag}")) for lag in lags], dtype=np.int64)
    survival = np.stack([get(f"survival {lag}") / n for lag, n in zip(lags, runs, strict=True)])
    off, on = get("off²"), get("diagonal²")
    mean_ln = get("ln f") / steps
    with np.errstate(divide="ignore", invalid="ignore"):
        timescale = np.where(mean_ln == 0, np.inf, -1 / mean_ln)
        off_diagonal = np.sqrt(np.where(off + on > 0, off / (off + on), 0.0))
        share = float(np.sqrt(off.sum() / (off.sum() + on.sum())))
    return LayerTimescale(
        gate=gate,
        lags=lags,
        survival=survival,
        runs=runs,
        half_life=half_life(lags, survival),
        timescale=timescale,
        reset_rate=get("resets") / steps,
        forget_mean=get("f") / steps,
        retention=get("retention") / steps,
        off_diagonal=off_diagonal,
        off_diagonal_share=share,
        steps=steps,
    )


def half_life(lags: NDArray[np.int64], survival: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each curve ``(lag, unit)`` first falls to one half, from S(0) = 1: ``(unit,)``, in steps.

    Interpolated linearly in ln S, which is exact for exponential decay; infinite where the curve stays above one half, NaN
    where it isn't a number.
    """
    k = np.concatenate([[0], lags]).astype(np.float64)
    ln = np.log(np.maximum(np.vstack([np.ones(survival.shape[1]), survival]), np.finfo(np.float64).tiny))
    half = np.log(0.5)
    below = ln <= half
    at = np.maximum(below.argmax(0), 1)
    unit = np.arange(survival.shape[1])
    high, low = ln[at - 1, unit], ln[at, unit]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = k[at - 1] + (k[at] - k[at - 1]) * (high - half) / (high - low)
    return np.where(np.isnan(ln).any(0), np.nan, np.where(below.any(0), crossing, np.inf))


def timescale(recording: Recording) -> TimescaleResult:
    """How long each cell remembers, for every layer of a recording.

    Parameters
    ----------
    recording : Recording
        Padding, where it is known, doesn't enter.

    Returns
    -------
    TimescaleResult

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
    >>> lx.timescale(recording).layers["l0"].lags.tolist()
    [1, 2, 3, 4, 6, 8]
    """
    stream = Timescale()
    for trajectory in recording.values():
        stream.update(trajectory)
    return stream.compute()
