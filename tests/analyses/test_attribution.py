"""`attribute`, against Captum, closed forms, networks with weights set by hand, and itself on one example at a time."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import captum.attr
import numpy as np
import pytest
import torch
from cases import FORMS, Case, call_of, close, peephole_lstm, randomise, torch_lstm
from mechanisms import adding, counter
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_explain as lx
from lstm_explain.analyses.attribution.methods import DECOMPOSITIONS
from lstm_explain.analyses.attribution.methods import METHODS as BY_CAPTUM

KNOWN = [*BY_CAPTUM, *DECOMPOSITIONS]
METHODS = ["integrated_gradients", "saliency", "input_x_gradient", "occlusion"]
ENDS = [5, 2, 4]
VALID = torch.arange(5) < torch.tensor(ENDS).unsqueeze(1)
THREE = Case("batch_first", (5, 5, 5))
"""Three sequences of five steps of two features; three units."""


def features(*shape, seed=0):
    return torch.randn(*shape or (3, 5, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens():
    return torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]])


def held_at_padding(baselines, inputs):
    """What the baseline is where only the valid steps of `ENDS` are replaced."""
    return torch.where(VALID.unsqueeze(2), baselines, inputs)


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Words(nn.Module):
    """Tokens ``(batch, time)`` to classes ``(batch, time, 4)``, by layers that may read the time first."""

    def __init__(self, time_first=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.rest = nn.LSTM(3, 4, batch_first=not time_first)
        randomise(self.double())

    def forward(self, tokens):
        if self.rest.batch_first:
            return self.rest(self.embedding(tokens))[0]
        return self.rest(self.embedding(tokens.T))[0].transpose(0, 1)


class Packed(nn.Module):
    """Reads each sequence to its own end, both ways, and returns both last states ``(batch, 6)``."""

    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True, bidirectional=True).double())

    def forward(self, inputs, lengths):
        _, (h_n, _) = self.lstm(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        return torch.cat([*h_n], 1)


class Worn(Words):
    """`Words` with dropout and a mind of its own: it writes down how it was called, and fails at the call that it is told."""

    def __init__(self, fails_at=0):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.fails_at, self.found = fails_at, []

    def forward(self, tokens):
        modes = {module.training for module in self.modules()}
        self.found.append((modes, torch.backends.cudnn.enabled, torch.is_inference_mode_enabled(), len(tokens)))
        embedded = self.dropout(self.embedding(tokens))
        if len(self.found) == self.fails_at:
            raise ValueError("worn out\nby its use")
        return self.rest(embedded)[0]


def whereabouts(model):
    """All that `attribute` could leave changed."""
    modules = [(module.training, sorted(vars(module)), vars(module).get("forward")) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) for module in model.modules()]
    parameters = [(p.tolist(), p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    modes = torch.backends.cudnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return modules, hooks, parameters, modes, torch.get_rng_state().tolist()


# ---- Adding up


@pytest.mark.parametrize("lengths", [None, ENDS])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(THREE, id="one_layer"),
        pytest.param(THREE._replace(num_layers=2, bidirectional=True), id="two_layers_both_ways"),
        pytest.param(THREE._replace(num_layers=2, proj_size=2), id="two_layers_projected"),
        pytest.param(THREE._replace(bidirectional=True, proj_size=2, bias=False), id="both_ways_projected"),
    ],
)
@pytest.mark.parametrize("form", [*FORMS, "torch"])
def test_integrated_gradients_add_up_to_the_difference_of_outputs(form, case, lengths):
    model = torch_lstm(case) if form == "torch" else peephole_lstm(case, *form)
    inputs, _ = call_of(case)
    result = lx.attribute(model, inputs, target=(-1, 1), lengths=lengths)
    step = torch.tensor(ENDS if lengths else [5, 5, 5]) - 1
    baseline = held_at_padding(torch.zeros(()), inputs) if lengths else torch.zeros_like(inputs)
    with torch.no_grad():
        at_input, at_baseline = (model(x)[0][torch.arange(3), step, 1].numpy() for x in (inputs, baseline))
    close(result.output, at_input)
    close(result.baseline_output, at_baseline)
    assert (np.abs(result.attributions.sum((1, 2)) - (at_input - at_baseline)) <= 1e-6 * np.abs(at_input - at_baseline)).all()
    assert result.converged.all() and (result.relative_delta <= 1e-6).all()
    close(result.convergence_delta, result.attributions.sum((1, 2)) - (at_input - at_baseline))


def test_in_float32_they_add_up_as_far_as_it_is_precise():
    model, inputs = torch_lstm(THREE, torch.float32), features().float()
    result = lx.attribute(model, inputs, target=(-1, 0))
    assert result.converged.all() and (result.relative_delta < 1e-4).all()
    np.testing.assert_allclose(result.attributions, lx.attribute(model.double(), inputs.double(), target=(-1, 0)).attributions, atol=1e-5)
    assert [result.settings["dtype"], result.settings["tolerance"]] == ["float32", 1e-4]


@pytest.mark.parametrize("method", METHODS)
def test_padding_gets_exactly_zero_whatever_is_in_it(method):
    model, inputs, other = torch_lstm(THREE), features(), features()
    other[~VALID] = 100
    first, second = (lx.attribute(model, x, target=(-1, 1), lengths=ENDS, method=method) for x in (inputs, other))
    np.testing.assert_array_equal(first.valid, VALID)
    assert (first.attributions[~VALID] == 0).all() and (second.attributions[~VALID] == 0).all()
    assert (first.attributions[VALID] != 0).all()
    close(second.attributions, first.attributions)
    close(second.baseline_output if method != "saliency" else 0.0, first.baseline_output if method != "saliency" else 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_padding_that_the_model_reads_gets_exactly_zero_too(method):
    model = torch_lstm(THREE._replace(bidirectional=True))
    result = lx.attribute(model, features(), target=(0, 5), lengths=torch.tensor(ENDS), method=method)
    assert (result.attributions[~VALID] == 0).all() and (result.attributions[VALID] != 0).all()


def test_what_is_known_of_padding_is_said():
    said = [lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), lengths=lengths).padding for lengths in (None, ENDS, [5, 5, 5])]
    assert said == ["unknown", "known", "none"]


# ---- Networks that are known


def test_every_token_of_the_counter_counts_for_one():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    found = {method: lx.attribute(counter(), inputs, method=method, output=lambda r: r[1][1][0, :, 0]) for method in METHODS}
    for method in ("integrated_gradients", "occlusion"):
        # The gates are open to 2e-9.
        np.testing.assert_allclose(found[method].by_step, signs * math.tanh(4), rtol=0, atol=1e-6)
        assert (found[method].relative_delta <= 1e-6).all()
    assert np.abs(found["input_x_gradient"].attributions).max() < 0.01
    assert (found["input_x_gradient"].relative_delta > 0.9).all()


def test_value_and_marker_share_what_was_added():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = features(2, 7).sign() * (0.5 + torch.rand(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    added = (value * marker).numpy()
    gradients, occlusion = (
        lx.attribute(
            adding(), torch.stack([value, marker], 2), target=(-1,), method=method, output=lambda returned: 1e3 * returned[0][..., 0]
        )
        for method in ("integrated_gradients", "occlusion")
    )
    # The table's tolerances: the gate is open to 2e-9, and tanh is linear to 3e-7.
    np.testing.assert_allclose(gradients.output, added.sum(1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients.attributions[..., 0], added / 2, rtol=0, atol=1e-3)
    np.testing.assert_allclose(gradients.attributions[..., 1], added / 2, rtol=0, atol=1e-3)
    np.testing.assert_allclose(occlusion.attributions, added, rtol=0, atol=1e-3)
    assert np.abs(occlusion.attributions[added == 0]).max() < 1e-6
    assert gradients.converged.all()


# ---- Captum, and closed forms


TARGETS = [(4, 2), (1, 0), (2, 5)]


def captums(name, model, inputs, baselines):
    """What Captum gives for `TARGETS`, by the method of ours of that name."""
    if name == "integrated_gradients":
        return captum.attr.IntegratedGradients(model).attribute(inputs, baselines, TARGETS, n_steps=64)
    if name == "occlusion":
        return captum.attr.Occlusion(model).attribute(inputs, (1, 2), baselines=baselines, target=TARGETS)[..., 0]
    gradient = captum.attr.Saliency(model) if name == "saliency" else captum.attr.InputXGradient(model)
    return gradient.attribute(inputs.clone().requires_grad_(), TARGETS)


@pytest.mark.parametrize("lengths", [None, ENDS])
@pytest.mark.parametrize("method", METHODS)
def test_captum_agrees(method, lengths):
    model, inputs = torch_lstm(THREE._replace(bidirectional=True)), features()
    given = features(5, 2, seed=1) if method in ("integrated_gradients", "occlusion") else None
    ours = lx.attribute(model, inputs, target=TARGETS, method=method, baselines=given, lengths=lengths)
    whole = None if given is None else held_at_padding(given, inputs) if lengths else given.expand(3, 5, 2)
    theirs = captums(method, lambda x: model(x)[0], inputs, whole).detach().numpy()
    at = VALID.numpy() if lengths else np.ones((3, 5), bool)
    # Captum rounds to float32: the weights of its integral, and what occlusion changes.
    atol = {"integrated_gradients": 1e-6, "occlusion": 1e-7}.get(method, 1e-12)
    np.testing.assert_allclose(ours.attributions[at], theirs[at], rtol=0, atol=atol)
    assert ours.method == method


def test_occlusion_is_what_changes_when_one_step_gets_the_baseline():
    model, inputs, baseline = peephole_lstm(THREE, "full"), features(), features(5, 2, seed=1)
    result = lx.attribute(model, inputs, target=(-1, 1), baselines=baseline, lengths=ENDS, method="occlusion")
    for example, end in enumerate(ENDS):
        for step in range(end):
            occluded = inputs[example : example + 1].clone()
            occluded[0, step] = baseline[step]
            with torch.no_grad():
                change = model(inputs[example : example + 1])[0] - model(occluded)[0]
            close(result.attributions[example, step], change[0, end - 1, 1])


@pytest.mark.parametrize("lengths", [None, ENDS])
def test_a_linear_output_is_attributed_in_closed_form(lengths):
    inputs, weights, baselines = features(), features(5, 2, seed=1), features(2, seed=2)
    model = Function(lambda x: (weights * x).sum((1, 2)) + 3)
    valid = VALID.unsqueeze(2) if lengths else torch.ones(3, 5, 1)
    expected = weights * (inputs - baselines) * valid
    gradients = lx.attribute(model, inputs, baselines=baselines, lengths=lengths)
    close(gradients.attributions, expected)
    close(gradients.by_step, expected.sum(2))
    close(lx.attribute(model, inputs, baselines=baselines, lengths=lengths, method="occlusion").attributions, expected.sum(2))
    close(lx.attribute(model, inputs, lengths=lengths, method="input_x_gradient").attributions, weights * inputs * valid)
    close(lx.attribute(model, inputs, lengths=lengths, method="saliency").attributions, weights.abs() * valid)
    assert gradients.settings["n_steps"] == [8, 8, 8]


def test_a_quadratic_output_is_attributed_in_closed_form():
    inputs, A, given = features(), features(10, 10, seed=1), features(5, 2, seed=2)
    model = Function(lambda x: torch.einsum("bi,ij,bj->b", x.flatten(1), A, x.flatten(1)))
    baseline = held_at_padding(given, inputs)
    expected = (inputs - baseline) * ((inputs + baseline).flatten(1) / 2 @ (A + A.T)).view(3, 5, 2)
    close(lx.attribute(model, inputs, baselines=given, lengths=ENDS, n_steps=2).attributions, expected)


@pytest.mark.parametrize("method", METHODS)
def test_series_of_single_numbers_keep_their_shape(method):
    result = lx.attribute(Function(lambda x: x.sin().sum(1)), features(3, 5), method=method)
    assert result.attributions.shape == (3, 5)
    expected = {"saliency": features(3, 5).cos().abs(), "input_x_gradient": features(3, 5) * features(3, 5).cos()}
    close(result.by_step, expected.get(method, features(3, 5).sin()))


# ---- Targets


@pytest.mark.parametrize(
    ("of", "target", "explained"),
    [
        ("whole", (3, 1), [(3, 1)] * 3),
        ("whole", (-1, 2), [(4, 2), (1, 2), (3, 2)]),
        ("whole", (-2, 0), [(3, 0), (0, 0), (2, 0)]),
        ("whole", [(4, 2), (-1, 1), (0, 0)], [(4, 2), (1, 1), (0, 0)]),
        ("whole", torch.tensor([[4, 2], [-1, 1], [0, 0]]), [(4, 2), (1, 1), (0, 0)]),
        ("classes", 2, [(2,)] * 3),
        ("classes", (2,), [(2,)] * 3),
        ("classes", [2, 0, 1], [(2,), (0,), (1,)]),
        ("classes", torch.tensor([2, 0, 1]), [(2,), (0,), (1,)]),
        ("classes", torch.tensor(1), [(1,)] * 3),
        ("classes", np.int64(1), [(1,)] * 3),
        ("steps", (3,), [(3,)] * 3),
        ("steps", (-1,), [(4,), (1,), (3,)]),
        ("steps", 3, [(3,)] * 3),
        ("steps", [(-1,), (-2,), (0,)], [(4,), (0,), (0,)]),
        ("halves", (-1, 0), [(1, 0)] * 3),
        ("number", None, [()] * 3),
        ("number", [None] * 3, [()] * 3),
    ],
)
def test_a_target_names_the_element_that_is_explained(of, target, explained):
    chosen = {
        "whole": lambda returned: returned[0],
        "classes": lambda returned: returned[0][:, -1],
        "steps": lambda returned: returned[0][..., 1],
        "halves": lambda returned: returned[0][:, 1::2],
        "number": lambda returned: returned[0].sum((1, 2)),
    }[of]
    model, inputs = torch_lstm(THREE), features()
    # Steps into padding are refused.
    lengths = None if isinstance(target, tuple) and target[0] == 3 else ENDS
    with torch.no_grad():
        rows = chosen(model(inputs))
    for method in ("integrated_gradients", "occlusion"):
        result = lx.attribute(model, inputs, target=target, lengths=lengths, output=chosen, method=method)
        close(result.output, torch.stack([row[index] for row, index in zip(rows, explained, strict=True)]))
        assert result.explained == tuple(f"output[{', '.join(map(str, index))}]" if index else "output" for index in explained)


def test_of_a_tuple_the_first_is_explained():
    model, inputs = torch_lstm(THREE), features()
    first = lx.attribute(model, inputs, target=(2, 1))
    close(first.attributions, lx.attribute(model, inputs, target=(2, 1), output=lambda returned: returned[0]).attributions)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["padded", "packed", "tokens"])
def test_an_example_is_explained_as_if_it_were_alone_and_without_padding(kind, method):
    model, inputs, target = {
        "padded": (peephole_lstm(THREE._replace(num_layers=2), "full"), features(), (-1, 1)),
        "packed": (Packed(), features(), 4),
        "tokens": (Words(), tokens(), (-1, 1)),
    }[kind]
    extra = {"additional_forward_args": torch.tensor(ENDS)} if kind == "packed" else {}
    together = lx.attribute(model, inputs, target=target, lengths=ENDS, method=method, **extra)
    for at, n in enumerate(ENDS):
        extra = {"additional_forward_args": (torch.tensor([n]),)} if kind == "packed" else {}
        alone = lx.attribute(model, inputs[at : at + 1, :n], target=target, method=method, **extra)
        close(together.attributions[at, :n], alone.attributions[0])
        close(together.output[at], alone.output[0])


# ---- Tokens


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_attributed_as_the_rest_of_the_network_attributes_their_embeddings(method):
    model = Words()
    ours = lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, method=method)
    rest = lx.attribute(model.rest, model.embedding(tokens()), target=(-1, 2), lengths=ENDS, method=method)
    assert ours.attributions.shape == ((3, 5) if method == "occlusion" else (3, 5, 3))
    close(ours.attributions, rest.attributions)
    close(ours.output, rest.output)
    assert (ours.settings["embedding"], rest.settings["embedding"]) == ("embedding", None)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize(
    ("given", "as_vectors", "said"),
    [
        (None, lambda table: torch.zeros(3), "0"),
        (0, lambda table: table[0], "token 0"),
        (3, lambda table: table[3], "token 3"),
        (torch.tensor([8, 1, 1, 1, 2]), lambda table: table[[8, 1, 1, 1, 2]], "token tensor (5,)"),
        (torch.tensor(3) - tokens().clamp(max=3), lambda table: table[3 - tokens().clamp(max=3)], "token tensor (3, 5)"),
        (torch.tensor([0.5, -1.0, 2.0]), lambda table: torch.tensor([0.5, -1.0, 2.0]), "tensor (3,)"),
        (0.25, lambda table: torch.full((3,), 0.25), "0.25"),
    ],
)
def test_a_baseline_is_a_token_or_tokens_or_a_vector_or_a_number(given, as_vectors, said, method):
    model = Words()
    ours = lx.attribute(model, tokens(), target=(-1, 2), baselines=given, method=method)
    table = model.embedding.weight.detach()
    rest = lx.attribute(model.rest, table[tokens()], target=(-1, 2), baselines=as_vectors(table).double(), method=method)
    close(ours.attributions, rest.attributions)
    close(ours.baseline_output, rest.baseline_output)
    assert ours.settings["baselines"] == said


@pytest.mark.parametrize("method", METHODS)
def test_tokens_may_be_turned_to_time_first_before_they_are_embedded(method):
    first, last = (lx.attribute(Words(turned), tokens(), target=(-1, 2), lengths=ENDS, method=method) for turned in (False, True))
    close(first.attributions, last.attributions)
    close(first.output, last.output)


class TwoTables(Words):
    def __init__(self):
        super().__init__()
        self.other = randomise(nn.Embedding(9, 3).double(), seed=1)

    def forward(self, tokens):
        return self.rest(self.embedding(tokens) + self.other(tokens))[0]


def test_of_two_embeddings_one_is_named():
    model = TwoTables()
    with pytest.raises(lx.InputError, match="needed one torch.nn.Embedding .*, found embedding, other: say which with embedding="):
        lx.attribute(model, tokens(), target=(-1, 2))
    ours = lx.attribute(model, tokens(), target=(-1, 2), embedding="other")
    assert ours.settings["embedding"] == "other"
    rest = Function(lambda x: model.rest(model.embedding(tokens()[:1]) + x)[0])
    close(ours.attributions[:1], lx.attribute(rest, model.other(tokens()[:1]), target=(-1, 2)).attributions)


class Twice(Words):
    def forward(self, tokens):
        return self.rest(self.embedding(tokens) + self.embedding(tokens).flip(1))[0]


class Shifted(Words):
    def forward(self, tokens):
        return self.rest(self.embedding(tokens[:, 1:]))[0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Twice, "needed embedding to be called once in a forward pass, got a second call"),
        (Shifted, r"needed embedding to be called with the inputs, got \(2, 4\) that differs: name another layer"),
    ],
)
def test_tokens_whose_place_is_not_certain_are_refused(model, message):
    model = model()
    before = whereabouts(model)
    with pytest.raises(lx.InputError, match=message):
        lx.attribute(model, tokens(), target=(-1, 2))
    assert whereabouts(model) == before


# ---- Nothing is left behind


def worn(fails_at=0):
    """A model in mixed modes, with a gradient of its own, parameters that aren't trained, and a forward pass put in from outside."""
    model = Worn(fails_at)
    model.embedding.forward = model.embedding.forward
    model.rest.eval()
    model.embedding.requires_grad_(False)
    model.rest.weight_hh_l0.grad = torch.ones_like(model.rest.weight_hh_l0)
    return model


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_model_settings_and_random_state_are_as_before(method, cudnn):
    model = worn()
    with torch.backends.cudnn.flags(enabled=cudnn):
        before = whereabouts(model)
        lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, method=method)
        assert whereabouts(model) == before
    assert {called[:3] == ({False}, False, False) for called in model.found} == {True}


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 7, 9, 10])
def test_they_are_as_before_when_the_model_fails(fails_at):
    model = worn(fails_at)
    before = whereabouts(model)
    with pytest.raises(lx.InputError, match="the model can't be called with inputs of shape .*: ValueError: worn out$"):
        lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, internal_batch_size=4)
    assert len(model.found) == fails_at
    assert whereabouts(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_inputs_and_baselines_are_as_before(method):
    model = torch_lstm(THREE)
    inputs, baselines, lengths = features().requires_grad_(), torch.ones(5, 2, dtype=torch.float64), torch.tensor(ENDS)
    given = {} if method in ("saliency", "input_x_gradient") else {"baselines": baselines}
    lx.attribute(model, inputs, target=(-1, 1), lengths=lengths, method=method, **given)
    assert inputs.grad is None and inputs.requires_grad and torch.equal(inputs, features())
    assert (baselines == 1).all() and lengths.tolist() == ENDS
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
def test_it_works_where_gradients_are_off(method, mode):
    packed, words = Packed(), Words()
    expected = lx.attribute(packed, features(), target=4, additional_forward_args=torch.tensor(ENDS), method=method)
    expected_words = lx.attribute(words, tokens(), target=(-1, 2), method=method)
    with mode():
        before = whereabouts(packed), whereabouts(words)
        result = lx.attribute(packed, features(), target=4, additional_forward_args=torch.tensor(ENDS), method=method)
        result_words = lx.attribute(words, tokens(), target=(-1, 2), method=method)
        assert (whereabouts(packed), whereabouts(words)) == before
    np.testing.assert_array_equal(result.attributions, expected.attributions)
    np.testing.assert_array_equal(result_words.attributions, expected_words.attributions)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_stays_off(method):
    model = randomise(nn.LSTM(2, 3, 2, batch_first=True, dropout=0.9).double())
    found = [lx.attribute(model.train(mode), features(), target=(-1, 1), method=method).attributions for mode in (True, False, True)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# ---- Batches


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_the_size_of_a_batch_changes_nothing(rows, method):
    model, lengths = Packed(), torch.tensor(ENDS)
    options = {"target": [4, 0, 1], "lengths": ENDS, "additional_forward_args": (lengths,), "method": method}
    expected = lx.attribute(model, features(), **options)
    result = lx.attribute(model, features(), internal_batch_size=rows, **options)
    close(result.attributions, expected.attributions)
    close(result.output, expected.output)
    assert result.settings == expected.settings


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "input_x_gradient"])
def test_no_more_rows_go_through_the_model_than_allowed(method):
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2), method=method, internal_batch_size=2)
    assert max(called[3] for called in model.found) == 2


