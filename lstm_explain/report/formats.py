"""What a report can be written as. Nothing heavy is imported here: the command reads its options before there is work to do."""

from collections.abc import Sequence
from pathlib import Path

from lstm_explain.errors import InputError

FORMATS = ("html", "json", "png", "svg", "pdf", "md")
"""The page, every number, the figures one by one, all figures in one file, and the page as Markdown."""
USUAL = ("html", "json", "png", "svg", "pdf")


def formats(asked: str | Sequence[str]) -> tuple[str, ...]:
    """The formats of a comma-separated text or a sequence, each once, in the order of `FORMATS`.

    Raises
    ------
    InputError
        If one isn't known, or there is none.
    """
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    if not names or (unknown := [name for name in names if name not in FORMATS]):
        raise InputError(
            f"needed formats among {', '.join(FORMATS)}, got {unknown[0]!r}" if names else "needed at least one format, got none"
        )
    return tuple(name for name in FORMATS if name in names)


def opened_first(directory: Path, formats: Sequence[str]) -> Path:
    """What a reader opens: the page where there is one, else what comes nearest to it."""
    names = {"html": "index.html", "md": "report.md", "json": "report.json", "pdf": "figures.pdf"}
    return directory / next((name for kind, name in names.items() if kind in formats), "figures")
