"""`register`: cells of somebody's own are recorded by their equations, and by nothing else than their equations."""

import doctest

import pytest
import torch
from cases import close, randomise
from every_kind import CoupledLSTMCell, Leaky, NormedLSTMCell, coupled, inputs, leaky, normed, registered
from recordings import refused
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import CertificateError, InputError, RecordingError
from lstm_explain.recording import cells


def loop(cell, x, call):
    """The cell over ``(batch, time, feature)`` by a call ``(cell, step, h, c) -> h, c``; each state after each step."""
    h = c = torch.zeros(len(x), 3, dtype=x.dtype)
    states = []
    for step in x.unbind(1):
        h, c = call(cell, step, h, c)
        states.append((h, c))
    return [torch.stack(state, dim=1) for state in zip(*states, strict=True)]


CALLS = {
    "cell(x, h)": (Leaky, leaky, lambda cell, x, h, c: (cell(x, h), c)),
    "cell(x, (h, c))": (NormedLSTMCell, normed, lambda cell, x, h, c: cell(x, (h, c))),
    "cell(x, [h, c])": (NormedLSTMCell, normed, lambda cell, x, h, c: cell(x, [h, c])),
    "cell(x, h, c)": (CoupledLSTMCell, coupled, lambda cell, x, h, c: cell(x, h, c)[1]),
    "cell(x=x, h=h)": (Leaky, leaky, lambda cell, x, h, c: (cell(x=x, h=h), c)),
    "cell(h=h, x=x)": (Leaky, leaky, lambda cell, x, h, c: (cell(h=h, x=x), c)),
    "cell(state=(h, c), x=x)": (NormedLSTMCell, normed, lambda cell, x, h, c: cell(state=(h, c), x=x)),
    "cell(x, c=c, h=h)": (CoupledLSTMCell, coupled, lambda cell, x, h, c: cell(x, c=c, h=h)[1]),
    "cell.forward(x, h)": (Leaky, leaky, lambda cell, x, h, c: (cell.forward(x, h), c)),
}


@pytest.mark.parametrize("how", CALLS)
def test_however_a_cell_is_called_what_is_recorded_is_what_it_computed(how):
    kind, equations, call = CALLS[how]
    cell, x = randomise(kind(2, 3).double()), inputs()
    plain = loop(cell, x, call)
    with registered(kind, equations), lx.record(cell) as recording:
        assert all(map(torch.equal, loop(cell, x, call), plain))
    one = recording["cell"]
    assert one.kind == kind.__name__ and one.valid.shape == (3, 5) and one.form is None and one.memory in one.signals
    assert torch.equal(one.hidden_state, plain[0]) and ("cell_state" not in one.signals or torch.equal(one.cell_state, plain[1]))
    for t in range(5):
        states = [one.before(state)[:, t] for state in one.initial]
        for name, signal in equations(cell, x[:, t], *states).items():
            close(one.signals[name][:, t], signal.detach())
    assert recording.certificate.state == "certified" and recording.certificate.count == 5
    assert not one.started and not one.edited().any() and not one.initial_hidden_state.any()


def test_the_example_of_the_documentation_holds():
    (test,) = [one for one in doctest.DocTestFinder().find(cells.register, "register", globs={}) if one.examples]
    known = set(cells.REGISTERED)
    try:
        assert doctest.DocTestRunner().run(test).failed == 0
    finally:
        for kind in set(cells.REGISTERED) - known:
            cells.REGISTERED.pop(kind)


@pytest.mark.parametrize("batched", [True, False])
def test_a_state_that_is_left_out_is_zero(batched):
    cell, x = randomise(Leaky(2, 3).double()), inputs()[:, 0]
    x = x if batched else x[0]
    with registered(Leaky, leaky), lx.record(cell) as recording:
        h = cell(x)
        cell(x, h)
    assert recording["cell"].valid.shape == (3 if batched else 1, 2)
    close(recording["cell"].hidden_state[:, 0], h.detach().view(-1, 3))
    assert not recording["cell"].initial_hidden_state.any()


class Nested(Leaky):
    pass


class Otherwise(Leaky):
    """A subclass that computes something else."""

    def forward(self, x, h=None):
        return super().forward(x, h) + 1e-3


class Known(Leaky):
    """A subclass with equations of its own."""

    def forward(self, x, h=None):
        return -super().forward(x, h)


def test_a_subclass_goes_by_the_equations_of_its_nearest_class():
    def negative(cell, x, h):
        return {name: -signal if name == "hidden_state" else signal for name, signal in leaky(cell, x, h).items()}

    zeros = torch.zeros(3, 3, dtype=torch.float64)
    with registered(Leaky, leaky), registered(Known, negative):
        for kind, name in ((Nested, "Leaky"), (Known, "Known")):
            cell = randomise(kind(2, 3).double())
            with lx.record(cell) as recording:
                cell(inputs()[:, 0], zeros)
            assert recording["cell"].kind == name and recording.certificate.state == "certified"
        cell = Otherwise(2, 3).double()
        with lx.record(cell), pytest.raises(CertificateError, match="^the model, call 0: "):
            cell(inputs()[:, 0], zeros)


class Three(nn.Module):
    """Three states."""

    def forward(self, x, a, b, s):
        a = torch.tanh(x + s)
        return a, (a, b + a, s * 0.5 + b)


def three(cell, x, a, b, s):
    a = torch.tanh(x + s)
    return {"now": a, "so_far": b + a, "slow": s * 0.5 + b}


