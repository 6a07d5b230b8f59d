"""Several interventions, and the rest of the model around one."""

import pytest
import torch
from cases import randomise
from recordings import Classifier, classifier, layer_of, of_layout
from torch import nn

import lstm_explain as lx
from lstm_explain.nn.lstm import PeepholeLSTM

X = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_an_inner_one_comes_after_an_outer_one():
    layer = layer_of("torch", of_layout("batch_first"))
    for outer, inner, expected in ((0.5, lx.add(0.25), 0.75), (lx.add(0.25), 0.5, 0.5)):
        with lx.record(layer) as recording, lx.intervene(layer, "l0", forget_gate=outer, feedback=True):
            with lx.intervene(layer, "l0", forget_gate=inner, feedback=True):
                layer(X)
        assert (recording["l0"].forget_gate == expected).all() and recording.certificate.state == "certified"


def test_one_that_feeds_back_and_one_that_does_not():
    layer = layer_of("gru", of_layout("batch_first"))
    with torch.no_grad():
        with lx.intervene(layer, "l0", units=[0], hidden_state=0.1, feedback=True):
            fed_back, _ = layer(X)
            with lx.intervene(layer, "l0", units=[1], steps=[2], hidden_state=0.7, feedback=False):
                both, _ = layer(X)
    expected = fed_back.clone()
    expected[:, 2, 1] = 0.7
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-12)


def test_what_does_not_feed_back_leaves_every_other_step_as_it_was():
    layer = layer_of("torch", of_layout("batch_first"))
    with torch.no_grad():
        with lx.intervene(layer, "l0", forget_gate=lx.add(0.0), feedback=True):
            clean, _ = layer(X)
        with lx.intervene(layer, "l0", steps=[2], forget_gate=0.0, feedback=False):
            found, _ = layer(X)
    assert torch.equal(found[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]]) and not torch.equal(found[:, 2], clean[:, 2])


def test_two_layers_at_once():
    layer = layer_of("torch", of_layout("batch_first", num_layers=2))
    with (
        lx.record(layer) as recording,
        lx.intervene(layer, "l1", output_gate=1.0, feedback=True),
        lx.intervene(layer, "l0", input_gate=0.0, forget_gate=0.0, feedback=True),
    ):
        layer(X)
    assert (recording["l0"].hidden_state == 0).all() and (recording["l1"].output_gate == 1).all()
    assert "edited: l0 input_gate, l0 forget_gate, l1 output_gate" in str(recording.certificate)


@pytest.mark.parametrize("made", [nn.LSTM, nn.GRU, nn.RNN, PeepholeLSTM])
@pytest.mark.parametrize("seed", [0, 1])
def test_everything_else_is_bit_for_bit_what_it_was(made, seed):
    layer = randomise(made(2, 3, num_layers=3, bidirectional=True, dropout=0.4, batch_first=True, dtype=torch.float64), seed)
    torch.manual_seed(seed)
    with lx.record(layer) as clean:
        layer(X)
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    with lx.record(layer) as edited, lx.intervene(layer, "l1", steps=[4], hidden_state=lx.add(1.0), feedback=True):
        layer(X)
    assert torch.equal(torch.get_rng_state(), after)
    for key in ("l0", "l0_reverse", "l1_reverse"):
        assert all(torch.equal(signal, edited[key].signals[name]) for name, signal in clean[key].signals.items())
    torch.testing.assert_close(edited["l1"].hidden_state[:, :4], clean["l1"].hidden_state[:, :4], rtol=0, atol=1e-12)
    torch.testing.assert_close(edited["l1"].hidden_state[:, 4], clean["l1"].hidden_state[:, 4] + 1, rtol=0, atol=1e-12)
    assert not torch.equal(edited["l2"].hidden_state, clean["l2"].hidden_state)


def test_a_model_around_it_goes_on_with_what_was_changed():
    model = classifier(num_layers=2)
    model.encoder["lstm"].batch_first = True
    with torch.no_grad(), lx.intervene(model, "encoder.lstm.l1", hidden_state=0.0, feedback=True):
        assert torch.equal(model(X), model.after.bias.expand(2, 5, 1))


class Scaled(nn.LSTM):
    """A layer with a pass of its own, which still is what its equations say of its weights."""

    def forward(self, x, hx=None):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x, hx)


class Doubled(nn.LSTM):
    """One that isn't."""

    def forward(self, x, hx=None):
        output, state = super().forward(x, hx)
        return 2 * output, state


def test_a_subclass_with_a_pass_of_its_own_must_be_what_its_equations_say():
    plain = layer_of("torch", of_layout("batch_first"))
    found = []
    for made in (nn.LSTM, Scaled):
        layer = made(2, 3, batch_first=True, dtype=torch.float64)
        layer.load_state_dict(plain.state_dict())
        with torch.no_grad(), lx.intervene(layer, "l0", forget_gate=0.0, feedback=True):
            found.append(layer(X)[0])
    assert torch.equal(*found) and layer.calls == 1
    doubled = Doubled(2, 3, batch_first=True, dtype=torch.float64)
    with pytest.raises(lx.CertificateError), lx.intervene(doubled, "l0", forget_gate=0.0, feedback=True):
        doubled(X)


def test_a_subclass_has_the_masks_of_its_own_pass():
    plain = layer_of("torch", of_layout("batch_first", num_layers=2), dropout=0.5)
    found = []
    for made in (nn.LSTM, Scaled):
        layer = made(2, 3, num_layers=2, dropout=0.5, batch_first=True, dtype=torch.float64)
        layer.load_state_dict(plain.state_dict())
        torch.manual_seed(0)
        with torch.no_grad(), lx.intervene(layer, "l1", forget_gate=lx.add(0.0), feedback=True):
            found.append((layer(X)[0], torch.get_rng_state()))
    torch.manual_seed(0)
    clean = plain(X)[0].detach()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][0], clean, rtol=0, atol=1e-12)


def test_weights_that_are_computed_when_they_are_read_are_those_of_the_call():
    class Noise(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight)

    layer = layer_of("torch", of_layout("batch_first"))
    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Noise())
    torch.manual_seed(0)
    with torch.no_grad():
        clean, _ = layer(X)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with torch.no_grad(), lx.intervene(layer, "l0", forget_gate=lx.add(0.0), feedback=True):
        found, _ = layer(X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-12)


def test_a_compiled_part_and_a_path_by_another_name():
    model = Classifier(layer_of("torch", of_layout("batch_first")))
    model.again = model.encoder["lstm"]
    with torch.no_grad(), lx.record(model) as recording, lx.intervene(model, "again.l0", hidden_state=0.0, feedback=True):
        model(X)
    assert (recording["encoder.lstm.l0"].hidden_state == 0).all()
