"""``fast=True``: one pass of the compiled kernels gives output and gates; some steps are recomputed, and the certificate says so."""

import copy

import pytest
import torch
from cases import LAYOUTS, Case, call_of, drawn_cases, randomise, same_results, slowly
from hypothesis import given
from hypothesis import strategies as st
from recordings import ALL_KINDS, DEEP, WITHOUT_CELL, assert_recorded, layer_of, of_layout, refused, tensors_of
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import CertificateError, InputError
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import plain
from lstm_explain.recording.sampling import SAMPLED, spread

pytestmark = pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)


def recorded(layer, *call, **options):
    """A recording in one pass, and what the layer returned."""
    with torch.no_grad(), lx.record(layer, fast=True, **options) as recording:
        returned = layer(*call)
    return recording, returned


def assert_in_one_pass(case, kind):
    layer, call = layer_of(kind, case), call_of(case, kind=kind)
    recording, returned = recorded(layer, *call)
    same_results(case, returned, slowly(case, layer))
    assert_recorded(case, layer, recording, "sampled")


@pytest.mark.parametrize("options", [{}, DEEP, {"bias": False}], ids=["one_layer", "deep", "without_bias"])
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_equals_the_scalar_loop(layout, kind, options):
    assert_in_one_pass(of_layout(layout, **options), kind)


@given(drawn_cases(), st.sampled_from(ALL_KINDS))
def test_drawn_cases_equal_the_scalar_loop(case, kind):
    assert_in_one_pass(case._replace(proj_size=0) if kind in WITHOUT_CELL else case, kind)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_beyond_a_block_of_sequences_and_a_panel_of_units(kind):
    case = Case("packed_unsorted", tuple(7 - at % 5 for at in range(70)), input_size=18, hidden_size=33, bidirectional=True)
    layer, call = layer_of(kind, case), call_of(case, kind=kind)
    with torch.no_grad(), lx.record(layer) as expected:
        layer(*call)
    recording, _ = recorded(layer, *call)
    for name, trajectory in expected.items():
        for signal, values in trajectory.signals.items():
            torch.testing.assert_close(recording[name].signals[signal], values, rtol=0, atol=1e-12)


def test_threads_do_not_meet():
    layer, x = nn.GRU(40, 33), torch.randn(1000, 9, 40)
    threads = torch.get_num_threads()
    expected = recorded(layer, x)[0]["l0"].candidate
    torch.set_num_threads(4)
    try:
        assert all(torch.equal(recorded(layer, x)[0]["l0"].candidate, expected) for _ in range(5))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_in_float32_the_output_differs_by_rounding(kind):
    case = of_layout("batch_first", num_layers=2, hidden_size=24)
    layer, call = layer_of(kind, case, torch.float32), call_of(case, torch.float32, kind=kind)
    recording, (output, _) = recorded(layer, *call)
    torch.testing.assert_close(output, layer(*call)[0])
    check = recording.certificate.worst
    assert check.dtype == "float32" and 0 < check.equations < check.tolerance / 5 and check.output == 0.0


def test_the_certificate_says_that_it_is_sampled():
    layer = nn.GRU(3, 4, batch_first=True)
    recording, _ = recorded(layer, torch.randn(5, 40, 3))
    assert recording.certificate.state == "sampled"
    assert str(recording.certificate).startswith(
        f"sampled: 1 call computed by the compiled kernels, {SAMPLED} of 200 steps recomputed, largest difference "
    )
    with torch.no_grad(), lx.record(layer, fast=True, into=[lx.Saturation()]) as stream:
        for _ in range(3):
            layer(torch.randn(5, 40, 3))
    assert f"3 calls computed by the compiled kernels, {3 * SAMPLED} of 600 steps recomputed" in str(stream.certificate)


