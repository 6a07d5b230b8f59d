"""``record(model, grad=True)``: outputs and gradients of the plain layer, and the gradient of every gate and state at every step."""

import pytest
import torch
import unrolled
from cases import LAYOUTS, LENGTHS, Case, apart, close, laid_out, randomise, sequences_and_state
from every_kind import CELLS, LAYERS, Leaky, NormedLSTMCell, inputs, leaky, model_of, normed, registered
from mechanisms import counter
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import lstm_explain as lx


@pytest.fixture(autouse=True)
def _our_cells_are_known():
    with registered(Leaky, leaky), registered(NormedLSTMCell, normed):
        yield


def weighted(tensors):
    """One number in which every value counts otherwise, and not linearly."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    weights = torch.arange(1.0, len(flat) + 1, dtype=flat.dtype).cos()
    return (weights * (flat + flat.square())).sum()


def call_of(kind, layout, **options):
    """A model in a layout, its input apart as sequences, and its initial states; all leaves with gradients."""
    case = Case(
        layout, LENGTHS[layout], num_layers=2, bidirectional=True, proj_size=2 * ("projected" in kind), initial_state=True, **options
    )
    model = model_of(kind)
    model.batch_first = layout == "batch_first"
    sequences, state = sequences_and_state(case)
    state = state if type(model).__name__.endswith("LSTM") else state[:1]
    return case, model, [one.requires_grad_() for one in sequences], [one.requires_grad_() for one in state]


def run(case, model, sequences, state):
    output, last = model(laid_out(case, sequences), tuple(state) if len(state) == 2 else state[0])
    last = list(last) if isinstance(last, tuple) else [last]
    return output, last, weighted([*apart(case, output), *last])


def steps_as(results, suffix, signal, length):
    """The oracle's gradients of one signal, ``(batch, time, unit)``, zero where a sequence has ended."""
    rows = [torch.stack([kept_grad(step[signal]) for step in steps[suffix]]) for steps, *_ in results]
    return torch.stack([nn.functional.pad(one, (0, 0, 0, length - len(one))) for one in rows])


def kept_grad(tensor):
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def tensors(output):
    return output.data if isinstance(output, PackedSequence) else output


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_and_gradients_are_those_of_the_plain_layer(kind, layout):
    case, model, sequences, state = call_of(kind, layout)
    leaves = [*sequences, *state, *model.parameters()]
    plain, last, loss = run(case, model, sequences, state)
    expected = torch.autograd.grad(loss, leaves)
    with lx.record(model, grad=True) as recording:
        output, states, loss = run(case, model, sequences, state)
    assert torch.equal(tensors(output), tensors(plain)) and all(map(torch.equal, states, last)) and type(output) is type(plain)
    assert recording.certificate.state == "certified"
    recording.gradients(loss, retain_graph=True)
    loss.backward()
    for leaf, grad in zip(leaves, expected, strict=True):
        close(leaf.grad, grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_all_signals_are_those_of_the_unrolled_equations(kind, layout):
    case, model, sequences, state = call_of(kind, layout)
    with lx.record(model, grad=True) as recording:
        loss = run(case, model, sequences, state)[2]
    found = recording.gradients(loss)
    results = unrolled.run(model, sequences, [one.unsqueeze(1) for one in state] if layout == "unbatched" else state)
    last = [torch.stack(ends, dim=1) for ends in zip(*(ends for *_, ends in results), strict=True)]
    slow = weighted([*(rows for _, rows, _ in results), *last])
    close(loss.detach(), slow.detach())
    slow.backward()
    assert list(found) == list(recording) == case.suffixes
    for suffix, one in found.items():
        assert one.kind == "gradient" and list(one.signals) == list(recording[suffix].signals)
        assert torch.equal(one.valid, recording[suffix].valid) and one.reverse is recording[suffix].reverse
        for signal, grads in one.signals.items():
            close(grads, steps_as(results, suffix, signal, max(case.lengths)))
            assert not grads.requires_grad and grads.abs().max() > 0


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "leaky"])
def test_gradients_of_a_cell_are_those_of_the_unrolled_equations(kind):
    model, x = model_of(kind), inputs().requires_grad_()
    plain, states = model(x)
    expected = torch.autograd.grad(weighted([plain]), [x, *model.parameters()])
    with lx.record(model, grad=True) as recording:
        output, _ = model(x)
    assert torch.equal(output, plain) and output.requires_grad
    loss = weighted([output])
    one = recording.gradients(loss, retain_graph=True)["cell"]
    results = unrolled.run(model.cell, x, [torch.zeros(1, 3, 3, dtype=x.dtype)] * (len(states) if isinstance(states, tuple) else 1))
    weighted([rows for _, rows, _ in results]).backward()
    for signal, grads in one.signals.items():
        close(grads, steps_as(results, "", signal, 5))
    for found, grad in zip(torch.autograd.grad(loss, [x, *model.parameters()]), expected, strict=True):
        close(found, grad)


