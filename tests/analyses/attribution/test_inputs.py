"""Attributions to several inputs, initial states among them, and within a budget of memory."""

import captum.attr
import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, VALID, Function, Packed, Words, features, held_at_padding, tokens
from cases import close, peephole_lstm, torch_lstm, without_cell
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import lstm_explain as lx

GRADIENTS = ["integrated_gradients", "saliency", "input_x_gradient", "gradient_shap"]
REPLACING = ["shapley_value_sampling", "kernel_shap", "feature_ablation"]


def states(layers=2, count=2):
    return tuple(features(layers, 3, 3, seed=seed) for seed in range(7, 7 + count))


def stack():
    return torch_lstm(THREE._replace(num_layers=2))


def captums(method, model, inputs, target):
    """What Captum gives for batch-first inputs and states."""
    kinds = {"integrated_gradients": "IntegratedGradients", "saliency": "Saliency", "input_x_gradient": "InputXGradient"}
    explained = getattr(captum.attr, kinds[method])(model)
    leaves = tuple(part.clone().requires_grad_() for part in inputs)
    more = {"n_steps": 64} if method == "integrated_gradients" else {}
    return [part.detach() for part in explained.attribute(leaves, target=target, **more)]


@pytest.mark.parametrize("method", GRADIENTS[:3])
def test_credit_goes_to_the_initial_state_as_captum_gives_it(method):
    model, x, (h, c) = stack(), features(), states()
    result = lx.attribute(model, (x, (h, c)), target=(-1, 1), method=method)
    # Captum wants the batch first in each of its inputs.
    turned = x, h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()
    theirs = captums(method, lambda x, h, c: model(x, (h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()))[0], turned, (4, 1))
    assert [part.shape for part in (result.attributions, *result.others)] == [(3, 5, 2), (2, 3, 3), (2, 3, 3)]
    for ours, expected in zip((result.attributions, *(np.swapaxes(part, 0, 1) for part in result.others)), theirs, strict=True):
        # Captum's weights of the integral are rounded to float32.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7 if method == "integrated_gradients" else 1e-12)


@pytest.mark.parametrize("method", [*GRADIENTS, *REPLACING])
def test_the_residual_is_that_of_the_whole(method):
    model, x, state = peephole_lstm(THREE._replace(num_layers=2), "full"), features(), states()
    result = lx.attribute(model, (x, state), target=(-1, 1), method=method, lengths=ENDS)
    total = result.attributions.sum((1, 2)) + sum(part.sum((0, 2)) for part in result.others)
    if method == "saliency":
        assert result.convergence_delta is None
        return
    with torch.no_grad():
        nothing = held_at_padding(torch.zeros(()), x), tuple(torch.zeros_like(part) for part in state)
        at_input, at_baseline = (model(*inputs)[0][torch.arange(3), torch.tensor(ENDS) - 1, 1] for inputs in ((x, state), nothing))
    close(result.output, at_input)
    close(result.baseline_output, at_baseline)
    close(result.convergence_delta, total - (at_input - at_baseline).numpy())
    assert result.converged is None or result.converged.all()
    assert (result.attributions[~VALID] == 0).all() and all((part != 0).all() for part in result.others)


@pytest.mark.parametrize("method", [*GRADIENTS, *REPLACING])
def test_two_series_are_one_that_is_split(method):
    model, x = torch_lstm(THREE._replace(input_size=3)), features(3, 5, 3)
    joined = Function(lambda a, b: model(torch.cat([a, b], 2))[0])
    options = {"target": (-1, 1), "lengths": ENDS, "method": method}
    whole = lx.attribute(model, x, by="element", **options)
    parts = lx.attribute(joined, (x[..., :2], x[..., 2:]), by="element", **options)
    if method in ("shapley_value_sampling", "kernel_shap"):
        # Elements come in another order, so draws differ; the sums don't.
        close(parts.by_step.sum(1) + parts.others[0].sum((1, 2)), whole.by_step.sum(1))
        parts = lx.attribute(joined, (x[..., :2], x[..., 2:]), by=(mask := torch.arange(5).view(5, 1), mask), **options)
        whole = lx.attribute(model, x, by=mask, **options)
        close(parts.by_group, whole.by_group)
        assert parts.groups == whole.groups
    else:
        close(np.concatenate([parts.attributions, parts.others[0]], 2), whole.attributions)
    close(parts.output, whole.output)
    assert (parts.others[0][~VALID] == 0).all() and (parts.others[0][VALID] != 0).all()


