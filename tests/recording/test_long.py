"""Long sequences whose forget gates are near 1, in float32: rounding adds up, and what it adds up to is all that is allowed for it."""

import numpy as np
import pytest
import torch
from cases import Case, close
from recordings import by_scalars, cell_of, layer_of
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import CertificateError
from lstm_explain.recording.runner import record

TIME = 20_000
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def long_memory(kind=nn.LSTM, bias=7.0, dtype=torch.float32, **options):
    """Forget gates at σ(bias) whatever comes in, and candidates that depend on the input alone."""
    lstm = kind(2, 4, batch_first=True, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 1.6 - 0.8)
            if "_hr_" not in name:
                parameter[4:8] = bias / 2 if "bias" in name else 0.0
                if "bias" in name or "_hh_" in name:
                    parameter[8:12] = 0.0
    return lstm


def alternating(period=2):
    """±1, the sign changing twice in a period: what a cell has gathered it loses again, and comes by zero."""
    sign = 1.0 - 2.0 * (torch.arange(TIME) % period >= period // 2)
    return sign.view(1, TIME, 1).expand(1, TIME, 2).clone()


def recorded(lstm, x):
    with torch.no_grad(), record(lstm) as recording:
        lstm(x)
    return recording


@pytest.mark.parametrize("period", [2, 4_000])
@pytest.mark.parametrize("bias", [5.0, 9.0, 12.0])
@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"bidirectional": True}, {"num_layers": 2}], ids=str)
def test_what_rounding_adds_up_to_is_certified(options, bias, period):
    recording = recorded(long_memory(bias=bias, **options), alternating(period))
    check = recording.certificate.worst
    assert recording.certificate.state == "certified" and check.share <= 1
    assert max(check.output, check.h_n, check.equations) <= check.tolerance and check.c_n <= check.tolerance + check.rounding
    assert ("over many steps" in str(recording.certificate)) is (check.rounding > 0 and check.nearest[0] == "c_n")


def test_without_the_allowance_for_rounding_an_honest_layer_would_be_refused():
    (check,) = recorded(long_memory(), alternating(4_000)).certificate.calls
    assert check.rounding > 0 and check.tolerance < check.c_n <= check.rounding


def test_where_it_is_not_needed_nothing_is_allowed_for_rounding():
    for lstm, x in ((long_memory(bias=1.0), alternating()), (long_memory(bias=7.0), alternating()[:, :50])):
        (check,) = recorded(lstm, x).certificate.calls
        assert check.rounding == 0 and check.worst <= check.tolerance


def test_double_precision_says_how_far_the_recorded_cell_states_are_from_the_true_ones():
    # Without the hidden states, through which single precision would go astray by itself.
    single, double, x = long_memory(), long_memory(dtype=torch.float64), alternating(4_000)
    for lstm in (single, double):
        torch.nn.init.zeros_(lstm.weight_hh_l0)
    recording, exact = recorded(single, x), recorded(double, x.double())
    (check,) = recording.certificate.calls
    for name in ("input_gate", "forget_gate", "cell_candidate", "output_gate"):
        np.testing.assert_allclose(recording["l0"].signals[name], exact["l0"].signals[name], rtol=1.3e-6, atol=1e-5)
    assert (recording["l0"].cell_state - exact["l0"].cell_state).abs().max() <= check.tolerance + check.rounding


class OtherInput(nn.LSTM):
    def forward(self, x, hx=None):
        return super().forward(x.roll(1, 1), hx)


class OtherOutput(nn.LSTM):
    def forward(self, x, hx=None):
        output, states = super().forward(x, hx)
        return output * 0.9, states


class OtherCell(nn.LSTM):
    def forward(self, x, hx=None):
        output, (h, c) = super().forward(x, hx)
        return output, (h, c * 1.1)


class OtherWeights(nn.LSTM):
    """The output gates of other weights, which no cell state shows."""

    def forward(self, x, hx=None):
        with torch.no_grad():
            self.weight_ih_l0[12:] += 0.5
        returned = super().forward(x, hx)
        with torch.no_grad():
            self.weight_ih_l0[12:] -= 0.5
        return returned


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}], ids=["plain", "projected"])
@pytest.mark.parametrize("bias", [5.0, 12.0])
@pytest.mark.parametrize("kind", [OtherInput, OtherOutput, OtherCell, OtherWeights])
def test_a_layer_that_is_wrong_by_more_is_still_refused(kind, bias, options):
    with pytest.raises(CertificateError, match="in c_n, at most" if kind is OtherCell else "in equations, at most"):
        recorded(long_memory(kind, bias, **options), alternating(4_000))


def test_steps_of_a_cell_round_one_by_one_and_nothing_adds_up():
    cell, state = cell_of("torch", dtype=torch.float32), None
    with torch.no_grad():
        cell.bias_ih[3:6] = 12.0
        with record(cell) as recording:
            for x in alternating(100)[0, :500]:
                state = cell(x, state)
    assert recording["cell"].valid.shape == (1, 500) and recording.certificate.worst.rounding == 0


def test_nan_stays_where_it_was_when_rounding_is_allowed_for():
    # What is gathered in the first half is lost again in the second, so that the last cell state is small, and its tolerance too.
    lstm, x = long_memory(dtype=torch.float64, bias=16.0), alternating(TIME).double().repeat(2, 1, 1)
    with torch.no_grad():
        lstm.weight_hh_l0.zero_()
        lstm.weight_ih_l0[:4] = 0.0
    x[1, 100] = torch.nan
    recording = recorded(lstm, x)
    trajectory = recording["l0"]
    assert recording.certificate.worst.rounding > 0
    assert trajectory.input_gate[1, 100].isnan().all() and trajectory.cell_state[1, 100:].isnan().all()
    assert not trajectory.cell_state[0].isnan().any() and not trajectory.cell_state[1, :100].isnan().any()


def test_a_long_recording_is_saved_and_loaded(tmp_path):
    recording = recorded(long_memory(bias=12.0), alternating(4_000))
    recording.save(tmp_path / "long.safetensors")
    assert lx.load(tmp_path / "long.safetensors").certificate == recording.certificate


@pytest.mark.parametrize("batch", [1, 300])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_narrow_and_wide_batches_scan_the_same_cell_states(batch, reverse):
    # Narrow ones are scanned in rounds, wide ones step by step: each against the scalar loop, and so against each other.
    case = Case("batch_first", (37,), hidden_size=4, bidirectional=True, initial_state=True)
    layer = layer_of("torch", case)
    x = torch.randn(1, 37, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hx = tuple(torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(at), dtype=torch.float64) for at in (4, 5))
    with record(layer) as recording:
        layer(x.repeat(batch, 1, 1), tuple(state.repeat(1, batch, 1) for state in hx))
    trajectory = recording["l0_reverse" if reverse else "l0"]
    twin = cell_of("torch", sizes=(2, 4))
    twin.load_state_dict({name: getattr(layer, f"{name}_{trajectory.name}") for name in twin.state_dict()})
    steps = x.flip(1) if reverse else x
    expected = by_scalars(twin, steps.transpose(0, 1), [state[int(reverse)] for state in hx])["cell_state"]
    close(trajectory.cell_state[-1:], expected.flip(1) if reverse else expected)
