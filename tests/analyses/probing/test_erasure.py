"""Erasure: the formula a second time; nothing is left where it was fitted; as little as can be is lost; what new groups still tell."""

import json

import numpy as np
import pytest
from scipy.linalg import pinvh, sqrtm
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lstm_explain as lx
from lstm_explain.analyses.probing.eraser import Whitened

KINDS = ("binary", "continuous", "categorical")
GROUPS = np.repeat(range(20), 30)
N = len(GROUPS)


def data(kind, units=5, seed=0, n=N):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, units)) @ rng.normal(size=(units, units)) + rng.normal(size=units)
    wave = states[:, 0] - states[:, 1] + 0.5 * rng.normal(size=n)
    edges = np.quantile(wave, [0.3, 0.6])
    return states, {"binary": wave > edges[1], "continuous": wave, "categorical": np.digitize(wave, edges) + 4 * (states[:, 2] > 1)}[kind]


def wanted(y):
    return y[:, None] if y.dtype.kind == "f" else (y[:, None] == np.unique(y)) * 1.0


def slow_erased(states, y):
    """x - W⁺ P W (x - mean), with W the pseudo-inverse root of the covariance."""
    z = wanted(y)
    x, z = states - states.mean(0), z - z.mean(0)
    root = np.real(sqrtm(x.T @ x / len(x)))
    w = pinvh(root)
    shared = w @ (x.T @ z / len(x))
    return states - x @ (pinvh(w) @ shared @ np.linalg.pinv(shared, rcond=1e-10) @ w).T


def covariance(states, y):
    z = wanted(y)
    return np.abs((states - states.mean(0)).T @ (z - z.mean(0))).max() / len(states)


@pytest.mark.parametrize("kind", KINDS)
def test_the_eraser_is_the_published_formula(kind):
    states, y = data(kind)
    result = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=1)
    # Roots of covariances lose half of the digits.
    np.testing.assert_allclose(result.eraser.apply(states), slow_erased(states, y), rtol=0, atol=1e-8)
    assert result.rank == result.eraser.rank == {"binary": 1, "continuous": 1, "categorical": len(np.unique(y)) - 1}[kind]
    np.testing.assert_allclose(result.eraser.mean, states.mean(0))


def hard(kind):
    """Constant, repeated, summed, huge and tiny units, and more units than say something else."""
    states, y = data(kind)
    return np.column_stack(
        [states, np.full(N, 0.1), states[:, 0], states[:, 1] + states[:, 2], 1e6 * states[:, 3], 1e-6 * states[:, 4] + 1]
    ), y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [data, hard])
def test_nothing_is_left_where_it_was_fitted(kind, make):
    states, y = make(kind)
    eraser = Whitened(states).eraser(wanted(y))
    erased = eraser.apply(states)
    scale = np.where(np.ptp(states, axis=0) > 0, states.std(0), 1)
    assert covariance((erased - erased.mean(0)) / scale, y) < 1e-10
    # Erasing twice is erasing once, but for the digits that the unit near one hasn't got.
    assert np.abs((eraser.apply(erased) - erased) / scale).max() < 1e-8
    if kind == "continuous":
        standard = (erased - erased.mean(0)) / scale
        assert np.abs(Ridge(1e-3).fit(standard, y).predict(standard) - y.mean()).max() < 1e-8


@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_no_logistic_probe_beats_the_majority_there(kind):
    states, y = data(kind, units=9)
    erased = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=1).eraser.apply(states)
    shares = np.unique(y, return_counts=True)[1] / N
    standard = (erased - erased.mean(0)) / erased.std(0)
    probe = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(standard, y)
    alone = log_loss(y, np.tile(shares, (N, 1)))
    assert log_loss(y, probe.predict_proba(standard)) == pytest.approx(alone, abs=1e-8)
    assert (probe.predict(standard) == np.unique(y)[shares.argmax()]).all()
    assert log_loss(y, LogisticRegression(max_iter=1000).fit(states, y).predict_proba(states)) < alone - 0.3


def test_a_number_far_from_zero_is_erased_as_well():
    states, y = data("continuous")
    far = y + 1e8
    assert covariance(Whitened(states).eraser(wanted(far)).apply(states), far) < 1e-10


