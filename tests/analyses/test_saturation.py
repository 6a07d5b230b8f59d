"""Gate saturation, on gates that are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import counter, gates_by_input, leaky_bank

import lstm_explain as lx


def logit(p):
    return np.log(p) - np.log1p(-p)


def recorded(lstm, inputs, **options):
    with torch.no_grad(), lx.record(lstm, **options) as recording:
        lstm(inputs)
    return recording


def test_shares_are_those_of_the_planted_gate_values():
    values = np.array([0.01, 0.07, 0.31, 0.51, 0.92, 0.99, 0.97, 0.21, 0.951, 0.61])
    result = lx.saturation(recorded(gates_by_input(), torch.tensor(logit(values)).view(1, -1, 1)))
    layer = result.layers["l0"]
    for gate in range(3):
        assert layer.left[gate, :, 0].tolist() == [0.2, 0.1]
        assert layer.right[gate, :, 0].tolist() == [0.4, 0.3]
        assert layer.mean[gate, 0] == pytest.approx(values.mean(), abs=1e-12)
    np.testing.assert_array_equal(layer.histogram[0], np.histogram(values, result.edges)[0])
    assert layer.steps == 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_gate_that_stands_at_a_threshold_is_not_beyond_it(dtype):
    trajectory = recorded(gates_by_input(), torch.zeros(1, 4, 1, dtype=torch.float64))["l0"]
    at = torch.tensor([0.05, 0.1, 0.9, 0.95], dtype=dtype).view(1, 4, 1)
    layer = lx.saturation({"l0": replace(trajectory, signals={name: at for name in trajectory.signals})}).layers["l0"]
    # Below 0.1 and 0.05, above 0.9 and 0.95.
    assert layer.left[1, :, 0].tolist() == [0.25, 0] and layer.right[1, :, 0].tolist() == [0.25, 0]


def test_the_counter_keeps_all_its_gates_open():
    inputs = torch.eye(2, dtype=torch.float64)[torch.randint(2, (3, 40), generator=torch.Generator().manual_seed(0))]
    result = lx.saturation(recorded(counter(), inputs))
    assert result.units_saturated("right", more_than=0.999) == (1, 1)
    assert (result.layers["l0"].right == 1).all() and (result.layers["l0"].left == 0).all()


def test_the_leaky_bank_saturates_by_its_timescales():
    # f = e^(-1/τ): 0.61, 0.82, 0.951, 0.99.
    layer = lx.saturation(recorded(leaky_bank([2, 5, 20, 100]), torch.zeros(2, 5, 1, dtype=torch.float64))).layers["l0"]
    assert layer.right[1, 0].tolist() == [0, 0, 1, 1]
    assert layer.right[1, 1].tolist() == [0, 0, 1, 1]


def test_uniform_gates_are_saturated_a_tenth_of_the_time():
    values = torch.rand(40, 500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(1e-9, 1 - 1e-9)
    layer = lx.saturation(recorded(gates_by_input(), torch.logit(values))).layers["l0"]
    assert np.abs(layer.left[:, 0] - 0.1).max() < 3 / np.sqrt(20_000)
    assert np.abs(layer.right[:, 1] - 0.05).max() < 3 / np.sqrt(20_000)


def test_padding_does_not_enter():
    lstm, inputs = gates_by_input(), torch.randn(3, 9, 1, dtype=torch.float64)
    inputs[1, 4:] = 30
    inputs[2, 7:] = -30
    result = lx.saturation(recorded(lstm, inputs, lengths=[9, 4, 7]))
    alone = lx.Saturation()
    for sequence, n in zip(inputs, [9, 4, 7], strict=True):
        alone.update(recorded(lstm, sequence[None, :n], lengths=[n])["l0"])
    expected = alone.compute()
    np.testing.assert_array_equal(result.layers["l0"].left, expected.layers["l0"].left)
    np.testing.assert_array_equal(result.layers["l0"].histogram, expected.layers["l0"].histogram)
    assert (result.padding, expected.padding) == ("known", "none")
    assert result.layers["l0"].steps == 20


def test_unknown_padding_is_marked():
    result = lx.saturation(recorded(gates_by_input(), torch.randn(2, 4, 1, dtype=torch.float64)))
    assert result.padding == "unknown" and "padding unknown" in repr(result) and "padding unknown" in result._repr_html_()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 7), max_size=3, unique=True), st.randoms())
def test_any_split_into_whole_sequences_in_any_order_is_the_whole(cuts, random):
    lstm = lx.PeepholeLSTM(2, 5, 2, batch_first=True)
    inputs = torch.randn(8, 11, 2)
    lengths = torch.tensor([11, 3, 5, 11, 1, 9, 2, 7])
    whole = lx.saturation(recorded(lstm, inputs, lengths=lengths))
    bounds = [0, *sorted(cuts), 8]
    parts = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    random.shuffle(parts)
    merged = lx.Saturation()
    recording = recorded(lstm, inputs, lengths=lengths)
    for part in parts:
        stream = lx.Saturation()
        for trajectory in recording.values():
            stream.update(trajectory.select(range(8)[part]))
        merged.merge(stream)
    split = merged.compute()
    for name, layer in whole.layers.items():
        for exact in ("left", "right", "histogram", "steps", "nonfinite"):
            np.testing.assert_array_equal(getattr(split.layers[name], exact), getattr(layer, exact))
        np.testing.assert_allclose(split.layers[name].mean, layer.mean, rtol=0, atol=1e-12)


def test_nan_gates_are_counted_and_left_out():
    lstm, inputs = gates_by_input(2), torch.full((4, 1, 1), 5.0, dtype=torch.float64)
    with torch.no_grad():
        lstm.weight_ih_l0[1] = float("nan")  # the second unit's input gate
    layer = lx.saturation(recorded(lstm, inputs)).layers["l0"]
    assert layer.nonfinite[0].tolist() == [0, 4]
    assert layer.right[0, 0, 0] == 1 and np.isnan(layer.right[0, 0, 1])
    json.dumps(lx.saturation(recorded(lstm, inputs)).to_dict(), allow_nan=False)


def test_the_result_reads_and_exports():
    result = lx.saturation(recorded(leaky_bank([2, 100]), torch.zeros(1, 3, 1, dtype=torch.float64)))
    assert "1 right, of 2" in repr(result) and "\n" not in repr(result)
    frame = result.to_frame()
    assert len(frame) == 3 * 2 * 2 and frame.query("gate == 'forget_gate' and low == 0.1")["right"].tolist() == [0, 1]
    assert result.to_dict()["layers"]["l0"]["steps"] == 3
    assert "<script" not in result._repr_html_()


def test_what_is_not_there_is_refused():
    with pytest.raises(lx.InputError, match="needed at least one recorded layer"):
        lx.Saturation().compute()
    result = lx.saturation(recorded(counter(), torch.zeros(1, 3, 2, dtype=torch.float64)))
    with pytest.raises(lx.InputError, match="needed gate as one of input_gate, forget_gate, output_gate, got 'forget'"):
        result.units_saturated("left", "forget")
