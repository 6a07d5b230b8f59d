"""The control task: random labels of types, which a probe can only learn by heart."""

import numpy as np
import pytest
import torch
from probed import CELLS, KINDS, Steps, Y, as_label, kinds_of, planted, slow_ridge, slow_waves

import lstm_explain as lx
from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing.control_task import LEVELS, Levels, control_truth, level, levels_of, uniform
from lstm_explain.analyses.probing.labels import Truth, resolve

QUICK = {"resamples": 20, "permutations": 5}


def slow_uniform(one, name, seed):
    """SplitMix64's finaliser, in whole numbers of any size."""
    from hashlib import blake2b

    key = int.from_bytes(blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "little")
    z = (one * 0x9E3779B97F4A7C15 + key) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return ((z ^ (z >> 31)) >> 11) / 2**53


def test_a_types_draw_is_its_own_by_name_and_seed():
    types = np.array([0, 1, 2, 5, 2**40, -1])
    np.testing.assert_array_equal(uniform(types, "y", 3), [slow_uniform(int(one), "y", 3) for one in types])
    every = [uniform(types, name, seed) for name, seed in (("y", 3), ("z", 3), ("y", 4))]
    assert all(len(np.unique(one)) == len(types) for one in every) and len(np.unique(every)) == 3 * len(types)


