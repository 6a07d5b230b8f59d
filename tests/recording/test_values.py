"""What is recorded is what the layer computed, and its outputs and gradients are the same bit for bit.

A thousand drawn cases of each kind rather than sixty, every time others, in some two minutes::

    HYPOTHESIS_PROFILE=nightly python -m pytest tests/recording/test_values.py -k drawn --hypothesis-show-statistics
"""

import copy
import itertools

import pytest
import torch
from cases import (
    LAYOUTS,
    WITHOUT_CELL,
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
from hypothesis import given, target
from hypothesis import strategies as st
from recordings import ALL_KINDS, DEEP, KINDS, assert_recorded, layer_of, name_of, of_layout, tensors_of

from lstm_explain.recording.runner import record


def assert_recorded_and_returned(case, kind):
    layer, call = layer_of(kind, case), call_of(case, kind=kind)
    expected = layer(*call)
    with record(layer) as recording:
        returned = layer(*call)
    assert all(map(torch.equal, tensors_of(returned), tensors_of(expected)))
    same_results(case, returned, slowly(case, layer))
    return assert_recorded(case, layer, recording)


VARIED = {
    "num_layers": {"one_layer": 1, "two_layers": 2},
    "bidirectional": {"": False, "both_directions": True},
    "proj_size": {"": 0, "projected": 2},
    "bias": {"": True, "without_bias": False},
    "initial_state": {"": False, "initial_state": True},
}
STACKS = [
    pytest.param(dict(zip(VARIED, values, strict=True)), id="-".join(filter(None, words)))
    for words in itertools.product(*VARIED.values())
    for values in [[VARIED[option][word] for option, word in zip(VARIED, words, strict=True)]]
]


EVERY_STACK = ["torch", ("full", "previous")]
"""The other forms differ by their equations only, which a few stacks show; drawn cases have all of them."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, *stack.values, id=f"{kind}-{stack.id}")
        for kind in KINDS
        for stack in (STACKS if kind in EVERY_STACK else STACKS[5::13])
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recording_of_an_lstm_equals_the_scalar_loop(layout, kind, options):
    assert_recorded_and_returned(of_layout(layout, **options), kind)


@pytest.mark.parametrize("options", [stack for stack in STACKS if not stack.values[0]["proj_size"]])
@pytest.mark.parametrize("kind", WITHOUT_CELL)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_recording_without_a_cell_equals_the_scalar_loop(layout, kind, options):
    assert_recorded_and_returned(of_layout(layout, **options), kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(data=st.data())
def test_a_drawn_recording_equals_the_scalar_loop(kind, data):
    case = data.draw(drawn_cases(projected=kind not in WITHOUT_CELL))
    target(assert_recorded_and_returned(case, kind), label="largest difference")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_trajectory_says_which_layer_it_is_of(kind):
    cell = kind not in WITHOUT_CELL
    case = Case(proj_size=2 * cell)
    layer = layer_of(kind, case)
    with record(layer) as recording:
        layer(*call_of(case))
    trajectory = recording["l0"]
    assert trajectory.kind == name_of(kind) and trajectory.memory == ("cell_state" if cell else "hidden_state")
    assert trajectory.hidden_state.shape == (3, 4, 2 if cell else 3)
    if not cell:
        assert trajectory.form is None and not trajectory.weights
        return
    assert tuple(trajectory.form) == ((None, "previous") if kind == "torch" else kind)
    assert trajectory.cell_state.shape == (3, 4, 3)
    expected = {"weight_hr"} if kind == "torch" or kind[0] is None else {"weight_hr", "weight_ch"}
    assert set(trajectory.weights) == expected
    for name, weight in trajectory.weights.items():
        assert torch.equal(weight, getattr(layer, f"{name}_l0"))


MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["torch", ("full", "previous"), ("diagonal", "graves"), *WITHOUT_CELL])
def test_outputs_are_the_same_bit_for_bit(kind, layout, dtype, mode):
    case = of_layout(layout, hidden_size=16, **DEEP)
    layer = layer_of(kind, case, dtype)
    call = call_of(case, dtype, kind)
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
@pytest.mark.parametrize("kind", ["torch", ("full", "previous"), *WITHOUT_CELL])
def test_gradients_flow_and_are_the_same_bit_for_bit(kind, layout, dtype):
    case = of_layout(layout, **DEEP)
    layer = layer_of(kind, case, dtype)
    sequences, state = drawn(case, dtype)
    hx = state[0] if kind in WITHOUT_CELL else state
    leaves = [tensor.requires_grad_() for tensor in (*sequences, *(state[:1] if kind in WITHOUT_CELL else state))]

    def gradients():
        results = tensors_of(layer(laid_out(case, sequences), hx))
        return torch.autograd.grad(sum(result.sum() for result in results), [*leaves, *layer.parameters()])

    expected = gradients()
    with record(layer):
        found = gradients()
    assert all(map(torch.equal, found, expected))


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
