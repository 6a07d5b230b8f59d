"""What a part of the report is: a finding with its number, figures, how it was computed, and what was not found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure, the name of its files, and what it shows in words and numbers."""

    name: str
    figure: Figure
    alt: str


class Table(NamedTuple):
    """A table of texts."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    units: tuple[tuple[str, int], ...] = ()
    """For each row the layer and the unit that it is about, for the viewer to show; empty where rows are about something else."""


@dataclass(frozen=True)
class Section:
    """One question, answered.

    `finding` is one sentence with its number; `numbers` holds every number shown, ready for JSON; `results` has the result objects that it
    is made from, by name. For the first screen there are `brief`, the most important of the finding with its control, and `missed`, what
    was looked for and not found, a sentence each or none; and `lead`, claims with their legs. `holds` says what a section shows of the
    inputs themselves: values, tokens or contexts.
    """

    name: str
    title: str
    finding: str
    pictures: tuple[Picture, ...]
    method: str
    not_shown: str
    numbers: Mapping[str, Any]
    tables: tuple[Table, ...] = ()
    brief: str = ""
    missed: str = ""
    lead: tuple[Mapping[str, Any], ...] = ()
    holds: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)


def nothing(name: str, title: str, finding: str, reason: str) -> Section:
    """A question that can't be asked here, and why."""
    return Section(
        name, title, f"{finding}: {reason}.", (), "Nothing was computed.", reason, {"none": reason}, missed=f"{finding}: {reason}."
    )
