"""Models that `torch.compile` has compiled: their layers are seen, and after the block they run compiled as before."""

import subprocess
import sys
from threading import Barrier, Thread

import pytest
import torch
from kinds import Model, assert_is, by_hand, inputs, key_of, weights_of
from torch import nn

from lstm_explain.recording.runner import record

# PyTorch's own, when it compiles a cell by itself with gradients enabled, and a function of autograd's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Function.* should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs what it was given, and counts how often."""

    def __init__(self):
        self.runs = 0

    def __call__(self, graph, inputs):
        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def part(model, backend):
    model.inner = torch.compile(model.inner, backend=backend)
    return model


WAYS = [whole, in_place, part]


def inner_of(model):
    inner = getattr(model, "_orig_mod", model).inner
    return getattr(inner, "_orig_mod", inner)


def assert_seen(kind, model, recording, x):
    key = key_of(kind, "inner")
    assert list(recording) == [key] and recording.certificate.state == "certified"
    assert_is(recording[key], by_hand(kind, weights_of(kind, inner_of(model)), getattr(model, "_orig_mod", model).before(x)))


CASES = [("eager", kind, way) for kind in ("lstm", "gru", "lstm_cell", "gru_cell") for way in WAYS]
CASES += [("eager", "peephole", whole)]


@pytest.mark.parametrize("cached", [False, True], ids=["not_yet_run", "run_before"])
@pytest.mark.parametrize(("backend", "kind", "way"), CASES)
def test_a_model_that_was_compiled_before_the_block(kind, backend, way, cached):
    x = inputs(2)
    expected = Model(kind)(x)
    model = way(Model(kind), backend)
    if cached:
        torch.testing.assert_close(model(x), expected)
    for _ in range(2):
        with record(model) as recording:
            assert torch.equal(model(x), expected)
        assert_seen(kind, model, recording, x)
        torch.testing.assert_close(model(x), expected)
    assert all("forward" not in vars(module) for module in model.modules() if not hasattr(module, "_orig_mod"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["lstm", "gru", "lstm_cell"])
def test_a_model_that_is_compiled_inside_the_block(kind, way):
    model, x = Model(kind), inputs(2)
    expected = model(x)
    with record(model) as recording:
        compiled = way(model, "eager")
        assert torch.equal(compiled(x), expected)
    assert_seen(kind, compiled, recording, x)
    torch.testing.assert_close(compiled(x), expected)
    assert all("forward" not in vars(module) for module in model.modules() if not hasattr(module, "_orig_mod"))


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("kind", ["gru_cell"])  # PyTorch compiles nothing of a model with a fused layer
def test_compiled_code_runs_before_and_after_the_block_and_not_inside(kind, raises):
    backend, x = Counting(), inputs(2)
    model = torch.compile(Model(kind), backend=backend)
    model(x)
    before = backend.runs
    try:
        with record(model):
            model(x)
            if raises:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert backend.runs == before > 0
    model(x)
    assert backend.runs == 2 * before


def test_gradients_of_a_compiled_model_are_those_of_the_model():
    for kind in ("lstm", "gru_cell"):
        model, compiled, x = Model(kind), torch.compile(Model(kind), backend="aot_eager"), inputs(2)
        compiled(x)
        with record(compiled):
            compiled(x).sum().backward()
        model(x).sum().backward()
        pairs = zip(compiled.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(one.grad, other.grad) for one, other in pairs)


def test_two_recordings_that_end_in_the_order_they_began_leave_compiled_code_compiled():
    backend, x = Counting(), inputs(2)
    model = torch.compile(Model("gru_cell"), backend=backend)
    model(x)
    before = backend.runs
    one, other = record(model), record(model)
    one.__enter__()
    recording = other.__enter__()
    model(x)
    one.__exit__(None, None, None)
    model(x)
    other.__exit__(None, None, None)
    assert backend.runs == before and recording.coverage.recorded == {"inner": 4}
    model(x)
    assert backend.runs == 2 * before


def test_two_threads_that_record_at_once_leave_compiled_code_compiled():
    backend, x = Counting(), inputs(2)
    compiled = torch.compile(Model("gru_cell"), backend=backend)
    compiled(x)
    before, steps, counts = backend.runs, Barrier(2, timeout=20), {}

    def first():
        model = Model("gru")
        with record(model):
            model(x)
            steps.wait()  # the other begins
            steps.wait()
        steps.wait()

    def second():
        steps.wait()
        with record(compiled) as recording:
            steps.wait()
            steps.wait()  # the first has ended
            compiled(x)
        counts["second"] = recording.coverage.recorded

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"second": {"inner": 2}} and backend.runs == before
    compiled(x)
    assert backend.runs == 2 * before


def test_the_stance_that_a_user_has_taken_is_left_as_it_is():
    backend, x = Counting(), inputs(2)
    model = torch.compile(Model("gru_cell"), backend=backend)
    with torch.compiler.set_stance("force_eager"):
        with record(model):
            model(x)
        model(x)
    assert backend.runs == 0
    model(x)
    assert backend.runs > 0


PROGRAM = """
import sys
import torch
from torch import nn
from lstm_explain.recording.runner import record

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.inner = nn.Linear(2, 2), nn.LSTM(2, 3)

    def forward(self, x):
        return self.inner(self.before(x))[0] * 2

model, x, compile = Model(), torch.randn(4, 2, 2), torch.compile
expected = model(x)
with record(model):
    model(x)
assert "torch._dynamo" not in sys.modules and torch.compile is compile
with record(model) as recording:
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(compiled(x), expected) and torch.equal(compiled(x), expected)
assert recording.coverage.recorded == {"inner": 2} and recording.certificate.state == "certified"
assert torch.compile is compile
torch.testing.assert_close(compiled(x), expected)
"""


def test_the_compiler_may_be_loaded_inside_the_block_and_not_by_recording():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def eagerly(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, eagerly, lambda model: nn.DataParallel(eagerly(model))])
def test_wrappers_do_not_show_in_the_keys(wrap):
    for model, key in ((Model("lstm"), "inner.l0"), (Model("lstm").inner, "l0")):
        wrapped, x = wrap(model), inputs(2)
        with record(wrapped) as recording:
            wrapped(x)
        assert list(recording) == [key]
