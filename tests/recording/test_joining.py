"""How the calls of every kind of layer and cell join: along time where the state is carried, along batch where it starts afresh."""

import pytest
from cases import close
from kinds import ALL, CELLS, LAYERS, Model, assert_is, by_hand, inputs, key_of, made, run, weights_of
from torch import nn

from lstm_explain.recording.runner import record


def detached(state):
    return tuple(part.detach().clone() for part in state) if isinstance(state, tuple) else state.detach().clone()


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (2, 3), (4, 1)], ids=str)
@pytest.mark.parametrize("kind", ALL)
def test_calls_that_carry_their_state_join_along_time(kind, pieces):
    module, x = made(kind), inputs()
    with record(module) as recording:
        state = None
        for piece in x.split(pieces):
            _, state = run(kind, module, piece, state)
            state = detached(state)
    joined = recording[key_of(kind)]
    assert_is(joined, by_hand(kind, weights_of(kind, module), x))
    assert joined.valid.shape == (4, 5) and joined.started == {} and joined.residual() <= 1e-12
    calls = recording.calls[key_of(kind)]
    assert [call.continues for call in calls] == [False] + [True] * (len(calls) - 1)
    assert [call.trajectory.valid.shape[1] for call in calls] == ([1] * 5 if kind in CELLS else list(pieces))
    for name, last in calls[-1].last.items():
        close(last, joined.signals[name][:, -1])
        assert not joined.initial[name].any()


@pytest.mark.parametrize("kind", ALL)
def test_a_state_that_is_given_first_is_the_initial_one(kind):
    module, x = made(kind), inputs()
    state = detached(run(kind, module, inputs(seed=3))[1])
    with record(module) as recording:
        run(kind, module, x, state)
    joined = recording[key_of(kind)]
    assert_is(joined, by_hand(kind, weights_of(kind, module), x, state))
    parts = state if isinstance(state, tuple) else (state,)
    for name, part in zip(joined.initial, parts, strict=True):
        close(joined.initial[name], part.reshape(4, 3))


@pytest.mark.parametrize("kind", ALL)
def test_fresh_calls_join_along_batch_and_the_shorter_are_padded(kind):
    module, weights = made(kind), None
    batches = [inputs(time, batch, seed=time) for time, batch in ((2, 2), (4, 1), (3, 3))]
    with record(module) as recording:
        for x in batches:
            recording.annotate(lengths=[len(x)] * x.shape[1])
            run(kind, module, x)
    joined, weights = recording[key_of(kind)], weights_of(kind, module)
    assert joined.valid.sum(1).tolist() == [2, 2, 4, 3, 3, 3] and joined.valid.shape == (6, 4)
    assert joined.padding == "known" and recording.coverage.padding == "none"
    at = 0
    for x in batches:
        part = joined.select(range(at, at + x.shape[1]))
        for name, expected in by_hand(kind, weights, x).items():
            close(part.signals[name][:, : len(x)], expected)
            assert not part.signals[name][:, len(x) :].any()
        at += x.shape[1]


@pytest.mark.parametrize("kind", ALL)
def test_a_module_used_twice_in_one_pass_is_two_rows(kind):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = made(kind)

        def forward(self, one, other):
            return run(kind, self.inner, one)[0] - run(kind, self.inner, other)[0]

    model, one, other = Siamese(), inputs(), inputs(seed=1)
    with record(model) as recording:
        model(one, other)
    joined, weights = recording[key_of(kind, "inner")], weights_of(kind, model.inner)
    assert joined.valid.shape == (8, 5)
    assert_is(joined.select(range(4)), by_hand(kind, weights, one))
    assert_is(joined.select(range(4, 8)), by_hand(kind, weights, other))
    assert recording.coverage.recorded == {"inner": 10 if kind in CELLS else 2}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_state_that_is_not_the_one_returned_starts_afresh(kind):
    module, x = made(kind), inputs(2)
    with record(module) as recording:
        _, state = module(x)
        module(x, tuple(part + 1e-9 for part in state) if isinstance(state, tuple) else state + 1e-9)
        module(x)
    assert recording["l0"].valid.shape == (12, 2)
    assert [call.continues for call in recording.calls["l0"]] == [False, False, False]


@pytest.mark.parametrize("kind", CELLS)
def test_a_model_of_one_cell_called_for_batch_after_batch_has_them_as_rows(kind):
    model = Model(kind)
    batches = [inputs(seed=seed) for seed in range(3)]
    with record(model) as recording:
        for x in batches:
            model(x)
    joined, weights = recording["inner"], weights_of(kind, model.inner)
    for at, x in enumerate(batches):
        assert_is(joined.select(range(4 * at, 4 * at + 4)), by_hand(kind, weights, model.before(x)))


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "relu", "peephole"])
def test_every_layer_of_a_stack_joins_along_time(kind, layers):
    module, x = made(kind, num_layers=layers), inputs()
    with record(module) as whole:
        module(x)
    with record(module) as recording:
        state = None
        for piece in x.split(1):
            _, state = module(piece, state)
    assert list(recording) == list(whole) == [f"l{layer}" for layer in range(layers)]
    for key, trajectory in whole.items():
        for name, signal in trajectory.signals.items():
            close(recording[key].signals[name], signal)


@pytest.mark.parametrize("kind", ["gru", "rnn", "relu"])
def test_two_directions_do_not_continue_in_time(kind):
    module, x = made(kind, bidirectional=True), inputs(2)
    with record(module) as recording:
        _, state = module(x)
        module(x, state)
    assert {key: one.valid.shape for key, one in recording.items()} == {"l0": (8, 2), "l0_reverse": (8, 2)}
