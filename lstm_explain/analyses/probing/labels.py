"""What a label is: yes or no, a category, or a number; where it is defined; and how long ago it was decided."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lstm_explain.errors import InputError

Kind = Literal["binary", "categorical", "continuous"]


class Given(NamedTuple):
    """A label as it was given: one value for each step, and where it is defined."""

    values: NDArray[Any]
    defined: NDArray[np.bool_]
    continuous: bool


class Truth(NamedTuple):
    """A label at the steps where it is defined: class numbers, or numbers."""

    kind: Kind
    values: NDArray[Any]
    classes: tuple[str, ...]


def read(name: str, values: Any) -> Given:
    """A label by its dtype: booleans, whole numbers (-1: undefined) and text ("": undefined) are classes, floats (NaN: undefined) numbers.

    Raises
    ------
    InputError
        If it is none of these, or a number is infinite.
    """
    array = np.asarray(values)
    match array.dtype.kind:
        case "b":
            return Given(array.astype(np.int8), np.ones(array.shape, dtype=bool), False)
        case "i" | "u":
            return Given(array, array != -1, False)
        case "f":
            if np.isinf(array).any():
                raise InputError(f"needed finite numbers (or NaN where undefined) in label {name!r}, got infinite ones")
            return Given(array.astype(np.float64), ~np.isnan(array), True)
        case "U" | "O":
            # None and NaN are how missing text comes out of tables.
            text = np.array(["" if one is None or one != one else str(one) for one in array.ravel()]).reshape(array.shape)
            return Given(text, text != "", False)
    raise InputError(f"needed label {name!r} as booleans, whole numbers, numbers or text, got {array.dtype}")


def resolve(name: str, values: NDArray[Any], continuous: bool) -> Truth:
    """A label's final kind, from its values at all steps where it is defined.

    Raises
    ------
    InputError
        If it has one value only.
    """
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"needed at least two values of label {name!r}, got {f'only {classes[0]}' if len(classes) else 'none defined'}")
    if continuous:
        return Truth("continuous", values.astype(np.float64), ())
    return Truth("binary" if len(classes) == 2 else "categorical", codes, tuple(map(str, classes)))


def changes(given: Given) -> NDArray[np.bool_]:
    """Where a label ``(batch, time)`` differs from the step before it."""
    values, defined = given.values, given.defined
    changed = np.ones(values.shape, dtype=bool)
    changed[:, 1:] = (defined[:, 1:] != defined[:, :-1]) | (defined[:, 1:] & defined[:, :-1] & (values[:, 1:] != values[:, :-1]))
    return changed


def steps_since(events: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many steps ago the last event ``(batch, time)`` was; a sequence's first step counts as one."""
    step = np.arange(events.shape[1])
    return step - np.maximum.accumulate(np.where(events, step, 0), axis=1)
