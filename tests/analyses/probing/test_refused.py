"""What doesn't fit is refused, in one line."""

import numpy as np
import pytest
import torch
from probed import CELLS, SYMBOLS, Y, planted

import lstm_explain as lx


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"recording": {}}, "needed at least one recorded layer, got none: call the model inside lx.record first"),
        ({"recording": planted(np.where(CELLS > 2, np.nan, CELLS))}, "needed finite states to probe, got 1 NaN .* in l0 cell_state"),
        ({"recording": planted(CELLS, np.where(CELLS > 2, np.inf, 0))}, "needed finite states to probe, got 1 .* in l0 hidden_state"),
        ({"labels": Y[:, :8]}, r"needed label 'label' of shape \(6, 9\), one value for each step, got \(6, 8\)"),
        ({"labels": {"z": Y[0]}}, r"needed label 'z' of shape \(6, 9\), one value for each step, got \(9,\)"),
        ({"labels": Y | True}, "needed at least two values of label 'label', got only 1"),
        ({"labels": np.full((6, 9), np.nan)}, "needed at least two values of label 'label', got none defined"),
        ({"labels": np.where(Y, np.inf, 0.0)}, "needed finite numbers .* in label 'label', got infinite ones"),
        ({"labels": Y * 1j}, "needed label 'label' as booleans, whole numbers, numbers or text, got complex128"),
        ({"labels": np.where(np.arange(6)[:, None] == 2, Y, -1)}, "needed two classes of label 'label' outside each fold, got one"),
        ({"groups": range(5)}, "needed groups for 6 sequences, got 5"),
        ({"groups": "aabbcc"}, "needed at least 5 groups for 5 folds, got 3: give finer groups, or fewer folds"),
        ({"folds": 1}, "needed at least 2 folds, and a positive stride and window, got 1, 1 and 8"),
        ({"window": 0}, "needed at least 2 folds, and a positive stride and window, got 5, 1 and 0"),
        ({"controls": {"random": SYMBOLS}}, "needed controls named untrained, window and types, got 'random'"),
        ({"controls": {"untrained": planted(CELLS, name="l1")}}, "needed the untrained recording of the same layers, l0, got l1"),
        ({"controls": {"untrained": {}}}, "needed the untrained recording of the same layers, l0, got none"),
        ({"controls": {"untrained": planted(CELLS, lengths=[8] * 6)}}, "needed recordings of the same steps .* got others in untrained l0"),
        ({"controls": {"untrained": planted(CELLS * np.nan)}}, "needed finite states to probe, got 108 .* in untrained l0 cell_state"),
        ({"controls": {"window": SYMBOLS[:, :8]}}, r"needed the window's inputs of shape \(6, 9\) \+ \(feature,\), got \(6, 8\)"),
        (
            {"controls": {"window": SYMBOLS - 1}},
            r"needed the window's inputs as features .* or symbols \(batch, time\) from 0, got \(6, 9\)",
        ),
        ({"controls": {"window": SYMBOLS[:, :, None]}}, r"needed the window's inputs as features .* or symbols .* got \(6, 9, 1\)"),
        ({"events": {"label": Y[:, 1:]}}, r"needed events of 'label' of shape \(6, 9\), got \(6, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message):
    with pytest.raises(lx.InputError, match=f"^{message}") as refused:
        lx.probe(**{"recording": planted(CELLS), "labels": Y, "resamples": 5, "permutations": 5} | arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"labels": np.where(np.arange(6)[:, None] == 2, CELLS[:, :, 0], np.nan)}, id="number in one fold only: ZeroDivisionError"
        ),
        pytest.param({"controls": {"window": torch.full((6, 9, 1), torch.nan)}}, id="window of NaN: sklearn's ValueError, many lines"),
        pytest.param({"events": {"lable": Y}}, id="events of no label: ignored silently"),
        pytest.param({"at_most": 0}, id="at_most=0: ZeroDivisionError"),
        pytest.param({"labels": {}}, id="no label: an empty result"),
    ],
)
def test_should_be_refused_in_one_line(arguments):
    with pytest.raises(lx.InputError) as refused:
        lx.probe(**{"recording": planted(CELLS), "labels": Y, "resamples": 5, "permutations": 5} | arguments)
    assert "\n" not in str(refused.value)
