"""`not_compiled`: functions that `torch.compile` has compiled run as they were written, for as long as somebody records."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch


class _Eager:
    """The compiler has one stance for all threads, so it is kept until the last recording of any of them ends."""

    def __init__(self) -> None:
        self._lock, self._needed = RLock(), 0
        self._stance: Any = None
        self._compile: Any = None

    def need(self, change: int) -> None:
        """One more who needs it, or one less."""
        with self._lock:
            self._needed += change
            if self._needed == 0:
                self._end()
            elif "torch._dynamo" in sys.modules:
                self._begin()
            elif self._compile is None:
                # Importing the compiler takes seconds, and until somebody compiles there is nothing to keep from running.
                self._compile, torch.compile = torch.compile, self._compiles

    def _compiles(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            compiled = (self._compile or torch.compile)(*args, **kwargs)
            if self._needed:
                self._begin()
            return compiled

    def _begin(self) -> None:
        if self._stance is None:
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()

    def _end(self) -> None:
        if self._compile is not None:
            torch.compile, self._compile = self._compile, None
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


_EAGER = _Eager()


@contextmanager
def not_compiled() -> Iterator[None]:
    """While functions that `torch.compile` has compiled run as they were written: compiled code doesn't come by here."""
    _EAGER.need(1)
    try:
        yield
    finally:
        _EAGER.need(-1)
