"""Temporal saliency rescaling, a second time from the paper, one altered input at a time."""

import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, VALID, Function, Words, features, tokens
from cases import close, peephole_lstm, torch_lstm
from matplotlib.figure import Figure

import lstm_explain as lx

METHODS = ["saliency", "input_x_gradient", "integrated_gradients", "gradient_shap", "feature_ablation", "shapley_value_sampling"]
LENGTHS = [5, 3, 4]
"""Of three steps another one is above the quantile than of three and their padding."""


def from_0_to_1(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def few(method):
    return {"n_samples": 5} if method in ("gradient_shap", "shapley_value_sampling") else {}


def slowly(model, x, target, baseline, method):
    """One example ``(time, feature)``, all of it valid."""
    options = few(method) | ({} if method in ("saliency", "input_x_gradient") else {"baselines": baseline})

    def attributions(points):
        found = lx.attribute(model, points[None], target=target, method=method, **options).attributions[0]
        # A step's value in equal shares on its features.
        return found if found.ndim == 2 else np.repeat(found[:, None] / x.shape[1], x.shape[1], 1)

    plain, (time, count) = attributions(x), x.shape
    start = torch.zeros(time, count) if method in ("saliency", "input_x_gradient") else baseline[:time]

    def change(*place):
        altered = x.clone()
        altered[place] = start[place].to(x.dtype)
        return np.abs(attributions(altered) - plain).sum()

    steps = from_0_to_1(np.array([change(step) for step in range(time)]))
    result = np.zeros((time, count))
    for step in np.flatnonzero(steps > np.quantile(steps, 0.55)):
        result[step] = steps[step] * from_0_to_1(np.array([change(step, feature) for feature in range(count)]))
    return result


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_papers_algorithm(method):
    model, inputs, baseline = peephole_lstm(THREE._replace(input_size=3), "full"), features(3, 5, 3), features(5, 3, seed=1)
    valid = torch.arange(5) < torch.tensor(LENGTHS).unsqueeze(1)
    given = {} if method in ("saliency", "input_x_gradient") else {"baselines": baseline}
    for rows in (None, 4):
        result = lx.attribute(
            model,
            inputs,
            target=(-1, 1),
            lengths=LENGTHS,
            method=method,
            temporal_rescaling=True,
            internal_batch_size=rows,
            **few(method),
            **given,
        )
        for example, end in enumerate(LENGTHS):
            close(result.attributions[example, :end], slowly(model, inputs[example, :end], (-1, 1), baseline[:end], method))
        assert (result.attributions[~valid] == 0).all() and 0 <= result.attributions.min() <= result.attributions.max() <= 1
    assert result.converged is result.convergence_delta is result.baseline_output is result.spread is None
    assert "rescaled in time, which doesn't add up" in repr(result) and result.settings["temporal_rescaling"]


def test_of_series_and_tokens_it_is_the_steps_importance():
    series = lx.attribute(Function(lambda x: (x[:, :1] * x).sum(1)), features(3, 5), method="saliency", temporal_rescaling=True)
    # Along the gradient of x_0 (x_0 + ... + x_4), 2 x_0 + x_1 + ... and x_0, step 0 changes six numbers of it and the others one.
    expected = np.abs(features(3, 5).numpy())
    expected[:, 0] = 0
    for row, x in enumerate(features(3, 5).numpy()):
        before, after = abs(x.sum() + x[0]), abs(x[1:].sum())
        changes = np.append(abs(before - after) + 4 * abs(x[0]), [abs(before - abs(x.sum() + x[0] - x[at])) for at in range(1, 5)])
        close(series.attributions[row], from_0_to_1(changes))
    words = lx.attribute(Words(), tokens(), target=(-1, 2), lengths=ENDS, method="integrated_gradients", temporal_rescaling=True)
    assert words.attributions.shape == (3, 5) and (words.attributions[~VALID] == 0).all() and words.attributions.max(1).tolist() == [1] * 3


def test_it_finds_the_steps_that_gate_the_others():
    # Step 2 opens the gate for all: its own gradient is small, what hangs on it is everything.
    def gated(x):
        return torch.sigmoid(40 * x[:, 2, 0] - 20) * x[:, :, 1].sum(1)

    inputs = torch.ones(1, 6, 2, dtype=torch.float64)
    plain = lx.attribute(Function(gated), inputs, method="saliency")
    rescaled = lx.attribute(Function(gated), inputs, method="saliency", temporal_rescaling=True)
    assert plain.attributions[0, 2, 0] < 1e-6 and rescaled.attributions[0].argmax() == 4 and rescaled.attributions[0, 2, 0] == 1


def test_the_picture_names_no_unit_of_the_output():
    for rescaling, unit in ((True, "rescaled in time, from 0 to 1"), (False, "in units of the output")):
        result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method="saliency", temporal_rescaling=rescaling)
        assert lx.plot(result, Figure().add_subplot()).get_ylabel() == f"attribution, {unit}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"method": "feature_permutation"},
            "needed a method that explains each example by itself for temporal_rescaling, got feature_perm",
        ),
        ({"by": "feature"}, "needed no groups with temporal_rescaling, whose numbers don't add up, got by="),
        ({"inputs": (features(), features())}, "needed one input for temporal_rescaling, got 2"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(**({"model": torch_lstm(THREE), "inputs": features(), "target": (-1, 0), "temporal_rescaling": True} | given))
    assert str(caught.value).startswith(message)
