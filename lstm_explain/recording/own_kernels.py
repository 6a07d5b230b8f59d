"""LSTMs run by our own kernels in place of their module's pass, where gradients of what they read are wanted and none of weights.

PyTorch's fused LSTM computes the gradients of its weights whether or not somebody asks, a third of a backward pass; ours doesn't. No
parameter is frozen for it: the kernels read the weights detached, so that there is nothing to put back.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.kernels.native import backend
from lstm_explain.nn.layers import RunsSequence, run_layers, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM
from lstm_explain.nn.sequence import run_sequence
from lstm_explain.recording.compiled import not_compiled
from lstm_explain.recording.opened import Forward, saved_elsewhere
from lstm_explain.recording.stand_in import replaced

Lowest = Callable[[str, Tensor, Layout], RunsSequence | None]
"""``lowest(path, rows, layout)`` is asked at each call of a module who runs its lowest layer; None for its kernel."""

_STOCK = (nn.LSTM.forward, PeepholeLSTM.forward)


def has_own_kernel(module: nn.Module) -> bool:
    """Whether a module is an LSTM whose pass is what the equations say, on memory that the kernels know, and isn't faster than they are."""
    return (
        (isinstance(module, nn.LSTM) and backend().name == "native" or isinstance(module, PeepholeLSTM))
        and type(module).forward in _STOCK
        and "forward" not in vars(module)
        and all(one.is_cpu and one.dtype in (torch.float32, torch.float64) for one in module.parameters())
    )


class OwnKernels:
    """The LSTMs of a model that may run by our own kernels, by their paths, and those that did."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.ran: dict[str, None] = {}


@contextmanager
def own_kernels(model: nn.Module, lowest: Lowest | None = None) -> Iterator[OwnKernels]:
    """While the LSTMs of a model run by our own kernels where gradients are on; its parameters get none by them.

    Parameters
    ----------
    model : torch.nn.Module
    lowest : Lowest, optional
        Who runs the lowest layer of a module.

    Yields
    ------
    OwnKernels
        None of a compiled model, whose code doesn't come by here.
    """
    modules = dict(model.named_modules())
    compiled = any(hasattr(module, "_orig_mod") for module in modules.values())
    found = {} if compiled else {path: module for path, module in modules.items() if has_own_kernel(module)}
    kernels = OwnKernels(list(found))
    with ExitStack() as stack:
        if found:
            stack.enter_context(not_compiled())
        for path, module in found.items():
            stack.enter_context(replaced(module, _Pass(path, module, lowest, kernels)))
        yield kernels


class _Pass:
    """In place of an LSTM's `forward`."""

    def __init__(self, path: str, module: Any, lowest: Lowest | None, kernels: OwnKernels) -> None:
        self._path, self._module, self._lowest, self._kernels = path, module, lowest, kernels
        self._original: Forward = module.forward
        self._form = module.form if isinstance(module, PeepholeLSTM) else Form(None)
        self._thread = get_ident()

    def __call__(self, input: Any, hx: Any = None) -> Any:
        """As the module itself, to rounding."""
        if self._otherwise():
            return self._original(input, hx)
        self._kernels.ran[self._path] = None
        rows, layout = lay_out(input, input_size=self._module.input_size, batch_first=self._module.batch_first, dtype=None)
        by = None if self._lowest is None else self._lowest(self._path, rows, layout)
        run = run_layers(self._module, self._form, input, hx, keep=False, weights=_detached, lowest=by or run_sequence)
        return run.output, (run.h_n, run.c_n)

    def _otherwise(self) -> bool:
        """Whether somebody is at work that the kernels don't know of, or the weights are others than the module's attributes."""
        if get_ident() != self._thread:
            return True
        if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
            return True
        if saved_elsewhere() is not None or torch._C._current_graph_task_id() != -1:  # activation checkpointing
            return True
        if isinstance(self._module, PeepholeLSTM):
            return False
        read = [getattr(self._module, name) for name in self._module._flat_weights_names]
        return any(one is not other for one, other in zip(read, self._module._flat_weights, strict=True))


def _detached(module: Any, suffix: str) -> Weights:
    """The weights of a layer, out of the reach of gradients; those that are computed stay, since they may be of what is read."""
    weights = weights_of(module, suffix)
    return Weights(*(one if one is None or one.grad_fn is not None else one.detach() for one in weights))  # type: ignore[arg-type]
