"""Dropout between layers, in training mode: what is recorded is the pass that ran, with its masks, and chance goes on as it would have."""

import numpy as np
import pytest
import torch
from cases import apart, call_of, close, laid_out
from cases import sequences_and_state as drawn
from recordings import ALL_KINDS, layer_of, of_layout, tensors_of
from scalar import layer_weights, stepper, walk
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence

from lstm_explain.recording.runner import record

STACKS = {
    "two_layers": {"num_layers": 2},
    "three_layers": {"num_layers": 3, "initial_state": True},
    "both_directions": {"num_layers": 3, "bidirectional": True, "initial_state": True},
    "without_bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}


def dropped(case, sequences):
    """Dropout of one layer's output as PyTorch draws it: over steps, then sequences, whichever way the input lies."""
    if case.packed:
        packed = laid_out(case, sequences)
        return apart(case, PackedSequence(dropout(packed.data, 0.5), *packed[1:]))
    return list(dropout(torch.stack(sequences, dim=1), 0.5).unbind(1))


def slowly_dropped(case, layer):
    """Each sequence's signals by suffix, and its output, by the scalar loop, with masks from the random state as it is."""
    read, state = drawn(case)
    signals = [{} for _ in read]
    for number in range(case.num_layers):
        for suffix in [suffix for suffix in case.suffixes if suffix.startswith(f"l{number}")]:
            by, at = stepper(layer, layer_weights(layer, suffix)), case.suffixes.index(suffix)
            for b, rows in enumerate(read):
                start = [of_all[at].view(-1, case.hidden_size)[b].tolist() for of_all in state or []] or [[0.0] * case.hidden_size] * 2
                signals[b][suffix] = walk(rows.tolist(), start[: len(by[2])], by, suffix.endswith("_reverse"))
        tops = [np.concatenate([one[s]["hidden_state"] for s in case.suffixes if s.startswith(f"l{number}")], axis=1) for one in signals]
        outputs = [torch.as_tensor(top) for top in tops]
        read = dropped(case, outputs) if number < case.num_layers - 1 else outputs
    return signals, read


@pytest.mark.parametrize("options", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "packed_unsorted"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_recorded_pass_is_the_one_that_ran_mask_by_mask(kind, layout, options):
    case = of_layout(layout, hidden_size=4, **options)
    layer, call = layer_of(kind, case, dropout=0.5).train(), call_of(case, kind=kind)
    torch.manual_seed(7)
    unrecorded, drawn_until = layer(*call), torch.get_rng_state()
    torch.manual_seed(7)
    with record(layer) as recording:
        returned = layer(*call)
    assert torch.equal(torch.get_rng_state(), drawn_until)
    assert all(map(torch.equal, tensors_of(returned), tensors_of(unrecorded)))
    torch.manual_seed(7)
    expected, output = slowly_dropped(case, layer)
    for b, rows in enumerate(apart(case, returned[0])):
        close(rows.detach(), output[b])
        for suffix, signals in expected[b].items():
            for name, signal in signals.items():
                close(recording[suffix].signals[name][b, : case.lengths[b]], signal)
    assert recording.certificate.state == "certified" and recording.certificate.worst.worst <= 1e-12
    assert all(trajectory.residual() <= 1e-12 for trajectory in recording.values())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_call_has_masks_of_its_own_and_evaluation_has_none(kind):
    case = of_layout("batch_first", hidden_size=8, num_layers=2)
    layer, call = layer_of(kind, case, dropout=0.5), call_of(case, kind=kind)
    with record(layer.train()) as recording:
        layer(*call)
        layer(*call)
    one, other = (call.trajectory.hidden_state for call in recording.calls["l1"])
    assert (one - other).abs().max() > 1e-2
    assert torch.equal(*(call.trajectory.hidden_state for call in recording.calls["l0"]))
    with record(layer.eval()) as recording:
        layer(*call)
        layer(*call)
    assert torch.equal(*(call.trajectory.hidden_state for call in recording.calls["l1"]))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "packed_unsorted"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_in_single_precision_too(kind, layout, grad):
    # Where the fused kernel leaves its gates in memory, the second recording reads them from there.
    case = of_layout(layout, hidden_size=5, num_layers=3, bidirectional=True)
    exact, layer = layer_of(kind, case, dropout=0.5).train(), layer_of(kind, case, torch.float32, dropout=0.5).train()
    torch.manual_seed(7)
    layer_call = call_of(case, torch.float32, kind)
    expected, _ = slowly_dropped(case, exact)
    for _ in range(3):
        torch.manual_seed(7)
        with torch.set_grad_enabled(grad), record(layer) as recording:
            layer(*layer_call)
        for b, one in enumerate(expected):
            for suffix, signals in one.items():
                for name, signal in signals.items():
                    found = recording[suffix].signals[name][b, : case.lengths[b]]
                    torch.testing.assert_close(found, torch.as_tensor(signal, dtype=torch.float32))
