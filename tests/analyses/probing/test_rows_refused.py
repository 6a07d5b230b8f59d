"""What doesn't fit is refused in one line, whoever was asked."""

import numpy as np
import pytest

import lstm_explain as lx

STATES = np.random.default_rng(0).normal(size=(60, 3))
YES = np.arange(60) % 3 == 0
GROUPS = np.arange(60) // 6
ASKED = {"description_length": {"permutations": 2}, "sparse_probe": {"resamples": 5}, "erase": {"resamples": 5}}
EVERY = [
    ({"states": STATES[0]}, r"needed states as numbers \(step, unit\), got shape \(3,\) of float64"),
    ({"states": STATES.astype(str)}, r"needed states as numbers \(step, unit\), got shape \(60, 3\) of <U"),
    ({"states": np.where(np.eye(60, 3), np.nan, STATES)}, "needed finite states, got 3 NaN or infinite values"),
    ({"states": np.ones((60, 3))}, "needed a unit that changes, got 3 constant ones"),
    ({"labels": YES[:11]}, r"needed labels of shape \(60,\), one for each step, got \(11,\)"),
    ({"labels": np.ones(60)}, "needed at least two values of label 'labels', got only 1.0"),
    ({"labels": np.full(60, -1)}, "needed at least two values of label 'labels', got none defined"),
    ({"labels": np.where(YES, np.inf, 0)}, "needed finite numbers .* in label 'labels', got infinite ones"),
    ({"groups": range(11)}, r"needed groups of shape \(60,\), one for each step, got \(11,\)"),
    ({"groups": YES}, "needed each group's steps in one piece, got a group that comes back after another"),
]
OWN = [
    ("description_length", {"groups": np.zeros(60)}, "needed at least two groups, of which one is coded by the other, got one: give finer"),
    ("description_length", {"null": "shuffle"}, "needed null as circular_shift or group_permutation, got 'shuffle'"),
    ("description_length", {"null": "group_permutation", "groups": None}, "needed at least two groups to permute, got one: give groups="),
    ("description_length", {"permutations": 1}, "needed at least two permutations, which have a spread, got 1"),
    ("description_length", {"penalties": (1, 0)}, r"needed penalties as positive numbers, at least one, got \(1, 0\)"),
    ("description_length", {"penalties": ()}, r"needed penalties as positive numbers, at least one, got \(\)"),
    ("description_length", {"penalties": (np.nan,)}, r"needed penalties as positive numbers, at least one, got \(nan,\)"),
    ("description_length", {"resolution": 0.0}, "needed the resolution as a positive number, got 0.0"),
    ("description_length", {"resolution": np.inf}, "needed the resolution as a positive number, got inf"),
    ("sparse_probe", {"groups": GROUPS // 4}, "needed at least 5 groups for 5 folds, got 3: give finer groups, or fewer folds"),
    ("sparse_probe", {"folds": 1}, "needed at least 2 folds, got 1"),
    ("sparse_probe", {"resamples": 0}, "needed at least one resample, got 0"),
    ("sparse_probe", {"counts": [0, 2]}, r"needed counts from 1 to the 3 units, got \[0, 2\]"),
    ("sparse_probe", {"counts": [4]}, r"needed counts from 1 to the 3 units, got \[4\]"),
    ("sparse_probe", {"counts": []}, r"needed counts from 1 to the 3 units, got \[\]"),
    ("sparse_probe", {"controls": {"window": STATES}}, "needed controls named untrained, got 'window'"),
    (
        "sparse_probe",
        {"controls": {"untrained": STATES[:9]}},
        r"needed untrained states of the shape \(60, 3\) of the trained ones, got \(9, 3\)",
    ),
    ("sparse_probe", {"controls": {"untrained": [STATES, STATES * np.nan]}}, "needed finite states, got 180 NaN or infinite values"),
    ("sparse_probe", {"controls": {"untrained": []}}, "needed untrained states, got none: give those of at least one twin"),
    (
        "sparse_probe",
        {"labels": GROUPS == 0},
        "needed two values of the label outside each fold, got one: give more groups, or fewer folds",
    ),
    ("erase", {"groups": GROUPS // 4}, "needed at least 5 groups for 5 folds, got 3: give finer groups, or fewer folds"),
    ("erase", {"folds": 2}, "needed at least 3 folds, to fit, to learn again and to score, got 2"),
    ("erase", {"random_draws": 0}, "needed at least one random erasure and one resample, got 0 and 5"),
    ("erase", {"labels": GROUPS == 0}, "needed two values of the label outside each fold, got one: give more groups, or fewer folds"),
]


@pytest.mark.parametrize("asked, arguments, message", [*((asked, *one) for asked in ASKED for one in EVERY), *OWN])
def test_what_does_not_fit_is_refused_in_one_line(asked, arguments, message):
    with pytest.raises(lx.InputError, match=f"^{message}") as refused:
        getattr(lx, asked)(**{"states": STATES, "labels": YES, "groups": GROUPS} | ASKED[asked] | arguments)
    assert "\n" not in str(refused.value)
