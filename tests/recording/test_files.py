"""`Recording.save` and `load`: everything comes back, what comes back keeps its equations, and a file is there whole or not at all."""

import json
import subprocess
import sys

import pytest
import torch
from cases import Case, call_of, randomise, torch_lstm
from every_kind import KINDS, Leaky, inputs, leaky, model_of, registered
from recordings import refused
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import InputError, OutputError
from lstm_explain.recording import files


@pytest.fixture(autouse=True)
def _leaky_is_known():
    with registered(Leaky, leaky):
        yield


def recorded(model, **options):
    """A call, the same sequences further on, and others that are shorter: joined along time and along batch."""
    with torch.no_grad(), lx.record(model, **options) as recording:
        recording.annotate(lengths=[5, 2, 1])
        _, state = model(inputs())
        recording.annotate(lengths=[3, 3, 3])
        model(inputs(time=3, seed=1), state)
        recording.annotate()
        model(inputs(2, 4, seed=2))
    return recording


def assert_same(found, expected):
    """Everything that a recording says, but for its calls, which are joined in a file."""
    assert list(found) == list(expected) and len(found) > 0
    for name, one in expected.items():
        twin = found[name]
        for field in ("name", "kind", "padding", "reverse", "form", "units"):
            assert getattr(twin, field) == getattr(one, field) and type(getattr(twin, field)) is type(getattr(one, field)), field
        for field in ("signals", "initial", "weights", "started"):
            assert list(getattr(twin, field)) == list(getattr(one, field)), field
            for key, tensor in getattr(one, field).items():
                assert getattr(twin, field)[key].dtype == tensor.dtype and torch.equal(getattr(twin, field)[key], tensor)
        assert torch.equal(twin.valid, one.valid) and torch.equal(twin.first_step, one.first_step)
        assert (twin.edits is None) is (one.edits is None) and torch.equal(twin.edited(), one.edited())
        assert twin.gates == one.gates and twin.complete == one.complete and twin.residual() == one.residual()
    assert found.certificate == expected.certificate and str(found.certificate) == str(expected.certificate)
    assert found.coverage == expected.coverage and str(found.coverage) == str(expected.coverage)
    assert found.nbytes == sum(signal.nbytes for one in expected.values() for signal in one.signals.values())
    assert repr(found) == repr(expected) and found._repr_html_() == expected._repr_html_()


