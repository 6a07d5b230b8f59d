"""Contextual decomposition, against the paper's equations one sequence and one step at a time, its invariants, and what it can't see."""

import json

import numpy as np
import pytest
import torch
from attributed import Translator
from cases import FORMS, Case, call_of, close, peephole_lstm, randomise, sequences_and_state, torch_layer, torch_lstm
from mechanisms import OPEN, adding, blank, counter, leaky_bank, rows
from scalar import by_gate, in_the_papers_letters, layer_weights
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx
from lstm_explain.analyses.attribution.decomposition.parts import Parts

THREE = Case("batch_first", (5, 5, 5))
ENDS = [5, 2, 4]
SHAPES = {
    "one_layer": THREE,
    "two_layers_both_ways": THREE._replace(num_layers=2, bidirectional=True),
    "projected": THREE._replace(num_layers=2, proj_size=2),
}


def built(form, case):
    return torch_lstm(case) if form == "torch" else torch_layer(case, "gru") if form == "gru" else peephole_lstm(case, *form)


# ---- The paper once more


def sigma(z):
    return 1 / (1 + np.exp(-z))


def shapley(of, beta, gamma, b):
    """(what β gives, what γ gives, what the constant gives) of a nonlinearity (Murdoch, Liu & Yu 2018, section 3.2.2)."""
    to_beta = (of(beta + b) - of(b) + of(beta + gamma + b) - of(gamma + b)) / 2
    to_gamma = (of(gamma + b) - of(b) + of(beta + gamma + b) - of(beta + b)) / 2
    return to_beta, to_gamma, of(b)


def lstm_layer(layer, suffix, x_beta, x_gamma, h_0, c_0, inside):
    """β and γ of every hidden state ``(time, state)``."""
    form = getattr(layer, "form", (None, "previous"))
    W_x, W_h, W_c, b, W_r = in_the_papers_letters(layer_weights(layer, suffix), *form)
    W_x, W_h, W_c, b = ({gate: np.asarray(of) for gate, of in which.items()} for which in (W_x, W_h, W_c, b))
    h_beta, h_gamma, c_beta, c_gamma = 0 * h_0, h_0, 0 * c_0, c_0
    found = {}
    for t in range(len(x_beta))[:: -1 if suffix.endswith("_reverse") else 1]:

        def taken_apart(gate, of, t=t, h=(h_beta, h_gamma), c=(c_beta, c_gamma)):
            z_beta = W_x[gate] @ x_beta[t] + W_h[gate] @ h[0] + W_c[gate] @ c[0]
            z_gamma = W_x[gate] @ x_gamma[t] + W_h[gate] @ h[1] + W_c[gate] @ c[1]
            return shapley(of, z_beta, z_gamma, b[gate])

        i_beta, i_gamma, i_b = taken_apart("i", sigma)
        f_beta, f_gamma, f_b = taken_apart("f", sigma)
        g_beta, g_gamma, g_b = taken_apart("g", np.tanh)
        seen = c_beta + c_gamma
        new_beta = (f_beta + f_b) * c_beta + i_beta * (g_beta + g_b) + i_b * g_beta
        new_gamma = (f_beta + f_gamma + f_b) * c_gamma + f_gamma * c_beta + i_gamma * (g_beta + g_gamma + g_b) + (i_beta + i_b) * g_gamma
        if inside[t]:
            new_beta = new_beta + i_b * g_b
        else:
            new_gamma = new_gamma + i_b * g_b
        seen = seen if form[1] == "previous" else new_beta + new_gamma
        o = sigma(W_x["o"] @ (x_beta[t] + x_gamma[t]) + W_h["o"] @ (h_beta + h_gamma) + W_c["o"] @ seen + b["o"])
        c_beta, c_gamma = new_beta, new_gamma
        m_beta, m_gamma, _ = shapley(np.tanh, c_beta, c_gamma, 0)
        h_beta, h_gamma = o * m_beta, o * m_gamma
        if W_r is not None:
            h_beta, h_gamma = np.asarray(W_r) @ h_beta, np.asarray(W_r) @ h_gamma
        found[t] = h_beta, h_gamma
    return [np.array([found[t][part] for t in range(len(x_beta))]) for part in (0, 1)]