def test_it_survives_a_file(tmp_path):
    recording, _ = recorded(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    recording.save(tmp_path / "recording.safetensors")
    assert lx.load(tmp_path / "recording.safetensors").certificate == recording.certificate


@pytest.mark.parametrize("rows", [1, SAMPLED - 1, SAMPLED, SAMPLED + 1, 1000])
def test_each_call_is_sampled_evenly_and_elsewhere(rows):
    some = min(rows, SAMPLED)
    seen = [spread(rows, offset) for offset in (0.0, 0.3, 0.999)]
    for found in seen:
        assert len(set(found)) == some and 0 <= min(found) and max(found) < rows
        assert all(part * rows // some <= row <= (part + 1) * rows / some for part, row in enumerate(found))
    if rows > 10 * SAMPLED:
        assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("signal", ["reset_gate", "update_gate", "candidate", "hidden_state"])
def test_a_kernel_that_is_wrong_is_refused(signal, monkeypatch):
    right = plain.forward

    def wrong(*args):
        hidden, last, signals = right(*args)
        return hidden, last, signals._replace(**{signal: getattr(signals, signal).clone().mul_(0.999)})

    monkeypatch.setattr(plain, "forward", wrong)
    with pytest.raises(CertificateError, match="equations"):
        recorded(nn.GRU(3, 8), torch.randn(6, 2, 3))


def test_one_wrong_step_is_found_before_long(monkeypatch):
    right = plain.forward

    def wrong(*args):
        hidden, last, signals = right(*args)
        signals.hidden_state[137] += 0.1
        return hidden, last, signals

    monkeypatch.setattr(plain, "forward", wrong)
    layer, x = nn.RNN(3, 8), torch.randn(10 * SAMPLED, 1, 3)
    with pytest.raises(CertificateError):
        for _ in range(20):
            recorded(layer, x)


@pytest.mark.parametrize("changed", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "initial"])
@pytest.mark.parametrize("reverse", [False, True])
def test_everything_that_a_step_reads_is_checked(reverse, changed, monkeypatch):
    right = plain.forward

    def wrong(kind, x, h0, weights, sizes, backwards):
        if backwards != reverse:
            return right(kind, x, h0, weights, sizes, backwards)
        if changed == "initial":
            return right(kind, x, h0 + 0.5, weights, sizes, backwards)
        return right(kind, x, h0, weights._replace(**{changed: getattr(weights, changed) * 0.99}), sizes, backwards)

    monkeypatch.setattr(plain, "forward", wrong)
    with pytest.raises(CertificateError):
        recorded(nn.RNN(3, 8, bidirectional=True), torch.randn(6, 2, 3))


@pytest.mark.parametrize("kind", ["lstm", "peephole"])
def test_gradients_are_those_of_the_layer(kind):
    layer = randomise((nn.LSTM if kind == "lstm" else lx.PeepholeLSTM)(3, 4, 2, dtype=torch.float64))
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    by = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x)[0].square().sum(), by)
    with lx.record(layer, fast=True) as recording:
        output = layer(x)[0]
    assert recording.certificate.state == "sampled" and not recording["l0"].hidden_state.requires_grad
    for found, right in zip(torch.autograd.grad(output.square().sum(), by), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


class Doubled(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(2 * input, hx)


def swapped(layer):
    """Weights under their names that aren't those that the layer reads."""
    layer._flat_weights[0] = layer._flat_weights[0].detach().clone()
    return layer


def parametrised(layer):
    return nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")


AS_ALWAYS = {
    "a GRU whose gradient is wanted": lambda: (nn.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)),
    "masks between its layers": lambda: (nn.LSTM(3, 4, 2, dropout=0.5), torch.randn(5, 2, 3)),
    "half precision": lambda: (nn.LSTM(3, 4).bfloat16(), torch.randn(5, 2, 3).bfloat16()),
    "other weights under the names": lambda: (swapped(nn.LSTM(3, 4)), torch.randn(5, 2, 3)),
    "a parametrisation": lambda: (parametrised(nn.LSTM(3, 4)), torch.randn(5, 2, 3)),
    "a cell": lambda: (nn.LSTMCell(3, 4), torch.randn(2, 3)),
}


@pytest.mark.parametrize("what", AS_ALWAYS)
def test_what_the_kernels_cannot_do_is_recorded_as_always(what):
    torch.manual_seed(0)
    layer, x = AS_ALWAYS[what]()
    state = torch.get_rng_state()
    expected = tensors_of(layer(x))
    torch.set_rng_state(state)
    with lx.record(layer, fast=True) as recording:
        returned = layer(x)
    assert all(map(torch.equal, tensors_of(returned), expected))
    assert recording.certificate.state == "certified"


def test_a_subclass_with_a_forward_pass_of_its_own_is_refused_as_always():
    with pytest.raises(CertificateError):
        recorded(Doubled(3, 4), torch.randn(5, 2, 3))


def test_without_the_kernels_it_is_recorded_as_always(monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", "torch")
    assert recorded(nn.LSTM(3, 4), torch.randn(5, 2, 3))[0].certificate.state == "certified"


def test_beside_a_recording_that_wants_the_layers_own_output_it_gets_that():
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    with torch.no_grad():
        expected = layer(x)[0]
        with lx.record(layer) as one, lx.record(layer, fast=True) as other:
            assert torch.equal(layer(x)[0], expected)
    assert one.certificate.state == other.certificate.state == "certified"


def test_inside_an_intervention_the_edited_pass_is_recorded():
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    with lx.intervene(layer, "l0", forget_gate=lx.clamp(0.5), feedback=True):
        recording, _ = recorded(layer, x)
    assert (recording["l0"].forget_gate == 0.5).all() and recording.certificate.state == "certified"


def test_what_does_not_fit_is_the_layers_to_refuse():
    layer = nn.GRU(3, 4)
    for call in ((torch.randn(5, 2, 4),), (torch.randn(5, 2, 3), torch.randn(1, 3, 4)), ("words",)):
        with pytest.raises(Exception) as expected:
            layer(*call)
        with pytest.raises(type(expected.value)) as found, lx.record(layer, fast=True):
            layer(*call)
        assert str(found.value) == str(expected.value)


def test_calls_join_as_always_and_the_layer_is_as_before():
    layer, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 6, 3)
    before = copy.deepcopy(layer.__dict__)
    with torch.no_grad(), lx.record(layer, fast=True) as recording:
        state = None
        for step in x.split(1, dim=1):
            _, state = layer(step, state)
    whole, _ = recorded(layer, x)
    torch.testing.assert_close(recording["l0"].update_gate, whole["l0"].update_gate)
    assert len(recording.calls["l0"]) == 6 and layer.__dict__.keys() == before.keys()


def test_it_and_gradients_to_gates_exclude_each_other():
    def both():
        with lx.record(nn.LSTM(3, 4), fast=True, grad=True):
            raise AssertionError

    assert "fast=True" in refused(InputError, both)
