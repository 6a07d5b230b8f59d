"""Attribution to gates and states, against the equations with the same signal held by hand."""

import math

import numpy as np
import pytest
import torch
from attributed import Packed, Words, features, tokens, whereabouts
from captum.attr import LayerIntegratedGradients
from cases import close, randomise
from edited import run_stack
from mechanisms import OPEN, adding, counter
from torch import nn
from torch.nn.functional import one_hot

import lstm_explain as lx
from lstm_explain.recording.cells import REGISTERED

SIZES = {"input_size": 2, "hidden_size": 2, "batch_first": True, "dtype": torch.float64}
LSTM = ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state")
GRU = ("reset_gate", "update_gate", "candidate", "hidden_state")
STACKS = {
    "lstm": (nn.LSTM, {"num_layers": 2, "bidirectional": True}, "l0_reverse", LSTM),
    "projected": (nn.LSTM, {"proj_size": 1, "num_layers": 2}, "l0", LSTM),
    "previous": (lx.PeepholeLSTM, {"num_layers": 2}, "l1", LSTM),
    "graves": (lx.PeepholeLSTM, {"peephole": "diagonal", "wiring": "graves", "num_layers": 2}, "l0", LSTM),
    "gru": (nn.GRU, {"num_layers": 2, "bidirectional": True}, "l1_reverse", GRU),
    "rnn": (nn.RNN, {}, "l0", ("hidden_state",)),
}
ENDS = [4, 2]
VALID = torch.arange(4) < torch.tensor(ENDS).unsqueeze(1)


class Score(nn.Module):
    """A number of all that a stack returns at the steps of each sequence."""

    def __init__(self, stack, lengths=ENDS):
        super().__init__()
        self.stack, self.lengths = stack, lengths

    def forward(self, x):
        # All sequences of a pass are read to their fourth step, so that the end doesn't hang on who is beside whom.
        return score(self.stack(x)[0])


def score(rows):
    """``(..., time, unit)`` to ``(...)``."""
    weights = torch.arange(1, rows.shape[-1] * rows.shape[-2] + 1, dtype=rows.dtype).view(rows.shape[-2:])
    return (weights.sin() * (2 * rows).sin()).sum((-1, -2))


def stack_of(kind):
    """A model, what it reads, and which layer and signals are held."""
    layer, options, suffix, signals = STACKS[kind]
    return Score(randomise(layer(**SIZES, **options))), features(2, 4, 2), suffix, signals


def by_equations(stack, xs, suffix, signal, held, end):
    """One sequence's score with a signal ``(time, unit)`` held up to its end, and what the signal was by itself."""
    count = stack.num_layers * (1 + stack.bidirectional)
    sizes = [stack.proj_size or stack.hidden_size, stack.hidden_size][: 2 if "LSTM" in type(stack).__name__ else 1]
    states = [torch.zeros(count, size, dtype=torch.float64) for size in sizes]

    def edit(where, name, t, value):
        return held[t] if held is not None and (where, name) == (suffix, signal) and t < end else value

    signals, rows, _ = run_stack(stack, xs, states, edit)
    return score(rows), signals[suffix][signal]


def slopes(function, at):
    at = at.detach().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


@pytest.mark.parametrize("kind", STACKS)
def test_each_method_is_what_the_equations_give(kind):
    model, x, suffix, signals = stack_of(kind)
    nodes, weights = np.polynomial.legendre.leggauss(32)
    for signal in signals:
        methods = ("integrated_gradients", "gradient", "gradient_x_difference", "ablation")
        asked = {method: {} if method == "gradient" else {"baselines": 0.25} for method in methods}
        found = {
            method: lx.gate_attribution(model, x, f"stack.{suffix}", signal, method=method, lengths=ENDS, tolerance=1e-11, **given)
            for method, given in asked.items()
        }
        for at, end in enumerate(ENDS):

            def of(held, at=at, end=end, signal=signal):
                return by_equations(model.stack, x[at], suffix, signal, held, end)[0]

            with torch.no_grad():
                output, value = by_equations(model.stack, x[at], suffix, signal, None, end)
                start = torch.where(VALID[at].unsqueeze(1), 0.25, value)
                difference = output - of(start)
                ablated = torch.zeros_like(value)
                for t, unit in np.ndindex(end, value.shape[1]):
                    now = value.clone()
                    now[t, unit] = 0.25
                    ablated[t, unit] = output - of(now)
            slope, way = slopes(of, value), value - start
            mean = sum(float(w) / 2 * slopes(of, start + (1 + float(n)) / 2 * way) for n, w in zip(nodes, weights, strict=True))
            close(found["gradient"].attributions[at], slope)
            close(found["gradient_x_difference"].attributions[at], way * slope)
            close(found["ablation"].attributions[at], ablated)
            np.testing.assert_allclose(found["integrated_gradients"].attributions[at], way * mean, rtol=0, atol=1e-10)
            close(found["integrated_gradients"].values[at, :end], value[:end])
            for method in methods:
                result = found[method]
                assert (result.attributions[at, end:] == 0).all() and result.padding == "known"
                close(result.output[at], output)
                assert result.noop[at] <= 1e-12
                if method != "gradient":
                    close(result.output[at] - result.baseline_output[at], difference)
        whole = found["integrated_gradients"]
        assert whole.converged.all()
        np.testing.assert_allclose(whole.attributions.sum((1, 2)), whole.output - whole.baseline_output, rtol=0, atol=1e-9)
        assert np.abs(whole.attributions[:, :2]).max() > 1e-4


