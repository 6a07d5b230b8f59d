"""Text and tables for people: escaped HTML for notebooks, plain numbers for messages."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


def number(value: float) -> str:
    """A number for a message or a cell: three significant digits, whole numbers whole."""
    if isinstance(value, int) or value.is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}"


def percent(share: float, digits: int = 0) -> str:
    """A share for a sentence: "12 %"."""
    return f"{share:z.{digits}%}".replace("%", " %")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A static HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def jsonable(value: Any) -> Any:
    """Arrays as lists, NumPy numbers as Python's, and None in place of NaN and infinity, all the way down."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
