"""Nothing is left behind: the model, its inputs, the settings and the random state are as before."""

import numpy as np
import pytest
import torch
from attributed import ENDS, METHODS, THREE, Function, Packed, Words, Worn, features, tokens, whereabouts
from cases import randomise, torch_lstm
from torch import nn

import lstm_explain as lx


def worn(fails_at=0):
    """A model in mixed modes, with a gradient of its own, parameters that aren't trained, and a forward pass put in from outside."""
    model = Worn(fails_at)
    model.embedding.forward = model.embedding.forward
    model.rest.eval()
    model.embedding.requires_grad_(False)
    model.rest.weight_hh_l0.grad = torch.ones_like(model.rest.weight_hh_l0)
    return model


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_model_settings_and_random_state_are_as_before(method, cudnn):
    model = worn()
    with torch.backends.cudnn.flags(enabled=cudnn):
        before = whereabouts(model)
        lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, method=method)
        assert whereabouts(model) == before
    assert {called[:3] == ({False}, False, False) for called in model.found} == {True}


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 7, 9, 10])
def test_they_are_as_before_when_the_model_fails(fails_at):
    model = worn(fails_at)
    before = whereabouts(model)
    with pytest.raises(lx.InputError, match="the model can't be called with inputs of shape .*: ValueError: worn out$"):
        lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, internal_batch_size=4)
    assert len(model.found) == fails_at
    assert whereabouts(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_inputs_and_baselines_are_as_before(method):
    model = torch_lstm(THREE)
    inputs, baselines, lengths = features().requires_grad_(), torch.ones(5, 2, dtype=torch.float64), torch.tensor(ENDS)
    given = {} if method in ("saliency", "input_x_gradient") else {"baselines": baselines}
    lx.attribute(model, inputs, target=(-1, 1), lengths=lengths, method=method, **given)
    assert inputs.grad is None and inputs.requires_grad and torch.equal(inputs, features())
    assert (baselines == 1).all() and lengths.tolist() == ENDS
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", METHODS)
def test_it_works_where_gradients_are_off(method, mode):
    packed, words = Packed(), Words()
    expected = lx.attribute(packed, features(), target=4, additional_forward_args=torch.tensor(ENDS), method=method)
    expected_words = lx.attribute(words, tokens(), target=(-1, 2), method=method)
    with mode():
        before = whereabouts(packed), whereabouts(words)
        result = lx.attribute(packed, features(), target=4, additional_forward_args=torch.tensor(ENDS), method=method)
        result_words = lx.attribute(words, tokens(), target=(-1, 2), method=method)
        assert (whereabouts(packed), whereabouts(words)) == before
    np.testing.assert_array_equal(result.attributions, expected.attributions)
    np.testing.assert_array_equal(result_words.attributions, expected_words.attributions)


def test_other_tensors_made_in_inference_mode():
    with torch.inference_mode():
        w = features(2)
        lx.attribute(Function(lambda x, w: (x * w).tanh().sum((1, 2))), features(), additional_forward_args=w)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_stays_off(method):
    model = randomise(nn.LSTM(2, 3, 2, batch_first=True, dropout=0.9).double())
    found = [lx.attribute(model.train(mode), features(), target=(-1, 1), method=method).attributions for mode in (True, False, True)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
