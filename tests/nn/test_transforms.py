"""What traces or transforms a layer, `torch.func`, `torch.compile`, `torch.export` and others: right through it, or around the kernel."""

import pytest
import torch
from cases import Case, call_of, close, peephole_lstm
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from lstm_explain.nn import operation
from lstm_explain.nn.lstm import PeepholeLSTM

# PyTorch's own, of a function of autograd's, of an output that isn't a leaf, and of its own use of TorchScript.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
CASES = [
    pytest.param(("full", "previous"), Case(num_layers=2, bidirectional=True), id="stack"),
    pytest.param(("diagonal", "graves"), Case("batch_first", proj_size=2, bias=False), id="projected"),
]


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(form, case):
    layer = peephole_lstm(case, *form)
    return layer, call_of(case)[0], lambda x: layer(x)[0].cos().sum()


@pytest.mark.parametrize(("form", "case"), CASES)
def test_derivatives_by_transforms_are_those_of_autograd(form, case):
    layer, x, loss = made(form, case)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    for transform in (grad, jacrev, jacfwd):
        close(transform(loss)(x).detach(), slope)
    direction = torch.ones_like(x)
    close(jvp(loss, (x,), (direction,))[1].detach(), slope.sum())
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(loss(forward_ad.make_dual(x, direction))).tangent.detach(), slope.sum())


@pytest.mark.parametrize(("form", "case"), CASES)
def test_many_gradients_at_once_are_each_of_them(form, case):
    layer, x, loss = made(form, case)
    output = layer(x.requires_grad_())[0]
    directions = torch.eye(output.numel(), dtype=torch.float64)[::5].view(-1, *output.shape)
    (found,) = torch.autograd.grad(output, x, directions, is_grads_batched=True, retain_graph=True)
    for actual, direction in zip(found, directions, strict=True):
        close(actual, torch.autograd.grad(output, x, direction, retain_graph=True)[0])
    hessian = torch.autograd.functional.hessian(loss, x, vectorize=True)
    close(hessian, torch.autograd.functional.hessian(loss, x))
    assert hessian.any()


@pytest.mark.parametrize(("form", "case"), CASES)
def test_a_mapped_layer_is_the_layer_of_each(form, case):
    layer, x, loss = made(form, case)
    many = torch.stack([x, 2 * x, x.flip(0)])
    close(vmap(lambda x: layer(x)[0])(many).detach(), torch.stack([layer(x)[0].detach() for x in many]))
    weights = dict(layer.named_parameters())
    each = vmap(grad(lambda weights, x: functional_call(layer, weights, (x,))[0].sum()), in_dims=(None, 0))(weights, many)
    for at, x in enumerate(many):
        slopes = torch.autograd.grad(layer(x)[0].sum(), list(weights.values()))
        for name, slope in zip(weights, slopes, strict=True):
            close(each[name][at].detach(), slope)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("form", "case"), CASES)
def test_a_compiled_layer_is_one_operation_and_computes_the_same(form, case, backend):
    layer, x, loss = made(form, case)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    leaves = [x.requires_grad_(), *layer.parameters()]
    expected = torch.autograd.grad(loss(x), leaves)
    output = compiled(x)[0]
    close(output.detach(), layer(x)[0].detach())
    for actual, slope in zip(torch.autograd.grad(output.cos().sum(), leaves), expected, strict=True):
        close(actual, slope)
    with torch.no_grad():
        close(compiled(x)[0], layer(x)[0])
    frozen = torch.autograd.grad(compiled(x)[0].cos().sum(), leaves[2])[0]
    close(frozen, expected[2])


def test_second_derivatives_of_a_compiled_layer_are_the_layers():
    layer, x, loss = made(("full", "previous"), Case())
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x.requires_grad_()
    found = []
    for run in (compiled, layer):
        (slope,) = torch.autograd.grad(run(x)[0].cos().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    close(*found)
    assert found[0].any()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("form", "case"), CASES)
def test_an_exported_layer_computes_the_same(form, case, strict):
    layer, x, _ = made(form, case)
    exported = torch.export.export(layer, (x,), strict=strict)
    names = [str(node.target) for node in exported.graph.nodes]
    assert sum("lstm_explain.sequence" in name for name in names) == case.num_layers * (2 if case.bidirectional else 1)
    close(exported.module()(x + 1)[0].detach(), layer(x + 1)[0].detach())


def test_the_operations_are_what_they_say_to_the_dispatcher():
    layer, x, _ = made(("full", "graves"), Case(proj_size=2))
    weights = [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "weight_hr")]
    h0, c0 = (torch.zeros(3, size, dtype=torch.float64) for size in (2, 3))
    arguments = (x.flatten(0, 1), h0, c0, *weights, "full", "graves", [3] * 4, True)
    torch.library.opcheck(operation._sequence, arguments)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_layer_computes_the_same():
    layer, x, _ = made(("full", "previous"), Case())
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    close(traced(x + 1)[0].detach(), layer(x + 1)[0].detach())


def test_a_mode_that_listens_sees_operations():
    layer, x, _ = made(("full", "previous"), Case())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert counter.get_total_flops() > 0


def test_a_subclass_of_tensors_is_left_to_pytorch():
    seen = set()

    class Mine(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.add(getattr(function, "__name__", ""))
            return super().__torch_function__(function, types, args, kwargs or {})

    layer, x, _ = made(("full", "previous"), Case())
    output = layer(x.as_subclass(Mine))[0]
    close(output.detach().as_subclass(torch.Tensor), layer(x)[0].detach())
    assert "sigmoid_" in seen


def test_a_layer_without_memory_gives_shapes():
    output, (h_n, c_n) = PeepholeLSTM(2, 5, 2, proj_size=3, device="meta")(torch.empty(4, 6, 2, device="meta"))
    assert (output.shape, h_n.shape, c_n.shape) == ((4, 6, 3), (2, 6, 3), (2, 6, 5))
