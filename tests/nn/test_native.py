"""The compiled kernel against the readable step: values and gradients of every form, at sizes that fit nothing."""

import math
import os
import subprocess
import sys
from threading import Thread

import pytest
import torch
from cases import FORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import Drawn, calls

from lstm_explain.nn.equations import Form, Weights, unroll
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels import sequence as bulk
from lstm_explain.nn.kernels.native import layer as compiled
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.nn.sequence import run_sequence

MANY = settings(max_examples=4 * settings().max_examples)
pytestmark = pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)


def weighted(results):
    return [torch.arange(1.0, result.numel() + 1).double().cos().view_as(result) for result in results]


def by_the_kernel(case, leaves, dtype=torch.float64, needs=None):
    """Values, what was saved, and gradients of a weighted sum of the values."""
    needs = [leaf is not None for leaf in leaves] if needs is None else needs
    x, h0, c0, *weights = (None if leaf is None else leaf.detach() for leaf in leaves)
    done = compiled.forward(x, h0, c0, Weights(*weights), *case.call, keep=True)
    grads = [grad.to(dtype) for grad in weighted(done[:3])]
    found = compiled.backward(done.saved, x, h0, c0, Weights(*weights), *case.call, *grads, needs)
    return done, (found.x, found.h0, found.c0, *found.weights)


def by_the_step(case, leaves):
    leaves = [None if leaf is None else leaf.double().detach().requires_grad_() for leaf in leaves]
    x, h0, c0, *weights = leaves
    values = unroll(x, h0, c0, Weights(*weights), *case.call)
    by = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(values, by, weighted(values), materialize_grads=True))
    return [value.detach() for value in values], [None if leaf is None else next(found) for leaf in leaves]


def assert_near(actual, expected, tolerance):
    """Relative to the largest value, or to 1 where that is smaller."""
    assert (actual is None) == (expected is None)
    if actual is not None:
        assert actual.shape == expected.shape
        atol = tolerance * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=atol)


def assert_is_the_step(case, leaves, dtype=torch.float64, tolerance=1e-12):
    done, gradients = by_the_kernel(case, leaves, dtype)
    values, slopes = by_the_step(case, leaves)
    for actual, expected in zip((*done[:3], *gradients), (*values, *slopes), strict=True):
        assert_near(actual, expected, tolerance)
    lean = compiled.forward(*leaves[:3], Weights(*leaves[3:]), *case.call, keep=False)
    assert lean.saved is None and all(map(torch.equal, lean[:3], done[:3]))


@MANY
@given(calls(), st.sampled_from([1, 4000, compiled._CHUNK]))
def test_values_and_gradients_are_those_of_the_step(case, chunk):
    # Few steps between two bulk products, or one, as for layers that are larger than this.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_CHUNK", chunk)
        assert_is_the_step(case, case.leaves())


@MANY
@given(calls())
def test_in_float32_they_are_the_steps_to_rounding(case):
    assert_is_the_step(case, case.leaves(torch.float32), torch.float32, 2e-6)


@MANY
@given(calls(scale=200.0))
def test_saturated_gates_are_those_of_the_step(case):
    assert_is_the_step(case, case.leaves(), tolerance=1e-11)  # pre-activations in the hundreds round in their 13th decimal


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_more_rows_than_meet_the_inputs_weights_at_once(form, reverse):
    sizes = (70,) * 5 + (66, 64, 40, 7, 7, 1)
    assert_is_the_step(case := Drawn(form, sizes, 3, 37, reverse=reverse), case.leaves())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_depths_beyond_the_first_level_cache(form, dtype):
    # 4 x 150 pre-activations meet the recurrent weights in several parts.
    case = Drawn(form, (4, 4), 40, 150)
    assert_is_the_step(case, case.leaves(dtype), dtype, 2e-6 if dtype == torch.float32 else 1e-12)


