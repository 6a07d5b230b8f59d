"""The conformance checks of cells: what is sound passes all of them, and each one has a cell that fails it, and no other."""

import pytest
import torch
from checked import drawn, failed, message_of, skipped
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import InputError
from lstm_explain.testing import check_cell


class Leaky(nn.Module):
    """One gate, one state."""

    def __init__(self, input_size=2, hidden_size=3):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.keep, self.read = nn.Linear(input_size, hidden_size), nn.Linear(input_size, hidden_size)

    def forward(self, x, h=None):
        f = torch.sigmoid(self.keep(x))
        return (1 - f) * torch.tanh(self.read(x)) + (0.0 if h is None else f * h)


def leaky(cell, x, h):
    f, g = torch.sigmoid(cell.keep(x)), torch.tanh(cell.read(x))
    return {"forget_gate": f, "candidate": g, "hidden_state": (1 - f) * g + f * h}


def twice(cell, x, h):
    return {name: 2 * signal for name, signal in leaky(cell, x, h).items()}


def detached(cell, x, h):
    return {name: signal.detach() if name == "hidden_state" else signal for name, signal in leaky(cell, x, h).items()}


def misnamed(cell, x, h):
    signals = leaky(cell, x, h)
    return signals | {"candidate_gate": signals.pop("candidate")}


class Careful(Leaky):
    """Cuts off what its equations don't."""

    def forward(self, x, h=None):
        f = torch.sigmoid(self.keep(x).clamp(-9, 9))
        return (1 - f) * torch.tanh(self.read(x)) + f * h


class WritesIntoItsState(Leaky):
    """What it returned is changed when it goes in again."""

    def forward(self, x, h):
        return super().forward(x, h.mul_(0.9))


class Mixes(Leaky):
    """Its sequences know of each other."""

    def forward(self, x, h):
        return super().forward(x - x.mean(0), h)


def mixed(cell, x, h):
    return leaky(cell, x - x.mean(0), h)


class StartsAtOne(Leaky):
    def forward(self, x, h=None):
        return super().forward(x, torch.ones(len(x), 3, dtype=x.dtype) if h is None else h)


class AnotherWithGradients(Leaky):
    """Computes something else where gradients are enabled."""

    def forward(self, x, h):
        return super().forward(x, h) * (2 if torch.is_grad_enabled() else 1)


class Halved(nn.GRUCell):
    """A subclass that computes something else."""

    def forward(self, input, hx=None):
        return super().forward(input, hx) / 2


FAIL_ONE_CELL = {
    "check_its_class_is_known": [(Leaky, None)],
    "check_equations_give_what_it_returns": [(Leaky, twice), (Halved, None)],
    "check_equations_hold_at_the_ends_of_the_gates": [(Careful, leaky)],
    "check_gates_lie_between_0_and_1": [(Leaky, misnamed)],
    "check_steps_join_along_time": [(WritesIntoItsState, leaky)],
    "check_sequences_do_not_mix": [(Mixes, mixed)],
    "check_a_state_that_is_left_out_is_zero": [(StartsAtOne, leaky)],
    "check_gradients_of_the_equations_are_its_own": [(Leaky, detached), (AnotherWithGradients, leaky)],
}


@pytest.mark.parametrize(("name", "kind", "equations"), [(name, *cell) for name, cells in FAIL_ONE_CELL.items() for cell in cells])
def test_each_check_has_a_cell_that_fails_it_and_no_other(name, kind, equations):
    if equations:
        lx.register(kind, equations)
    checks = check_cell(kind(2, 3), on_fail="return")
    assert failed(checks) == [name]
    assert message_of(checks) and "\n" not in message_of(checks)


def test_every_check_of_a_cell_is_tested_above():
    assert [check.name for check in check_cell(nn.GRUCell(2, 3)).checks] == list(FAIL_ONE_CELL)


@pytest.mark.parametrize(
    ("kind", "equations", "words"),
    [
        (Leaky, None, ["needed a cell of a class that is known, got Leaky: lx.register(Leaky, equations)"]),
        (Leaky, lambda cell, x: {}, ["the equations registered for Leaky: TypeError"]),
        (Leaky, lambda cell, x, h: {"gate": h}, ["needed hidden_state among what the equations of Leaky return, got gate"]),
        (Leaky, misnamed, ["candidate_gate is from -1 to 1", "another name"]),
        (WritesIntoItsState, leaky, ["5 steps became (15, 1)", "don't write into it"]),
        (StartsAtOne, leaky, ["without a state it ends", "pass its state"]),
        (Leaky, detached, ["do the equations detach"]),
    ],
)
def test_what_failed_of_a_cell_says_what_to_do(kind, equations, words):
    if equations:
        lx.register(kind, equations)
    message = message_of(check_cell(kind(2, 3), on_fail="return"))
    assert all(word in message for word in words) and "\n" not in message


# ---- Sound cells


class TwoStates(nn.Module):
    """Called as cell(x, (h, c)), or as cell(x, h, c)."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(2, 3)

    def forward(self, x, *states):
        h, c = states if len(states) == 2 else states[0]
        c = c / 2 + self.read(x)
        return torch.tanh(c) + h / 4, c


def two_states(cell, x, h, c):
    c = c / 2 + cell.read(x)
    return {"hidden_state": torch.tanh(c) + h / 4, "cell_state": c}


class WithOutput(TwoStates):
    """Returns an output beside its state."""

    def forward(self, x, *states):
        h, c = super().forward(x, *states)
        return 2 * h, (h, c)


class ReadsTokens(nn.Module):
    """Its input are whole numbers."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x, h):
        return torch.tanh(self.table(x) + h / 2)


