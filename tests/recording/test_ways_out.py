"""What a recording says of itself, and as what else it comes: NumPy, xarray, one line, HTML."""

import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
import torch
from every_kind import KINDS, LAYERS, Leaky, inputs, leaky, model_of, registered
from torch import nn

import lstm_explain as lx


@pytest.fixture(autouse=True)
def _leaky_is_known():
    with registered(Leaky, leaky):
        yield


def recorded(model, **options):
    with torch.no_grad(), lx.record(model, **options) as recording:
        model(inputs())
    return recording


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_has_every_signal_of_every_layer_and_what_is_valid(kind):
    recording = recorded(model_of(kind), lengths=[5, 2, 1])
    arrays = recording.to_numpy()
    assert list(arrays) == list(recording)
    for name, one in recording.items():
        assert list(arrays[name]) == [*one.signals, "valid"]
        assert arrays[name]["valid"].dtype == bool and arrays[name]["valid"].sum(1).tolist() == [5, 2, 1]
        for signal, tensor in one.signals.items():
            assert arrays[name][signal].dtype == np.float64 and (arrays[name][signal] == tensor.numpy()).all()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, np.float16), (torch.bfloat16, np.float32), (torch.float32, np.float32)])
def test_what_is_kept_in_half_precision_comes_out_too(dtype, expected):
    recording = recorded(model_of("lstm"), dtype=dtype)
    array = recording.to_numpy()["l0"]["forget_gate"]
    assert array.dtype == expected and (array == recording["l0"].forget_gate.float().numpy()).all()
    assert recording.to_xarray()["l0"]["forget_gate"].dtype == expected


@pytest.mark.parametrize("kind", KINDS)
def test_xarray_has_a_dataset_for_each_layer_with_named_dimensions(kind):
    recording = recorded(model_of(kind), lengths=[5, 2, 1])
    tree = recording.to_xarray()
    assert list(tree.children) == list(recording)
    for name, one in recording.items():
        dataset = tree[name].to_dataset()
        assert set(dataset.data_vars) == {*one.signals, "valid"} and dict(dataset.attrs) == {"kind": one.kind, "padding": "known"}
        assert dataset["valid"].dims == ("batch", "time") and not dataset.coords
        for signal, tensor in one.signals.items():
            last = "projection" if "projected" in kind and signal == "hidden_state" else "unit"
            assert dataset[signal].dims == ("batch", "time", last) and (dataset[signal].values == tensor.numpy()).all()


@pytest.mark.parametrize("signals", [None, "hidden_state", ["forget_gate", "hidden_state"]])
@pytest.mark.parametrize("kind", ["lstm", "projected", "peephole_projected"])
def test_units_that_were_kept_are_coordinates(kind, signals):
    tree = recorded(model_of(kind), units=[2, 0], signals=signals).to_xarray()
    for dataset in (tree[name].to_dataset() for name in tree.children):
        assert dataset.coords["unit"].values.tolist() == [2, 0]
        assert "projected" not in kind or dataset["hidden_state"].dims[-1] == "projection"


