"""Who computes: the compiled kernels, where there are any, and operations of PyTorch; where a run has one of them, that one."""

import os

import pytest

from lstm_explain.nn.kernels import native

FORCED = os.environ.get("LSTM_EXPLAIN_BACKEND")


@pytest.fixture(params=[FORCED] if FORCED else ["native", "torch"])
def backend(request, monkeypatch):
    if request.param == "native" and native.backend().name == "torch":
        pytest.skip(native.backend().why)
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", request.param)
    return request.param
