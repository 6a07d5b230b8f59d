"""Where a layer is in a model, and what it is called: containers, nesting, wrappers, and several paths to one layer."""

import pytest
import torch
from kinds import ALL, CELLS, Model, inputs, key_of, made, run
from torch import nn

from lstm_explain.errors import RecordingError
from lstm_explain.recording.runner import record


def seen(kind, model, *modules):
    """The keys, when each module is called once over a sequence."""
    with record(model) as recording:
        for module in modules:
            run(kind, module, inputs())
    return recording, list(recording)


@pytest.mark.parametrize("kind", ALL)
def test_containers_and_nesting_show_in_the_keys(kind):
    one, two, three = (made(kind, seed=seed) for seed in range(3))
    model = nn.ModuleDict({"list": nn.ModuleList([one, nn.ModuleDict({"deep": two})]), "model": nn.Sequential(nn.Identity(), three)})
    recording, keys = seen(kind, model, three, one, two)
    assert keys == [key_of(kind, path) for path in ("model.1", "list.0", "list.1.deep")]
    assert recording.coverage.aliases == {} and recording.coverage.never_called == ()


@pytest.mark.parametrize("kind", ALL)
def test_the_model_itself_may_be_the_layer(kind):
    module = made(kind)
    assert seen(kind, module, module)[1] == [key_of(kind)]


@pytest.mark.parametrize("kind", ALL)
def test_several_paths_to_one_layer_are_its_first_path_and_aliases(kind):
    model = nn.Module()
    model.a = model.b = made(kind)
    model.inside = nn.ModuleList([nn.Identity(), model.a])
    model.other = made(kind, seed=1)
    recording, keys = seen(kind, model, model.b, model.other, model.inside[1])
    assert keys == [key_of(kind, "a"), key_of(kind, "other")]
    assert recording.coverage.aliases == {"a": ("b", "inside.1")}
    assert recording.coverage.recorded == {"a": 10, "other": 5} if kind in CELLS else {"a": 2, "other": 1}
    assert "one module: a = b = inside.1" in str(recording.coverage)
    assert recording[key_of(kind, "a")].valid.shape == (8, 5) and recording.coverage.never_called == ()


@pytest.mark.parametrize("kind", ALL)
def test_a_model_inside_that_two_paths_share_has_its_layer_once(kind):
    model = nn.Module()
    model.left = model.right = Model(kind)
    with record(model) as recording:
        model.left(inputs())
        model.right(inputs())
    assert list(recording) == [key_of(kind, "left.inner")] and recording.coverage.aliases == {"left.inner": ("right.inner",)}
    assert recording[key_of(kind, "left.inner")].valid.shape == (8, 5)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole"])
def test_data_parallel_on_one_device_is_seen_through(kind):
    for model, key in ((Model(kind), "inner.l0"), (made(kind), "l0")):
        wrapped = nn.DataParallel(model)
        expected = torch.utils._pytree.tree_leaves(model(inputs()))
        with record(wrapped) as recording:
            found = torch.utils._pytree.tree_leaves(wrapped(inputs()))
        assert list(recording) == [key] and all(map(torch.equal, found, expected))


def test_data_parallel_on_several_devices_is_refused_with_what_to_do():
    model = nn.DataParallel(Model("gru"))
    model.device_ids = [0, 1]
    with pytest.raises(RecordingError, match=r"^needed a model on one device, got DataParallel on 2: take model.module$"):
        record(model).__enter__()
    with pytest.raises(RecordingError, match="on one device"):
        record(nn.Sequential(model)).__enter__()


def test_a_part_inside_data_parallel_has_the_wrapper_in_its_path():
    model = nn.ModuleDict({"wrapped": nn.DataParallel(Model("gru")), "plain": Model("gru")})
    with record(model) as recording:
        model["wrapped"](inputs())
        model["plain"](inputs())
    assert list(recording) == ["wrapped.module.inner.l0", "plain.inner.l0"]
