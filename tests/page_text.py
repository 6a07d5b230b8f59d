"""A page as people read it."""

from collections import defaultdict
from html.parser import HTMLParser


class Text(HTMLParser):
    """What can be read in each section, and in words for pictures and tables."""

    def __init__(self, page):
        super().__init__()
        self.sections, self._within, self._unseen = defaultdict(str), "summary", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "style", "title"):
            self._unseen = tag
        if tag == "section":
            self._within = given["id"]
        self.sections[self._within] += "".join(f" | {given[name]}" for name in ("alt", "aria-label") if name in given)
        if tag not in ("b", "em", "span", "code", "a"):
            self.sections[self._within] += " | "

    def handle_endtag(self, tag):
        self._unseen = None if tag == self._unseen else self._unseen

    def handle_data(self, text):
        if self._unseen is None:
            self.sections[self._within] += text
