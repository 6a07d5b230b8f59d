"""The compiled kernels: a library in plain C, reached through ctypes, and optional.

The package's build compiles it where there is a C compiler; where there is none, or ``LSTM_EXPLAIN_BACKEND=torch`` is set, the
same is done by operations of PyTorch. What it computes is held against the readable equations like everything else.
"""

import ctypes
import os
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from lstm_explain.errors import InputError, first_line
from lstm_explain.nn.equations import Step
from lstm_explain.nn.kernels.native import calls

_VARIABLE = "LSTM_EXPLAIN_BACKEND"


class Backend(NamedTuple):
    """Who computes: the compiled kernels or operations of PyTorch; and why."""

    name: Literal["native", "torch"]
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


class Found(NamedTuple):
    """What a kernel's check found: the largest difference and value; they don't count where `nonfinite` says that there was more."""

    difference: float
    scale: float
    nonfinite: bool


_CHECKS = {
    "lx_lstm_replay_run": calls.LSTMReplay,
    "lx_lstm_check_run": calls.LSTMCheck,
    "lx_lstm_held_run": calls.LSTMHeld,
    "lx_lstm_named_run": calls.LSTMNamed,
    "lx_gru_replay_run": calls.GRUReplay,
    "lx_tally_run": calls.Tally,
    "lx_survival_run": calls.Survival,
    "lx_credit_run": calls.Credit,
}


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    built = sorted(Path(__file__).parent.glob("_library*"))
    if not built:
        return None, "the compiled kernels weren't built: install again where there is a C compiler"
    try:
        library = ctypes.CDLL(str(built[0]))
        library.lx_sizes.restype = ctypes.POINTER(ctypes.c_long)
        entries = [getattr(library, name) for name in _CHECKS]
    except (OSError, AttributeError) as error:
        return None, f"the compiled kernels can't be loaded, install again: {first_line(error)}"
    from lstm_explain.nn.kernels.native.layer import CALLS  # which is made of this file

    structs = (*_CHECKS.values(), *CALLS)
    if library.lx_sizes()[: len(structs)] != [ctypes.sizeof(one) for one in structs]:
        return None, "the compiled kernels are of another version: install again"
    for entry, call in zip(entries, _CHECKS.values(), strict=True):
        entry.argtypes = [ctypes.POINTER(call), ctypes.c_int, ctypes.c_int, ctypes.POINTER(calls.CheckFound)]
        entry.restype = None
    share_threads(library)
    library.lx_instructions.restype = ctypes.c_char_p
    return library, f"compiled kernels, {library.lx_instructions().decode()}"


def share_threads(library: ctypes.CDLL, names: Sequence[str] = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")) -> None:
    """Have the library run on PyTorch's threads, where its OpenMP is to be found; on its own otherwise."""
    process = ctypes.CDLL(None) if os.name == "posix" else object()
    found = [getattr(process, name, None) for name in names]
    library.lx_share_threads.argtypes, library.lx_share_threads.restype = [ctypes.c_void_p] * 3, None
    library.lx_share_threads(*(None if one is None else ctypes.cast(one, ctypes.c_void_p) for one in found))


def backend() -> Backend:
    """Who computes what recordings and layers need: the compiled kernels, or operations of PyTorch where there are none.

    The environment variable ``LSTM_EXPLAIN_BACKEND`` forces either: ``native`` or ``torch``.

    Returns
    -------
    Backend
        Its `name`, ``"native"`` or ``"torch"``, and `why`.

    Raises
    ------
    InputError
        If the variable says something else, or asks for compiled kernels that aren't there.

    Examples
    --------
    >>> import lstm_explain as lx
    >>> lx.backend().name in ("native", "torch")
    True
    """
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "torch"):
        raise InputError(f"needed {_VARIABLE}=native or torch, got {wanted!r}")
    if wanted == "torch":
        return Backend("torch", f"{_VARIABLE}=torch")
    library, why = _load()
    if library is None and wanted == "native":
        raise InputError(f"needed compiled kernels, as {_VARIABLE}=native says: {why}")
    return Backend("torch" if library is None else "native", why)


