"""Figures as they stand on a page: as vectors or, where lighter, as pixels; of fewer colours or left out where there is no more room."""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib.style
from PIL import Image as Pixels

from lstm_explain.plots import STYLE
from lstm_explain.report.section import Picture

HEAVY = 300_000
"""Bytes of SVG beyond which a figure stands on the page as PNG: thousands of letters or points as paths cost more than their pixels."""
COLOURS = 64
"""Of a figure for which there is little room."""
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
"""What would make two runs' bytes differ is left out."""


class Image(NamedTuple):
    """A figure in a page."""

    kind: str
    """"svg", "png"; empty where it is left out."""
    drawn: bytes

    @property
    def size(self) -> int:
        """Bytes of a page that it takes, in base64."""
        return 4 * -(-len(self.drawn) // 3)


LEFT_OUT = Image("", b"")


def drawn(picture: Picture, kind: str) -> bytes:
    """A figure as a file."""
    buffer = BytesIO()
    with matplotlib.style.context(STYLE):
        picture.figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    # Where everything stands is found once. A figure that has an engine for it, were it one that does nothing, is drawn twice for a file.
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        picture.figure.set_layout_engine(None)
    return buffer.getvalue()


def images(pictures: Sequence[Picture], files: Mapping[tuple[str, str], bytes], room: int) -> dict[str, Image]:
    """Each figure as it stands on a page with so much room for all, the largest made smaller first; `files` has what is drawn already."""
    lighter = {picture.name: _lighter(picture, files) for picture in pictures}
    found = {name: next(each) for name, each in lighter.items()}
    while sum(image.size for image in found.values()) > room:
        largest = max(found, key=lambda name: found[name].size)
        found[largest] = next(each for each in lighter[largest] if each.size < found[largest].size)
    return found


def _lighter(picture: Picture, files: Mapping[tuple[str, str], bytes]) -> Iterator[Image]:
    """A figure as it would stand on a page, then smaller ones, and none at last."""
    svg = Image("svg", files.get((picture.name, "svg")) or drawn(picture, "svg"))
    if len(svg.drawn) <= HEAVY:
        yield svg
    png = Image("png", files.get((picture.name, "png")) or drawn(picture, "png"))
    yield min(png, svg, key=lambda image: image.size) if len(svg.drawn) > HEAVY else png
    for shrunk in (1, 2):
        yield _pixels(png, shrunk)
    yield LEFT_OUT


def _pixels(png: Image, shrunk: int) -> Image:
    """With few colours, and so many times fewer pixels across."""
    buffer = BytesIO()
    with Pixels.open(BytesIO(png.drawn)) as whole:
        whole.convert("RGB").reduce(shrunk).quantize(COLOURS).save(buffer, format="png", optimize=True)
    return Image("png", buffer.getvalue())
