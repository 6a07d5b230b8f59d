"""`Report`: what was found about a study, before it is a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_explain.report.directory import as_output_error, exactly
from lstm_explain.report.formats import USUAL
from lstm_explain.report.formats import formats as checked
from lstm_explain.report.measure import Measured
from lstm_explain.report.save import opened_first, write
from lstm_explain.report.section import Section
from lstm_explain.study import Study


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
    """

    study: Study
    measured: Measured
    sections: tuple[Section, ...]
    facts: Mapping[str, Any]

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
        return opened_first(aside.place, asked)

    def __repr__(self) -> str:
        return f"<Report on {self.study.name!r}: {len(self.sections)} sections, {self.study.steps:,} steps>"