class NoWeights(nn.Module):
    """Nothing to be learned."""

    input_size = hidden_size = 3

    def forward(self, x, h):
        return x + h / 2


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lx.PeepholeLSTMCell])
def test_cells_of_pytorch_and_ours_pass(kind):
    checks = check_cell(kind(2, 3))
    assert checks.passed and skipped(checks) == {}


@pytest.mark.parametrize(
    ("kind", "equations", "call"),
    [
        pytest.param(Leaky, leaky, (), id="sizes"),
        pytest.param(Leaky, leaky, (drawn(4, 2), drawn(4, 3)), id="one state"),
        pytest.param(TwoStates, two_states, (drawn(4, 2), (drawn(4, 3), drawn(4, 3))), id="two states together"),
        pytest.param(TwoStates, two_states, (drawn(4, 2), drawn(4, 3), drawn(4, 3)), id="two states apart"),
        pytest.param(WithOutput, two_states, (drawn(4, 2), (drawn(4, 3), drawn(4, 3))), id="output beside them"),
        pytest.param(WithOutput, two_states, (drawn(4, 2), drawn(4, 3), drawn(4, 3)), id="output beside them, apart"),
        pytest.param(
            ReadsTokens, lambda cell, x, h: {"hidden_state": torch.tanh(cell.table(x) + h / 2)}, (torch.arange(4), drawn(4, 3)), id="tokens"
        ),
        pytest.param(NoWeights, lambda cell, x, h: {"hidden_state": x + h / 2}, (), id="no weights"),
    ],
)
def test_cells_of_a_user_pass_in_every_way_of_calling_them(kind, equations, call):
    lx.register(kind, equations)
    assert check_cell(kind(), *call).passed


def test_a_subclass_of_a_registered_class_is_known():
    class Smaller(Leaky):
        pass

    lx.register(Leaky, leaky)
    assert check_cell(Smaller(2, 3)).passed


def test_gradients_of_a_cell_are_left_out_where_there_are_none():
    checks = check_cell(nn.GRUCell(2, 3).requires_grad_(False))
    assert skipped(checks) == {"check_gradients_of_the_equations_are_its_own": "no parameter requires a gradient"}


def test_a_cell_that_needs_its_state_leaves_one_check_out():
    lx.register(NoWeights, lambda cell, x, h: {"hidden_state": x + h / 2})
    assert "it needs its state: " in skipped(check_cell(NoWeights()))["check_a_state_that_is_left_out_is_zero"]


class TiresInTheEnd(nn.Module):
    """Its equations hold for some steps only: the second state counts them."""

    def forward(self, x, h, c):
        return torch.where(c > 9, 0.0, x + h / 2), c + 1


def never_tires(cell, x, h, c):
    return {"hidden_state": x + h / 2, "cell_state": c + 1}


@pytest.mark.parametrize(("steps", "passed"), [(1, True), (5, True), (20, False)])
def test_as_many_steps_are_taken_as_were_asked_for(steps, passed):
    lx.register(TiresInTheEnd, never_tires)
    assert check_cell(TiresInTheEnd(), drawn(4, 3), drawn(4, 3), drawn(4, 3), steps=steps, on_fail="return").passed is passed


def test_a_cell_that_does_not_say_its_sizes_needs_a_call():
    lx.register(TwoStates, two_states)
    with pytest.raises(
        InputError, match=r"^needed a call of TwoStates, \(x, h\) or \(x, \(h, c\)\), as it doesn't say its sizes, got none$"
    ):
        check_cell(TwoStates())


class RaisesLater(Leaky):
    def forward(self, x, h=None):
        raise RuntimeError("out of <luck>\nfor good")


def test_a_cells_own_exception_is_said_in_one_line():
    lx.register(RaisesLater, leaky)
    assert message_of(check_cell(RaisesLater(2, 3), on_fail="return")) == "it raised RuntimeError: out of <luck>"


class RandomInTraining(Leaky):
    """In training mode something else."""

    def forward(self, x, h=None):
        return nn.functional.dropout(super().forward(x, h), 0.5, self.training)


def test_a_cell_is_checked_in_evaluation_mode():
    lx.register(RandomInTraining, leaky)
    assert check_cell(RandomInTraining(2, 3).train()).passed


# ---- What is left


@pytest.mark.parametrize("make", [lambda: nn.LSTMCell(2, 3), lambda: Leaky(2, 3)])
def test_a_cell_and_its_inputs_are_left_as_they_were(make):
    lx.register(Leaky, leaky)
    cell = make()
    given = (drawn(4, 2), (drawn(4, 3), drawn(4, 3)) if isinstance(cell, nn.LSTMCell) else drawn(4, 3))
    one = next(cell.parameters())
    one.grad = gradient = torch.ones_like(one)
    values, inputs, state = [parameter.clone() for parameter in cell.parameters()], given[0].clone(), torch.get_rng_state()
    attributes = set(vars(cell))
    check_cell(cell, *given)
    assert all(map(torch.equal, cell.parameters(), values)) and torch.equal(given[0], inputs)
    assert one.grad is gradient and torch.equal(gradient, torch.ones_like(one))
    assert cell.training and set(vars(cell)) == attributes and torch.equal(torch.get_rng_state(), state)
