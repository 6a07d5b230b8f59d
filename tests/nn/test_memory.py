"""Large blocks of memory are used again when nobody has them any more, and not before."""

import gc
import mmap
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import lstm_explain as lx
from lstm_explain.nn.kernels import native
from lstm_explain.nn.kernels.native import memory
from lstm_explain.nn.kernels.native.memory import empty

LIKE = torch.zeros(1)
LARGE = memory._LARGE // LIKE.element_size()


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    """None to begin with."""
    made = memory._Blocks()
    monkeypatch.setattr(memory, "_BLOCKS", made)
    return made


def waiting(blocks):
    return [len(block) for block in blocks._free]


def test_a_block_is_used_again_once_the_last_view_of_it_is_gone(blocks):
    first = empty(LIKE, 4, LARGE)
    address, part = first.data_ptr(), first[2, 5:9].unsqueeze(0)
    del first
    gc.collect()
    assert waiting(blocks) == [] and empty(LIKE, 4, LARGE).data_ptr() != address
    del part
    assert waiting(blocks).count(16 * LARGE) == 2
    again, other = empty(LIKE, 4, LARGE), empty(LIKE, 4, LARGE)
    assert address in (again.data_ptr(), other.data_ptr()) and waiting(blocks) == []


def test_one_in_a_circle_of_objects_comes_back_when_the_circle_is_collected(blocks):
    circle = [empty(LIKE, LARGE)]
    circle.append(circle)
    del circle
    gc.collect()
    assert waiting(blocks) == [4 * LARGE]


def test_a_block_serves_what_is_a_little_smaller_and_the_smallest_is_taken(blocks):
    sizes = [LARGE, int(1.2 * LARGE), 2 * LARGE]
    del (made := [empty(LIKE, size) for size in sizes])[:]
    assert made == [] and sorted(waiting(blocks)) == [4 * size for size in sizes]
    some = [empty(LIKE, LARGE)]
    assert sorted(waiting(blocks)) == [4 * size for size in sizes[1:]]
    some += [empty(LIKE, LARGE), empty(LIKE, LARGE)]
    assert waiting(blocks) == [8 * LARGE]
    assert all(one.numel() == LARGE for one in some) and len({one.data_ptr() for one in some}) == 3


def test_small_ones_are_not_kept(blocks):
    empty(LIKE, LARGE - 1)
    assert waiting(blocks) == []


def test_no_more_than_so_much_waits_and_what_nobody_asks_for_makes_room(blocks, monkeypatch):
    monkeypatch.setattr(memory, "_KEPT", 16 * LARGE)
    del (made := [empty(LIKE, LARGE) for _ in range(6)])[:]
    assert made == [] and waiting(blocks) == 4 * [4 * LARGE]
    empty(LIKE, 3 * LARGE)
    assert waiting(blocks) == [4 * LARGE, 12 * LARGE]
    empty(LIKE, 5 * LARGE)  # more than may wait
    assert waiting(blocks) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_of_the_dtype_aligned_no_view_and_may_be_written_into(dtype):
    made = empty(torch.zeros(1, dtype=dtype), 3, LARGE)
    assert made.dtype == dtype and made.shape == (3, LARGE) and made.is_contiguous() and made.device.type == "cpu"
    assert made.data_ptr() % 64 == 0 and not made._is_view() and made.storage_offset() == 0
    assert torch.equal(made.fill_(2).sum(1), torch.full((3,), 2.0 * LARGE, dtype=dtype))


def test_threads_never_have_the_same_block():
    def use(number):
        for _ in range(50):
            mine = empty(LIKE, LARGE)
            mine[::4096] = number
            if not bool((mine[::4096] == number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_child_process_writes_is_its_own():
    mine = empty(LIKE, LARGE).fill_(1)
    if not (child := os.fork()):
        mine.numpy()[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert bool((mine == 1).all())


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="there are no large pages here")
def test_a_system_that_refuses_large_pages_gives_small_ones(monkeypatch):
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345)
    assert empty(LIKE, LARGE).fill_(3)[-1] == 3


@pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)
@pytest.mark.parametrize("fast", [False, True])
def test_what_somebody_still_has_of_a_pass_stays_when_others_follow(fast, blocks):
    model = torch.nn.LSTM(32, 512)
    drawn = torch.Generator().manual_seed(0)
    passes = [torch.randn(64, 32, 32, generator=drawn) for _ in range(3)]

    def recorded(x):
        with torch.no_grad(), lx.record(model, fast=fast) as recording:
            model(x)
        return recording["l0"]

    signals = recorded(passes[0]).signals
    slices = {name: signal[:, 3:5, 100:200] for name, signal in signals.items()}
    before = {name: part.clone() for name, part in slices.items()}
    del signals
    for x in passes[1:]:
        recorded(x)
    assert waiting(blocks)
    assert all(torch.equal(part, before[name]) for name, part in slices.items())


@pytest.mark.skipif(native.backend().name == "torch", reason=native.backend().why)
def test_a_layer_that_is_trained_uses_its_memory_again_and_its_output_may_be_written_into(blocks):
    layer = lx.PeepholeLSTM(32, 256)
    x = torch.randn(128, 32, 32)
    gradients = []
    for _ in range(3):
        output, _ = layer(x)
        output.mul_(2.0)
        output.sum().backward()
        gradients.append([one.grad.clone() for one in layer.parameters()])
        layer.zero_grad()
        del output
    assert waiting(blocks)
    assert all(torch.equal(one, other) for later in gradients[1:] for one, other in zip(gradients[0], later, strict=True))
