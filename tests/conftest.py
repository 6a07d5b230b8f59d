"""One thread in every process, since many of them only wait for each other on tensors this small; no deadlines.

By default the same draws on every run; HYPOTHESIS_PROFILE=nightly draws more, and others every time. Who computes is the compiled kernels,
where there are any, and operations of PyTorch; where a run has one of them, that one.
"""

import os

# Before anything reads them; what the tests start, such as the notebooks' kernels, inherits them.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import pytest
import torch
from hypothesis import settings

from lstm_explain.nn.kernels import native

settings.register_profile("default", deadline=None, derandomize=True, database=None, max_examples=25)
settings.register_profile("nightly", deadline=None, derandomize=False, database=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


FORCED = os.environ.get("LSTM_EXPLAIN_BACKEND")


@pytest.fixture(params=[FORCED] if FORCED else ["native", "torch"])
def backend(request, monkeypatch):
    if request.param == "native" and native.backend().name == "torch":
        pytest.skip(native.backend().why)
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", request.param)
    return request.param
