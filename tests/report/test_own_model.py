"""A model of one's own, from files: what becomes of them, and what is said where they don't fit."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lstm_explain as lx
from lstm_explain.report.command import main
from lstm_explain.report.from_files import Files, study_of
from lstm_explain.report.weights import load_weights

MODELS = Path(__file__).parents[1] / "small_models.py"
FORECASTER = ["--model", f"{MODELS}:forecaster", "--inputs", "x.npy"]
X = np.arange(2 * 5 * 2, dtype=np.float32).reshape(2, 5, 2) / 10


@pytest.fixture
def study(tmp_path):
    """A study made of files in a directory of its own."""

    def study(inputs, model="forecaster", **asked):
        paths = {name: tmp_path / asked[name] for name in ("weights", "vocabulary") if name in asked}
        beside = {
            name: str(tmp_path / asked[name]) if "." in asked[name] else asked[name] for name in ("lengths", "groups") if name in asked
        }
        labels = [str(tmp_path / one) if "." in one else one for one in asked.get("labels", ())]
        rest = {name: asked[name] for name in ("arguments", "window", "features") if name in asked}
        return study_of(Files(f"{MODELS}:{model}", tmp_path / inputs, labels=labels, **paths, **beside, **rest))

    return study


def test_arrays_of_one_file(study, tmp_path):
    y = np.array([[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    np.savez(tmp_path / "data.npz", x=X.astype(np.float64), n=[5, 3], y=y, patient=["a", "b"])
    made = study("data.npz", lengths="n", labels=["y"], groups="patient")
    assert made.inputs.dtype == torch.float32 and np.array_equal(made.inputs.numpy(), X)
    assert (made.lengths, list(made.groups), made.steps) == ([5, 3], ["a", "b"], 8)
    assert np.array_equal(made.labels["y"], y) and "probing" not in made.about["caveats"]
    assert [(place.sequence, place.target) for place in made.places] == [(0, (4, 0)), (1, (2, 0))]


def test_arrays_of_their_own_files(study, tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "n.npy", [5, 3])
    save_file({"a": torch.ones(2, 5), "b": torch.zeros(2, 5, dtype=torch.int64)}, tmp_path / "y.safetensors")
    (tmp_path / "g.csv").write_text("patient\n7\n7\n", encoding="utf-8")
    made = study("x.npy", lengths="n.npy", labels=["y.safetensors"], groups="g.csv")
    assert list(made.labels) == ["a", "b"] and made.labels["b"].dtype == np.int64 and made.groups == [7, 7]


def test_a_label_of_each_sequence_stands_at_each_step_and_the_page_says_so(study, tmp_path):
    np.savez(tmp_path / "data.npz", inputs=X, which=["cat", "dog"])
    made = study("data.npz", model="classifier", labels=["which"])
    assert made.labels["which"].tolist() == [["cat"] * 5, ["dog"] * 5]
    assert made.about["caveats"]["probing"] == "Of which there is one value for each sequence, which stands at each of its steps."
    assert [place.target for place in made.places] == [(0,), (0,)]


def test_symbols(study, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 3, 1], [2, 2, 0]], dtype=np.int16))
    assert study("x.npy", model="speller").inputs.dtype == torch.int64


@pytest.mark.parametrize("header", [True, False])
def test_a_table_is_one_series_and_a_window_cuts_it(study, tmp_path, header):
    rows = [f"{n},{n / 2}" for n in range(7)]
    (tmp_path / "x.csv").write_text("\n".join(["a,b"] * header + rows) + "\n\n", encoding="utf-8")
    whole, cut = study("x.csv"), study("x.csv", window=3)
    assert whole.inputs.shape == (1, 7, 2) and whole.feature_names == (["a", "b"] if header else None)
    assert cut.inputs.shape == (3, 3, 2) and cut.lengths == [3, 3, 1]
    assert cut.inputs[1].tolist() == [[3.0, 1.5], [4.0, 2.0], [5.0, 2.5]] and not cut.inputs[2, 1:].any()


def test_a_table_says_which_sequence_a_row_belongs_to(study, tmp_path):
    lines = ["sequence,x,y,wet,who", "s1,1,2,0,ann", "s1,3,4,,ann", "s1,5,6,1,ann", "s2,7,8,1,bob", "s2,9,10,0,bob"]
    (tmp_path / "x.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    made = study("x.csv", labels=["wet"], groups="who")
    assert made.inputs.tolist() == [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [0, 0]]]
    assert (made.lengths, made.feature_names, made.groups) == ([3, 2], ["x", "y"], ["ann", "bob"])
    # An empty cell of a label is where it isn't defined.
    assert made.labels["wet"].tolist()[0] == [0, -1, 1] and made.labels["wet"].tolist()[1][:2] == [1, 0]
    windowed = study("x.csv", labels=["wet"], groups="who", window=2)
    assert windowed.lengths == [2, 1, 2] and windowed.groups == ["ann", "ann", "bob"]


def test_a_table_may_hold_what_the_model_does_not_read(study, tmp_path):
    (tmp_path / "x.csv").write_text("date,b,a,wet\n1 May,1,2,0\n2 May,3,4,1\n", encoding="utf-8")
    made = study("x.csv", features=["a", "b"], labels=["wet"])
    assert made.inputs.tolist() == [[[2, 1], [4, 3]]] and made.feature_names == ["a", "b"] and made.labels["wet"].tolist() == [[0, 1]]


def test_one_series_of_numbers_is_features_by_step(study, tmp_path):
    np.save(tmp_path / "x.npy", X[0])
    np.save(tmp_path / "y.npy", np.arange(5))
    made = study("x.npy", labels=["y.npy"], window=4)
    assert made.inputs.shape == (2, 4, 2) and made.lengths == [4, 1] and made.labels["y"][0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("vocabulary", [["a", "b", "\n", "é"], {"a": 0, "b": 1, "\n": 2, "é": 3, "<pad>": 0}])
def test_a_text_is_its_characters(study, tmp_path, vocabulary):
    (tmp_path / "v.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "x.txt").write_bytes("ab\r\nébba".encode())
    made = study("x.txt", model="speller", vocabulary="v.json", window=4)
    assert made.inputs.tolist() == [[0, 1, 2, 3], [1, 1, 0, 0]] and made.lengths == [4, 3]
    assert made.tokens == [["a", "b", "\n", "é"], ["b", "b", "a"]]


def weights_like(model, tmp_path, form):
    """The weights of a model in a file of one form."""
    state, path = model.state_dict(), tmp_path / "w"
    torch.manual_seed(1)
    state = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    if form == "safetensors":
        save_file(state, path)
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}, path)
    elif form == "prefixed":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return state, path


@pytest.mark.parametrize("form", ["safetensors", "torch.save", "legacy", "checkpoint", "prefixed"])
def test_weights_are_read_by_what_the_file_is(tmp_path, form):
    model = torch.nn.LSTM(2, 3)
    state, path = weights_like(model, tmp_path, form)
    load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_tied_weights_are_there_once(tmp_path):
    from small_models import Speller

    model, other = Speller(4), Speller(4)
    save_file({name: tensor for name, tensor in other.state_dict().items() if name != "head.weight"}, tmp_path / "w")
    load_weights(model, tmp_path / "w")
    assert torch.equal(model.head.weight, other.embedding.weight)


def state_of_forecaster(**changes):
    from small_models import forecaster

    return {name: tensor for name, tensor in (forecaster().state_dict() | changes).items() if tensor is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"head.bias": None, "gru.bias_hh_l0": None},
            r"the 6 tensors of Forecaster in .*: 2 missing \(gru.bias_hh_l0, head.bias\)$",
        ),
        ({"decoder.x": torch.zeros(1)}, r"got 7: 1 unexpected \(decoder.x\)$"),
        (
            {"head.weight": torch.zeros(2, 3), "head.bias": None, "a": torch.zeros(1)},
            r"1 missing \(head.bias\); 1 unexpected \(a\); 1 of another shape \(head.weight \(2, 3\) instead of \(1, 3\)\)$",
        ),
        ({f"x{n}": torch.zeros(1) for n in range(5)}, r"5 unexpected \(x0, x1, x2 and 2 more\)$"),
    ],
)
def test_weights_that_do_not_fit_are_named(study, tmp_path, changes, message):
    np.save(tmp_path / "x.npy", X)
    save_file(state_of_forecaster(**changes), tmp_path / "w.safetensors")
    with pytest.raises(lx.WeightsError, match=message):
        study("x.npy", weights="w.safetensors")


def test_weights_that_are_not_finite_are_refused_by_gate(study, tmp_path):
    np.save(tmp_path / "x.npy", X)
    save_file(state_of_forecaster(**{"gru.bias_hh_l0": torch.full((9,), torch.nan)}), tmp_path / "w.safetensors")
    with pytest.raises(lx.InputError, match=r"9 NaN or infinite values in gru.bias_hh_l0 \(reset gate, update gate, candidate\)"):
        study("x.npy", weights="w.safetensors")


class Payload:
    """Leaves a mark where a file that holds it is loaded as a pickle."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile(kind, path, mark):
    """A file that runs code in whoever loads it carelessly."""
    if kind == "zip":
        torch.save({"w": Payload(mark)}, path)
    elif kind == "legacy":
        torch.save({"w": Payload(mark)}, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    elif kind == "module":
        torch.save(torch.nn.LSTM(2, 3), path)
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    elif kind == "pt2":
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path.with_suffix(".pt2"))
        path.with_suffix(".pt2").rename(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("data/sample_inputs/model.pt", pickle.dumps(Payload(mark)))
    elif kind == "package":
        with torch.package.PackageExporter(path) as exporter:
            exporter.save_pickle("model", "model.pkl", {"w": 1})
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "hello")


