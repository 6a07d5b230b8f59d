"""The page: one file that opens offline."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from lstm_explain.report.words import shown, token

if TYPE_CHECKING:
    from lstm_explain.report.result import Report

ROOM = files("lstm_explain.report")
MIME = {"svg": "image/svg+xml", "png": "image/png"}


def page(report: "Report", images: Mapping[str, tuple[str, bytes]], formats: Sequence[str]) -> str:
    """The page's text; `images` has each figure's kind and bytes, `formats` what is written beside it."""
    css = (ROOM / "page.css").read_text(encoding="utf-8")
    template = _environment().get_template("page.html.jinja")
    return template.render(
        name=report.study.name,
        sections=report.sections,
        facts=report.facts,
        summary=report.facts["summary"],
        formats=formats,
        # Our own style sheet, not a reader's text: escaping it would change the bytes that the policy's hash is of.
        css=Markup(css),
        policy=_policy(css),
        images={name: Markup(f"data:{MIME[kind]};base64,{base64.b64encode(drawn).decode()}") for name, (kind, drawn) in images.items()},
    )


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
    environment.filters["token"] = token
    return environment


def _policy(style: str) -> str:
    """What the page may load: nothing but this style and pictures inside it."""
    return f"default-src 'none'; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
