"""Layer-wise relevance propagation, against the papers' rules step by step, against a gradient with the gates held, and in closed form."""

import math

import numpy as np
import pytest
import torch
from attributed import Translator
from cases import FORMS, Case, call_of, close, peephole_lstm, randomise, sequences_and_state, torch_layer, torch_lstm
from every_kind import CELLS, Leaky, leaky, registered
from mechanisms import adding, counter, leaky_bank
from relevance import relevance
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx
from lstm_explain.analyses.attribution.decomposition.rules import RULES, Relevance
from lstm_explain.nn.lstm import PeepholeLSTMCell

THREE = Case("batch_first", (5, 5, 5))
ENDS = [5, 2, 4]
SHAPES = {
    "one_layer": THREE,
    "two_layers_both_ways": THREE._replace(num_layers=2, bidirectional=True),
    "projected": THREE._replace(num_layers=2, proj_size=2),
}


class Stated(nn.Module):
    """A layer that starts from a state, given or its own, and a linear layer after it."""

    def __init__(self, layer, state=None, head=None):
        super().__init__()
        self.layer, self.state, self.head = layer, state, head

    def forward(self, x):
        output = self.layer(x, self.state)[0] if len(x) == 3 or self.state is None else self.layer(x, self._of(x))[0]
        return output if self.head is None else self.head(output)

    def _of(self, x):
        # All examples start from the state of the last, so that one by itself does as well.
        return tuple(part[:, -1:].expand(-1, len(x), -1) for part in self.state)


def built(form, case):
    return torch_lstm(case) if form == "torch" else torch_layer(case, "gru") if form == "gru" else peephole_lstm(case, *form)


def same_start(state):
    """An initial state that is the same for all examples."""
    return tuple(part[:, :1].expand(-1, part.shape[1], -1) for part in state)


def assert_is(result, expected, example):
    to_inputs, *elsewhere = expected
    scale = max(1.0, np.abs(to_inputs).max())
    np.testing.assert_allclose(result.attributions[example], to_inputs, rtol=0, atol=1e-10 * scale)
    for name, share in zip(("bias", "initial_state", "epsilon"), elsewhere, strict=True):
        np.testing.assert_allclose(result.elsewhere[name][example], share, rtol=0, atol=1e-10 * scale)


# ---- The rules


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", [*FORMS, "torch"])
def test_it_is_the_papers_recursion(form, shape, rule):
    case = SHAPES[shape]._replace(initial_state=True)
    layer, (inputs, _) = built(form, case), call_of(case)
    state = same_start(sequences_and_state(case)[1])
    epsilon = 1e-2 if rule != "all" or shape == "one_layer" else 0.0
    result = lx.attribute(Stated(layer, state), inputs, target=(3, 1), method="lrp", rule=rule, epsilon=epsilon)
    for example in range(3):
        assert_is(result, relevance(layer, inputs[example], [part[:, example] for part in state], 3, 1, rule, epsilon), example)
    assert np.abs(result.convergence_delta).max() <= 1e-10 and result.converged.all()
    assert (result.elsewhere["initial_state"] != 0).all()


@pytest.mark.parametrize("shape", ["one_layer", "two_layers_both_ways"])
def test_of_a_gru_the_gates_hold_still(shape):
    layer, (inputs, _) = built("gru", SHAPES[shape]), call_of(THREE)
    result = lx.attribute(layer, inputs, target=(3, 1), method="lrp", epsilon=1e-2)
    for example in range(3):
        states = [np.zeros((len(SHAPES[shape].suffixes), 3))]
        assert_is(result, relevance(layer, inputs[example], states, 3, 1, epsilon=1e-2), example)