def gru_layer(layer, suffix, x_beta, x_gamma, h_0, inside):
    """The same of a GRU: r is used whole, z and the candidate are taken apart, and so are their products."""
    W_x, W_h, b_x, b_h = ({gate: np.asarray(of) for gate, of in one.items()} for one in by_gate(layer_weights(layer, suffix), "rzn"))
    h_beta, h_gamma = 0 * h_0, h_0
    found = {}
    for t in range(len(x_beta))[:: -1 if suffix.endswith("_reverse") else 1]:
        x, h = x_beta[t] + x_gamma[t], h_beta + h_gamma
        r = sigma(W_x["r"] @ x + W_h["r"] @ h + b_x["r"] + b_h["r"])
        z_beta, z_gamma, z_b = shapley(
            sigma, W_x["z"] @ x_beta[t] + W_h["z"] @ h_beta, W_x["z"] @ x_gamma[t] + W_h["z"] @ h_gamma, b_x["z"] + b_h["z"]
        )
        n_beta, n_gamma, n_b = shapley(
            np.tanh,
            W_x["n"] @ x_beta[t] + r * (W_h["n"] @ h_beta),
            W_x["n"] @ x_gamma[t] + r * (W_h["n"] @ h_gamma),
            b_x["n"] + r * b_h["n"],
        )
        new_beta = -z_beta * (n_beta + n_b) + (1 - z_b) * n_beta + (z_beta + z_b) * h_beta
        new_gamma = -z_gamma * (n_beta + n_gamma + n_b) + (1 - z_b - z_beta) * n_gamma
        new_gamma = new_gamma + z_gamma * (h_beta + h_gamma) + (z_beta + z_b) * h_gamma
        constant = (1 - z_b) * n_b
        h_beta, h_gamma = (new_beta + constant, new_gamma) if inside[t] else (new_beta, new_gamma + constant)
        found[t] = h_beta, h_gamma
    return [np.array([found[t][part] for t in range(len(x_beta))]) for part in (0, 1)]


def by_the_paper(layer, xs, states, inside):
    """β and γ of the top's hidden states, of one sequence."""
    inside = np.asarray(inside)
    beta, gamma = np.where(inside[:, None], xs, 0), np.where(inside[:, None], 0, xs)
    directions = 1 + layer.bidirectional
    for at in range(layer.num_layers):
        apart = []
        for reverse in range(directions):
            start = [state[at * directions + reverse] for state in states]
            run = gru_layer if isinstance(layer, nn.GRU) else lstm_layer
            apart.append(run(layer, f"l{at}" + "_reverse" * reverse, beta, gamma, *start, inside))
        beta, gamma = (np.concatenate([each[part] for each in apart], axis=1) for part in (0, 1))
    return beta, gamma


class Stated(nn.Module):
    """A layer that starts from a state, the same for every example."""

    def __init__(self, layer, state):
        super().__init__()
        self.layer, self.state = layer, state

    def forward(self, x):
        state = tuple(part[:, :1].expand(-1, len(x), -1).contiguous() for part in self.state)
        return self.layer(x, state if len(state) == 2 else state[0])[0]


@pytest.mark.parametrize(("form", "shape"), [(form, shape) for form in [*FORMS, "torch", "gru"] for shape in SHAPES][:-1])
def test_it_is_the_papers_recursion(form, shape):
    case = SHAPES[shape]._replace(initial_state=True)
    layer, (inputs, _) = built(form, case), call_of(case)
    state = sequences_and_state(case)[1][: 1 if form == "gru" else 2]
    start = [part[:, 0].numpy() for part in state]
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)
    result = lx.contextual_decomposition(Stated(layer, state), inputs, phrase=mask, target=(3, 1))
    for example in range(3):
        beta, gamma = by_the_paper(layer, inputs[example].numpy(), start, mask[example].numpy())
        close(result.beta[example], beta[3, 1])
        close(result.gamma[example], gamma[3, 1])
    assert np.abs(result.residual).max() <= 1e-12 and result.converged.all()
    close(result.bias, np.zeros(3))
    np.testing.assert_array_equal(result.phrase, mask)


