"""An unfused copy is a copy: the model isn't touched, what was tied is tied, and what can't be opened or certified is refused."""

import copy
import io
import warnings

import pytest
import torch
from cases import close
from every_kind import KINDS, Leaky, Loop, inputs, leaky, model_of, registered
from kinds import made
from recordings import classifier, refused
from torch import nn

import lstm_explain as lx
from lstm_explain import unfused
from lstm_explain.errors import CertificateError, InputError, RecordingError

OPEN = [kind for kind in KINDS if kind != "leaky"]


def outputs(model, x):
    return torch.utils._pytree.tree_leaves(model(x))


@pytest.mark.parametrize("kind", OPEN)
def test_the_model_stays_as_it_is_and_shares_nothing_with_its_copy(kind):
    model, x = model_of(kind), inputs()
    seen = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, out: seen.append(out))
    shown, names, random = repr(model), [sorted(vars(module)) for module in model.modules()], torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    twin = lx.unfuse(model)
    assert not seen, "hooks of the user's see their own data only"
    lx.unfuse(model, x)
    assert torch.equal(torch.get_rng_state(), random) and repr(model) == shown and all(module.training for module in model.modules())
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not {one.data_ptr() for one in model.parameters()} & {one.data_ptr() for one in twin.parameters()}


@pytest.mark.parametrize("kind", OPEN)
def test_weights_move_over_by_their_names(kind):
    twin, other = lx.unfuse(model_of(kind)), model_of(kind, seed=5)
    assert list(twin.state_dict()) == list(other.state_dict())
    twin.load_state_dict(other.state_dict())
    for ours, theirs in zip(outputs(twin, inputs()), outputs(other, inputs()), strict=True):
        close(ours.detach(), theirs.detach())
    back = model_of(kind)
    back.load_state_dict(twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(outputs(back, inputs()), outputs(other, inputs()), strict=True))


