"""Cell states that run far up: what rounding may do is allowed for, and nothing beyond."""

import pytest
import torch

import lstm_explain as lx
from lstm_explain.errors import CertificateError
from lstm_explain.nn.equations import Form, Weights, step
from lstm_explain.nn.rounding import rounded_step
from lstm_explain.recording import layers

FORMS = [Form(peephole, wiring) for peephole in ("full", "diagonal", None) for wiring in ("previous", "graves")]


def drawn(form, projection=None, seed=0, units=96):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, by=0.3):
        return by * torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = len(form.peephole_rows)
    W_c = None if form.peephole is None else normal(rows * units, units) if form.peephole == "full" else normal(rows, units)
    state = projection or units
    W_r = None if projection is None else normal(projection, units)
    weights = Weights(normal(4 * units, 5), normal(4 * units, state), normal(4 * units), normal(4 * units), W_c, W_r)
    return normal(400, 5, by=1), normal(400, state), normal(400, units, by=60), weights


@pytest.mark.parametrize("projection", [None, 7])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_step_in_single_precision_is_as_near_to_one_in_double_as_is_said(form, projection):
    x, h, c, weights = drawn(form, projection)
    single = [one.float() for one in (x, h, c)], Weights(*(None if one is None else one.float() for one in weights))
    # What is rounded is the arithmetic, not the numbers that go in.
    exactly = [one.double() for one in single[0]], Weights(*(None if one is None else one.double() for one in single[1]))
    given, exact = step(*single[0], single[1], form), step(*exactly[0], exactly[1], form)
    radius = rounded_step(*single[0], single[1], form, given, torch.finfo(torch.float32).eps)
    for value, true, side in zip(given, exact, radius, strict=True):
        assert ((value - true).abs() <= side).all()
        assert side.median() < 1e-3 * max(1.0, float(true.abs().max()))


def far_up(seed=0):
    torch.manual_seed(seed)
    layer = lx.PeepholeLSTM(5, 96, batch_first=True)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.normal_(0, 0.3 if name.startswith("weight") else 0.1)
        layer.bias_ih_l0[96:192] = 40.0
        layer.weight_ch_l0[96:192] *= 0.3
    return layer


def test_a_layer_whose_cell_states_run_far_up_is_certified(monkeypatch):
    layer, x = far_up(), torch.randn(4, 300, 5, generator=torch.Generator().manual_seed(1))
    with lx.record(layer, lengths=[300] * 4) as recording:
        layer(x)
    assert recording["l0"].cell_state.abs().max() > 30 and recording.certificate.state == "certified"
    if lx.backend().name != "native":
        return  # PyTorch's operations ran it and check it, bit for bit
    # It needs what is allowed for rounding.
    monkeypatch.setattr(layers, "rounded_step", lambda *given: [torch.zeros(())] * 6)
    with pytest.raises(CertificateError, match="in equations"), lx.record(layer, lengths=[300] * 4):
        layer(x)


@pytest.mark.parametrize("signal", range(6))
def test_what_rounding_does_not_do_is_still_refused(monkeypatch, signal):
    layer, x = far_up(), torch.randn(4, 300, 5, generator=torch.Generator().manual_seed(1))
    right = layers.step

    def wrong(*given):
        found = list(right(*given))
        found[signal] = found[signal] + 0.02
        return type(right(*given))(*found)

    monkeypatch.setattr(layers, "step", wrong)
    monkeypatch.setattr(layers.native, "serves", lambda *tensors: False)
    with pytest.raises(CertificateError, match="in equations"), lx.record(layer, lengths=[300] * 4):
        layer(x)