@MANY
@given(calls(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 8))
def test_what_is_not_finite_goes_where_it_goes_in_the_step(case, value, at):
    leaves = case.leaves()
    leaf = leaves[at] if leaves[at] is not None else leaves[0]
    leaf.view(-1)[leaf.numel() // 2] = value
    done, gradients = by_the_kernel(case, leaves)
    values, slopes = by_the_step(case, leaves)
    for actual, expected in zip(done[:3], values, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12, equal_nan=True)
    # A product of zero and infinity is NaN, so what is finite in the one may not be in the other: but never the other way round.
    for actual, expected in zip(gradients, slopes, strict=True):
        assert actual is None or not (actual.isfinite() & ~expected.isfinite()).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_are_right_over_the_whole_range_of_what_they_may_be_given(dtype):
    # One unit whose pre-activations are the input: no recurrent weights.
    z = torch.cat([torch.linspace(-120, 120, 4001), torch.logspace(-30, 2, 999), -torch.logspace(-30, 2, 999)]).to(dtype).unsqueeze(1)
    zero, one = torch.zeros(4, 1, dtype=dtype), torch.ones(4, 1, dtype=dtype)
    state = torch.zeros(len(z), 1, dtype=dtype)
    gates = compiled.forward(z, state, state, Weights(one, zero), Form(None), (len(z),), False, keep=True).saved.gates.squeeze(2)
    expected = torch.stack([torch.tanh(z.double()) if gate == 2 else torch.sigmoid(z.double()) for gate in range(4)], dim=1).squeeze(2)
    torch.testing.assert_close(gates.double(), expected, rtol=4e-7 if dtype == torch.float32 else 1e-15, atol=1e-38)
    assert (gates.abs() <= 1).all()


@pytest.mark.parametrize("asked", range(9))
def test_only_gradients_that_were_asked_for_are_made(asked, monkeypatch):
    products = []
    for name in ("mm", "Tensor.addmm_"):
        owner, attribute = (torch, "mm") if name == "mm" else (torch.Tensor, "addmm_")
        original = getattr(owner, attribute)
        monkeypatch.setattr(owner, attribute, lambda *a, _o=original, **k: products.append(1) or _o(*a, **k))
    for form in FORMS:
        case = Drawn(form, projection=2)
        leaves = case.leaves()
        products.clear()
        _, found = by_the_kernel(case, leaves, needs=[at == asked and leaf is not None for at, leaf in enumerate(leaves)])
        by_product = {0: 1, 3: 1, 4: 1, 7: {"previous": 1, "graves": 2}[form[1]] if form[0] == "full" else 0, 8: 1}
        assert len(products) == by_product.get(asked, 0)
        _, slopes = by_the_step(case, leaves)
        for at, (actual, expected) in enumerate(zip(found, slopes, strict=True)):
            if at == asked:
                assert_near(actual, expected, 1e-12)
            else:
                assert actual is None or at in (1, 2)  # the states' are there anyway


@pytest.mark.parametrize("grads", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
def test_results_that_nobody_asked_for_have_no_part_in_the_gradients(grads):
    case = Drawn(projection=2)
    x, h0, c0, *weights = leaves = [None if leaf is None else leaf.requires_grad_() for leaf in case.leaves()]
    done = compiled.forward(x.detach(), h0, c0, Weights(*weights), *case.call, keep=True)
    given = [grad if ask else None for grad, ask in zip(weighted(done[:3]), grads, strict=True)]
    with torch.no_grad():
        found = compiled.backward(done.saved, x, h0, c0, Weights(*weights), *case.call, *given, (True,) * 9)
    values = unroll(x, h0, c0, Weights(*weights), *case.call)
    loss = sum((value * grad).sum() for value, grad in zip(values, given, strict=True) if grad is not None) + 0 * values[0].sum()
    slopes = torch.autograd.grad(loss, leaves, materialize_grads=True)
    for actual, expected in zip((found.x, found.h0, found.c0, *found.weights), slopes, strict=True):
        assert_near(actual, expected, 1e-12)


@pytest.mark.parametrize("threads", [2, 3, 5, 16])
@pytest.mark.parametrize("sizes", [(5,) * 40, (70,) * 9, tuple(range(66, 0, -1))], ids=["few", "many", "packed"])
def test_any_number_of_threads_computes_the_same(sizes, threads):
    case = Drawn(sizes=sizes, features=40, units=33)
    leaves = case.leaves()
    expected, slopes = by_the_kernel(case, leaves)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, gradients = by_the_kernel(case, leaves)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, (*found[:3], *found.saved), (*expected[:3], *expected.saved)))
    for actual, wanted in zip(gradients, slopes, strict=True):
        assert_near(actual, wanted, 1e-12)


