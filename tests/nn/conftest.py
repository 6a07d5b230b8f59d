"""Who computes: the compiled kernels, where there are any, and operations of PyTorch."""

import pytest

from lstm_explain.nn.kernels import native


@pytest.fixture(params=["native", "torch"])
def backend(request, monkeypatch):
    monkeypatch.delenv("LSTM_EXPLAIN_BACKEND", raising=False)
    if request.param == "native" and native.backend().name == "torch":
        pytest.skip(native.backend().why)
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", request.param)
    return request.param
