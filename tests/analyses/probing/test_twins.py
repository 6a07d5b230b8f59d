"""Several untrained twins: the verdict stands against every one of them."""

import numpy as np
import pytest
import torch
from probed import CELLS, KINDS, SYMBOLS, Steps, Y, as_label, mark_keeper, marked_sequences, one_hot, planted, recorded, slow_waves

import lstm_explain as lx
from lstm_explain.report.measure import last_two

QUICK = {"resamples": 25, "permutations": 19}


def noisy(label, noise, seed):
    """A cell that says a label with noise."""
    return planted((label + noise * np.random.default_rng(seed).normal(size=label.shape))[:, :, None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_probe_is_held_against_the_highest_twin_in_each_draw(kind):
    rng, groups = np.random.default_rng(0), list("abcdefghi")
    wave = slow_waves(rng, 9, 30, 1)[:, :, 0]
    cells = {"": wave + rng.normal(size=(9, 30))} | {f"untrained {at} ": wave + 1.5 * rng.normal(size=(9, 30)) for at in range(3)}
    label = as_label(kind, wave)
    own, *twins = (planted(one[:, :, None]) for one in cells.values())
    result = lx.probe(own, {"y": label}, groups=groups, controls={"untrained": twins}, folds=3, seed=2, resamples=12, permutations=5)
    found, steps = result.labels["y"], Steps(result, groups, [30] * 9, label)
    drawn = {}
    for prefix, one in cells.items():
        for state, x in (("cell_state", one), ("hidden_state", np.tanh(one))):
            predicted = steps.predictions(kind, steps.rows(x)[:, None].astype(np.float32).astype(float))
            drawn[f"{prefix}l0 {state}"] = steps.drawn(kind, predicted, 2, 12)
    best = [max((s for s in drawn if s.startswith(prefix)), key=lambda s: drawn[s][0][0]) for prefix in list(cells)[1:]]
    for at in (0, 1):  # the score as it is, and on bootstrap samples
        gap = drawn[found.best][at] - np.max([drawn[source][at] for source in best], axis=0)
        expected = gap if at == 0 else np.quantile(gap, [0.025, 0.975])
        np.testing.assert_allclose(np.ravel(found.above["untrained"][1:] if at else found.above["untrained"][0]), expected, atol=1e-8)
    assert result.twins == 3
    np.testing.assert_allclose([twin.score.value for twin in found.twins], [drawn[source][0][0] for source in best], atol=1e-8)
    assert found.best_control("untrained")[0] == max(best, key=lambda source: drawn[source][0][0])


def test_each_twin_has_the_scores_that_it_has_alone():
    twins = [noisy(Y, noise, noise) for noise in (1, 2)]
    together = lx.probe(noisy(Y, 1, 9), Y, controls={"untrained": twins}, **QUICK).labels["label"]
    for at, twin in enumerate(twins):
        alone = lx.probe(noisy(Y, 1, 9), Y, controls={"untrained": twin}, **QUICK).labels["label"]
        assert together.controls[f"untrained {at} l0 cell_state"] == alone.controls["untrained l0 cell_state"]
        assert together.twins[at] == alone.twins[0] == alone.best_control("untrained")[1]
    assert together.best_untrained_unit() == max(
        twin.unit_score.value for of, twin in together.controls.items() if "0 l0 c" in of or "1 l0 c" in of
    )


def test_one_strong_twin_among_weak_ones_turns_the_verdict_wherever_it_stands():
    symbols, label, marks = marked_sequences()
    inputs, window = one_hot(symbols, 4), torch.as_tensor(symbols)
    weak = [recorded(lx.untrained(mark_keeper(), seed=seed), inputs) for seed in range(2)]
    strong = recorded(mark_keeper(seed=1), inputs)
    for twins, verdict in ((weak, "shown"), ([strong, *weak], "not shown"), ([*weak, strong], "not shown")):
        result = lx.probe(
            recorded(mark_keeper(), inputs), {"y": label}, controls={"untrained": twins, "window": window}, events={"y": marks}, **QUICK
        )
        found = result.labels["y"]
        assert (found.verdict, found.verdict_long_range, result.twins) == (verdict, verdict, len(twins))
        # The spread is in the result, and in what people read.
        assert found.spread(3) in result._repr_html_() and f"untrained, {len(twins)} twins" in result._repr_html_()
        values = [twin.score.value for twin in found.twins]
        assert found.spread(3) == f"{min(values):.3f} to {max(values):.3f}" and (max(values) > 0.99) == (verdict == "not shown")


def test_a_list_of_one_twin_is_that_twin():
    one, listed = (lx.probe(planted(CELLS), Y, controls={"untrained": twin}, **QUICK) for twin in (noisy(Y, 1, 0), [noisy(Y, 1, 0)]))
    assert one.to_dict() == listed.to_dict() and one.twins == 1 and "untrained l0 cell_state" in one.labels["label"].controls
    assert lx.probe(planted(CELLS), Y, **QUICK).twins == 0


@pytest.mark.parametrize(
    "untrained, message",
    [
        ([], "needed at least one recording of an untrained network, got none: leave the control out"),
        ([planted(CELLS), 3], "needed a recording of each untrained network, got int"),
        (torch.nn.LSTM(2, 2), "needed a recording of each untrained network, got LSTM"),
        ([planted(CELLS), planted(CELLS, name="l1")], "needed the untrained recording of the same layers, l0, got l1"),
    ],
)
def test_what_is_no_twin_is_refused(untrained, message):
    with pytest.raises(lx.InputError, match=f"^{message}$"):
        lx.probe(planted(CELLS), Y, controls={"untrained": untrained}, **QUICK)


# ---- The same choice for all


@pytest.mark.parametrize("symbols", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_twins_and_the_window_choose_their_best_unit_on_the_other_folds(kind, symbols):
    # In every fold another unit tells the label best by far, so that a fold's own choice would be another one than that of the rest.
    rng, time = np.random.default_rng(0), 40
    inputs = rng.integers(0, 3, (6, time)) if symbols else rng.normal(size=(6, time, 2))
    label = as_label(kind, rng.normal(size=(6, time)))
    cells, twins = rng.normal(size=(6, time, 6)), rng.normal(size=(2, 6, time, 6))
    for at in range(6):
        for states in (cells, *twins):
            states[at, :, at] += 3 * np.asarray(label[at], dtype=float)
    result = lx.probe(
        planted(cells),
        {"y": label},
        controls={"untrained": [planted(one) for one in twins], "window": torch.as_tensor(inputs)},
        folds=3,
        window=2,
        **QUICK,
    )
    found, steps = result.labels["y"], Steps(result, list(range(6)), [time] * 6, label)
    last = np.concatenate([steps.rows(inputs), steps.rows(np.roll(inputs, 1, axis=1))], axis=None if symbols else 1)
    if symbols:
        # Columns by symbol, and within it by lag; before the first step there is none.
        pairs = last.reshape(2, -1)
        pairs[1][steps.step == 0] = -1
        x = np.stack([pairs[lag] == symbol for symbol in range(3) for lag in range(2)], axis=1).astype(float)
    else:
        last[steps.step == 0, 2:] = 0
        x = last.astype(np.float32).astype(float)
    features = {"window": x, "l0 cell_state": steps.rows(cells)}
    features |= {f"untrained {at} l0 cell_state": steps.rows(one) for at, one in enumerate(twins)}
    for source, x in features.items():
        x = x.astype(np.float32).astype(float)
        probed, chosen = (found.probes | found.controls)[source], steps.best_units(kind, x)
        assert probed.units == chosen
        value = steps.drawn(kind, steps.single(kind, x, chosen), 0, 1)[0][0]
        assert probed.unit_score.value == pytest.approx(value, abs=1e-8)


def test_the_joint_probe_of_twins_is_one_of_their_choices():
    rng = np.random.default_rng(0)
    label = rng.random((10, 40)) > 0.5
    halves = rng.normal(size=(10, 40, 1))
    # Neither state of the twin says anything; their sum does.
    twin = planted(halves, 1.0 * label[:, :, None] - halves)
    controls = {"untrained": [twin], "window": torch.as_tensor(rng.integers(0, 2, (10, 40)))}
    alone, joint = (
        lx.probe(noisy(label, 0.5, 1), label, controls=controls, joint=joint, **QUICK).labels["label"] for joint in (False, True)
    )
    assert alone.above["untrained"].low > 0 > joint.above["untrained"].value
    assert joint.best_control("untrained")[0] == "untrained all" and joint.twins[0].score.value > 0.99


def test_streams_take_the_same_number_of_twins_each_time():
    stream = lx.Probing(range(6))
    stream.update(planted(CELLS), {"y": Y}, range(6), untrained=[noisy(Y, 1, 0), noisy(Y, 1, 1)], inputs=SYMBOLS)
    with pytest.raises(lx.InputError, match="^needed the same layers and controls as before, got others$"):
        stream.update(planted(CELLS), {"y": Y}, range(6), untrained=[noisy(Y, 1, 0)], inputs=SYMBOLS)
    assert stream.compute(resamples=5, permutations=5).labels["y"].steps == 54


def test_the_types_of_a_report_are_the_last_two_symbols_and_of_features_there_are_none():
    symbols = torch.tensor([[3, 1, 1, 3], [1, 1, 1, 0]])
    types = last_two(symbols)
    assert (types[0, 1:] != types[0, :-1]).all() and types[0, 2] == types[1, 1] == types[1, 2] and types[1, 0] != types[0, 2]
    assert len(np.unique(types)) == 6 and last_two(symbols.float()) is None and last_two(symbols[:, :, None]) is None
