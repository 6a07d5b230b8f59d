"""A `Study` without a line of it written: a model that is named, and its weights, inputs and labels from files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.errors import InputError
from lstm_explain.report.arrays import ARRAYS, arrays, numbers, table, text_of, vocabulary
from lstm_explain.report.named import called, stem
from lstm_explain.report.weights import load_weights
from lstm_explain.study import Place, Study
from lstm_explain.trajectory import checked_lengths

SEQUENCE = "sequence"
"""The column of a table that says which sequence a row belongs to."""
EXAMPLES = 3
_CHOSEN = (
    "The places are the last steps of the first sequences, and the largest output there: the study was made from files, without places."
)


@dataclass(frozen=True)
class Files:
    """What was asked for.

    Parameters
    ----------
    model : str
        ``package.module:FACTORY`` or ``FILE.py:FACTORY``.
    inputs : Path
        Arrays ``(batch, time, feature)``, whole numbers ``(batch, time)`` for symbols, or one series ``(time, feature)``; a table of
        one row for each step; or a text.
    weights : Path, optional
        If left out the factory loads its own.
    arguments : mapping
        What the factory is called with.
    lengths, groups : str, optional
        A file, or what has no file's suffix: an array or column of `inputs`.
    labels : sequence of str
        The same, any number of them: each array and each column is a label.
    window : int, optional
        One series is cut into sequences of so many steps.
    features : sequence of str, optional
        The columns of a table that the model reads, in order; by default all that nothing else is asked of.
    vocabulary : Path, optional
        The number of each character of a text.
    """

    model: str
    inputs: Path
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    lengths: str | None = None
    labels: Sequence[str] = ()
    groups: str | None = None
    window: int | None = None
    features: Sequence[str] | None = None
    vocabulary: Path | None = None


class _Read(NamedTuple):
    """What was read: the steps ``(row, ...)`` of all sequences one after the other, or arrays ``(batch, time, ...)`` as they are."""

    values: NDArray[Any]
    pieces: list[slice] | None
    named: Mapping[str, NDArray[Any]]
    tokens: str | None = None
    features: Sequence[str] | None = None


def study_of(files: Files) -> Study:
    """A study made from files.

    Raises
    ------
    LstmExplainError
        If the factory fails, a file can't be read, or they don't fit each other.
    """
    model = called(files.model, "model", **files.arguments)
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module from {files.model}, got {type(model).__name__}")
    if files.weights is not None:
        load_weights(model, files.weights)
    read = _read(files)
    values = read.values if read.pieces is None else _cut(read.values, read.pieces, 0)
    inputs = torch.from_numpy(values)
    floating = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    inputs = inputs.to(floating) if inputs.dim() > 2 else inputs.long()
    lengths = _lengths(files, read, inputs)
    labels, spread = _labels(files, read, inputs)
    caveats = {"attribution": _CHOSEN}
    if spread:
        caveats["probing"] = f"Of {', '.join(spread)} there is one value for each sequence, which stands at each of its steps."
    places = _places(model, inputs, lengths)
    return Study(
        model,
        inputs,
        lengths=lengths,
        labels=labels,
        groups=_groups(files, read, inputs),
        tokens=None if read.tokens is None or read.pieces is None else [list(read.tokens[piece]) for piece in read.pieces],
        feature_names=read.features,
        places=places,
        name=stem(files.model),
        about={
            "what": f"{type(model).__name__} of {Path(files.model).name}",
            "text": files.inputs.name,
            "weights": "the factory’s own" if files.weights is None else files.weights.name,
            "caveats": caveats,
        },
    )


def _read(files: Files) -> _Read:
    kind, path = files.inputs.suffix.lower(), files.inputs
    if files.features is not None and kind != ".csv":
        raise InputError(f"needed inputs in a .csv with --features, got {path}")
    if kind == ".txt":
        text = text_of(path)
        return _Read(_symbols(text, files), _windows([slice(0, len(text))], files.window), {}, tokens=text)
    if kind == ".csv":
        return _table(files)
    if kind not in ARRAYS:
        raise InputError(f"needed inputs in a file {', '.join(ARRAYS)} or .txt, got {path}")
    named = arrays(path)
    asked = {name for name in (files.lengths, files.groups, *files.labels) if name is not None}
    values = _one({name: array for name, array in named.items() if name not in asked}, "inputs", path)
    if values.dtype.kind not in "biuf":
        raise InputError(f"needed numbers as inputs in {path}, got {values.dtype}")
    whole = values.dtype.kind != "f"
    if values.ndim == 1 or (values.ndim == 2 and not whole):
        series = values if whole or values.ndim == 2 else values[:, None]
        return _Read(series, _windows([slice(0, len(series))], files.window), named)
    if files.window is not None:
        raise InputError(f"needed one series to cut by --window, got sequences of shape {values.shape} in {path}")
    if values.ndim < 2:
        raise InputError(f"needed inputs (batch, time, feature), symbols (batch, time) or a series (time, feature), got a number in {path}")
    return _Read(values, None, named)


def _table(files: Files) -> _Read:
    """A table's rows are steps; the columns that nothing else is asked of are features."""
    names, rows = table(files.inputs)
    asked = {SEQUENCE, files.groups, *files.labels}
    if files.features is not None:
        if unknown := [one for one in files.features if one not in (names or ())]:
            raise InputError(
                f"needed features among the columns of {files.inputs}, {', '.join(names or ()) or 'no names'}, got {unknown[0]!r}"
            )
        features = [(names or []).index(one) for one in files.features]
    else:
        features = [at for at in range(len(rows[0])) if names is None or names[at] not in asked]
    if not features:
        raise InputError(
            f"needed a column of numbers in {files.inputs} that isn't a label, a group or the sequence, got {', '.join(names or ())}"
        )
    named = arrays(files.inputs) if names is not None else {}
    values = numbers(files.inputs, names, rows, features)
    pieces = _runs(named[SEQUENCE], files.inputs) if SEQUENCE in named else [slice(0, len(rows))]
    return _Read(values, _windows(pieces, files.window), named, features=None if names is None else [names[at] for at in features])


