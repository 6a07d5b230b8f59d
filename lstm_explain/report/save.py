"""From a report to files: the page, the figures, one PDF of them all, and every number in `report.json`."""

import json
from collections.abc import Iterable, Sequence
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
MB = 1_000_000
PROSE = 200_000
"""Bytes of a page that aren't figures or the viewer's values, at most."""


def write(directory: Path, report: "Report", formats: Sequence[str]) -> None:
    """Write a report into a directory that exists, as what was asked for; a figure is drawn only as what somebody reads."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    kinds = [kind for kind in ("svg", "png") if kind in formats]
    if kinds and pictures:
        (directory / "figures").mkdir()
    drawn = {
        (picture.name, kind): _drawn(picture, kind)
        for picture in pictures
        for kind in ("svg", "png")
        if kind in formats or (kind == "svg" and "html" in formats)
    }
    for name, kind in drawn:
        if kind in formats:
            (directory / "figures" / f"{name}.{kind}").write_bytes(drawn[name, kind])
    images = _images(pictures, drawn, int(report.max_mb * MB / 2)) if "html" in formats else {}
    if pictures and "pdf" in formats:
        with matplotlib.style.context(STYLE), PdfPages(directory / "figures.pdf", metadata={"CreationDate": None}) as pdf:
            for picture in pictures:
                pdf.savefig(picture.figure)
    room = report.max_mb * MB - PROSE - _encoded(image for _, image in images.values())
    shown = packed(report.view, max(0, int(room)))
    if "json" in formats:
        text = json.dumps({**report.facts, "viewer": shown.facts}, indent=1, ensure_ascii=False, allow_nan=False)
        (directory / "report.json").write_text(encodable(text) + "\n", encoding="utf-8")
        (directory / "viewer.safetensors").write_bytes(as_safetensors({encodable(name): exact for name, exact in shown.values.items()}))
    if "html" in formats:
        (directory / "index.html").write_text(page(report, images, part(report.view, shown), formats), encoding="utf-8")
    if "md" in formats:
        (directory / "report.md").write_text(markdown(report, formats), encoding="utf-8")


def _images(pictures: Sequence[Picture], drawn: dict[tuple[str, str], bytes], room: int) -> dict[str, tuple[str, bytes]]:
    """Each figure as it stands on the page: as PNG where it is heavy, and the largest of the others while all need more than `room`."""
    images = {picture.name: ("svg", drawn[picture.name, "svg"]) for picture in pictures}
    for picture in sorted(pictures, key=lambda picture: -len(images[picture.name][1])):
        svg = images[picture.name][1]
        if len(svg) > HEAVY or _encoded(image for _, image in images.values()) > room:
            png = drawn.get((picture.name, "png")) or _drawn(picture, "png")
            images[picture.name] = min(("png", png), ("svg", svg), key=lambda image: len(image[1]))
    return images


def _encoded(images: Iterable[bytes]) -> int:
    """Bytes of a page that images take, in base64."""
    return sum(4 * -(-len(image) // 3) for image in images)


def _drawn(picture: Picture, kind: str) -> bytes:
    buffer = BytesIO()
    with matplotlib.style.context(STYLE):
        picture.figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    # Where everything stands is found once. A figure that has an engine for it, were it one that does nothing, is drawn twice for a file.
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        picture.figure.set_layout_engine(None)
    return buffer.getvalue()
