"""What doesn't fit is refused, in one line that says what was needed, what came, and what to do."""

import math

import pytest
import torch
from attributed import ENDS, THREE, Function, Words, features, refused, tokens
from cases import torch_lstm
from torch import nn
from torch.nn.functional import one_hot

import lstm_explain as lx
from lstm_explain.analyses.attribution.methods import DECOMPOSITIONS
from lstm_explain.analyses.attribution.methods import METHODS as BY_PASSES

KNOWN = [*BY_PASSES, *DECOMPOSITIONS]

LATER = {"output": lambda returned: returned[0][:, -1]}
REFUSED = {
    "step_beyond_its_end": ({"target": (3, 0), "lengths": ENDS}, "needed target step from -2 to 1 for example 1, got 3"),
    "step_before_the_start": ({"target": (-6, 0)}, "needed target step from -5 to 4 for example 0, got -6"),
    "step_of_one_example": ({"target": [(0, 0), (0, 0), (5, 0)]}, "needed target step from -5 to 4 for example 2, got 5"),
    "step_of_a_series": (
        {"target": (-3,), "lengths": ENDS, "output": lambda r: r[0][..., 0]},
        "needed target step from -2 to 1 for example 1, got -3",
    ),
    "class_beyond_the_last": ({"target": (0, 3)}, "needed target class from 0 to 2, got 3"),
    "class_below_zero": ({"target": (0, -1)}, "needed target class from 0 to 2, got -1"),
    "class_of_classes": (LATER | {"target": 3}, "needed target class from 0 to 2, got 3"),
    "no_target": ({"target": None}, "needed target as (step, class) for an output of shape (3, 5, 3), got None"),
    "no_class": (LATER | {"target": None}, "needed target as a class, or a step as (step,) for an output of shape (3, 3), got None"),
    "no_step": ({"target": 1}, "needed target as (step, class) for an output of shape (3, 5, 3), got 1"),
    "too_much_target": (
        {"target": 1, "output": lambda r: r[0].sum((1, 2))},
        "needed target as None for an output of shape (3,), got 1",
    ),
    "two_targets": ({"target": [(0, 0), (1, 1)]}, "needed one target, or a list of 3, one for each example, got 2"),
    "output_with_four_axes": (
        {"output": lambda r: r[0].unsqueeze(1)},
        "needed an output (batch[, step][, class]), got (3, 1, 5, 3): choose from it with output=",
    ),
    "output_without_a_batch": (
        {"output": lambda r: r[0].sum()},
        "needed an output whose first axis is the batch, 3 here, got shape (): rearrange it with output=",
    ),
    "output_time_first": (
        {"output": lambda r: r[0].transpose(0, 1)},
        "needed an output whose first axis is the batch, 3 here, got shape (5, 3, 3): rearrange it with output=",
    ),
    "output_no_tensor": ({"output": lambda r: r[1]}, "needed a tensor to explain, got tuple: say how to get one with output="),
    "output_fails": ({"output": lambda r: r["logits"]}, "output= failed on what the model returned: TypeError: tuple indices must be"),
    "output_detached": (
        {"output": lambda r: r[0].detach()},
        "needed a gradient from the output to the inputs, got none: something on the way detaches; occlusion needs none",
    ),
    "output_not_a_number": ({"output": lambda r: r[0] / 0 * 0}, "needed a finite output, got nan for example 0"),
    "input_not_a_number": (
        {"inputs": features().index_fill(0, torch.tensor(1), math.inf)},
        "needed a finite output, got nan for example 1",
    ),
    "baseline_not_a_number": (
        {"baselines": math.nan},
        "needed a finite output, got nan for example 0 at the baseline: choose another with baselines=",
    ),
    "baseline_of_another_shape": (
        {"baselines": torch.zeros(4, 2)},
        "needed baselines as a number or a tensor that broadcasts to (3, 5, 2), got shape (4, 2)",
    ),
    "baseline_for_saliency": ({"method": "saliency", "baselines": 0}, "needed no baselines for saliency, which has none, got some"),
    "baseline_for_input_x_gradient": (
        {"method": "input_x_gradient", "baselines": 0.0},
        "needed no baselines for input_x_gradient, which has none, got some",
    ),
    "lengths_too_few": ({"lengths": [5, 2]}, "needed lengths as 3 whole numbers, one for each sequence, got [5, 2]"),
    "lengths_too_long": ({"lengths": [5, 6, 2]}, "needed lengths from 1 to 5, got 6 for sequence 1"),
    "inputs_without_embedding": (
        {"inputs": tokens()},
        "needed one torch.nn.Embedding to attribute whole-number inputs in its space, found none: give features as floating-point numbers",
    ),
    "inputs_one_hot": (
        {"inputs": one_hot(tokens())},
        "needed whole-number inputs as (batch, time), or features as floating-point numbers, got (3, 5, 9)",
    ),
    "inputs_with_embedding": (
        {"embedding": "embedding"},
        "needed whole-number inputs with embedding='embedding', got torch.float64",
    ),
    "inputs_empty": (
        {"inputs": torch.zeros(3, 0, 2)},
        "needed inputs as a tensor (batch, time[, feature]), none of them zero, got shape (3, 0, 2)",
    ),
    "inputs_flat": ({"inputs": torch.zeros(3)}, "needed inputs as a tensor (batch, time[, feature]), none of them zero, got shape (3,)"),
    "inputs_no_tensor": (
        {"inputs": features().numpy()},
        "needed inputs as a tensor (batch, time[, feature]), none of them zero, got ndarray",
    ),
    "inputs_complex": ({"inputs": features() * 1j}, "needed real inputs, got complex ones"),
    "inputs_of_another_size": (
        {"inputs": features(3, 5, 4)},
        "the model can't be called with inputs of shape (3, 5, 4), float64: RuntimeError: input.size(-1) must be equal to input_size",
    ),
    "model_time_first": (
        {"model": torch_lstm(THREE._replace(layout="time_first"))},
        "needed a model that reads each example by itself, batch first: example 2's output changes by ",
    ),
    "model_mixes_examples": (
        {"model": Function(lambda x: (x - x.mean(0)).tanh().sum((1, 2))), "target": None},
        "needed a model that reads each example by itself, batch first: example 2's output changes by ",
    ),
    "model_no_module": ({"model": len}, "needed a torch.nn.Module, got builtin_function_or_method"),
    "no_nodes": ({"n_steps": 0}, "needed n_steps as a positive whole number, got 0"),
    "no_rows": ({"internal_batch_size": 0}, "needed internal_batch_size as a positive whole number, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_needed_and_what_came(case):
    given, message = REFUSED[case]
    assert refused(**({"model": torch_lstm(THREE), "inputs": features(), "target": (-1, 0)} | given)).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"baselines": 9}, "needed baseline tokens from 0 to 8, got 9 to 9; a vector is given as floating-point numbers"),
        ({"baselines": torch.tensor([-1, 3, 3, 3, 3])}, "needed baseline tokens from 0 to 8, got -1 to 3; a vector is given as"),
        (
            {"baselines": torch.tensor([1, 2])},
            "needed baselines as a number or a tensor that broadcasts to (3, 5, 3), got shape (2, 3)",
        ),
        ({"inputs": tokens() + 1}, "embedding can't read the inputs: IndexError: index out of range"),
        ({"embedding": "rest"}, "needed embedding as the path of a torch.nn.Embedding, one of embedding, got 'rest'"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(given, message):
    assert refused(**({"model": Words(), "inputs": tokens(), "target": (-1, 0)} | given)).startswith(message)


@pytest.mark.parametrize("given", [{"baselines": "pad"}, {"n_steps": 1.5}, {"tolerance": float("nan")}, {"tolerance": -1.0}])
def test_arguments_of_another_kind_are_refused(given):
    refused(torch_lstm(THREE), features(), target=(-1, 0), **given)


def test_a_model_that_writes_into_its_input_is_not_said_to_mix_examples():
    assert "reads each example by itself" not in refused(Function(lambda x: x.mul_(2).sum((1, 2))), features())


def test_an_output_of_truth_values_is_refused():
    refused(Function(lambda x: x.sum((1, 2)) > 0), features(), method="occlusion")


def test_no_trailing_space():
    said = refused(torch_lstm(THREE), float("nan") * features(), target=(-1, 0))
    assert said == said.strip()


# ---- Methods


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("integrated_gradient", "integrated_gradients"),
        ("IntegratedGradients", "integrated_gradients"),
        ("Saliency", "saliency"),
        ("saliancy", "saliency"),
        ("InputXGradient", "input_x_gradient"),
        ("input x gradient", "input_x_gradient"),
        ("occlussion", "occlusion"),
    ],
)
def test_a_misspelt_method_is_told_the_nearest(name, nearest):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said == f"needed method as one of {', '.join(KNOWN)}, got {name!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("name", ["fanova", "", "x", None])
def test_a_method_like_no_other_is_told_which_there_are(name):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said == f"needed method as one of {', '.join(KNOWN)}, got {name!r}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "deep_lift is refused: its rules don't cover products of gates") for name in ("deep_lift", "DeepLift", "deeplift")),
        *(
            (name, "deep_lift_shap is refused: its rules don't cover products of gates")
            for name in ("deep_lift_shap", "deeplift_shap", "DeepLiftShap", "deepliftshap")
        ),
        *(
            (name, "guided_backprop is refused: it changes the gradient of ReLUs, and a recurrent layer has none")
            for name in ("guided_backprop", "GuidedBackprop", "guided-backprop", "guided_backpropagation")
        ),
        *(
            (name, "deconvolution is refused: it changes the gradient of ReLUs, and a recurrent layer has none")
            for name in ("deconvolution", "Deconvolution", "deconv")
        ),
    ],
)
def test_methods_that_are_wrong_on_gates_are_refused_with_the_reason(name, reason):
    said = refused(torch_lstm(THREE), features(), target=(-1, 0), method=name)
    assert said.startswith(reason) and said.endswith("; use integrated_gradients, or occlusion as a check on it")


