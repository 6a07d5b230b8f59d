"""Networks with weights set by hand and functions with a closed form, whose attributions are known."""

import math

import numpy as np
import pytest
import torch
from attributed import ENDS, METHODS, VALID, Function, features, held_at_padding
from cases import close
from mechanisms import adding, counter
from torch.nn.functional import one_hot

import lstm_explain as lx


def test_every_token_of_the_counter_counts_for_one():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    found = {method: lx.attribute(counter(), inputs, method=method, output=lambda r: r[1][1][0, :, 0]) for method in METHODS}
    for method in ("integrated_gradients", "occlusion"):
        # The gates are open to 2e-9.
        np.testing.assert_allclose(found[method].by_step, signs * math.tanh(4), rtol=0, atol=1e-6)
        assert (found[method].relative_delta <= 1e-6).all()
    assert np.abs(found["input_x_gradient"].attributions).max() < 0.01
    assert (found["input_x_gradient"].relative_delta > 0.9).all()


def test_value_and_marker_share_what_was_added():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = features(2, 7).sign() * (0.5 + torch.rand(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    added = (value * marker).numpy()
    gradients, occlusion = (
        lx.attribute(
            adding(), torch.stack([value, marker], 2), target=(-1,), method=method, output=lambda returned: 1e3 * returned[0][..., 0]
        )
        for method in ("integrated_gradients", "occlusion")
    )
    # The table's tolerances: the gate is open to 2e-9, and tanh is linear to 3e-7.
    np.testing.assert_allclose(gradients.output, added.sum(1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients.attributions[..., 0], added / 2, rtol=0, atol=1e-3)
    np.testing.assert_allclose(gradients.attributions[..., 1], added / 2, rtol=0, atol=1e-3)
    np.testing.assert_allclose(occlusion.attributions, added, rtol=0, atol=1e-3)
    assert np.abs(occlusion.attributions[added == 0]).max() < 1e-6
    assert gradients.converged.all()


# ---- Closed forms


@pytest.mark.parametrize("lengths", [None, ENDS])
def test_a_linear_output_is_attributed_in_closed_form(lengths):
    inputs, weights, baselines = features(), features(5, 2, seed=1), features(2, seed=2)
    model = Function(lambda x: (weights * x).sum((1, 2)) + 3)
    valid = VALID.unsqueeze(2) if lengths else torch.ones(3, 5, 1)
    expected = weights * (inputs - baselines) * valid
    gradients = lx.attribute(model, inputs, baselines=baselines, lengths=lengths)
    close(gradients.attributions, expected)
    close(gradients.by_step, expected.sum(2))
    close(lx.attribute(model, inputs, baselines=baselines, lengths=lengths, method="occlusion").attributions, expected.sum(2))
    close(lx.attribute(model, inputs, lengths=lengths, method="input_x_gradient").attributions, weights * inputs * valid)
    close(lx.attribute(model, inputs, lengths=lengths, method="saliency").attributions, weights.abs() * valid)
    assert gradients.settings["n_steps"] == [8, 8, 8]


def test_a_quadratic_output_is_attributed_in_closed_form():
    inputs, A, given = features(), features(10, 10, seed=1), features(5, 2, seed=2)
    model = Function(lambda x: torch.einsum("bi,ij,bj->b", x.flatten(1), A, x.flatten(1)))
    baseline = held_at_padding(given, inputs)
    expected = (inputs - baseline) * ((inputs + baseline).flatten(1) / 2 @ (A + A.T)).view(3, 5, 2)
    close(lx.attribute(model, inputs, baselines=given, lengths=ENDS, n_steps=2).attributions, expected)


@pytest.mark.parametrize("method", METHODS)
def test_series_of_single_numbers_keep_their_shape(method):
    result = lx.attribute(Function(lambda x: x.sin().sum(1)), features(3, 5), method=method)
    assert result.attributions.shape == (3, 5)
    expected = {"saliency": features(3, 5).cos().abs(), "input_x_gradient": features(3, 5) * features(3, 5).cos()}
    close(result.by_step, expected.get(method, features(3, 5).sin()))