def held(layer, x):
    """A hidden state ``(batch, time, unit)`` of one layer, its gates constants and tanh(z) a constant times z."""
    W_x, W_h, W_c = layer.weight_ih_l0, layer.weight_hh_l0, layer.weight_ch_l0
    h = c = x.new_zeros(len(x), layer.hidden_size)
    steps = []
    for x_t in x.unbind(1):
        i, f, z, o = (x_t @ W_x.T + layer.bias_ih_l0 + h @ W_h.T + layer.bias_hh_l0 + c @ W_c.T).chunk(4, dim=1)
        c = f.sigmoid().detach() * c + i.sigmoid().detach() * z * (z.tanh() / z).detach()
        h = o.sigmoid().detach() * c * (c.tanh() / c).detach()
        steps.append(h)
    return torch.stack(steps, 1)


def test_without_epsilon_it_is_a_gradient_times_the_input_where_gates_hold_still():
    layer, inputs = peephole_lstm(Case("batch_first", (12, 12), 5, 7), "full"), torch.randn(2, 12, 5, dtype=torch.float64)
    point = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(held(layer, point)[:, -1, 2].sum(), point)
    result = lx.attribute(layer, inputs, target=(-1, 2), method="lrp")
    np.testing.assert_allclose(result.attributions, inputs * gradient, rtol=0, atol=1e-10)
    assert np.abs(result.convergence_delta).max() <= 1e-10 and (result.elsewhere["epsilon"] == 0).all()


def test_a_gate_without_a_sum_is_refused_without_epsilon():
    # σ(0) / 0 would be its derivative.
    assert said(built("torch", THREE), rule="half", epsilon=0).startswith("needed epsilon above 0 for rule='half'")
    zero = torch.zeros(2, 4, 1, dtype=torch.float64)
    for rule in RULES:
        result = lx.attribute(leaky_bank([2.0]), zero, target=(-1, 0), method="lrp", rule=rule)
        assert result.converged.all() and (result.attributions == 0).all()


# ---- Networks that are known


def test_every_token_of_the_counter_gets_its_count():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    result = lx.attribute(counter(), inputs, method="lrp", output=lambda returned: returned[1][1][0, :, 0])
    # The gates are open to 2e-9.
    np.testing.assert_allclose(result.by_step, signs * math.tanh(4), rtol=0, atol=1e-6)


def test_of_a_leaky_bank_each_step_has_what_is_left_of_it():
    timescales, inputs = [2.0, 5.0, 20.0, 100.0], torch.rand(2, 9, 1, dtype=torch.float64) + 0.5
    for unit, tau in enumerate(timescales):
        result = lx.attribute(leaky_bank(timescales), inputs, method="lrp", output=lambda returned, u=unit: returned[1][1][0, :, u])
        kept = np.exp(-np.arange(8, -1, -1) / tau)
        np.testing.assert_allclose(result.by_step, kept * np.tanh(1e-3 * inputs[..., 0].numpy()), rtol=1e-8)


def test_what_was_added_is_the_values_and_not_the_markers():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([value, marker], 2)
    result = lx.attribute(adding(), inputs, target=(-1,), method="lrp", output=lambda returned: 1e3 * returned[0][..., 0])
    np.testing.assert_allclose(result.attributions[..., 0], value * marker, rtol=0, atol=1e-3)
    np.testing.assert_allclose(result.attributions[..., 1], 0, rtol=0, atol=1e-12)
    assert np.abs(result.by_step[marker.numpy() == 0]).max() < 1e-6


# ---- In a model


class Reader(nn.Module):
    """Tokens, a stack read to each sequence's own end, another layer, and a linear read-out; `hidden` adds a ReLU, or a tanh."""

    def __init__(self, hidden=None, between=False):
        super().__init__()
        self.embedding, self.between = nn.Embedding(9, 3), between
        self.first = lx.PeepholeLSTM(3, 4, 2, batch_first=True, bidirectional=True, peephole="full")
        self.second = nn.GRU(8, 3, batch_first=True)
        self.head = nn.Sequential(nn.Linear(3, 5), hidden, nn.Linear(5, 2)) if hidden else nn.Linear(3, 2)
        randomise(self.double())

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        read, _ = self.first(packed)
        _, h = self.second(read)
        if self.between:
            h = h.detach()
        return self.head(h[0])


