"""Which element of the output is explained."""

import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, Packed, features, refused
from cases import close, torch_lstm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_explain as lx


@pytest.mark.parametrize(
    ("of", "target", "explained"),
    [
        ("whole", (3, 1), [(3, 1)] * 3),
        ("whole", (-1, 2), [(4, 2), (1, 2), (3, 2)]),
        ("whole", (-2, 0), [(3, 0), (0, 0), (2, 0)]),
        ("whole", [(4, 2), (-1, 1), (0, 0)], [(4, 2), (1, 1), (0, 0)]),
        ("whole", torch.tensor([[4, 2], [-1, 1], [0, 0]]), [(4, 2), (1, 1), (0, 0)]),
        ("classes", 2, [(2,)] * 3),
        ("classes", (2,), [(2,)] * 3),
        ("classes", [2, 0, 1], [(2,), (0,), (1,)]),
        ("classes", torch.tensor([2, 0, 1]), [(2,), (0,), (1,)]),
        ("classes", torch.tensor(1), [(1,)] * 3),
        ("classes", np.int64(1), [(1,)] * 3),
        ("steps", (3,), [(3,)] * 3),
        ("steps", (-1,), [(4,), (1,), (3,)]),
        ("steps", 3, [(3,)] * 3),
        ("steps", [(-1,), (-2,), (0,)], [(4,), (0,), (0,)]),
        ("halves", (-1, 0), [(1, 0)] * 3),
        ("number", None, [()] * 3),
        ("number", [None] * 3, [()] * 3),
    ],
)
def test_a_target_names_the_element_that_is_explained(of, target, explained):
    chosen = {
        "whole": lambda returned: returned[0],
        "classes": lambda returned: returned[0][:, -1],
        "steps": lambda returned: returned[0][..., 1],
        "halves": lambda returned: returned[0][:, 1::2],
        "number": lambda returned: returned[0].sum((1, 2)),
    }[of]
    model, inputs = torch_lstm(THREE), features()
    # Steps into padding are refused.
    lengths = None if isinstance(target, tuple) and target[0] == 3 else ENDS
    with torch.no_grad():
        rows = chosen(model(inputs))
    for method in ("integrated_gradients", "occlusion"):
        result = lx.attribute(model, inputs, target=target, lengths=lengths, output=chosen, method=method)
        close(result.output, torch.stack([row[index] for row, index in zip(rows, explained, strict=True)]))
        assert result.explained == tuple(f"output[{', '.join(map(str, index))}]" if index else "output" for index in explained)


def test_of_a_tuple_the_first_is_explained():
    model, inputs = torch_lstm(THREE), features()
    first = lx.attribute(model, inputs, target=(2, 1))
    close(first.attributions, lx.attribute(model, inputs, target=(2, 1), output=lambda returned: returned[0]).attributions)


def test_targets_may_be_an_array():
    wanted = [(0, 1), (2, 0), (-1, 2)]
    as_array, as_list = (lx.attribute(torch_lstm(THREE), features(), target=target) for target in (np.array(wanted), wanted))
    assert as_array.explained == as_list.explained


# ---- Outputs that are cut to the longest sequence


class Unpacked(Packed):
    """Every step's output; its time axis is as long as the longest sequence of the pass."""

    def forward(self, inputs, lengths):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("rows", [1, 2, None])
def test_the_last_valid_step_of_outputs_that_are_cut_to_the_longest(rows):
    lengths = torch.tensor([3, 2, 5])
    options = {"lengths": lengths, "additional_forward_args": lengths, "internal_batch_size": rows}
    result = lx.attribute(Unpacked(), features(), target=(-1, 1), **options)
    assert result.explained == ("output[2, 1]", "output[1, 1]", "output[4, 1]")


@pytest.mark.parametrize("lengths", [[4, 2, 4], [4, 2, 3]])
def test_the_last_valid_step_where_no_sequence_fills_the_batch(lengths):
    lengths = torch.tensor(lengths)
    result = lx.attribute(Unpacked(), features(), target=(-1, 1), lengths=lengths, additional_forward_args=lengths)
    assert result.explained == tuple(f"output[{n - 1}, 1]" for n in lengths.tolist())


# ---- Targets that are none


@pytest.mark.parametrize("target", ["a", (0, "a"), (1.7, 0), (True, 0)])
def test_targets_that_are_no_whole_numbers_are_refused(target):
    refused(torch_lstm(THREE), features(), target=target)


def test_a_class_of_a_fraction_is_refused():
    refused(torch_lstm(THREE), features(), target=1.9, output=lambda r: r[0][:, -1])


def test_a_middle_axis_out_of_range_is_refused():
    refused(torch_lstm(THREE), features(), target=(0, 9, 0), output=lambda r: r[0].unsqueeze(1))