def test_importing_loads_neither_xarray_nor_pandas_nor_safetensors():
    heavy = "heavy = {'xarray', 'pandas', 'safetensors'} & set(sys.modules)\nassert not heavy, heavy\n"
    code = (
        f"import sys, lstm_explain as lx\n{heavy}import torch\nmodel = torch.nn.LSTM(2, 3)\n"
        "with lx.record(model) as recording: model(torch.zeros(4, 1, 2))\n"
        f"recording.to_numpy(), recording._repr_html_(), recording['l0']\n{heavy}"
        "recording.to_xarray()\nassert 'xarray' in sys.modules and 'safetensors' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Model(nn.Module):
    """Two paths to one layer, a layer that isn't called, and one that can't be opened."""

    def __init__(self):
        super().__init__()
        self.encoder = self.again = model_of("lstm")
        self.unused = model_of("gru")
        self.closed = ClosedRNN()

    def forward(self, x):
        return self.encoder(x)


class ClosedRNN(nn.RNNBase):
    def __init__(self):
        super().__init__("LSTM", 2, 3)


MISSED = ("never called: unused", "not opened: closed (ClosedRNN", "one module: encoder = again")


@pytest.mark.parametrize(("lengths", "padding"), [(None, "unknown"), ([5, 2, 1], "known"), ([5, 5, 5], "none")])
def test_one_line_says_the_layers_the_certificate_what_was_missed_and_the_padding(lengths, padding):
    recording = recorded(Model(), lengths=lengths)
    for words in (repr(recording), recording._repr_html_()):
        assert "\n" not in words
        assert all(part in words for part in (*recording, "certified: 1 call recomputed", "encoder x1", f"padding: {padding}", *MISSED))
    assert repr(recording).startswith("<Recording of encoder.l0, encoder.l0_reverse, encoder.l1, encoder.l1_reverse; certified: 1 call")


def test_coverage_and_certificate_are_one_line_each():
    recording = recorded(Model(), signals="forget_gate", layers="encoder.l1")
    for one, words in ((recording.coverage, ["encoder x1", MISSED[1], MISSED[2]]), (recording.certificate, ["partial: 1 call", "float64"])):
        assert repr(one) == f"<{type(one).__name__}: {one}>" and "\n" not in repr(one)
        assert all(word in text for word in words for text in (str(one), one._repr_html_()))
    assert "kept: forget_gate, of encoder.l1" in str(recording.certificate)
    assert "never called" not in str(recording.coverage)  # what wasn't asked for isn't missed


def test_handed_on_is_what_the_certificate_says_when_nothing_is_kept():
    recording = recorded(Model(), into=[lx.Saturation(), lx.Timescale()], signals="forget_gate")
    assert recording.certificate.kept == "nothing, handed on to Saturation, Timescale"
    for words in (repr(recording), recording._repr_html_()):
        assert "nothing, handed on to Saturation, Timescale" in words and "encoder x1" in words and MISSED[0] in words


@pytest.mark.parametrize("kind", LAYERS)
def test_calls_that_were_not_recorded_are_counted(kind):
    model, x = model_of(kind), inputs().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[0].sum(), x)
    with lx.record(model) as recording:
        torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)[0].sum().backward()
        assert torch.equal(x.grad, expected)
        thread = Thread(target=lambda: model(inputs()))
        thread.start()
        thread.join()
    assert recording.coverage.recomputed == {"": 1} and recording.coverage.elsewhere == {"": 1}
    assert "run again by checkpointing: (root) x1; called in another thread: (root) x1" in str(recording.coverage)


def test_tables_have_a_row_for_each_layer_module_and_call():
    recording = recorded(Model(), lengths=[5, 2, 1])
    assert "<tr><td>encoder.l1</td><td>lstm</td><td>3</td><td>5</td><td>3</td><td>8</td></tr>" in recording._repr_html_()
    rows = recording.coverage._repr_html_()
    assert "<tr><td>encoder</td><td>1</td><td></td></tr>" in rows and "<tr><td>unused</td><td>0</td><td>never called</td></tr>" in rows
    assert rows.count("<tr>") == 1 + 3 and "<td>closed</td><td>0</td><td>not opened: ClosedRNN" in rows
    assert "<td>encoder</td><td>0</td>" in recording.certificate._repr_html_()


def test_html_is_escaped_and_without_scripts():
    name = "<script>alert('1')</script>"
    model = nn.ModuleDict({name: model_of("gru"), f"{name}b": model_of("gru")})
    model[f"{name}c"] = model[name]
    with lx.record(model) as recording:
        model[name](inputs())
    for one in (recording, recording.coverage, recording.certificate):
        html = one._repr_html_()
        assert "<script" not in html and "&lt;script&gt;alert(&#x27;1&#x27;)" in html and html.startswith("<table>")


def test_an_empty_recording_says_so():
    recording = lx.Recording(["lstm"])
    assert (
        repr(recording)
        == "<Recording of nothing yet; uncertified: nothing was recorded; recorded nothing; never called: lstm; padding: none>"
    )
    assert recording.to_numpy() == {} and list(recording.to_xarray().children) == [] and recording.nbytes == 0
    assert "uncertified" in recording._repr_html_()