def test_states_may_have_names_of_their_own():
    names, x = ("now", "so_far", "slow"), torch.randn(2, 4, 3, dtype=torch.float64)
    cell = Three()
    with registered(Three, three, states=names), lx.record(cell) as recording:
        states = [torch.full((2, 3), float(at), dtype=torch.float64) for at in range(3)]
        for step in x.unbind(1):
            _, states = cell(step, *states)
    one = recording["cell"]
    assert tuple(one.initial) == names == tuple(one.signals) and one.valid.shape == (2, 4) and one.complete
    assert [float(one.initial[name].mean()) for name in names] == [0, 1, 2]
    close(one.before("so_far") + one.now, one.so_far)
    assert recording.certificate.worst.c_n <= 1e-12 and torch.equal(recording.calls["cell"][-1].last["slow"], states[2])
    with registered(Three, three, states=names[:2]), lx.record(cell):
        assert "the equations registered for Three: TypeError" in str(failing(lambda: cell(x[:, 0], *states)))


def failing(call):
    with pytest.raises((InputError, RecordingError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def without(name):
    return lambda cell, x, h: {key: signal for key, signal in leaky(cell, x, h).items() if key != name}


def instead(**signals):
    return lambda cell, x, h: leaky(cell, x, h) | {name: change(x, h) for name, change in signals.items()}


@pytest.mark.parametrize(
    ("equations", "error", "words"),
    [
        (instead(hidden_state=lambda x, h: h), CertificateError, "differs from what the layer returned"),
        (lambda cell, x, h: leaky(cell, 2 * x, h), CertificateError, "differs"),
        (instead(hidden_state=lambda x, h: h * torch.nan), CertificateError, "differs"),
        (without("hidden_state"), InputError, "needed hidden_state among what the equations of Leaky return, got forget_gate, candidate"),
        (lambda cell, x, h: {}, InputError, "got nothing"),
        (lambda cell, x, h: leaky(cell, x, h)["hidden_state"], InputError, "the equations registered for Leaky: "),
        (lambda cell, x, h: None, InputError, "the equations registered for Leaky: TypeError"),
        (lambda cell, x: {}, InputError, "the equations registered for Leaky: TypeError"),
        (lambda cell, x, h: {"hidden_state": 1 / 0}, InputError, "the equations registered for Leaky: ZeroDivisionError: division by zero"),
        (lambda cell, x, h: {"hidden_state": x @ h}, InputError, "the equations registered for Leaky: RuntimeError"),
        (instead(candidate=lambda x, h: 0.5), InputError, "needed candidate of Leaky of shape (3, 'unit'), got float"),
        (instead(candidate=lambda x, h: h[0]), InputError, "needed candidate of Leaky of shape (3, 'unit'), got (3,)"),
        (instead(candidate=lambda x, h: h[:1]), InputError, "got (1, 3)"),
        (instead(hidden_state=lambda x, h: h[:, :1]), CertificateError, "differs"),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_wrong_equations_are_refused_in_one_line_and_nothing_is_kept(equations, error, words, grad):
    cell = randomise(Leaky(2, 3).double())
    with registered(Leaky, equations), lx.record(cell, grad=grad) as recording:
        caught = failing(lambda: cell(inputs()[:, 0], torch.ones(3, 3, dtype=torch.float64)))
        assert isinstance(caught, error) and words in str(caught) and len(recording) == 0


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (("a",), InputError, "needed a among what the equations of Leaky return"),
        (("hidden_state", "cell_state"), RecordingError, "needed its state, hidden_state and cell_state, from Leaky, got Tensor"),
    ],
)
def test_states_that_are_not_there_are_refused(states, error, words):
    cell = randomise(Leaky(2, 3).double())
    with registered(Leaky, leaky, states=states), lx.record(cell):
        caught = failing(lambda: cell(inputs()[:, 0], torch.ones(3, 3, dtype=torch.float64)))
    assert isinstance(caught, error) and words in str(caught)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lx.register(Leaky(2, 3), leaky), "a class of torch.nn.Module, got Leaky"),
        (lambda: lx.register(int, leaky), "got int"),
        (lambda: lx.register(Leaky, 3), "equations as a function (cell, x, *states), got int"),
        (lambda: lx.register(Leaky, {"hidden_state": leaky}), "got dict"),
        *((lambda s=s: lx.register(Leaky, leaky, states=s), "states as names") for s in ((), "hidden_state", (1,), 1, ("a", "a"))),
    ],
)
def test_what_can_not_be_registered_is_refused(call, words):
    known = dict(cells.REGISTERED)
    assert words in refused(InputError, call) and known == cells.REGISTERED


def test_analyses_work_on_a_registered_cell():
    cell, x = randomise(CoupledLSTMCell(2, 3).double()), inputs()
    with registered(CoupledLSTMCell, coupled), lx.record(cell, lengths=[5, 2, 1]) as recording:
        loop(cell, x, CALLS["cell(x, h, c)"][2])
    one, layer = recording["cell"], lx.saturation(recording).layers["cell"]
    assert layer.gates == one.gates == ("forget_gate", "output_gate") and layer.steps == 8
    close(layer.mean, torch.stack([one.steps(gate).mean(0) for gate in one.gates]))
    assert lx.timescale(recording).layers["cell"].steps == 8


def test_a_cell_that_is_not_registered_is_not_recorded():
    message = refused(RecordingError, lambda: lx.record(Leaky(2, 3)).__enter__())
    assert "lx.register" in message