@pytest.mark.parametrize("form", [*FORMS, "torch", "gru"])
def test_all_steps_leave_nothing_to_the_rest_and_no_step_nothing_to_the_phrase(form):
    case = Case("batch_first", (12, 12), 5, 7, num_layers=2, bidirectional=True)
    layer, (inputs, _) = built(form, case), call_of(case)
    whole = lx.contextual_decomposition(layer, inputs, phrase=slice(None), target=(-1, 3))
    none = lx.contextual_decomposition(layer, inputs, phrase=[], target=(-1, 3))
    assert (whole.gamma == 0).all() and (none.beta == 0).all()
    close(whole.beta, layer(inputs)[0][:, -1, 3].detach())
    close(none.gamma, layer(inputs)[0][:, -1, 3].detach())
    assert max(np.abs(result.residual).max() for result in (whole, none)) <= 1e-12


# ---- Networks that are known


def test_each_token_of_the_counter_counts_for_one():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    for step in (0, 2, 7):
        result = lx.contextual_decomposition(counter(), inputs, phrase=step, output=lambda returned: returned[1][1][0, :, 0])
        # The gates are open to 2e-9.
        np.testing.assert_allclose(result.beta, signs[:, step] * np.tanh(4), rtol=0, atol=1e-6)


def test_of_a_leaky_bank_each_step_has_what_is_left_of_it():
    timescales, inputs = [2.0, 20.0], torch.rand(2, 9, 1, dtype=torch.float64) + 0.5
    for unit, tau in enumerate(timescales):
        result = lx.contextual_decomposition(
            leaky_bank(timescales), inputs, phrase=3, output=lambda returned, u=unit: returned[1][1][0, :, u]
        )
        np.testing.assert_allclose(result.beta, np.exp(-5 / tau) * np.tanh(1e-3 * inputs[:, 3, 0].numpy()), rtol=1e-8)


def test_what_was_added_is_what_was_marked():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([value, marker], 2)
    for step in range(7):
        result = lx.contextual_decomposition(adding(), inputs, phrase=step, target=(-1,), output=lambda returned: 1e3 * returned[0][..., 0])
        np.testing.assert_allclose(result.beta, (value * marker)[:, step], rtol=0, atol=1e-3)
        assert np.abs(result.beta[marker[:, step].numpy() == 0]).max(initial=0) < 1e-6


def test_it_does_not_see_resets_and_says_so():
    # Inputs (value, reset): a reset shuts the forget gate, and the output hangs on nothing that came before it.
    lstm = blank(2, 1)
    with torch.no_grad():
        for gate in "ifo":
            rows(lstm, gate).fill_(OPEN)
        lstm.weight_ih_l0[1, 1] = -2 * OPEN
        lstm.weight_ih_l0[2, 0] = 0.5
    inputs = torch.tensor([[[1.0, 0], [0, 1], [1, 0]], [[-3.0, 0], [0, 1], [1, 0]]], dtype=torch.float64)
    assert float(lstm(inputs)[0][:, -1].detach().diff(dim=0).abs()) < 1e-8
    result = lx.contextual_decomposition(lstm, inputs, phrase=0, target=(-1, 0))
    assert (np.abs(result.beta) > 0.3).all() and np.abs(result.residual).max() < 1e-12
    occluded = lx.attribute(lstm, inputs, target=(-1, 0), method="occlusion")
    assert np.abs(occluded.attributions[:, 0]).max() < 1e-8
    for said in (repr(result), result._repr_html_(), result.caution, lx.contextual_decomposition.__doc__):
        assert "see resets" in said


# ---- In a model


class Reader(nn.Module):
    """Tokens, a stack read to each sequence's own end, another layer, and a linear read-out; `hidden` adds a nonlinearity."""

    def __init__(self, hidden=None, before=None):
        super().__init__()
        self.embedding, self.before = nn.Embedding(9, 3), before or nn.Identity()
        self.first = lx.PeepholeLSTM(3, 4, 2, batch_first=True, bidirectional=True, peephole="full")
        self.between, self.second = nn.Linear(8, 4), nn.GRU(4, 3)
        self.head = nn.Sequential(nn.Linear(3, 5), hidden, nn.Linear(5, 2)) if hidden else nn.Linear(3, 2)
        randomise(self.double())

    def forward(self, tokens, lengths):
        x = self.before(self.embedding(tokens))
        read, _ = self.first(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        _, h = self.second(read._replace(data=self.between(read.data)))
        return self.head(h[0])


TOKENS, LENGTHS = torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]]), torch.tensor(ENDS)