def test_draws_are_uniform_and_those_of_two_labels_are_independent():
    one, other = (uniform(np.arange(20_000), name, 0) for name in ("y", "z"))
    for drawn in (one, other):
        counts = np.bincount((drawn * 50).astype(int), minlength=50)
        # Chi-squared of 49 degrees of freedom: below 85 with 99.9 %.
        assert ((counts - 400) ** 2 / 400).sum() < 85 and 0 <= drawn.min() and drawn.max() < 1
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 20_000**0.5 > abs(np.corrcoef(one[1:], one[:-1])[0, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_has_one_label_and_types_have_labels_like_the_labels_own(kind):
    rng = np.random.default_rng(0)
    values = as_label(kind, rng.normal(size=30_000))
    truth = resolve("y", values * (1.0 if kind == "continuous" else 1), kind == "continuous")
    types = np.tile(np.arange(15_000), 2)
    drawn = control_truth(truth, types, "y", 0)
    assert (drawn.values[:15_000] == drawn.values[15_000:]).all() and (drawn.kind, drawn.classes) == (truth.kind, truth.classes)
    if kind == "continuous":
        assert np.isin(drawn.values, truth.values).all()
        assert drawn.values.mean() == pytest.approx(truth.values.mean(), abs=0.05) and drawn.values.std() == pytest.approx(1, abs=0.05)
    else:
        shares = [np.bincount(one.values) / 30_000 for one in (drawn, truth)]
        np.testing.assert_allclose(*shares, atol=4 * (0.25 / 15_000) ** 0.5)


def slow_labels(kind, label, types, name, seed):
    """The control label of each step, one by one."""
    values = np.sort(label.ravel())
    drawn = [slow_uniform(int(one), name, seed) for one in types.ravel()]
    if kind == "continuous":
        # The value in the middle of each of so many equal parts.
        middle = [values[int(np.ceil((np.floor(u * LEVELS) + 0.5) / LEVELS * len(values))) - 1] for u in drawn]
        return np.reshape(middle, label.shape)
    return np.reshape([values[int(u * len(values))] for u in drawn], label.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_selectivity_is_the_score_less_that_of_the_same_probe_on_the_control_labels(kind):
    rng, groups = np.random.default_rng(1), list("abcdeffgh")
    lengths = rng.integers(25, 41, 9)
    types = rng.integers(0, 12, (9, 40))
    cells = (slow_waves(rng, 9, 40, 4) + np.eye(12)[types] @ rng.normal(size=(12, 4))).astype(np.float32)
    label = as_label(kind, cells[:, :, 0] + rng.normal(size=(9, 40)))
    result = lx.probe(
        planted(cells, lengths=lengths),
        {"y": label},
        groups=groups,
        controls={"types": types, "untrained": planted(cells[::-1].copy(), lengths=lengths)},
        folds=3,
        resamples=15,
        permutations=5,
        seed=4,
    )
    found, steps = result.labels["y"], Steps(result, groups, lengths, label)
    inside = np.arange(40) < lengths[:, None]
    drawn = np.zeros(label.shape, dtype=label.dtype)
    drawn[inside] = slow_labels(kind, label[inside], types[inside], "y", 4)
    control = Steps(result, groups, lengths, drawn)
    for state, states in (("cell_state", cells), ("hidden_state", np.tanh(cells))):
        x = steps.rows(states).astype(float)
        ours, theirs = (one.drawn(kind, one.predictions(kind, x), 4, 15) for one in (steps, control))
        probed = found.probes[f"l0 {state}"]
        np.testing.assert_allclose(probed.control_task, [theirs[0][0], *np.quantile(theirs[1], [0.025, 0.975])], atol=1e-8)
        gap = ours[1] - theirs[1]
        np.testing.assert_allclose(probed.selectivity, [(ours[0] - theirs[0])[0], *np.quantile(gap, [0.025, 0.975])], atol=1e-8)
    assert all(np.isnan(one.selectivity.value) and np.isnan(one.control_task.value) for one in found.controls.values())


def test_a_state_that_is_the_types_themselves_has_no_selectivity_and_one_that_knows_the_label_alone_has_all_of_it():
    rng = np.random.default_rng(0)
    types = rng.integers(0, 30, (10, 60))
    by_type, by_itself = (rng.random(30) > 0.5)[types], rng.random((10, 60)) > 0.5
    knows = {"types": np.eye(30)[types], "label": 1.0 * by_itself[:, :, None] + 0.01 * rng.normal(size=(10, 60, 3))}
    for what, label, selective in (("types", by_type, False), ("label", by_itself, True)):
        found = lx.probe(planted(knows[what]), {"y": label}, controls={"types": types}, **QUICK).labels["y"]
        probed = found.probes["l0 cell_state"]
        assert probed.score.value > 0.99 and (probed.selectivity.low > 0.3) == selective
        assert selective or (probed.control_task.value > 0.99 and abs(probed.selectivity.value) < 0.01)
        assert found.verdict == "not controlled"


def test_the_control_task_leaves_all_else_as_it_is():
    rng = np.random.default_rng(0)
    labels, types = kinds_of(rng.normal(size=(10, 20))), rng.integers(0, 5, (10, 20))
    recording, window = planted(slow_waves(rng, 10, 20, 3)), torch.as_tensor(types)
    without, with_types = (
        lx.probe(recording, labels, controls={"window": window} | more, folds=3, **QUICK) for more in ({}, {"types": types})
    )
    for name, found in without.labels.items():
        again = with_types.labels[name]
        assert [one[:4] for one in again.probes.values()] == [one[:4] for one in found.probes.values()]
        assert (again.p_value, again.above) == (found.p_value, found.above)
        assert np.isfinite(again.probes["l0 cell_state"].selectivity).all()
        assert np.isnan(found.probes["l0 cell_state"].selectivity).all()


def test_one_type_has_nothing_to_tell_apart():
    labels = kinds_of(np.random.default_rng(0).normal(size=(6, 9)))
    result = lx.probe(planted(CELLS), labels, controls={"types": np.zeros((6, 9), int)}, folds=3, **QUICK)
    for found in result.labels.values():
        assert np.isnan(found.probes[found.best].selectivity.value) and np.isfinite(found.probes[found.best].score.value)
    assert result.to_dict()["labels"]["binary"]["probes"]["l0 cell_state"]["selectivity"] is None


def test_types_of_padding_and_of_undefined_steps_do_not_enter():
    rng = np.random.default_rng(0)
    lengths, types = rng.integers(8, 21, 10), rng.integers(0, 6, (10, 20))
    labels, results = kinds_of(rng.normal(size=(10, 20))), []
    away = np.isnan(labels["continuous"]) | (np.arange(20) >= lengths[:, None])
    for there in (0, 999):
        types[away] = there
        recording = planted(slow_waves(np.random.default_rng(1), 10, 20, 3), lengths=lengths)
        results.append(lx.probe(recording, labels, controls={"types": types}, folds=3, **QUICK).to_dict())
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "types, message",
    [
        (np.zeros((6, 8), int), r"needed types of shape \(6, 9\), one for each step, got \(6, 8\)"),
        (np.zeros((6, 9)), "needed types as whole numbers, such as the input's symbol, got float64"),
        (np.full((6, 9), "a"), "needed types as whole numbers, such as the input's symbol, got <U1"),
    ],
)
def test_what_is_no_type_is_refused(types, message):
    with pytest.raises(lx.InputError, match=f"^{message}$"):
        lx.probe(planted(CELLS), Y, controls={"types": types}, **QUICK)


# ---- Sums by level


def test_sums_by_level_are_the_products_with_control_labels_and_merge_exactly():
    rng = np.random.default_rng(0)
    x, types = rng.normal(size=(500, 7)), rng.integers(0, 40, 500)
    truth = Truth("continuous", rng.gamma(2, size=500), ())
    y = control_truth(truth, types, "y", 1).values
    whole, own, slow = Levels(), Gram(), Gram()
    whole.update(x, level(types, "y", 1))
    own.update(x, truth.values)
    slow.update(x, y)
    merged = Levels()
    for part in np.split(rng.permutation(500), [100, 100, 350]):
        one = Levels()
        one.update(x[part], level(types[part], "y", 1))
        merged.merge(one)
    np.testing.assert_array_equal(merged.n, whole.n)
    for levels in (whole, merged):
        gram = levels.gram(own, levels_of(truth))
        for name in ("n", "x", "y", "xx", "xy", "yy"):
            np.testing.assert_allclose(getattr(gram, name), getattr(slow, name), rtol=1e-12, atol=1e-11)


def test_the_control_task_of_numbers_is_fitted_on_all_steps():
    rng = np.random.default_rng(0)
    types = rng.integers(0, 10, (10, 60))
    cells = (np.eye(10)[types] @ rng.normal(size=(10, 5)) + rng.normal(size=(10, 60, 5))).astype(np.float32)
    label = rng.normal(size=(10, 60))
    result = lx.probe(planted(cells), {"y": label}, controls={"types": types}, at_most=200, resamples=5, permutations=5)
    steps = Steps(result, list(range(10)), [60] * 10, label)
    for phase in range(3):
        kept = steps.step % 3 == phase
        # Values are those of the kept steps.
        drawn = levels_of(Truth("continuous", steps.y[kept], ()))[level(steps.rows(types), "y", 0)]
        predicted = slow_ridge(steps.rows(cells).astype(float), drawn, steps.fold)
        value = steps.score("continuous", predicted, drawn, kept)
        if value == pytest.approx(result.labels["y"].probes["l0 cell_state"].control_task.value, abs=1e-9):
            break
    else:
        pytest.fail("no phase has this score")
    assert result.stride == 3 and level(types, "y", 0).max() < LEVELS
