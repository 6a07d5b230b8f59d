"""`train --recurrent lstm`: the stock network learns by our kernels what PyTorch's own layer and autograd would have it learn."""

import copy
import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.studies.python_source import baselines, model, train
from lstm_explain.studies.python_source.corpus import Corpus, SourceFile

STEPS = 12
TEXT = "def f(x):\n    return [x, 'a'] # b\n" * 3
CORPUS = Corpus(*(tuple(SourceFile(f"{name}.py", name + TEXT) for name in names) for names in ("ab", "c", "d")), {}, "a test")
EMBEDDING, HIDDEN = 4, 6


@pytest.fixture(autouse=True, scope="module")
def small():
    """A tiny network on a tiny corpus; the signal's handler is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"BATCH": 2, "TIME": 8, "EVERY": 5, "PIECE": 16}.items():
            patch.setattr(train, name, value)
        patch.setattr(model, "EMBEDDING", EMBEDDING)
        for home in (model, train):
            patch.setattr(home, "HIDDEN", HIDDEN)
        patch.setattr(train, "load", lambda: CORPUS)
        # It sets up hundreds of megabytes for each call, and has its own test.
        patch.setattr(baselines, "lzma_nats", lambda corpus: {"validation": 1.0, "test": 1.0})
        yield
    signal.signal(signal.SIGTERM, handler)


def command(out, recurrent):
    return train.main(["--out", str(out), "--steps", str(STEPS), "--recurrent", recurrent, "--quiet"])


def test_the_command_writes_a_stock_network_and_its_card(tmp_path):
    assert command(tmp_path, "lstm") == 0
    network = model.CharacterModel("lstm")
    assert type(network.lstm) is nn.LSTM
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    card = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    assert card["model"] == "embedding 4, 2-layer torch.nn.LSTM of 6 units, linear decoder"
    assert "peephole" not in json.dumps(card["training"])
    assert card["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    for side in ("validation", "test"):
        assert card["nats_per_character"][side] == pytest.approx(train.nats_per_character(network, getattr(CORPUS, side)), abs=1e-6)
    assert card["training"]["curve"][-1]["train"] < card["training"]["curve"][0]["train"]


def test_a_run_that_is_interrupted_and_resumed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    assert command(tmp_path / "whole", "lstm") == 0
    advance = train.Run.advance

    def advance_and_stop(run):
        if run.step == 7:
            monkeypatch.setattr(train.Run, "advance", advance)
            raise KeyboardInterrupt
        return advance(run)

    monkeypatch.setattr(train.Run, "advance", advance_and_stop)
    assert command(tmp_path / "other", "lstm") == 130
    assert command(tmp_path / "other", "lstm") == 0
    whole, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "other"))
    assert whole == other


@pytest.mark.parametrize("begun, asked", [("peephole", "lstm"), ("lstm", "peephole")])
def test_the_checkpoint_of_the_other_network_is_refused(begun, asked, tmp_path, capsys):
    assert command(tmp_path, begun) == 0
    assert command(tmp_path, asked) == 3
    assert "belongs to another run" in capsys.readouterr().err


def test_a_network_that_there_is_not_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        command(tmp_path / "out", "gru")
    assert refused.value.code == 2 and not (tmp_path / "out").exists()
    assert "'peephole'" in capsys.readouterr().err


def test_both_networks_start_alike_by_remembering():
    for recurrent in ("peephole", "lstm"):
        network = train.Run(CORPUS, STEPS, 0, recurrent).model
        for layer in range(model.LAYERS):
            biases = getattr(network.lstm, f"bias_ih_l{layer}") + getattr(network.lstm, f"bias_hh_l{layer}")
            assert (biases.detach().chunk(4)[1] == train.FORGET_BIAS).all()


def forget_gates(lstm, x):
    """Every layer's forget gates ``(layer, step, batch, unit)``, by PyTorch's own cells."""
    layers = []
    for at in range(lstm.num_layers):
        weights = [getattr(lstm, f"{name}_l{at}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        h = c = x.new_zeros(len(x), lstm.hidden_size)
        gates, tops = [], []
        for step in x.unbind(1):
            # What came before is as it is: the price's gradient reaches the forget gate's own weights only.
            a = step.detach() @ weights[0].T + weights[2] + h.detach() @ weights[1].T + weights[3]
            gates.append(a.chunk(4, dim=1)[1].sigmoid())
            h, c = torch.lstm_cell(step, (h, c), *weights)
            tops.append(h)
        layers.append(torch.stack(gates))
        x = torch.stack(tops, dim=1)
    return torch.stack(layers)


def test_a_step_has_the_gradients_of_the_stock_layer_under_autograd(monkeypatch):
    # Some gates so far shut that they pay.
    monkeypatch.setattr(train, "FORGET_BIAS", 0.0)
    run = train.Run(CORPUS, STEPS, 0, "lstm")
    slow = copy.deepcopy(run.model).double()
    piece = torch.from_numpy(run.text[:, : train.TIME + 1]).long()
    reported = run.advance()

    loss = cross_entropy(slow(piece[:, :-1]).flatten(0, 1), piece[:, 1:].flatten())
    nats = -forget_gates(slow.lstm, slow.embedding(piece[:, :-1])).log().mean((1, 2))
    pays = nats > math.log(2)
    assert pays.any() and not pays.all()
    (loss + train.PRICE * (nats - math.log(2)).clamp(min=0).mean()).backward()
    nn.utils.clip_grad_norm_(slow.parameters(), train.CLIP)

    assert reported == pytest.approx(loss.item(), abs=1e-6)
    for (name, got), expected in zip(run.model.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad.float(), msg=lambda text, name=name: f"{name}: {text}")


def test_the_stock_layer_gives_what_the_layer_without_peepholes_gives_that_trained_it():
    network = train.Run(CORPUS, STEPS, 0, "lstm").model.double()
    ours = PeepholeLSTM.from_lstm(network.lstm, peephole=None)
    x = torch.randn(3, 20, EMBEDDING, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for got, expected in zip(ours(x)[1], network.lstm(x)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours(x)[0], network.lstm(x)[0], rtol=0, atol=1e-12)