def _runs(sequence: NDArray[Any], path: Path) -> list[slice]:
    """The rows of each sequence, which stand together."""
    begins = [0, *(np.flatnonzero(sequence[1:] != sequence[:-1]) + 1).tolist(), len(sequence)]
    seen: set[Any] = set()
    for begin in begins[:-1]:
        if sequence[begin].item() in seen:
            raise InputError(f"needed the rows of a sequence together in {path}, got {sequence[begin].item()!r} again in row {begin + 2}")
        seen.add(sequence[begin].item())
    return [slice(begin, end) for begin, end in zip(begins, begins[1:], strict=False)]


def _windows(pieces: list[slice], window: int | None) -> list[slice]:
    if window is None:
        return pieces
    return [slice(at, min(at + window, piece.stop)) for piece in pieces for at in range(piece.start, piece.stop, window)]


def _cut(values: NDArray[Any], pieces: Sequence[slice], fill: Any) -> NDArray[Any]:
    """Steps one after the other -> ``(batch, time, ...)``, with `fill` behind the shorter ones."""
    longest = max(piece.stop - piece.start for piece in pieces)
    made = np.full((len(pieces), longest, *values.shape[1:]), fill, dtype=values.dtype)
    for row, piece in enumerate(pieces):
        made[row, : piece.stop - piece.start] = values[piece]
    return made


def _symbols(text: str, files: Files) -> NDArray[np.int64]:
    if files.vocabulary is None:
        raise InputError("needed --vocabulary FILE.json with a .txt: a list of its characters in the order of their numbers")
    if not text:
        raise InputError(f"needed text in {files.inputs}, got none")
    number = vocabulary(files.vocabulary)
    if (at := next((at for at, character in enumerate(text) if character not in number), None)) is not None:
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        where = f"line {line}, column {column} of {files.inputs}"
        raise InputError(f"needed characters of {files.vocabulary}, got {text[at]!r} in {where}: add it, or take it out")
    return np.array([number[character] for character in text], dtype=np.int64)


