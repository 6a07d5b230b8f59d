"""The page: one file that opens offline."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lstm_explain.report.section import Section
from lstm_explain.study import Study


def page(study: Study, sections: Sequence[Section], facts: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The page's text; `drawn` has each figure as SVG."""
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
