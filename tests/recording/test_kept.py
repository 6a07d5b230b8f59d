"""Only what is asked for is kept, with the values of the full recording; all of it is certified before."""

import pytest
import torch
from cases import Case, call_of, close, randomise
from every_kind import KINDS, LAYERS, Leaky, inputs, leaky, model_of, registered
from recordings import classifier, refused
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import CertificateError, InputError


@pytest.fixture(autouse=True)
def _leaky_is_known():
    with registered(Leaky, leaky):
        yield


def recorded(model, x=None, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs() if x is None else x)
    return recording


def stored(recording):
    """The bytes of all storages that the signals of a recording hold on to."""
    signals = [signal for call in recording.calls.values() for one in call for signal in one.trajectory.signals.values()]
    storages = {signal.untyped_storage().data_ptr(): signal.untyped_storage().nbytes() for signal in signals}
    return sum(storages.values())


@pytest.mark.parametrize("kind", KINDS)
def test_signals_that_are_kept_are_those_of_the_full_recording(kind):
    model = model_of(kind)
    full = recorded(model)
    for signal in next(iter(full.values())).signals:
        for asked in (signal, [signal]):
            recording = recorded(model, signals=asked)
            assert list(recording) == list(full)
            for name, one in recording.items():
                assert list(one.signals) == [signal] and one.units is None
                assert torch.equal(one.signals[signal], full[name].signals[signal])
                assert torch.equal(one.valid, full[name].valid) and torch.equal(one.first_step, full[name].first_step)


@pytest.mark.parametrize("signals", [None, "hidden_state"])
@pytest.mark.parametrize("units", [[0], [2, 0], torch.tensor([1, 2])], ids=["first", "in_another_order", "tensor"])
@pytest.mark.parametrize("kind", KINDS)
def test_units_that_are_kept_are_those_of_the_full_recording_and_a_projection_is_whole(kind, units, signals):
    model = model_of(kind)
    full, recording = recorded(model), recorded(model, units=units, signals=signals)
    for name, one in recording.items():
        assert one.units == tuple(int(unit) for unit in units) and not one.complete
        for kept, whole in ((one.signals, full[name].signals), (one.initial, full[name].initial)):
            for signal, tensor in kept.items():
                projected = "projected" in kind and signal == "hidden_state"
                assert torch.equal(tensor, whole[signal] if projected else whole[signal][..., list(units)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_signals_are_kept_in_the_dtype_that_is_asked_for(kind, dtype):
    model = model_of(kind)
    full, recording = recorded(model), recorded(model, dtype=dtype, device="cpu")
    for name, one in recording.items():
        assert one.valid.dtype == torch.bool
        for signal, tensor in one.signals.items():
            assert tensor.dtype == dtype and torch.equal(tensor, full[name].signals[signal].to(dtype))


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.decoder = nn.ModuleDict({"gru": nn.GRU(6, 3, bidirectional=True, batch_first=True)})

    def forward(self, x):
        return self.decoder["gru"](self.encoder(x)[0])


ENCODER = [f"encoder.{suffix}" for suffix in ("l0", "l0_reverse", "l1", "l1_reverse")]
DECODER = ["decoder.gru.l0", "decoder.gru.l0_reverse"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("encoder.l1", ["encoder.l1"]),
        ("encoder.*_reverse", [ENCODER[1], ENCODER[3]]),
        ("encoder", ENCODER),
        ("decoder", DECODER),
        ("decoder.gru", DECODER),
        ("*l0", [ENCODER[0], DECODER[0]]),
        (["encoder.l1_reverse", "decoder.gru.l0"], [ENCODER[3], DECODER[0]]),
        ("*", ENCODER + DECODER),
    ],
)
def test_layers_are_kept_by_name_by_path_and_by_pattern(layers, expected):
    model = randomise(TwoLayers().double())
    full, recording = recorded(model), recorded(model, layers=layers)
    assert list(recording) == expected
    for name, one in recording.items():
        assert all(torch.equal(signal, full[name].signals[key]) for key, signal in one.signals.items()) and one.complete


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [{"signals": "forget_gate"}, {"signals": ["hidden_state"]}, {"units": [4]}, {"layers": "l1_reverse"}, {"dtype": torch.float16}],
    ids=str,
)
def test_what_is_not_kept_takes_no_memory(options, dtype, grad):
    model = randomise(nn.LSTM(2, 40, num_layers=2, bidirectional=True, batch_first=True, dtype=dtype))
    for _ in range(2):  # the second time gates are read from where the kernel left them
        with torch.set_grad_enabled(grad), lx.record(model, **options) as recording:
            model(inputs(4, 20, dtype=dtype))
        assert 0 < stored(recording) == recording.nbytes
        states = sum(t.untyped_storage().nbytes() for one in recording.values() for t in one.initial.values())
        assert states <= len(recording) * 2 * 4 * 40 * dtype.itemsize


def test_one_signal_of_one_unit_of_one_layer_is_all_that_there_is():
    model = randomise(nn.LSTM(2, 8, num_layers=3, batch_first=True))
    recording = recorded(model, inputs(dtype=torch.float32), signals="cell_state", layers="l1", units=[5], dtype=torch.float16)
    assert recording.nbytes == stored(recording) == 3 * 5 * 2
    assert recording.certificate.kept == "cell_state, of l1, units 5, as float16"
    assert str(recording.certificate).endswith("; kept: cell_state, of l1, units 5, as float16") and "kept: cell" in repr(recording)
    assert recording.certificate.state == "partial" and recording["l1"].residual() == 0.0


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}])
def test_a_recording_that_keeps_everything_is_certified(options):
    assert recorded(model_of("lstm"), **options).certificate.state == "certified"


