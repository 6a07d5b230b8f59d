"""The library's calls as ctypes has them: `library.h`, struct for struct."""

import ctypes
from typing import Any

from lstm_explain.nn.equations import Step


class Layout(ctypes.Structure):
    """How the rows of a call lie."""

    _fields_ = [("sizes", ctypes.POINTER(ctypes.c_long)), ("steps", ctypes.c_long), ("units", ctypes.c_long), ("reverse", ctypes.c_int)]


class CheckFound(ctypes.Structure):
    """What a check found."""

    _fields_ = [("difference", ctypes.c_double), ("scale", ctypes.c_double), ("nonfinite", ctypes.c_long)]


def _fields(*names: str) -> list[tuple[str, Any]]:
    """Fields of a call after its layout: strides are numbers, all others addresses."""
    return [("layout", Layout), *((name, ctypes.c_long if name.endswith("_stride") else ctypes.c_void_p) for name in names)]


class LSTMReplay(ctypes.Structure):
    """Cell states of a layer that was replayed, from its gates."""

    _fields_ = _fields("gates", "cell", "state", "hidden", "hidden_stride", "kept")


class LSTMCheck(ctypes.Structure):
    """Gates and states of a layer against what it returned."""

    _fields_ = _fields(
        "gates", "gates_stride", "cell", "cell_stride", "last", "initial", "hidden", "hidden_stride", "kept_cell", "kept_hidden"
    )


class LSTMHeld(ctypes.Structure):
    """Steps against the equations, one by one."""

    _fields_ = [*_fields("z", "before", "diagonal", "gates", "cell", "hidden"), ("wiring", ctypes.c_int)]


class Signal(ctypes.Structure):
    """Values by sequence and step, of any strides."""

    _fields_ = [("values", ctypes.c_void_p), ("batch_stride", ctypes.c_long), ("time_stride", ctypes.c_long)]


class LSTMNamed(ctypes.Structure):
    """Named signals against each other."""

    _fields_ = [
        ("layout", Layout),
        *((name, Signal) for name in Step._fields),
        ("initial", ctypes.c_void_p),
        ("valid", Signal),
        ("first_step", ctypes.c_void_p),
        ("time", ctypes.c_long),
    ]


class GRUReplay(ctypes.Structure):
    """Hidden states of a layer that was replayed."""

    _fields_ = _fields("input", "recurrent", "initial", "hidden", "hidden_stride", "kept")


class Tally(ctypes.Structure):
    """Counts and sums of a gate."""

    _fields_ = [
        ("layout", Layout),
        ("signal", Signal),
        ("valid", Signal),
        *((name, ctypes.c_long) for name in ("batch", "time")),
        *((name, ctypes.c_void_p) for name in ("low", "high")),
        ("thresholds", ctypes.c_long),
        ("edges", ctypes.c_void_p),
        ("bins", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("nonfinite", "below", "above", "sum", "squares", "mantissa", "exponent", "histogram")),
    ]


class Survival(ctypes.Structure):
    """Products of gates over lags."""

    _fields_ = [
        ("layout", Layout),
        ("signal", Signal),
        ("valid", Signal),
        *((name, ctypes.c_long) for name in ("batch", "time", "count")),
        *((name, ctypes.c_void_p) for name in ("lags", "first", "second", "sums", "room")),
    ]


class Credit(ctypes.Structure):
    """What each step has of what is read of a state."""

    _fields_ = [
        ("layout", Layout),
        *((name, Signal) for name in ("state", "keep", "take", "candidate", "output")),
        *((name, ctypes.c_void_p) for name in ("initial", "weights", "from", "first")),
        ("time", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("shares", "start", "room")),
    ]