KINDS = {
    "zip": "got a pickle that names ",
    "legacy": "got a pickle that names ",
    "pickle": "which is damaged or something else",
    "module": "got a pickle that names torch.nn.modules.rnn.LSTM, which could run code",
    "torchscript": "got a TorchScript archive, which runs code on loading",
    "pt2": "got an exported program",
    "package": "got a torch.package archive",
    "other zip": "got an archive of something else",
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_would_run_code_is_refused_by_what_is_in_it(tmp_path, kind, suffix):
    path, mark = (tmp_path / "w").with_suffix(suffix), tmp_path / "ran"
    hostile(kind, path, mark)
    with pytest.raises(lx.WeightsError) as refused:
        load_weights(torch.nn.LSTM(2, 3), path)
    said = str(refused.value)
    assert str(path) in said and KINDS[kind] in said and "\n" not in said
    assert "save_file(model.state_dict()" in said and "weights_only" not in said
    assert not mark.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "got neither"),
        (b"weights = 3\n", "got neither"),
        (b"\x80\x02garbage", "damaged or something else"),
        (b"PK\x03\x04garbage", "damaged or something else"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{", "damaged or something else"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "6 missing"),
    ],
)
def test_a_damaged_file_of_weights_is_one_line(tmp_path, content, message):
    from small_models import forecaster

    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(lx.WeightsError, match=message) as refused:
        load_weights(forecaster(), tmp_path / "w.pt")
    assert "\n" not in str(refused.value) and "weights_only" not in str(refused.value)