def of_reader(model, phrase, rows=slice(None), **options):
    given = {"target": 1, "lengths": LENGTHS[rows].tolist(), "additional_forward_args": LENGTHS[rows]}
    return lx.contextual_decomposition(model, TOKENS[rows], phrase=phrase, **given | options)


@pytest.mark.parametrize("before", [None, nn.ReLU()], ids=["plain", "a step at a time"])
def test_it_adds_up_through_a_whole_model_example_by_example(before):
    model = Reader(before=before)
    together = of_reader(model, [0, -1])
    assert np.abs(together.residual).max() <= 1e-12 and together.converged.all() and together.padding == "known"
    parts = of_reader(model, [0, -1], internal_batch_size=1)
    for at, end in enumerate(ENDS):
        assert together.phrase[at].nonzero()[0].tolist() == [0, end - 1]
        alone = of_reader(model, [0, -1], slice(at, at + 1))
        for name in ("beta", "gamma", "bias"):
            close(getattr(alone, name)[0], getattr(together, name)[at])
            close(getattr(parts, name)[at], getattr(together, name)[at])
    # One phrase for all, and lengths whose order isn't its own inverse.
    first, turned = of_reader(model, 0), of_reader(model, 0, [1, 0, 2])
    close(turned.beta, first.beta[[1, 0, 2]])
    for at in range(3):
        close(of_reader(model, 0, slice(at, at + 1)).gamma, first.gamma[at : at + 1])
    assert (np.abs(together.beta) > 1e-6).all() and (np.abs(together.gamma[[0, 2]]) > 1e-6).all()
    assert (of_reader(model, slice(None)).gamma == 0).all() and (of_reader(model, []).beta == 0).all()


def test_a_state_that_is_handed_on_keeps_its_parts():
    model, (inputs, _) = Translator(lx.PeepholeLSTM), call_of(THREE)
    # The step is read by the first layer alone, so that all of it goes through the state.
    result = lx.contextual_decomposition(model, inputs, phrase=4, target=(2, 1))
    assert np.abs(result.residual).max() <= 1e-12 and (np.abs(result.beta) > 1e-6).all()
    whole = lx.contextual_decomposition(model, inputs, phrase=slice(None), target=(2, 1))
    assert (np.abs(whole.gamma) > 1e-6).all(), "the learned state is nobody's phrase"


def test_what_does_not_add_up_is_said():
    result = of_reader(Reader(nn.Tanh()), 0)
    assert not result.converged.any() and "for 0 of 3" in repr(result) and result._repr_html_().count("<td>no</td>") == 3
    assert (np.abs(result.residual) > 1e-4 * np.abs(result.output)).all()


@pytest.mark.parametrize("broken", ["whole", "settled"])
def test_a_rule_that_is_broken_on_purpose_is_reported(broken, monkeypatch):
    changed = {
        "whole": property(lambda parts: parts.phrase + parts.constant),
        "settled": lambda parts, inside: Parts(parts.phrase, parts.rest, torch.zeros_like(parts.constant)),
    }
    monkeypatch.setattr(Parts, broken, changed[broken])
    layer, (inputs, _) = built(("full", "previous"), THREE), call_of(THREE)
    result = lx.contextual_decomposition(layer, inputs, phrase=2, target=(-1, 1))
    assert not result.converged.any()


def test_padding_that_the_model_reads_is_everything_elses():
    layer, (inputs, _) = built("torch", THREE._replace(bidirectional=True)), call_of(THREE)
    result = lx.contextual_decomposition(layer, inputs, phrase=slice(None), target=(0, 5), lengths=ENDS)
    mask = torch.arange(5) < LENGTHS.unsqueeze(1)
    other = lx.contextual_decomposition(layer, inputs, phrase=mask, target=(0, 5))
    close(result.beta, other.beta)
    assert result.gamma[0] == 0 and (result.gamma[1:] != 0).all() and result.converged.all()