@pytest.mark.parametrize("signal", ["input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state"])
def test_captum_says_the_same_on_an_unfused_copy_where_no_gate_sees_a_state(signal):
    model, x = randomise(nn.LSTM(**SIZES)), features(2, 4, 2)
    found = []
    for recurrent in (False, True):
        with torch.no_grad():
            model.weight_hh_l0.fill_(0.7 * recurrent)
        net = Score(model)
        with lx.record(net) as recording:
            net(torch.zeros_like(x))
        start = recording["stack.l0"].signals[signal]
        ours = lx.gate_attribution(net, x, "stack.l0", signal, baselines=start, tolerance=1e-10).attributions
        copy = lx.unfuse(net, x)
        twin = LayerIntegratedGradients(copy, getattr(copy.stack.l0.sequence, signal))
        theirs = twin.attribute(x.clone().requires_grad_(), torch.zeros_like(x).requires_grad_()).detach().numpy()
        found.append(float(np.abs(ours - theirs).max()))
    assert found[0] < 1e-7 < 1e-3 < found[1]  # Captum's weights are in float32


def test_the_counters_input_gate_carries_its_count():
    signs = torch.tensor([[1, 1, -1, 1, 1], [-1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    for method in ("integrated_gradients", "gradient_x_difference", "ablation"):
        found = lx.gate_attribution(counter(), inputs, "l0", "input_gate", method=method, output=lambda r: r[1][1][0, :, 0])
        np.testing.assert_allclose(found.by_step, signs * math.tanh(4), rtol=0, atol=1e-6)  # the gates are open to 2e-9
        assert (found.relative_delta < 1e-12).all()


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_difference", "ablation"])
def test_a_gate_that_is_at_its_baseline_counts_for_nothing(method):
    inputs = one_hot(torch.tensor([[0, 0, 1, 0]]), 2).double()
    open_gate = torch.sigmoid(torch.tensor(OPEN, dtype=torch.float64))
    given = {"method": method, "baselines": open_gate, "output": lambda r: r[1][1][0, :, 0]}
    found = lx.gate_attribution(counter(), inputs, "l0", "forget_gate", **given)
    assert (found.attributions == 0).all() and (found.convergence_delta == 0).all() and found.output[0] > 1


def test_the_marked_steps_are_those_whose_input_gate_opened():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0]], dtype=torch.float64)
    value = features(1, 7)
    found = lx.gate_attribution(adding(), torch.stack([value, marker], 2), "l0", "input_gate", output=lambda r: 1e3 * r[0][:, -1, 0])
    np.testing.assert_allclose(found.by_step, value * marker, rtol=0, atol=1e-5)  # tanh is linear to 3e-7


def test_ablation_is_a_loop_of_interventions():
    model, x, suffix, _ = stack_of("lstm")
    layer = f"stack.{suffix}"
    with lx.record(model) as recording:
        clean = model(x)
    value = recording[layer].output_gate
    expected = torch.zeros_like(value)
    for t, unit in np.ndindex(4, 2):
        now = value.clone()
        now[:, t, unit] = 0.5
        with lx.intervene(model, layer, output_gate=lx.clamp(now), feedback=True):
            expected[:, t, unit] = (clean - model(x)).detach()
    found = lx.gate_attribution(model, x, layer, "output_gate", method="ablation", baselines=0.5)
    close(found.attributions, expected)


