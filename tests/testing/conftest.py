"""A class that a test registers is known to it alone."""

import pytest

from lstm_explain.recording.cells import REGISTERED


@pytest.fixture(autouse=True)
def _unregistered():
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)
