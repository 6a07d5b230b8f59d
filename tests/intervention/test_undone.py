"""Nothing is left behind, and nobody else is touched."""

from copy import deepcopy
from threading import Thread

import pytest
import torch
from cases import last_states
from every_kind import CELLS, LAYERS, Leaky, inputs, leaky, model_of, registered
from recordings import cell_of, classifier, layer_of, of_layout, tensors_of

import lstm_explain as lx

X = inputs()


def forwards(model):
    return [dict(module.__dict__) for module in model.modules()]


def key_of(kind):
    return "l1_reverse" if kind in LAYERS else "cell"


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_as_it_was(kind, fails):
    model = model_of(kind)
    with registered(Leaky, leaky), torch.no_grad():
        clean, before, state = model(X), forwards(model), torch.get_rng_state()
        try:
            with (
                lx.intervene(model, key_of(kind), hidden_state=0.5, feedback=True),
                lx.intervene(model, key_of(kind), hidden_state=lx.add(1.0), feedback=False),
            ):
                changed = model(X)
                if fails:
                    model(X[..., :1])
        except Exception:
            assert fails
        else:
            assert not fails
        assert forwards(model) == before and torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(changed[0], clean[0])
        for one, other in zip(tensors_of(model(X)), tensors_of(clean), strict=True):
            assert torch.equal(one, other)


def test_a_refused_edit_leaves_nothing():
    model = model_of("lstm")
    before = forwards(model)
    with pytest.raises(lx.InputError):
        with (
            lx.intervene(model, "l0", hidden_state=0.5, feedback=True),
            lx.intervene(model, "l1", forget_gate=torch.ones(7), feedback=True),
        ):
            model(X)
    assert forwards(model) == before


def test_other_models_and_threads_are_not_touched():
    model, found = model_of("lstm"), {}
    twin, copy_outside = model_of("lstm"), deepcopy(model)
    with torch.no_grad():
        clean, _ = model(X)
        with lx.intervene(model, "l0", hidden_state=0.5, feedback=True):
            thread = Thread(target=lambda: found.update(thread=model(X)[0]))
            thread.start()
            thread.join()
            found |= {"here": model(X)[0], "twin": twin(X)[0], "copy": copy_outside(X)[0], "copied inside": deepcopy(model)(X)[0]}
    assert not torch.equal(found.pop("here"), clean)
    assert all(torch.equal(output, clean) for output in found.values())


def test_blocks_may_end_in_any_order():
    model = classifier()
    x = torch.randn(5, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        clean = model(x)
        first, second = (lx.intervene(model, "encoder.lstm.l0", hidden_state=value, feedback=True) for value in (0.25, 0.5))
        first.__enter__()
        second.__enter__()
        model(x)
        first.__exit__(None, None, None)
        with lx.record(model) as recording:
            model(x)
        second.__exit__(None, None, None)
        assert (recording["encoder.lstm.l0"].hidden_state == 0.5).all() and torch.equal(model(x), clean)


@pytest.mark.parametrize("kind", ["torch", ("full", "previous"), "gru"], ids=str)
def test_what_the_caller_writes_into_is_not_the_recording(kind):
    layer, cell = layer_of(kind, of_layout("batch_first")), cell_of(kind)
    with torch.no_grad(), lx.record(layer) as recording, lx.intervene(layer, "l0", hidden_state=0.5, feedback=True):
        output, states = layer(X)
        for tensor in (output, *last_states(states)):
            tensor.zero_()
    assert (recording["l0"].hidden_state == 0.5).all() and recording["l0"].residual() <= 1e-12
    with torch.no_grad(), lx.record(cell) as recording, lx.intervene(cell, "cell", hidden_state=0.5, feedback=True):
        for tensor in last_states(cell(X[:, 0])):
            tensor.zero_()
    assert (recording["cell"].hidden_state == 0.5).all() and recording["cell"].residual() <= 1e-12
