"""The report on the bundled network: what it claims holds, on the text of the interpreter that runs this."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lstm_explain as lx
from lstm_explain.report.command import main
from lstm_explain.studies import python_source
from lstm_explain.studies.python_source import corpus

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report, which takes a minute; where one has just been made by the same code, as in .ci/run, that one."""
    if made := os.environ.get("LSTM_EXPLAIN_REPORT"):
        return Path(made)
    out = tmp_path_factory.mktemp("reports")
    assert main(["--out", str(out), "--quiet"]) == 0
    return out / "python_source-001"


@pytest.fixture(scope="module")
def sidecar(written):
    return json.loads((written / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def page(written):
    return (written / "index.html").read_text(encoding="utf-8")


def test_at_most_two_in_a_hundred_forget_gates_are_left_saturated_most_of_the_time(sidecar):
    section = sidecar["sections"]["saturation"]
    assert section["left_share_of_gate_that_keeps"] <= 0.02 and "as Karpathy, Johnson and Li (2015) found" in section["finding"]


def test_the_price_on_forgetting_stands_beside_that_figure(sidecar, page):
    assert "price_on_forgetting" in sidecar["sections"]["overview"]["about"]["card"]["training"]
    assert "trained with a price on forgetting" in page
    assert "what the network was trained for" in sidecar["sections"]["saturation"]["finding"]


def test_the_network_is_certified_on_every_call(sidecar):
    certificate = sidecar["sections"]["overview"]["certificate"]
    assert certificate["state"] == "certified" and certificate["largest_difference"] <= certificate["tolerance"]


def test_the_network_is_as_good_as_its_card_says(sidecar):
    overview = sidecar["sections"]["overview"]
    nats = overview["about"]["card"]["nats_per_character"]
    assert nats["test"] < nats["ngram"]["test"]
    # The report reads a draw of pieces.
    assert abs(overview["loss"] - nats["test"]) < 0.25


def test_cells_that_tell_a_label_are_held_beside_as_many_that_do_not(sidecar, page):
    section = sidecar["sections"]["ablation"]
    ((name, layer),) = section["layers"].items()
    assert len(section["best"]) == len(section["matched"]) == 10 and not set(section["best"]) & set(section["matched"])
    assert [unit for (unit,) in layer["units"]] == section["best"] + section["matched"]
    assert sum(layer["effects"]["shown"]) >= 10 and layer["noop"] < 1e-3 and layer["ablated_certificate"].startswith("certified")
    assert set(layer["by"]) == {section["label"]} and f"units of {name} that tell" in page
    beside = section["predictions"]
    right = [sum(a == b for a, b in zip(beside["tokens"], beside[run], strict=True)) for run in ("clean", "ablated")]
    assert right[0] > right[1]


def test_the_study_lines_up_characters_labels_and_groups():
    study = python_source.make(seed=3)
    for row in (0, 30, len(study.tokens) - 1):
        n = int(torch.as_tensor(study.lengths)[row])
        text = "".join(study.tokens[row])
        assert study.inputs[row, 0] == corpus.START_OF_FILE
        np.testing.assert_array_equal(study.inputs[row, 1:n].numpy(), corpus.encode(text)[: n - 1])
        column = 0
        for step, character in enumerate(study.tokens[row][1:n], start=1):
            column = 0 if character == "\n" else column + 1
            assert study.labels["column"][row, step] == column
    assert set(study.groups) <= {file.path for file in corpus.load().test}
    assert python_source.make(seed=4).groups != study.groups


def test_the_loss_is_that_of_the_next_character():
    study = python_source.make()
    logits = torch.zeros(2, study.inputs.shape[1], corpus.VOCABULARY)
    logits[:, :-1].scatter_(2, study.inputs[:2, 1:].unsqueeze(2), 50.0)
    losses = study.loss(logits, slice(0, 2))
    lengths = torch.as_tensor(study.lengths)
    for row in range(2):
        assert losses[row, : int(lengths[row]) - 1].max() < 1e-6


@pytest.fixture(scope="module")
def weights():
    return load_file(python_source.__path__[0] + "/weights.safetensors")


def broken(kind, weights, path):
    if kind == "truncated":
        whole = Path(python_source.__path__[0], "weights.safetensors").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "hostile header":
        path.write_bytes((2**62).to_bytes(8, "little") + b"{" * 100)
    elif kind == "pickle":
        torch.save(weights, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        save_file({name: tensor for name, tensor in weights.items() if name != "lstm.weight_ch_l1"}, path)
    elif kind == "extra":
        save_file(weights | {"lstm.weight_ci": torch.zeros(1)}, path)
    elif kind == "shape":
        save_file(weights | {"lstm.weight_ch_l1": torch.zeros(4, 192)}, path)
    elif kind == "dtype":
        save_file(weights | {"decoder.bias": weights["decoder.bias"].double()}, path)
    elif kind == "nan":
        bad = weights["lstm.weight_ch_l1"].clone()
        bad[192:195, 0] = float("nan")
        save_file(weights | {"lstm.weight_ch_l1": bad}, path)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("absent", "needed a safetensors file that can be read"),
        ("truncated", "needed a safetensors file that can be read"),
        ("hostile header", "needed a safetensors file that can be read"),
        ("pickle", "needed a safetensors file that can be read"),
        ("empty", "needed a safetensors file that can be read"),
        ("missing", "needed lstm.weight_ch_l1 in"),
        ("extra", "needed this network's weights only, got lstm.weight_ci too"),
        ("shape", r"needed lstm.weight_ch_l1 of shape \(768, 192\), torch.float32, got \(4, 192\)"),
        ("dtype", r"needed decoder.bias of shape \(99,\), torch.float32, got \(99,\), torch.float64"),
        ("nan", r"got 3 NaN or infinite values in lstm.weight_ch_l1 \(forget gate\)"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(tmp_path, weights, kind, message):
    path = tmp_path / "weights.safetensors"
    broken(kind, weights, path)
    with pytest.raises((lx.WeightsError, lx.InputError), match=message) as refused:
        python_source.make(weights=path)
    assert "\n" not in str(refused.value)


def test_without_the_librarys_sources_the_packages_own_text_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "library_root", lambda: tmp_path)
    # A few short pieces, since a whole report says of the text no more than this one.
    monkeypatch.setattr(python_source, "PIECES", 4)
    monkeypatch.setattr(python_source, "LENGTH", 256)
    corpus.load.cache_clear()
    try:
        assert main(["--out", str(tmp_path / "reports"), "--quiet"]) == 0
    finally:
        corpus.load.cache_clear()
    written = json.loads((tmp_path / "reports" / "python_source-001" / "report.json").read_text(encoding="utf-8"))
    assert "the standard library's aren't installed here" in written["sections"]["overview"]["about"]["text"]
    assert "isn't the one that the network was trained on" in (tmp_path / "reports/python_source-001/index.html").read_text(
        encoding="utf-8"
    ).replace("&#39;", "'")
