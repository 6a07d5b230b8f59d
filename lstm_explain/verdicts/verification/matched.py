"""Units that are like a claim's in how much they vary and how strongly they are read, and might matter as much for that alone."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.runner import Layer

ALPHA = 0.05
FEWEST = 39
"""Sets of units that a claim is held against: half of the layer's, or so many where that is fewer, as far as there are as many."""


def outgoing(
    model: nn.Module, layer: Layer, hidden: Tensor | None, valid: Tensor, call: Callable[[], object]
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """How strongly each unit is read: the norm of all weights that multiply it, ``(unit,)``; and which weights these are.

    They are the layer's own recurrent ones, those of the next layer of the same module, and those of each linear layer whose input turns
    out to be, bit for bit, the layer's output. None where none is known, as of cells that were registered.

    Parameters
    ----------
    hidden : Tensor ``(batch, time, unit)`` or None
        What the layer put out; None under a projection, which is then what reads the units.
    valid : Tensor of bool ``(batch, time)``
    call : callable
        Calls the model with these sequences.
    """
    parameters = {name: value.detach() for name, value in layer.module.named_parameters()}
    found: dict[str, Tensor] = {}
    end = f"_{layer.suffix}" if layer.suffix else ""
    for name in (f"weight_hh{end}", f"weight_ch{end}") if hidden is not None else (f"weight_hr{end}",):
        # A diagonal peephole acts on its own unit alone.
        if name in parameters and not (name.startswith("weight_ch") and _diagonal(layer.module)):
            found[name] = parameters[name]
    if hidden is not None:
        width = hidden.shape[2]
        if layer.suffix:
            above, reverse = int(layer.suffix.split("_")[0][1:]) + 1, layer.suffix.endswith("_reverse")
            for name in (f"weight_ih_l{above}", f"weight_ih_l{above}_reverse"):
                if name in parameters:
                    found[name] = parameters[name][:, width * reverse : width * (1 + reverse)]
        found |= _readers(model, hidden, valid, call)
    if not found:
        return None, ()
    return np.sqrt(np.sum([value.double().square().sum(0).cpu().numpy() for value in found.values()], axis=0)), tuple(found)


def _diagonal(module: nn.Module) -> bool:
    return isinstance(module, (PeepholeLSTM, PeepholeLSTMCell)) and module.form.peephole == "diagonal"


def _readers(model: nn.Module, hidden: Tensor, valid: Tensor, call: Callable[[], object]) -> dict[str, Tensor]:
    """The columns of linear layers that read the layer's output as it is."""
    width, found = hidden.shape[2], {}

    def look(name: str, module: nn.Linear, given: Tensor) -> None:
        for at in range(0, given.shape[-1] - width + 1, width):
            if _same(given[..., at : at + width], hidden, valid):
                found[f"{name}.weight"] = module.weight.detach()[:, at : at + width]

    hooks = [
        module.register_forward_pre_hook(lambda module, given, name=name: look(name, module, given[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        call()
    finally:
        for one in hooks:
            one.remove()
    return found


def _same(given: Tensor, hidden: Tensor, valid: Tensor) -> bool:
    """Whether this is the output: all of it, or its last step, batch first or time first."""
    if given.dim() == 2:
        last = valid.sum(1) - 1
        return torch.equal(given, hidden[torch.arange(len(hidden)), last])
    if given.dim() != 3:
        return False
    for one in (given, given.transpose(0, 1)):
        # What was packed comes back as long as the longest sequence.
        steps = one.shape[1]
        if len(one) == len(hidden) and steps <= hidden.shape[1] and not bool(valid[:, steps:].any()):
            here = valid[:, :steps]
            if torch.equal(one[here], hidden[:, :steps][here]):
                return True
    return False


def matched(units: tuple[int, ...], variance: NDArray[np.float64], norms: NDArray[np.float64] | None, most: int) -> list[tuple[int, ...]]:
    """At most so many sets of other units, each as large, the most alike first: near in the ranks of variance and of what reads them."""
    others = np.setdiff1d(np.arange(len(variance)), units)
    places = np.stack([rankdata(one) for one in (variance, norms) if one is not None], axis=1)
    away = [others[np.argsort(((places[others] - places[unit]) ** 2).sum(1), kind="stable")].tolist() for unit in units]
    sets: list[tuple[int, ...]] = []
    free = set(others.tolist())
    while len(free) >= len(units) and len(sets) < min(max(FEWEST, len(others) // 2), most):
        one = []
        for order in away:
            nearest = next(unit for unit in order if unit in free)
            free.remove(nearest)
            one.append(nearest)
        sets.append(tuple(sorted(one)))
    return sets


def bar(values: NDArray[np.float64]) -> int:
    """The matched set of the least effect that a claim must still do more than, of effects ``(set,)``.

    With more than that it is among the largest 5 % of them, itself counted; of fewer than 19 it must be above all.
    """
    # 5 % of 20 are 1, whatever the rounding.
    may = max(int(ALPHA * (1 + len(values)) + 1e-9) - 1, 0)
    return int(np.argsort(-values, kind="stable")[may])
