"""Against Captum, and against occlusion by hand."""

import subprocess
import sys

import captum.attr
import numpy as np
import pytest
import torch
from attributed import ENDS, METHODS, THREE, VALID, Function, features, held_at_padding
from cases import close, peephole_lstm, torch_lstm

import lstm_explain as lx

TARGETS = [(4, 2), (1, 0), (2, 5)]


def captums(name, model, inputs, baselines):
    """What Captum gives for `TARGETS`, by the method of ours of that name."""
    if name == "integrated_gradients":
        return captum.attr.IntegratedGradients(model).attribute(inputs, baselines, TARGETS, n_steps=64)
    if name == "occlusion":
        return captum.attr.Occlusion(model).attribute(inputs, (1, 2), baselines=baselines, target=TARGETS)[..., 0]
    gradient = captum.attr.Saliency(model) if name == "saliency" else captum.attr.InputXGradient(model)
    return gradient.attribute(inputs.clone().requires_grad_(), TARGETS)


@pytest.mark.parametrize("lengths", [None, ENDS])
@pytest.mark.parametrize("method", METHODS)
def test_captum_agrees(method, lengths):
    model, inputs = torch_lstm(THREE._replace(bidirectional=True)), features()
    given = features(5, 2, seed=1) if method in ("integrated_gradients", "occlusion") else None
    ours = lx.attribute(model, inputs, target=TARGETS, method=method, baselines=given, lengths=lengths)
    whole = None if given is None else held_at_padding(given, inputs) if lengths else given.expand(3, 5, 2)
    theirs = captums(method, lambda x: model(x)[0], inputs, whole).detach().numpy()
    at = VALID.numpy() if lengths else np.ones((3, 5), bool)
    # Captum rounds to float32: the weights of its integral, and what occlusion changes.
    atol = {"integrated_gradients": 1e-6, "occlusion": 1e-7}.get(method, 1e-12)
    np.testing.assert_allclose(ours.attributions[at], theirs[at], rtol=0, atol=atol)
    assert ours.method == method


def test_occlusion_is_what_changes_when_one_step_gets_the_baseline():
    model, inputs, baseline = peephole_lstm(THREE, "full"), features(), features(5, 2, seed=1)
    result = lx.attribute(model, inputs, target=(-1, 1), baselines=baseline, lengths=ENDS, method="occlusion")
    for example, end in enumerate(ENDS):
        for step in range(end):
            occluded = inputs[example : example + 1].clone()
            occluded[0, step] = baseline[step]
            with torch.no_grad():
                change = model(inputs[example : example + 1])[0] - model(occluded)[0]
            close(result.attributions[example, step], change[0, end - 1, 1])


def test_occlusion_needs_no_gradient():
    result = lx.attribute(Function(lambda x: x.detach().sum((1, 2))), features(), method="occlusion")
    close(result.attributions, features().sum(2))


# ---- In a notebook


def test_in_a_notebook_without_widgets_captum_says_nothing():
    # tqdm.auto warns where IPython runs without ipywidgets.
    code = (
        "import sys, types, warnings\n"
        "warnings.simplefilter('error')\n"
        "import torch, lstm_explain as lx\n"
        "from lstm_explain.analyses.attribution.methods import captum\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tqdm.auto': warnings.warn('IProgress not found. Please update jupyter')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "captum().Saliency\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
