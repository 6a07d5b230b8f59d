"""What is probed: states, gates, single layers, and all of them together."""

import numpy as np
import pytest
import torch
from probed import CELLS, KINDS, Steps, Y, as_label, planted, recorded, slow_waves

import lstm_explain as lx

QUICK = {"resamples": 10, "permutations": 5}
GATES = ("input_gate", "forget_gate", "output_gate")


def several(units=3, layers=2, seed=0):
    torch.manual_seed(seed)
    return lx.PeepholeLSTM(2, units, layers, batch_first=True)


def test_gates_are_probed_by_layer_and_the_twins_gates_beside_them():
    inputs = torch.randn(8, 30, 2, generator=torch.Generator().manual_seed(0))
    model = several()
    recording, twin = recorded(model, inputs), recorded(lx.untrained(model), inputs)
    label = recording["l1"].forget_gate[:, :, 2].numpy()
    result = lx.probe(recording, {"y": label > np.median(label)}, controls={"untrained": twin}, signals=GATES, **QUICK)
    found = result.labels["y"]
    assert list(found.probes) == [f"l{layer} {gate}" for layer in (0, 1) for gate in GATES]
    assert [name for name in found.controls if name != "majority"] == [f"untrained {name}" for name in found.probes]
    assert found.best == "l1 forget_gate" and found.probes[found.best].units == (2,) * 5
    assert found.best_unit("forget_gate")[0] == "l1 forget_gate"
    # Units by themselves are those of one signal of each layer.
    assert result.cells == tuple((f"l{layer}", unit) for layer in (0, 1) for unit in range(3))
    gate = recording["l1"].steps("input_gate").numpy()
    truth = np.asarray(label > np.median(label)).ravel()
    np.testing.assert_allclose(found.units.scores[3:], lx.unit_scores(gate, truth, permutations=1).scores, atol=1e-12)


@pytest.mark.parametrize("signals", ["cell_state", ["hidden_state", "cell_state", "forget_gate"]])
def test_the_cells_are_the_memory_wherever_it_is_named(signals):
    result = lx.probe(planted(CELLS), Y, signals=signals, **QUICK)
    assert result.cells == (("l0", 0), ("l0", 1)) and result.labels["label"].best_unit()[0] == "l0 cell_state"
    by_default = lx.probe(planted(CELLS), Y, **QUICK).labels["label"]
    assert result.labels["label"].units.to_dict() == by_default.units.to_dict()
    assert result.labels["label"].probes["l0 cell_state"] == by_default.probes["l0 cell_state"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_together_is_the_probe_of_all_columns_side_by_side(kind):
    rng = np.random.default_rng(0)
    cells = slow_waves(rng, 9, 40, 3).astype(np.float32)
    hidden = rng.normal(size=(9, 40, 2)).astype(np.float32)
    label = as_label(kind, cells[:, :, 0] + hidden[:, :, 1])
    result = lx.probe(planted(cells, hidden), {"y": label}, folds=3, joint=True, **QUICK)
    found, steps = result.labels["y"], Steps(result, list(range(9)), [40] * 9, label)
    x = np.concatenate([steps.rows(cells), steps.rows(hidden)], axis=1).astype(float)
    value, drawn = steps.drawn(kind, steps.predictions(kind, x), 0, 10)
    np.testing.assert_allclose(found.probes["all"].score, [value[0], *np.quantile(drawn, [0.025, 0.975])], atol=1e-8)
    assert found.probes["all"].units == steps.best_units(kind, x)
    assert found.best == "all" and found.best_unit()[0] == "l0 cell_state" and len(result.cells) == 3
    without = lx.probe(planted(cells, hidden), {"y": label}, folds=3, **QUICK).labels["y"]
    assert list(without.probes) == [name for name in found.probes if name != "all"]


def test_all_layers_together_tell_what_none_does_alone():
    rng = np.random.default_rng(0)
    label, noise = rng.random((10, 40)) > 0.5, 4 * rng.normal(size=(10, 40, 1))
    recording = planted(noise) | planted(label[:, :, None] - noise, name="l1")
    found = lx.probe(recording, label, signals="cell_state", joint=True, **QUICK).labels["label"]
    assert list(found.probes) == ["l0 cell_state", "l1 cell_state", "all"]
    assert found.probes["all"].score.value > 0.99 > 0.7 > max(found.probes[f"l{at} cell_state"].score.value for at in (0, 1))


def test_layers_without_a_signal_are_left_out_of_it():
    recording = recorded(torch.nn.GRU(2, 3, batch_first=True), torch.randn(6, 9, 2))
    mixed = {"gru.l0": recording["l0"]} | planted(CELLS, name="lstm.l0")
    found = lx.probe(mixed, Y, signals=["update_gate", "cell_state"], **QUICK)
    assert list(found.labels["label"].probes) == ["gru.l0 update_gate", "lstm.l0 cell_state"]
    assert found.cells == (("gru.l0", 0), ("gru.l0", 1), ("gru.l0", 2), ("lstm.l0", 0), ("lstm.l0", 1))


@pytest.mark.parametrize(
    "signals, message",
    [
        ("forget", "needed signals of the recorded layers, input_gate, .*, hidden_state, got 'forget'"),
        (["cell_state", "update_gate"], "needed signals of the recorded layers, .* got 'update_gate'"),
        ([], "needed at least one signal to probe, got none: leave signals out for the states"),
    ],
)
def test_signals_that_are_not_there_are_refused(signals, message):
    with pytest.raises(lx.InputError, match=f"^{message}$"):
        lx.probe(planted(CELLS), Y, signals=signals, **QUICK)


def test_a_signal_that_was_not_probed_has_no_best_unit():
    found = lx.probe(planted(CELLS), Y, **QUICK).labels["label"]
    with pytest.raises(lx.InputError, match="^needed signal as one that was probed, cell_state, hidden_state, got 'forget_gate'$"):
        found.best_unit("forget_gate")


@pytest.mark.parametrize("name", ["untrained", "window", "majority", "all"])
def test_layers_may_be_called_as_controls_are(name):
    # A registered cell's key is its path, whatever that is.
    controls = {"untrained": [planted(CELLS + 1, name=name), planted(CELLS**2, name=name)]}
    found, expected = (
        lx.probe(planted(CELLS, name=key), Y, controls={"untrained": [planted(CELLS + 1, name=key), planted(CELLS**2, name=key)]}, **QUICK)
        for key in (name, "l0")
    )
    assert controls and list(found.labels["label"].probes) == [f"{name} cell_state", f"{name} hidden_state"]
    assert list(found.labels["label"].probes.values()) == list(expected.labels["label"].probes.values())
    assert found.labels["label"].above == expected.labels["label"].above and found.cells == ((name, 0), (name, 1))