@pytest.mark.parametrize("kind", OPEN)
def test_a_copy_is_copied_saved_recorded_and_trained_like_any_model(kind):
    twin, x = lx.unfuse(model_of(kind)), inputs()
    buffer = io.BytesIO()
    torch.save(twin, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(twin), torch.load(buffer, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(outputs(twin, x), outputs(other, x), strict=True))
    # Nothing of a twin's own is needed to record it: it is certified like the layer that it was.
    with lx.record(twin) as recording:
        twin(x)
    assert recording.certificate.state == "certified"
    trained = []
    for model in (twin, model_of(kind)):
        for _ in range(3):
            gradients = torch.autograd.grad(sum(one.square().sum() for one in outputs(model, x)), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
        trained.append(list(model.parameters()))
    for ours, theirs in zip(*trained, strict=True):
        close(ours.detach(), theirs.detach())


def test_what_was_tied_shared_frozen_or_in_evaluation_mode_still_is():
    model = nn.ModuleDict({"embedding": nn.Embedding(6, 3), "lstm": nn.LSTM(3, 3), "decoder": nn.Linear(3, 6)})
    model["decoder"].weight = model["embedding"].weight
    model["again"] = model["lstm"].eval()
    model["lstm"].weight_hh_l0.requires_grad_(False)
    twin = lx.unfuse(model)
    assert twin["decoder"].weight is twin["embedding"].weight and twin["again"] is twin["lstm"]
    assert not twin["lstm"].weight_hh_l0.requires_grad and twin["lstm"].weight_ih_l0.requires_grad
    assert twin.training and twin["decoder"].training and not any(module.training for module in twin["lstm"].modules())


def test_taps_are_modules_by_the_names_of_the_signals():
    twin = lx.unfuse(classifier(num_layers=2, bidirectional=True))
    names = dict(twin.named_modules())
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        for signal in ("input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state", "hidden_state"):
            assert f"encoder.lstm.{suffix}.{signal}" in names and f"encoder.lstm.{suffix}.sequence.{signal}" in names
    assert isinstance(twin.encoder["lstm"], nn.LSTM) and twin.encoder["lstm"].hidden_size == 3


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OPEN)
def test_other_precisions(kind, dtype):
    model = model_of(kind, dtype=dtype)
    twin = lx.unfuse(model, inputs(dtype=dtype))
    for ours, theirs in zip(outputs(twin, inputs(dtype=dtype)), outputs(model, inputs(dtype=dtype)), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, **({"rtol": 0, "atol": 5e-2} if dtype == torch.bfloat16 else {}))


class Own(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return 2 * output, state


class Named(nn.LSTM):
    """A subclass that adds no equations."""

    def __init__(self):
        super().__init__(2, 3)


def test_a_subclass_without_a_forward_of_its_own_is_opened():
    model = Named()
    twin = lx.unfuse(model)
    close(
        twin(torch.ones(4, 1, 2))[0].detach().double().round(decimals=5), model(torch.ones(4, 1, 2))[0].detach().double().round(decimals=5)
    )


def test_registered_cells_are_left_as_they_are():
    with registered(Leaky, leaky):
        twin = lx.unfuse(nn.ModuleDict({"leaky": Loop(Leaky(2, 3)), "lstm": nn.LSTM(2, 3)}))
        assert type(twin["leaky"].cell) is Leaky and hasattr(twin["lstm"], "l0")
        assert "only registered ones" in refused(RecordingError, lambda: lx.unfuse(Loop(Leaky(2, 3))))


def patched():
    lstm = nn.LSTM(2, 3)
    lstm.forward = lambda input, hx=None: (input, hx)
    return lstm


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.LSTM(2, 3))


REFUSED = {
    "own forward": (lambda: nn.Sequential(Own(2, 3)), "needed 0 to run as LSTM does, got Own with a forward of its own: "),
    "patched forward": (patched, "needed the model to run as LSTM does, got LSTM with a forward of its own: "),
    "twice": (lambda: lx.unfuse(nn.LSTM(2, 3)), "needed the model to run as LSTM does, got UnfusedLSTM with a forward of its own: "),
    "scripted": (lambda: nn.ModuleList([nn.GRU(2, 3), scripted()]), "needed layers that can be opened, got 1 (LSTM, TorchScript: "),
    "quantisable": (
        lambda: nn.ModuleList([nn.GRU(2, 3), torch.ao.nn.quantizable.LSTM(2, 3)]),
        "needed layers that can be opened, got 1 (LSTM, quantised: ",
    ),
    "compiled": (lambda: nn.ModuleList([torch.compile(nn.GRU(2, 3))]), "needed modules that run eagerly, got 0 compiled: "),
    "none": (lambda: nn.Linear(2, 3), "needed a model with recurrent layers or cells, found none in Linear; "),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_opened_is_refused_in_one_line(case):
    make, message = REFUSED[case]
    model = make()
    assert refused(RecordingError, lambda: lx.unfuse(model)).startswith(message)


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3)

    def __deepcopy__(self, memo):
        raise TypeError("no")


def test_arguments_that_do_not_fit():
    assert refused(InputError, lambda: lx.unfuse("model")) == "needed a torch.nn.Module, got str"
    assert refused(InputError, lambda: lx.unfuse(Uncopied())).startswith(
        "needed a model that can be copied with copy.deepcopy, got Uncopied: "
    )
    silent = nn.Sequential(nn.LSTM(2, 3))
    silent.forward = lambda x: None
    assert refused(InputError, lambda: lx.unfuse(silent, 1)).startswith("needed a model that returns tensors")


def test_a_compiled_or_watched_root_is_opened_by_itself():
    model = nn.LSTM(2, 3).double()
    assert type(lx.unfuse(torch.compile(model))).__name__ == "UnfusedLSTM"
    with lx.record(model) as recording:
        twin = lx.unfuse(model)
        twin(torch.zeros(4, 1, 2, dtype=torch.float64))
        model(torch.zeros(4, 1, 2, dtype=torch.float64))
    assert len(recording.calls["l0"]) == 1 and "forward" not in vars(twin)
    heard = []
    twin.l0.forget_gate.register_forward_hook(lambda tap, args, value: heard.append(value))
    twin(torch.zeros(4, 1, 2, dtype=torch.float64))
    assert len(heard) == 4


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole", "lstm_cell", "gru_cell"])
def test_a_copy_that_computes_something_else_is_not_handed_out(kind, monkeypatch):
    stepper = unfused.stepper

    def wrong(kind, form, weights):
        by = stepper(kind, form, weights)
        return lambda z_x, states, edit: by(z_x, states, lambda name, value: edit(name, value * 1.001 if name == "hidden_state" else value))

    model = nn.Sequential(made(kind))
    monkeypatch.setattr(unfused, "stepper", wrong)
    with pytest.raises(CertificateError, match=r"^\w+ of 0(\.l0)?, "):
        lx.unfuse(model)


class Changing(nn.Module):
    """What it returns in evaluation mode depends on how its layer runs."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3).double()

    def forward(self, x):
        return self.lstm(x)[0] + len(list(self.lstm.children()))


def test_with_inputs_the_copy_is_certified_as_a_whole():
    model, x = Changing(), torch.zeros(4, 1, 2, dtype=torch.float64)
    lx.unfuse(model)
    with pytest.raises(CertificateError, match=r"^the model's output, "):
        lx.unfuse(model, x)
    with pytest.raises(CertificateError, match=r"^the model's output, "):
        lx.unfuse(model, x=x)
