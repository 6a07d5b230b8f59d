"""The untrained twin: the same network before it learned anything."""

import random

import pytest
import torch
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.probing.untrained import _apart


class Tied(nn.Module):
    """An embedding whose weight is the decoder's too, around two recurrent layers of different make."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.norm = nn.LayerNorm(6)
        self.lstm = nn.LSTM(6, 5, 2, bidirectional=True)
        self.peephole = lx.PeepholeLSTM(10, 6, dtype=torch.float64)
        self.decoder = nn.Linear(6, 7)
        self.decoder.weight = self.embedding.weight


class Bare(nn.Linear):
    """Its own parameter has nobody to reset it."""

    def __init__(self):
        super().__init__(2, 2)
        self.inner = nn.Module()
        self.inner.scale = nn.Parameter(torch.ones(2))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), lambda: lx.PeepholeLSTM(3, 4, 2), Tied])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_twin_has_other_weights_and_all_else_is_the_same(make, dtype):
    model = make().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    next(model.parameters()).requires_grad_(False)
    twin = lx.untrained(model)
    assert type(twin) is type(model) and not any(module.training for module in twin.modules())
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert (one.shape, one.dtype, one.device, one.requires_grad) == (other.shape, other.dtype, other.device, other.requires_grad)
        assert not torch.equal(one, other)


def test_the_mode_is_kept_module_by_module():
    model = Tied().train()
    model.lstm.eval()
    twin = lx.untrained(model)
    assert twin.training and not twin.lstm.training and twin.norm.training


def test_the_model_and_every_random_state_are_untouched():
    model = Tied()
    before, states = state(model), (torch.get_rng_state(), random.getstate())
    lx.untrained(model, seed=3)
    assert same(state(model), before)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_the_seed_decides_which_twin_whatever_was_drawn_before():
    model = Tied()
    one = state(lx.untrained(model, seed=1))
    torch.rand(5)
    assert same(one, state(lx.untrained(model, seed=1))) and not same(one, state(lx.untrained(model, seed=2)))


def test_what_was_learned_leaves_no_trace():
    one, other = Tied(), Tied()
    for parameter in other.parameters():
        nn.init.constant_(parameter, 3.0)
    assert same(state(lx.untrained(one)), state(lx.untrained(other)))


def test_a_twin_is_drawn_as_its_layers_draw():
    twin = lx.untrained(nn.Sequential(nn.LSTM(50, 100), nn.BatchNorm1d(4)).requires_grad_(False))
    weights = twin[0].weight_hh_l0
    # Uniform in ±1/10, whose standard deviation is .1 / √3.
    assert weights.abs().max() <= 0.1 and weights.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_running_statistics_start_again():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3) + 5)
    assert lx.untrained(norm).running_mean.tolist() == [0, 0, 0] and norm.running_mean.abs().sum() > 0


def test_tied_weights_stay_tied():
    model = Tied()
    twin = lx.untrained(model)
    assert twin.decoder.weight is twin.embedding.weight and twin.decoder.weight is not model.decoder.weight


def test_layers_that_call_it_by_its_private_name_are_reset_too():
    attention = nn.MultiheadAttention(4, 2)
    assert not torch.equal(lx.untrained(attention).in_proj_weight, attention.in_proj_weight)


def test_what_cannot_be_reset_is_refused_in_one_line():
    refusal = r"^needed reset_parameters\(\) on inner \(Module\), whose scale would stay trained: make the twin yourself$"
    with pytest.raises(lx.InputError, match=refusal):
        lx.untrained(Bare())
    with pytest.raises(lx.InputError, match=r"on the model \(ParameterList\), whose 0, 1 would stay trained"):
        lx.untrained(nn.ParameterList([torch.ones(1), torch.ones(2)]))
    with pytest.raises(lx.InputError, match=r"^needed a torch.nn.Module, got dict$"):
        lx.untrained({})


def test_a_twin_is_never_the_models_own_beginning_whatever_their_seeds():
    model = torch.nn.LSTM(2, 3)
    twins = {tuple(lx.untrained(model, seed=seed).weight_ih_l0.flatten().tolist()) for seed in [*range(100), 2**31 - 1]}
    assert len(twins) == 101
    for seed in [*range(300), 1234, 2024, 31337, 2**31 - 1, 2**32]:
        torch.manual_seed(seed)
        assert tuple(torch.nn.LSTM(2, 3).weight_ih_l0.flatten().tolist()) not in twins


def test_seeds_below_two_to_the_31_have_twins_of_their_own():
    # What the processor's generator reads of a seed, its last 32 bits, is never a small number; and an odd factor leaves no two alike.
    seeds = [_apart(seed) for seed in [*range(50_000), 2**31 - 1, 2**30, -3]]
    assert len(set(seeds)) == 50_003 and all(2**31 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(lx.InputError, match="^needed seed as a whole number, got"):
        lx.untrained(nn.LSTM(2, 3), seed=seed)


class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.scale = nn.Parameter(torch.tensor([3.0, 2.0]))


@pytest.mark.parametrize("make", [Scaled, lambda: nn.utils.spectral_norm(nn.Linear(2, 2))], ids=["subclass", "spectral_norm"])
def test_what_the_bases_reset_parameters_does_not_reach_stays_trained(make):
    with pytest.raises(lx.InputError, match="would stay trained"):
        lx.untrained(make())