def serves(*tensors: Tensor | None) -> bool:
    """Whether the compiled kernels can work on these tensors: on the CPU, all in float32 or all in float64, with nobody listening.

    Tracers and modes see operations of PyTorch's and nothing else, and subclasses of tensors may have no memory of their own.
    """
    first = next(one for one in tensors if one is not None)
    if first.dtype not in (torch.float32, torch.float64) or backend().name != "native":
        return False
    if is_in_torch_dispatch_mode() or torch._C._is_tracing():
        return False
    return all(
        one.dtype == first.dtype and one.is_cpu and type(one) in (Tensor, torch.nn.Parameter) and one.layout == torch.strided
        for one in tensors
        if one is not None
    )


@lru_cache(maxsize=64)
def _sizes(sizes: tuple[int, ...]) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * len(sizes))(*sizes)


def layout(sizes: Sequence[int], units: int, reverse: bool) -> calls.Layout:
    """A layout as the library takes it."""
    return calls.Layout(_sizes(tuple(sizes)), len(sizes), units, reverse)


def library() -> ctypes.CDLL:
    """The library itself, where `backend` says that there is one."""
    loaded, why = _load()
    assert loaded is not None, why
    return loaded


def _run(entry: str, call: ctypes.Structure, dtype: torch.dtype) -> Found:
    found = calls.CheckFound()
    getattr(library(), entry)(call, dtype == torch.float64, torch.get_num_threads(), found)
    return Found(found.difference, found.scale, bool(found.nonfinite))


def _row_stride(rows: Tensor) -> int:
    """How far a row of values that lie side by side is from the next one."""
    assert rows.stride(1) == 1
    return rows.stride(0)


def lstm_replay(
    gates: Tensor, cell: Tensor, state: Tensor, hidden: Tensor | None, kept: Tensor | None, sizes: Sequence[int], reverse: bool
) -> Found:
    """Gates from their pre-activations, the scan of the cell state, and the hidden states held against o tanh(c).

    Parameters
    ----------
    gates : Tensor ``(rows, 4 * hidden)``
        Pre-activations, and afterwards gates, i, f, g, o.
    cell : Tensor ``(rows, hidden)``
        Written.
    state : Tensor ``(batch, hidden)``
        The initial cell state, and afterwards the last one.
    hidden : Tensor ``(rows, hidden)`` or None
        What the layer returned, in rows of any stride; None where it can't be held against the cell.
    kept : Tensor ``(rows, hidden)`` or None
        Where to copy `hidden`.
    sizes, reverse
        As in `lstm_explain.nn.equations.walk`.
    """
    call = calls.LSTMReplay(
        layout(sizes, cell.shape[1], reverse),
        gates.data_ptr(),
        cell.data_ptr(),
        state.data_ptr(),
        None if hidden is None else hidden.data_ptr(),
        0 if hidden is None else _row_stride(hidden),
        None if kept is None else kept.data_ptr(),
    )
    return _run("lx_lstm_replay_run", call, gates.dtype)


def lstm_check(
    gates: Tensor,
    cell: Tensor,
    last: Tensor,
    initial: Tensor,
    hidden: Tensor,
    kept_cell: Tensor,
    kept_hidden: Tensor | None,
    sizes: Sequence[int],
    reverse: bool,
) -> Found:
    """Gates and cell states held against c = f c + i g and h = o tanh(c), and both states copied on the way.

    Parameters
    ----------
    gates : Tensor ``(rows, 4 * hidden)``, of any stride
        i, f, g, o, in the order in which the layer read: the last step first, where that was backwards.
    cell : Tensor ``(rows - batch, hidden)``, of any stride
        All steps but the last one that was read, in the same order.
    last, initial : Tensor ``(batch, hidden)``
        The cell states of that last step, and those before the first.
    hidden : Tensor ``(rows, hidden)``, of any stride
        In the order of time.
    kept_cell, kept_hidden : Tensor ``(rows, hidden)``
        Where to copy the states, in the order of time; None for hidden states that aren't to be copied.
    """
    call = calls.LSTMCheck(
        layout(sizes, hidden.shape[1], reverse),
        gates.data_ptr(),
        _row_stride(gates),
        cell.data_ptr(),
        _row_stride(cell),
        last.data_ptr(),
        initial.data_ptr(),
        hidden.data_ptr(),
        _row_stride(hidden),
        kept_cell.data_ptr(),
        None if kept_hidden is None else kept_hidden.data_ptr(),
    )
    return _run("lx_lstm_check_run", call, gates.dtype)


