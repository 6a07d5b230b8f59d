"""``into=``: every pass is handed on whole when it has ended, and nothing is kept."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import randomise
from every_kind import KINDS, Leaky, Loop, inputs, leaky, model_of, registered
from recordings import refused
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx
from lstm_explain.errors import InputError


@pytest.fixture(autouse=True)
def _leaky_is_known():
    with registered(Leaky, leaky):
        yield


def plain(result):
    """A result as nested lists; counts and sums apart, as they are held to different standards."""
    return result.to_dict()["layers"]


def same(found, expected):
    """Counts exactly, sums to rounding."""
    assert found.keys() == expected.keys()
    for name, layer in expected.items():
        for field, value in layer.items():
            if field in ("left", "right") or np.asarray(value).dtype.kind in "iU":
                assert found[name][field] == value, field
            else:  # None where it isn't finite
                np.testing.assert_allclose(*(np.array(of[name][field], dtype=float) for of in (found, expected)), rtol=0, atol=1e-12)


def small():
    return randomise(nn.LSTM(2, 4, batch_first=True, dtype=torch.float64))


STREAMS = {"saturation": (lx.Saturation, lx.saturation), "timescale": (lx.Timescale, lx.timescale)}


@pytest.mark.parametrize("asked", STREAMS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("rnn")])
def test_analyses_that_are_fed_find_what_they_find_in_a_recording(kind, asked):
    model, (stream, function) = model_of(kind), STREAMS[asked]
    passes = [
        (inputs(batch, time, seed), [time, *[2] * (batch - 1)]) for seed, (batch, time) in enumerate([(3, 5), (2, 9), (3, 5), (1, 2)])
    ]
    found, recordings = stream(), {}
    for into in (None, [found]):
        with torch.no_grad(), lx.record(model, into=into) as recordings[into is None]:
            for x, lengths in passes:
                recordings[into is None].annotate(lengths=lengths)
                model(x)
                assert into is None or (len(recordings[False]) == 0 and recordings[False].nbytes == 0)
    full, fed = recordings[True], recordings[False]
    same(plain(found.compute()), plain(function(full)))
    assert found.compute().padding == full.coverage.padding == "known"
    assert fed.certificate.count == full.certificate.count == len(full.certificate.calls) > len(fed.certificate.calls) == 1
    assert fed.certificate.worst == full.certificate.worst and fed.coverage.recorded == full.coverage.recorded
    assert f" {full.certificate.count} calls recomputed" in str(fed.certificate) and fed.certificate.state == "partial"
    assert fed.certificate.kept == f"nothing, handed on to {stream.__name__}"


def test_the_certificate_has_the_worst_call_of_each_module():
    model = nn.ModuleDict({"a": small(), "b": model_of("gru")})
    passes = [("a", 1), ("b", 1), ("a", 100), ("a", 3), ("b", 30), ("b", 5)]
    checks = {}
    for into in (None, [lx.Saturation()]):
        with lx.record(model, into=into) as recording:
            for name, size in passes:
                model[name](size * inputs())
        checks[into is None] = recording.certificate
    for name in ("a", "b"):
        (kept,) = [check for check in checks[False].calls if check.module == name]
        assert kept.share == max(check.share for check in checks[True].calls if check.module == name)
    assert checks[False].count == 6 and len(checks[False].calls) == 2


class Updates:
    """Says what it was given."""

    def __init__(self):
        self.given = []

    def update(self, trajectory):
        self.given.append((trajectory.name, tuple(trajectory.valid.shape), trajectory.valid.sum(1).tolist(), trajectory.padding))


def test_padding_goes_along():
    model, watch = small(), Updates()
    packed = pack_padded_sequence(inputs(), torch.tensor([2, 5, 1]), batch_first=True, enforce_sorted=False)
    with lx.record(model, into=[watch]) as recording:
        model(inputs())
        recording.annotate(lengths=[1, 5, 5])
        model(inputs())
        recording.annotate(valid=torch.tensor([[0, 1, 1, 1, 0]] * 3).bool())
        model(inputs())
        recording.annotate()
        model(packed)
    shape = ("l0", (3, 5))
    assert watch.given == [
        (*shape, [5] * 3, "unknown"),
        (*shape, [1, 5, 5], "known"),
        (*shape, [3] * 3, "known"),
        (*shape, [2, 5, 1], "known"),
    ]


def test_a_cell_in_a_loop_is_joined_before_it_is_handed_on():
    model, watch = Loop(nn.LSTMCell(2, 3).double()), Updates()
    with lx.record(model, into=[watch], lengths=[2, 5, 1]) as recording:
        model(inputs())
    assert watch.given == [("cell", (3, 5), [2, 5, 1], "known")] and recording.certificate.count == 5


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_that_is_called_by_itself_counts_its_steps_over_the_passes(cell):
    cell, watch = cell(2, 3).double(), Updates()
    with lx.record(cell, into=[watch], lengths=[2, 5, 1]):
        for _ in range(2):
            state = None
            for x in inputs().unbind(1):
                state = cell(x, state)
    steps = [1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]
    assert [valid for _, _, valid, _ in watch.given] == [*steps, *steps]


class Stumbles(nn.Module):
    """Fails where it is told to, between its layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fails = small(), randomise(nn.GRU(4, 3, batch_first=True).double()), False

    def forward(self, x):
        x, _ = self.one(x)
        if self.fails:
            raise ZeroDivisionError
        return self.two(x)[0]


