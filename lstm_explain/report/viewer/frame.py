"""The viewer by itself, for a notebook: a frame that can run its script and reach nothing."""

from html import escape
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lstm_explain.report.policy import policy
from lstm_explain.report.viewer.markup import part
from lstm_explain.report.viewer.packed import packed
from lstm_explain.report.viewer.view import View

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{{ html }}
</main>
<script>{{ script }}</script>
</body>
</html>
"""


class Frame:
    """What a notebook shows in place of this object: the viewer in a sandboxed frame."""

    def __init__(self, view: View, title: str, max_mb: float, height: int) -> None:
        shown = part(packed(view, int(max_mb * 1e6)))
        css = (files("lstm_explain.report") / "page.css").read_text(encoding="utf-8") + shown.css
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        self._page = environment.from_string(_PAGE).render(
            policy=policy(css, shown.script), title=title, css=Markup(css), html=shown.html, script=Markup(shown.script)
        )
        self._title, self._height = title, height

    def _repr_html_(self) -> str:
        # Without allow-same-origin the frame's document has no origin: it can't read the notebook around it.
        return (
            f'<iframe sandbox="allow-scripts" title="{escape(self._title)}" srcdoc="{escape(self._page)}" '
            f'style="width: 100%; height: {self._height}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Viewer of {self._title!r}, {len(self._page) / 1e6:.1f} MB: a notebook shows it>"
