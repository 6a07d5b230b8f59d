"""The page as Markdown: the same findings, tables and figures, for places where a page can't be opened."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lstm_explain.report.section import Section, Table
from lstm_explain.report.words import sentence, shown, token

if TYPE_CHECKING:
    from lstm_explain.report.result import Report

_MARKS = r"[\\`*_\[\]<>|&~$@]|(?<=\w):(?=/)|(?<=www)\."
_IN_A_LINE = re.compile(_MARKS)
"""What means something to CommonMark, GitHub's dialect or HTML: marks, and what makes an address of words."""
_LINE = re.compile(rf"{_MARKS}|^[#+=.\-]+|^\d+(?=[.)])")
"""That, and what begins a line."""


def markdown(report: "Report", formats: Sequence[str]) -> str:
    """The report as CommonMark with tables; whatever others wrote in it is text."""
    summary = report.facts["summary"]
    parts = [
        f"# {text(report.study.name)}",
        text(summary["what"]),
        text(f"{summary['data']} {summary['state']}: {summary['certificate']}"),
        text(summary["holds"]),
    ]
    if summary["claims"]:
        parts += [f"## {summary['tested']} tested, {summary['verified']} verified", _legs(summary["claims"])]
        parts += [_excerpt(claim) for claim in summary["claims"] if claim["text"]]
    for title, kind in (("What was found", "found"), ("What was not found, or not asked", "missed")):
        if summary[kind]:
            parts += [f"## {title}", "\n".join(f"- {text(one['said'])}" for one in summary[kind])]
    for section in report.sections:
        parts += _section(section, formats)
    parts += ["## How to get this again", f"    {' '.join(shown(report.facts['again']).split())}"]
    parts.append("\n".join(f"- {name} {_cell(value)}" for name, value in report.facts["versions"].items()))
    return "\n\n".join(parts) + "\n"


def text(of: str) -> str:
    """A text in which nothing means anything to Markdown or HTML, on one line."""
    return _without(_LINE, of)


def _cell(of: str) -> str:
    """The same where it doesn't begin a line."""
    return _without(_IN_A_LINE, of)


def _without(marks: re.Pattern[str], of: str) -> str:
    # A numeric reference is a character in every dialect, and never a mark.
    return marks.sub(lambda found: "".join(f"&#{ord(mark)};" for mark in found[0]), " ".join(shown(of).split()))


def _section(section: Section, formats: Sequence[str]) -> list[str]:
    parts = [f"## {text(section.title)}", text(section.finding)]
    kind = next((kind for kind in ("svg", "png") if kind in formats), None)
    for picture in section.pictures:
        parts.append(text(picture.alt) if kind is None else f"![{text(picture.alt)}](figures/{picture.name}.{kind})")
    parts += [_table(table) for table in section.tables]
    return [*parts, f"**How it was computed.** {text(section.method)}", f"**What was not found.** {text(sentence(section.not_shown))}"]


def _table(table: Table) -> str:
    return f"{text(table.caption)}\n\n" + _rows([table.header, *table.rows])


def _rows(rows: Iterable[Sequence[str]]) -> str:
    header, *rest = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([header, f"|{' --- |' * (header.count(' | ') + 1)}", *rest])


def _legs(claims: Sequence[dict[str, object]]) -> str:
    header = ["", *(f"{claim['unit']} for “{claim['label']}”: {claim['verdict']}" for claim in claims)]
    rows = [
        [legs[0]["leg"], *(f"{leg['value']} ({leg['control']}): {leg['verdict']}" for leg in legs)]
        for legs in zip(*(claim["legs"] for claim in claims), strict=True)
    ]
    return _rows([header, *rows])


def _excerpt(claim: dict[str, object]) -> str:
    held = claim["text"]
    assert isinstance(held, dict)
    rows = (("what came", held["tokens"]), ("predicted", held["clean"]), ("unit held", held["held"]))
    said = "\n".join(f"- {name}: {text(' '.join(map(token, row)))}" for name, row in rows)
    return f"{text(str(claim['unit']))} held, where that costs most:\n\n{said}"
