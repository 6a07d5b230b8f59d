"""One thread in every process, since many of them only wait for each other on tensors this small; no deadlines.

By default the same draws on every run; HYPOTHESIS_PROFILE=nightly draws more, and others every time.
"""

import os

# Before anything reads them; what the tests start, such as the notebooks' kernels, inherits them.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from hypothesis import settings

settings.register_profile("default", deadline=None, derandomize=True, database=None, max_examples=25)
settings.register_profile("nightly", deadline=None, derandomize=False, database=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
