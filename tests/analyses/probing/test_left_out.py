"""What doesn't enter: padding, undefined steps, and the other labels."""

import numpy as np
import pytest
import torch
from probed import CELLS, kinds_of, planted, slow_waves

import lstm_explain as lx
from lstm_explain.analyses.probing.labels import read


def test_labels_do_not_see_each_other():
    rng = np.random.default_rng(0)
    cells, symbols = slow_waves(rng, 10, 20, 3), torch.as_tensor(rng.integers(0, 3, (10, 20)))
    labels = kinds_of(rng.normal(size=(10, 20)))
    for name, label in kinds_of(rng.normal(size=(10, 20))).items():
        labels[f"other {name}"] = label.copy()
        labels[f"other {name}"][rng.random((10, 20)) < 0.2] = {"binary": -1, "continuous": np.nan, "categorical": ""}[name]
    options = {"controls": {"window": symbols}, "folds": 3, "window": 2, "resamples": 10, "permutations": 10}
    together = lx.probe(planted(cells), labels, **options).to_dict()["labels"]
    for name, label in labels.items():
        assert together[name] == lx.probe(planted(cells), {name: label}, **options).to_dict()["labels"][name]


def test_undefined_steps_are_left_out():
    rng = np.random.default_rng(0)
    cells, twin = slow_waves(rng, 10, 20, 3), slow_waves(rng, 10, 20, 3)
    labels = kinds_of(rng.normal(size=(10, 20)))
    away = np.isnan(labels["continuous"])
    results = []
    for there in (cells[away], 1e3):
        cells[away] = twin[away] = there
        controls = {"untrained": planted(twin)}
        results.append(lx.probe(planted(cells), labels, controls=controls, folds=3, resamples=10, permutations=10).to_dict())
    assert results[0] == results[1] and results[0]["labels"]["binary"]["steps"] == (~away).sum()


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_nothing_becomes_a_class(nothing):
    # None and NaN are how pandas marks missing text.
    assert read("x", np.array(["a", nothing, "b"], dtype=object)).defined.tolist() == [True, False, True]


def test_what_stands_in_the_padding_changes_nothing():
    rng = np.random.default_rng(0)
    lengths, symbols = rng.integers(8, 31, 15), rng.integers(0, 5, (15, 30))
    cells, twin, wave, inputs = slow_waves(rng, 15, 30, 3), slow_waves(rng, 15, 30, 3), slow_waves(rng, 15, 30, 1)[:, :, 0], None
    pad = np.arange(30) >= lengths[:, None]
    results = []
    for padded in (False, True):
        labels = kinds_of(wave)
        if padded:
            cells[pad], twin[pad], symbols[pad] = np.nan, 1e30, 99
            labels["binary"][pad], labels["continuous"][pad], labels["categorical"][pad] = 7, 1e30, "padding"
        inputs = torch.as_tensor(symbols)
        controls = {"untrained": planted(twin, lengths=lengths), "window": inputs}
        events = {"binary": (wave > 1) | (pad & padded)}
        recording = planted(cells, lengths=lengths)
        results.append(lx.probe(recording, labels, controls=controls, events=events, folds=3, resamples=20, permutations=20))
    assert results[0].to_dict() == results[1].to_dict() and results[0].padding == "known"
    assert results[0].labels["continuous"].steps == np.isfinite(kinds_of(wave)["continuous"][~pad]).sum()


def test_padding_of_float_inputs_does_not_enter_the_window():
    rng = np.random.default_rng(0)
    lengths, inputs = rng.integers(8, 31, 15), torch.randn(15, 30, 2)
    recording, label = planted(slow_waves(rng, 15, 30, 2), lengths=lengths), rng.random((15, 30)) > 0.5
    before = lx.probe(recording, label, controls={"window": inputs}, resamples=20, permutations=20).to_dict()
    inputs[torch.arange(30) >= torch.as_tensor(lengths)[:, None]] = torch.nan
    assert lx.probe(recording, label, controls={"window": inputs}, resamples=20, permutations=20).to_dict() == before


def test_infinite_padding_of_a_label_is_refused():
    label = np.where(np.arange(9) < 7, np.random.default_rng(1).normal(size=(6, 9)), np.inf)
    lx.probe(planted(CELLS, lengths=[7] * 6), label, resamples=5, permutations=5)
