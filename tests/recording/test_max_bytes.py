"""`max_bytes`: a call that would make the recording larger is refused before anything of it is kept."""

import pytest
import torch
from cases import Case, call_of, randomise, torch_lstm
from every_kind import inputs
from recordings import refused
from torch import nn

import lstm_explain as lx
from lstm_explain.errors import RecordingError

BYTES = 3 * 5 * 6 * 4 * 8
"""What one call takes: 3 sequences of 5 steps, 6 signals of 4 units in float64."""


def small():
    return randomise(nn.LSTM(2, 4, batch_first=True, dtype=torch.float64))


def test_a_call_that_would_be_too_much_is_refused_and_nothing_of_it_is_kept():
    model = small()
    with lx.record(model, max_bytes=3 * BYTES - 1) as recording:
        model(inputs())
        model(inputs(seed=1))
        message = refused(RecordingError, lambda: model(inputs(seed=2)))
        assert all(words in message for words in (f"at most {3 * BYTES - 1:,} bytes", f"got {3 * BYTES:,}", f"takes {BYTES:,}", "into="))
        assert len(recording.calls["l0"]) == 2 and recording.nbytes == 2 * BYTES and recording.coverage.recorded == {"": 2}
        assert len(recording.certificate.calls) == recording.certificate.count == 2
        model(inputs(time=4))  # what still fits is kept
    assert recording["l0"].valid.shape == (9, 5) and recording.certificate.state == "certified"


@pytest.mark.parametrize("most", [0, 1, BYTES - 1])
def test_a_first_call_that_is_too_much_leaves_nothing(most):
    model = small()
    with lx.record(model, max_bytes=most) as recording:
        refused(RecordingError, lambda: model(inputs()))
        assert len(recording) == recording.nbytes == 0 and recording.certificate.state == "uncertified"


def test_as_much_as_is_allowed_is_kept():
    model = small()
    with lx.record(model, max_bytes=2 * BYTES) as recording:
        model(inputs())
        model(inputs())
    assert recording.nbytes == 2 * BYTES
    with lx.record(model, max_bytes=BYTES // 6 // 4, signals="cell_state", units=[0]) as recording:
        model(inputs())
    assert recording.nbytes == BYTES // 24


def test_a_model_of_several_layers_is_refused_whole_module_by_whole_module():
    model = torch_lstm(Case(num_layers=2))
    one = 3 * 4 * 6 * 3 * 8
    with lx.record(model, max_bytes=2 * one - 1) as recording:
        refused(RecordingError, lambda: model(call_of(Case())[0]))
    assert list(recording) == []


def test_a_refused_call_does_not_count_as_the_step_before_the_next_one():
    model = small()
    with lx.record(model, max_bytes=2 * BYTES) as recording:
        _, state = model(inputs())
        refused(RecordingError, lambda: model(inputs(time=50), state))
        model(inputs(), state)
    assert recording["l0"].valid.shape == (3, 10) and recording["l0"].residual() <= 1e-12


def test_what_max_bytes_bounds_is_one_pass_when_it_is_handed_on():
    model = small()
    with lx.record(model, into=[lx.Saturation()], max_bytes=BYTES):
        for _ in range(3):
            model(inputs())
        refused(RecordingError, lambda: model(inputs(time=6)))
        model(inputs())
