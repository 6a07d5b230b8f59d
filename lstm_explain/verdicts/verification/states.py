"""What the first leg is scored on: the steps that are kept, the states of untrained twins there, and the window of inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.ablation.held import evaluated
from lstm_explain.analyses.probing.sources import one_hot
from lstm_explain.analyses.probing.sources import window as last_inputs
from lstm_explain.analyses.probing.untrained import untrained
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.recording.runner import record

_BATCH = 16


def kept(valid: NDArray[np.bool_], at_most: int, seed: int) -> NDArray[np.bool_]:
    """The steps to score on, ``(batch, time)``: all, or every so many of each sequence from a step that `seed` draws."""
    stride = max(1, -(-int(valid.sum()) // at_most))
    first = int(np.random.default_rng(seed).integers(stride))
    # A sequence that is shorter than that keeps a step as well.
    phase = first % np.maximum(valid.sum(1, keepdims=True), 1)
    return np.asarray(valid & (np.arange(valid.shape[1]) % stride == phase % stride))


def twins_of(model: nn.Module, twins: int | Sequence[nn.Module], seed: int) -> list[nn.Module]:
    """Untrained twins, made or given.

    Raises
    ------
    InputError
        If they can't be made, or are something else.
    """
    if isinstance(twins, int) and not isinstance(twins, bool) and twins >= 0:
        return [untrained(model, seed=seed + number) for number in range(twins)]
    if isinstance(twins, (int, str)) or not isinstance(twins, Sequence) or not all(isinstance(one, nn.Module) for one in twins):
        raise InputError(f"needed twins as a whole number from 0 on, or as a list of models, got {twins!r:.60}")
    return list(twins)


def states_of(
    twin: nn.Module, inputs: Tensor, memories: Mapping[str, str], args: Any, lengths: Tensor | None, keep: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """What each layer of a twin remembers at the steps that are kept, ``(step, unit)``."""
    found: dict[str, list[NDArray[Any]]] = {layer: [] for layer in memories}
    given = () if args is None else tuple(args) if isinstance(args, (tuple, list)) else (args,)
    with evaluated(twin):
        for rows in torch.arange(len(inputs)).split(_BATCH):
            own = [arg[rows] if isinstance(arg, Tensor) and arg.dim() and len(arg) == len(inputs) else arg for arg in given]
            lengths_here = None if lengths is None else lengths[rows]
            with record(twin, layers=list(memories), signals=sorted(set(memories.values())), lengths=lengths_here) as recording:
                with as_input_error("an untrained twin can't be called as the model is"):
                    twin(inputs[rows], *own)
            for layer, memory in memories.items():
                values = numbers(recording[layer].signal(memory))
                if not np.isfinite(values).all():
                    raise InputError(f"needed finite states of an untrained twin, got NaN or infinity in {layer}: give others with twins=")
                found[layer].append(values[keep[rows.numpy(), : values.shape[1]]])
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def numbers(values: Tensor) -> NDArray[Any]:
    """A signal in its own precision, or in float32 where NumPy has none so low."""
    return (values if values.dtype in (torch.float32, torch.float64) else values.float()).cpu().numpy()


def windowed(inputs: Tensor, valid: NDArray[np.bool_], window: int, keep: NDArray[np.bool_]) -> Any:
    """The last inputs at each kept step ``(step, feature)``, dense or one-hot."""
    seen = last_inputs(inputs, valid, window)[keep[valid]]
    return one_hot(seen, int(seen.max()) + 1) if seen.dtype.kind == "i" else seen.astype(np.float64)