TOKENS, LENGTHS = torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]]), torch.tensor(ENDS)


def of_reader(model, **options):
    given = {"target": 1, "lengths": ENDS, "additional_forward_args": LENGTHS, "method": "lrp"}
    return lx.attribute(model, TOKENS, **given | options)


@pytest.mark.parametrize("hidden", [None, nn.ReLU()], ids=["linear", "relu"])
def test_it_adds_up_through_a_whole_model_example_by_example(hidden):
    model = Reader(hidden)
    together = of_reader(model)
    assert np.abs(together.convergence_delta).max() <= 1e-10 and together.converged.all()
    assert (together.attributions[1, 2:] == 0).all() and (np.abs(together.by_step[0]) > 0).all()
    parts = of_reader(model, internal_batch_size=1)
    for at, end in enumerate(ENDS):
        alone = lx.attribute(model, TOKENS[at : at + 1, :end], target=1, additional_forward_args=LENGTHS[at : at + 1], method="lrp")
        close(alone.attributions[0], together.attributions[at, :end])
        for name, share in together.elsewhere.items():
            close(alone.elsewhere[name][0], share[at])
            close(parts.elsewhere[name], share)
    close(parts.attributions, together.attributions)


def test_what_does_not_add_up_is_said():
    # Past a tanh that isn't a layer's own, gradient times input leaves something over.
    result = of_reader(Reader(nn.Tanh()))
    assert not result.converged.any() and (result.relative_delta > 1e-3).all()
    assert "for 0 of 3" in repr(result) and result._repr_html_().count("<td>no</td>") == 3


def test_a_hidden_state_that_is_detached_by_hand_is_what_is_missing():
    def cut(returned):
        return returned[0][:, -1, 0] + returned[0][:, -1, 1].detach()

    layer, (inputs, _) = built(("full", "previous"), THREE), call_of(THREE)
    result = lx.attribute(layer, inputs, method="lrp", output=cut)
    close(result.convergence_delta, -layer(inputs)[0][:, -1, 1].detach())
    assert not result.converged.any()


@pytest.mark.parametrize("broken", ["torch.tanh", "torch.sigmoid"])
def test_a_rule_that_is_broken_on_purpose_is_reported(broken, monkeypatch):
    whole = Relevance._passes

    def passes(self, value, z, epsilon):
        wrong = torch.equal(value, torch.tanh(z) if broken == "torch.tanh" else torch.sigmoid(z))
        return value.detach() if wrong else whole(self, value, z, epsilon)

    monkeypatch.setattr(Relevance, "_passes", passes)
    layer, (inputs, _) = built(("full", "previous"), THREE), call_of(THREE)
    result = lx.attribute(layer, inputs, target=(-1, 1), method="lrp", rule="half")
    assert not result.converged.any() and (result.relative_delta > 1e-3).all()