def test_without_a_word_many_nodes_go_through_the_model_at_once():
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2))
    assert max(called[3] for called in model.found) >= 24


@pytest.mark.parametrize("method", METHODS)
def test_what_else_the_model_reads_goes_along_with_its_example(method):
    scale, shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 0.25], dtype=torch.float64)

    def function(x, scale, shift, power, word, nothing):
        assert (word, nothing) == ("word", None)
        return scale * ((x + shift) ** power).sum((1, 2))

    args = (scale, shift, torch.tensor(2), "word", None)
    result = lx.attribute(Function(function), features(), additional_forward_args=args, method=method, internal_batch_size=2)
    x = features()
    square = (x + shift) ** 2 - shift**2
    gradient = 2 * (x + shift) * scale.view(3, 1, 1)
    expected = {"saliency": gradient.abs(), "input_x_gradient": x * gradient, "occlusion": (scale.view(3, 1, 1) * square).sum(2)}
    close(result.attributions, expected.get(method, scale.view(3, 1, 1) * square))


# ---- Not converged, and said so


def test_too_few_nodes_are_said():
    model, inputs = torch_lstm(THREE), 4 * features()
    result = lx.attribute(model, inputs, target=(-1, 1), n_steps=1)
    assert not result.converged.any() and (result.relative_delta > 1e-6).all()
    assert result.attributions.shape == (3, 5, 2) and result.settings["n_steps"] == [1, 1, 1]
    assert "within 1e-06 (or rounding) for 0 of 3" in repr(result)
    assert result._repr_html_().count("<td>no</td>") == 3


