"""The taps of an unfused copy: what they see is what the layer computes, and what is changed there is what it goes on with."""

import pytest
import torch
from cases import LAYOUTS, apart, call_of, close, drawn_states, last_states, same_results, slowly
from edited import edited, keep, run_layer, run_stack, same, weights_of
from recordings import ALL_KINDS, Loop, cell_of, layer_of, of_layout, signals_of, tensors_of
from torch import nn
from torch.nn.utils import parametrizations, prune

import lstm_explain as lx
from lstm_explain.errors import InputError

STACKS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True, "initial_state": True},
    "projected": {"num_layers": 2, "bidirectional": True, "proj_size": 2, "initial_state": True},
    "without_bias": {"num_layers": 2, "bias": False},
}
KINDS_AND_STACKS = [
    (kind, stack) for kind in ALL_KINDS for stack in STACKS if stack != "projected" or not isinstance(kind, str) or kind == "torch"
]


def case_of(stack, layout="packed_unsorted"):
    return of_layout(layout, **STACKS[stack])


def listened(taps, names):
    """Whatever comes through some taps from now on, by name."""
    heard = {name: [] for name in names}
    for name, values in heard.items():
        getattr(taps, name).register_forward_hook(lambda tap, inputs, value, values=values: values.append(value))
    return heard


def hook(taps, name, change):
    """Change what comes through a tap; `change` is told which call it is."""
    calls = []

    def hooked(tap, inputs, value):
        calls.append(value)
        return change(len(calls) - 1, value)

    return getattr(taps, name).register_forward_hook(hooked)


@pytest.mark.parametrize(
    ("kind", "stack", "layout"),
    [
        (*one, at)
        for one in KINDS_AND_STACKS
        for at in LAYOUTS
        if at == "packed_unsorted" or (one[1] == "deep" and one[0] in ("torch", "gru", ("full", "graves")))
    ],
)
def test_the_copy_returns_what_the_model_does_and_its_taps_see_what_a_recording_has(kind, stack, layout):
    case = case_of(stack, layout)
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    twin = lx.unfuse(model, *call)
    with lx.record(model) as recording:
        model(*call)
    heard = {suffix: listened(getattr(twin, suffix), signals_of(kind)) for suffix in case.suffixes}
    whole = {suffix: listened(getattr(twin, suffix).sequence, signals_of(kind)) for suffix in case.suffixes}
    same_results(case, twin(*call), slowly(case, model))
    for suffix in case.suffixes:
        for name, signal in recording[suffix].signals.items():
            (sequence,) = whole[suffix][name]
            close(sequence.detach(), signal)
            steps = heard[suffix][name][:: -1 if suffix.endswith("_reverse") else 1]
            order = sorted(range(len(case.lengths)), key=lambda b: -case.lengths[b])
            assert len(steps) == max(case.lengths)
            for t, value in enumerate(steps):
                close(value.detach(), signal[[b for b in order if case.lengths[b] > t], t])


