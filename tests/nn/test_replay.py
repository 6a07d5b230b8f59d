"""The compiled kernels that open a layer after its pass, beside PyTorch's operations for the same."""

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from cases import randomise
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx
from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Weights
from lstm_explain.nn.kernels import native, replay

compiled = pytest.mark.skipif(native._load()[0] is None, reason="no compiled kernels where there is no C compiler")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


@st.composite
def layers(draw):
    """A layer's input, what came out of it, its initial states, weights and layout."""
    batch, steps = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    sizes = tuple(sorted(draw(st.lists(st.integers(1, batch), min_size=steps, max_size=steps)), reverse=True))
    sizes = (batch,) * steps if draw(st.booleans()) else (batch, *sizes[1:])
    units, features, dtype = draw(st.sampled_from([1, 3, 8, 13, 16, 33])), draw(st.integers(1, 3)), draw(st.sampled_from(list(TOLERANCE)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def some(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype) * draw(st.sampled_from([0.1, 1.0, 8.0]))

    blocks = draw(st.sampled_from([3, 4]))
    biases = (some(blocks * units), some(blocks * units)) if draw(st.booleans()) else (None, None)
    weights = Weights(some(blocks * units, features), some(blocks * units, units), *biases)
    rows = sum(sizes)
    # Every second direction of a layer has rows with something between them.
    hidden = torch.tanh(some(rows, 2 * units))[:, units:] if draw(st.booleans()) else torch.tanh(some(rows, units))
    return some(rows, features), hidden, torch.tanh(some(batch, units)), some(batch, units), weights, sizes, draw(st.booleans())


def both(run):
    """What the compiled kernels give, and PyTorch's operations."""
    before = os.environ.get("LSTM_EXPLAIN_BACKEND")
    try:
        found = []
        for name in ("native", "torch"):
            os.environ["LSTM_EXPLAIN_BACKEND"] = name
            found.append(run())
        return found
    finally:
        os.environ.pop("LSTM_EXPLAIN_BACKEND")
        if before is not None:
            os.environ["LSTM_EXPLAIN_BACKEND"] = before


def near(one, other):
    torch.testing.assert_close(one, other, rtol=TOLERANCE[one.dtype], atol=TOLERANCE[one.dtype])


def trajectory(reverse=False, lengths=(5, 2, 4)):
    """Of a packed LSTM in one of its directions."""
    layer, x = randomise(torch.nn.LSTM(2, 7, bidirectional=True, dtype=torch.float64)), torch.randn(max(lengths), len(lengths), 2).double()
    with torch.no_grad(), lx.record(layer) as recording:
        layer(pack_padded_sequence(x, list(lengths), enforce_sorted=False))
    return recording["l0_reverse" if reverse else "l0"]


@compiled
@given(layers(), st.booleans(), st.sampled_from([1, 2]))
def test_a_replayed_layer_is_the_same_by_either(layer, copy, threads):
    x, hidden, h0, c0, weights, sizes, reverse = layer
    untouched = [one.clone() for one in (x, hidden, h0, c0)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if len(weights.weight_hh) == 4 * h0.shape[1]:
            ours, theirs = both(lambda: replay.lstm(x, hidden, h0, c0, weights, sizes, reverse, copy=copy))
            near(ours[1], theirs[1])
            expected = theirs[0].output_gate * torch.tanh(theirs[0].cell_state)
        else:
            ours, theirs = both(lambda: replay.gru(x, hidden, h0, weights, sizes, reverse, copy=copy))
            expected = torch.lerp(theirs[0].candidate, replay.before(hidden, h0, sizes, reverse), theirs[0].update_gate)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(ours[0], theirs[0], strict=True):
        near(one, other)
    assert torch.equal(ours[0].hidden_state, hidden) and (ours[0].hidden_state.data_ptr() == hidden.data_ptr()) is not copy
    found = ours[-1]
    assert theirs[-1] is None and not found.nonfinite
    assert found.scale == hidden.abs().max()
    assert found.difference == pytest.approx(float((hidden - expected).abs().max()), abs=10 * TOLERANCE[x.dtype])
    assert all(torch.equal(*pair) for pair in zip(untouched, (x, hidden, h0, c0), strict=True))


@compiled
@pytest.mark.parametrize("sizes", [(3,) * 2000, tuple(sorted([1 + n % 7 for n in range(2000)], reverse=True)), (1,) * 2000])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("pool", ["PyTorch's", "own"])
def test_many_threads_share_the_work_and_leave_nothing_out(sizes, reverse, threads, pool):
    rows, units = sum(sizes), 19
    library, _ = native._load()
    z, hidden = torch.randn(rows, 4 * units), torch.tanh(torch.randn(rows, units))
    results = []
    before = torch.get_num_threads()
    for n in (1, threads):
        gates, cell, state, kept = z.clone(), torch.empty(rows, units), torch.zeros(sizes[0], units), torch.empty(rows, units)
        torch.set_num_threads(n)
        try:
            if pool == "own":
                native.share_threads(library, ("none", "there", "is"))
            found = native.lstm_replay(gates, cell, state, hidden, kept, sizes, reverse)
        finally:
            native.share_threads(library)
            torch.set_num_threads(before)
        results.append((gates, cell, state, kept, found))
    one, many = results
    assert all(torch.equal(*pair) for pair in zip(one[:4], many[:4], strict=True)) and one[4] == many[4]
    assert torch.equal(one[3], hidden)


@compiled
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("units", [8, 11])
def test_what_is_not_finite_goes_through_and_is_told(bad, units):
    z = torch.zeros(4, 4 * units)
    z[1, units - 1] = bad  # an input gate
    z[2, 3 * units - 1] = bad  # a candidate
    expected = z.clone()
    hidden = torch.zeros(4, units)
    hidden[3, 0] = bad
    found = native.lstm_replay(z, torch.empty(4, units), torch.zeros(2, units), hidden, None, (2, 2), False)
    torch.testing.assert_close(z[:, :units], torch.sigmoid(expected[:, :units]), equal_nan=True)
    torch.testing.assert_close(z[:, 2 * units : 3 * units], torch.tanh(expected[:, 2 * units : 3 * units]), equal_nan=True)
    assert found.nonfinite


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_and_candidates_keep_their_digits(dtype):
    x = torch.cat([torch.linspace(-90, 90, 20001), torch.logspace(-30, 0, 2000), -torch.logspace(-30, 0, 2000)]).to(dtype)
    z = x.repeat(4)[None].clone()
    native.lstm_replay(z, torch.empty(1, len(x), dtype=dtype), torch.zeros(1, len(x), dtype=dtype), None, None, (1,), False)
    i, _, g, _ = z.view(4, -1)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(i.double(), torch.sigmoid(x.double()), rtol=3 * eps, atol=1e-37)
    torch.testing.assert_close(g.double(), torch.tanh(x.double()), rtol=3 * eps, atol=0)


@compiled
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_names_are_checked_alike_by_either(reverse, steps):
    one = trajectory(reverse)
    ours, theirs = both(lambda: one.residual(steps))
    assert ours < 1e-12 and theirs < 1e-12
    names = list(one.signals)
    for a in range(6):
        for b in range(a):
            swapped = {**one.signals, names[a]: one.signals[names[b]], names[b]: one.signals[names[a]]}
            ours, theirs = both(lambda swapped=swapped: replace(one, signals=swapped).residual(steps))
            assert ours == pytest.approx(theirs, abs=1e-12) and ours > 1e-3


@compiled
def test_padding_and_what_lies_beyond_a_trajectory_is_not_looked_at():
    one = trajectory(lengths=(4, 2))
    one.signals["cell_state"][1, 2:] = 7.0
    assert max(both(one.residual)) < 1e-12
    one.signals["output_gate"][1, 3] = math.nan
    assert max(both(one.residual)) < 1e-12
    # A step that claims to come first isn't there: no memory beyond the signals is read.
    astray = replace(one, first_step=torch.tensor([9, 9]))
    assert all(math.isfinite(found) for found in both(astray.residual))


@compiled
@pytest.mark.parametrize("gate", ["input_gate", "forget_gate", "output_gate"])
@pytest.mark.parametrize("value", [-0.25, 1.25])
def test_a_gate_beyond_its_range_is_told(gate, value):
    one = trajectory()
    i, f, g, o, c, h = (torch.zeros_like(signal) for signal in one.signals.values())
    signals = dict(zip(one.signals, (i, f, g, o, c, h), strict=True))  # all at zero, which satisfies every equation
    signals[gate][0, 1, 2] = value
    quiet = replace(one, signals=signals, initial={name: torch.zeros_like(state) for name, state in one.initial.items()})
    assert both(quiet.residual) == pytest.approx([0.25, 0.25], abs=1e-12)


@compiled
@pytest.mark.parametrize("wrong", [None, "cell", "last", "initial", "hidden"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("units", [5, 16])
def test_what_was_left_is_held_against_both_equations(wrong, reverse, units):
    steps, batch = 4, 3
    i, f, g, o, initial = (torch.rand(steps, batch, units, dtype=torch.float64) for _ in range(5))
    f = (1 + f) / 2  # so that a wrong state before is seen
    c, state = torch.empty_like(i), initial[0]
    for t in range(steps):  # in the order of reading
        c[t] = state = f[t] * state + i[t] * g[t]
    h = o * torch.tanh(c)
    parts = {"cell": c[:-1].reshape(-1, units).clone(), "last": c[-1].clone(), "initial": initial[0].clone()}
    parts["hidden"] = (h.flip(0) if reverse else h).reshape(-1, units).clone()
    if wrong:
        parts[wrong][-1, -1] += 0.5
    rows = torch.cat([i, f, g, o], dim=2).reshape(-1, 4 * units)
    kept = [torch.empty(steps * batch, units, dtype=torch.float64) for _ in range(2)]
    found = native.lstm_check(rows, parts["cell"], parts["last"], parts["initial"], parts["hidden"], *kept, (batch,) * steps, reverse)
    assert (found.difference > 0.05) if wrong else (found.difference < 1e-15)
    if not wrong:
        in_time = (c.flip(0) if reverse else c).reshape(-1, units)
        assert torch.equal(kept[0], in_time) and torch.equal(kept[1], parts["hidden"])


@compiled
def test_a_forked_child_runs_by_itself():
    calls = [(torch.zeros(4000, 64), torch.empty(4000, 16), torch.zeros(40, 16), torch.zeros(4000, 16)) for _ in range(2)]

    def gate_of(call):
        native.lstm_replay(*call, None, (40,) * 100, False)
        return float(call[0][-1, 0])

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert gate_of(calls[0]) == 0.5  # PyTorch's threads are there now, and a child of fork hasn't got them
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # operations of PyTorch's own would wait for them
            os._exit(0 if gate_of(calls[1]) == 0.5 else 1)
    finally:
        torch.set_num_threads(before)
    assert os.waitpid(child, 0)[1] == 0


def test_the_backend_says_which_and_why(monkeypatch):
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", "torch")
    assert lx.backend() == ("torch", "LSTM_EXPLAIN_BACKEND=torch") and str(lx.backend()) == "torch: LSTM_EXPLAIN_BACKEND=torch"
    assert not native.serves(torch.zeros(1))
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", "cuda")
    with pytest.raises(InputError, match=r"^needed LSTM_EXPLAIN_BACKEND=native or torch, got 'cuda'$"):
        lx.backend()
    monkeypatch.delenv("LSTM_EXPLAIN_BACKEND")
    assert lx.backend().name == ("torch" if native._load()[0] is None else "native")


def test_without_the_library_everything_is_pytorch(monkeypatch, tmp_path):
    monkeypatch.delenv("LSTM_EXPLAIN_BACKEND", raising=False)
    monkeypatch.setattr(native, "_load", lambda: (None, "the compiled kernels weren't built: install again where there is a C compiler"))
    assert lx.backend().name == "torch" and "C compiler" in lx.backend().why
    model = torch.nn.LSTM(3, 4)
    with lx.record(model) as recording:
        model(torch.randn(5, 2, 3))
    assert recording.certificate.state == "certified"
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", "native")
    with pytest.raises(InputError, match="needed compiled kernels, as LSTM_EXPLAIN_BACKEND=native says: .* C compiler$"):
        lx.backend()


def test_a_library_that_is_none_is_not_taken(monkeypatch, tmp_path):
    (tmp_path / "_library.so").write_bytes(b"not a library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    library, why = native._load.__wrapped__()
    assert library is None and why.startswith("the compiled kernels can't be loaded, install again: ")


def test_a_library_of_another_version_is_not_taken(monkeypatch):
    if native._load()[0] is not None:
        monkeypatch.setitem(native._CHECKS, "lx_lstm_replay_run", native.calls.LSTMCheck)
        assert native._load.__wrapped__() == (None, "the compiled kernels are of another version: install again")