def test_only_those_that_need_more_nodes_get_them():
    inputs = torch.ones(3, 5, 2, dtype=torch.float64) * torch.tensor([0.1, 30.0, 6.0], dtype=torch.float64).view(3, 1, 1)
    result = lx.attribute(Function(lambda x: x.tanh().sum((1, 2))), inputs)
    easy, hard, fair = result.settings["n_steps"]
    assert easy == 8 < fair < hard <= 512 and result.converged.all()
    # Along x = 30 α, the integral of each feature's gradient is tanh 30 in closed form.
    np.testing.assert_allclose(result.attributions, inputs.tanh(), rtol=2e-6)
    short = lx.attribute(Function(lambda x: x.tanh().sum((1, 2))), inputs, n_steps=20)
    assert short.converged.tolist() == [True, False, fair <= 20] and short.settings["n_steps"] == [8, 20, min(fair, 20)]


def test_a_tolerance_is_kept_to():
    model, inputs = Function(lambda x: (5 * x).tanh().sum((1, 2))), features()
    loose, strict = (lx.attribute(model, inputs, tolerance=tolerance) for tolerance in (1e-1, 1e-10))
    assert loose.converged.all() and strict.converged.all()
    assert (loose.relative_delta <= 1e-1).all() and (strict.relative_delta <= 1e-10).all() and (loose.relative_delta > 1e-10).any()
    assert sum(loose.settings["n_steps"]) < sum(strict.settings["n_steps"])
    assert "within 0.1 (or rounding) for 3 of 3" in repr(loose)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_tolerance_is_a_share_of_the_difference(scale):
    model, inputs = torch_lstm(THREE), features()
    plain = lx.attribute(model, inputs, target=(-1, 1), n_steps=4)
    scaled = lx.attribute(model, inputs, target=(-1, 1), n_steps=4, output=lambda returned: scale * returned[0])
    np.testing.assert_allclose(scaled.relative_delta, plain.relative_delta, rtol=1e-6)
    assert scaled.converged.tolist() == plain.converged.tolist() and not plain.converged.all()


