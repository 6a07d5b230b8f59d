"""A study, or a model, by the name that was given on the command line."""

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
    """What the directory of a study, or of a model, is called."""
    module = study.rpartition(":")[0]
    return study if study in STUDIES else Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]


def called(name: str, what: str, seed: int | None = None, **arguments: Any) -> Any:
    """What the function that was named returns; it gets `seed` too if it takes one.

    Raises
    ------
    InputError
        If there is no such function, or it fails.
    """
    with as_input_error(f"the {what} {name} failed"):
        try:
            function = _function(name)
            if seed is not None and "seed" in inspect.signature(function).parameters:
                arguments["seed"] = seed
            return function(**arguments)
        except SystemExit as error:
            raise InputError(f"the {what} {name} failed: it ended Python: keep what a script does under `if __name__ == ...`") from error


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(":")
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
    made = called(STUDIES.get(study, study), "study", seed)
    if not isinstance(made, Study):
        raise InputError(f"needed a Study from {study}, got {type(made).__name__}")
    return made
