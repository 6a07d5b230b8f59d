"""Weights that are computed whenever they are read: a recording must have those that the call has read, and not compute others.

`torch.nn.utils.parametrize` makes of a weight a property. One that draws at random is another one the next time, and in training
mode `torch.nn.utils.parametrizations.spectral_norm` goes on with its iteration each time it is read.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import RLock, get_ident
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lstm_explain.recording.opened import Forward, Opened
from lstm_explain.recording.stand_in import Run, replaced

_LOCK = RLock()
"""Calls with such weights are opened one at a time."""


class _Latest:
    """In place of a parametrisation's `forward`: as it is while the call runs, and what it gave last once the call has ended."""

    def __init__(self, original: Forward) -> None:
        self._original, self._thread = original, get_ident()
        self._latest: Tensor | None = None
        self.ended = False

    def __call__(self) -> Any:
        if get_ident() != self._thread:
            return self._original()
        if self._latest is None or not self.ended:
            self._latest = self._original()
        return self._latest


def as_read(opener: Run) -> Run:
    """An opener that finds the weights that the call has read."""

    def opened_as_read(module: nn.Module, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened | None]:
        latest = {part: _Latest(part.forward) for part in module.modules() if isinstance(part, ParametrizationList)}
        if not latest:
            return opener(module, original, *args, **kwargs)

        @wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            returned = original(*args, **kwargs)
            for one in latest.values():
                one.ended = True
            return returned

        @contextmanager
        def remembered() -> Iterator[None]:
            with _LOCK, ExitStack() as stack:
                for part, one in latest.items():
                    stack.enter_context(replaced(part, one))
                yield

        with remembered():
            returned, opened = opener(module, run, *args, **kwargs)
        if opened is None or (again := opened.again) is None:
            return returned, opened

        def again_as_read() -> Opened:
            with remembered():
                return again()

        return returned, opened._replace(again=again_as_read)

    return opened_as_read
