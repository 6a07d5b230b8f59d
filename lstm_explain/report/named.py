"""A study by the name that was given on the command line."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_explain.errors import InputError, as_input_error
from lstm_explain.studies import STUDIES
from lstm_explain.study import Study


def stem(study: str) -> str:
    """What a study's directory is called."""
    return study if study in STUDIES else Path(study.rpartition(":")[0]).stem.rpartition(".")[2]


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


def make(study: str, seed: int) -> Study:
    """Call a study's function, with ``seed=`` if it takes one."""
    with as_input_error(f"the study {study} failed"):
        factory = _factory(study)
        made = factory(seed=seed) if "seed" in inspect.signature(factory).parameters else factory()
    if not isinstance(made, Study):
        raise InputError(f"needed a Study from {study}, got {type(made).__name__}")
    return made
