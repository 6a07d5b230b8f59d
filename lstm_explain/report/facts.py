"""`report.json`: everything that is shown, as plain numbers, and what is needed to get it again."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from lstm_explain import __version__
from lstm_explain.display import jsonable
from lstm_explain.report.section import Section
from lstm_explain.study import Study

SCHEMA = 1


def facts(study: Study, sections: Sequence[Section], *, seed: int, device: str) -> dict[str, Any]:
    """Everything that is shown, as plain numbers, and what is needed to get it again."""
    inputs = study.inputs.detach().cpu().contiguous()
    return {
        "schema_version": SCHEMA,
        "study": study.name,
        "seed": seed,
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": str(next(study.model.parameters()).dtype).removeprefix("torch."),
        "model": {
            "type": type(study.model).__name__,
            "parameters": sum(parameter.numel() for parameter in study.model.parameters()),
            "sha256": _model_hash(study.model),
        },
        "inputs": {
            "shape": list(inputs.shape),
            "sha256": hashlib.sha256(inputs.view(torch.uint8).numpy().tobytes()).hexdigest(),
        },
        "versions": {
            "lstm_explain": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scipy", "matplotlib")},
        },
        "sections": {
            section.name: jsonable({"title": section.title, "finding": section.finding, **section.numbers}) for section in sections
        },
    }


def _model_hash(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
