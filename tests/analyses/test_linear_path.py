"""Integrated gradients by one run for the whole path, against the definition: one example, one node, one step at a time."""

import numpy as np
import pytest
import torch
import unrolled
from cases import FORMS, Case, close, peephole_lstm, randomise, torch_lstm
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import lstm_explain as lx
from lstm_explain.analyses.attribution import methods

THREE = Case("batch_first", (5, 5, 5))
"""Three sequences of five steps of two features; three units."""
LENGTHS = torch.tensor([4, 2, 5])
NATIVE = lx.backend().name == "native"
BASELINE = 0.25
FUSED = "kernels of lstm; from 1 nodes on fused into lstm"


@pytest.fixture(autouse=True)
def however_few_nodes(monkeypatch):
    monkeypatch.setattr(methods, "FEWEST_FUSED", 1)


def features(*shape):
    return torch.randn(*shape or (3, 5, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """What `front` makes of the points, an LSTM, and a number that has to do with everything it returns."""

    def __init__(self, lstm, front=None, packed=False):
        super().__init__()
        self.lstm, self.front, self.packed = lstm, front or nn.Identity(), packed

    def forward(self, x, lengths=None):
        x = self.front(x)
        if self.packed:
            x = pack_padded_sequence(x, lengths, batch_first=self.lstm.batch_first, enforce_sorted=False)
        elif not self.lstm.batch_first:
            x = x.transpose(0, 1)
        output, (h_n, c_n) = self.lstm(x)
        if self.packed:
            output, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
        elif not self.lstm.batch_first:
            output = output.transpose(0, 1)
        return number(output, h_n.transpose(0, 1), c_n.transpose(0, 1))

    def alone(self, x):
        """One sequence, by the equations."""
        sizes = self.lstm.proj_size or self.lstm.hidden_size, self.lstm.hidden_size
        layers = self.lstm.num_layers * (2 if self.lstm.bidirectional else 1)
        states = [torch.zeros(layers, 1, size, dtype=torch.float64) for size in sizes]
        [(_, output, ends)] = unrolled.run(self.lstm, [self.front(x.unsqueeze(0))[0]], states)
        return number(output.unsqueeze(0), *(end.unsqueeze(0) for end in ends))[0]


def number(output, h_n, c_n):
    return output.cumsum(2).sin().sum((1, 2)) + h_n.square().sum((1, 2)) + c_n.tanh().sum((1, 2))


def by_definition(alone, inputs, baselines, nodes, lengths=None):
    """(x - x') times the mean gradient between, by as many nodes; `alone` gives the number of one example."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    found = torch.zeros_like(inputs)
    for at in range(len(inputs)):
        time = inputs.shape[1] if lengths is None else int(lengths[at])
        x, other = inputs[at, :time], baselines[at, :time]
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            point = (other + place * (x - other)).requires_grad_()
            found[at, :time] += weight * torch.autograd.grad(alone(point), point)[0]
        found[at, :time] *= x - other
    return found


def batched(model):
    """A model as the number of one example."""
    return lambda point: model(point.unsqueeze(0))[0]


def path_of(model, inputs=None, how=None, nodes=3, **options):
    """How it was computed, after it has been found right."""
    inputs = features() if inputs is None else inputs
    result = lx.attribute(model, inputs, baselines=BASELINE, n_steps=nodes, **options)
    expected = by_definition(how or batched(model), inputs, torch.full_like(inputs, BASELINE), nodes, options.get("lengths"))
    close(result.attributions, expected)
    return result.settings["path"]


CASES = [
    pytest.param(THREE, id="one_layer"),
    pytest.param(THREE._replace(layout="time_first", num_layers=2, bidirectional=True), id="two_layers_both_ways_time_first"),
    pytest.param(THREE._replace(bidirectional=True, proj_size=2, bias=False), id="both_ways_projected"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", [*FORMS[:4], "torch"])
def test_the_whole_path_at_once_is_the_sum_of_its_nodes(form, case, packed):
    lstm = torch_lstm(case) if form == "torch" else peephole_lstm(case, *form)
    front = randomise(nn.Linear(2, 2).double(), 1) if case.bidirectional else None
    model = Model(lstm, front, packed)
    lstm.batch_first |= packed
    given = {"lengths": LENGTHS, "additional_forward_args": LENGTHS} if packed else {}
    assert path_of(model, how=model.alone, **given) == (FUSED if NATIVE or form != "torch" else "the model itself")


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_parts_of_the_path_add_up_to_the_whole(rows):
    model = Model(peephole_lstm(THREE, "full"), nn.Linear(2, 2).double())
    assert path_of(model, nodes=5, internal_batch_size=rows) == FUSED


@pytest.mark.parametrize("fewest", [1, 16, 1024])
def test_nodes_are_doubled_for_those_that_need_more(fewest, monkeypatch):
    monkeypatch.setattr(methods, "FEWEST_FUSED", fewest)
    model, inputs = Model(peephole_lstm(THREE, "full")), features() * torch.tensor([0.1, 5.0, 1.0], dtype=torch.float64).view(3, 1, 1)
    result = lx.attribute(model, inputs)
    assert result.settings["path"] == (FUSED.replace("1", str(fewest)) if fewest < 1024 else "kernels of lstm") and result.converged.all()
    used = result.settings["n_steps"]
    assert used[0] == 8 < used[1]
    for at, nodes in enumerate(used):
        one = inputs[at : at + 1]
        close(result.attributions[at : at + 1], by_definition(batched(model), one, torch.zeros_like(one), nodes))


def test_in_float32_it_is_what_captum_gives():
    from captum.attr import IntegratedGradients

    model = Model(nn.LSTM(2, 3, batch_first=True)).eval()
    inputs = features().float()
    by_captum = IntegratedGradients(model).attribute(inputs, inputs * 0 + BASELINE, n_steps=8)
    result = lx.attribute(model, inputs, baselines=BASELINE, n_steps=8)
    np.testing.assert_allclose(result.attributions, by_captum, rtol=0, atol=1e-6)
    assert result.settings["path"] == (FUSED if NATIVE else "the model itself")


def test_tokens_are_fused_behind_their_embedding():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.below = nn.Embedding(9, 4).double(), nn.Linear(4, 2).double()
            self.lstm = peephole_lstm(THREE, "diagonal", "graves")

        def forward(self, tokens):
            return self.lstm(self.below(self.embedding(tokens)))[0][:, -1]

    model, tokens = Words(), torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]])
    result = lx.attribute(model, tokens, target=1, baselines=0, n_steps=3)
    assert result.settings["path"] == FUSED
    vectors = model.embedding(tokens).detach()

    def alone(point):
        return model.lstm(model.below(point.unsqueeze(0)))[0][0, -1, 1]

    close(result.attributions, by_definition(alone, vectors, model.embedding.weight[0].detach().expand_as(vectors), 3))


# ---- What else the output may have of the points


class Beside(Model):
    """The points also pass the layer by, as its initial state and around it."""

    def forward(self, x):
        first = x[:, 0, :1].expand(-1, 3).tanh().unsqueeze(0)
        output, states = self.lstm(x, (first.contiguous(), first.square().contiguous()))
        return number(output, *(state.transpose(0, 1) for state in states)) + (x**3).sum((1, 2))


class Twice(Model):
    """The same layer reads the points forward, and what is linear in them backward; another one reads what it returns."""

    def __init__(self, lstm):
        super().__init__(lstm)
        self.above = peephole_lstm(THREE._replace(input_size=3), "full")

    def forward(self, x):
        one, other = self.lstm(x)[0], self.lstm(3 * x.flip(1) + 1)[0]
        output, states = self.above(one * other)
        return number(output, *(state.transpose(0, 1) for state in states))


@pytest.mark.parametrize("kind", [Beside, Twice])
def test_everything_that_the_output_has_of_the_points_counts(kind):
    assert path_of(kind(peephole_lstm(THREE, "full"))).endswith("fused into lstm")


# ---- What isn't linear, and what only looks it


def bump(at):
    """Adds something at one place of the path alone, for inputs of 1 and baselines of 0."""
    return lambda x: x + (0.004 - (x - at).abs()).relu()


def crossed(x):
    """Linear along a path on which both features are the same, and yet not linear."""
    a, b = x.split(1, 2)
    return torch.cat([a + (b - a) * a.exp(), b], 2)


class Front(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


NONLINEAR = {
    "tanh": torch.tanh,
    "slightly": lambda x: x + 1e-9 * x.square(),
    "relu": torch.relu,
    "gated": lambda x: x * x.flip(2).sigmoid(),
    "over_time": lambda x: x * x.mean(1, keepdim=True),
    "normalised": nn.LayerNorm(2, dtype=torch.float64),
    "beside_large_ones": lambda x: torch.cat([1e6 * x[..., :1], x[..., 1:].tanh()], 2),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_what_is_not_linear_before_the_layer_is_not_taken_for_it(name):
    lstm = peephole_lstm(THREE, "full")
    with torch.no_grad():
        lstm.weight_ih_l0[:, 0] *= 1e-6 if name == "beside_large_ones" else 1.0
    assert path_of(Model(lstm, Front(NONLINEAR[name]))) == "kernels of lstm"


AT_A_NODE = bump(float((np.polynomial.legendre.leggauss(8)[0][2] + 1) / 2))


def beside_a_large_one(x):
    return torch.cat([1e12 * x[..., :1], AT_A_NODE(x[..., 1:])], 2)


@pytest.mark.parametrize("front", [AT_A_NODE, crossed, beside_a_large_one])
def test_what_only_looks_linear_is_found_out(front):
    model, inputs = Model(peephole_lstm(THREE, "full"), Front(front)), torch.ones(3, 5, 2, dtype=torch.float64)
    with torch.no_grad():
        model.lstm.weight_ih_l0[:, 0] *= 1e-12 if front is beside_a_large_one else 1.0
    result = lx.attribute(model, inputs, n_steps=8)
    assert result.settings["path"] == "kernels of lstm"
    close(result.attributions, by_definition(batched(model), inputs, torch.zeros_like(inputs), 8))


def test_what_is_linear_on_this_path_may_be_fused():
    # Without a bias, and with zero as the baseline, each unit of this front is on or off all the way.
    below = nn.Linear(2, 2, bias=False).double()
    model = Model(peephole_lstm(THREE, "full"), nn.Sequential(randomise(below, 3), nn.ReLU()))
    result = lx.attribute(model, features(), n_steps=4)
    close(result.attributions, by_definition(batched(model), features(), torch.zeros(3, 5, 2, dtype=torch.float64), 4))
    assert result.settings["path"] == FUSED


class Sorted(Model):
    """Reads the batch in another order."""

    def forward(self, x):
        order = x[:, 0, 0].argsort()
        return super().forward(x[order])[order.argsort()]


class Checkpointed(Model):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class Energy(Model):
    """Differentiates itself."""

    def forward(self, x):
        with torch.enable_grad():
            below = 2 * (x if x.requires_grad else x.detach().requires_grad_())
            output, _ = self.lstm(below)
            return torch.autograd.grad(output.square().sum(), below, create_graph=True)[0].square().sum((1, 2))


class Steered(Model):
    """The first example says what the weights are."""

    def __init__(self, lstm):
        super().__init__(lstm)
        self.first = lstm.weight_hh_l0.detach().clone()
        del lstm.weight_hh_l0
        lstm.weight_hh_l0 = self.first

    def forward(self, x):
        self.lstm.weight_hh_l0 = self.first * x[0, 0, 0]
        return super().forward(x)


@pytest.mark.parametrize(("kind", "by"), [(Sorted, "kernels of lstm"), (Energy, "kernels of lstm"), (Checkpointed, "the model itself")])
def test_models_that_it_does_not_suit_are_right_all_the_same(kind, by):
    assert path_of(kind(peephole_lstm(THREE, "full"))) == by


def test_weights_that_are_computed_from_the_points_count_too():
    model = Steered(peephole_lstm(THREE, "full"))
    assert path_of(model, features()[:1], internal_batch_size=1) == "kernels of lstm"


def test_a_layer_that_is_replaced_or_not_an_lstm_runs_as_it_is():
    class Own(nn.LSTM):
        def forward(self, x, hx=None):
            output, states = super().forward(x, hx)
            return 2 * output, states

    own = Model(randomise(Own(2, 3, batch_first=True).double()))
    gru = Function(randomise(nn.GRU(2, 3, batch_first=True).double()))
    assert path_of(own) == path_of(gru) == "the model itself"
    model = Model(peephole_lstm(THREE, "full"))
    with lx.record(model):
        assert path_of(model) == "the model itself"


class Function(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0].square().sum((1, 2))


def test_weights_that_are_normalised_run_as_they_are():
    lstm = nn.utils.parametrizations.weight_norm(torch_lstm(THREE), "weight_hh_l0")
    assert path_of(Model(lstm)) == "the model itself"


# ---- Nothing is left behind


def test_no_gradient_of_a_weight_is_computed(monkeypatch):
    asked = []
    from lstm_explain.nn import lines, sequence

    for module in (lines, sequence):
        original = module.run_backward

        def noted(call, saved, inputs, grads, needs, *rest, original=original):
            asked.append(tuple(needs))
            return original(call, saved, inputs, grads, needs, *rest)

        monkeypatch.setattr(module, "run_backward", noted)
    model = Model(peephole_lstm(THREE._replace(num_layers=2), "full"))
    lx.attribute(model, features(), n_steps=8)
    by_the_model = [needs for needs in asked if any(needs[3:])]
    assert len(by_the_model) == 2 and len(asked) > 4  # the one gradient that the model itself is asked for, of two layers


def left(model):
    parameters = [(p.requires_grad, p.grad, p.data_ptr()) for p in model.parameters()]
    return parameters, [sorted(vars(module)) for module in model.modules()], torch.get_rng_state().tolist()


@pytest.mark.parametrize("fails_at", [None, 5, 7])
def test_the_model_is_left_as_it_was(fails_at):
    class Failing(Model):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == fails_at:
                raise ValueError("tired")
            return super().forward(x)

    model = Failing(peephole_lstm(THREE, "full"), nn.Linear(2, 2).double())
    model.lstm.bias_ih_l0.requires_grad_(False)
    before = left(model)
    if fails_at is None:
        lx.attribute(model, features(), n_steps=8)
    else:
        with pytest.raises(lx.InputError, match="tired"):
            lx.attribute(model, features(), n_steps=8)
    del model.calls
    assert left(model) == before
