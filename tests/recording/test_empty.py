"""A block in which nothing was recorded says so; one that raised says only what was raised."""

import warnings

import pytest
import torch
from kinds import ALL, Model, inputs, made
from torch import nn

from lstm_explain.errors import CertificateError
from lstm_explain.recording.runner import record


@pytest.mark.parametrize("kind", ALL)
def test_a_block_in_which_nothing_ran_warns_with_what_was_never_called(kind):
    model = nn.ModuleDict({"one": made(kind), "two": Model(kind)})
    with (
        pytest.warns(UserWarning, match="^nothing was recorded: .*never called: one, two.inner; .*call the model") as caught,
        record(model),
    ):
        pass
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and caught[0].filename == __file__


def test_a_part_that_was_not_called_while_another_was_is_in_the_coverage_alone():
    model = nn.ModuleDict({"one": made("gru"), "two": made("gru")})
    with record(model) as recording:
        model["one"](inputs())
    assert recording.coverage.never_called == ("two",) and "never called: two" in str(recording.coverage)


@pytest.mark.parametrize("kind", ALL)
def test_a_block_that_raised_does_not_warn(kind):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ZeroDivisionError), record(made(kind)):
            raise ZeroDivisionError
        with pytest.raises(RuntimeError), record(model := Model(kind)):
            model(torch.zeros(2, 2, 7, dtype=torch.float64))
    assert not caught


class Other(nn.LSTM):
    def forward(self, input, hx=None):
        output, states = super().forward(input, hx)
        return output + 1, states


def test_a_block_whose_calls_were_all_refused_does_not_warn_again():
    layer = Other(2, 3, dtype=torch.float64)
    with record(layer) as recording, pytest.raises(CertificateError):
        layer(inputs())
    assert len(recording) == 0 and recording.certificate.state == "uncertified"


def test_a_block_in_which_only_a_backward_pass_ran_warns():
    model = Model("gru")
    loss = torch.utils.checkpoint.checkpoint(model, inputs(), use_reentrant=False).sum()
    with pytest.warns(UserWarning, match="^nothing was recorded: .*run again by checkpointing: inner x1"), record(model):
        loss.backward()
