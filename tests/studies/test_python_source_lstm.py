"""The two bundled networks: each is what its card says, certified, beside the other, and neither passes for it."""

import hashlib
import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import scalar
import torch
from torch import nn

import lstm_explain as lx
from lstm_explain.report import overview, saturation, timescale
from lstm_explain.report.command import main
from lstm_explain.report.measure import Clock, measure
from lstm_explain.studies import STUDIES, python_source
from lstm_explain.studies.python_source import corpus, train
from lstm_explain.studies.python_source.model import SUFFIX

NETWORKS = tuple(SUFFIX)
OTHER = {"peephole": "lstm", "lstm": "peephole"}


@pytest.fixture(scope="module")
def whole():
    return python_source.make_lstm(seed=0)


@pytest.fixture(scope="module")
def study(whole):
    """A few short pieces of the stock network's study."""
    few, steps = slice(0, 6), 300
    return replace(
        whole,
        inputs=whole.inputs[few, :steps],
        lengths=[min(length, steps) for length in whole.lengths[few]],
        labels={},
        events={},
        groups=whole.groups[few],
        tokens=None,
        places=(),
    )


@pytest.fixture(scope="module")
def sections(study):
    measured = measure(study, torch.device("cpu"), Clock(), seed=0, quiet=True)
    return {room.__name__.rpartition(".")[2]: room.section(study, measured) for room in (overview, saturation, timescale)}


def test_both_are_studies_by_name(capsys):
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(STUDIES) == [*(f"python_source{SUFFIX[network]}" for network in NETWORKS), "planted"]


def test_the_study_is_the_stock_layer_s_own_on_the_text_of_the_other(whole):
    assert type(whole.model.lstm) is nn.LSTM and not whole.model.training
    assert whole.name == "python_source_lstm" and "torch.nn.LSTM" in whole.about["what"]
    other = python_source.make(seed=0)
    assert torch.equal(other.inputs, whole.inputs) and other.groups == whole.groups
    assert all(np.array_equal(other.labels[name], label) for name, label in whole.labels.items())
    # The places are those at which this network itself is sure enough.
    assert whole.places
    for place in whole.places:
        step, came = place.target
        with torch.no_grad():
            chances = whole.model(whole.inputs[place.sequence : place.sequence + 1, : step + 1])[0, -1].softmax(-1)
        assert chances[came] >= 0.5 - 1e-5


def test_the_networks_differ_in_their_peepholes_alone():
    shapes = [{name: tensor.shape for name, tensor in python_source.load_model(None, of).state_dict().items()} for of in NETWORKS]
    assert {name for name in shapes[0] if "weight_ch" not in name} == set(shapes[1])
    assert all(shapes[0][name] == shape for name, shape in shapes[1].items())


def test_its_certificate_is_certified(sections):
    numbers = sections["overview"].numbers
    assert numbers["certificate"]["state"] == "certified"
    assert numbers["certificate"]["largest_difference"] <= numbers["certificate"]["tolerance"]
    assert numbers["layers"] == {"lstm.l0": 192, "lstm.l1": 192} and numbers["coverage"]["not_opened"] == {}


def test_its_report_presumes_no_peepholes(sections):
    said = " ".join(
        part
        for section in sections.values()
        for part in (section.finding, section.method, section.not_shown, *(picture.alt for picture in section.pictures))
    )
    beside = python_source.card("lstm")["nats_per_character"]["other"]["model"]
    assert said.count("eephole") == beside.count("eephole") == said.count(beside) == 1
    characters = [python_source.card(network)["training"]["characters"] for network in NETWORKS]
    unequal = "was trained on {:,} characters, and this one on {:,}".format(*characters)
    assert (unequal in sections["overview"].finding) == (characters[0] != characters[1])
    assert "timescale_retention" not in [picture.name for picture in sections["timescale"].pictures]
    assert sections["timescale"].numbers["retention_minus_forget"] == {"mean": 0.0, "largest": 0.0}
    # The price on forgetting was on this one too.
    assert "price on forgetting" in sections["saturation"].not_shown and "trained for" in sections["saturation"].finding