def test_a_difference_that_drowns_in_rounding_has_converged():
    result = lx.attribute(Function(lambda x: 1e9 + 1e-3 * x.sum((1, 2))), features())
    assert (result.relative_delta > 1e-6).all()
    assert result.converged.all() and result.settings["n_steps"] == [8, 8, 8]


def test_outputs_that_do_not_differ_need_no_share():
    at_baseline = lx.attribute(torch_lstm(THREE), torch.zeros(3, 5, 2, dtype=torch.float64), target=(-1, 1))
    assert at_baseline.converged.all() and (at_baseline.attributions == 0).all() and at_baseline.relative_delta.tolist() == [0, 0, 0]
    inputs = torch.ones(1, 2, 1, dtype=torch.float64)
    product = lx.attribute(Function(lambda x: x[:, 0, 0] - x[:, 1, 0] ** 2), inputs, method="input_x_gradient")
    assert product.relative_delta.tolist() == [np.inf] and product.converged is None


def test_saliency_makes_no_claim():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method="saliency")
    assert result.baseline_output is result.convergence_delta is result.relative_delta is result.converged is None
    assert "doesn't claim to add up" in repr(result) and "doesn&#x27;t claim to add up" in result._repr_html_()
    assert result.settings["baselines"] is None


@pytest.mark.parametrize("method", ["input_x_gradient", "occlusion"])
def test_methods_that_need_not_add_up_say_by_how_much_they_do_not(method):
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method=method)
    close(result.convergence_delta, result.by_step.sum(1) - (result.output - result.baseline_output))
    close(result.relative_delta, np.abs(result.convergence_delta / (result.output - result.baseline_output)))
    assert result.converged is None and "but it doesn't claim to add up" in repr(result)