def lstm_held(z: Tensor, before: Tensor, diagonal: Tensor | None, graves: bool, gates: Tensor, cell: Tensor, hidden: Tensor) -> Found:
    """Every signal of an LSTM held against what its pre-activations give.

    Parameters
    ----------
    z : Tensor ``(rows, 4 * hidden)``
        Pre-activations, without diagonal peepholes.
    before : Tensor ``(rows, hidden)``
        The cell states that the rows started from.
    diagonal : Tensor ``(4 or 3, hidden)`` or None
        Diagonal peepholes, three where `graves` says that the output gate sees the new cell state and the candidate none.
    gates, cell, hidden : Tensor ``(rows, 4, hidden)``, ``(rows, hidden)``, ``(rows, hidden)``
        What was recorded.
    """
    tensors = [None if one is None else one.data_ptr() for one in (z, before, diagonal, gates, cell, hidden)]
    return _run("lx_lstm_held_run", calls.LSTMHeld(layout((len(cell),), cell.shape[1], False), *tensors, graves), cell.dtype)


def lstm_named(signals: Step, initial: Tensor, valid: Tensor, first_step: Tensor, steps: int, reverse: bool) -> Found:
    """An LSTM's signals by their names over the first `steps` steps, held against its equations and the range of its gates.

    Parameters
    ----------
    signals : Step of Tensor ``(batch, time, hidden)``
        Of any strides, but for units, which lie side by side.
    initial : Tensor ``(batch, hidden)``
    valid : Tensor of bool ``(batch, time)``
    first_step : Tensor of int64 ``(batch,)``
        The step that each sequence's reading began with.
    """
    batch, time, units = signals.cell_state.shape
    call = calls.LSTMNamed(
        layout((batch,) * steps, units, reverse),
        *(calls.Signal(one.data_ptr(), *one.stride()[:2]) for one in signals),
        initial.data_ptr(),
        calls.Signal(valid.data_ptr(), *valid.stride()),
        first_step.data_ptr(),
        time,
    )
    return _run("lx_lstm_named_run", call, initial.dtype)


def gru_replay(
    input: Tensor, recurrent: Tensor, initial: Tensor, hidden: Tensor, kept: Tensor | None, sizes: Sequence[int], reverse: bool
) -> Found:
    """Gates of a GRU from what its input and its state before gave, and the hidden states held against its equation.

    Parameters
    ----------
    input : Tensor ``(rows, 3 * hidden)``
        W_x x + b_x, and afterwards r, z, n.
    recurrent : Tensor ``(rows, 3 * hidden)``
        W_h h + b_h.
    initial : Tensor ``(batch, hidden)``
    hidden : Tensor ``(rows, hidden)``, of any stride
        What the layer returned.
    kept : Tensor ``(rows, hidden)`` or None
        Where to copy it.
    """
    call = calls.GRUReplay(
        layout(sizes, hidden.shape[1], reverse),
        input.data_ptr(),
        recurrent.data_ptr(),
        initial.data_ptr(),
        hidden.data_ptr(),
        _row_stride(hidden),
        None if kept is None else kept.data_ptr(),
    )
    return _run("lx_gru_replay_run", call, input.dtype)


class Tally(NamedTuple):
    """Counts and sums of a signal at the steps that count, unit by unit.

    `nonfinite`, `total` and `squares` ``(unit,)``: what isn't finite, and the sums of the rest and of its squares; `below` and `above`
    ``(threshold, unit)``; `ln` ``(unit,)``, the sum of logarithms, and the `histogram` of all units' finite values, None where they
    weren't asked for.
    """

    nonfinite: NDArray[np.int64]
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    ln: NDArray[np.float64] | None
    histogram: NDArray[np.int64] | None


_MOST_THRESHOLDS = 4
"""As many as the kernel has registers for."""


