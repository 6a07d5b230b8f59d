"""`report.json`: everything that is shown, as plain numbers, and what is needed to get it again."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from lstm_explain import __version__
from lstm_explain.display import jsonable
from lstm_explain.report.section import Section
from lstm_explain.report.summary import summary
from lstm_explain.studies import STUDIES
from lstm_explain.study import Study

SCHEMA = 2


def facts(study: Study, sections: Sequence[Section], held: Sequence[str], *, seed: int, device: str, inputs: bool) -> dict[str, Any]:
    """Everything that is shown, as plain numbers, and what is needed to get it again; `held` says what it has of the inputs."""
    read = study.inputs.detach().cpu().contiguous()
    return {
        "schema": "lstm_explain/report/schema.json",
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
            "shape": list(read.shape),
            # Whoever guesses what was read could find out by it that the guess is right.
            "sha256": hashlib.sha256(read.view(torch.uint8).numpy().tobytes()).hexdigest() if inputs else None,
            "sha256_none": None if inputs else "inputs are kept out of this report",
            "shown": inputs,
        },
        "versions": {
            "lstm_explain": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scipy", "matplotlib")},
        },
        "summary": jsonable(summary(study, sections, held, inputs)),
        "sections": {
            section.name: jsonable({"title": section.title, "finding": section.finding, **section.numbers}) for section in sections
        },
    }


def again(facts: Mapping[str, Any]) -> str:
    """The command that makes the same report; where a study of one's own is, and what it is called there, only its owner knows."""
    study = facts["study"] if facts["study"] in STUDIES else "FILE.py:FUNCTION"
    kept_out = "" if facts["inputs"]["shown"] else " --no-inputs"
    return f"python -m lstm_explain.report --study {study} --seed {facts['seed']} --device {facts['device']}{kept_out}"


def _model_hash(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode("utf-8", "surrogatepass"))
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
