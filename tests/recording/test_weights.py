"""The gates are those of the weights of that very call: rewritten, pruned, shared, trained or handed in."""

import pytest
import torch
from cases import randomise
from kinds import ALL, LAYERS, Model, assert_is, by_hand, inputs, key_of, made, run, suffixed, train, weights_of
from torch import nn
from torch.nn.utils import prune

from lstm_explain.recording.runner import record

DTYPES = [torch.float64, torch.float32]


class WeightDrop(nn.Module):
    """As in AWD-LSTM: a layer whose recurrent weights are written anew, with some dropped, before each call."""

    def __init__(self, layer, as_parameter):
        super().__init__()
        self.module, self.as_parameter, self.used = layer, as_parameter, []
        self.raw = nn.Parameter(layer.weight_hh_l0.detach().clone())
        del layer._parameters["weight_hh_l0"]

    def forward(self, *args):
        dropped = torch.dropout(self.raw, 0.5, self.training)
        self.module.weight_hh_l0 = nn.Parameter(dropped) if self.as_parameter else dropped
        self.used.append(dropped.detach().clone())
        return self.module.forward(*args)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("as_parameter", [True, False], ids=["parameter", "tensor"])
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_that_are_written_anew_before_each_call(kind, as_parameter, dtype):
    layer, x = made(kind, dtype=dtype), inputs(dtype=dtype)
    weights, model = weights_of(kind, layer), WeightDrop(layer, as_parameter)
    torch.manual_seed(3)
    expected = [model(x)[0] for _ in range(3)]
    torch.manual_seed(3)
    with record(model) as recording:
        found = [model(x)[0] for _ in range(3)]
    assert all(map(torch.equal, found, expected))
    calls = recording.calls["module.l0"]
    for call, used in zip(calls, model.used[3:], strict=True):
        assert_is(call.trajectory, by_hand(kind, weights | {"weight_hh": used}, x))
    assert not torch.equal(calls[0].trajectory.hidden_state, calls[1].trajectory.hidden_state)
    if not as_parameter:
        assert all(map(torch.equal, *(torch.autograd.grad(outputs[-1].sum(), model.raw) for outputs in (found, expected))))


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("how", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("kind", ALL)
def test_weights_that_an_old_hook_writes_before_each_call(kind, how):
    module, x = made(kind), inputs()
    how(module, suffixed(kind, "weight_hh"))
    for _ in range(2):
        with record(module) as recording:
            module.eval()
            run(kind, module, x)
        assert_is(recording[key_of(kind)], by_hand(kind, weights_of(kind, module), x))
        train(module, x, kind)


@pytest.mark.parametrize("kind", ALL)
def test_weights_that_are_pruned(kind):
    module, x = made(kind), inputs()
    name = suffixed(kind, "weight_hh")
    prune.l1_unstructured(module, name, amount=0.5)
    for amount in (0.5, 0.3, None):
        prune.remove(module, name) if amount is None else prune.random_unstructured(module, name, amount=amount)
        with record(module) as recording:
            run(kind, module, x)
        weights = weights_of(kind, module)
        assert (weights["weight_hh"] == 0).any()
        assert_is(recording[key_of(kind)], by_hand(kind, weights, x))


def test_a_decoder_that_shares_its_weights_with_the_embedding():
    model = nn.ModuleDict({"embedding": nn.Embedding(6, 2), "lstm": nn.LSTM(2, 2), "decoder": nn.Linear(2, 6)}).double()
    model["decoder"].weight = model["embedding"].weight
    tokens = torch.tensor([[0, 1], [2, 3], [4, 5]])
    with record(model) as recording:
        model["decoder"](model["lstm"](model["embedding"](tokens))[0])
    assert list(recording) == ["lstm.l0"] and recording.coverage.aliases == {}
    with record(model["lstm"]) as expected:
        model["lstm"](model["embedding"](tokens))
    assert torch.equal(recording["lstm.l0"].cell_state, expected["l0"].cell_state)


@pytest.mark.parametrize("kind", ALL)
def test_two_modules_that_share_a_parameter_are_two(kind):
    one, other, x = made(kind, seed=1), made(kind, seed=2), inputs()
    name = suffixed(kind, "weight_hh")
    setattr(other, name, getattr(one, name))
    model = nn.ModuleDict({"one": one, "other": other})
    for _ in range(2):
        with record(model) as recording:
            for part in model.values():
                run(kind, part, x)
        for path, part in model.items():
            assert_is(recording[key_of(kind, path)], by_hand(kind, weights_of(kind, part), x))
        assert recording.coverage.aliases == {}
        train(one, x, kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_weights_that_are_handed_in_for_one_call(kind, dtype):
    model, x = Model(kind, dtype=dtype), inputs(dtype=dtype)
    other = made(kind, dtype=dtype, seed=7)
    handed_in = {f"inner.{name}": parameter.detach() for name, parameter in other.named_parameters()}
    expected = torch.func.functional_call(model, handed_in, (x,))
    with record(model) as recording:
        model(x)
        assert torch.equal(torch.func.functional_call(model, handed_in, (x,)), expected)
        model(x)
    joined, read = recording[key_of(kind, "inner")], model.before(x)
    for at, module in enumerate((model.inner, other, model.inner)):
        assert_is(joined.select(range(4 * at, 4 * at + 4)), by_hand(kind, weights_of(kind, module), read))


def new_parameters(module):
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(-parameter.detach()))


def loaded(module):
    module.load_state_dict({name: weight / 2 for name, weight in module.state_dict().items()})


def data_swapped(module):
    for parameter in module.parameters():
        parameter.data = parameter.data.flip(0).clone()


def written_into(module):
    randomise(module, 5)


@pytest.mark.parametrize("change", [new_parameters, loaded, data_swapped, written_into])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_weights_that_change_between_two_calls(kind, dtype, change):
    module, x = made(kind, dtype=dtype), inputs(dtype=dtype)
    with record(module) as recording:
        for _ in range(3):
            before = weights_of(kind, module)
            run(kind, module, x)
            assert_is(recording[key_of(kind)].select(range(-4, 0)), by_hand(kind, before, x))
            change(module)
