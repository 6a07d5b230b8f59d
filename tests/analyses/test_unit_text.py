"""One unit over a text."""

import json

import numpy as np
import pytest
import torch
from mechanisms import counter

import lstm_explain as lx


@pytest.fixture
def recording():
    letters = "abba" + "aaab"
    inputs = torch.eye(2, dtype=torch.float64)[torch.tensor(["ab".index(c) for c in letters]).view(2, 4)]
    with torch.no_grad(), lx.record(model := counter(), lengths=[4, 3]) as recording:
        model(inputs)
    return recording


def test_values_are_those_of_the_counter(recording):
    result = lx.unit_text(recording, "abba", layer="l0", unit=0)
    # c = tanh(4) (#a - #b), but for the gates' distance from 1: 2e-9 a step.
    np.testing.assert_allclose(result.values / np.tanh(4), [1, 0, -1, 0], rtol=0, atol=1e-7)
    assert result.tokens == tuple("abba") and result.marks is None


def test_only_the_sequences_own_steps_are_shown(recording):
    result = lx.unit_text(recording, "aaab", layer="l0", unit=0, sequence=1, start=1, marks=[False, True, True, False])
    assert result.tokens == ("a", "a") and result.marks.tolist() == [True, True] and len(result.values) == 2


def test_it_reads_and_exports(recording):
    result = lx.unit_text(recording, "abba", layer="l0", unit=0, signal="output_gate")
    assert "l0 unit 0, output_gate" in repr(result) and "<p>" in result._repr_html_()
    assert result.to_frame()["token"].tolist() == list("abba")
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"signal": "forget"}, "needed the signal forget of l0, lstm, got input_gate"),
        ({"layer": "lstm.l0"}, "needed layer as one of l0, got 'lstm.l0'"),
        ({"unit": 1}, "needed unit from 0 to 0 of l0 cell_state, got 1"),
        ({"sequence": 2}, "needed sequence from 0 to 1, got 2"),
        ({"tokens": "ab"}, "needed tokens for the sequence's 4 steps, got 2"),
        ({"marks": [True]}, "needed marks for the sequence's 4 steps, got 1"),
        ({"start": 4}, "needed at least one of the sequence's 4 steps"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(recording, options, message):
    given = {"tokens": "abba", "layer": "l0", "unit": 0} | options
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.unit_text(recording, given.pop("tokens"), **given)
    assert "\n" not in str(refused.value)
