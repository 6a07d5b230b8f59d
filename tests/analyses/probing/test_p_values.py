"""How often labels that are moved agree as well: where states and labels go by group, and where nothing is defined."""

import numpy as np
import pytest
from probed import KINDS, planted

import lstm_explain as lx


def labelled(kind, values):
    if kind == "continuous":
        return values
    return values > np.median(values) if kind == "binary" else np.digitize(values, np.quantile(values, [0.2, 0.7]))


def share_of_false_positives(p_values):
    return np.mean(np.array(p_values) <= 0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", ["4 to 20", "lognormal"])
def test_group_permutation_with_groups_of_different_lengths(kind, lengths):
    p_values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        of = np.repeat(
            range(24), rng.integers(4, 21, 24) if lengths == "4 to 20" else np.maximum(2, 12 * np.exp(rng.normal(size=24))).astype(int)
        )
        states = rng.normal(size=24)[of] + 0.1 * rng.normal(size=len(of))
        y = labelled(kind, rng.normal(size=24))[of]
        p_values.append(lx.unit_scores(states[:, None], y, groups=of, permutations=99, seed=seed).p_values[0])
    assert share_of_false_positives(p_values) <= 0.1


def by_patient(seed):
    rng, patient = np.random.default_rng(seed), np.repeat(range(12), 8)
    cells = rng.normal(size=(12, 1, 3))[patient] + 0.3 * rng.normal(size=(96, 6, 3))
    label = np.repeat((rng.permutation(12) % 2 == 0)[patient][:, None], 6, 1)
    return lx.probe(planted(cells), label, groups=patient, folds=3, resamples=5, permutations=39, seed=seed).labels["label"]


def test_probe_moves_labels_by_sequence_although_groups_are_given():
    # Twelve patients, eight sequences each; label and state go by patient, and independently.
    found = [by_patient(seed) for seed in range(24)]
    assert np.mean([one.units.p_values <= 0.05 for one in found]) <= 0.15 and np.mean([one.p_value <= 0.05 for one in found]) <= 0.15


def test_one_step_that_differs_turns_the_answer_over():
    # A shift within groups would know next to nothing here.
    rng = np.random.default_rng(0)
    of, label = np.repeat(range(40), 20), np.repeat(np.arange(40) % 2, 20)
    states = (label + 0.5 * rng.normal(size=40)[of] + 0.1 * rng.normal(size=800))[:, None]
    assert lx.unit_scores(states, label, groups=of).p_values[0] == 0.001
    label[5] = 1 - label[5]
    assert lx.unit_scores(states, label, groups=of).p_values[0] < 0.05


def test_a_score_that_is_not_defined_has_the_smallest_p_value():
    # Five groups in five folds, the label constant in each: there are no pairs to compare.
    label = np.repeat([[True], [False], [True], [False], [True]], 20, axis=1)
    with np.errstate(all="ignore"):
        found = lx.probe(planted(np.random.default_rng(0).normal(size=(5, 20, 3))), label, resamples=5, permutations=19).labels["label"]
    assert np.isnan(found.probes[found.best].score.value) and not found.p_value < 1