def tally(signal: Tensor, valid: Tensor, low: Tensor, high: Tensor, edges: Tensor | None, *, ln: bool) -> Tally:
    """Counts and sums of a signal at its valid steps.

    Parameters
    ----------
    signal : Tensor ``(batch, time, unit)``
        Of any strides, but for units, which lie side by side.
    valid : Tensor of bool ``(batch, time)``
    low, high : Tensor ``(threshold,)``
        In the signal's dtype, at most four: how many values are below, and above.
    edges : Tensor ``(bin + 1,)`` or None
        Of equal bins, in the signal's dtype, for a histogram of the finite values of all units.
    ln : bool
        Whether the sum of logarithms is wanted.
    """
    batch, time, units = signal.shape
    thresholds, bins = len(low), 0 if edges is None else len(edges) - 1
    assert thresholds == len(high) <= _MOST_THRESHOLDS
    nonfinite, below, above = (np.zeros(shape, np.int64) for shape in (units, (thresholds, units), (thresholds, units)))
    total, squares, mantissa, exponent = np.zeros(units), np.zeros(units), np.ones(units), np.zeros(units, np.int64)
    histogram = np.zeros((-(-units // 16), 4, bins), np.int64)
    call = calls.Tally(
        layout((1,), units, False),
        calls.Signal(signal.data_ptr(), *signal.stride()[:2]),
        calls.Signal(valid.data_ptr(), *valid.stride()),
        batch,
        time,
        low.data_ptr(),
        high.data_ptr(),
        thresholds,
        None if edges is None else edges.data_ptr(),
        bins,
        *(array.ctypes.data for array in (nonfinite, below, above, total, squares)),
        *(array.ctypes.data if ln else None for array in (mantissa, exponent)),
        histogram.ctypes.data,
    )
    _run("lx_tally_run", call, signal.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(mantissa) + exponent * np.log(2.0) if ln else None
    return Tally(nonfinite, below, above, total, squares, logarithms, None if edges is None else histogram.sum((0, 1)))


def survival(signal: Tensor, valid: Tensor, lags: Sequence[int]) -> NDArray[np.float64]:
    """The sums of the products of `lags` consecutive values, over all places where so many are valid: ``(lag, unit)``.

    Parameters
    ----------
    signal : Tensor ``(batch, time, unit)``
        Of any strides, but for units, which lie side by side.
    valid : Tensor of bool ``(batch, time)``
    lags : sequence of int
        From 1 on; each half of a lag, rounded down and up, stands one or two places before it.
    """
    batch, time, units = signal.shape
    places = {lag: at for at, lag in enumerate(lags)}
    halves = [(0, 0), *((places[lag // 2], places[lag - lag // 2]) for lag in lags[1:])]
    assert lags[0] == 1 and all(at - 2 <= half < at for at, pair in enumerate(halves[1:], 1) for half in pair)
    of_each = np.array([lags, *zip(*halves, strict=True)], np.int64)
    sums = np.zeros((len(lags), units))
    room = signal.new_empty((-(-units // 16) * 16, 3, time))
    call = calls.Survival(
        layout((1,), units, False),
        calls.Signal(signal.data_ptr(), *signal.stride()[:2]),
        calls.Signal(valid.data_ptr(), *valid.stride()),
        batch,
        time,
        len(lags),
        *(row.ctypes.data for row in of_each),
        sums.ctypes.data,
        room.data_ptr(),
    )
    _run("lx_survival_run", call, signal.dtype)
    return sums


def credit(
    state: Tensor,
    keep: Tensor,
    take: Tensor | None,
    candidate: Tensor,
    output: Tensor | None,
    initial: Tensor,
    weights: Tensor,
    step: Tensor,
    first_step: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """What each step has of what is read of a state at one step, where each keeps some of the state and takes some of a candidate.

    Parameters
    ----------
    state, keep, take, candidate, output : Tensor ``(batch, time, unit)``
        Of any strides, but for units, which lie side by side. Where `take` is None, what isn't kept is taken; where there is an output
        gate, what is read is it times the tanh of the state.
    initial, weights : Tensor ``(batch, unit)``
        The state before the first step, and what it is read by.
    step, first_step : Tensor of int64 ``(batch,)``
        The step that is read, and that with which each sequence's reading began.

    Returns
    -------
    Tensors of float64 ``(batch, time)`` and ``(batch,)``: of the steps and of the initial state.
    """
    batch, time, units = state.shape
    shares, start = torch.zeros(batch, time, dtype=torch.float64), torch.empty(batch, dtype=torch.float64)
    initial, weights, room = initial.contiguous(), weights.contiguous(), torch.empty(batch, 3, units, dtype=torch.float64)
    signals = state, keep, take, candidate, output
    call = calls.Credit(
        layout((batch,), units, reverse),
        *(calls.Signal() if one is None else calls.Signal(one.data_ptr(), *one.stride()[:2]) for one in signals),
        *(one.data_ptr() for one in (initial, weights, step, first_step)),
        time,
        *(one.data_ptr() for one in (shares, start, room)),
    )
    _run("lx_credit_run", call, state.dtype)
    return shares, start