def test_no_other_map_that_erases_loses_less():
    states, y = data("binary")
    difference = states[y].mean(0) - states[~y].mean(0)
    gentle = Whitened(states).eraser(wanted(y)).apply(states)
    rng = np.random.default_rng(0)
    for unit_scales in (np.ones(5), rng.random(5)):
        least = (((gentle - states) * unit_scales) ** 2).mean()
        for read in [difference, *rng.normal(size=(50, 5))]:
            # x - d (r·(x - mean)) / (r·d) takes the classes' difference d away for every r.
            other = states - np.outer((states - states.mean(0)) @ read, difference) / (read @ difference)
            assert covariance(other, y) < 1e-10 and (((other - states) * unit_scales) ** 2).mean() >= least - 1e-12


def test_what_is_removed_is_the_share_of_the_variance_that_goes():
    states, y = hard("categorical")
    result = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=3)
    scale = np.where(np.ptp(states, axis=0) > 0, states.std(0), np.inf)
    gone = ((states - result.eraser.apply(states)) / scale).var(0).sum() / (states / scale).var(0).sum()
    assert result.removed == pytest.approx(gone, rel=1e-9) and 0 < result.removed_random < 1


def slow_auc(kept, y, seed=0, folds=5):
    """Area under the curve within folds, of probes of the states that `kept` makes of (states, fitted on, fold's others)."""
    right = pairs = 0
    split = [held for _, held in GroupKFold(folds, shuffle=True, random_state=seed).split(GROUPS, groups=GROUPS)]
    for out, held in enumerate(split):
        others = [one for place, one in enumerate(split) if place != out]
        known, changed = kept(others)
        probe = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8)).fit(changed[known], y[known])
        count = y[held].sum() * (~y[held]).sum()
        right += count * roc_auc_score(y[held], probe.decision_function(changed[held]))
        pairs += count
    return right / pairs