@pytest.mark.parametrize(("kind", "stack"), KINDS_AND_STACKS)
def test_gradients_are_those_of_the_model(kind, stack):
    case = case_of(stack, "time_first")
    model = layer_of(kind, case)
    twin = lx.unfuse(model)
    found = []
    for one in (model, twin):
        x, hx = call_of(case, kind=kind)
        x.requires_grad_()
        parts = tensors_of(one(x, hx))
        loss = sum((part * torch.arange(part.numel()).view_as(part).cos()).sum() for part in parts)
        found.append(torch.autograd.grad(loss, [x, *one.parameters()]))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("stack", ["plain", "deep"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_changed_at_a_step_tap_feeds_back(kind, stack):
    case = case_of(stack, "batch_first")
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    plain, twin = slowly(case, model), lx.unfuse(model)
    for suffix in case.suffixes[-1:]:
        for signal in signals_of(kind):
            last = max(case.lengths) - 1

            def change(call, value):  # the second step that is read
                return value.index_fill(1, torch.tensor([1]), 0.25) if call == 1 else value

            second = last - 1 if suffix.endswith("_reverse") else 1

            def by_hand(where, name, t, value, edited=(suffix, signal, second)):
                if (where, name, t) == edited:
                    value = value.clone()
                    value[1] = 0.25
                return value

            with hook(getattr(twin, suffix), signal, change):
                returned = twin(*call)
            same(case, returned, edited(case, model, by_hand))
            with pytest.raises(AssertionError):
                same_results(case, returned, plain)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_added_to_two_step_taps_and_written_in_place(kind):
    case = case_of("deep")
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    twin, names = lx.unfuse(model), signals_of(kind)
    hook(twin.l0, names[0], lambda call, value: value + 0.1)
    hook(twin.l1_reverse, "hidden_state", lambda call, value: (value.mul_(0.5), None)[1])

    def by_hand(suffix, name, t, value):
        if (suffix, name) == ("l0", names[0]):
            value = value + 0.1
        return value * 0.5 if (suffix, name) == ("l1_reverse", "hidden_state") else value

    with torch.no_grad():
        same(case, twin(*call), edited(case, model, by_hand))


def memory_alone(module, ran, weights, start, change, reverse):
    """One sequence again from what ran, changed for good: what weights read of earlier states is what ran, the rest is new."""
    order = range(len(ran["hidden_state"]))[:: -1 if reverse else 1]
    now = {name: values.clone() for name, values in ran.items()}

    def changed(name):
        now[name] = change(name, now[name])

    if "cell_state" in ran:
        for name in ("input_gate", "forget_gate", "cell_candidate", "output_gate"):
            changed(name)
        c = start[1]
        for t in order:
            c = now["cell_state"][t] = now["forget_gate"][t] * c + now["input_gate"][t] * now["cell_candidate"][t]
        changed("cell_state")
        m = now["output_gate"] * torch.tanh(now["cell_state"])
        now["hidden_state"] = m @ weights["weight_hr"].T if "weight_hr" in weights else m
    elif "candidate" in ran:
        changed("reset_gate")
        changed("update_gate")
        before = start[0]
        for t in order:  # n = tanh(a + r b) with b = W_hn h + b_hn, of which a is what is left
            b = (weights["weight_hh"] @ before + weights.get("bias_hh", torch.zeros(len(weights["weight_hh"])))).chunk(3)[2]
            a = torch.atanh(ran["candidate"][t]) - ran["reset_gate"][t] * b
            now["candidate"][t] = torch.tanh(a + now["reset_gate"][t] * b)
            before = ran["hidden_state"][t]
        changed("candidate")
        h = start[0]
        for t in order:
            h = now["hidden_state"][t] = (1 - now["update_gate"][t]) * now["candidate"][t] + now["update_gate"][t] * h
    changed("hidden_state")
    return now


@pytest.mark.parametrize("layout", ["batch_first", "packed_unsorted"])
@pytest.mark.parametrize(("kind", "stack"), [(kind, stack) for kind, stack in KINDS_AND_STACKS if stack in ("deep", "projected")])
def test_what_is_changed_at_a_sequence_tap_leaves_the_layer_and_is_not_read_inside(kind, stack, layout):
    case = case_of(stack, layout)
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    plain, top = edited(case, model), case.suffixes[-1]
    bottom = case.suffixes[0]
    _, states = drawn_states(case, 2 if "cell_state" in signals_of(kind) else 1)
    twin = lx.unfuse(model)
    factors = torch.linspace(0.5, 1.5, max(case.lengths), dtype=torch.float64)
    for signal in signals_of(kind):
        with hook(getattr(twin, top).sequence, signal, lambda call, value: value * factors.view(1, -1, 1)):
            output, ends = twin(*call)
        at = len(case.suffixes) - 1
        expected = []
        for (signals, rows, last), start in zip(plain, states, strict=True):
            now = memory_alone(
                model,
                signals[top],
                weights_of(model, top),
                [state[at] for state in start],
                lambda name, values, signal=signal: values * factors[: len(values), None] if name == signal else values,
                top.endswith("_reverse"),
            )
            width = now["hidden_state"].shape[1]
            ending = 0 if top.endswith("_reverse") else -1
            names = ("hidden_state", "cell_state")[: len(last)]
            last = [torch.cat([of_one[:-1], now[name][ending][None]]) for of_one, name in zip(last, names, strict=True)]
            expected.append((signals, torch.cat([rows[:, :-width], now["hidden_state"]], dim=1), last))
        same(case, (output, ends), expected)
    if stack == "deep":  # the next layer reads what left
        hook(getattr(twin, bottom).sequence, "hidden_state", lambda call, value: value * 0.5)

        def halved(layer, rows):
            return torch.cat([rows[:, :3] * 0.5, rows[:, 3:]], dim=1)

        sequences, _ = drawn_states(case, 1)
        outputs = [run_stack(model, xs, start, keep, halved)[1] for xs, start in zip(sequences, states, strict=True)]
        for rows, slow in zip(apart(case, twin(*call)[0]), outputs, strict=True):
            close(rows.detach(), slow)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_change_at_a_step_tap_stays_in_what_the_sequence_taps_see(kind):
    case = case_of("plain", "batch_first")
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    for signal in signals_of(kind):
        twin = lx.unfuse(model)
        hook(twin.l0, signal, lambda call, value: value.index_fill(1, torch.tensor([2]), 0.0))
        whole = listened(twin.l0.sequence, signals_of(kind))
        twin(*call)
        expected = edited(
            case, model, lambda s, name, t, value, signal=signal: value * torch.tensor([1, 1, 0]) if name == signal else value
        )
        for name, (values,) in whole.items():
            close(values.detach(), torch.stack([signals["l0"][name] for signals, *_ in expected]))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_gradient_at_a_step_tap_is_the_whole_derivative(kind):
    case = case_of("deep", "batch_first")
    model, (x, hx) = layer_of(kind, case), call_of(case, kind=kind)
    with lx.record(model, grad=True) as recording:
        gradients = recording.gradients(model(x, hx)[0].square().sum())
    twin = lx.unfuse(model)
    heard = {suffix: listened(getattr(twin, suffix), signals_of(kind)) for suffix in case.suffixes}
    loss = twin(x, hx)[0].square().sum()
    for suffix in case.suffixes:
        for name, values in heard[suffix].items():
            found = torch.autograd.grad(loss, values, retain_graph=True)
            close(torch.stack(found[:: -1 if suffix.endswith("_reverse") else 1], dim=1), gradients[suffix].signals[name])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_cells_have_taps_of_their_own(kind):
    cell = cell_of(kind)
    model = Loop(cell)
    xs = torch.randn(4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twin = lx.unfuse(model, xs)
    with lx.record(model) as recording:
        model(xs)
    heard = listened(twin.cells[0], signals_of(kind))
    close(twin(xs).detach(), model(xs).detach())
    for name, values in heard.items():
        close(torch.stack(values, dim=1).detach(), recording["cells.0"].signals[name])
    for signal in signals_of(kind):
        twin = lx.unfuse(model)
        hook(twin.cells[0], signal, lambda call, value: value.index_fill(1, torch.tensor([0]), 0.5) if call == 1 else value)

        def by_hand(suffix, name, t, value, signal=signal):
            return torch.cat([torch.tensor([0.5]), value[1:]]) if (name, t) == (signal, 1) else value

        zeros = [torch.zeros(3, dtype=torch.float64)] * (2 if "cell_state" in signals_of(kind) else 1)
        for b, found in enumerate(twin(xs)):
            close(found.detach(), run_layer(cell, weights_of(cell, ""), "", xs[:, b], zeros, by_hand)[0]["hidden_state"][-1])
    one = cell(xs[0, 0])
    for ours, theirs in zip(last_states(lx.unfuse(cell)(xs[0, 0])), last_states(one), strict=True):
        close(ours.detach(), theirs.detach())


@pytest.mark.parametrize("layout", ["batch_first", "packed_unsorted"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_dropout_between_layers_falls_where_it_did(kind, layout):
    case = of_layout(layout, num_layers=2, bidirectional=True)
    model, call = layer_of(kind, case, dropout=0.5).train(), call_of(case, kind=kind)
    twin = lx.unfuse(model, *call)
    assert twin.training
    found = []
    for one in (model, twin):
        torch.manual_seed(3)
        found.append([*tensors_of(one(*call)), torch.get_rng_state()])
    for ours, theirs in zip(*found, strict=True):
        close(ours.detach(), theirs.detach())


@pytest.mark.parametrize("how", ["weight_norm", "masked"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_weights_that_are_computed_are_read_at_each_call(kind, how):
    case = case_of("deep", "batch_first")
    model, call = layer_of(kind, case), call_of(case, kind=kind)
    if how == "masked":
        prune.l1_unstructured(model, "weight_hh_l0", amount=0.5)
        hidden = "weight_hh_l0_orig"
    else:
        parametrizations.weight_norm(model, "weight_hh_l0")
        hidden = "parametrizations.weight_hh_l0.original0"
    model(*call)[0].sum().backward()
    twin = lx.unfuse(model, *call)
    for _ in range(2):
        for ours, theirs in zip(tensors_of(twin(*call)), tensors_of(model(*call)), strict=True):
            close(ours.detach(), theirs.detach())
        with torch.no_grad():
            for one in (model, twin):
                one.get_parameter(hidden).mul_(0.7)
    assert list(twin.state_dict()) == list(model.state_dict())


def test_a_hook_that_returns_another_shape_is_refused():
    twin = lx.unfuse(nn.LSTM(2, 3))
    hook(twin.l0, "forget_gate", lambda call, value: value[:, :2])
    with pytest.raises(InputError, match=r"^needed a tensor of shape \(1, 3\) from what hangs on the tap forget_gate, got \(1, 2\)$"):
        twin(torch.zeros(4, 1, 2))