OPTIONS = [{}, {"units": [2, 0]}, {"dtype": torch.float16}, {"dtype": torch.bfloat16}, {"signals": "hidden_state"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_comes_back_as_it_was(kind, options, tmp_path):
    recording = recorded(model_of(kind), **options)
    recording.save(tmp_path / "a.recording")
    loaded = lx.load(str(tmp_path / "a.recording"))
    assert_same(loaded, recording)
    assert {name: len(calls) for name, calls in loaded.calls.items()} == dict.fromkeys(recording, 1)
    loaded.save(tmp_path / "b.recording")
    assert_same(lx.load(tmp_path / "b.recording"), recording)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.recording", "b.recording"]


def test_analyses_find_the_same_in_a_file(tmp_path):
    recording = recorded(model_of("peephole"))
    recording.save(tmp_path / "a")
    loaded = lx.load(tmp_path / "a")
    for function in (lx.saturation, lx.timescale):
        assert function(loaded).to_dict() == function(recording).to_dict()


def test_edited_states_and_what_was_missed_come_back(tmp_path):
    model = nn.ModuleDict({"cell": nn.GRUCell(2, 3), "unused": nn.LSTM(2, 3), "scripted": nn.LSTM(2, 3).double()}).double()
    model["again"] = model["cell"]

    class Resets(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            h = None
            for step in x.unbind(1):
                h = self.parts["cell"](step, h if h is None else h * torch.tensor([[1.0], [0.5], [0.0]]).double())

    with lx.record(resets := Resets()) as recording:
        resets(inputs())
    recording.save(tmp_path / "a")
    loaded = lx.load(tmp_path / "a")
    assert_same(loaded, recording)
    assert (
        loaded["parts.cell"].started and loaded["parts.cell"].edited().any() and loaded.coverage.aliases == {"parts.cell": ("parts.again",)}
    )


def written(tmp_path, model=None):
    path = tmp_path / "a"
    recorded(model or model_of("lstm")).save(path)
    return path


def tampered(path, tensors_by=lambda tensors: None, about_by=lambda about: None):
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    about = json.loads(metadata["about"])
    tensors_by(tensors)
    about_by(about)
    save_file(tensors, path, metadata | {"about": json.dumps(about)})
    return path


def swap(tensors, one="0.signals.input_gate", other="0.signals.forget_gate"):
    tensors[one], tensors[other] = tensors[other], tensors[one]


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda tensors: swap(tensors, "3.signals.cell_state", "3.signals.hidden_state"),
        lambda tensors: swap(tensors, "0.signals.forget_gate", "2.signals.forget_gate"),
        lambda tensors: tensors["1.signals.cell_state"][0, 3].add_(1e-6),
        lambda tensors: tensors["1.signals.hidden_state"][0, 0, 0].fill_(float("nan")),
        lambda tensors: tensors["0.signals.cell_state"].fill_(float("inf")),
        lambda tensors: tensors["0.initial.cell_state"].add_(0.1),
    ],
    ids=["gates", "states", "layers", "one_value", "nan", "infinite", "initial"],
)
def test_a_file_that_breaks_its_equations_is_refused(change, tmp_path):
    path = tampered(written(tmp_path), change)
    assert "signals that satisfy their equations, got " in refused(InputError, lambda: lx.load(path))


@pytest.mark.parametrize(
    ("tensors_by", "about_by"),
    [
        (lambda tensors: tensors.pop("0.signals.forget_gate"), lambda about: None),
        (lambda tensors: tensors.pop("0.initial.cell_state"), lambda about: None),
        (lambda tensors: tensors.pop("1.valid"), lambda about: None),
        (lambda tensors: tensors.update({"0.first_step": tensors["0.first_step"] + 99}), lambda about: None),
        (lambda tensors: tensors.update({"0.first_step": tensors["0.first_step"][:1]}), lambda about: None),
        (lambda tensors: tensors.update({"0.initial.cell_state": torch.zeros(1, 7)}), lambda about: None),
        (lambda tensors: tensors.update({"0.valid": tensors["0.valid"].double()}), lambda about: None),
        (lambda tensors: tensors.update({"0.signals.cell_state": torch.zeros(1)}), lambda about: None),
        (lambda tensors: tensors.update({"0.signals.forget_gate": tensors["0.signals.forget_gate"].long()}), lambda about: None),
        (lambda tensors: None, lambda about: about.pop("coverage")),
        (lambda tensors: None, lambda about: about.update(layers=3)),
        (lambda tensors: None, lambda about: about.update(version=2)),
        (lambda tensors: None, lambda about: about["layers"][0].update(kind="gru")),
        (lambda tensors: None, lambda about: about["checks"][0].pop("tolerance")),
    ],
)
def test_a_file_that_lacks_something_is_refused(tensors_by, about_by, tmp_path):
    path = tampered(written(tmp_path), tensors_by, about_by)
    refused(InputError, lambda: lx.load(path))


@pytest.mark.parametrize("step", [-1, 5])
def test_a_first_step_that_is_not_there_is_refused_also_where_the_equations_would_hold(step, tmp_path):
    with lx.record(model := model_of("lstm")) as recording:
        model(inputs())
    recording.save(tmp_path / "a")
    path = tampered(tmp_path / "a", lambda tensors: tensors["0.first_step"].fill_(step))
    assert "the steps of l0 are not those of its signals" in refused(InputError, lambda: lx.load(path))


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "which can't be read" in refused(InputError, lambda: lx.load(path))


def test_what_is_not_a_recording_is_refused(tmp_path):
    assert "isn't there" in refused(InputError, lambda: lx.load(tmp_path / "missing"))
    assert "isn't a file" in refused(InputError, lambda: lx.load(tmp_path))
    (tmp_path / "text").write_text("a recording" * 99, encoding="utf-8")
    assert "can't be read" in refused(InputError, lambda: lx.load(tmp_path / "text"))
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights")
    assert "something else" in refused(InputError, lambda: lx.load(tmp_path / "weights"))
    save_file({"weight": torch.zeros(2)}, tmp_path / "nearly", {"format": "lstm_explain.recording", "about": "no JSON"})
    assert "damaged" in refused(InputError, lambda: lx.load(tmp_path / "nearly"))


def test_an_empty_recording_is_not_saved(tmp_path):
    refused(InputError, lambda: lx.Recording(["lstm"]).save(tmp_path / "a"))
    with lx.record(model := model_of("lstm"), into=[lx.Saturation()]) as recording:
        model(inputs())
    refused(InputError, lambda: recording.save(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/a", ".", "file/a", "x" * 300])
def test_a_place_that_can_not_be_written_to_is_refused(place, tmp_path):
    (inside := tmp_path / "inside").mkdir()
    (inside / "file").write_text("", encoding="utf-8")
    recording = recorded(model_of("lstm"))
    message = refused(OutputError, lambda: recording.save(inside / place))
    assert message.startswith("needed a file that can be written, got ")
    assert list(inside.iterdir()) == [inside / "file"] and list(tmp_path.iterdir()) == [inside]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_as_it_was(error, tmp_path, monkeypatch):
    path, recording = written(tmp_path), recorded(model_of("gru"))
    before = path.read_bytes()

    def half(tensors, path, metadata):
        with open(path, "wb") as file:
            file.write(b"half of it")
        raise error

    monkeypatch.setattr(files, "save_file", half)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        recording.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    recording.save(path)
    assert lx.load(path)["l0"].kind == "gru"


def test_a_file_loads_in_another_process_where_nothing_is_registered(tmp_path):
    path = written(tmp_path, model_of("leaky"))
    code = f"import lstm_explain as lx; one = lx.load({str(path)!r})['cell']; print(one.kind, one.gates, one.complete, one.memory)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "Leaky ('forget_gate',) True hidden_state"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_recordings_in_half_precision_load(dtype, tmp_path):
    model = randomise(torch_lstm(Case("batch_first", hidden_size=64, proj_size=32)))
    with torch.no_grad(), lx.record(model, dtype=dtype) as recording:
        model(10 * call_of(Case("batch_first", (400,) * 4))[0])
    recording.save(tmp_path / "a")
    assert_same(lx.load(tmp_path / "a"), recording)
    refused(InputError, lambda: lx.load(tampered(tmp_path / "a", swap)))
