"""A recording of a changed run has the changed values, and a certificate that says which."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from cases import WITHOUT_CELL, call_of
from every_kind import Leaky, Loop, leaky, registered
from recordings import ALL_KINDS, layer_of, of_layout, signals_of

import lstm_explain as lx
from lstm_explain.nn.sequence import run_sequence
from lstm_explain.recording import stack

X = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("kind", ALL_KINDS, ids=str)
def test_only_what_was_put_there_may_break_the_equations(kind, feedback):
    case = of_layout("packed_unsorted", num_layers=2, initial_state=True)
    layer = layer_of(kind, case)
    for signal in signals_of(kind):
        with lx.record(layer) as recording, lx.intervene(layer, "l0", steps=[0], units=[1], feedback=feedback, **{signal: 2.0}):
            layer(*call_of(case, kind=kind))
        one = recording["l0"]
        assert one.residual() <= 1e-12 and (one.signals[signal][:, 0, 1] == 2.0).all()
        assert list(one.changed) == [signal] and one.changed[signal].sum() == len(case.lengths)
        assert f"edited: l0 {signal}" in str(recording.certificate) and "edited" in repr(one) and not recording["l1"].changed
        if kind not in ("rnn_tanh", "rnn_relu") and signal != "candidate" and signal != "cell_candidate":
            assert replace(one, changed={}).residual() > 1e-3
        # What follows from it must still hold: a value next to it that is off is noticed.
        if kind not in ("rnn_tanh", "rnn_relu"):
            other = one.hidden_state.clone()
            other[0, 1, 2] += 1e-6
            assert replace(one, signals=dict(one.signals) | {"hidden_state": other}).residual() > 1e-8
        # Without feedback the steps start from what was there before the change.
        edited = one.edited()
        moved = not feedback and (signal != "output_gate" or kind not in WITHOUT_CELL)
        assert edited[:, 1:].any() if moved else not edited.any()
        assert not edited[:, 0].any()


@pytest.mark.parametrize("feedback", [True, False])
def test_it_is_saved_and_loaded(tmp_path, feedback):
    layer = layer_of("torch", of_layout("batch_first"))
    with lx.record(layer) as recording, lx.intervene(layer, "l0", steps=[1], forget_gate=1.5, feedback=feedback):
        layer(X)
    recording.save(tmp_path / "edited.safetensors")
    loaded = lx.load(tmp_path / "edited.safetensors")
    assert str(loaded.certificate) == str(recording.certificate) and "edited: l0 forget_gate" in str(loaded.certificate)
    one, other = loaded["l0"], recording["l0"]
    assert torch.equal(one.changed["forget_gate"], other.changed["forget_gate"]) and torch.equal(one.edited(), other.edited())
    assert one.residual() <= 1e-12 and bool(one.edited().any()) is not feedback
    with lx.intervene(layer, "l0", forget_gate=lx.patch(loaded), feedback=True):
        layer(X)


def test_a_part_of_it_is_kept():
    layer = layer_of("torch", of_layout("batch_first"))
    with (
        lx.record(layer, units=[2, 0], dtype=torch.float32) as recording,
        lx.intervene(layer, "l0", steps=[1], units=[0], forget_gate=1.0, cell_state=0.0, feedback=False),
    ):
        layer(X)
    one = recording["l0"]
    assert one.changed["forget_gate"].dtype == torch.bool and one.changed["forget_gate"].any((0, 1)).tolist() == [False, True]
    with lx.record(layer, signals="forget_gate") as recording, lx.intervene(layer, "l0", cell_state=0.0, feedback=True):
        layer(X)
    assert not recording["l0"].changed and recording["l0"].select([1]).valid.shape == (1, 5)


def test_calls_join_with_what_was_changed_in_each():
    layer = layer_of("torch", of_layout("batch_first"))
    with lx.record(layer) as recording:
        _, state = layer(X)
        with lx.intervene(layer, "l0", steps=[0], hidden_state=0.0, feedback=True):
            layer(X, state)
        layer(X[:, :3])
    assert recording["l0"].valid.shape == (4, 10)
    assert recording["l0"].changed["hidden_state"].any(2).nonzero().tolist() == [[0, 5], [1, 5]]
    assert recording["l0"].residual() <= 1e-12


def test_a_value_that_is_not_the_edits_is_not_certified(monkeypatch):
    from lstm_explain.recording import edited

    layer = layer_of("torch", of_layout("batch_first"))

    def wrong(*args):
        layer, ends = original(*args)
        layer.signals["forget_gate"][3, 1] += 1e-6
        return layer, ends

    original = edited._walked
    monkeypatch.setattr(edited, "_walked", wrong)
    with pytest.raises(lx.CertificateError), lx.record(layer), lx.intervene(layer, "l0", forget_gate=1.0, feedback=True):
        layer(X)


@pytest.mark.parametrize("kind", ["torch", ("full", "graves"), "gru", "rnn_tanh"], ids=str)
def test_gradients_of_a_changed_run(kind):
    layer = layer_of(kind, of_layout("batch_first", num_layers=2))
    signal = signals_of(kind)[0]
    value = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with lx.record(layer, grad=True) as recording, lx.intervene(layer, "l0", steps=[1, 2], units=[1], feedback=True, **{signal: value}):
        loss = layer(X)[0].square().sum()
    gradients = recording.gradients(loss, retain_graph=True)
    by_value = torch.autograd.grad(loss, value)[0]
    torch.testing.assert_close(gradients["l0"].signals[signal][:, 1:3, 1].sum(), by_value, rtol=0, atol=1e-12)
    assert recording.certificate.state == "certified" and float(by_value.abs()) > 1e-6


def test_a_registered_cell():
    model = Loop(Leaky(2, 3).double())
    with registered(Leaky, leaky), torch.no_grad():
        for feedback in (True, False):
            with lx.record(model) as recording, lx.intervene(model, "cell", steps=[2], hidden_state=0.5, feedback=feedback):
                output, _ = model(X)
            assert (output[:, 2] == 0.5).all() and (recording["cell"].hidden_state[:, 2] == 0.5).all()
            x = X[:, 3]
            f, g = torch.sigmoid(model.cell.keep(x)), torch.tanh(model.cell.read(x))
            clean, _ = model(X)
            h = torch.full((2, 3), 0.5, dtype=torch.float64) if feedback else clean[:, 2]
            torch.testing.assert_close(output[:, 3], f * h + (1 - f) * g, rtol=0, atol=1e-12)
        with pytest.raises(lx.InputError, match="needed hidden_state of cell, got forget_gate"):
            with lx.intervene(model, "cell", forget_gate=0.5, feedback=True):
                model(X)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_layer_that_isnt_changed_keeps_its_gates_only_for_those_who_record(monkeypatch, recorded):
    kept = []

    def spied(*args, keep, **kwargs):
        kept.append(keep)
        return run_sequence(*args, keep=keep, **kwargs)

    monkeypatch.setattr(stack, "run_sequence", spied)
    model = lx.PeepholeLSTM(3, 4, num_layers=2)
    with torch.no_grad(), lx.intervene(model, "l1", feedback=True, cell_state=0.0), lx.record(model) if recorded else nullcontext():
        model(torch.zeros(5, 2, 3))
    assert kept == [recorded]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN, lx.PeepholeLSTM])
def test_in_half_precision_units_at_their_own_values_change_rounding_alone(kind, dtype):
    torch.manual_seed(0)
    model, x = kind(6, 5, num_layers=2, batch_first=True).to(dtype), torch.randn(3, 9, 6).to(dtype)
    with torch.no_grad(), lx.record(model) as clean:
        output = model(x)[0]
    changed = {}
    for what, value in {"own": lx.patch(clean), "zero": 0.0}.items():
        with torch.no_grad(), lx.record(model) as recording:
            with lx.intervene(model, "l0", units=[1], feedback=True, hidden_state=value):
                changed[what] = (model(x)[0] - output).abs().max()
        assert recording.certificate.state == "certified" and recording["l0"].hidden_state.dtype == torch.float32
        assert output.dtype == dtype
    assert changed["own"] <= torch.finfo(dtype).eps < 0.04 < changed["zero"]
