"""The page: one file that opens offline."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lstm_explain.report.policy import policy
from lstm_explain.report.section import Section
from lstm_explain.report.viewer.markup import Part
from lstm_explain.study import Study


def page(study: Study, sections: Sequence[Section], facts: Mapping[str, Any], drawn: Mapping[str, bytes], viewer: Part) -> str:
    """The page's text; `drawn` has each figure as SVG."""
    room = files("lstm_explain.report")
    css = (room / "page.css").read_text(encoding="utf-8") + viewer.css
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((room / "page.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        study=study,
        sections=sections,
        facts=facts,
        # Our own style sheet and script, not a reader's text: escaping them would change the bytes that the policy's hashes are of.
        css=Markup(css),
        script=Markup(viewer.script),
        viewer=viewer.html,
        policy=policy(css, viewer.script),
        images={name: "data:image/svg+xml;base64," + base64.b64encode(svg).decode() for name, svg in drawn.items()},
    )
