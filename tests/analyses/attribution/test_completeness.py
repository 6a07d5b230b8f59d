"""Attributions add up to the difference of outputs, and where they don't, or don't claim to, they say so."""

import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, Function, features, held_at_padding
from cases import FORMS, call_of, close, peephole_lstm, torch_lstm

import lstm_explain as lx


@pytest.mark.parametrize("lengths", [None, ENDS])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(THREE, id="one_layer"),
        pytest.param(THREE._replace(num_layers=2, bidirectional=True), id="two_layers_both_ways"),
        pytest.param(THREE._replace(num_layers=2, proj_size=2), id="two_layers_projected"),
        pytest.param(THREE._replace(bidirectional=True, proj_size=2, bias=False), id="both_ways_projected"),
    ],
)
@pytest.mark.parametrize("form", [*FORMS, "torch"])
def test_integrated_gradients_add_up_to_the_difference_of_outputs(form, case, lengths):
    model = torch_lstm(case) if form == "torch" else peephole_lstm(case, *form)
    inputs, _ = call_of(case)
    result = lx.attribute(model, inputs, target=(-1, 1), lengths=lengths)
    step = torch.tensor(ENDS if lengths else [5, 5, 5]) - 1
    baseline = held_at_padding(torch.zeros(()), inputs) if lengths else torch.zeros_like(inputs)
    with torch.no_grad():
        at_input, at_baseline = (model(x)[0][torch.arange(3), step, 1].numpy() for x in (inputs, baseline))
    close(result.output, at_input)
    close(result.baseline_output, at_baseline)
    assert (np.abs(result.attributions.sum((1, 2)) - (at_input - at_baseline)) <= 1e-6 * np.abs(at_input - at_baseline)).all()
    assert result.converged.all() and (result.relative_delta <= 1e-6).all()
    close(result.convergence_delta, result.attributions.sum((1, 2)) - (at_input - at_baseline))


def test_in_float32_they_add_up_as_far_as_it_is_precise():
    model, inputs = torch_lstm(THREE, torch.float32), features().float()
    result = lx.attribute(model, inputs, target=(-1, 0))
    assert result.converged.all() and (result.relative_delta < 1e-4).all()
    np.testing.assert_allclose(result.attributions, lx.attribute(model.double(), inputs.double(), target=(-1, 0)).attributions, atol=1e-5)
    assert [result.settings["dtype"], result.settings["tolerance"]] == ["float32", 1e-4]


# ---- Not converged, and said so


def test_too_few_nodes_are_said():
    model, inputs = torch_lstm(THREE), 4 * features()
    result = lx.attribute(model, inputs, target=(-1, 1), n_steps=1)
    assert not result.converged.any() and (result.relative_delta > 1e-6).all()
    assert result.attributions.shape == (3, 5, 2) and result.settings["n_steps"] == [1, 1, 1]
    assert "within 1e-06 (or rounding) for 0 of 3" in repr(result)
    assert result._repr_html_().count("<td>no</td>") == 3


def test_only_those_that_need_more_nodes_get_them():
    inputs = torch.ones(3, 5, 2, dtype=torch.float64) * torch.tensor([0.1, 30.0, 6.0], dtype=torch.float64).view(3, 1, 1)
    result = lx.attribute(Function(lambda x: x.tanh().sum((1, 2))), inputs)
    easy, hard, fair = result.settings["n_steps"]
    assert easy == 8 < fair < hard <= 512 and result.converged.all()
    # Along x = 30 α, the integral of each feature's gradient is tanh 30 in closed form.
    np.testing.assert_allclose(result.attributions, inputs.tanh(), rtol=2e-6)
    short = lx.attribute(Function(lambda x: x.tanh().sum((1, 2))), inputs, n_steps=20)
    assert short.converged.tolist() == [True, False, fair <= 20] and short.settings["n_steps"] == [8, 20, min(fair, 20)]


def test_a_tolerance_is_kept_to():
    model, inputs = Function(lambda x: (5 * x).tanh().sum((1, 2))), features()
    loose, strict = (lx.attribute(model, inputs, tolerance=tolerance) for tolerance in (1e-1, 1e-10))
    assert loose.converged.all() and strict.converged.all()
    assert (loose.relative_delta <= 1e-1).all() and (strict.relative_delta <= 1e-10).all() and (loose.relative_delta > 1e-10).any()
    assert sum(loose.settings["n_steps"]) < sum(strict.settings["n_steps"])
    assert "within 0.1 (or rounding) for 3 of 3" in repr(loose)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_tolerance_is_a_share_of_the_difference(scale):
    model, inputs = torch_lstm(THREE), features()
    plain = lx.attribute(model, inputs, target=(-1, 1), n_steps=4)
    scaled = lx.attribute(model, inputs, target=(-1, 1), n_steps=4, output=lambda returned: scale * returned[0])
    np.testing.assert_allclose(scaled.relative_delta, plain.relative_delta, rtol=1e-6)
    assert scaled.converged.tolist() == plain.converged.tolist() and not plain.converged.all()


def test_a_difference_that_drowns_in_rounding_has_converged():
    result = lx.attribute(Function(lambda x: 1e9 + 1e-3 * x.sum((1, 2))), features())
    assert (result.relative_delta > 1e-6).all()
    assert result.converged.all() and result.settings["n_steps"] == [8, 8, 8]


def test_outputs_that_do_not_differ_need_no_share():
    at_baseline = lx.attribute(torch_lstm(THREE), torch.zeros(3, 5, 2, dtype=torch.float64), target=(-1, 1))
    assert at_baseline.converged.all() and (at_baseline.attributions == 0).all() and at_baseline.relative_delta.tolist() == [0, 0, 0]
    inputs = torch.ones(1, 2, 1, dtype=torch.float64)
    product = lx.attribute(Function(lambda x: x[:, 0, 0] - x[:, 1, 0] ** 2), inputs, method="input_x_gradient")
    assert product.relative_delta.tolist() == [np.inf] and product.converged is None


# ---- No claim


def test_saliency_makes_no_claim():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method="saliency")
    assert result.baseline_output is result.convergence_delta is result.relative_delta is result.converged is None
    assert "doesn't claim to add up" in repr(result) and "doesn&#x27;t claim to add up" in result._repr_html_()
    assert result.settings["baselines"] is None


@pytest.mark.parametrize("method", ["input_x_gradient", "occlusion"])
def test_methods_that_need_not_add_up_say_by_how_much_they_do_not(method):
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method=method)
    close(result.convergence_delta, result.by_step.sum(1) - (result.output - result.baseline_output))
    close(result.relative_delta, np.abs(result.convergence_delta / (result.output - result.baseline_output)))
    assert result.converged is None and "but it doesn't claim to add up" in repr(result)
