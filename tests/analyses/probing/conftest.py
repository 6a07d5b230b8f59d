"""Solvers have one thread."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Several only wait for each other on matrices this small."""
    with threadpool_limits(1):
        yield
