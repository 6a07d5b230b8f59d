"""Arrays by name from files that hold nothing but numbers and text: .npy, .npz, .safetensors, .csv; and a text's characters."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from lstm_explain.errors import InputError, first_line

ARRAYS = (".npy", ".npz", ".safetensors", ".csv")
"""What lengths, labels and groups are read from."""


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name; the one of an .npy by the file's, the columns of a .csv by its header's.

    Raises
    ------
    InputError
        If there is no such file, it isn't of these kinds, is damaged, or needs pickle.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        names, rows = table(path)
        return {name: _column([row[at] for row in rows]) for at, name in enumerate(names or _numbered(rows))}
    if kind not in ARRAYS:
        raise InputError(f"needed a file {', '.join(ARRAYS)}, got {path}")
    try:
        if kind == ".safetensors":
            return {name: tensor.numpy() for name, tensor in sorted(load_file(path).items())}
        # An array of Python objects would be a pickle, which runs code.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: np.asarray(loaded[name]) for name in loaded.files}
    except OSError as error:
        raise InputError(f"needed a file {kind}, got {path}, which can't be read: {error.strerror or first_line(error)}") from error
    # Damaged archives, headers that claim too much, dtypes that NumPy doesn't have: each has an exception of its own.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise InputError(f"needed numbers or text in {path}, got Python objects: save it with a plain dtype") from error
        raise InputError(f"needed a file {kind} that can be read, got {path}, which is damaged: {first_line(error)}") from error


def text_of(path: Path) -> str:
    """A file's text, as UTF-8, newlines as a line feed."""
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"needed a file of text, got {path}, which can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise InputError(f"needed UTF-8 text in {path}, got {got}: convert it, for one with iconv") from error
    return io.StringIO(text, newline=None).read()


def table(path: Path) -> tuple[list[str] | None, list[list[str]]]:
    """The header of a .csv, if its first row isn't all numbers, and the cells of its rows, all rows as long.

    Raises
    ------
    InputError
        If it isn't UTF-8, isn't a table, or has no rows.
    """
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text_of(path)), strict=True)]
    except csv.Error as error:
        raise InputError(f"needed comma-separated values in {path}, got what isn't: {error}") from error
    while rows and not any(rows[-1]):
        rows.pop()
    for at, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise InputError(f"needed {len(rows[0])} cells in every row of {path}, got {len(row)} in row {at}, column {len(row) + 1} on")
    named = bool(rows) and not all(_is_number(cell) or not cell for cell in rows[0])
    names = rows.pop(0) if named else None
    if not rows:
        raise InputError(f"needed rows of numbers in {path}, got none")
    if names is not None and "" in names:
        raise InputError(f"needed a name for column {names.index('') + 1} of {path}; pandas writes no index with to_csv(index=False)")
    if names is not None and (twice := [name for at, name in enumerate(names) if name in names[:at]]):
        raise InputError(f"needed columns with names of their own in {path}, got {twice[0]!r} twice")
    return names, rows


def numbers(path: Path, names: Sequence[str] | None, rows: Sequence[Sequence[str]], columns: Sequence[int]) -> NDArray[np.float64]:
    """Some columns of a table as finite numbers ``(row, column)``.

    Raises
    ------
    InputError
        If a cell is empty or isn't a finite number; its row, counted from the top of the file, and its column are named.
    """
    read = np.empty((len(rows), len(columns)))
    for at, row in enumerate(rows):
        for to, column in enumerate(columns):
            cell = row[column]
            if not _is_number(cell) or not math.isfinite(value := float(cell)):
                where = f"row {at + 1 + (names is not None)}, column {column + 1 if names is None else repr(names[column])}"
                got = repr(cell) if cell else "an empty cell"
                raise InputError(f"needed a finite number in {where} of {path}, got {got}: fill it or leave it out")
            read[at, to] = value
    return read


def vocabulary(path: Path) -> dict[str, int]:
    """The number of each character: a JSON list of characters in order, or an object that maps each to its number.

    Raises
    ------
    InputError
        If the file is neither.
    """
    try:
        given = json.loads(text_of(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"needed JSON in {path}: {first_line(error)}") from error
    found = {one: at for at, one in enumerate(given)} if isinstance(given, list) and all(isinstance(one, str) for one in given) else given
    whole = isinstance(found, dict) and all(type(value) is int and value >= 0 for value in found.values())
    if not whole or len(found) != len(given) or not found:
        raise InputError(f"needed a list of different characters, or an object with the number of each, in {path}")
    return dict(found)


def _column(cells: list[str]) -> NDArray[Any]:
    """A column as whole numbers, numbers or text; an empty cell is -1, NaN or "", which says that it isn't defined there."""
    for kind, empty, dtype in ((int, "-1", np.int64), (float, "nan", np.float64)):
        try:
            return np.array([kind(cell or empty) for cell in cells], dtype=dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(cells)


def _numbered(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"column {at + 1}" for at in range(len(rows[0]))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
