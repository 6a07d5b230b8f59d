"""In place of a module's `forward`, on the instance, for as long as somebody watches: hooks would miss ``inner.forward(...)``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import update_wrapper
from operator import getitem
from threading import RLock, get_ident
from types import MethodType
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from lstm_explain.errors import RecordingError
from lstm_explain.recording.edits import Editor
from lstm_explain.recording.opened import Opened

Opener = Callable[..., tuple[Any, Opened]]
"""``opener(module, original, *args, **kwargs)`` runs a module and says what it returned and what it computed."""


class Wanted(NamedTuple):
    """What those who watch a module want of a call."""

    graph: bool
    """The signals on autograd's graph."""
    editors: tuple[Editor, ...]
    """Who changes it, the outermost first."""
    opened: bool
    """What it computed."""
    fast: bool = False
    """That by the compiled kernels, which compute the output too, where they can."""


Run = Callable[..., tuple[Any, Opened | None]]
"""An opener that says what was computed only if somebody wants to know."""


class Watcher(Protocol):
    """Who wants to know of a module's calls."""

    thread: int
    graph: bool
    """Whether it wants the signals on autograd's graph."""
    fast: bool
    """Whether an output that differs by rounding will do."""
    editor: Editor | None
    """It wants to change a module, and not to see it."""

    def enter(self, path: str) -> None:
        """A module begins to run."""

    def take(self, path: str, opened: Opened) -> None:
        """A module has run, and this is what it computed."""

    def leave(self, path: str, failed: bool) -> None:
        """A module has ended, or failed with an exception."""

    def again(self, path: str) -> None:
        """A module runs once more, for a backward pass."""

    def other_thread(self, path: str) -> None:
        """A module runs in a thread that isn't the watcher's."""


class StandIn:
    """One module's `forward` while it is watched.

    There is one for each module, however many watch it, so that those may come and go in any order, and from several threads.
    """

    _lock = RLock()

    def __init__(self, module: nn.Module, opener: Callable[[Wanted], Run] | None) -> None:
        self._module, self._opener = module, opener
        self._there, self._before = "forward" in module.__dict__, module.__dict__.get("forward")
        self._original = module.forward
        self._watchers: list[tuple[Watcher, str, bool]] = []
        """Who watches it, under which path, and whether it is to be opened for them or only its beginning and end matter."""
        update_wrapper(self, self._original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, and tell those who watch it from this thread."""
        watchers = list(self._watchers)
        mine = [(watcher, path) for watcher, path, _ in watchers if watcher.thread == get_ident()]
        inside = [(watcher, path) for watcher, path, opens in watchers if opens and watcher.thread == get_ident()]
        for watcher, path, _ in watchers:
            if watcher.thread != get_ident():
                watcher.other_thread(path)
        if torch._C._current_graph_task_id() != -1:  # inside a backward pass: activation checkpointing
            if any(watcher.editor for watcher, _ in inside):
                raise RecordingError("needed a pass without activation checkpointing for lx.intervene: leave it off")
            for watcher, path in mine:
                watcher.again(path)
            return self._original(*args, **kwargs)
        for watcher, path in mine:
            watcher.enter(path)
        failed = True
        try:
            if self._opener is None or not inside:
                returned = self._original(*args, **kwargs)
            else:
                seeing = [(watcher, path) for watcher, path in inside if watcher.editor is None]
                editors = tuple(watcher.editor for watcher, _ in inside if watcher.editor is not None)
                fast = all(watcher.fast for watcher, _ in seeing)
                run = self._opener(Wanted(any(watcher.graph for watcher, _ in seeing), editors, bool(seeing), fast))
                returned, opened = run(self._module, self._original, *args, **kwargs)
                for watcher, path in seeing:
                    assert opened is not None
                    watcher.take(path, opened)
            failed = False
            return returned
        finally:
            for watcher, path in reversed(mine):
                watcher.leave(path, failed)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the model is a model by itself, and isn't watched."""
        if self._there:
            return deepcopy(self._before, memo)
        copied = memo.get(id(self._module), self._module)
        return MethodType(type(copied).forward, copied)

    def __reduce__(self) -> tuple[Any, ...]:
        """A saved model is one by itself too, and doesn't need this package to be loaded."""
        return (getitem, ((self._before,), 0)) if self._there else (getattr, (self._module, "forward"))

    @classmethod
    @contextmanager
    def watched(cls, module: nn.Module, path: str, watcher: Watcher, opener: Callable[[Wanted], Run] | None) -> Iterator[None]:
        """While a watcher watches a module; `opener`, by what is wanted, is None where only its beginning and end matter."""
        with cls._lock:
            there = module.__dict__.get("forward")
            stand_in = there if isinstance(there, cls) else cls(module, opener)
            stand_in._opener = stand_in._opener or opener
            stand_in._watchers.append((watcher, path, opener is not None))
            module.__dict__["forward"] = stand_in
        try:
            yield
        finally:
            with cls._lock:
                stand_in._watchers.remove((watcher, path, opener is not None))
                if not stand_in._watchers and module.__dict__.get("forward") is stand_in:
                    _put_back(module, stand_in._there, stand_in._before)


def _put_back(module: nn.Module, there: bool, before: Any) -> None:
    if there:
        module.__dict__["forward"] = before
    else:
        del module.__dict__["forward"]


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`forward` in place of a module's own."""
    there, before = "forward" in module.__dict__, module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        _put_back(module, there, before)
