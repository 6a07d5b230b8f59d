"""Ctrl-C while a report is made: held back where it would leave something half-done."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SENT = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """The interruptions of this program, which are heard until they are held back.

    Parameters
    ----------
    handler : callable, optional
        What hears them from now on; by default whoever does now.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], Any] | None = None) -> None:
        mine = threading.current_thread() is threading.main_thread()
        # Another thread isn't interrupted; what is ignored stays ignored, and what isn't Python's is left alone.
        found = {number: signal.getsignal(number) for number in SENT} if mine else {}
        self._before = {number: now for number, now in found.items() if now not in (None, signal.SIG_IGN)}
        self._heard = {number: handler or now for number, now in self._before.items()}
        self._arrived: list[int] = []

    def hold(self) -> None:
        """Hold back what arrives."""
        self._set(dict.fromkeys(self._before, self._hold))

    def hear(self) -> None:
        """Raise what was held back, and from now on what arrives, at once."""
        self._set(self._heard)
        while self._arrived:
            signal.raise_signal(self._arrived.pop())

    def restore(self) -> None:
        """Let those hear them who did before."""
        self._set(self._before)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)

    @staticmethod
    def _set(handlers: dict[signal.Signals, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