@pytest.mark.parametrize(
    "saved, message",
    [
        ({"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(1)}}, "needed one state dict, tensors by name, in .*, got 2 of them"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "got a dict without one"),
        ({}, "got a dict without one"),
        ([torch.zeros(1)], "got a list without one"),
    ],
)
def test_a_checkpoint_without_one_state_dict_is_one_line(tmp_path, saved, message):
    torch.save(saved, tmp_path / "w.pt")
    with pytest.raises(lx.WeightsError, match=message):
        load_weights(torch.nn.LSTM(2, 3), tmp_path / "w.pt")


@pytest.mark.parametrize("form", ["safetensors", "torch.save", "legacy"])
def test_weights_that_are_cut_short_anywhere_are_one_line(tmp_path, form):
    model = torch.nn.LSTM(2, 3)
    whole = weights_like(model, tmp_path, form)[1].read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(lx.WeightsError) as refused:
            load_weights(model, tmp_path / "cut")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_of_objects_is_refused_and_not_run(study, tmp_path, suffix):
    mark = tmp_path / "ran"
    array = np.array([Payload(mark)], dtype=object)
    (np.savez if suffix == "npz" else np.save)(tmp_path / f"x.{suffix}", array)
    with pytest.raises(lx.InputError, match="needed numbers or text in .*, got Python objects"):
        study(f"x.{suffix}")
    assert not mark.exists()


def test_a_pickle_called_npy_is_refused_and_not_run(study, tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(lx.InputError, match="x.npy"):
        study("x.npy")
    assert not mark.exists()


def csv_file(text):
    return lambda directory: (directory / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())


def array_file(array):
    return lambda directory: np.save(directory / "x.npy", array)


@pytest.mark.parametrize(
    "write, asked, message",
    [
        (csv_file("a,b\n1,2\n3,\n"), {}, "needed a finite number in row 3, column 'b' of .*, got an empty cell"),
        (csv_file("1,2\n,4\n"), {}, "in row 2, column 1 of .*, got an empty cell"),
        (csv_file(",2\n3,4\n"), {}, "in row 1, column 1 of .*, got an empty cell"),
        (csv_file("a,b\n1,nan\n"), {}, "row 2, column 'b' of .*, got 'nan'"),
        (csv_file("a,b\n1,inf\n"), {}, "row 2, column 'b' of .*, got 'inf'"),
        (csv_file("date,b\n1 May,2\n"), {}, "row 2, column 'date' of .*, got '1 May': fill it or leave it out"),
        (csv_file("a,b\n1,2\n3\n"), {}, "needed 2 cells in every row of .*, got 1 in row 3, column 2 on"),
        (csv_file("a,b\n1,2\n3,4,5\n"), {}, "needed 2 cells in every row of .*, got 3 in row 3"),
        (csv_file("a,b\n1,2\n\n3,4\n"), {}, "needed 2 cells in every row of .*, got 0 in row 3"),
        (csv_file("a,a\n1,2\n"), {}, "got 'a' twice"),
        (csv_file(",a\n0,2\n"), {}, "needed a name for column 1 of .*index=False"),
        (csv_file("a,b\n"), {}, "needed rows of numbers in .*, got none"),
        (csv_file(""), {}, "needed rows of numbers in .*, got none"),
        (csv_file('a,b\n1,"2\n'), {}, "needed comma-separated values"),
        (csv_file(b"a,b\n1,\xff\n"), {}, "needed UTF-8 text in .*, got byte 0xff at offset 6"),
        (csv_file("sequence,a,b\n1,2,3\n2,2,3\n1,4,5\n"), {}, "needed the rows of a sequence together in .*, got 1 again in row 4"),
        (csv_file("a,g\n1,2\n2,3\n"), {"groups": "g"}, "needed one group for each sequence, got several in sequence 0: 2, 3"),
        (csv_file("a,b\n1,2\n"), {"labels": ["c"]}, "or an array or column of .*, which has a, b, got 'c'"),
        (csv_file("a,b\n1,2\n"), {"labels": ["a", "b"]}, "needed a column of numbers in .*, got a, b"),
        (csv_file("a,b\n1,2\n"), {"features": ["a", "c"]}, "needed features among the columns of .*, a, b, got 'c'"),
        (csv_file("1,2\n"), {"features": ["a"]}, "needed features among the columns of .*, no names, got 'a'"),
        (array_file(X), {"features": ["a"]}, "needed inputs in a .csv with --features"),
        (csv_file("a,b\n1,2\n"), {"lengths": "b"}, "needed no --lengths with"),
        (array_file(X), {"window": 3}, r"needed one series to cut by --window, got sequences of shape \(2, 5, 2\)"),
        (array_file(np.array(["a", "b"])), {}, "needed numbers as inputs"),
        (array_file(np.array(3.0)), {}, "got a number"),
        (array_file(X[:0]), {}, "needed at least one step"),
        (array_file(X), {"labels": ["nowhere.npy"]}, "nowhere.npy, which can't be read: No such file or directory"),
    ],
)
def test_bad_files_are_one_line(study, tmp_path, write, asked, message):
    write(tmp_path)
    name = next(path.name for path in tmp_path.iterdir())
    with pytest.raises(lx.InputError, match=message) as refused:
        study(name, **asked)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"lengths": "n"}, r"needed lengths from 1 to 5, got 9 for sequence 1"),
        ({"lengths": "half"}, "needed lengths as 2 whole numbers"),
        ({"labels": ["odd"]}, r"needed label 'odd' of shape \(2, 5\) or \(2,\), got \(2, 4\) in odd"),
        ({"groups": "odd"}, r"needed groups of shape \(2,\), got \(2, 4\)"),
        ({}, "needed an array 'inputs' in .*, or only one, got x, n, half, odd"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line(study, tmp_path, asked, message):
    arrays = {"x" if not asked else "inputs": X, "n": [5, 9], "half": [5.0, 4.5], "odd": np.zeros((2, 4))}
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(lx.InputError, match=message):
        study("data.npz", **asked)


@pytest.mark.parametrize(
    "text, vocabulary, message",
    [
        (b"ab\xe9", '["a", "b"]', "needed UTF-8 text in .*, got byte 0xe9 at offset 2"),
        (b"ab\nbc", '["a", "b", "\\n"]', "got 'c' in line 2, column 2 of"),
        (b"", '["a"]', "needed text in .*, got none"),
        (b"a", '["a", "a"]', "needed a list of different characters"),
        (b"a", '{"a": "os.system"}', "needed a list of different characters, or an object with the number of each"),
        (b"a", '{"a": true}', "needed a list of different characters"),
        (b"a", "3", "needed a list of different characters"),
        (b"a", "[", "needed JSON in"),
        (b"a", None, "needed --vocabulary FILE.json with a .txt"),
    ],
)
def test_bad_texts_are_one_line(study, tmp_path, text, vocabulary, message):
    (tmp_path / "x.txt").write_bytes(text)
    if vocabulary is not None:
        (tmp_path / "v.json").write_text(vocabulary, encoding="utf-8")
    with pytest.raises(lx.InputError, match=message):
        study("x.txt", model="speller", **({} if vocabulary is None else {"vocabulary": "v.json"}))


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--model", f"{MODELS}:forecaster"], 2, "needed --inputs beside it"),
        (["--weights", "w.pt"], 2, "argument --weights: needed --model beside it"),
        ([*FORECASTER, "--study", "planted"], 2, "not allowed with argument --study"),
        (["--model", "forecaster", "--inputs", "x.npy"], 2, "needed FILE.py:FACTORY or package.module:FACTORY, got 'forecaster'"),
        ([*FORECASTER, "--model-arg", "units"], 2, "needed NAME=VALUE, got 'units'"),
        (
            [*FORECASTER, "--model-arg", "units=[3]"],
            2,
            "needed a number, true, false, null or text",
        ),
        ([*FORECASTER, "--window", "0"], 2, "needed a whole number of steps"),
        ([*FORECASTER, "--model-arg", "unit=3"], 3, "TypeError: forecaster() got an unexpected"),
        (["--model", f"{MODELS}:absent", "--inputs", "x.npy"], 3, "needed a function absent"),
        (["--model", f"{MODELS}:not_a_model", "--inputs", "x.npy"], 3, "needed a torch.nn.Module from"),
        (["--model", f"{MODELS}:leaves", "--inputs", "x.npy"], 3, "it ended Python"),
        (
            [*FORECASTER, "--weights", "no.pt"],
            3,
            "can't be read: No such file or directory",
        ),
        (["--model", f"{MODELS}:forecaster", "--inputs", "."], 3, "needed inputs in a file .npy"),
        (["--model", f"{MODELS}:forecaster", "--inputs", "no.npy"], 3, "can't be read: No such file or directory"),
    ],
)
def test_the_command_says_it_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, options, code, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    try:
        got = main([*options, "--quiet"])
    except SystemExit as ended:
        got = ended.code
    said = capsys.readouterr()
    assert got == code and message in said.err and said.out == ""
    assert code == 2 or (said.err.count("\n") == 1 and said.err.startswith("error: "))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "x.npy"]


def test_the_command_reports_on_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", inputs=rng.normal(size=(6, 9, 2)), y=rng.integers(0, 2, size=6), who=list("aabbcc"))
    save_file(state_of_forecaster(), tmp_path / "w.safetensors")
    options = ["--model", f"{MODELS}:forecaster", "--weights", str(tmp_path / "w.safetensors"), "--inputs", str(tmp_path / "data.npz")]
    options += ["--labels", "y", "--groups", "who", "--model-arg", "units=3", "--out", str(tmp_path / "r"), "--quiet"]
    assert main(options) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "r" / "small_models-001" / "index.html"
    text, facts = page.read_text(encoding="utf-8"), json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert "Forecaster of small_models.py:forecaster" in text and "6 sequences from 3 groups of data.npz" in text
    assert "Of y there is one value for each sequence" in text
    # The command is shown as it was typed; nothing else says where files were.
    assert str(tmp_path) in facts.pop("again") and str(tmp_path) not in json.dumps(facts)
    assert facts["sections"]["overview"]["about"]["weights"] == "w.safetensors"
