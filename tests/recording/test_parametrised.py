"""Weights that are computed whenever they are read: the gates are those of the weights that were, and recording reads no more of them."""

from threading import Thread

import pytest
import torch
from kinds import ALL, LAYERS, assert_is, by_hand, inputs, key_of, made, run, suffixed, train, weights_of
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lstm_explain.recording.cells import register
from lstm_explain.recording.runner import record

DTYPES = [torch.float64, torch.float32]


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


PARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "halved": lambda module, name: parametrize.register_parametrization(module, name, Halved()),
    "spectral_norm": lambda module, name: parametrizations.spectral_norm(module.eval(), name),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
@pytest.mark.parametrize("how", PARAMETRISED)
@pytest.mark.parametrize("kind", ALL)
def test_weights_that_are_parametrised(kind, how, name, dtype):
    module, x = made(kind, dtype=dtype), inputs(dtype=dtype)
    PARAMETRISED[how](module, suffixed(kind, name))
    for _ in range(2):
        expected = run(kind, module, x)[0]
        with record(module) as recording:
            assert torch.equal(run(kind, module, x)[0], expected)
        assert_is(recording[key_of(kind)], by_hand(kind, weights_of(kind, module), x))
        train(module, x, kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
@pytest.mark.parametrize("kind", ALL)
def test_recording_does_not_move_a_norm_that_is_iterated_whenever_it_is_read(kind, name, grad, dtype):
    x, found = inputs(dtype=dtype), []
    for recorded in (False, True):
        module = made(kind, dtype=dtype)
        torch.manual_seed(1)
        parametrizations.spectral_norm(module, suffixed(kind, name))
        outputs = []
        for _ in range(2):
            if recorded:
                with record(module, grad=grad) as recording:
                    outputs.append(run(kind, module, x)[0])
                assert recording.certificate.state == "certified"
            else:
                outputs.append(run(kind, module, x)[0])
        sum(output.sum() for output in outputs).backward()
        found.append([*outputs, *module.state_dict().values()])
        gradients = [parameter.grad for parameter in module.parameters()]
        found[-1] += [] if grad else gradients
    assert all(map(torch.equal, *found))


class Dropped(nn.Module):
    """Draws a mask whenever the weight is read."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, weight):
        self.given.append(torch.dropout(weight, 0.5, True))
        return self.given[-1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_weights_that_are_drawn_whenever_they_are_read(kind, grad, dtype):
    module, x, dropped = made(kind, dtype=dtype), inputs(dtype=dtype), Dropped()
    weights = weights_of(kind, module)
    parametrize.register_parametrization(module, suffixed(kind, "weight_ih"), dropped)
    dropped.given.clear()
    torch.manual_seed(1)
    expected, random = run(kind, module, x)[0], torch.get_rng_state()
    reads = len(dropped.given)
    torch.manual_seed(1)
    with record(module, grad=grad) as recording:
        output = run(kind, module, x)[0]
    assert torch.equal(output, expected) and torch.equal(torch.get_rng_state(), random)
    assert len(dropped.given) == 2 * reads and all("forward" not in vars(part) for part in module.modules())
    if kind in LAYERS:
        assert_is(recording["l0"], by_hand(kind, weights | {"weight_ih": dropped.given[-1].detach()}, x))
        return
    state, each = None, reads // len(x)
    for at, call in enumerate(recording.calls["cell"]):
        used = dropped.given[reads + (at + 1) * each - 1].detach()
        assert_is(call.trajectory, by_hand(kind, weights | {"weight_ih": used}, x[at : at + 1], state))
        state = tuple(call.last.values()) if len(call.last) == 2 else call.last["hidden_state"]


class Leaky(nn.Module):
    """A cell of a user's own with a layer inside whose weight draws a mask whenever it is read."""

    def __init__(self):
        super().__init__()
        self.keep = nn.Linear(2, 3, dtype=torch.float64)
        parametrize.register_parametrization(self.keep, "weight", Dropped())

    def forward(self, x, h):
        f = torch.sigmoid(self.keep(x))
        return f * h + (1 - f)


def leaky(cell, x, h):
    f = torch.sigmoid(cell.keep(x))
    return {"forget_gate": f, "hidden_state": f * h + (1 - f)}


@pytest.mark.parametrize("grad", [False, True])
def test_a_registered_cell_reads_its_drawn_weights_once(grad):
    register(Leaky, leaky)
    cell, x, h = Leaky(), inputs(1)[0], torch.zeros(4, 3, dtype=torch.float64)
    torch.manual_seed(1)
    expected, random = cell(x, h), torch.get_rng_state()
    torch.manual_seed(1)
    with record(cell, grad=grad) as recording:
        assert torch.equal(cell(x, h), expected)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(1 - recording["cell"].forget_gate[:, 0], expected.detach())


def test_a_thread_that_calls_the_cell_meanwhile_reads_weights_of_its_own():
    cell, x, h = Leaky(), inputs(1)[0], torch.zeros(4, 3, dtype=torch.float64)
    given, meanwhile = cell.keep.parametrizations.weight[0].given, []

    def leaky_with_company(cell, x, h):
        thread = Thread(target=lambda: meanwhile.append((cell(x, h), given[-1])))
        thread.start()
        thread.join(timeout=60)
        return leaky(cell, x, h)

    register(Leaky, leaky_with_company)
    given.clear()
    with record(cell) as recording:
        output = cell(x, h)
    assert len(given) == 2 and recording.coverage.elsewhere == {"": 1}
    for returned, weight in ((output, given[0]), meanwhile[0]):
        torch.testing.assert_close(returned, 1 - torch.sigmoid(x @ weight.T + cell.keep.bias))
    assert not torch.equal(*given)