def test_groups_of_several_inputs():
    model, x, (h, c) = stack(), features(), states()
    named = {
        "input": ("input 0", "input 1", "input 2"),
        "step": (*(f"input 0 step {step}" for step in range(5)), "input 1", "input 2"),
        "feature": ("input 0 feature 0", "input 0 feature 1", "input 1", "input 2"),
        3: ("input 0 steps 0-2", "input 0 steps 3-4", "input 1", "input 2"),
    }
    for by, groups in named.items():
        result = lx.attribute(model, (x, (h, c)), target=(-1, 1), by=by, method="shapley")
        assert result.groups == groups and (result.relative_delta < 1e-12).all()
        sums = [part.sum((0, 2)) for part in result.others]
        close(result.by_group[:, -2:], np.stack(sums, 1))
    ablated = lx.attribute(model, (x, (h, c)), target=(-1, 1), by="input", method="feature_ablation")
    with torch.no_grad():
        without_cell_state = model(x, (h, torch.zeros_like(c)))[0][:, -1, 1]
    close(ablated.by_group[:, 2], ablated.output - without_cell_state.numpy())


def test_a_state_of_as_many_layers_as_steps_is_no_series():
    model, x, (h, c) = stack(), features(3, 2, 2), states()
    result = lx.attribute(model, (x, (h, c)), target=(-1, 1), lengths=[2, 1, 2], by="step")
    assert result.groups == ("input 0 step 0", "input 0 step 1", "input 1", "input 2") and (result.attributions[1, 1] == 0).all()
    assert (result.others[0] != 0).all()


def test_a_series_of_another_length_has_no_padding():
    result = lx.attribute(Function(lambda a, b: a.sum((1, 2)) + b.sum((1, 2))), (features(), features(3, 4, 2)), lengths=ENDS)
    close(result.others[0], features(3, 4, 2))


@pytest.mark.parametrize("kind", ["gru", "rnn_tanh"])
def test_the_state_of_a_layer_without_a_cell(kind):
    model, (h,) = without_cell(kind, THREE._replace(bidirectional=True)), states(count=1)
    result = lx.attribute(model, (features(), (h,)), target=(-1, 1), output=lambda returned: returned[0])
    assert result.converged.all() and result.others[0].shape == (2, 3, 3)


class Bare(nn.Module):
    """Takes its state as a tensor beside its input, not in a tuple, in float32; and a static vector."""

    def __init__(self):
        super().__init__()
        self.rnn = without_cell("gru", THREE)

    def forward(self, x, static, scale):
        assert static.dtype == torch.float32
        return scale.unsqueeze(1) * self.rnn(x, static.double().unsqueeze(0))[0][..., 0]


def test_a_static_input_has_no_padding_and_keeps_its_dtype():
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    static = features(3, 3, seed=4).float()
    result = lx.attribute(Bare(), (features(), static), target=(-1,), lengths=ENDS, additional_forward_args=scale, tolerance=1e-4)
    assert result.converged.all() and (result.others[0] != 0).all() and (result.attributions[~VALID] == 0).all()
    for row, end in enumerate(ENDS):
        alone = lx.attribute(
            Bare(),
            (features()[row : row + 1, :end], static[row : row + 1]),
            target=(-1,),
            additional_forward_args=scale[row : row + 1],
            tolerance=1e-4,
        )
        close(result.others[0][row], alone.others[0][0])


class Talk(Words):
    """A language model that goes on from a state."""

    def forward(self, tokens, state):
        return self.rest(self.embedding(tokens), state)[0]


@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation", "gradient_shap"])
def test_tokens_and_a_state(method):
    model, state = Talk(), tuple(features(1, 3, 4, seed=seed) for seed in (8, 9))
    ours = lx.attribute(model, (tokens(), state), target=(-1, 2), lengths=ENDS, method=method)
    rest = lx.attribute(model.rest, (model.embedding(tokens()).detach(), state), target=(-1, 2), lengths=ENDS, method=method)
    for part, expected in zip((ours.attributions, *ours.others), (rest.attributions, *rest.others), strict=True):
        close(part, expected)