# ---- What doesn't fit


LATER = {"output": lambda returned: returned[0][:, -1]}
REFUSED = {
    "step_beyond_its_end": ({"target": (3, 0), "lengths": ENDS}, "needed target step from -2 to 1 for example 1, got 3"),
    "step_before_the_start": ({"target": (-6, 0)}, "needed target step from -5 to 4 for example 0, got -6"),
    "step_of_one_example": ({"target": [(0, 0), (0, 0), (5, 0)]}, "needed target step from -5 to 4 for example 2, got 5"),
    "step_of_a_series": (
        {"target": (-3,), "lengths": ENDS, "output": lambda r: r[0][..., 0]},
        "needed target step from -2 to 1 for example 1, got -3",
    ),
    "class_beyond_the_last": ({"target": (0, 3)}, "needed target class from 0 to 2, got 3"),
    "class_below_zero": ({"target": (0, -1)}, "needed target class from 0 to 2, got -1"),
    "class_of_classes": (LATER | {"target": 3}, "needed target class from 0 to 2, got 3"),
    "no_target": ({"target": None}, "needed target as (step, class) for an output of shape (3, 5, 3), got None"),
    "no_class": (LATER | {"target": None}, "needed target as a class, or a step as (step,) for an output of shape (3, 3), got None"),
    "no_step": ({"target": 1}, "needed target as (step, class) for an output of shape (3, 5, 3), got 1"),
    "too_much_target": (
        {"target": 1, "output": lambda r: r[0].sum((1, 2))},
        "needed target as None for an output of shape (3,), got 1",
    ),
    "two_targets": ({"target": [(0, 0), (1, 1)]}, "needed one target, or a list of 3, one for each example, got 2"),
    "output_with_four_axes": (
        {"output": lambda r: r[0].unsqueeze(1)},
        "needed an output (batch[, step][, class]), got (3, 1, 5, 3): choose from it with output=",
    ),
    "output_without_a_batch": (
        {"output": lambda r: r[0].sum()},
        "needed an output whose first axis is the batch, 3 here, got shape (): rearrange it with output=",
    ),
    "output_time_first": (
        {"output": lambda r: r[0].transpose(0, 1)},
        "needed an output whose first axis is the batch, 3 here, got shape (5, 3, 3): rearrange it with output=",
    ),
    "output_no_tensor": ({"output": lambda r: r[1]}, "needed a tensor to explain, got tuple: say how to get one with output="),
    "output_fails": ({"output": lambda r: r["logits"]}, "output= failed on what the model returned: TypeError: tuple indices must be"),
    "output_detached": (
        {"output": lambda r: r[0].detach()},
        "needed a gradient from the output to the inputs, got none: something on the way detaches; occlusion needs none",
    ),
    "output_not_a_number": ({"output": lambda r: r[0] / 0 * 0}, "needed a finite output, got nan for example 0"),
    "input_not_a_number": (
        {"inputs": features().index_fill(0, torch.tensor(1), math.inf)},
        "needed a finite output, got nan for example 1",
    ),
    "baseline_not_a_number": (
        {"baselines": math.nan},
        "needed a finite output, got nan for example 0 at the baseline: choose another with baselines=",
    ),
    "baseline_of_another_shape": (
        {"baselines": torch.zeros(4, 2)},
        "needed baselines as a number or a tensor that broadcasts to (3, 5, 2), got shape (4, 2)",
    ),
    "baseline_for_saliency": ({"method": "saliency", "baselines": 0}, "needed no baselines for saliency, which has none, got some"),
    "baseline_for_input_x_gradient": (
        {"method": "input_x_gradient", "baselines": 0.0},
        "needed no baselines for input_x_gradient, which has none, got some",
    ),
    "lengths_too_few": ({"lengths": [5, 2]}, "needed lengths as 3 whole numbers, one for each sequence, got [5, 2]"),
    "lengths_too_long": ({"lengths": [5, 6, 2]}, "needed lengths from 1 to 5, got 6 for sequence 1"),
    "inputs_without_embedding": (
        {"inputs": tokens()},
        "needed one torch.nn.Embedding to attribute whole-number inputs in its space, found none: give features as floating-point numbers",
    ),
    "inputs_one_hot": (
        {"inputs": one_hot(tokens())},
        "needed whole-number inputs as (batch, time), or features as floating-point numbers, got (3, 5, 9)",
    ),
    "inputs_with_embedding": (
        {"embedding": "embedding"},
        "needed whole-number inputs with embedding='embedding', got torch.float64",
    ),
    "inputs_empty": (
        {"inputs": torch.zeros(3, 0, 2)},
        "needed inputs as a tensor (batch, time[, feature]), none of them zero, got shape (3, 0, 2)",
    ),
    "inputs_flat": ({"inputs": torch.zeros(3)}, "needed inputs as a tensor (batch, time[, feature]), none of them zero, got shape (3,)"),
    "inputs_no_tensor": (
        {"inputs": features().numpy()},
        "needed inputs as a tensor (batch, time[, feature]), none of them zero, got ndarray",
    ),
    "inputs_complex": ({"inputs": features() * 1j}, "needed real inputs, got complex ones"),
    "inputs_of_another_size": (
        {"inputs": features(3, 5, 4)},
        "the model can't be called with inputs of shape (3, 5, 4), float64: RuntimeError: input.size(-1) must be equal to input_size",
    ),
    "model_time_first": (
        {"model": torch_lstm(THREE._replace(layout="time_first"))},
        "needed a model that reads each example by itself, batch first: example 2's output changes by ",
    ),
    "model_mixes_examples": (
        {"model": Function(lambda x: (x - x.mean(0)).tanh().sum((1, 2))), "target": None},
        "needed a model that reads each example by itself, batch first: example 2's output changes by ",
    ),
    "model_no_module": ({"model": len}, "needed a torch.nn.Module, got builtin_function_or_method"),
    "no_nodes": ({"n_steps": 0}, "needed n_steps as a positive whole number, got 0"),
    "no_rows": ({"internal_batch_size": 0}, "needed internal_batch_size as a positive whole number, got 0"),
}


