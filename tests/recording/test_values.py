"""What is recorded is what the layer computed, and its outputs and gradients are the same bit for bit."""

import copy

import pytest
import torch
from cases import (
    LAYOUTS,
    Case,
    apart,
    call_of,
    drawn_cases,
    laid_out,
    same_results,
    slowly,
    torch_lstm,
)
from cases import sequences_and_state as drawn
from hypothesis import given
from hypothesis import strategies as st
from recordings import DEEP, KINDS, assert_recorded, layer_of, of_layout, tensors_of

from lstm_explain.recording.runner import record


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="plain"), pytest.param(DEEP, id="deep"), pytest.param(DEEP | {"proj_size": 2, "bias": False}, id="projected")],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_equals_the_scalar_loop(kind, layout, options):
    case = of_layout(layout, **options)
    layer = layer_of(kind, case)
    with record(layer) as recording:
        returned = layer(*call_of(case))
    assert_recorded(case, layer, recording)
    same_results(case, returned, slowly(case, layer))


@given(case=drawn_cases(), kind=st.sampled_from(KINDS))
def test_a_drawn_recording_equals_the_scalar_loop(case, kind):
    layer = layer_of(kind, case)
    with record(layer) as recording:
        layer(*call_of(case))
    assert_recorded(case, layer, recording)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_says_which_layer_it_is_of(kind):
    case = Case(proj_size=2)
    layer = layer_of(kind, case)
    with record(layer) as recording:
        layer(*call_of(case))
    trajectory = recording["l0"]
    assert trajectory.kind == ("lstm" if kind == "torch" else "peephole_lstm")
    assert tuple(trajectory.form) == ((None, "previous") if kind == "torch" else kind)
    assert trajectory.hidden_state.shape == (3, 4, 2) and trajectory.cell_state.shape == (3, 4, 3)
    expected = {"weight_hr"} if kind == "torch" or kind[0] is None else {"weight_hr", "weight_ch"}
    assert set(trajectory.weights) == expected
    for name, weight in trajectory.weights.items():
        assert torch.equal(weight, getattr(layer, f"{name}_l0"))


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous"), ("diagonal", "graves")])
def test_outputs_are_the_same_bit_for_bit(kind, layout, dtype, mode):
    case = of_layout(layout, hidden_size=16, **DEEP)
    layer = layer_of(kind, case, dtype)
    call = call_of(case, dtype)
    with MODES[mode]():
        expected = layer(*call)
        with record(layer) as recording:
            returned = layer(*call)
    assert all(map(torch.equal, tensors_of(returned), tensors_of(expected)))
    assert type(returned[0]) is type(expected[0])
    assert returned[0][0].requires_grad is (mode == "grad")
    assert recording.certificate.state == "certified"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_gradients_flow_and_are_the_same_bit_for_bit(kind, layout, dtype):
    case = of_layout(layout, **DEEP)
    layer = layer_of(kind, case, dtype)
    sequences, state = drawn(case, dtype)
    leaves = [tensor.requires_grad_() for tensor in (*sequences, *state)]

    def gradients():
        results = tensors_of(layer(laid_out(case, sequences), state))
        return torch.autograd.grad(sum(result.sum() for result in results), [*leaves, *layer.parameters()])

    expected = gradients()
    with record(layer):
        found = gradients()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_half_precision_is_certified_at_its_own_tolerance(kind, dtype, tolerance):
    case = of_layout("batch_first")
    layer = layer_of(kind, case, dtype)
    with torch.no_grad(), record(layer) as recording:
        layer(*call_of(case, dtype))
    assert recording.certificate.state == "certified"
    assert recording["l0"].forget_gate.dtype == torch.float32  # gates as computed, before anything is rounded back
    (check,) = recording.certificate.calls
    assert check.tolerance == pytest.approx(tolerance * (1 + check.scale)) and check.dtype == str(dtype).removeprefix("torch.")


def test_apart_and_laid_out_are_inverses():
    # The two helpers that all orders here rest on.
    for layout in LAYOUTS:
        case = of_layout(layout)
        sequences, _ = drawn(case)
        assert all(map(torch.equal, apart(case, laid_out(case, sequences)), sequences))


def test_a_recording_outlives_its_model():
    layer = torch_lstm(Case())
    with record(layer) as recording:
        layer(call_of(Case())[0])
    kept = copy.deepcopy(recording["l0"])
    del layer
    assert torch.equal(kept.cell_state, recording["l0"].cell_state) and kept.residual() <= 1e-12
