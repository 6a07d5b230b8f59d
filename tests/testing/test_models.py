"""The conformance checks of models: what is sound passes all of them, and each one has a model that fails it, and no other."""

import random
from types import MethodType

import pytest
import torch
from cases import randomise
from checked import drawn, failed, message_of, skipped
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import lstm_explain as lx
from lstm_explain.errors import InputError
from lstm_explain.testing import check_cell, check_record


def is_watched(layer):
    return not isinstance(layer.forward, MethodType)


class Tagger(nn.Module):
    """A layer and a head."""

    def __init__(self, layer=None):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True) if layer is None else layer)
        self.head = randomise(nn.Linear(3, 2))

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Raises(Tagger):
    def forward(self, x):
        raise KeyError("no such <thing>\nand more of it")


class Clipped(nn.LSTM):
    """Computes something else than its kind."""

    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return output.clamp(-0.1, 0.1), state


class OutputOnly(nn.LSTM):
    def forward(self, input, hx=None):
        return super().forward(input, hx)[0]


class Second(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Scripted(Tagger):
    def __init__(self):
        super().__init__()
        self.second = torch.jit.script(Second())

    def forward(self, x):
        return self.second(self.lstm(x)[0])


class Unused(Tagger):
    def __init__(self):
        super().__init__()
        self.spare = nn.GRU(2, 3)


class PythonsRandom(Tagger):
    def forward(self, x):
        return super().forward(x), torch.tensor(random.random())


class LooksAtForward(Tagger):
    def forward(self, x):
        return super().forward(x), torch.tensor(is_watched(self.lstm))


class OtherDtype(Tagger):
    def forward(self, x):
        output = super().forward(x)
        return output.double() if is_watched(self.lstm) else output


class LosesANumber(Tagger):
    def forward(self, x):
        return super().forward(x), torch.tensor(torch.nan if is_watched(self.lstm) else 0.0)


class DropsAnOutput(Tagger):
    def forward(self, x):
        output = super().forward(x)
        return [output] if is_watched(self.lstm) else [output, output.detach()]


class DrawsWhenWatched(Tagger):
    def forward(self, x):
        if is_watched(self.lstm):
            torch.rand(1)
        return super().forward(x)


class DetachesALittle(Tagger):
    def forward(self, x):
        output = self.lstm(x)[0]
        return self.head(output.detach() if is_watched(self.lstm) else output)


class DetachesAll(Tagger):
    def forward(self, x):
        output = super().forward(x)
        return output.detach() if is_watched(self.lstm) else output


class ChangesItsMode(Tagger):
    def forward(self, x):
        self.head.train(not self.head.training)
        return super().forward(x)


class Freezes(Tagger):
    def forward(self, x):
        if is_watched(self.lstm):
            self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)
        return super().forward(x)


class LeavesAMark(Tagger):
    def forward(self, x):
        if is_watched(self.lstm):
            self.mark = x.shape
        return super().forward(x)


class HooksItself(Tagger):
    def forward(self, x):
        self.head.register_forward_pre_hook(lambda module, args: None)
        return super().forward(x)


class Carries(Tagger):
    """Goes on where the pass before ended."""

    def __init__(self):
        super().__init__()
        for gate, bias in ((0, -3.0), (1, 9.0)):  # it reads little and forgets nothing
            nn.init.constant_(self.lstm.bias_ih_l0[3 * gate : 3 * gate + 3], bias)

    def forward(self, x):
        output, state = self.lstm(x, getattr(self, "state", None))
        self.state = tuple(part.detach() for part in state)
        return self.head(output)


class CarriesAside(Carries):
    """The same, and nobody sees it outside."""

    def forward(self, x):
        super().forward(x)
        return self.head(torch.cat([x, x[:, :, :1]], dim=2))


