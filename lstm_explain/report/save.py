"""From a report to files: the page, the figures, one PDF of them all, and every number in `report.json`."""

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.style
from matplotlib.backends.backend_pdf import PdfPages
from safetensors.numpy import save as as_safetensors

from lstm_explain.plots import STYLE
from lstm_explain.report.page import page
from lstm_explain.report.section import Picture
from lstm_explain.report.viewer.markup import part
from lstm_explain.report.viewer.packed import packed

if TYPE_CHECKING:
    from lstm_explain.report.result import Report


PROSE = 200_000
"""Bytes of a page that aren't figures or the viewer's values, at most."""


def write(directory: Path, report: "Report") -> None:
    """Write all files of a report into a directory that exists."""
    figures = directory / "figures"
    figures.mkdir()
    pictures = [picture for section in report.sections for picture in section.pictures]
    drawn = {picture.name: _svg(picture) for picture in pictures}
    for picture in pictures:
        (figures / f"{picture.name}.svg").write_bytes(drawn[picture.name])
        with matplotlib.style.context(STYLE):
            picture.figure.savefig(figures / f"{picture.name}.png", metadata={"Software": None})
    if pictures:
        with matplotlib.style.context(STYLE), PdfPages(directory / "figures.pdf", metadata={"CreationDate": None}) as pdf:
            for picture in pictures:
                pdf.savefig(picture.figure)
    # What the page holds besides is nearly all figures; the rest is text.
    room = report.max_mb * 2**20 - PROSE - sum(4 * -(-len(svg) // 3) for svg in drawn.values())
    shown = packed(report.view, max(0, int(room)))
    (directory / "viewer.safetensors").write_bytes(as_safetensors(dict(shown.values)))
    text = json.dumps({**report.facts, "viewer": shown.facts}, indent=1, ensure_ascii=False, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    (directory / "index.html").write_text(
        page(report.study, report.sections, report.facts, drawn, part(report.view, shown)), encoding="utf-8"
    )


def _svg(picture: Picture) -> bytes:
    buffer = BytesIO()
    with matplotlib.style.context(STYLE):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    # Where everything stands is found once, not again for each kind of file, which takes as long as drawing it.
    picture.figure.set_layout_engine("none")
    return buffer.getvalue()