def test_a_pass_that_fails_is_not_handed_on_and_the_next_one_is():
    model, watch = Stumbles(), Updates()
    with lx.record(model, into=[watch]) as recording:
        model(inputs())
        model.fails = True
        for time in (7, 8):
            with pytest.raises(ZeroDivisionError):
                model(inputs(time=time))
            assert len(recording) == recording.nbytes == 0
        model.fails = False
        model(inputs(time=4))
    assert [(name, shape) for name, shape, *_ in watch.given] == [
        ("one.l0", (3, 5)),
        ("two.l0", (3, 5)),
        ("one.l0", (3, 4)),
        ("two.l0", (3, 4)),
    ]


def batches():
    generator = torch.Generator().manual_seed(3)
    for at in range(4):
        lengths = torch.randint(4, 9, (6,), generator=generator)
        x = torch.randn(6, 8, 2, generator=generator, dtype=torch.float64)
        labels = {"sign": x[..., 0] > 0, "sum": x.cumsum(1)[..., 1].numpy()}
        yield x, labels, [(at + row) % 8 for row in range(6)], lengths


def test_probing_through_annotations_is_probing_by_hand():
    model, (by_hand, fed) = small(), (lx.Probing(range(8), folds=2, window=2) for _ in range(2))
    with torch.no_grad(), lx.record(model, into=[fed]) as recording:
        for x, labels, groups, lengths in batches():
            recording.annotate(labels=labels, groups=groups, lengths=lengths)
            model(x)
    for x, labels, groups, lengths in batches():
        with torch.no_grad(), lx.record(model, lengths=lengths) as recording:
            model(x)
        by_hand.update(recording, labels, groups)
    found, expected = (probing.compute(resamples=20, permutations=9).to_dict() for probing in (fed, by_hand))
    assert found == expected and set(found["labels"]) == {"sign", "sum"} and found["padding"] == "known"


def test_an_annotation_that_is_missing_is_refused_and_can_be_made_up_for():
    model, probing = small(), lx.Probing(range(8), folds=2)
    x, labels, groups, lengths = next(batches())
    with lx.record(model, into=[probing]) as recording:
        assert "labels and groups for Probing" in refused(InputError, lambda: model(x))
        recording.annotate(labels=labels, lengths=lengths)
        assert "needed groups for Probing, got none: call recording.annotate(groups=...)" in refused(InputError, lambda: model(x))
        assert len(recording) == recording.nbytes == 0
        recording.annotate(labels=labels, groups=groups, lengths=lengths)
        model(x)
    assert probing.compute(resamples=5, permutations=3).padding == "known"


@pytest.mark.parametrize(
    ("into", "words"),
    [
        ([3], "got int, without update"),
        ([lx.Saturation(), "a"], "got str"),
        ([lx.Saturation], "the class Saturation"),
        (lx.Saturation(), "a list"),
    ],
    ids=["number", "second", "class", "alone"],
)
def test_what_can_not_be_fed_is_refused(into, words):
    assert words in refused(InputError, lambda: lx.record(small(), into=into).__enter__())


MEMORY = """
import gc, resource, sys, torch, lstm_explain as lx
torch.set_num_threads(1)
model, into = torch.nn.LSTM(16, 128, batch_first=True), [lx.Saturation(), lx.Timescale()]
x, peaks, objects = torch.zeros(16, 100, 16), [], []
with torch.no_grad(), lx.record(model, into=into) as recording:
    for passes in (3, 30):
        for _ in range(passes):
            model(x)
        gc.collect()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        objects.append(len(gc.get_objects()))
assert recording.certificate.count == 33 and len(recording.certificate.calls) == 1
print(peaks[1] - peaks[0], objects[1] - objects[0])
"""


def test_memory_does_not_grow_with_the_passes():
    # One pass is 16 * 100 * 6 * 128 float32 = 4.7 MiB; thirty that were kept would be 140.
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    kibibytes, objects = map(int, done.stdout.split())
    assert kibibytes < 24 * 1024 and objects < 50