def refused(model, inputs, **options):
    """What an `InputError` says, which is one line."""
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(model, inputs, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_needed_and_what_came(case):
    given, message = REFUSED[case]
    assert refused(**({"model": torch_lstm(THREE), "inputs": features(), "target": (-1, 0)} | given)).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"baselines": 9}, "needed baseline tokens from 0 to 8, got 9 to 9; a vector is given as floating-point numbers"),
        ({"baselines": torch.tensor([-1, 3, 3, 3, 3])}, "needed baseline tokens from 0 to 8, got -1 to 3; a vector is given as"),
        (
            {"baselines": torch.tensor([1, 2])},
            "needed baselines as a number or a tensor that broadcasts to (3, 5, 3), got shape (2, 3)",
        ),
        ({"inputs": tokens() + 1}, "embedding can't read the inputs: IndexError: index out of range"),
        ({"embedding": "rest"}, "needed embedding as the path of a torch.nn.Embedding, one of embedding, got 'rest'"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(given, message):
    assert refused(**({"model": Words(), "inputs": tokens(), "target": (-1, 0)} | given)).startswith(message)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("integrated_gradient", "integrated_gradients"),
        ("IntegratedGradients", "integrated_gradients"),
        ("Saliency", "saliency"),
        ("saliancy", "saliency"),
        ("InputXGradient", "input_x_gradient"),
        ("input x gradient", "input_x_gradient"),
        ("occlussion", "occlusion"),
    ],
)
def test_a_misspelt_method_is_told_the_nearest(name, nearest):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said == f"needed method as one of {', '.join(KNOWN)}, got {name!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("name", ["fanova", "", "x", None])
def test_a_method_like_no_other_is_told_which_there_are(name):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said == f"needed method as one of {', '.join(KNOWN)}, got {name!r}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "deep_lift is refused: its rules don't cover products of gates") for name in ("deep_lift", "DeepLift", "deeplift")),
        *(
            (name, "deep_lift_shap is refused: its rules don't cover products of gates")
            for name in ("deep_lift_shap", "deeplift_shap", "DeepLiftShap", "deepliftshap")
        ),
        *(
            (name, "guided_backprop is refused: it changes the gradient of ReLUs, and a recurrent layer has none")
            for name in ("guided_backprop", "GuidedBackprop", "guided-backprop", "guided_backpropagation")
        ),
        *(
            (name, "deconvolution is refused: it changes the gradient of ReLUs, and a recurrent layer has none")
            for name in ("deconvolution", "Deconvolution", "deconv")
        ),
    ],
)
def test_methods_that_are_wrong_on_gates_are_refused_with_the_reason(name, reason):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said.startswith(reason) and said.endswith("; use integrated_gradients, or occlusion as a check on it")


