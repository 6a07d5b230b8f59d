"""`Report`: what was found about a study, before it is a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lstm_explain.display import table
from lstm_explain.report.directory import as_output_error, exactly
from lstm_explain.report.formats import USUAL, opened_first
from lstm_explain.report.formats import formats as checked
from lstm_explain.report.measure import Measured
from lstm_explain.report.save import write
from lstm_explain.report.section import Section
from lstm_explain.report.summary import holds
from lstm_explain.report.viewer.frame import Frame
from lstm_explain.report.viewer.view import View
from lstm_explain.study import Study

SHOWN = 4_000
"""Of a longer finding a notebook shows so many characters: a label may be named by anything."""


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """A study, explained.

    Parameters
    ----------
    study : Study
    measured : Measured
        What one pass over all sequences found.
    sections : tuple of Section
        One question each, in the order of the page.
    facts : mapping
        What `report.json` holds.
    view : View
        What the page's viewer can show, of which it holds as much as fits.
    max_mb : float
        How large the page may become, in 10^6 bytes.
    """

    study: Study
    measured: Measured
    sections: tuple[Section, ...]
    facts: Mapping[str, Any]
    view: View
    max_mb: float = 5.0

    @property
    def results(self) -> dict[str, Mapping[str, Any]]:
        """The result objects of each section, by its name: ``results["saturation"]["saturation"]`` is a `SaturationResult`.

        A question that couldn't be asked has none; its section's ``finding`` says why.
        """
        return {section.name: section.results for section in self.sections}

    def holding(self, view: View) -> "Report":
        """The same where less of the view is shown: what it says that it holds of the inputs is that."""
        parts = [*(part for section in self.sections for part in section.holds), *view.holds]
        said = holds(parts, self.facts["inputs"]["shown"])
        return replace(self, facts={**self.facts, "summary": {**self.facts["summary"], "holds": said}})

    def save(self, place: str | Path, formats: str | Sequence[str] = USUAL) -> Path:
        """Write the report into a new directory and return its page, or what comes nearest to it.

        Parameters
        ----------
        place : str or Path
        formats : str or sequence of str
            Of "html" (the page), "json" (every number), "png" and "svg" (each figure), "pdf" (all figures) and "md" (the page as
            Markdown): all but the last by default. A text has them with commas between.

        Raises
        ------
        InputError
            If a format isn't known.
        OutputError
            If the directory exists and isn't empty, or can't be written to; nothing is left then.
        """
        asked = checked(formats)
        with exactly(Path(place)) as aside, as_output_error(Path(place)):
            write(aside.path, self, asked)
        assert aside.place is not None
        return opened_first(aside.place, asked)

    def viewer(self, height: int = 900) -> Frame:
        """The page's viewer by itself: as a notebook's last expression it is shown, in a sandboxed frame.

        Parameters
        ----------
        height : int
            In pixels.
        """
        return Frame(self.view, self.study.name, self.max_mb, height)

    def __repr__(self) -> str:
        return f"<Report on {self.study.name!r}: {len(self.sections)} sections, {self.study.steps:,} steps>"

    def _repr_html_(self) -> str:
        rows = [(one.title, _cut(one.finding), ", ".join(one.results)) for one in self.sections]
        found = table(_cut(repr(self)), ("question", "finding", "in results"), rows)
        return f'{found}<p><code>report.save("DIRECTORY")</code> writes the page, its figures and every number.</p>'


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… (the page has the rest)"
