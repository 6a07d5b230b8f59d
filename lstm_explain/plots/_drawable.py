"""Texts that others wrote, as a font can draw them: names of labels, layers and features may hold anything."""

import unicodedata
from functools import cache

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

LONGEST, LONGEST_BESIDE, LONGEST_BELOW = 160, 48, 26
"""Characters of a line, of one beside the axes and in a legend, and of one below a tick, that leave room for the picture."""
_MARKS = 2
"""Combining marks on one letter; more climb over the lines around."""


def make_drawable(ax: Axes) -> None:
    """Put in place of each text on the axes one that can be drawn."""
    for axis, longest in ((ax.xaxis, LONGEST_BELOW), (ax.yaxis, LONGEST_BESIDE)):
        # Their texts are made anew whenever they are drawn.
        if isinstance(axis.get_major_locator(), FixedLocator):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if labels != (shown := [drawable(label, longest) for label in labels]):
                axis.set_ticklabels(shown)
    legend = ax.get_legend()
    beside = set() if legend is None else set(legend.get_texts())
    for text in ax.findobj(Text):
        assert isinstance(text, Text)
        written = text.get_text()
        drawn = drawable(written, LONGEST_BESIDE if text in beside else LONGEST, text.get_fontproperties())
        if drawn != written and not text.get_parse_math():
            text.set_text(drawn)


def drawable(text: str, longest: int = LONGEST, font: FontProperties | None = None) -> str:
    """A text whose lines aren't too long, of characters that the font has; one that can't be seen is a dot, one it hasn't a box."""
    if all(ord(character) < 0x7F and (character.isprintable() or character == "\n") for character in text):
        drawn = text
    else:
        known = _known(findfont(font or FontProperties(family="DejaVu Sans")))
        drawn, marks = "", 0
        for character in text:
            marks = marks + 1 if unicodedata.combining(character) else 0
            if marks <= _MARKS:
                drawn += _drawn(character, known)
    return "\n".join(line if len(line) <= longest else f"{line[: longest - 1]}…" for line in drawn.split("\n"))


def _drawn(character: str, known: frozenset[int]) -> str:
    if character == "\n":
        return character
    if not character.isprintable():
        return "·"
    return character if ord(character) in known else "□"


@cache
def _known(path: str) -> frozenset[int]:
    """What a font has."""
    return frozenset(get_font(path).get_charmap())