@pytest.mark.parametrize(
    ("phrase", "steps"),
    [(2, [2]), (-1, [4]), ([1, -1], [1, 4]), (range(1, 3), [1, 2]), (slice(-2, None), [3, 4]), (torch.tensor([0, 3]), [0, 3]), ((), [])],
)
def test_a_phrase_is_a_step_or_several(phrase, steps):
    layer, (inputs, _) = built("torch", THREE), call_of(THREE)
    result = lx.contextual_decomposition(layer, inputs, phrase=phrase, target=(-1, 1))
    for of_example in result.phrase:
        assert np.flatnonzero(of_example).tolist() == steps


def test_nothing_is_left_behind():
    model = Reader().train()
    before = [sorted(vars(module)) for module in model.modules()], torch.get_rng_state()
    of_reader(model, 0)
    assert [sorted(vars(module)) for module in model.modules()] == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert model.training and all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_in_float32_it_adds_up_as_far_as_that_is_precise():
    layer, (inputs, _) = built(("diagonal", "graves"), SHAPES["two_layers_both_ways"]), call_of(THREE)
    wide = lx.contextual_decomposition(layer, inputs, phrase=2, target=(-1, 1))
    narrow = lx.contextual_decomposition(layer.float(), inputs.float(), phrase=2, target=(-1, 1))
    assert narrow.converged.all() and narrow.settings["tolerance"] == 1e-4
    np.testing.assert_allclose(narrow.beta, wide.beta, rtol=0, atol=1e-6)


# ---- The result, and what is refused


def test_the_result_reads_in_one_line_and_exports():
    result = of_reader(Reader(), slice(0, 2))
    assert repr(result).startswith("<Contextual decomposition: batch 3, time 5, of output[1] by a phrase of 2 steps; residual at most ")
    assert "\n" not in repr(result) and "phrase of 1 step;" in repr(of_reader(Reader(), 0))
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["beta"] == result.beta.tolist() and exported["caution"] == result.caution
    frame = result.to_frame()
    np.testing.assert_array_equal(frame["gamma"], result.gamma)
    assert len(frame) == 3 and "<td>0, 1</td>" in result._repr_html_()


def said(model=None, **options):
    with pytest.raises(lx.InputError) as caught:
        lx.contextual_decomposition(
            model or built("torch", THREE), **{"inputs": call_of(THREE)[0], "phrase": 0, "target": (-1, 1)} | options
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


MASK = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phrase": 5}, "needed phrase steps from -5 to 4 for example 0, got 5"),
        ({"phrase": [0, 3], "lengths": ENDS}, "needed phrase steps from -2 to 1 for example 1, got 3"),
        ({"phrase": slice(1, 9)}, "needed phrase as slice(start, stop) within 5 steps, got slice(1, 9, None)"),
        ({"phrase": slice(0, 4, 2)}, "needed phrase as slice(start, stop) within 5 steps"),
        ({"phrase": MASK[:, :3]}, "needed phrase as a mask (3, 5), got (3, 3)"),
        ({"phrase": MASK, "lengths": ENDS}, "needed phrase inside the sequences, got step 2 of example 1, which has 2"),
        ({"phrase": "not bad"}, "needed phrase as steps, a slice, or a mask (batch, time) of bool, got 'not bad'"),
        ({"phrase": [0.5]}, "needed phrase as steps, a slice, or a mask"),
        ({"phrase": None}, "needed phrase as steps, a slice, or a mask"),
        ({"tolerance": 0}, "needed a positive tolerance, got 0"),
        ({"internal_batch_size": 0}, "needed internal_batch_size as a positive whole number, got 0"),
        ({"target": (9, 1)}, "needed target step from -5 to 4"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    assert said(**options).startswith(message)


def test_models_that_it_is_not_defined_for_are_refused():
    assert said(torch_layer(THREE, "rnn_tanh")).startswith(
        "needed LSTM or GRU layers only for contextual_decomposition, got the model, RNN"
    )
    assert said(nn.Linear(2, 3).double()).startswith("contextual_decomposition goes through recurrent layers: needed a model with")

    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch_lstm(THREE)

        def forward(self, x):
            return self.lstm(x[:, ::2])[0]

    assert said(Halved()) == "needed lstm to read every step of the inputs for contextual_decomposition, got 3 of 5"
