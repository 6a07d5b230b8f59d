"""A report on networks that aren't LSTMs: what their gates are called, and what can't be asked of a network without gates."""

import pytest


@pytest.fixture(scope="module", params=["gru", "rnn"])
def reported(request, report_of):
    return request.param, report_of(request.param).sections


def test_every_layer_is_recorded_and_certified(reported):
    kind, sections = reported
    layers = ["lstm.l0", "lstm.l0_reverse"] if kind == "gru" else ["lstm.l0"]
    assert list(sections["overview"]["layers"]) == layers
    assert sections["overview"]["certificate"]["state"] == "certified"


def test_gates_are_called_what_they_are(reported):
    kind, sections = reported
    if kind == "gru":
        assert "of 10 update gates" in sections["saturation"]["finding"] and "Karpathy" not in sections["saturation"]["finding"]
        assert sections["saturation"]["layers"]["lstm.l0"]["gates"] == ["reset_gate", "update_gate"]
        assert sections["timescale"]["layers"]["lstm.l0"]["gate"] == "update_gate"
    else:
        assert sections["saturation"]["finding"] == "No gate is measured: no layer has gates."
        assert sections["timescale"]["finding"] == "No memory is measured: no layer has a gate that keeps."


def test_states_are_probed(reported):
    kind, sections = reported
    probes = sections["probing"]["labels"]["even"]["probes"]
    assert all(name.endswith(" hidden_state") for name in probes) and len(probes) == (2 if kind == "gru" else 1)
    assert len(sections["probing"]["cells"]) == 5 * len(probes)