def test_several_threads_of_pythons_may_call_it_at_once():
    cases = [Drawn(form, (9,) * 30, 20, 33, seed=seed) for seed in range(2) for form in FORMS]
    leaves = [case.leaves() for case in cases]
    expected = [by_the_kernel(*pair) for pair in zip(cases, leaves, strict=True)]
    wrong = []

    def again(at):
        for _ in range(10):
            found, gradients = by_the_kernel(cases[at], leaves[at])
            if not all(map(torch.equal, (*found[:3], *gradients[:3]), (*expected[at][0][:3], *expected[at][1][:3]))):
                wrong.append(at)

    threads = [Thread(target=again, args=(at,)) for at in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORKED = """
import os, torch
from lstm_explain.nn.lstm import PeepholeLSTM
torch.set_num_threads(2)
torch.manual_seed(0)
layer, x = PeepholeLSTM(40, 40), torch.randn(50, 8, 40)
expected = layer(x)[0].detach()
child = os.fork()
if child == 0:
    with torch.no_grad():
        os._exit(0 if torch.equal(layer(x)[0], expected) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_the_same():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_inputs_states_and_weights_of_any_stride(form):
    case = Drawn(form, (4, 4, 4), 5, 6, projection=3)
    leaves = case.leaves()
    strided = [None if leaf is None else torch.stack([leaf, leaf], dim=-1)[..., 0] for leaf in leaves]
    turned = [None if leaf is None else leaf.T.contiguous().T if leaf.dim() == 2 else leaf for leaf in leaves]
    expected = by_the_kernel(case, leaves)
    for other in (strided, turned):
        found = by_the_kernel(case, other)
        for actual, wanted in zip((*found[0][:3], *found[1]), (*expected[0][:3], *expected[1]), strict=True):
            assert_near(actual, wanted, 1e-12)


def test_a_gradient_of_any_stride():
    layer, x = PeepholeLSTM(3, 5, batch_first=True).double(), torch.randn(2, 4, 3, dtype=torch.float64)
    found = []
    for grad in (torch.ones(2, 4, 5).double(), torch.ones(()).double().expand(2, 4, 5), torch.ones(5, 4, 2).double().transpose(0, 2)):
        found.append(torch.autograd.grad(layer(x)[0], list(layer.parameters()), grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


def test_what_is_kept_for_the_backward_pass_is_24_bytes_a_cell():
    layer, x = PeepholeLSTM(4, 16), torch.randn(50, 2, 4)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = layer(x)
    ours = {x.untyped_storage().data_ptr(), *(p.untyped_storage().data_ptr() for p in layer.parameters())}
    states = 2 * 2 * 16 * 4
    assert sum(size for at, size in kept.items() if at not in ours) - states == 24 * output.numel()


@pytest.mark.parametrize("keep", [False, True])
def test_both_kernels_compute_the_same(keep):
    for form in FORMS:
        case = Drawn(form, (5, 4, 4, 1), 3, 17, projection=4, reverse=True)
        x, h0, c0, *weights = case.leaves()
        one, other = (of.forward(x, h0, c0, Weights(*weights), *case.call, keep=keep) for of in (compiled, bulk))
        for actual, expected in zip((*one[:3], *(one.saved or ())), (*other[:3], *(other.saved or ())), strict=True):
            assert_near(actual, expected, 1e-12)


def test_the_layer_is_run_by_the_kernel_and_by_pytorch_where_that_is_asked_for(monkeypatch):
    case = Drawn()
    x, h0, c0, *weights = case.leaves()
    ran = []
    for kernel in (compiled, bulk):
        original = kernel.forward
        monkeypatch.setattr(kernel, "forward", lambda *a, _o=original, _k=kernel, **k: ran.append(_k) or _o(*a, **k))
    for wanted, kernel in (("native", compiled), ("torch", bulk), ("", compiled)):
        monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", wanted)
        run_sequence(x, h0, c0, Weights(*weights), *case.call)
        assert ran.pop() is kernel and not ran
    x, h0, c0, *weights = (None if leaf is None else leaf.bfloat16() for leaf in case.leaves())
    run_sequence(x, h0, c0, Weights(*weights), *case.call)
    assert ran == [bulk]