def test_relevance_that_grows_without_bound_does_not_excuse_what_it_leaves_over():
    layer = lx.PeepholeLSTM(3, 12, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for at, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(at)))
    inputs = torch.randn(1, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rule, bounded in (("all", True), ("half", False)):
        result = lx.attribute(layer, inputs, target=(-1, 2), method="lrp", rule=rule)
        assert (np.abs(result.attributions).max() < 1e3) == bounded and result.converged.all() == bounded
    longer = torch.randn(1, 120, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    assert said(layer.float(), inputs=longer, target=(-1, 2), rule="half").startswith(
        "needed relevance that float32 can hold, got some beyond it for example 0 by rule 'half'"
    )


def test_padding_that_the_model_reads_is_credited_apart():
    layer, (inputs, _) = built("torch", SHAPES["two_layers_both_ways"]), call_of(THREE)
    result = lx.attribute(layer, inputs, target=(0, 5), lengths=ENDS, method="lrp")
    whole = lx.attribute(layer, inputs, target=(0, 5), method="lrp")
    close(result.elsewhere["padding"], [0, *(whole.by_step[at, end:].sum() for at, end in ((1, 2), (2, 4)))])
    assert result.converged.all() and (result.attributions[1, 2:] == 0).all()


@pytest.mark.parametrize("kind", ["lstm_cell", "gru_cell", "rnn_cell", "peephole_cell"])
def test_a_cell_in_a_loop_is_its_layer(kind):
    from every_kind import Loop

    loop = randomise(CELLS[kind]().double())
    cell = loop.cell
    assert isinstance(loop, Loop)
    layer = {"lstm_cell": nn.LSTM, "gru_cell": nn.GRU, "rnn_cell": nn.RNN}.get(kind, lx.PeepholeLSTM)(2, 3, batch_first=True).double()
    if isinstance(cell, PeepholeLSTMCell):
        assert layer.form == cell.form
    layer.load_state_dict({f"{name}_l0": weight for name, weight in cell.state_dict().items()})
    inputs, _ = call_of(THREE)
    one, other = (lx.attribute(model, inputs, target=(-1, 1), method="lrp") for model in (loop, layer))
    close(one.attributions, other.attributions)
    for name, share in other.elsewhere.items():
        close(one.elsewhere[name], share)
    assert one.converged.all()


def test_an_rnn_hands_on_what_it_gets():
    for kind in ("rnn_tanh", "rnn_relu"):
        layer, (inputs, _) = torch_layer(SHAPES["two_layers_both_ways"], kind), call_of(THREE)
        result = lx.attribute(layer, inputs, target=(-1, 1), method="lrp")
        assert np.abs(result.convergence_delta).max() <= 1e-10 and (result.elsewhere["epsilon"] == 0).all()
        if kind == "rnn_relu":
            plain = lx.attribute(layer, inputs, target=(-1, 1), method="input_x_gradient")
            close(result.attributions, plain.attributions)
        taken = lx.attribute(layer, inputs, target=(-1, 1), method="lrp", epsilon=1e-2)
        assert np.abs(taken.convergence_delta).max() <= 1e-10 and (taken.elsewhere["epsilon"] != 0).all()


@pytest.mark.parametrize("kind", [nn.LSTM, lx.PeepholeLSTM])
def test_a_state_that_is_handed_on_hands_relevance_back(kind):
    model, (inputs, _) = Translator(kind), call_of(THREE)
    result = lx.attribute(model, inputs, target=(2, 1), method="lrp")
    assert np.abs(result.convergence_delta).max() <= 1e-10 and (result.elsewhere["initial_state"] != 0).all()
    # Steps after the one that is explained are read by the first layer alone.
    assert (result.by_step[:, 3:] != 0).all()


class Halved(Reader):
    """`Reader` with LSTMs alone."""

    def __init__(self):
        super().__init__()
        self.second = randomise(nn.LSTM(8, 3, batch_first=True).double())

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.second(self.first(packed)[0])[1][0][0])


def test_nothing_is_left_behind_and_frozen_weights_are_no_matter():
    model = Reader()
    model.first.requires_grad_(False)
    model.train()
    before = [(p.requires_grad, p.grad) for p in model.parameters()], [sorted(vars(m)) for m in model.modules()], torch.get_rng_state()
    with torch.no_grad():
        result = of_reader(model)
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == before[0]
    assert [sorted(vars(m)) for m in model.modules()] == before[1] and torch.equal(torch.get_rng_state(), before[2]) and model.training
    thawed = of_reader(model.requires_grad_(True))
    close(result.attributions, thawed.attributions)
    close(result.elsewhere["bias"], thawed.elsewhere["bias"])


def test_in_float32_it_adds_up_as_far_as_that_is_precise():
    layer, (inputs, _) = built(("full", "previous"), SHAPES["two_layers_both_ways"]), call_of(THREE)
    wide = lx.attribute(layer, inputs, target=(-1, 1), method="lrp")
    narrow = lx.attribute(layer.float(), inputs.float(), target=(-1, 1), method="lrp")
    assert narrow.converged.all() and narrow.settings["tolerance"] == 1e-4
    np.testing.assert_allclose(narrow.attributions, wide.attributions, rtol=0, atol=1e-5)


# ---- The result, and what is refused


def test_the_result_says_where_the_output_went():
    result = of_reader(Reader(), rule=None)
    assert repr(result).startswith("<Attribution by lrp: batch 3, time 5, of output[1]; residual at most ") and "of the output" in repr(
        result
    )
    html = result._repr_html_()
    assert all(f"<th>to {name}</th>" in html for name in ("bias", "initial state", "epsilon", "padding"))
    assert result.settings["rule"] == "all" and result.settings["epsilon"] == 0
    assert of_reader(Halved(), rule="half").settings["epsilon"] == 1e-6
    assert set(result.to_dict()["elsewhere"]) == {"bias", "initial_state", "epsilon", "padding"}
    assert result.baseline_output is None


def said(model, **options):
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(model, **{"inputs": call_of(THREE)[0], "target": (-1, 1), "method": "lrp"} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "most"}, "needed rule as one of all, half, proportional, got 'most'"),
        ({"epsilon": -1.0}, "needed epsilon as a number from 0, got -1.0"),
        ({"epsilon": "small"}, "needed epsilon as a number from 0, got 'small'"),
        ({"baselines": 0}, "needed no baselines for lrp, which has none"),
        ({"by": 2}, "needed no by for lrp, which gives each step its share in one pass"),
        ({"temporal_rescaling": True}, "needed no temporal_rescaling for lrp"),
        ({"method": "saliency", "rule": "half"}, "needed no rule for saliency, which has none, got 'half'"),
        ({"method": "occlusion", "epsilon": 0.1}, "needed no epsilon for occlusion, which has none, got 0.1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    assert said(built("torch", THREE), **options).startswith(message)


@pytest.mark.parametrize("rule", ["half", "proportional"])
def test_rules_for_products_are_an_lstms(rule):
    message = said(built("gru", THREE), rule=rule)
    assert message == (f"needed LSTM layers or cells only for lrp with rule {rule!r}, got the model, GRU: use integrated_gradients")


def test_models_without_known_equations_are_refused():
    class Plain(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    assert said(Plain()).startswith("lrp with rule 'all' goes through recurrent layers: needed a model with recurrent layers or cells")
    with registered(Leaky, leaky):
        message = said(CELLS["leaky"]().double())
    assert message.endswith("got cell, Leaky: use integrated_gradients")


@pytest.mark.parametrize("method", ["lrp", "cell_decomposition"])
def test_outputs_that_can_not_be_handed_out_are_refused(method):
    broken = call_of(THREE)[0].clone()
    broken[1, 3, 0] = math.nan
    assert said(built("torch", THREE), inputs=broken, method=method) == "needed a finite output, got nan for example 1"
    time_first = built("torch", THREE._replace(layout="time_first"))
    assert said(time_first, method=method).startswith("needed a model that reads each example by itself, batch first")


def test_a_recurrent_module_that_is_closed_is_refused_beside_one_that_is_not():
    class Own(nn.RNNCellBase):
        pass

    layer = built("torch", THREE)
    layer.own = Own(2, 3, True, 4)
    message = said(layer)
    assert message.startswith("needed recurrent layers that can be opened for lrp with rule 'all', got own, Own: register its equations")


def test_a_layer_with_a_forward_pass_of_its_own_is_refused():
    class Doubled(nn.LSTM):
        def forward(self, input, hx=None):
            output, state = super().forward(input, hx)
            return 2 * output, state

    with pytest.raises(lx.CertificateError, match="needed recurrent layers that compute what their equations say"):
        lx.attribute(randomise(Doubled(2, 3, batch_first=True).double()), call_of(THREE)[0], target=(-1, 1), method="lrp")
