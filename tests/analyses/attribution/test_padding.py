"""Padding gets exactly zero and changes nothing, and what is known of it is said."""

import numpy as np
import pytest
import torch
from attributed import ENDS, METHODS, THREE, VALID, Packed, Words, features, tokens
from cases import close, peephole_lstm, torch_lstm

import lstm_explain as lx


@pytest.mark.parametrize("method", METHODS)
def test_padding_gets_exactly_zero_whatever_is_in_it(method):
    model, inputs, other = torch_lstm(THREE), features(), features()
    other[~VALID] = 100
    first, second = (lx.attribute(model, x, target=(-1, 1), lengths=ENDS, method=method) for x in (inputs, other))
    np.testing.assert_array_equal(first.valid, VALID)
    assert (first.attributions[~VALID] == 0).all() and (second.attributions[~VALID] == 0).all()
    assert (first.attributions[VALID] != 0).all()
    close(second.attributions, first.attributions)
    close(second.baseline_output if method != "saliency" else 0.0, first.baseline_output if method != "saliency" else 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_padding_that_the_model_reads_gets_exactly_zero_too(method):
    model = torch_lstm(THREE._replace(bidirectional=True))
    result = lx.attribute(model, features(), target=(0, 5), lengths=torch.tensor(ENDS), method=method)
    assert (result.attributions[~VALID] == 0).all() and (result.attributions[VALID] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_padding_that_is_not_a_number_gets_exactly_zero(method):
    inputs = features()
    inputs[~VALID] = float("nan")
    result = lx.attribute(Packed(), inputs, target=4, lengths=ENDS, additional_forward_args=torch.tensor(ENDS), method=method)
    assert (result.attributions[~VALID] == 0).all()


def test_what_is_known_of_padding_is_said():
    said = [lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), lengths=lengths).padding for lengths in (None, ENDS, [5, 5, 5])]
    assert said == ["unknown", "known", "none"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["padded", "packed", "tokens"])
def test_an_example_is_explained_as_if_it_were_alone_and_without_padding(kind, method):
    model, inputs, target = {
        "padded": (peephole_lstm(THREE._replace(num_layers=2), "full"), features(), (-1, 1)),
        "packed": (Packed(), features(), 4),
        "tokens": (Words(), tokens(), (-1, 1)),
    }[kind]
    extra = {"additional_forward_args": torch.tensor(ENDS)} if kind == "packed" else {}
    together = lx.attribute(model, inputs, target=target, lengths=ENDS, method=method, **extra)
    for at, n in enumerate(ENDS):
        extra = {"additional_forward_args": (torch.tensor([n]),)} if kind == "packed" else {}
        alone = lx.attribute(model, inputs[at : at + 1, :n], target=target, method=method, **extra)
        close(together.attributions[at, :n], alone.attributions[0])
        close(together.output[at], alone.output[0])
