"""From sections to files: the page, the figures, one PDF of them all, and every number in `report.json`."""

import base64
import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_pdf import PdfPages
from torch import nn

from lstm_explain import __version__
from lstm_explain.display import jsonable
from lstm_explain.plots import STYLE
from lstm_explain.report.section import Picture, Section
from lstm_explain.study import Study

SCHEMA = 1


def _svg(picture: Picture) -> bytes:
    buffer = BytesIO()
    with matplotlib.style.context(STYLE):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Where everything stands is found once, not again for each kind of file, which takes as long as drawing it.
    picture.figure.set_layout_engine("none")
    return buffer.getvalue()


def _model_hash(model: nn.Module) -> str:
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def sidecar(study: Study, sections: Sequence[Section], *, seed: int, device: str) -> dict[str, Any]:
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


def write(directory: Path, study: Study, sections: Sequence[Section], facts: dict[str, Any]) -> None:
    """Write all files of a report into a directory that exists."""
    figures = directory / "figures"
    figures.mkdir()
    pictures = [picture for section in sections for picture in section.pictures]
    drawn = {picture.name: _svg(picture) for picture in pictures}
    for picture in pictures:
        (figures / f"{picture.name}.svg").write_bytes(drawn[picture.name])
        with matplotlib.style.context(STYLE):
            picture.figure.savefig(figures / f"{picture.name}.png", metadata={"Software": None})
    if pictures:
        with matplotlib.style.context(STYLE), PdfPages(directory / "figures.pdf", metadata={"CreationDate": None}) as pdf:
            for picture in pictures:
                pdf.savefig(picture.figure)
    text = json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    (directory / "index.html").write_text(_page(study, sections, facts, drawn), encoding="utf-8")


def _page(study: Study, sections: Sequence[Section], facts: dict[str, Any], drawn: dict[str, bytes]) -> str:
    room = files("lstm_explain.report")
    css = (room / "page.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((room / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        study=study,
        sections=sections,
        facts=facts,
        # Our own style sheet, not a reader's text: escaping it would change the bytes that the policy's hash is of.
        css=Markup(css),
        policy=f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:; base-uri 'none'; form-action 'none'",
        images={name: "data:image/svg+xml;base64," + base64.b64encode(svg).decode() for name, svg in drawn.items()},
    )