def test_scores_are_those_of_probes_by_hand():
    states, y = data("binary")
    result = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=1)

    def relearned(others):
        first, second = np.concatenate(others[::2]), np.concatenate(others[1::2])
        return second, Whitened(states[first]).eraser(wanted(y[first])).apply(states)

    assert result.before.value == pytest.approx(slow_auc(lambda others: (np.concatenate(others), states), y), abs=1e-9)
    assert result.relearned.value == pytest.approx(slow_auc(relearned, y), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_on_other_groups_the_label_is_gone_and_random_directions_leave_it(kind):
    rng = np.random.default_rng(1)
    states = rng.normal(size=(3000, 20))
    wave = states[:, 3] + 0.5 * rng.normal(size=3000)
    y = {"binary": wave > 0.5, "continuous": wave, "categorical": np.digitize(wave, [-0.5, 0.5])}[kind]
    result = lx.erase(states, y, groups=np.arange(3000) // 30, resamples=200)
    nothing = {"binary": 0.5, "continuous": 0, "categorical": 1 / 3}[kind]
    assert result.after == pytest.approx(result.majority, abs=1e-9) and result.majority.value == pytest.approx(nothing, abs=2e-3)
    assert result.before.low > nothing + 0.2 and nothing + 0.15 < result.random.low < result.random.value < result.before.value
    assert result.relearned.value < nothing + 0.25 * (result.before.value - nothing)


def test_as_many_random_directions_are_erased_as_the_label_takes(monkeypatch):
    states, y = data("categorical", units=9)
    ranks, random = [], Whitened.random
    monkeypatch.setattr(Whitened, "random", lambda self, rank, rng: ranks.append(rank) or random(self, rank, rng))
    result = lx.erase(states, y, groups=GROUPS, folds=4, resamples=5, random_draws=2)
    assert result.rank == 5 and ranks == [5] * (4 * 2 + 2) and result.random_draws == 2
    eraser = random(Whitened(states), 5, np.random.default_rng(0))
    assert eraser.rank == 5 == np.linalg.matrix_rank(np.cov((states - eraser.apply(states)).T), tol=1e-9)


def test_more_groups_leave_less_to_learn_again():
    left = []
    for n in (600, 12_000):
        rng = np.random.default_rng(2)
        states = rng.normal(size=(n, 20))
        left.append(lx.erase(states, states[:, 0] > 0, groups=np.arange(n) // 20, resamples=20, random_draws=1).relearned.value)
    assert left[1] < left[0] - 0.05 and left[1] < 0.57


def test_erased_states_have_nothing_to_erase():
    states, y = data("categorical", units=9)
    erased = Whitened(states).eraser(wanted(y)).apply(states)
    with pytest.raises(lx.InputError, match="^needed a label that goes with some unit, got one that is exactly uncorrelated with all"):
        lx.erase(erased, y, groups=GROUPS)


def test_a_label_with_more_classes_than_units_takes_all_of_them():
    states, y = data("categorical", units=3)
    result = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=1)
    assert len(np.unique(y)) > 4 and result.rank == 3
    assert (result.eraser.apply(states) == states.mean(0)).all() and result.eraser.gone.all() and result.removed == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_unit_that_is_the_label_not_even_rounding_is_left(kind):
    # Symmetric about zero, so that no scaler takes what rounding leaves for a constant.
    rng = np.random.default_rng(3)
    code = rng.permutation(np.resize({"binary": [-1, 1], "continuous": rng.normal(size=N // 2), "categorical": [-1, 0, 1]}[kind], N)) * 1.1
    code -= code.mean()
    states = np.column_stack([rng.normal(size=(N, 3)), code])
    result = lx.erase(
        states, code if kind == "continuous" else np.unique(code.round(6), return_inverse=True)[1], groups=GROUPS, resamples=5
    )
    if kind != "categorical":
        assert result.eraser.gone.tolist() == [False, False, False, True] and len(np.unique(result.eraser.apply(states)[:, 3])) == 1
    assert result.before.value > result.majority.value + 0.3 and result.after.value == pytest.approx(result.majority.value, abs=1e-9)


def test_the_eraser_takes_any_leading_shape_and_says_what_does_not_fit():
    states, y = data("binary")
    eraser = lx.erase(states, y, groups=GROUPS, resamples=5, random_draws=1).eraser
    sequences = states.astype(np.float32).reshape(20, 30, 5)
    assert eraser.apply(sequences).shape == (20, 30, 5) and eraser.apply(sequences).dtype == np.float64
    np.testing.assert_allclose(eraser.apply(sequences).reshape(N, 5), eraser.apply(states.astype(np.float32)), atol=1e-12)
    assert repr(eraser) == "<Eraser: 1 of 5 directions>"
    with pytest.raises(lx.InputError, match=r"^needed states \(\.\.\., 5\), got shape \(2, 4\)$"):
        eraser.apply(np.ones((2, 4)))


def test_half_of_the_folds_must_have_two_values():
    # Two groups of twenty have any yes: for some fold they are in one half of the others.
    states, _ = data("binary")
    with pytest.raises(lx.InputError, match="^needed two values of the label in each half of the other folds, got one"):
        lx.erase(states, (GROUPS < 2) & (np.arange(N) % 2 == 0), groups=GROUPS, resamples=5)


def test_the_result_reads_and_exports_and_the_seed_is_kept():
    states, y = data("categorical", units=9)
    result, again, other = (lx.erase(states, y, groups=GROUPS, resamples=20, seed=seed) for seed in (3, 3, 4))
    assert result.to_dict() == again.to_dict() and result.random != other.random
    assert repr(result).startswith(f"<Erasure: {result.rank} of 9 directions, balanced accuracy {result.before.value:.3f} before, ")
    assert "\n" not in repr(result) and "relearned" in repr(result)
    html = result._repr_html_()
    assert html.startswith("<table>") and html.count("<tr>") == 6 and f"<td>{result.before.value:.3f}</td>" in html
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["before"] == list(result.before) and np.shape(exported["eraser"]["read"]) == (9, result.rank)
    frame = result.to_frame()
    assert (
        frame.index.tolist() == ["before", "after", "relearned", "random", "majority"] and frame["value"]["random"] == result.random.value
    )
