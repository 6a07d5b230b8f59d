"""The page: one file that opens offline."""

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from lstm_explain.report.images import Image
from lstm_explain.report.policy import policy
from lstm_explain.report.viewer.markup import Part
from lstm_explain.report.words import sentence, shown, token

if TYPE_CHECKING:
    from lstm_explain.report.result import Report

ROOM = files("lstm_explain.report")
MIME = {"svg": "image/svg+xml", "png": "image/png"}


def page(report: "Report", images: Mapping[str, Image], viewer: Part, formats: Sequence[str]) -> str:
    """The page's text; `images` has each figure, `formats` what is written beside it."""
    css = (ROOM / "page.css").read_text(encoding="utf-8") + viewer.css
    environment = _environment()
    environment.filters["view"] = partial(_view, viewer.units)
    template = environment.get_template("page.html.jinja")
    return template.render(
        name=report.study.name,
        sections=report.sections,
        facts=report.facts,
        summary=report.facts["summary"],
        formats=formats,
        # Our own style sheet and script, not a reader's text: escaping them would change the bytes that the policy's hashes are of.
        css=Markup(css),
        script=Markup(viewer.script),
        viewer=viewer.html,
        policy=policy(css, viewer.script),
        images={name: _address(image) for name, image in images.items()},
    )


def _address(image: Image) -> Markup | None:
    """A figure as an address that holds it; None of one that is left out."""
    return Markup(f"data:{MIME[image.kind]};base64,{base64.b64encode(image.drawn).decode()}") if image.kind else None


def _view(shown: Mapping[str, Sequence[int]], one: tuple[str, int]) -> str | None:
    """The link that has the viewer show a unit, of those that it holds."""
    layer, unit = one
    return f"#{urlencode({'layer': layer, 'unit': unit}, errors='replace')}" if unit in shown.get(layer, ()) else None


def _environment() -> Environment:
    def readable(value: Any) -> Any:
        return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FunctionLoader(lambda name: (ROOM / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every text on its way onto the page, whoever wrote it.
        finalize=readable,
    )
    environment.filters |= {"token": token, "sentence": sentence}
    return environment
