"""The exceptions that `lstm_explain` raises on purpose; each message says what was needed, what came, and what to do next."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class LstmExplainError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(LstmExplainError, ValueError):
    """An argument, a tensor or a text that doesn't fit what was asked."""


class RecordingError(LstmExplainError, RuntimeError):
    """A model, or a call of it, that can't be recorded."""


class CertificateError(RecordingError):
    """What was recorded isn't what the layer computed, so nothing of it is shown."""


class WeightsError(LstmExplainError, ValueError):
    """A file of weights that can't be used: truncated, of another shape, or not finite."""


class OutputError(LstmExplainError, OSError):
    """A place that can't be written to."""


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """The end of a message about a name that isn't known: the nearest one that is, if one is near."""
    near = get_close_matches(name, known, 1, 0.4) if isinstance(name, str) else []
    return f", did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return str(error).splitlines()[0] if str(error) else "no message"


@contextmanager
def as_input_error(what: str) -> Iterator[None]:
    """An error of somebody else's code as an `InputError` that begins with `what`; our own pass as they are."""
    try:
        yield
    except LstmExplainError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
