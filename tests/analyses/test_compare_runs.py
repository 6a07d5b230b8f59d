"""A changed run beside the clean one."""

import json

import numpy as np
import pytest
import torch
from recordings import layer_of, of_layout, refused

import lstm_explain as lx


@pytest.fixture(scope="module")
def runs():
    layer, x = layer_of("torch", of_layout("batch_first", num_layers=2)), torch.randn(3, 4, 2, dtype=torch.float64)
    with lx.record(layer, lengths=[4, 3, 2]) as clean:
        layer(x)
    with lx.record(layer, lengths=[4, 3, 2]) as edited, lx.intervene(layer, "l0", steps=[1], forget_gate=1.0, units=[2], feedback=True):
        layer(x)
    return clean, edited


def test_it_has_both_runs_and_says_what_was_put_there(runs):
    clean, edited = runs
    result = lx.compare_runs(*runs, layer="l0", units=[2, 0], signal="forget_gate", sequence=1)
    assert np.array_equal(result.clean, clean["l0"].forget_gate[1, :3][:, [2, 0]].T)
    assert np.array_equal(result.edited, edited["l0"].forget_gate[1, :3][:, [2, 0]].T) and result.edited[0, 1] == 1.0
    assert result.changed.tolist() == [[False, True, False], [False, False, False]]
    assert result.intervened.tolist() == [False, True, False]


def test_another_layer_or_signal_has_followed_from_it(runs):
    result = lx.compare_runs(*runs, layer="l1", units=1)
    assert result.signal == "cell_state" and not result.changed.any() and result.intervened.tolist() == [False, True, False, False]
    # The first step is the same: to rounding, since the layer above reads what another way of running the layer below gave.
    assert abs(result.clean[0, 0] - result.edited[0, 0]) <= 1e-12 and abs(result.clean[0, 1] - result.edited[0, 1]) > 1e-4


def test_it_reads_and_exports(runs):
    result = lx.compare_runs(*runs, layer="l0", units=[0, 1])
    assert "l0 units 0, 1, cell_state: 4 steps" in repr(result) and "<p>" in result._repr_html_()
    assert result.to_frame().shape == (8, 5)
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_does_not_fit_is_refused(runs):
    clean, edited = runs
    other = layer_of("torch", of_layout("batch_first", num_layers=2))
    with lx.record(other, lengths=[3, 3, 3]) as shorter:
        other(torch.randn(3, 3, 2, dtype=torch.float64))
    calls = {
        "layer as one of l0, l1": lambda: lx.compare_runs(clean, edited, layer="l7", units=0),
        "the signal reset_gate": lambda: lx.compare_runs(clean, edited, layer="l0", units=0, signal="reset_gate"),
        "sequence from 0 to 2": lambda: lx.compare_runs(clean, edited, layer="l0", units=0, sequence=3),
        "units from 0 to 2": lambda: lx.compare_runs(clean, edited, layer="l0", units=[0, 3]),
        "got none": lambda: lx.compare_runs(clean, edited, layer="l0", units=[]),
        "as many steps in both": lambda: lx.compare_runs(clean, shorter, layer="l0", units=0),
        "edited as a recording": lambda: lx.compare_runs(clean, None, layer="l0", units=0),
    }
    for message, call in calls.items():
        assert message in refused(lx.InputError, call)