def _one(named: Mapping[str, NDArray[Any]], wanted: str, path: Path) -> NDArray[Any]:
    if wanted in named or len(named) == 1:
        return named.get(wanted, next(iter(named.values())))
    raise InputError(f"needed an array {wanted!r} in {path}, or only one, got {', '.join(named) or 'none'}")


def _given(asked: str, read: _Read, files: Files) -> dict[str, NDArray[Any]]:
    """The arrays of a file that was asked for, or the one of the inputs' file that was."""
    if Path(asked).suffix.lower() in ARRAYS:
        return arrays(Path(asked))
    if asked not in read.named:
        has = ", ".join(read.named) or "none with a name"
        raise InputError(f"needed a file {', '.join(ARRAYS)}, or an array or column of {files.inputs}, which has {has}, got {asked!r}")
    return {asked: read.named[asked]}


def _lengths(files: Files, read: _Read, inputs: Tensor) -> list[int] | None:
    if files.lengths is None:
        return None if read.pieces is None else [piece.stop - piece.start for piece in read.pieces]
    if read.pieces is not None:
        raise InputError(f"needed no --lengths with {files.inputs}, which says itself how long its sequences are")
    lengths = _one(_given(files.lengths, read, files), "lengths", files.inputs)
    checked_lengths(np.atleast_1d(lengths).tolist(), *inputs.shape[:2])
    return [int(length) for length in lengths]


def _labels(files: Files, read: _Read, inputs: Tensor) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The labels of each step; and which of them were one value for each sequence."""
    labels, spread = {}, []
    batch, time = inputs.shape[:2]
    for asked in files.labels:
        for name, label in _given(asked, read, files).items():
            if read.pieces is not None and label.shape == (len(read.values),):
                label = _cut(label, read.pieces, label[0])
            elif label.shape == (batch,):
                label = np.repeat(label[:, None], time, axis=1)
                spread.append(name)
            elif label.shape != (batch, time):
                rows = "" if read.pieces is None else f", ({len(read.values)},)"
                raise InputError(f"needed label {name!r} of shape ({batch}, {time}){rows} or ({batch},), got {label.shape} in {asked}")
            labels[name] = label
    return labels, spread


def _groups(files: Files, read: _Read, inputs: Tensor) -> list[Any] | None:
    if files.groups is None:
        return None
    groups = _one(_given(files.groups, read, files), "groups", files.inputs)
    if read.pieces is not None and groups.shape == (len(read.values),):
        if mixed := [at for at, piece in enumerate(read.pieces) if (groups[piece] != groups[piece.start]).any()]:
            raise InputError(
                f"needed one group for each sequence, got several in sequence {mixed[0]}: {_several(groups[read.pieces[mixed[0]]])}"
            )
        groups = groups[[piece.start for piece in read.pieces]]
    if groups.shape != (len(inputs),):
        raise InputError(f"needed groups of shape ({len(inputs)},), got {groups.shape}")
    return [group.item() for group in groups]


def _several(groups: NDArray[Any]) -> str:
    return ", ".join(str(one) for one in np.unique(groups)[:3])


def _places(model: nn.Module, inputs: Tensor, lengths: list[int] | None) -> list[Place]:
    """The largest output at the last step of a few sequences; none where the output isn't one that has such."""
    rows = range(min(EXAMPLES, len(inputs)))
    ends = [inputs.shape[1] if lengths is None else lengths[row] for row in rows]
    try:
        with torch.no_grad():
            returned = model.eval()(inputs[: len(rows), : max(ends)])
    # What goes wrong here goes wrong in the recording too, which says what.
    except Exception:
        return []
    output = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(output, Tensor) or output.dim() not in (2, 3) or len(output) != len(rows):
        return []
    if output.dim() == 3 and output.shape[1] < max(ends):
        return []
    last = output if output.dim() == 2 else output[torch.arange(len(rows)), torch.tensor(ends) - 1]
    largest = last.argmax(-1).tolist()
    step = [(end - 1,) if output.dim() == 3 else () for end in ends]
    return [Place(f"output {one} of sequence {row}", row, (*step[row], one)) for row, one in zip(rows, largest, strict=True)]