def test_its_gates_and_predictions_are_those_of_the_equations():
    model = python_source.load_model(None, "lstm").double()
    symbols = torch.from_numpy(np.concatenate([[corpus.START_OF_FILE], corpus.encode("def f(x):\n    return '")])).long()
    with torch.no_grad(), lx.record(model) as recording:
        logits = model(symbols[None])[0]
    zeros = np.zeros((2, 192))
    signals, output, *_ = scalar.run_stack(model.lstm, model.embedding.weight.detach()[symbols].numpy(), zeros, zeros)
    for layer, known in signals.items():
        for name, values in known.items():
            np.testing.assert_allclose(getattr(recording[f"lstm.{layer}"], name)[0].numpy(), values, rtol=0, atol=1e-12)
    expected = output @ model.decoder.weight.detach().numpy().T + model.decoder.bias.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=1e-11)  # 192 products of up to ten in each


def test_the_stock_layer_and_the_one_without_peepholes_that_trained_it_are_one():
    lstm = python_source.load_model(None, "lstm").lstm
    x = torch.randn(4, 60, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = lx.PeepholeLSTM.from_lstm(lstm, peephole=None)
        (output, (h, c)), (expected, (h_n, c_n)) = ours(x), lstm(x)
        torch.testing.assert_close((output, h), (expected, h_n))
        # Cells that count gather what rounding does at each of the 60 steps.
        torch.testing.assert_close(c, c_n, rtol=60 * torch.finfo(torch.float32).eps, atol=1e-5)
        torch.testing.assert_close(ours.double()(x.double()), lstm.double()(x.double()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_its_loss_on_the_first_of_the_held_out_text_is_the_card_s(network):
    card = python_source.card(network)
    if card["text"]["sha256"]["validation"] != corpus.load().digest("validation"):
        pytest.skip("the library here isn't the one that the network was trained on")
    first = card["nats_per_character"]["first"]
    found = train.nats_per_character(python_source.load_model(None, network), corpus.load().validation, at_most=first["pieces"])
    assert found == pytest.approx(first["validation"], abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_card_is_of_the_weights_beside_it_and_knows_the_other_network(network):
    card, other = python_source.card(network), python_source.card(OTHER[network])
    weights = (files(python_source) / f"weights{SUFFIX[network]}.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(weights).hexdigest()
    assert card["parameters"] == sum(parameter.numel() for parameter in python_source.load_model(None, network).parameters())
    beside, nats = card["nats_per_character"]["other"], other["nats_per_character"]
    assert beside == {
        "model": other["model"],
        "characters": other["training"]["characters"],
        "validation": nats["validation"],
        "test": nats["test"],
    }
    assert card["text"] == other["text"] and all(card["nats_per_character"][name] == nats[name] for name in ("ngram", "lzma"))
    assert card["nats_per_character"]["test"] < card["nats_per_character"]["ngram"]["test"]


def test_beside_a_run_on_another_text_the_other_network_s_figures_do_not_stand():
    text = corpus.Corpus(*(corpus.load()[side][:1] for side in range(3)), {}, "three files")
    assert train.other("lstm", text) == {"other": None, "other_none": "the other bundled network was trained on another text"}
    assert json.dumps(train.other("lstm", corpus.load()))


@pytest.mark.parametrize(
    "network, message",
    [
        ("peephole", "needed lstm.weight_ch_l0 in .*weights_lstm.safetensors"),
        ("lstm", "needed this network's weights only, got lstm.weight_ch_l0, lstm.weight_ch_l1 too in .*weights.safetensors"),
    ],
)
def test_the_weights_of_the_one_are_refused_by_the_other(network, message):
    path = files(python_source) / f"weights{SUFFIX[OTHER[network]]}.safetensors"
    with pytest.raises(lx.WeightsError, match=message) as refused:
        python_source.make(weights=path, recurrent=network)
    assert "\n" not in str(refused.value)
