"""`Recording.reorder`, for those who sort a batch by hand before packing it: as if the batch had come unsorted."""

import pytest
import torch
from kinds import CELLS, inputs, key_of, made, run
from recordings import refused
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_explain.errors import InputError
from lstm_explain.recording.runner import record

LENGTHS = [2, 5, 1, 3]
KINDS = ["lstm", "gru", "rnn", "relu", "peephole"]


def sorted_by_hand(lengths):
    """The permutation that sorts, and the one that puts back; not each other, so that neither passes for the other."""
    order = torch.tensor(lengths).argsort(descending=True)
    back = order.argsort()
    assert order.tolist() != back.tolist()
    return order, back


def packed(x, lengths, order=None):
    lengths = torch.tensor(lengths)
    if order is None:
        return pack_padded_sequence(x, lengths, enforce_sorted=False)
    return pack_padded_sequence(x[:, order], lengths[order], enforce_sorted=True)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, wanted in expected.items():
        one = found[key]
        assert torch.equal(one.valid, wanted.valid) and torch.equal(one.first_step, wanted.first_step)
        assert one.padding == wanted.padding and one.residual() <= 1e-12
        for name, signal in wanted.signals.items():
            torch.testing.assert_close(one.signals[name], signal, rtol=0, atol=1e-12)
        for name, state in wanted.initial.items():
            torch.testing.assert_close(one.initial[name], state, rtol=0, atol=1e-12)
        for call, whole in zip(found.calls[key], expected.calls[key], strict=True):
            for name, last in whole.last.items():
                torch.testing.assert_close(call.last[name], last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_was_sorted_by_hand(kind, options):
    layer, x, (order, back) = made(kind, **options), inputs(), sorted_by_hand(LENGTHS)
    with record(layer) as expected:
        layer(packed(x, LENGTHS))
    with record(layer) as recording:
        layer(packed(x, LENGTHS, order))
        assert recording["l0"].valid.sum(1).tolist() == [5, 3, 2, 1]
        recording.reorder(back)
        assert recording["l0"].valid.sum(1).tolist() == LENGTHS
    assert_same(recording, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_with_a_state_that_was_sorted_by_hand(kind):
    layer, x, (order, back) = made(kind), inputs(), sorted_by_hand(LENGTHS)
    state = layer(inputs(seed=2))[1]
    in_order = tuple(part[:, order] for part in state) if isinstance(state, tuple) else state[:, order]
    with record(layer, lengths=LENGTHS) as expected:
        layer(x, state)
    with record(layer, lengths=torch.tensor(LENGTHS)[order]) as recording:
        layer(x[:, order], in_order)
        recording.reorder(back.tolist())
    assert_same(recording, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_a_loop_that_were_each_sorted_by_hand(kind):
    layer = made(kind, bidirectional=True)
    batches = [([2, 5, 1, 3], 0), ([1, 4, 2], 1), ([3, 5, 1, 2, 4], 2)]
    with record(layer) as expected:
        for lengths, seed in batches:
            layer(packed(inputs(max(lengths), len(lengths), seed=seed), lengths))
    with record(layer) as recording:
        for lengths, seed in batches:
            order, back = sorted_by_hand(lengths)
            layer(packed(inputs(max(lengths), len(lengths), seed=seed), lengths, order))
            recording.reorder(back)
    assert_same(recording, expected)


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_of_cells_over_a_batch_that_was_sorted_by_hand(kind):
    cell, x, (order, back) = made(kind), inputs(), sorted_by_hand(LENGTHS)
    with record(cell, lengths=LENGTHS) as expected:
        run(kind, cell, x)
    with record(cell, lengths=torch.tensor(LENGTHS)[order]) as recording:
        run(kind, cell, x[:, order])
        recording.reorder(back)
    assert_same(recording, expected)


def test_gradients_follow_the_order():
    for kind in ("lstm", "gru_cell"):
        module, x, (order, back) = made(kind), inputs(), sorted_by_hand(LENGTHS)
        weights = torch.arange(4.0, dtype=torch.float64).unsqueeze(1) + 1
        with record(module, grad=True) as expected:
            loss = (run(kind, module, x)[0] * weights).sum()
        with record(module, grad=True) as recording:
            sorted_loss = (run(kind, module, x[:, order])[0] * weights[order]).sum()
            recording.reorder(back)
        wanted, found = expected.gradients(loss)[key_of(kind)], recording.gradients(sorted_loss)[key_of(kind)]
        for name, signal in wanted.signals.items():
            torch.testing.assert_close(found.signals[name], signal, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "index",
    [
        [0, 1, 2],
        [0, 1, 2, 3, 4],
        [0, 0, 1, 2],
        [1, 2, 3, 4],
        [-1, 0, 1, 2],
        [0.0, 1.0, 2.0, 3.0],
        [[0, 1], [2, 3]],
        "abcd",
        None,
        3,
        [[0], [1, 2]],
    ],
    ids=str,
)
def test_an_index_that_does_not_name_each_sequence_once_is_refused(index):
    layer = made("gru")
    with record(layer) as recording:
        layer(inputs())
        before = recording["l0"].hidden_state.clone()
        refused(InputError, lambda: recording.reorder(index))
        assert torch.equal(recording["l0"].hidden_state, before)
        recording.reorder([3, 2, 1, 0])
        assert torch.equal(recording["l0"].hidden_state, before.flip(0))


def test_an_order_without_a_call_since_the_last_one_is_refused():
    layer = made("gru")
    with record(layer) as recording:
        refused(InputError, lambda: recording.reorder([0]))
        layer(inputs())
        recording.reorder([3, 2, 1, 0])
        assert "call the model first" in refused(InputError, lambda: recording.reorder([3, 2, 1, 0]))
