"""Where a report goes: made aside, and put in its place whole."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lstm_explain.errors import LstmExplainError, OutputError


@contextmanager
def as_output_error(where: Path) -> Iterator[None]:
    """An error of the operating system as an `OutputError` that names the place."""
    try:
        yield
    except LstmExplainError:
        raise
    except OSError as error:
        raise OutputError(f"can't write to {where}: {error.strerror or error}") from error


class Aside:
    """Where a report is being made, and where it will be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = path


@contextmanager
def numbered(out: Path, stem: str) -> Iterator[Aside]:
    """A new directory of the next free number in `out`."""
    with _made_aside(out, stem) as aside:
        yield aside
        with as_output_error(out):
            aside.place = _rename(aside.path, out, stem)


@contextmanager
def exactly(place: Path) -> Iterator[Aside]:
    """A new directory at `place`, where there is nothing or an empty directory."""
    with as_output_error(place):
        if place.exists() and any(place.iterdir()):
            raise OutputError(f"needed a directory that is new or empty, got {place}: choose another, or remove it")
    with _made_aside(place.parent, place.name) as aside:
        yield aside
        with as_output_error(place):
            aside.path.rename(place)
            aside.place = place


@contextmanager
def _made_aside(out: Path, stem: str) -> Iterator[Aside]:
    """A directory in `out` beside the report's place, to be renamed into it; removed when the block doesn't."""
    with as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
        aside = Aside(Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=out)))
        aside.path.chmod(0o777 & ~_umask())
    try:
        yield aside
    finally:
        shutil.rmtree(aside.path, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rename(aside: Path, out: Path, stem: str) -> Path:
    """The next free number; another process may take it first, and a directory that isn't empty is never replaced."""
    for number in itertools.count(1):
        place = out / f"{stem}-{number:03}"
        if place.exists() or place.is_symlink():
            continue
        try:
            aside.rename(place)
        except FileExistsError:
            continue
        except OSError as error:
            if place.exists():
                continue
            raise error
        return place
    raise AssertionError("unreachable")
