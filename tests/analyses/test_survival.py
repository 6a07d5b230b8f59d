"""What is left of a cell after k steps, summed over all runs: by either backend as by a loop over runs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lstm_explain.accumulators import Sums
from lstm_explain.analyses.timescale import LAGS, _add_survival
from lstm_explain.nn.kernels import native

BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)),
]


def slowly(f, valid, edited, lag):
    """The sum of the products of all runs of so many valid steps, none of which but the first starts from an edited state; and how many."""
    total, count = np.zeros(f.shape[2]), 0
    for b in range(len(f)):
        for t in range(f.shape[1] - lag + 1):
            if valid[b, t : t + lag].all() and not edited[b, t + 1 : t + lag].any():
                total, count = total + f[b, t : t + lag].astype(np.float64).prod(0), count + 1
    return total, count


@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data())
def test_sums_and_counts_are_those_of_a_loop(backend, data):
    batch, time, units = (
        data.draw(st.integers(1, 10)),
        data.draw(st.sampled_from([1, 2, 7, 30])),
        data.draw(st.sampled_from([1, 3, 16, 37])),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = torch.from_numpy(rng.random((time, batch, 2, units)))[:, :, 1].transpose(0, 1)
    valid, edited = rng.random((batch, time)) < 0.9, rng.random((batch, time)) < 0.1 * data.draw(st.booleans())
    sums = Sums()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_EXPLAIN_BACKEND", backend)
        _add_survival(sums, values, torch.from_numpy(valid), torch.from_numpy(edited))
    for lag in LAGS:
        if lag > time:
            assert f"runs {lag}" not in sums
            continue
        total, count = slowly(values.numpy(), valid, edited, lag)
        np.testing.assert_allclose(sums[f"survival {lag}"], total, rtol=0, atol=1e-12)
        assert int(sums[f"runs {lag}"]) == count


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_longest_lags_and_several_threads(backend, monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", backend)
    f = torch.rand(2, 600, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 0.01
    sums, threads = Sums(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        _add_survival(sums, f, torch.ones(2, 600, dtype=torch.bool), torch.zeros(2, 600, dtype=torch.bool))
    finally:
        torch.set_num_threads(threads)
    log = f.numpy().astype(np.float64)
    log = np.concatenate([np.zeros((2, 1, 50)), np.log(log).cumsum(1)], 1)
    for lag in LAGS:
        np.testing.assert_allclose(sums[f"survival {lag}"], np.exp(log[:, lag:] - log[:, :-lag]).sum((0, 1)), rtol=1e-11)
