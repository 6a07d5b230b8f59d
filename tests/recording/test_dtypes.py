"""Every dtype of a model: signals are kept in at least float32, and are the float64 ones of the rounded weights to its tolerance."""

import pytest
import torch
from cases import call_of, slowly
from recordings import ALL_KINDS, DEEP, by_scalars, cell_of, layer_of, of_layout, tensors_of

from lstm_explain.recording.runner import record

TOLERANCES = {
    torch.float64: {"rtol": 0, "atol": 1e-12},
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.float16: {"rtol": 5e-3, "atol": 5e-3},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
}


def assert_within(found, expected, dtype):
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), torch.as_tensor(expected), **TOLERANCES[dtype])


def assert_certified_in(recording, dtype):
    assert recording.certificate.state == "certified"
    for check in recording.certificate.calls:
        tolerance = TOLERANCES[dtype]
        assert check.dtype == str(dtype).removeprefix("torch.") and check.rounding == 0
        assert check.tolerance == pytest.approx((tolerance["rtol"] or 1e-12) * check.scale + tolerance["atol"])


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", ["batch_first", "packed_unsorted"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_layer_of_every_dtype_is_recorded_to_its_tolerance(kind, layout, dtype, grad):
    case = of_layout(layout, hidden_size=5, **DEEP)
    layer, call = layer_of(kind, case, dtype), call_of(case, dtype, kind)
    expected = slowly(case, layer, dtype)
    with torch.set_grad_enabled(grad):
        plain = layer(*call)
        # Three times: where the fused kernel leaves its gates in memory, they are read from there once it is known where.
        for _ in range(3):
            with record(layer) as recording:
                returned = layer(*call)
            assert all(map(torch.equal, tensors_of(returned), tensors_of(plain)))
            assert_certified_in(recording, dtype)
            for suffix in case.suffixes:
                for b, (signals, *_) in enumerate(expected):
                    for name, signal in signals[suffix].items():
                        assert_within(recording[suffix].signals[name][b, : case.lengths[b]], signal, dtype)


@pytest.mark.parametrize("batch", [(), (3,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_cell_of_every_dtype_is_recorded_to_its_tolerance(kind, dtype, batch):
    cell = cell_of(kind, dtype=dtype)
    xs = torch.randn(4, *batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    with torch.no_grad(), record(cell) as recording:
        state = None
        for x in xs:
            state = cell(x, state)
    assert_certified_in(recording, dtype)
    trajectory = recording["cell"]
    assert trajectory.valid.shape == (*(batch or (1,)), 4) and not trajectory.edited().any()
    zeros = [torch.zeros(*(batch or (1,)), 3)] * len(trajectory.initial)
    for name, signal in by_scalars(cell, xs.view(4, -1, 2), zeros).items():
        assert_within(trajectory.signals[name], signal, dtype)


@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_kept_in_another_dtype_was_computed_before_it_was_rounded(kind, kept):
    case = of_layout("packed_unsorted", **DEEP)
    layer, call = layer_of(kind, case), call_of(case, kind=kind)
    with record(layer) as whole:
        layer(*call)
    with record(layer, dtype=kept) as recording:
        layer(*call)
    for suffix in case.suffixes:
        for name, signal in whole[suffix].signals.items():
            assert torch.equal(recording[suffix].signals[name], signal.to(kept))
