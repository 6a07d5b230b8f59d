"""Many small fits are faster by one thread: several libraries' pools of threads wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """While BLAS uses one thread; scikit-learn's own dependency does it, as it does for its own loops."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield
