"""A recording belongs to its thread: calls in another are counted, not recorded, and two threads may record one model at once."""

from contextlib import contextmanager
from queue import Queue
from threading import Barrier, Thread

import pytest
import torch
from kinds import ALL, CELLS, Model, assert_is, by_hand, inputs, key_of, weights_of
from torch.nn.utils import parametrizations

from lstm_explain.recording.runner import record

STEPS = 5


@contextmanager
def threads(*bodies):
    """Run them beside each other to their end, and raise what they raise."""
    failed = Queue()

    def run(body):
        try:
            body()
        except BaseException as error:
            failed.put(error)

    running = [Thread(target=run, args=(body,)) for body in bodies]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        for thread in running:
            thread.join(timeout=60)
    if not failed.empty():
        raise failed.get()


def untouched(model):
    return all("forward" not in vars(module) for module in model.modules())


def is_of(kind, model, recording, x):
    assert_is(recording[key_of(kind, "inner")], by_hand(kind, weights_of(kind, model.inner), model.before(x)))


@pytest.mark.parametrize("kind", ALL)
def test_a_call_in_another_thread_is_counted_and_not_recorded(kind):
    model, mine, theirs, returned = Model(kind), inputs(STEPS), inputs(STEPS, seed=1), []
    expected, calls = model(theirs), STEPS if kind in CELLS else 1
    with record(model) as recording:
        with threads(lambda: returned.append(model(theirs))):
            pass
        assert recording.coverage.elsewhere == {"inner": calls} and recording.coverage.recorded == {} and len(recording) == 0
        assert recording.coverage.never_called == () and recording.certificate.state == "uncertified"
        model(mine)
    assert torch.equal(returned[0], expected) and untouched(model)
    assert recording.coverage.recorded == recording.coverage.elsewhere == {"inner": calls}
    assert f"called in another thread: inner x{calls}" in str(recording.coverage)
    is_of(kind, model, recording, mine)


def test_a_block_whose_calls_were_all_in_another_thread_warns_and_says_so():
    model = Model("gru")
    with (
        pytest.warns(UserWarning, match="^nothing was recorded: .*called in another thread: inner x1"),
        record(model),
        threads(lambda: model(inputs())),
    ):
        pass


@pytest.mark.parametrize("first_out", ["the_first", "the_second"])
@pytest.mark.parametrize("kind", ALL)
def test_two_threads_that_record_one_model_each_get_their_own_calls(kind, first_out):
    model, xs, found = Model(kind), {"A": inputs(STEPS), "B": inputs(STEPS, seed=1)}, {}
    expected = {name: model(x) for name, x in xs.items()}
    outputs, step = {}, Barrier(2, timeout=30)

    def body(name):
        if name == "B":
            step.wait()  # A is in
        with record(model) as recording:
            if name == "A":
                step.wait()
            step.wait()  # both are in
            outputs[name] = [model(xs[name])]
            step.wait()  # both have called
            if (name == "A") is (first_out == "the_second"):
                step.wait()  # the other is out
                outputs[name].append(model(xs[name]))
        if (name == "A") is (first_out == "the_first"):
            step.wait()
        found[name] = recording

    with threads(lambda: body("A"), lambda: body("B")):
        pass
    assert untouched(model)
    last = "B" if first_out == "the_first" else "A"
    for name, x in xs.items():
        assert all(torch.equal(output, expected[name]) for output in outputs[name])
        own = found[name][key_of(kind, "inner")]
        assert own.valid.shape == (8 if name == last else 4, STEPS)
        first = own.select(range(4))
        assert_is(first, by_hand(kind, weights_of(kind, model.inner), model.before(x)))
        assert found[name].coverage.elsewhere == {"inner": STEPS if kind in CELLS else 1} and found[name].certificate.state == "certified"


@pytest.mark.parametrize("kind", ["lstm", "gru", "gru_cell", "peephole"])
def test_threads_that_record_one_model_over_and_over(kind):
    model = Model(kind)
    model(inputs())

    def body(seed):
        x = inputs(seed=seed)
        for _ in range(10):
            with record(model) as recording:
                model(x)
            is_of(kind, model, recording, x)

    with threads(*(lambda seed=seed: body(seed) for seed in range(4))):
        pass
    assert untouched(model)


@pytest.mark.parametrize("kind", ["lstm", "gru", "lstm_cell", "peephole_cell"])
def test_threads_that_record_a_model_with_parametrised_weights(kind):
    model = Model(kind)
    parametrizations.weight_norm(model.inner, "weight_hh" if kind in CELLS else "weight_hh_l0")
    expected = {seed: model(inputs(seed=seed)) for seed in range(3)}

    def body(seed, recorded):
        for _ in range(5):
            if recorded:
                with record(model) as recording:
                    assert torch.equal(model(inputs(seed=seed)), expected[seed])
                assert recording.certificate.state == "certified"
            else:
                assert torch.equal(model(inputs(seed=seed)), expected[seed])

    with threads(lambda: body(0, True), lambda: body(1, True), lambda: body(2, False)):
        pass
    assert untouched(model)


def test_threads_that_record_models_of_their_own_do_not_meet():
    models = [Model("lstm"), Model("gru")]

    def body(model):
        for seed in range(5):
            with record(model) as recording:
                model(inputs(seed=seed))
            is_of(model.kind, model, recording, inputs(seed=seed))
            assert recording.coverage.elsewhere == {}

    with threads(*(lambda model=model: body(model) for model in models)):
        pass
    assert all(map(untouched, models))
