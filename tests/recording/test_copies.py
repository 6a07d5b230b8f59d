"""A model that is copied or saved inside the block is a model by itself, and isn't watched."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from kinds import ALL, LAYERS, Model, inputs
from torch import nn

from lstm_explain.recording.runner import record


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


HOW = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch.save": by_torch}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ALL)
def test_a_copy_made_inside_the_block_is_a_model_by_itself(kind, how):
    model, x = Model(kind), inputs()
    expected = model(x)
    with record(model) as recording:
        model(x)
        copied = HOW[how](model)
        before = recording.coverage.recorded
        assert torch.equal(copied(x), expected)
        assert recording.coverage.recorded == before and recording.coverage.elsewhere == {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for one in (copied, HOW[how](copied)):
        assert torch.equal(one(x), expected) and not torch.equal(model(x), expected)
        with record(one) as recording:
            one(x)
        assert recording.certificate.state == "certified"
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
        assert torch.equal(one(x), model(x))
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", ALL)
def test_a_copied_part_is_not_watched_either(kind, how):
    model = Model(kind)
    x = inputs() if kind in LAYERS else inputs()[0]
    with record(model) as recording:
        model(inputs())
        before = recording.coverage.recorded
        returned = [part(x) for part in (HOW[how](model.inner), model.inner)]
    assert all(map(torch.equal, *map(torch.utils._pytree.tree_leaves, returned)))
    assert recording.coverage.recorded == {"inner": before["inner"] + 1}


def test_the_weights_and_training_state_of_a_block_are_the_models():
    model = Model("lstm")
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with record(model):
        model(inputs())
        inside = model.state_dict()
    assert list(inside) == list(expected) and all(torch.equal(inside[name], tensor) for name, tensor in expected.items())


class Own:
    """A user's own forward on the instance."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x, hx=None):
        return type(self.layer).forward(self.layer, x, hx)


@pytest.mark.parametrize("how", HOW)
def test_a_forward_of_the_users_own_goes_with_the_copy(how):
    model, x = Model("gru"), inputs()
    model.inner.forward = own = Own(model.inner)
    expected = model(x)
    with record(model):
        model(x)
        copied = HOW[how](model)
    theirs = vars(copied.inner)["forward"]
    assert type(theirs) is Own and theirs.layer is copied.inner and vars(model.inner)["forward"] is own
    assert torch.equal(copied(x), expected)


def test_a_model_saved_inside_the_block_is_loaded_without_this_package(tmp_path):
    layer = nn.GRU(2, 3)
    with record(layer):
        layer(torch.zeros(2, 2, 2))
        torch.save(layer, tmp_path / "gru.pt")
    program = f"""
import sys, torch
sys.modules["lstm_explain"] = None
layer = torch.load({str(tmp_path / "gru.pt")!r}, weights_only=False)
print(layer(torch.zeros(2, 2, 2))[0].shape[-1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "3", done.stderr
