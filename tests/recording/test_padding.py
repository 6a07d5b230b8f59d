"""What is padding, and that it changes nothing."""

import math

import pytest
import torch
from cases import (
    Case,
    call_of,
    close,
    laid_out,
    slowly,
    torch_lstm,
)
from cases import sequences_and_state as drawn
from recordings import layer_of, refused
from scalar import SIGNALS

from lstm_explain.errors import InputError
from lstm_explain.recording.runner import record


@pytest.mark.parametrize(("lengths", "padding"), [(None, "unknown"), ([4, 4, 4], "none"), ([4, 1, 3], "known"), ([1, 1, 1], "known")])
@pytest.mark.parametrize("layout", ["time_first", "batch_first"])
def test_lengths_say_what_is_padding(layout, lengths, padding):
    layer = torch_lstm(Case(layout))
    with record(layer, lengths=lengths) as recording:
        layer(call_of(Case(layout))[0])
    assert recording["l0"].padding == recording.coverage.padding == padding
    assert recording["l0"].valid.sum(1).tolist() == (lengths or [4, 4, 4])
    assert f"padding: {padding}" in str(recording.coverage)


@pytest.mark.parametrize(("lengths", "padding"), [((3, 3), "none"), ((1, 3), "known")])
def test_a_packed_sequence_brings_its_own_lengths(lengths, padding):
    layer, case = torch_lstm(Case()), Case("packed_unsorted", lengths)
    for given_too in (None, list(lengths), torch.tensor(lengths, dtype=torch.int32)):
        with record(layer, lengths=given_too) as recording:
            layer(call_of(case)[0])
        assert recording["l0"].padding == padding and recording["l0"].valid.sum(1).tolist() == list(lengths)


def test_lengths_can_be_annotated_before_each_call():
    layer, input = torch_lstm(Case("batch_first")), call_of(Case("batch_first"))[0]
    with record(layer) as recording:
        for lengths in (torch.tensor([1, 2, 3]), [4, 4, 4], None):
            recording.annotate(lengths=lengths)
            layer(input)
    assert [call.trajectory.padding for call in recording.calls["l0"]] == ["known", "none", "unknown"]
    assert recording["l0"].padding == recording.coverage.padding == "unknown"
    assert recording["l0"].valid.sum(1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    "lengths",
    [
        [4, 4],
        [4, 4, 4, 4],
        [[4], [4], [4]],
        4,
        [4.0, 4.0, 4.0],
        [4, 0, 4],
        [4, -1, 4],
        [4, 5, 4],
        [True, True, True],
        "444",
        [4, None, 4],
        [[4], [4, 4]],
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(lengths):
    layer = torch_lstm(Case("batch_first"))

    def call():
        with record(layer, lengths=lengths):
            layer(call_of(Case("batch_first"))[0])

    refused(InputError, call)
    assert "forward" not in vars(layer)


def test_lengths_other_than_those_of_a_packed_sequence_are_refused():
    layer = torch_lstm(Case())

    def call():
        with record(layer, lengths=[3, 1]):
            layer(call_of(Case("packed_unsorted", (1, 3)))[0])

    assert "[1, 3]" in refused(InputError, call)


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_padding_does_not_change_valid_values(kind):
    case = Case("packed_unsorted", (2, 4, 1), num_layers=2, hidden_size=4)
    layer = layer_of(kind, case)
    layer.batch_first = True
    sequences, _ = drawn(case)
    with record(layer) as packed:
        layer(laid_out(case, sequences))
    for fill in (0.0, 7.0, math.nan):
        padded = torch.full((3, 6, 2), fill, dtype=torch.float64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        with record(layer, lengths=case.lengths) as recording:
            layer(padded)
        for suffix in ("l0", "l1"):
            for name in SIGNALS:
                close(recording[suffix].steps(name), packed[suffix].steps(name))
            assert recording[suffix].residual() <= 1e-12


@pytest.mark.parametrize("kind", ["torch", ("full", "previous")])
def test_the_reverse_direction_reads_the_padding_of_a_padded_batch_and_the_recording_says_so(kind):
    case = Case("batch_first", (4, 4), bidirectional=True)
    layer = layer_of(kind, case)
    with record(layer, lengths=[2, 4]) as recording:
        layer(call_of(case)[0])
    trajectory = recording["l0_reverse"]
    assert trajectory.first_step.tolist() == [3, 3] and trajectory.residual() <= 1e-12
    for b, (signals, *_) in enumerate(slowly(case, layer)):
        close(trajectory.cell_state[b], signals["l0_reverse"]["cell_state"])


def test_nan_in_the_input_is_recorded_where_the_model_has_it():
    case = Case("batch_first")
    for kind in ("torch", ("full", "previous")):
        layer = layer_of(kind, case)
        input, _ = call_of(case)
        input[1, 2, 0] = math.nan
        with record(layer) as recording:
            output, _ = layer(input)
        assert torch.equal(recording["l0"].hidden_state.isnan(), output.isnan())
        assert recording.certificate.calls[0].nonfinite == int(output.isnan().sum()) == 2 * 3
        assert recording.certificate.state == "certified"