FAIL_ONE = {
    "check_it_runs": [Raises],
    "check_recording_is_certified": [lambda: Tagger(Clipped(2, 3, batch_first=True))],
    "check_every_recurrent_module_can_be_opened": [Scripted],
    "check_every_layer_is_called": [Unused],
    "check_outputs_are_the_same_bit_for_bit": [PythonsRandom, LooksAtForward, OtherDtype, LosesANumber, DropsAnOutput],
    "check_random_state_moves_as_it_would_have": [DrawsWhenWatched],
    "check_gradients_are_the_same_bit_for_bit": [DetachesALittle, DetachesAll],
    "check_nothing_is_left_behind": [ChangesItsMode, HooksItself, LeavesAMark, Freezes],
    "check_recording_twice_gives_the_same": [CarriesAside],
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(("name", "make"), [(name, make) for name, makes in FAIL_ONE.items() for make in makes])
def test_each_check_has_a_model_that_fails_it_and_no_other(name, make):
    checks = check_record(make(), drawn(4, 5, 2), on_fail="return")
    assert failed(checks) == [name] and not checks.passed
    assert message_of(checks) and "\n" not in message_of(checks)


def test_every_check_of_a_model_that_can_fail_is_tested_above():
    checks = check_record(Tagger(), drawn(4, 5, 2))
    assert {check.name for check in checks.checks} == {*FAIL_ONE, "check_padding_is_known"}


# ---- Sound models


class PackedTagger(Tagger):
    def forward(self, x, *, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return {"packed": self.lstm(packed)[0]}


class InALoop(nn.Module):
    """Cells, one step at a time."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(2, 3), nn.GRUCell(3, 3), nn.RNNCell(3, 3), lx.PeepholeLSTMCell(3, 3)])

    def forward(self, x):
        states = [None] * len(self.cells)
        for now in x.unbind(1):
            for at, cell in enumerate(self.cells):
                states[at] = cell(now, states[at])
                now = states[at][0] if isinstance(states[at], tuple) else states[at]
        return now


class RandomEverywhere(Tagger):
    """Dropout between the layers and around them, and statistics that run."""

    def __init__(self):
        super().__init__(nn.LSTM(2, 3, num_layers=2, batch_first=True, dropout=0.5))
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x):
        return self.norm(self.drop(super().forward(x))), torch.rand(2)


class SetsWhatItNeeds(Tagger):
    """Attributes that come with the first pass are its own."""

    def forward(self, x):
        self.seen = x.shape
        return super().forward(x)


class NotANumber(Tagger):
    def forward(self, x):
        return super().forward(x), torch.tensor([torch.nan, torch.inf]), torch.arange(3), torch.tensor(True), "words"


SOUND = {
    **{kind.__name__: (lambda kind=kind: kind(2, 3, batch_first=True)) for kind in (nn.LSTM, nn.GRU, nn.RNN, lx.PeepholeLSTM)},
    "deep": lambda: nn.LSTM(2, 3, num_layers=2, bidirectional=True),
    "relu": lambda: nn.RNN(2, 3, nonlinearity="relu", bidirectional=True),
    "frozen": lambda: nn.GRU(2, 3).requires_grad_(False),
    "evaluated": lambda: Tagger().eval(),
    "float64": lambda: nn.Sequential(Cast(), Tagger().double()),
    **{kind.__name__: kind for kind in (Tagger, InALoop, RandomEverywhere, SetsWhatItNeeds, NotANumber)},
}


class Cast(nn.Module):
    def forward(self, x):
        return x.double()


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_sound_models_of_all_kinds_pass(make):
    checks = check_record(make(), drawn(4, 5, 2))
    assert checks.passed and checks.failed == ()
    assert set(skipped(checks)) <= {"check_padding_is_known", "check_gradients_are_the_same_bit_for_bit"}


def test_keywords_are_handed_to_the_model_and_packed_batches_know_their_padding():
    checks = check_record(PackedTagger(), drawn(3, 5, 2), lengths=torch.tensor([2, 5, 3]))
    assert checks.passed and skipped(checks) == {}
    assert skipped(check_record(nn.GRU(2, 3), pack_sequence([drawn(4, 2), drawn(2, 2)]))) == {}


def test_where_padding_is_unknown_the_check_is_left_out_and_says_what_to_do():
    assert "lx.record(model, lengths=...)" in skipped(check_record(Tagger(), drawn(4, 5, 2)))["check_padding_is_known"]


def test_gradients_are_left_out_where_there_are_none():
    checks = check_record(Tagger().requires_grad_(False), drawn(4, 5, 2))
    assert "no output depends on a parameter" in skipped(checks)["check_gradients_are_the_same_bit_for_bit"]
    with torch.no_grad():
        assert "check_gradients_are_the_same_bit_for_bit" not in skipped(check_record(Tagger(), drawn(4, 5, 2)))


class Inside:
    """What a model may return that nobody can look into."""

    def __init__(self, output):
        self.output = output


class ReturnsAnObject(Tagger):
    def forward(self, x):
        return Inside(super().forward(x))


def test_outputs_that_can_not_be_compared_are_not_called_the_same():
    checks = check_record(ReturnsAnObject(), drawn(4, 5, 2))
    assert "no tensors in what it returns" in skipped(checks)["check_outputs_are_the_same_bit_for_bit"]


def test_a_state_that_is_carried_from_pass_to_pass_fails_all_that_compare_passes():
    checks = check_record(Carries(), drawn(4, 5, 2), on_fail="return")
    assert failed(checks) == [
        "check_outputs_are_the_same_bit_for_bit",
        "check_gradients_are_the_same_bit_for_bit",
        "check_recording_twice_gives_the_same",
    ]
    assert "a state that it carries on" in checks.failed[0].message


class NeverCalls(Tagger):
    def forward(self, x):
        return self.head(torch.cat([x, x[:, :, :1]], dim=2))


def test_a_model_whose_layers_are_not_called_fails_without_a_warning():
    checks = check_record(NeverCalls(), drawn(4, 5, 2), on_fail="return")
    assert failed(checks) == ["check_recording_is_certified", "check_every_layer_is_called"]
    assert "nothing was recorded" in checks.failed[0].message and "never called: lstm" in checks.failed[1].message


# ---- What is said


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Raises, ["it raised KeyError: ", "no such <thing>"]),
        (lambda: Tagger(Clipped(2, 3, batch_first=True)), ["lstm, call 0", "a subclass with a forward pass of its own"]),
        (lambda: Tagger(OutputOnly(2, 3, batch_first=True)), ["needed ", "from OutputOnly, got Tensor"]),
        (lambda: nn.Linear(2, 2), ["needed a model with recurrent layers", "lx.register"]),
        (Scripted, ["second.gru (GRU, TorchScript", "eager"]),
        (Unused, ["never called: spare; give inputs that use them"]),
        (PythonsRandom, ["two plain passes", "torch's generator"]),
        (LooksAtForward, ["outputs differ", "`forward`"]),
        (ChangesItsMode, ["does the model change them itself?"]),
        (CarriesAside, ["l0 differs", "Reset it"]),
    ],
)
def test_what_failed_says_what_to_do(make, words):
    message = message_of(check_record(make(), drawn(4, 5, 2), on_fail="return"))
    assert all(word in message for word in words) and "\n" not in message


def test_what_comes_after_an_exception_is_left_out_until_it_passes():
    checks = check_record(Raises(), drawn(4, 5, 2), on_fail="return")
    assert len(checks.checks) == len(FAIL_ONE) + 1
    assert set(skipped(checks).values()) == {"until check_it_runs passes"} and len(skipped(checks)) == len(FAIL_ONE)


def test_what_our_own_errors_say_is_not_put_into_other_words():
    message = message_of(check_record(nn.Linear(2, 2), drawn(4, 5, 2), on_fail="return"))
    assert message.startswith("needed ") and "raised" not in message


# ---- What is done with it


def test_a_check_that_fails_raises_unless_told_otherwise():
    with pytest.raises(AssertionError) as caught:
        check_record(NeverCalls(), drawn(4, 5, 2))
    assert all(f"{name}: " in str(caught.value) for name in ("check_recording_is_certified", "check_every_layer_is_called"))
    with pytest.raises(AssertionError):
        check_record(Unused(), drawn(4, 5, 2), on_fail="raise")
    with pytest.raises(AssertionError, match="^check_its_class_is_known: "):
        check_cell(Tagger(), drawn(4, 2), drawn(4, 3))


def test_a_check_that_fails_warns_where_it_was_called_if_told_to():
    with pytest.warns(UserWarning) as caught:
        checks = check_record(NeverCalls(), drawn(4, 5, 2), on_fail="warn")
    assert [str(one.message) for one in caught] == [f"{one.name}: {one.message}" for one in checks.failed] and len(checks.failed) == 2
    assert {one.filename for one in caught} == {__file__}


def test_a_check_that_fails_is_only_returned_if_told_to():
    assert failed(check_record(Unused(), drawn(4, 5, 2), on_fail="return")) == ["check_every_layer_is_called"]


@pytest.mark.parametrize(
    "check", [lambda **k: check_record(nn.GRU(2, 3), drawn(4, 5, 2), **k), lambda **k: check_cell(nn.GRUCell(2, 3), **k)]
)
def test_another_on_fail_is_refused(check):
    with pytest.raises(InputError, match='^needed on_fail="raise", "warn" or "return", got \'ignore\'$'):
        check(on_fail="ignore")


@pytest.mark.parametrize("check", [check_record, check_cell])
def test_what_is_not_a_module_is_refused(check):
    with pytest.raises(InputError, match="^needed a torch.nn.Module, got function$"):
        check(drawn)


def test_the_result_is_a_table_in_text_and_html():
    checks = check_record(Raises(), drawn(4, 5, 2), on_fail="return")
    first, second, *others = repr(checks).splitlines()
    assert first == "<Checks of Raises: 1 of 10 failed>"
    assert second.startswith("failed  check_it_runs: it raised KeyError") and len(others) == 9
    html = checks._repr_html_()
    assert "Raises: 1 of 10 checks failed" in html and "&lt;thing&gt;" in html and "<thing>" not in html
    assert html.count("<tr>") == 11 and "what to do" in html
    assert "passed  check_it_runs\n" in repr(check_record(Tagger(), drawn(4, 5, 2)))


# ---- What is left


@pytest.mark.parametrize("make", [Tagger, Raises, RandomEverywhere, PythonsRandom, InALoop, NeverCalls, DetachesAll])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_and_its_inputs_are_left_as_they_were(make, training):
    model, x = make().train(training), drawn(4, 5, 2)
    one, *others = model.parameters()
    one.grad, (others[-1].requires_grad) = torch.ones_like(one), False
    values, given, gradient = [parameter.clone() for parameter in model.parameters()], x.clone(), one.grad
    attributes, state = [set(vars(module)) for module in model.modules()], torch.get_rng_state()
    check_record(model, x, on_fail="return")
    assert all(map(torch.equal, model.parameters(), values)) and torch.equal(x, given)
    assert one.grad is gradient and torch.equal(gradient, torch.ones_like(one)) and all(other.grad is None for other in others)
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * len(others) + [False]
    assert all(module.training is training for module in model.modules())
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), state)
