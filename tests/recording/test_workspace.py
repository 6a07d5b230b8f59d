"""Gates that the fused kernel has left in memory: read from there once it is known where, and replayed wherever they aren't there."""

import pytest
import torch
from cases import call_of, slowly, torch_lstm
from recordings import of_layout

from lstm_explain.nn.kernels import replay
from lstm_explain.recording import workspace
from lstm_explain.recording.runner import record

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")

DEEP = {"hidden_size": 5, "num_layers": 2, "bidirectional": True, "initial_state": True}


@pytest.fixture
def replayed(monkeypatch):
    """How often a layer is replayed, with nothing known of any shape at first."""
    calls, original = [], replay.lstm
    monkeypatch.setattr(workspace, "_PLACES", {})
    monkeypatch.setattr(workspace, "_SEEN", set())
    monkeypatch.setattr(replay, "lstm", lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs))
    return calls


def recorded(case):
    layer = torch_lstm(case, torch.float32)
    with record(layer) as recording:
        layer(*call_of(case, torch.float32))
    assert recording.certificate.state == "certified"
    for b, (signals, *_) in enumerate(slowly(case, layer, torch.float32)):
        for suffix in case.suffixes:
            for name, signal in signals[suffix].items():
                found = recording[suffix].signals[name][b, : case.lengths[b]]
                torch.testing.assert_close(found, torch.as_tensor(signal, dtype=torch.float32))
    return recording


@pytest.mark.parametrize("layout", ["time_first", "batch_first", "unbatched"])
def test_a_shape_is_replayed_twice_and_then_read(layout, replayed):
    searched = []
    for seed in range(4):
        recorded(of_layout(layout, seed=seed, **DEEP))
        searched.append(len(workspace._PLACES))
    assert len(replayed) == 8  # each layer and direction of the first two calls
    assert searched[0] == 0 < searched[1] == searched[3]


@pytest.mark.parametrize("change", [{"gate_stride": 1}, {"cell_offset": -5}, {"cell_offset": 5}, {"cell_stride": 1}], ids=str)
def test_a_place_that_is_not_where_it_was_is_noticed_and_replayed(change, replayed):
    case = of_layout("batch_first", **DEEP)
    recorded(case)
    recorded(case)
    for shape, place in workspace._PLACES.items():
        workspace._PLACES[shape] = place._replace(**{name: getattr(place, name) + by for name, by in change.items()})
    recorded(case)
    assert workspace._PLACES and len(replayed) == 12


@pytest.mark.parametrize("layout", ["packed", "packed_unsorted"])
def test_what_is_not_left_behind_is_replayed_every_time(layout, replayed):
    for seed in range(2):
        recorded(of_layout(layout, seed=seed, **DEEP))
    assert len(replayed) == 8


def test_a_second_pass_that_reads_what_the_first_one_left_is_told_from_it():
    # Both passes of one layer hang on one graph: the nearest nodes are those of the pass that is recorded.
    case = of_layout("batch_first", hidden_size=5, num_layers=3)
    layer, (x, _) = torch_lstm(case, torch.float32), call_of(case, torch.float32)
    for _ in range(2):
        with record(layer) as recording:
            _, state = layer(x)
            layer(x, state)
        with torch.no_grad(), record(layer) as expected:
            _, state = layer(x)
            layer(x, state)
        for suffix in case.suffixes:
            assert recording[suffix].valid.shape == (3, 8)
            for name, signal in recording[suffix].signals.items():
                torch.testing.assert_close(signal, expected[suffix].signals[name])
