"""From a report to files: the page, the figures, one PDF of them all, and every number in `report.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.style
from matplotlib.backends.backend_pdf import PdfPages
from safetensors.numpy import save as as_safetensors

from lstm_explain.plots import STYLE
from lstm_explain.report.images import Image, drawn, images
from lstm_explain.report.markdown import markdown
from lstm_explain.report.page import page
from lstm_explain.report.section import Picture
from lstm_explain.report.viewer.markup import part
from lstm_explain.report.viewer.packed import Packed, packed
from lstm_explain.report.words import encodable

if TYPE_CHECKING:
    from lstm_explain.report.result import Report

MB = 1_000_000


def write(directory: Path, report: "Report", formats: Sequence[str]) -> None:
    """Write a report into a directory that exists, as what was asked for; a figure is drawn only as what somebody reads."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    kinds = [kind for kind in ("svg", "png") if kind in formats]
    if kinds and pictures:
        (directory / "figures").mkdir()
    files = {(picture.name, kind): drawn(picture, kind) for picture in pictures for kind in kinds}
    for (name, kind), made in files.items():
        (directory / "figures" / f"{name}.{kind}").write_bytes(made)
    if pictures and "pdf" in formats:
        with matplotlib.style.context(STYLE), PdfPages(directory / "figures.pdf", metadata={"CreationDate": None}) as pdf:
            for picture in pictures:
                pdf.savefig(picture.figure)
    if "html" in formats:
        shown, text = _fitted(report, pictures, files, formats)
        (directory / "index.html").write_text(text, encoding="utf-8")
    else:
        shown = packed(report.view, int(report.max_mb * MB))
    report = report.holding(shown.view)
    if "json" in formats:
        text = json.dumps({**report.facts, "viewer": shown.facts}, indent=1, ensure_ascii=False, allow_nan=False)
        (directory / "report.json").write_text(encodable(text) + "\n", encoding="utf-8")
        (directory / "viewer.safetensors").write_bytes(as_safetensors({encodable(name): exact for name, exact in shown.values.items()}))
    if "md" in formats:
        (directory / "report.md").write_text(markdown(report, formats), encoding="utf-8")


def _fitted(
    report: "Report", pictures: Sequence[Picture], files: Mapping[tuple[str, str], bytes], formats: Sequence[str]
) -> tuple[Packed, str]:
    """The page, with the viewer in at most half of it while figures need the rest; and what the viewer holds."""
    most = int(report.max_mb * MB)

    def written(found: Mapping[str, Image], shown: Packed) -> str:
        return page(report.holding(shown.view), found, part(shown), formats)

    half = packed(report.view, most // 2)
    beside = written({picture.name: Image("svg", b"") for picture in pictures}, half)
    found = images(pictures, files, max(0, most - len(beside.encode())))
    room = half.size + most - len(written(found, half).encode())
    while True:
        shown = packed(report.view, max(0, room))
        text = written(found, shown)
        # Of more units there are more links in the tables.
        excess = len(text.encode()) - most
        if excess <= 0 or room <= 0:
            return shown, text
        room -= excess