def own_loop(cell, x, equations=None):
    """A cell of somebody's own in a loop, or its equations by themselves with their signals beside; one number of all outputs."""
    states = [torch.full((len(x), 3), 0.1, dtype=x.dtype)] * (1 if isinstance(cell, Leaky) else 2)
    signals, outputs = [], []
    for step in x.unbind(1):
        if equations is None:
            returned = cell(step, *states) if len(states) == 1 else cell(step, states)
            states = [returned] if len(states) == 1 else returned
        else:
            signals.append({name: unrolled.kept(signal) for name, signal in equations(cell, step, *states).items()})
            states = [signals[-1][name] for name in ("hidden_state", "cell_state")[: len(states)]]
        outputs.append(states[0])
    return weighted([torch.stack(outputs), *states]), signals


@pytest.mark.parametrize(("kind", "equations"), [(Leaky, leaky), (NormedLSTMCell, normed)])
def test_gradients_of_a_registered_cell_are_those_of_its_equations(kind, equations):
    cell, x = randomise(kind(2, 3).double()), inputs(time=3)
    expected = torch.autograd.grad(own_loop(cell, x)[0], list(cell.parameters()))
    with lx.record(cell, grad=True) as recording:
        loss, _ = own_loop(cell, x)
    one = recording.gradients(loss, retain_graph=True)["cell"]
    for grad, plain in zip(torch.autograd.grad(loss, list(cell.parameters())), expected, strict=True):
        close(grad, plain)
    slow, signals = own_loop(cell, x, equations)
    close(slow.detach(), loss.detach())
    slow.backward()
    for name, grads in one.signals.items():
        close(grads, torch.stack([kept_grad(step[name]) for step in signals], dim=1))


@pytest.mark.parametrize("signal", ["input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state"])
def test_a_gradient_is_what_a_nudge_of_the_value_does_to_the_loss(signal):
    model, x, nudge = randomise(nn.LSTM(2, 3, batch_first=True, dtype=torch.float64)), inputs(2, 6), 1e-5
    with lx.record(model, grad=True) as recording:
        output, _ = model(x)
    one, grads = recording["l0"], recording.gradients(weighted([output]))["l0"].signals[signal]
    for t in (0, 2, 5):
        for unit in range(3):
            losses = []
            for sign in (1, -1):
                now = {name: values[:, t].clone() for name, values in one.signals.items()}
                now[signal][0, unit] += sign * nudge
                if signal != "cell_state":
                    now["cell_state"] = now["forget_gate"] * one.before("cell_state")[:, t] + now["input_gate"] * now["cell_candidate"]
                h, c = now["output_gate"] * now["cell_state"].tanh(), now["cell_state"]
                parts = [output[:, :t], h.unsqueeze(1)]
                if t < 5:
                    parts.append(model(x[:, t + 1 :], (h.unsqueeze(0), c.unsqueeze(0)))[0])
                losses.append(weighted([torch.cat(parts, dim=1)]))
            difference = float((losses[0] - losses[1]).detach()) / (2 * nudge)
            assert float(grads[0, t, unit]) == pytest.approx(difference, abs=1e-8)


def test_the_gradients_of_the_counter_are_known():
    # c_t = f c_{t-1} + i g with gates at 1: the last one moves with each c_t by 1, with f_t by c_{t-1}, with i_t by g_t, with o not.
    model, x = counter(), torch.eye(2, dtype=torch.float64)[torch.tensor([[0, 0, 1, 0, 0], [1, 1, 1, 1, 0]])]
    with lx.record(model, grad=True) as recording:
        _, (_, c) = model(x)
    one, grads = recording["l0"], recording.gradients(c.sum())["l0"]
    for signal, expected in (
        ("cell_state", torch.ones(2, 5, 1, dtype=torch.float64)),
        ("forget_gate", one.before("cell_state")),
        ("input_gate", one.cell_candidate),
        ("cell_candidate", torch.ones(2, 5, 1, dtype=torch.float64)),
    ):
        torch.testing.assert_close(grads.signals[signal], expected, rtol=0, atol=1e-7)
    assert not grads.output_gate.any() and not grads.hidden_state.any()