def test_the_mean_is_each_units_over_valid_steps():
    model, x, suffix, _ = stack_of("previous")
    found = lx.gate_attribution(model, x, f"stack.{suffix}", "cell_state", baselines="mean", lengths=ENDS)
    expected = found.values[VALID.numpy()].mean(0)
    for at, end in enumerate(ENDS):
        close(found.baselines[at, :end], np.tile(expected, (end, 1)))
    assert (found.baselines[1, 2:] == 0).all() and found.converged.all()


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient", "ablation"])
def test_packed_sequences_are_as_each_by_itself_in_passes_of_any_size(method):
    model, x, ends = Packed(), features(), torch.tensor([3, 5, 1])
    asked = {"layer": "lstm.l0_reverse", "signal": "forget_gate", "target": 4, "method": method}
    whole = lx.gate_attribution(model, x, additional_forward_args=ends, **asked)
    parts = lx.gate_attribution(model, x, additional_forward_args=ends, internal_batch_size=2, **asked)
    close(whole.attributions, parts.attributions)
    assert whole.padding == "known" and whole.valid.sum(1).tolist() == [3, 5, 1]
    for at, end in enumerate(ends):
        alone = lx.gate_attribution(model, x[at : at + 1, :end], additional_forward_args=ends[at : at + 1], **asked)
        close(whole.attributions[at, :end], alone.attributions[0])
        assert (whole.attributions[at, end:] == 0).all()


class Loop(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, steps = None, []
        for x_t in x.unbind(1):
            state = self.cell(x_t, state)
            steps.append(state[0] if isinstance(state, tuple) else state)
        return score(torch.stack(steps, 1))


class Started(Loop):
    """A loop that gives its cell a state to start from."""

    def forward(self, x):
        state, steps = x.new_zeros(len(x), 2), []
        for x_t in x.unbind(1):
            state = self.cell(x_t, state)
            steps.append(state)
        return score(torch.stack(steps, 1))


@pytest.mark.parametrize(("cell", "layer", "signal"), [(nn.LSTMCell, nn.LSTM, "forget_gate"), (nn.GRUCell, nn.GRU, "update_gate")])
def test_a_cell_in_a_loop_is_as_the_layer(cell, layer, signal):
    stack = randomise(layer(**SIZES))
    loop = Loop(cell(2, 2, dtype=torch.float64))
    loop.cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in stack.state_dict().items()})
    x = features(2, 4, 2)
    for method in ("integrated_gradients", "ablation"):
        ours, theirs = (
            lx.gate_attribution(net, x, key, signal, method=method) for net, key in ((loop, "cell"), (Score(stack), "stack.l0"))
        )
        close(ours.attributions, theirs.attributions)


class Leaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.keep, self.read = nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x, h):
        return leaky(self, x, h)["hidden_state"]


def leaky(cell, x, h):
    f, g = torch.sigmoid(cell.keep(x) + h), torch.tanh(cell.read(x))
    return {"forget_gate": f, "candidate": g, "hidden_state": f * h + (1 - f) * g}


def test_a_registered_cell_has_its_hidden_state_held(monkeypatch):
    monkeypatch.setitem(REGISTERED, Leaky, None)  # so that it is gone afterwards
    lx.register(Leaky, leaky)
    model, x = Started(randomise(Leaky())), features(2, 4, 2)
    with lx.record(model) as recording:
        model(x)
    hidden = recording["cell"].hidden_state
    found = lx.gate_attribution(model, x, "cell", "hidden_state", method="gradient")
    close(found.attributions, slopes(lambda held: score(held).sum(), hidden))
    assert refused(model, x, "cell", "forget_gate", target=None).startswith("needed hidden_state of cell, got forget_gate: ")
    gate = refused(model, x, "cell", "forgot_gate", target=None)
    assert gate.startswith("needed signal as one of ") and gate.endswith("of cell, got 'forgot_gate', did you mean 'forget_gate'?")


def test_tokens_and_single_precision():
    model = Words(time_first=True).float()
    found = lx.gate_attribution(model, tokens(), "rest.l0", "input_gate", target=(-1, 2), lengths=[5, 2, 4])
    assert found.converged.all() and found.settings["dtype"] == "float32" and found.explained[1] == "output[1, 2]"
    assert (found.attributions[1, 2:] == 0).all()


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient", "ablation"])
def test_nothing_is_left_behind(method):
    model, x = Words(), tokens()
    model.rest.weight_hh_l0.grad = torch.ones_like(model.rest.weight_hh_l0)
    before = whereabouts(model)
    lx.gate_attribution(model, x, "rest.l0", "forget_gate", target=(-1, 2), method=method)
    with pytest.raises(lx.InputError):
        lx.gate_attribution(model, x, "rest.l0", "forget_gate", target=(9, 2), method=method)
    assert whereabouts(model) == before and torch.equal(x, tokens())


