"""A pruned copy is the model with these units held at zero, from the initial state on, which is written here as a slow loop."""

import copy

import pytest
import torch
from cases import LAYOUTS, call_of, close, drawn_states, same_results, slowly
from edited import run_layer, run_stack, same, weights_of
from recordings import ALL_KINDS, Loop, cell_of, classifier, layer_of, of_layout, refused, tensors_of
from torch import nn
from torch.nn.utils import parametrizations, prune

import lstm_explain as lx
from lstm_explain import pruned
from lstm_explain.errors import CertificateError, InputError, RecordingError

STACKS = {
    "plain": {"initial_state": True},
    "deep": {"num_layers": 2, "bidirectional": True, "initial_state": True},
    "projected": {"num_layers": 2, "bidirectional": True, "proj_size": 1, "initial_state": True},
    "without_bias": {"num_layers": 2, "bias": False},
}
CASES = [
    (kind, stack, layout)
    for kind in ALL_KINDS
    for stack in STACKS
    for layout in LAYOUTS
    if (layout == "packed_unsorted" or (stack == "deep" and kind in ("torch", "gru", ("full", "graves"))))
    and (stack != "projected" or kind == "torch" or not isinstance(kind, str))
]


def held_at_zero(case, module, gone):
    """What `edited` gives with units at zero, by suffix."""
    projected = case.proj_size > 0

    def zeroed(name, value, units):
        return (
            value.index_fill(0, torch.tensor(units, dtype=torch.long), 0.0)
            if name == "cell_state" or (name == "hidden_state" and not projected)
            else value
        )

    sequences, states = drawn_states(case, 1 if isinstance(module, (nn.GRU, nn.RNN)) else 2)
    found = []
    for xs, start in zip(sequences, states, strict=True):
        for name, state in zip(("hidden_state", "cell_state"), start, strict=False):
            for at, suffix in enumerate(case.suffixes):
                state[at] = zeroed(name, state[at], gone.get(suffix, []))
        found.append(run_stack(module, xs, start, lambda suffix, name, t, value: zeroed(name, value, gone.get(suffix, []))))
    return found


@pytest.mark.parametrize(("kind", "stack", "layout"), CASES)
def test_it_is_the_model_with_these_units_at_zero(kind, stack, layout):
    case = of_layout(layout, hidden_size=4, **STACKS[stack])
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    small, gone = model, {}
    for suffix, units in zip(case.suffixes, [[1], [3, 0], [2], [0, 1], [3], [1, 2]], strict=False):
        small, before = lx.prune(small, suffix, units), sum(parameter.numel() for parameter in small.parameters())
        gone[suffix] = units
        assert sum(parameter.numel() for parameter in small.parameters()) < before
        same(case, small(*call), held_at_zero(case, model, gone))
    with pytest.raises(AssertionError):
        same_results(case, small(*call), slowly(case, model))
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert f"; {sum(parameter.numel() for parameter in small.parameters()):,} of {whole:,} parameters" in repr(small)
    assert {suffix: [unit for unit in range(4) if unit not in kept] for suffix, kept in small.kept.items()} == {
        suffix: sorted(gone[suffix]) for suffix in case.suffixes
    }


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_smaller_cell(kind):
    cell = cell_of(kind, sizes=(2, 4))
    xs = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    count = 2 if isinstance(cell, nn.LSTMCell) or hasattr(cell, "form") else 1
    state = [torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(count)]
    small = lx.prune(lx.prune(Loop(cell), "cells.0", [2]), "cells.0", [0])

    def zeroed(name, value):
        return value.index_fill(0, torch.tensor([0, 2]), 0.0) if name in ("cell_state", "hidden_state") else value

    start = [[zeroed("hidden_state", part[b]) for part in state] for b in range(2)]
    expected = [
        run_layer(cell, weights_of(cell, ""), "", xs[:, b], start[b], lambda s, name, t, value: zeroed(name, value))[0]["hidden_state"][-1]
        for b in range(2)
    ]
    close(small(xs, tuple(state) if count == 2 else state[0]).detach(), torch.stack(expected))
    close(small(xs[:, 0]).shape, torch.Size([4]))
    refused(InputError, lambda: small.cells[0](xs[0], (xs[0], xs[0]) if count == 2 else xs[0]))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_rest_of_a_model_stays_and_gradients_are_those_of_the_units_that_stay(kind):
    model = classifier(kind, layout="batch_first", hidden_size=4, num_layers=2, bidirectional=True)
    model.encoder["lstm"].weight_hh_l0.requires_grad_(False)
    x = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small = lx.prune(model, "encoder.lstm.l0", [1])
    twin = lx.unfuse(model)
    for name in ("hidden_state", "cell_state"):
        if hasattr(twin.encoder["lstm"].l0, name):
            getattr(twin.encoder["lstm"].l0, name).register_forward_hook(lambda tap, i, value: value.index_fill(1, torch.tensor([1]), 0.0))
    for one in (small, twin):
        one(x).sum().backward()
    close(small(x).detach(), twin(x).detach())
    ours, theirs = small.encoder["lstm"], twin.encoder["lstm"]
    rows = [row for row in range(len(theirs.weight_ih_l0)) if row % 4 != 1]
    close(ours.l0.weight_ih_l0.grad, theirs.weight_ih_l0.grad[rows])
    close(ours.l1.weight_ih_l0.grad, theirs.weight_ih_l1.grad[:, [0, 2, 3, 4, 5, 6, 7]])
    close(small.after.weight.grad, twin.after.weight.grad)
    assert not ours.l0.weight_hh_l0.requires_grad and ours.l0.weight_hh_l0.grad is None and ours.l0.weight_ih_l0.requires_grad


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_dropout_between_layers_falls_where_it_did(kind):
    case = of_layout("packed_unsorted", hidden_size=4, num_layers=2, bidirectional=True)
    model, call = layer_of(kind, case, dropout=0.5).train(), call_of(case, kind=kind)
    small, twin = lx.prune(model, "l0", [1, 3]), lx.unfuse(model)
    for name in ("hidden_state", "cell_state"):
        if hasattr(twin.l0, name):
            getattr(twin.l0, name).register_forward_hook(lambda tap, i, value: value.index_fill(1, torch.tensor([1, 3]), 0.0))
    found = []
    for one in (small, twin):
        torch.manual_seed(3)
        found.append([*tensors_of(one(*call)), torch.get_rng_state()])
    for ours, theirs in zip(*found, strict=True):
        close(ours.detach(), theirs.detach())


