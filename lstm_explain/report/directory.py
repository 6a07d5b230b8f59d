"""Where a report goes: made aside, and put in its place whole."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lstm_explain.errors import LstmExplainError, OutputError
from lstm_explain.report.interruptions import Interruptions


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
    """Where a report is being made, and where it is once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place: Path | None = None


@contextmanager
def numbered(out: Path, stem: str) -> Iterator[Aside]:
    """A new directory of the next free number in `out`."""
    with _made_aside(out, stem, out, lambda aside: _rename(aside, out, stem)) as aside:
        yield aside


@contextmanager
def exactly(place: Path) -> Iterator[Aside]:
    """A new directory at `place`, where there is nothing or an empty directory."""
    with as_output_error(place):
        if place.exists() and any(place.iterdir()):
            raise OutputError(f"needed a directory that is new or empty, got {place}: choose another, or remove it")
    with _made_aside(place.parent, place.name, place, lambda aside: aside.rename(place)) as aside:
        yield aside


@contextmanager
def _made_aside(out: Path, stem: str, where: Path, put: Callable[[Path], Path]) -> Iterator[Aside]:
    """A directory in `out` beside the report's place, and `put` into it; removed when the block doesn't end well.

    An interruption is heard in the block only: nothing is left behind, or all of it is in its place.
    """
    interruptions = Interruptions()
    path = None
    try:
        interruptions.hold()
        with as_output_error(out):
            out.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=out))
            path.chmod(0o777 & ~_umask())
        aside = Aside(path)
        interruptions.hear()
        yield aside
        interruptions.hold()
        with as_output_error(where):
            aside.place = put(path)
    finally:
        interruptions.hold()
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        interruptions.hear()


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