class Shifted(nn.LSTM):
    """Computes something else, and only in its cell state."""

    def forward(self, input, hx=None):
        output, (h, c) = super().forward(input, hx)
        return output, (h, c + 1e-3)


@pytest.mark.parametrize(
    "options", [{"signals": "input_gate"}, {"units": [0]}, {"layers": "encoder.l0"}, {"dtype": torch.float16}, {"into": [lx.Saturation()]}]
)
def test_what_is_not_kept_is_checked_too(options):
    model = nn.ModuleDict({"encoder": randomise(Shifted(2, 3, num_layers=2, dtype=torch.float64))})
    with lx.record(model, **options) as recording:
        with pytest.raises(CertificateError, match="^encoder, call 0: .* in c_n, "):
            model["encoder"](inputs())
        assert len(recording) == 0 and recording.certificate.state == "uncertified"


def test_joined_calls_are_cut_as_one_call_is():
    model, x = randomise(nn.LSTM(2, 3, batch_first=True, dtype=torch.float64)), inputs()
    with lx.record(model, signals=["cell_state", "forget_gate"], units=[2, 0]) as recording:
        _, state = model(x[:, :2])
        model(x[:, 2:], state)
        model(x[:, :3])
    full = recorded(model)
    joined = recording["l0"]
    assert joined.valid.shape == (6, 5) and joined.valid.sum(1).tolist() == [5, 5, 5, 3, 3, 3] and joined.units == (2, 0)
    for signal in ("cell_state", "forget_gate"):
        torch.testing.assert_close(joined.signals[signal][:3], full["l0"].signals[signal][..., [2, 0]], rtol=0, atol=1e-12)
    assert list(joined.signals) == ["forget_gate", "cell_state"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"signals": "reset"}, "signals of input_gate, forget_gate"),
        ({"signals": ["forget_gate", "update_gate"]}, "got 'update_gate'"),
        ({"signals": []}, "signals as names"),
        ({"signals": [1]}, "signals as names"),
        ({"layers": "l2"}, "layers of l0, l0_reverse, l1, l1_reverse, got 'l2'"),
        ({"layers": ["l0", "encoder.*"]}, "got 'encoder.*'"),
        ({"layers": []}, "layers as names"),
        ({"units": [3]}, "units from 0 to 2 of l0, got 3"),
        ({"units": [-1]}, "units from 0 to 2 of l0, got -1"),
        ({"units": []}, "units as whole numbers, each once, got []"),
        ({"units": [1.5]}, "got [1.5]"),
        ({"units": [True]}, "got [True]"),
        ({"units": [1, 1]}, "got [1, 1]"),
        ({"units": "01"}, "got '01'"),
        ({"units": 2}, "got 2"),
        ({"dtype": torch.int32}, "floating point, like torch.float16, got torch.int32"),
        ({"dtype": "float16"}, "got 'float16'"),
        ({"device": "drum"}, "device, like 'cpu', got 'drum'"),
        ({"max_bytes": 1e6}, "max_bytes as a whole number, got 1000000.0"),
    ],
    ids=str,
)
def test_what_can_not_be_kept_is_refused(options, words):
    assert words in refused(InputError, lambda: recorded(model_of("lstm"), **options))


@pytest.mark.parametrize("kind", LAYERS)
def test_saturation_is_that_of_the_gates_that_are_there(kind):
    model = model_of(kind)
    gates = next(iter(recorded(model).values())).gates
    for gate in gates:
        found, whole = (lx.saturation(recorded(model, **options)) for options in ({"signals": gate, "units": [2, 1]}, {}))
        for name, layer in found.layers.items():
            at = whole.layers[name].gates.index(gate)
            assert layer.gates == (gate,) and (layer.left[0] == whole.layers[name].left[at][:, [2, 1]]).all()
            close(layer.mean[0], whole.layers[name].mean[at][[2, 1]])
    assert gates or "with gates, got l0" in refused(InputError, lambda: lx.saturation(recorded(model)))


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("lstm", {"signals": ["input_gate", "cell_state"]}, "a forget or update gate, got l0, l0_reverse"),
        ("gru", {"signals": "reset_gate"}, "a forget or update gate, got l0"),
        ("rnn_tanh", {}, "a forget or update gate, got l0"),
        ("peephole", {"units": [0]}, "all units of l0, whose peepholes join them, got 1: record without units="),
        ("peephole", {"signals": "forget_gate"}, "the signal input_gate of l0, peephole_lstm, got forget_gate"),
        ("peephole", {"signals": ["input_gate", "forget_gate", "cell_candidate"]}, "the signal cell_state of l0"),
    ],
    ids=str,
)
def test_timescales_say_which_signal_they_needed(kind, options, words):
    assert words in refused(InputError, lambda: lx.timescale(recorded(model_of(kind), **options)))


@pytest.mark.parametrize(("kind", "gate"), [("lstm", "forget_gate"), ("gru", "update_gate")])
def test_timescales_need_the_gate_that_keeps_and_no_more(kind, gate):
    found, whole = (lx.timescale(recorded(model_of(kind), **options)) for options in ({"signals": gate, "units": [1]}, {}))
    for name, layer in found.layers.items():
        close(layer.half_life, whole.layers[name].half_life[[1]])
        assert (layer.runs == whole.layers[name].runs).all() and layer.units == 1


def test_probing_says_which_state_it_needed():
    recording = recorded(classifier(), call_of(Case())[0], signals="forget_gate")
    labels = {"label": torch.zeros(3, 4)}
    message = refused(InputError, lambda: lx.probe(recording, labels=labels, groups=[0, 1, 2], folds=2))
    assert "the signal cell_state of encoder.lstm.l0, lstm, got forget_gate" in message