def test_kernel_shap_is_not_called_deep_lift():
    assert refused(torch_lstm(THREE), features(), target=(-1, 0), method="KernelShap").endswith("did you mean 'kernel_shap'?")


class Forgetful(torch.autograd.Function):
    """The same value, and nothing on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "input_x_gradient", "gradient_shap"])
@pytest.mark.parametrize("weight", [None, nn.Parameter(torch.ones((), dtype=torch.float64))], ids=["fixed", "trained"])
def test_a_graph_that_loses_the_gradient_is_refused(weight, method):
    def forgets(x):
        return Forgetful.apply(x).sum((1, 2)) * (1 if weight is None else weight)

    given = {"baselines": torch.zeros(1, 5, 2, dtype=torch.float64)} if method == "gradient_shap" else {}
    with pytest.raises(lx.InputError, match="^needed a gradient from the output to the inputs, got none: something on the way detaches"):
        lx.attribute(Function(forgets), features(), method=method, **given)


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "occlusion"])
def test_a_single_example_whose_number_is_not_finite_is_refused(method):
    model, inputs = torch_lstm(THREE), features(1, 5, 2).fill_(math.inf)
    with pytest.raises(lx.InputError, match="^needed a finite output, got nan for example 0$"):
        lx.attribute(model, inputs, target=(4, 1), method=method)


def test_where_nothing_leads_back_it_is_refused_before_the_baseline_is_run():
    rows, weight = [], nn.Parameter(torch.ones((), dtype=torch.float64))

    def detached(x):
        rows.append(len(x))
        return x.detach().sum((1, 2)) * weight

    with pytest.raises(lx.InputError, match="something on the way detaches"):
        lx.attribute(Function(detached), features())
    assert rows == [3, 2, 1]