def test_occlusion_needs_no_gradient():
    result = lx.attribute(Function(lambda x: x.detach().sum((1, 2))), features(), method="occlusion")
    close(result.attributions, features().sum(2))


# ---- The result


def test_the_result_reads_in_one_line():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), lengths=ENDS)
    worst = result.relative_delta.max()
    assert repr(result) == (
        f"<Attribution by integrated_gradients: batch 3, time 5, of output[4, 1], ...; residual at most {worst:.1e} of the difference of "
        "outputs, within 1e-06 (or rounding) for 3 of 3; padding known>"
    )
    assert "of output[2, 1]; residual" in repr(lx.attribute(torch_lstm(THREE), features(), target=(2, 1)))


def test_the_table_names_the_strongest_step_of_each_example():
    inputs = torch.tensor([[1.0, -7.0, 2.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    html = lx.attribute(Function(lambda x: x.sum(1)), inputs)._repr_html_()
    assert "<td>1 (-7)</td>" in html and "<td>2 (4)</td>" in html and html.count("<td>yes</td>") == 2 and html.count("<tr>") == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_escaped(method):
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method=method)
    html = replace(result, explained=("<script>", "&", '"'), method="<i>")._repr_html_()
    assert "<script>" not in html and "<i>" not in html and "<td>&lt;script&gt;</td>" in html


@pytest.mark.parametrize("method", METHODS)
def test_the_result_exports(method):
    result = lx.attribute(Words(), tokens(), target=(-1, 1), lengths=ENDS, method=method)
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["attributions"] == result.attributions.tolist() and exported["method"] == method
    assert exported["explained"] == ["output[4, 1]", "output[1, 1]", "output[3, 1]"] and exported["settings"]["embedding"] == "embedding"
    assert (exported["converged"] is None) == (method != "integrated_gradients")
    frame = result.to_frame()
    assert list(zip(frame["example"], frame["step"], strict=True)) == [tuple(index) for index in VALID.nonzero().tolist()]
    np.testing.assert_array_equal(frame["attribution"], result.by_step[VALID])


def test_what_is_not_finite_is_exported_as_none():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1))
    exported = replace(result, attributions=np.full_like(result.attributions, np.nan), output=np.full(3, np.inf)).to_dict()
    assert exported["output"] == [None] * 3 and exported["attributions"][0][0] == [None, None]
    json.dumps(exported, allow_nan=False)


# ---- Models and arguments that once went wrong


