"""A study's parts fit each other, or it says which don't."""

import numpy as np
import pytest
import torch

import lstm_explain as lx


def parts(**changes):
    given = {
        "model": torch.nn.LSTM(3, 4, batch_first=True),
        "inputs": torch.zeros(5, 7, 3),
        "lengths": [7, 1, 3, 7, 2],
        "labels": {"on": np.zeros((5, 7), dtype=bool)},
        "groups": list("aabbc"),
        "tokens": ["x" * 7] * 5,
    }
    return given | changes


def test_it_counts_its_steps_and_batches_in_order():
    study = lx.Study(**parts())
    batches = list(study.batches(2))
    assert study.steps == 20 and "20 steps" in repr(study)
    assert [batch.inputs.shape[1] for batch in batches] == [7, 7, 2]
    assert [batch.rows.start for batch in batches] == [0, 2, 4]
    assert torch.cat([batch.lengths for batch in batches]).tolist() == [7, 1, 3, 7, 2]


def nan_in(parameter, rows):
    lstm = torch.nn.LSTM(3, 4, batch_first=True)
    with torch.no_grad():
        getattr(lstm, parameter)[rows] = float("nan")
    return torch.nn.Sequential(lstm)


def nan_peephole(wiring):
    layer = lx.PeepholeLSTM(3, 4, wiring=wiring)
    with torch.no_grad():
        layer.weight_ch_l0[8:12, 0] = float("inf")
    return layer


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "lstm"}, "needed model as a torch.nn.Module, got str"),
        ({"inputs": [1, 2]}, r"needed inputs as a tensor \(batch, time, ...\), got list"),
        ({"inputs": torch.zeros(3)}, r"needed inputs as a tensor \(batch, time, ...\), got \(3,\)"),
        ({"inputs": torch.zeros(0, 7, 3)}, "needed at least one step of at least one sequence"),
        ({"inputs": torch.zeros(5, 0, 3)}, "needed at least one step of at least one sequence"),
        ({"lengths": [7, 0, 3, 7, 2]}, "needed lengths from 1 to 7, got 0 for sequence 1"),
        ({"lengths": [7, 8, 3, 7, 2]}, "needed lengths from 1 to 7, got 8 for sequence 1"),
        ({"lengths": [7]}, "needed lengths as 5 whole numbers"),
        ({"lengths": [7.0] * 5}, "needed lengths as 5 whole numbers"),
        ({"labels": {"on": [[0] * 7] * 4 + [[0]]}}, r"needed label 'on' of shape \(5, 7\), got rows of unequal length: "),
        (
            {"labels": {"on": [np.zeros(7)] * 4 + [np.zeros(1)]}},
            "got rows of unequal length: what is beyond a sequence's length isn't read",
        ),
        ({"labels": {"on": [0] * 5}}, r"got \(5,\): one for each sequence is np.repeat\(label\[:, None\], 7, 1\)"),
        (
            {"labels": {"on": np.zeros((5, 7))}, "events": {"on": [[0] * 7] * 4 + [[0]]}},
            r"needed events of 'on' of shape \(5, 7\), got rows of unequal length",
        ),
        ({"tokens": ["x" * 7, "", *["x" * 7] * 3]}, "needed a token for each of the 1 steps of sequence 1, got 0"),
        ({"labels": {"on": np.zeros((5, 6))}}, r"needed label 'on' of shape \(5, 7\), got \(5, 6\)"),
        (
            {"labels": {"on": np.zeros((5, 7))}, "events": {"on": np.zeros((5, 6))}},
            r"needed events of 'on' of shape \(5, 7\), got \(5, 6\)",
        ),
        ({"events": {"off": np.zeros((5, 7))}}, "needed events of one of the labels on, got 'off'"),
        ({"places": [lx.Place("here", 5, (0, 0))]}, "needed places in sequences from 0 to 4, got 5 for 'here'"),
        ({"groups": ["a"]}, "needed groups for 5 sequences, got 1"),
        ({"tokens": ["x"]}, "needed tokens for 5 sequences, got 1"),
        ({"inputs": torch.zeros(5, 7, dtype=torch.long), "feature_names": ["x"]}, "needed no feature_names with whole-number inputs"),
        (
            {"model": nan_in("weight_hh_l0", slice(4, 6))},
            r"needed finite weights, got 8 NaN or infinite values in 0.weight_hh_l0 \(forget gate\)",
        ),
        ({"model": nan_in("bias_ih_l0", slice(11, 13))}, r"got 2 NaN or infinite values in 0.bias_ih_l0 \(cell candidate, output gate\)"),
        ({"model": nan_peephole("previous")}, r"got 4 NaN or infinite values in weight_ch_l0 \(cell candidate\)"),
        ({"model": nan_peephole("graves")}, r"got 4 NaN or infinite values in weight_ch_l0 \(output gate\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(lx.InputError, match=message) as refused:
        lx.Study(**parts(**changes))
    assert "\n" not in str(refused.value)