def test_baselines_for_each_input():
    model, x, (h, c) = stack(), features(), states()
    given = (features(5, 2, seed=3), 0.5, features(2, 1, 3, seed=5))
    result = lx.attribute(model, (x, (h, c)), target=(-1, 1), baselines=given)
    with torch.no_grad():
        at_baseline = model(given[0].expand(3, 5, 2), (torch.full_like(h, 0.5), given[2].expand(2, 3, 3).contiguous()))[0][:, -1, 1]
    close(result.baseline_output, at_baseline)
    nested = lx.attribute(model, (x, (h, c)), target=(-1, 1), baselines=(given[0], given[1:]))
    close(nested.attributions, result.attributions)
    same = lx.attribute(model, (x, (h, c)), target=(-1, 1), baselines=0.0)
    close(same.attributions, lx.attribute(model, (x, (h, c)), target=(-1, 1)).attributions)


def test_a_tuple_of_one_is_that_one():
    model = torch_lstm(THREE)
    result = lx.attribute(model, (features(),), target=(-1, 1))
    close(result.attributions, lx.attribute(model, features(), target=(-1, 1)).attributions)
    assert result.others == ()


REFUSED = {
    "state_batch_first": ({"inputs": (features(), (features(3, 2, 3),))}, "needed input 1 with the batch of 3 on its second axis, got 2"),
    "another_batch": (
        {"inputs": (features(), features(2, 4))},
        "needed input 1 with the batch of 3 on its first axis, got 2; only a state",
    ),
    "whole_numbers": ({"inputs": (features(), tokens())}, "needed input 1 as floating-point numbers, (batch, feature) or (batch, time"),
    "no_tensor": (
        {"inputs": (features(), 3)},
        "needed input 1 as floating-point numbers, (batch, feature) or (batch, time, feature), got int",
    ),
    "padded_or_not": (
        {"inputs": (features(), features(3, 5)), "lengths": ENDS},
        "needed to know whether input 1 is padded, got (3, 5): make",
    ),
    "baselines": ({"inputs": (features(), states()), "baselines": (0, 1)}, "needed baselines for each of 3 inputs, or one number, got 2"),
    "masks": ({"inputs": (features(), states()), "by": tokens()}, "needed a mask for each of 3 inputs, got 1"),
    "names": ({"inputs": (features(), states()), "by": {"a": [0]}}, "needed one input for names with features, got several: give by="),
    "empty": ({"inputs": ()}, "needed inputs as a tensor (batch, time[, feature]), none of them zero, got tuple"),
    "budget": ({"memory_budget": 10}, "needed memory_budget of at least "),
    "two_budgets": ({"memory_budget": 1, "internal_batch_size": 1}, "needed internal_batch_size or memory_budget, got both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_needed_and_what_came(case):
    given, message = REFUSED[case]
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(**({"model": stack(), "inputs": features(), "target": (-1, 0)} | given))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# ---- A budget of memory


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x):
        self.rows.append(len(x))
        return self.model(x)


def kept_by(model, rows):
    """Bytes that autograd keeps of a pass, weights apart."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        returned = model(features(rows, 5, 2).requires_grad_())
    del returned
    return sum(size for place, size in kept.items() if place not in {p.untyped_storage().data_ptr() for p in model.parameters()})


@pytest.mark.parametrize("make", [stack, lambda: peephole_lstm(THREE._replace(num_layers=2), "full")])
@pytest.mark.parametrize("method", ["integrated_gradients", "shapley_value_sampling"])
def test_passes_keep_within_the_budget_and_use_it(make, method):
    expected = lx.attribute(make(), features(), target=(-1, 1), method=method)
    most = []
    for budget in (20_000, 40_000):
        model = Counted(make())
        result = lx.attribute(model, features(), target=(-1, 1), method=method, memory_budget=budget)
        close(result.attributions, expected.attributions)
        most.append(max(model.rows))
        # Beside it are the points and their gradients, 160 bytes a row. Of an order's coalitions the first and the last need no row.
        assert (0.8 if method == "integrated_gradients" else 0.5) * budget < kept_by(make(), most[-1]) + 160 * most[-1] <= budget
    assert 1.8 < most[1] / most[0] < 2.2


def test_packed_models_and_tokens_have_a_budget_too():
    lengths = torch.tensor(ENDS)
    options = {"target": 4, "lengths": ENDS, "additional_forward_args": lengths}
    close(
        lx.attribute(Packed(), features(), memory_budget=30_000, **options).attributions,
        lx.attribute(Packed(), features(), **options).attributions,
    )
    close(
        lx.attribute(Words(), tokens(), target=(-1, 2), memory_budget=30_000).attributions,
        lx.attribute(Words(), tokens(), target=(-1, 2)).attributions,
    )
