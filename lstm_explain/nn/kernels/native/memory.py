"""Memory for what a pass leaves behind. Large blocks are used again when nobody has them any more.

Of new ones the system gives and clears each page when it is first written to, which at large sizes costs more than arithmetic.
"""

import mmap
import weakref
from contextlib import suppress
from math import prod

import numpy as np
import torch
from torch import Tensor

_LARGE = 1 << 22
"""Bytes from which on a block is one of ours."""
_KEPT = 1 << 28
"""Bytes at most that wait to be used again."""
_LOOSE = 1.25
"""How much larger than what is asked for a block may be."""


class _Blocks:
    """Blocks that nobody has. No lock: a child process might never get it, and what is done to the list is done at once."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def take(self, size: int) -> mmap.mmap:
        """One of so many bytes at least: the smallest that is free, or a new one."""
        for block in sorted(self._free, key=len):
            if size <= len(block) <= size * _LOOSE:
                with suppress(ValueError):  # another thread was faster
                    self._free.remove(block)
                    return block
        with suppress(IndexError):
            while self._waiting() + size > _KEPT:  # those that nobody asks for any more make room for this one
                self._free.pop(0)
        return _new(size)

    def give(self, block: mmap.mmap) -> None:
        """Nobody has it any more: kept, if there is room. It may happen in any thread, and in the middle of `take`."""
        if self._waiting() + len(block) <= _KEPT:
            self._free.append(block)

    def _waiting(self) -> int:
        return sum(map(len, tuple(self._free)))


def _new(size: int) -> mmap.mmap:
    """A block in large pages, where the system has them, and of this process alone: a child that writes into it writes into its own."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


_BLOCKS = _Blocks()


def empty(like: Tensor, *shape: int) -> Tensor:
    """New memory on the CPU, with any values in it."""
    size = prod(shape) * like.element_size()
    if size < _LARGE:
        return like.new_empty(shape)
    block = _BLOCKS.take(size)
    held = np.frombuffer(block, np.uint8)
    weakref.finalize(held, _BLOCKS.give, block).atexit = False
    # Not a view of it: what a function of autograd's returns may then be written into.
    return torch.empty(0, dtype=like.dtype).set_(torch.from_numpy(held).untyped_storage()).resize_(shape)
