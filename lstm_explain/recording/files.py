"""A recording as one file: tensors in safetensors, the rest as JSON in its header."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lstm_explain.errors import InputError, OutputError, first_line
from lstm_explain.nn.equations import Form
from lstm_explain.recording.certificate import CallCheck
from lstm_explain.recording.recording import Call, Coverage, Recording
from lstm_explain.trajectory import Trajectory

_FORMAT = "lstm_explain.recording"
_VERSION = 1
_GROUPS = ("signals", "initial", "weights", "started", "changed")


def save(recording: Recording, path: str | Path) -> None:
    """See `Recording.save`."""
    if not len(recording):
        raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
    tensors: dict[str, Tensor] = {}
    layers = []
    for at, (name, one) in enumerate(recording.items()):
        for group in _GROUPS:
            tensors |= {f"{at}.{group}.{key}": tensor for key, tensor in getattr(one, group).items()}
        tensors |= {f"{at}.valid": one.valid, f"{at}.first_step": one.first_step}
        tensors |= {} if one.edits is None else {f"{at}.edits": one.edits}
        last = recording.calls[name][-1].last
        tensors |= {f"{at}.last.{key}": tensor for key, tensor in last.items()}
        layers.append(
            {
                "name": name,
                "kind": one.kind,
                "padding": one.padding,
                "reverse": one.reverse,
                "form": None if one.form is None else list(one.form),
                "units": one.units,
                # The file has its tensors in an order of its own.
                **{group: list(getattr(one, group)) for group in _GROUPS},
                "last": list(last),
                "edits": one.edits is not None,
            }
        )
    certificate, coverage = recording.certificate, recording.coverage
    about = {
        "version": _VERSION,
        "layers": layers,
        "checks": [check._asdict() for check in certificate.calls],
        "kept": certificate.kept,
        "coverage": {name: dict(getattr(coverage, name)) for name in ("recorded", "not_opened", "recomputed", "elsewhere", "aliases")},
        "never_called": coverage.never_called,
    }
    target = Path(path)
    written = None
    try:
        # Beside the target, so that the last step is a rename: a file is there whole or not at all.
        handle, written = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        metadata = {"format": _FORMAT, "about": json.dumps(about)}
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, written, metadata)
        os.replace(written, target)
        written = None
    except (OSError, SafetensorError) as error:
        raise OutputError(f"needed a file that can be written, got {target}: {first_line(error)}") from error
    finally:
        if written is not None:
            Path(written).unlink(missing_ok=True)


def load(path: str | Path) -> Recording:
    """A recording that `Recording.save` has written.

    Its calls are joined: each layer has one. The certificate is that of the recording when it was made, and the equations that
    hold between the signals by themselves are checked again.

    Raises
    ------
    InputError
        If there is no such file, it isn't a recording, it is damaged, or it breaks its own equations.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"needed a file written by recording.save, got {source}, which isn't {'a file' if source.exists() else 'there'}")
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()} if metadata.get("format") == _FORMAT else {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"needed a file written by recording.save, got {source}, which can't be read: {first_line(error)}") from error
    if metadata.get("format") != _FORMAT:
        raise InputError(f"needed a file written by recording.save, got {source}, a safetensors file of something else")
    try:
        about = json.loads(metadata["about"])
        if about["version"] != _VERSION:
            raise InputError(f"needed a recording of version {_VERSION}, got version {about['version']} in {source}")
        return _read(about, tensors, source)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"needed a file written by recording.save, got {source}, which is damaged: {first_line(error)}") from error


def _largest_finite(signal: Tensor) -> float:
    return float(signal.abs().nan_to_num(0.0, 0.0, 0.0).max())


def _read(about: dict[str, Any], tensors: dict[str, Tensor], source: Path) -> Recording:
    checks = [CallCheck(**check) for check in about["checks"]]
    coverage = about["coverage"]
    calls = {}
    for at, layer in enumerate(about["layers"]):
        groups = {group: {key: tensors[f"{at}.{group}.{key}"] for key in layer.get(group, ())} for group in (*_GROUPS, "last")}
        one = Trajectory(
            name=layer["name"],
            kind=layer["kind"],
            signals=groups["signals"],
            valid=tensors[f"{at}.valid"],
            padding=layer["padding"],
            initial=groups["initial"],
            first_step=tensors[f"{at}.first_step"],
            reverse=layer["reverse"],
            form=None if layer["form"] is None else Form(*layer["form"]),
            weights=groups["weights"],
            started=groups["started"],
            changed=groups["changed"],
            edits=tensors[f"{at}.edits"] if layer["edits"] else None,
            units=None if layer["units"] is None else tuple(layer["units"]),
        )
        batch, time = one.valid.shape
        rows = {len(tensor) for tensor in (one.first_step, *one.initial.values())}
        if one.valid.dtype != torch.bool or rows != {batch} or bool(((one.first_step < 0) | (one.first_step >= time)).any()):
            raise ValueError(f"the steps of {one.name} are not those of its signals")
        allowed = max((check.tolerance + check.rounding for check in checks), default=0.0)
        # What was kept in a smaller dtype was rounded after it was certified.
        rounded = max(8 * torch.finfo(signal.dtype).eps * max(1.0, _largest_finite(signal)) for signal in one.signals.values())
        residual = one.residual()
        if not residual <= max(allowed, rounded):
            raise InputError(f"needed signals that satisfy their equations, got {residual:.1e} in {layer['name']} of {source}")
        calls[layer["name"]] = Call(one, groups["last"], False)
    coverage |= {"aliases": {name: tuple(others) for name, others in coverage["aliases"].items()}}
    return Recording.of(checks, calls, Coverage(**coverage, never_called=tuple(about["never_called"]), padding="none"), about["kept"])
