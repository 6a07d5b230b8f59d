"""Bits and overlap of single units: both a second time, slowly, and what they are by chance and at best."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import entropy, hypergeom
from sklearn.metrics import jaccard_score, mutual_info_score

import lstm_explain as lx
from lstm_explain.analyses.probing.information import bins

KINDS = ("binary", "continuous", "categorical")


def label(kind, rng, n):
    return {"binary": rng.random(n) < 0.3, "continuous": rng.normal(size=n), "categorical": rng.choice(3, n, p=[0.2, 0.5, 0.3])}[kind]


def cut(x, count):
    """Equally full bins, equal values together."""
    ordered = sorted(x)
    edges = [ordered[k * len(x) // count] for k in range(1, count)]
    return np.array([sum(edge <= one for edge in edges) for one in x])


def scored(states, y, **options):
    return lx.unit_scores(states, y, permutations=1, **options)


def jackknifed(estimate, n):
    """An estimate of the steps in a list, less what leaving out each one says."""
    every = list(range(n))
    return n * estimate(every) - (n - 1) * np.mean([estimate(every[:one] + every[one + 1 :]) for one in every])


def slow_information(x, y):
    """By entropies that are jackknifed one step at a time, and chance by all cells' hypergeometric counts."""
    n = len(x)
    plain, of_x, of_y = (
        jackknifed(estimate, n)
        for estimate in (
            lambda steps: mutual_info_score(y[steps], x[steps]),
            lambda steps: entropy(np.unique(x[steps], return_counts=True)[1]),
            lambda steps: entropy(np.unique(y[steps], return_counts=True)[1]),
        )
    )
    chance = of_x + of_y - n * np.log(n) + (n - 1) * np.log(n - 1)
    for a in np.unique(x, return_counts=True)[1]:
        for b in np.unique(y, return_counts=True)[1]:
            for k in range(1, min(a, b) + 1):
                difference = k * np.log(k) - (k - 1) * np.log(max(k - 1, 1))
                chance += hypergeom(n, a, b).pmf(k) * k * difference / n
    most = min(of_x, of_y)
    return most * (plain - chance) / (most - chance) / np.log(2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digits", [0, 12])
def test_bits_are_the_plain_ones_corrected_as_the_definition_says(kind, digits):
    rng = np.random.default_rng(0)
    n = 70
    y = label(kind, rng, n)
    states = (rng.normal(size=(n, 2)) + np.asarray(y, dtype=float)[:, None]).round(digits)
    result = scored(states, y)
    assert result.bins == {"binary": 70 // 16, "continuous": 2, "categorical": 70 // 24}[kind]
    of = cut(y, result.bins) if kind == "continuous" else y
    for unit in range(2):
        assert result.information[unit] == pytest.approx(slow_information(cut(states[:, unit], result.bins), of), rel=0, abs=1e-12)


@pytest.mark.parametrize("y", [[0, 0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 2, 2, 2, 2], [0.0, 1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("x", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 1, 2]])
def test_the_mean_over_all_orders_is_nothing(x, y):
    every = np.array(list(itertools.permutations(x)))
    assert abs(scored(every.T, np.array(y)).information.mean()) < 1e-12


def test_bins_are_equally_full_and_equal_values_are_in_one():
    x = np.random.default_rng(0).permutation(320).astype(float)
    (found,) = bins(x[None], np.sort(x)[None], 32)
    assert np.bincount(found).tolist() == [10] * 32 and (np.diff(found[np.argsort(x)]) >= 0).all()
    tied = np.array([0.0] * 6 + [1, 2])
    assert bins(tied[None], tied[None], 4).tolist() == [[2] * 6 + [3, 3]]


@pytest.mark.parametrize(
    "n, kind, wanted", [(600, "binary", 32), (320, "binary", 20), (20, "binary", 2), (8192, "continuous", 32), (200, "continuous", 5)]
)
def test_there_are_32_bins_or_as_many_as_leave_eight_steps_in_a_cell(n, kind, wanted):
    rng = np.random.default_rng(0)
    assert scored(rng.normal(size=(n, 1)), label(kind, rng, n)).bins == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_no_bits_on_average_although_its_plain_ones_have(kind):
    rng = np.random.default_rng(1)
    states, y = rng.normal(size=(2000, 400)), label(kind, rng, 2000)
    result = scored(states, y)
    error = result.information.std(ddof=1) / np.sqrt(400)
    assert abs(result.information.mean()) < 3 * error
    of = cut(y, result.bins) if kind == "continuous" else y
    plain = np.mean([mutual_info_score(of, unit) for unit in bins(states.T, np.sort(states.T), result.bins)]) / np.log(2)
    assert plain > 30 * error


def test_a_unit_that_is_the_label_has_its_entropy_and_a_normal_pair_what_theory_says():
    rng = np.random.default_rng(2)
    y = rng.random(20_000) < 0.25
    x = rng.normal(size=20_000)
    other = 0.8 * x + 0.6 * rng.normal(size=20_000)
    assert scored(y[:, None] * 1.0, y).information[0] == pytest.approx(entropy([0.25, 0.75], base=2), abs=0.01)
    # Cut into bins a pair tells a little less.
    exact = -np.log2(1 - 0.8**2) / 2
    assert exact - 0.05 < scored(x[:, None], other).information[0] < exact


def test_bits_do_not_ask_which_way_up_or_how_far_apart():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(900, 1))
    y = np.abs(x[:, 0]) > 1
    found = scored(np.concatenate([x, -x, np.exp(x)], axis=1), y)
    assert found.information[2] == found.information[0] and found.information[1] == pytest.approx(found.information[0], abs=0.02)
    # The AUC of a unit that is high or low for yes is at chance; its bits aren't.
    assert found.scores[0] < 0.6 and found.information[0] > 0.8


@pytest.mark.parametrize("digits", [0, 12])
def test_overlap_is_the_jaccard_index_of_as_many_steps_as_the_label_has_yes(digits):
    rng = np.random.default_rng(4)
    y = rng.random(90) < 0.2
    states = (rng.normal(size=(90, 5)) + np.outer(y, [3, -3, 1, 0, 0])).round(digits)
    found = scored(states, y).overlap
    for unit, x in enumerate(states.T):
        high, low = sorted(x)[-y.sum()], sorted(x)[y.sum() - 1]
        assert found[unit] == pytest.approx(max(jaccard_score(y, x >= high), jaccard_score(y, x <= low)), rel=0, abs=1e-12)


def test_a_perfect_unit_overlaps_whole_either_way_up_and_noise_by_chance():
    rng = np.random.default_rng(5)
    y = rng.random(3000) < 0.1
    x = rng.normal(size=3000) + 20 * y
    found = scored(np.stack([x, -x, y, ~y], axis=1), y).overlap
    assert found.tolist() == [1, 1, 1, 1]
    # The better of two ways up is a little more than one of them.
    chance = scored(rng.normal(size=(3000, 300)), y).overlap.mean()
    assert 0.1 / 1.9 < chance < 0.1 / 1.9 + 0.02


def test_only_yes_or_no_labels_overlap_and_tables_say_so():
    rng = np.random.default_rng(6)
    states = rng.normal(size=(80, 2))
    for kind in KINDS:
        result = scored(states, label(kind, rng, 80))
        assert np.isnan(result.overlap).all() == (kind != "binary")
        html, exported = result._repr_html_(), json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert "<th>bits</th>" in html and ("<th>IoU</th>" in html) == (kind == "binary") and "nan" not in html
        assert f"<td>{result.information[result.scores.argmax()]:.3g}</td>" in html
        assert exported["information"] == result.information.tolist() and (exported["overlap"] == [None, None]) == (kind != "binary")
        assert result.to_frame()[["information", "overlap"]].shape == (2, 2)


def test_a_constant_unit_has_no_bits_and_marks_every_step():
    y = np.arange(100) % 4 == 0
    with pytest.warns(UserWarning, match="1 of 2 units never change"):
        result = scored(np.stack([np.full(100, 0.1), y * 1.0], axis=1), y)
    assert result.information[0] == 0 and result.overlap.tolist() == [0.25, 1]