class Sorting(nn.Module):
    """Runs its sequences in an order of its own."""

    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(**SIZES))

    def forward(self, x):
        order = x[:, 0, 0].argsort()
        return self.lstm(x[order])[0][:, -1, 0][order.argsort()]


class Twice(Score):
    def forward(self, x):
        return super().forward(x) + super().forward(x.flip(1))


class Detached(Score):
    def forward(self, x):
        return super().forward(x).detach()


def refused(model, x, layer="rest.l0", signal="forget_gate", **options):
    with pytest.raises(lx.InputError) as caught:
        lx.gate_attribution(model, x, layer, signal, **{"target": (-1, 2)} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_is_said_in_one_line():
    model, x = Words(), tokens()
    assert refused(model, x, "rest.l1") == "needed layer as one of rest.l0, got 'rest.l1', did you mean 'rest.l0'?"
    assert refused(model, x, signal="update_gate").startswith("needed signal as one of input_gate, forget_gate, ")
    assert "did you mean 'forget_gate'?" in refused(model, x, signal="forget")
    assert refused(Score(randomise(nn.GRU(**SIZES))), features(), "stack.l0").endswith(
        "of stack.l0, got 'forget_gate', did you mean 'reset_gate'?"
    )
    assert refused(nn.Linear(2, 3), features()).startswith("needed layer as one of (no recurrent layers)")
    assert refused(model, x, target=(7, 2)) == "needed target step from -5 to 4 for example 0, got 7"
    assert refused(model, x, method="saliency").startswith("needed method as one of integrated_gradients, gradient, ")
    assert refused(model, x, baselines=torch.zeros(7)).endswith("broadcasts to (batch, time, unit) = (3, 5, 4), got shape (7,)")
    assert refused(model, x, baselines="median") == "needed baselines as a number, a tensor or 'mean', got 'median'"
    assert refused(model, x, baselines=float("nan")) == "needed baselines as finite numbers, got nan"
    assert refused(model, x, method="gradient", baselines=0.0).startswith("needed no baselines for gradient")
    assert refused(model, x, n_steps=0) == "needed n_steps as a positive whole number, got 0"
    assert refused(model, x, tolerance=0.0) == "needed a positive tolerance, got 0.0"
    assert refused(model, (x, x)) == "needed inputs as a tensor (batch, time[, feature]), none of them zero, got tuple"
    assert refused(7, x) == "needed a torch.nn.Module, got int"
    sorting = refused(Sorting(), features(), "lstm.l0", target=None)
    assert sorting.startswith("needed a model that gives lstm.l0 its sequences in the order of the inputs")
    twice = refused(Twice(randomise(nn.LSTM(**SIZES))), features(2, 4, 2), "stack.l0", target=None)
    assert twice == "needed a model that runs stack.l0 over each of 2 examples once, got 4 sequences of it"
    detached = refused(Detached(randomise(nn.LSTM(**SIZES))), features(2, 4, 2), "stack.l0", target=None)
    assert detached.endswith("got none: something on the way detaches; ablation needs none")


def test_the_result_says_what_it_is():
    model, x, suffix, _ = stack_of("gru")
    layer = f"stack.{suffix}"
    found = lx.gate_attribution(model, x, layer, "update_gate", lengths=ENDS)
    assert repr(found).startswith(
        f"<Attribution to update_gate of {layer} by integrated_gradients: batch 2, time 4, unit 2, of output; residual"
    )
    assert "within 1e-06 (or rounding) for 2 of 2; held at what it was the output differs by at most" in repr(found)
    close(found.by_step, found.attributions.sum(2))
    close(found.by_unit, found.attributions.sum(1))
    frame = found.to_frame()
    assert list(frame) == ["example", "step", "unit", "value", "attribution"] and len(frame) == 2 * sum(ENDS)
    last = frame.iloc[-1]
    assert tuple(last[["example", "step", "unit"]]) == (1, 1, 1) and last.attribution == found.attributions[1, 1, 1]
    assert last.value == found.values[1, 1, 1]
    assert found.to_dict()["attributions"] == found.attributions.tolist()
    assert "strongest" in found._repr_html_() and "<script" not in found._repr_html_()
    few = lx.gate_attribution(model, x, layer, "update_gate", n_steps=1, tolerance=1e-12)
    assert not few.converged.any() and "for 0 of 2" in repr(few) and few.settings["n_steps"] == [1, 1]
    assert "doesn't claim to add up" in repr(lx.gate_attribution(model, x, layer, "update_gate", method="gradient"))
