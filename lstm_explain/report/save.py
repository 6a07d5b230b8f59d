"""From a report to files: the page, the figures, one PDF of them all, and every number in `report.json`."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.style
from matplotlib.backends.backend_pdf import PdfPages
from safetensors.numpy import save as as_safetensors

from lstm_explain.plots import STYLE
from lstm_explain.report.markdown import markdown
from lstm_explain.report.page import page
from lstm_explain.report.section import Picture
from lstm_explain.report.viewer.markup import part
from lstm_explain.report.viewer.packed import packed
from lstm_explain.report.words import encodable

if TYPE_CHECKING:
    from lstm_explain.report.result import Report

HEAVY = 300_000
"""Bytes of SVG beyond which a figure stands on the page as PNG: thousands of letters or points as paths cost more than their pixels."""
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""What would make two runs' bytes differ is left out."""
PROSE = 200_000
"""Bytes of a page that aren't figures or the viewer's values, at most."""


def write(directory: Path, report: "Report", formats: Sequence[str]) -> None:
    """Write a report into a directory that exists, as what was asked for; a figure is drawn only as what somebody reads."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    kinds = [kind for kind in ("svg", "png") if kind in formats]
    if kinds and pictures:
        (directory / "figures").mkdir()
    images: dict[str, tuple[str, bytes]] = {}
    for picture in pictures:
        drawn = {kind: _drawn(picture, kind) for kind in ("svg", "png") if kind in formats or (kind == "svg" and "html" in formats)}
        if "html" in formats:
            kind = "svg" if len(drawn["svg"]) <= HEAVY else "png"
            images[picture.name] = kind, drawn[kind] if kind in drawn else _drawn(picture, kind)
        for kind in kinds:
            (directory / "figures" / f"{picture.name}.{kind}").write_bytes(drawn[kind])
    if pictures and "pdf" in formats:
        with matplotlib.style.context(STYLE), PdfPages(directory / "figures.pdf", metadata={"CreationDate": None}) as pdf:
            for picture in pictures:
                pdf.savefig(picture.figure)
    room = report.max_mb * 2**20 - PROSE - sum(4 * -(-len(drawn) // 3) for _, drawn in images.values())
    shown = packed(report.view, max(0, int(room)))
    if "json" in formats:
        text = json.dumps({**report.facts, "viewer": shown.facts}, indent=1, ensure_ascii=False, allow_nan=False)
        (directory / "report.json").write_text(encodable(text) + "\n", encoding="utf-8")
        (directory / "viewer.safetensors").write_bytes(as_safetensors({encodable(name): exact for name, exact in shown.values.items()}))
    if "html" in formats:
        (directory / "index.html").write_text(page(report, images, part(report.view, shown), formats), encoding="utf-8")
    if "md" in formats:
        (directory / "report.md").write_text(markdown(report, formats), encoding="utf-8")


def _drawn(picture: Picture, kind: str) -> bytes:
    buffer = BytesIO()
    with matplotlib.style.context(STYLE):
        picture.figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    # Where everything stands is found once. A figure that has an engine for it, were it one that does nothing, is drawn twice for a file.
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        picture.figure.set_layout_engine(None)
    return buffer.getvalue()
