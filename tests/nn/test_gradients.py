"""The hand-written backward pass against numerical derivatives and the readable step, and the derivatives of gradients."""

import itertools

import pytest
import torch
from cases import FORMS, Case, call_of, close, laid_out, peephole_lstm
from cases import sequences_and_state as drawn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.nn.equations import Form, Weights, unroll
from lstm_explain.nn.layers import weights_of
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.nn.sequence import run_sequence

SMALL = [
    pytest.param(Case(lengths=(3, 3), hidden_size=2, initial_state=True), id="padded"),
    pytest.param(
        Case("packed_unsorted", (1, 3, 2), 1, 2, bidirectional=True, proj_size=1, initial_state=True), id="packed_both_ways_projected"
    ),
    pytest.param(Case("unbatched", (3,), 1, 2, num_layers=2, bias=False), id="two_layers"),
]
READ = [  # sizes, reverse, projection
    ((2, 2, 2), False, 0),
    ((3, 2, 1), False, 2),
    ((3, 2, 1), True, 0),
    ((3, 2, 1), True, 2),
]


def as_a_function(case, form):
    """The layer as a function of everything that it is differentiable by, and those tensors."""
    layer = peephole_lstm(case, *form)
    sequences, state = drawn(case)
    names = [name for name, _ in layer.named_parameters()]
    tensors = [*sequences, *(state or ()), *(parameter.detach() for parameter in layer.parameters())]

    def function(*tensors):
        tensors = iter(tensors)
        sequences = list(itertools.islice(tensors, len(case.lengths)))
        hx = (next(tensors), next(tensors)) if state else None
        output, states = functional_call(layer, dict(zip(names, tensors, strict=True)), (laid_out(case, sequences), hx))
        return (output.data if isinstance(output, PackedSequence) else output, *states)

    return function, [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_numerical_ones(form, case, backend):
    assert gradcheck(*as_a_function(case, form))


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_gradients_are_the_numerical_ones(form, case):
    # The full matrix of second derivatives takes seconds here; the fast mode checks it along random directions.
    torch.manual_seed(0)
    assert gradgradcheck(*as_a_function(case, form), fast_mode=True)


def one_layer(form, sizes, projection, seed=0):
    """Leaves for one layer: x, h0, c0 and the weights, in the order in which `run_sequence` takes them."""
    layer = peephole_lstm(Case(proj_size=projection, seed=seed), *form)
    generator = torch.Generator().manual_seed(seed)
    shapes = (sum(sizes), 2), (sizes[0], projection or 3), (sizes[0], 3)
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = weights_of(layer, "l0")
    return leaves, Weights(*(None if weight is None else weight.detach().requires_grad_() for weight in weights))


def fast(*arguments):
    return run_sequence(*arguments)[:3]


def weighted(results):
    return sum((result * torch.arange(1.0, result.numel() + 1).double().cos().view_as(result)).sum() for result in results)


@pytest.mark.parametrize("of", [(0,), (1,), (2,), (0, 1, 2)], ids=["output", "h_n", "c_n", "all"])
@pytest.mark.parametrize(("sizes", "reverse", "projection"), READ)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_those_of_the_readable_step(form, sizes, reverse, projection, of, backend):
    leaves, weights = one_layer(form, sizes, projection)
    by = [leaf for leaf in (*leaves, *weights) if leaf is not None]
    found = []
    for run in (fast, unroll):
        results = run(*leaves, weights, Form(*form), sizes, reverse)
        found.append(torch.autograd.grad(weighted([results[at] for at in of]), by, materialize_grads=True))
    for actual, expected in zip(*found, strict=True):
        close(actual, expected)


@pytest.mark.parametrize(("sizes", "reverse", "projection"), READ)
@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_penalty_is_that_of_the_readable_step_and_not_zero(form, sizes, reverse, projection):
    leaves, weights = one_layer(form, sizes, projection)
    by = [leaf for leaf in (*leaves, *weights) if leaf is not None]
    found = []
    for run in (fast, unroll):
        results = run(*leaves, weights, Form(*form), sizes, reverse)
        slopes = torch.autograd.grad(weighted(results), by, create_graph=True)
        penalty = sum(slope.square().sum() for slope in slopes)
        found.append((*slopes, penalty, *torch.autograd.grad(penalty, by)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)  # penalties are sums of squares, in the hundreds
    assert all(slope.any() for slope in found[0][-len(by) :])


def test_a_gradient_penalty_on_a_stack_trains_every_parameter():
    case = Case("batch_first", num_layers=2, bidirectional=True, proj_size=2)
    layer = peephole_lstm(case, "full")
    input = call_of(case)[0].requires_grad_()
    (slope,) = torch.autograd.grad(layer(input)[0].sum(), input, create_graph=True)
    slope.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_one_tensor_as_both_initial_states_gets_both_gradients(form, create_graph):
    case = Case()
    layer = peephole_lstm(case, *form)
    input, _ = call_of(case)
    both = torch.full((1, 3, 3), 0.3, dtype=torch.float64, requires_grad=True)
    h_0, c_0 = both.detach().clone().requires_grad_(), both.detach().clone().requires_grad_()
    (together,) = torch.autograd.grad(weighted([layer(input, (both, both))[0]]), both, create_graph=create_graph)
    parts = torch.autograd.grad(weighted([layer(input, (h_0, c_0))[0]]), (h_0, c_0))
    close(together.detach(), sum(parts))
    assert all(part.any() for part in parts)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_tensor_in_two_places_of_a_layer_gets_both_gradients(reverse, create_graph):
    (x, h0, _), weights = one_layer(("full", "previous"), (2, 2), 0)
    tied = weights._replace(bias_hh=weights.bias_ih)
    found = []
    for run in (fast, unroll):
        results = run(x, h0, h0, tied, Form(), (2, 2), reverse)
        found.append(torch.autograd.grad(weighted(results), (h0, tied.bias_ih), create_graph=create_graph))
    for actual, expected in zip(*found, strict=True):
        close(actual.detach(), expected.detach())


@pytest.mark.parametrize("frozen", ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "weight_hr"])
@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_weight_gets_no_gradient_and_changes_no_other(form, frozen):
    case = Case(num_layers=2, proj_size=2)
    layer, free = peephole_lstm(case, *form), peephole_lstm(case, *form)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    input, _ = call_of(case)
    for twin in (layer, free):
        weighted([twin(input)[0]]).backward()
    for (name, actual), (_, expected) in zip(layer.named_parameters(), free.named_parameters(), strict=True):
        if name.startswith(frozen):
            assert actual.grad is None
        else:
            close(actual.grad, expected.grad)


@pytest.mark.parametrize("form", FORMS)
def test_with_all_weights_frozen_the_input_still_gets_its_gradient(form):
    case = Case()
    layer = peephole_lstm(case, *form).requires_grad_(False)
    input = call_of(case)[0].requires_grad_()
    layer(input)[0].sum().backward()
    assert input.grad.any()
    assert not layer(input.detach())[0].requires_grad


def test_each_parameter_has_a_gradient_of_its_own_memory():
    layer = PeepholeLSTM(2, 3)
    layer(torch.ones(4, 1, 2))[0].sum().backward()
    starts = {parameter.grad.untyped_storage().data_ptr() for parameter in layer.parameters()}
    assert len(starts) == len(list(layer.parameters()))


def test_gradients_add_up_over_two_backward_passes():
    layer = peephole_lstm(Case(), "full")
    loss = layer(call_of(Case())[0])[0].sum()
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in layer.parameters()]
    loss.backward()
    for parameter, gradient in zip(layer.parameters(), once, strict=True):
        close(parameter.grad, 2 * gradient)


def test_states_carried_from_call_to_call_pass_gradients_back():
    case = Case(lengths=(4, 4), initial_state=True)
    layer = peephole_lstm(case, "full")
    input, hx = call_of(case)
    whole = torch.autograd.grad(layer(input, hx)[0].sum(), layer.parameters())
    first, carried = layer(input[:1], hx)
    rest, _ = layer(input[1:], carried)
    parts = torch.autograd.grad(first.sum() + rest.sum(), layer.parameters())
    for actual, expected in zip(parts, whole, strict=True):
        close(actual, expected)
