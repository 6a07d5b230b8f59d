"""Weights from a file that somebody else may have made: read as tensors, whatever its name says, and never run."""

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lstm_explain.errors import WeightsError, first_line

SHOWN = 3
"""Of more keys that don't fit only so many are named."""
_RECIPE = (
    'in the program that made it write `from safetensors.torch import save_file; save_file(model.state_dict(), "weights.safetensors")`'
)


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a file into a model.

    Parameters
    ----------
    model : torch.nn.Module
    path : Path
        Safetensors, or a state dict that ``torch.save`` wrote, by itself or as the only one in a checkpoint.

    Raises
    ------
    WeightsError
        If the file can't be read, holds anything but tensors by name, or doesn't fit the model.
    """
    _put(model, _tensors(path), path)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # By what is in it: a suffix says what somebody called it.
            if start[8:] == b"{":
                return dict(load_file(path))
            if start.startswith(b"PK\x03\x04"):
                _refuse_archives(path)
            elif not start.startswith(b"\x80"):
                raise WeightsError(f"needed safetensors or a state dict in {path}, got neither: {_RECIPE}")
            file.seek(0)
            return _state_dict(torch.load(file, map_location="cpu", weights_only=True), path)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"needed a file of weights, got {path}, which can't be read: {error.strerror or error}") from error
    # A damaged or hostile file: torch and safetensors have many exceptions for these, and advice that isn't ours to pass on.
    except Exception as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            got = f"a pickle that names {named[1]}, which could run code"
            raise WeightsError(f"needed only tensors in {path}, got {got}: {_RECIPE}") from error
        raise WeightsError(f"needed safetensors or a state dict in {path}, which is damaged or something else: {_RECIPE}") from error


def _refuse_archives(path: Path) -> None:
    """Refuse what runs code when it is loaded, and what isn't weights: only archives that ``torch.save`` writes are left."""
    with zipfile.ZipFile(path) as archive:
        whole = archive.namelist()
    names = {name.partition("/")[2] for name in whole} | set(whole)
    kinds = {
        "a TorchScript archive, which runs code on loading": any(one == "constants.pkl" or one.startswith("code/") for one in names),
        "an exported program (.pt2), which runs code on loading and has no layers to open": any(
            one in ("archive_format", "serialized_exported_program.json") or one.startswith("models/") for one in names
        ),
        "a torch.package archive, which runs code on loading": any(one.startswith(".data/extern_modules") for one in names),
        "an archive of something else": "data.pkl" not in names,
    }
    for kind, found in kinds.items():
        if found:
            raise WeightsError(f"needed a state dict in {path}, got {kind}: {_RECIPE}")


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    """What was saved, or the only state dict in what was saved: checkpoints have epochs and optimisers beside it."""
    if _is_state_dict(loaded):
        return dict(loaded)
    inside = [one for one in loaded.values() if _is_state_dict(one)] if isinstance(loaded, Mapping) else []
    if len(inside) != 1:
        got = f"{len(inside)} of them" if inside else f"a {type(loaded).__name__} without one"
        raise WeightsError(f"needed one state dict, tensors by name, in {path}, got {got}: {_RECIPE}")
    return dict(inside[0])


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _put(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    # DataParallel, torch.compile and trainers put the model's own name in front of every key.
    inner = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    if len(inner) == len(tensors) and set(inner) == set(expected) != set(tensors):
        tensors = inner
    places = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in expected.items()}
    # Weights that are tied are there once.
    there = {places[name] for name in tensors if name in places}
    missing = [name for name in expected if name not in tensors and (places[name] not in there or not expected[name].numel())]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(wrong.values()):
        said = "; ".join(f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in wrong.items() if keys)
        raise WeightsError(f"needed the {len(expected)} tensors of {type(model).__name__} in {path}, got {len(tensors)}: {said}")
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"needed weights of {type(model).__name__}, got {path}, which doesn't fit: {first_line(error)}") from error


def _first(keys: Iterable[str]) -> str:
    every = list(keys)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")
