"""Make one report: find the study, measure it, write it aside, and put it in its place whole."""

import importlib
import importlib.util
import inspect
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lstm_explain.errors import InputError, LstmExplainError, OutputError, as_input_error, first_line
from lstm_explain.report import ablation, attribution, overview, probing, saturation, timescale, unit_text, verification
from lstm_explain.report.measure import Clock, measure
from lstm_explain.report.page import sidecar, write
from lstm_explain.studies import STUDIES
from lstm_explain.study import Study

SECTIONS = (overview, unit_text, attribution, probing, verification, ablation, saturation, timescale)
"""One question each, in the order of the page."""


def explain(study: str, out: Path, seed: int, device: str, quiet: bool, verbose: bool, thorough: bool = False) -> Path:
    """Write one report and return its page.

    Raises
    ------
    InputError
        If the study, its model or its data can't be used.
    OutputError
        If the report can't be written; nothing of it is left then.
    """
    clock = Clock()
    with _new_directory(out, _stem(study)) as aside:
        torch.manual_seed(seed)
        with clock("study"):
            made = _make(study, seed)
        measured = measure(made, _device(device), clock, seed=seed, quiet=quiet, thorough=thorough)
        sections = []
        for room in SECTIONS:
            with clock(f"section {room.__name__.rpartition('.')[2]}"):
                sections.append(room.section(made, measured))
        with clock("writing"), _as_output_error(out):
            write(aside.path, made, sections, sidecar(made, sections, seed=seed, device=device))
    if verbose:
        for what, seconds in clock.seconds.items():
            print(f"{seconds:8.2f} s  {what}", file=sys.stderr)
        print(f"{sum(clock.seconds.values()):8.2f} s  in all", file=sys.stderr)
    return aside.place / "index.html"


def _stem(study: str) -> str:
    return study if study in STUDIES else Path(study.rpartition(":")[0]).stem.rpartition(".")[2]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # A name that torch doesn't know, a build without that device, a device without storage: each has an exception of its own.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"needed a device that this machine has, got {name!r}: {first_line(error)}") from error
    return device


def _factory(study: str) -> Callable[..., Any]:
    module, _, function = STUDIES.get(study, study).rpartition(":")
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise InputError(f"needed a Python file with a function {function}, found no file {module}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        # A study's own file may define classes that pickle or dataclasses look up by module.
        sys.modules[path.stem] = loaded
        sys.path.insert(0, str(path.resolve().parent))
        spec.loader.exec_module(loaded)
    else:
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise InputError(f"needed a module that can be imported, got {module}: {error}") from error
    if not callable(made := getattr(loaded, function, None)):
        raise InputError(f"needed a function {function} in {module}, found {'none' if made is None else type(made).__name__}")
    return made  # type: ignore[no-any-return]


def _make(study: str, seed: int) -> Study:
    """Call a study's function, with ``seed=`` if it takes one."""
    with as_input_error(f"the study {study} failed"):
        factory = _factory(study)
        made = factory(seed=seed) if "seed" in inspect.signature(factory).parameters else factory()
    if not isinstance(made, Study):
        raise InputError(f"needed a Study from {study}, got {type(made).__name__}")
    return made


@contextmanager
def _as_output_error(where: Path) -> Iterator[None]:
    try:
        yield
    except LstmExplainError:
        raise
    except OSError as error:
        raise OutputError(f"can't write to {where}: {error.strerror or error}") from error


class _Aside:
    """Where a report is being made, and where it will be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = path


@contextmanager
def _new_directory(out: Path, stem: str) -> Iterator[_Aside]:
    """A directory beside the report's place; renamed into it when the block ends well, removed when it doesn't."""
    with _as_output_error(out):
        out.mkdir(parents=True, exist_ok=True)
        aside = _Aside(Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=out)))
        aside.path.chmod(0o777 & ~_umask())
    try:
        yield aside
        with _as_output_error(out):
            aside.place = _rename(aside.path, out, stem)
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
