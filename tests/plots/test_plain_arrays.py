"""Pictures of code lengths, sparse probes and erasures: what is on the axes is what the result says."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import lstm_explain as lx

RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(400, 6))
GROUPS = np.arange(400) // 10
NOISE = np.random.default_rng(1).random(400) > 0.5
LABEL = STATES[:, 0] + STATES[:, 1] + 0.3 * RNG.normal(size=400) > 0


def drawn(result):
    ax = Figure().add_subplot()
    assert lx.plot(result, ax) is ax
    ax.figure.draw_without_rendering()
    return ax


def test_stairs_are_bits_per_step_of_each_portion():
    result = lx.description_length(STATES, LABEL, groups=GROUPS, permutations=2)
    ax = drawn(result)
    without, with_states = (stairs.get_data() for stairs in ax.patches)
    steps = np.diff([0, *result.ends])
    np.testing.assert_allclose(with_states.values * steps, result.portion_bits)
    np.testing.assert_allclose(without.values * steps, result.portion_reference_bits)
    assert with_states.edges[1:].tolist() == result.ends.tolist() and 0 < with_states.edges[0] < result.ends[0]
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0 and ax.get_ylabel() == "bits per step"
    assert ax.get_title(loc="left").startswith(f"{result.compression:.2f} times shorter with the states (labels moved: ")


@pytest.mark.parametrize("twins", [0, 1, 2])
def test_scores_stand_over_their_counts_beside_the_twins(twins):
    controls = {"untrained": [RNG.normal(size=STATES.shape) for _ in range(twins)]} if twins else None
    result = lx.sparse_probe(STATES, LABEL, groups=GROUPS, controls=controls, resamples=50)
    ax = drawn(result)
    curves = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(
        curves["trained"].get_xydata(), [(n, one.value) for n, one in zip(result.counts, result.scores, strict=True)]
    )
    names = {0: set(), 1: {"untrained"}, 2: {"untrained (mean of 2)"}}[twins]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"trained", "chance", *names}
    if twins:
        assert curves[names.pop()].get_ydata().tolist() == [one.value for one in result.untrained]
    assert ax.get_title(loc="left") == f"{result.fewest} of 6 units are within the interval of the best ({result.best})"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "6"]


def test_where_nothing_is_found_no_number_is_named():
    ax = drawn(lx.sparse_probe(STATES, NOISE, groups=GROUPS, resamples=100))
    assert ax.get_title(loc="left") == "no number of 6 units is above chance"
    assert ax.get_ylim()[0] <= 0.45 and ax.get_ylim()[1] >= 0.55
    # The best of many counts may be above chance by its own interval, and not by that of all of them.
    best = lx.sparse_probe(STATES, LABEL, groups=GROUPS, resamples=100)
    assert drawn(replace(best, above_chance=False)).get_title(loc="left") == "no number of 6 units is above chance"


def test_an_erasure_has_a_row_for_each_score_and_its_interval():
    result = lx.erase(STATES, LABEL, groups=GROUPS, resamples=50)
    ax = drawn(result)
    found = {tuple(line.get_xdata()) for line in ax.lines}
    for one in (result.before, result.after, result.relearned, result.random):
        assert {(one.value,), (one.low, one.high)} <= found
    rows = [label.get_text() for label in ax.get_yticklabels()]
    at = {line.get_ydata()[0]: line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1}
    assert rows[3] == "as they are" and at[3] == result.before.value and rows[0] == "label erased" and at[0] == result.after.value
    assert {f"{one.value:.3f}" for one in (result.before, result.random)} <= {text.get_text() for text in ax.texts}
    assert ax.get_title(loc="left") == f"erasing 1 of 6 directions, {100 * result.removed:.1f} % of the variance"
