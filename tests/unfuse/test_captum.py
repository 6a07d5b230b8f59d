"""Captum's layer and neuron methods on gates, each against a derivation by hand."""

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation, LayerGradientXActivation, LayerIntegratedGradients, NeuronGradient
from cases import WITHOUT_CELL, close
from edited import run_layer, weights_of
from kinds import made
from recordings import signals_of
from torch import nn
from torch.func import jacrev

import lstm_explain as lx

KINDS = ["lstm", "peephole", "gru", "rnn"]


class Net(nn.Module):
    """A score of the last output of a layer."""

    def __init__(self, kind):
        super().__init__()
        self.lstm = made(kind, batch_first=True)
        self.head = nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1].sin()).squeeze(1)


def pair(kind):
    torch.manual_seed(0)
    net = Net(kind)
    x = torch.randn(2, 4, 2, dtype=torch.float64)
    with lx.record(net) as recording:
        net(x)
    return net, lx.unfuse(net, x), x.requires_grad_(), recording["lstm.l0"]


def signals(kind):
    return signals_of({"lstm": "torch", "rnn": "rnn_tanh"}.get(kind, kind))


def score(net, kind, ran, given):
    """The network's score of given trajectories ``(batch, time, unit)``, all else as it ran."""
    now = ran | given
    if "hidden_state" not in given and kind in ("lstm", "peephole"):
        c, cells = 0, []
        for t in range(4):
            c = now["forget_gate"][:, t] * c + now["input_gate"][:, t] * now["cell_candidate"][:, t]
            cells.append(c)
        now["cell_state"] = given.get("cell_state", torch.stack(cells, dim=1))
        now["hidden_state"] = now["output_gate"] * torch.tanh(now["cell_state"])
    if "hidden_state" not in given and kind == "gru":
        h = 0
        for t in range(4):
            h = (1 - now["update_gate"][:, t]) * now["candidate"][:, t] + now["update_gate"][:, t] * h
        now["hidden_state"] = h.unsqueeze(1)
    return net.head(now["hidden_state"][:, -1].sin()).squeeze(1)


def by_path(net, kind, ran, starts, names, steps=50):
    """Integrated gradients along the straight path from `starts` to what ran, by Captum's rule, with weights in float32."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = {name: 0 for name in names}
    for node, weight in zip(nodes, weights, strict=True):
        a = (1 + node) / 2
        at = {name: (starts[name] + a * (ran[name] - starts[name])).requires_grad_() for name in names}
        found = torch.autograd.grad(score(net, kind, ran, at).sum(), list(at.values()))
        total = {name: total[name] + float(np.float32(weight / 2)) * grad for name, grad in zip(names, found, strict=True)}
    return {name: (ran[name] - starts[name]) * total[name] for name in names}


def adds_up(total, difference):
    torch.testing.assert_close(total.detach(), difference.detach(), rtol=0, atol=1e-8)  # Captum's weights are in float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_layers_activation_is_the_recorded_trajectory(kind):
    net, twin, x, trajectory = pair(kind)
    for name in signals(kind):
        close(LayerActivation(twin, getattr(twin.lstm.l0.sequence, name)).attribute(x).detach(), trajectory.signals[name])


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_times_activation_is_the_derivative_along_the_cells_memory(kind):
    net, twin, x, trajectory = pair(kind)
    ran = dict(trajectory.signals)
    for name in [name for name in signals(kind) if name != "reset_gate"]:
        found = LayerGradientXActivation(twin, getattr(twin.lstm.l0.sequence, name)).attribute(x)
        at = ran[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(score(net, kind, ran, {name: at}).sum(), at)
        close(found.detach(), gradient * ran[name])
        assert kind == "rnn" or name in ("hidden_state", "cell_state", "output_gate") or (found[:, 1] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_of_one_gate(kind):
    net, twin, x, trajectory = pair(kind)
    start = torch.zeros_like(x).detach().requires_grad_()
    with lx.record(net) as recording:
        net(start)
    ran, starts = dict(trajectory.signals), dict(recording["lstm.l0"].signals)
    for name in [name for name in signals(kind) if name != "reset_gate"]:
        found = LayerIntegratedGradients(twin, getattr(twin.lstm.l0.sequence, name)).attribute(x, start)
        close(found.detach(), by_path(net, kind, ran, starts, [name])[name])
        difference = score(net, kind, ran, {}) - score(net, kind, ran, {name: starts[name]})
        adds_up(found.flatten(1).sum(1), difference)


@pytest.mark.filterwarnings("ignore:Multiple layers provided:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_of_all_gates_together_add_up_to_what_the_network_says(kind):
    # They are a cut through the layer, so that Captum's own check holds.
    net, twin, x, trajectory = pair(kind)
    start = torch.zeros_like(x).detach().requires_grad_()
    with lx.record(net) as recording:
        net(start)
    cut = {"gru": ["update_gate", "candidate"], "rnn": ["hidden_state"]}
    names = cut.get(kind, ["input_gate", "forget_gate", "cell_candidate", "output_gate"])
    layers = [getattr(twin.lstm.l0.sequence, name) for name in names]
    found, delta = LayerIntegratedGradients(twin, layers).attribute(x, start, return_convergence_delta=True)
    adds_up(delta, torch.zeros(2, dtype=torch.float64))
    adds_up(sum(part.flatten(1).sum(1) for part in found), net(x) - net(start))
    expected = by_path(net, kind, dict(trajectory.signals), dict(recording["lstm.l0"].signals), names)
    for name, part in zip(names, found, strict=True):
        close(part.detach(), expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_neurons_gradient_is_that_of_a_gate_at_a_step(kind):
    net, twin, x, _ = pair(kind)
    zeros = [torch.zeros(3, dtype=torch.float64)] * (1 if kind in (*WITHOUT_CELL, "rnn") else 2)
    for name in signals(kind):
        found = NeuronGradient(twin, getattr(twin.lstm.l0.sequence, name)).attribute(x, (2, 1))

        def at(xs, name=name):
            weights = weights_of(net.lstm, "l0")
            return run_layer(net.lstm, weights, "", xs, zeros, lambda s, n, t, value: value)[0][name][2, 1]

        close(found.detach(), torch.stack([jacrev(at)(one) for one in x]))
        assert (found[:, :3].abs().sum(2) > 0).all() and (found[:, 3:] == 0).all()


def test_on_the_fused_layer_they_all_fail_which_is_why_there_is_a_copy():
    net, _, x, _ = pair("lstm")
    for method in (LayerActivation, LayerGradientXActivation, LayerIntegratedGradients):
        with pytest.raises((AttributeError, AssertionError)):
            method(net, net.lstm).attribute(x)