class Unpacked(Packed):
    """Every step's output; its time axis is as long as the longest sequence of the pass."""

    def forward(self, inputs, lengths):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("rows", [1, 2, None])
def test_the_last_valid_step_of_outputs_that_are_cut_to_the_longest(rows):
    lengths = torch.tensor([3, 2, 5])
    options = {"lengths": lengths, "additional_forward_args": lengths, "internal_batch_size": rows}
    result = lx.attribute(Unpacked(), features(), target=(-1, 1), **options)
    assert result.explained == ("output[2, 1]", "output[1, 1]", "output[4, 1]")


@pytest.mark.parametrize("lengths", [[4, 2, 4], [4, 2, 3]])
def test_the_last_valid_step_where_no_sequence_fills_the_batch(lengths):
    lengths = torch.tensor(lengths)
    result = lx.attribute(Unpacked(), features(), target=(-1, 1), lengths=lengths, additional_forward_args=lengths)
    assert result.explained == tuple(f"output[{n - 1}, 1]" for n in lengths.tolist())


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_a_baseline_may_be_computed_from_the_weights(method):
    model = Words()
    mean = model.embedding.weight.mean(0)
    expected = lx.attribute(model, tokens(), target=(-1, 2), baselines=mean.detach(), method=method)
    close(lx.attribute(model, tokens(), target=(-1, 2), baselines=mean, method=method).attributions, expected.attributions)


def test_a_hook_on_the_embedding_is_applied_once():
    model = Words()
    model.embedding.register_forward_hook(lambda module, args, output: 2 * output)
    close(lx.attribute(model, tokens(), target=(4, 2)).output, model(tokens())[:, 4, 2].detach())


@pytest.mark.parametrize("method", METHODS)
def test_padding_that_is_not_a_number_gets_exactly_zero(method):
    inputs = features()
    inputs[~VALID] = float("nan")
    result = lx.attribute(Packed(), inputs, target=4, lengths=ENDS, additional_forward_args=torch.tensor(ENDS), method=method)
    assert (result.attributions[~VALID] == 0).all()


def test_occlusion_keeps_to_internal_batch_size():
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2), method="occlusion", internal_batch_size=2)
    assert max(called[3] for called in model.found) == 2


@pytest.mark.parametrize("method", METHODS)
def test_time_first_tokens_that_read_the_same_both_ways(method):
    same = torch.tensor([[1, 3], [3, 3]])
    first, last = (lx.attribute(Words(turned), same, target=(-1, 2), method=method) for turned in (False, True))
    close(first.attributions, last.attributions)


@pytest.mark.parametrize("method", ["kernel_shap", "KernelShap"])
def test_kernel_shap_is_not_called_deep_lift(method):
    assert "deep_lift" not in refused(torch_lstm(THREE), features(), target=(-1, 0), method=method)


@pytest.mark.parametrize("target", ["a", (0, "a"), (1.7, 0), (True, 0)])
def test_targets_that_are_no_whole_numbers_are_refused(target):
    refused(torch_lstm(THREE), features(), target=target)


def test_a_class_of_a_fraction_is_refused():
    refused(torch_lstm(THREE), features(), target=1.9, output=lambda r: r[0][:, -1])


@pytest.mark.parametrize("given", [{"baselines": "pad"}, {"n_steps": 1.5}, {"tolerance": float("nan")}, {"tolerance": -1.0}])
def test_arguments_of_another_kind_are_refused(given):
    refused(torch_lstm(THREE), features(), target=(-1, 0), **given)


def test_a_middle_axis_out_of_range_is_refused():
    refused(torch_lstm(THREE), features(), target=(0, 9, 0), output=lambda r: r[0].unsqueeze(1))


def test_a_model_that_writes_into_its_input_is_not_said_to_mix_examples():
    assert "reads each example by itself" not in refused(Function(lambda x: x.mul_(2).sum((1, 2))), features())


def test_an_output_of_truth_values_is_refused():
    refused(Function(lambda x: x.sum((1, 2)) > 0), features(), method="occlusion")


def test_occlusion_refuses_an_embedding_that_is_never_called():
    class Table(Words):
        def forward(self, tokens):
            return self.rest(self.embedding.weight[tokens])[0]

    refused(Table(), tokens(), target=(-1, 2), method="occlusion")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_bytes_that_the_model_widens_itself(dtype):
    class Bytes(Words):
        def forward(self, tokens):
            return super().forward(tokens.long())

    close(
        lx.attribute(Bytes(), tokens().to(dtype), target=(-1, 2)).attributions, lx.attribute(Words(), tokens(), target=(-1, 2)).attributions
    )


def test_no_trailing_space():
    said = refused(torch_lstm(THREE), float("nan") * features(), target=(-1, 0))
    assert said == said.strip()


def test_other_tensors_made_in_inference_mode():
    with torch.inference_mode():
        w = features(2)
        lx.attribute(Function(lambda x, w: (x * w).tanh().sum((1, 2))), features(), additional_forward_args=w)


def test_targets_may_be_an_array():
    wanted = [(0, 1), (2, 0), (-1, 2)]
    as_array, as_list = (lx.attribute(torch_lstm(THREE), features(), target=target) for target in (np.array(wanted), wanted))
    assert as_array.explained == as_list.explained


def test_in_a_notebook_without_widgets_captum_says_nothing():
    # tqdm.auto warns where IPython runs without ipywidgets.
    code = (
        "import sys, types, warnings\n"
        "warnings.simplefilter('error')\n"
        "import torch, lstm_explain as lx\n"
        "from lstm_explain.analyses.attribution.methods import captum\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tqdm.auto': warnings.warn('IProgress not found. Please update jupyter')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "captum().Saliency\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