def test_single_precision_half_precision_and_the_mode():
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.LSTM(2, 8, 2, bidirectional=True).to(dtype).eval()
        small = lx.prune(model, "l1_reverse", [0, 7])
        output, (h_n, c_n) = small(torch.randn(3, 1, 2, dtype=dtype))
        assert output.dtype == h_n.dtype == c_n.dtype == dtype and output.shape == (3, 1, 16)
        assert not output[..., [8, 15]].any() and not small.training and not small.l1.training


def test_a_copy_is_saved_and_a_shared_module_stays_shared():
    lstm = nn.LSTM(3, 3).double()
    model = nn.ModuleDict({"one": lstm, "two": lstm})
    small = lx.prune(model, "one.l0", [2])
    assert small["one"] is small["two"] and isinstance(small["one"], pruned.Pruned) and model["one"] is lstm
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    close(copy.deepcopy(small)["one"](x)[0].detach(), small["two"](x)[0].detach())


def test_the_model_stays_as_it_is():
    model = classifier(num_layers=2)
    hooks = model.after.register_forward_hook(lambda *a: None)
    state, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    layer, names = model.encoder["lstm"], sorted(vars(model.encoder["lstm"]))
    small = lx.prune(model, "encoder.lstm.l0", [0])
    assert torch.equal(torch.get_rng_state(), random) and model.encoder["lstm"] is layer and sorted(vars(layer)) == names and model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()) and len(model.after._forward_hooks) == 1
    storages = {parameter.data_ptr() for parameter in model.parameters()}
    assert not storages & {parameter.data_ptr() for parameter in small.parameters()}
    hooks.remove()


REFUSED = {
    "encoder.lstm.l3": (
        "encoder.lstm.l3",
        [0],
        "needed one layer of encoder.lstm.l0, encoder.lstm.l1, got 'encoder.lstm.l3', did you mean ",
    ),
    "too high": ("encoder.lstm.l1", [3], "needed units from 0 to 2 of encoder.lstm.l1, got 3"),
    "negative": ("encoder.lstm.l1", [-1], "needed units from 0 to 2 of encoder.lstm.l1, got -1"),
    "twice": ("encoder.lstm.l1", [1, 1], "needed units as whole numbers, each once, got [1, 1]"),
    "none": ("encoder.lstm.l1", [], "needed units as whole numbers, each once, got []"),
    "no list": ("encoder.lstm.l1", None, "needed units as whole numbers, each once, got None"),
    "a fraction": ("encoder.lstm.l1", [0.5], "needed units as whole numbers, each once, got [0.5]"),
    "all": ("encoder.lstm.l1", [0, 1, 2], "needed at least 1 of the 3 units of encoder.lstm.l1 to stay, got 3 to remove"),
    "no name": (None, [0], "needed one layer of encoder.lstm.l0, encoder.lstm.l1, got None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case):
    layer, units, message = REFUSED[case]
    assert refused(InputError, lambda: lx.prune(classifier(num_layers=2), layer, units)).startswith(message)


def test_units_that_are_gone_projections_and_computed_or_tied_weights_are_refused():
    small = lx.prune(nn.LSTM(2, 4, 2), "l1", [1])
    assert (
        refused(InputError, lambda: lx.prune(small, "l1", [1])) == "needed units of l1 that are still there, got 1, which is gone already"
    )
    projected = nn.LSTM(2, 3, proj_size=2)
    assert "at least 3 of the 3 units of l0 to stay, more than it projects to (proj_size 2)" in refused(
        InputError, lambda: lx.prune(projected, "l0", [0])
    )
    masked, normed = nn.LSTM(2, 3), nn.LSTM(2, 3)
    prune.random_unstructured(masked, "weight_hh_l0", amount=0.5)
    parametrizations.weight_norm(normed, "weight_hh_l0")
    for message in [refused(InputError, lambda one=one: lx.prune(one, "l0", [0])) for one in (masked, normed)]:
        assert message.startswith("needed weights of l0 that are parameters, got weight_hh_l0 computed")
    tied = nn.ModuleDict({"one": nn.LSTM(2, 3), "two": nn.LSTM(2, 3)})
    tied["two"].weight_hh_l0 = tied["one"].weight_hh_l0
    assert "got one.weight_hh_l0 tied to two.weight_hh_l0" in refused(InputError, lambda: lx.prune(tied, "two.l0", [0]))
    refused(RecordingError, lambda: lx.prune(nn.Linear(2, 3), "l0", [0]))
    refused(InputError, lambda: lx.prune("model", "l0", [0]))


def test_a_copy_that_computes_something_else_is_not_handed_out(monkeypatch):
    cut = pruned._cut
    monkeypatch.setattr(
        pruned, "_cut", lambda weights, *rest: cut(weights, *rest)._replace(bias_ih=nn.Parameter(torch.ones(8, dtype=torch.float64)))
    )
    with pytest.raises(CertificateError, match="l0 without 1 units"):
        lx.prune(nn.LSTM(2, 3).double(), "l0", [0])
