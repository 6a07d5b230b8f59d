"""What stands for "nothing was there", for each point."""

from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.joined import Joined, flat
from lstm_explain.errors import InputError


def _given(baselines: Any, device: torch.device, layer: nn.Embedding | None) -> Tensor:
    """A baseline as numbers in the space of the points: tokens by their embeddings."""
    try:
        given = torch.as_tensor(0.0 if baselines is None else baselines, device=device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed baselines as a number or a tensor, got {type(baselines).__name__}") from None
    if layer is None or given.is_floating_point():
        return given
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < layer.num_embeddings:
        raise InputError(
            f"needed baseline tokens from 0 to {layer.num_embeddings - 1}, got {int(given.min())} to {int(given.max())}; a vector is "
            "given as floating-point numbers"
        )
    with torch.no_grad():
        return layer.forward(given)


def _baselines(baselines: Any, points: Tensor, layer: nn.Embedding | None, sample: bool) -> Tensor:
    """A baseline for every point: a number, a tensor that broadcasts to the points, or tokens where the inputs are tokens.

    With `sample`, what has as many axes as the points is several baselines, which needn't be as many as the examples.
    """
    given = _given(baselines, points.device, layer)
    wanted = points.shape
    if sample:
        wanted = torch.Size((len(given) if given.dim() == points.dim() else 1, *points.shape[1:]))
    try:
        return given.to(points.dtype).expand(wanted).clone()
    except RuntimeError:
        shape = tuple(given.shape)
        raise InputError(f"needed baselines as a number or a tensor that broadcasts to {tuple(wanted)}, got shape {shape}") from None


def joined_baselines(baselines: Any, joined: Joined, points: Tensor, layer: nn.Embedding | None, sample: bool) -> Tensor:
    """Baselines for each input, as points."""
    parts = joined.as_given(points)
    each = flat(baselines) if isinstance(baselines, tuple) else [baselines] * len(parts)
    if len(each) != len(parts):
        raise InputError(f"needed baselines for each of {len(parts)} inputs, or one number, got {len(each)}")
    if joined.single:
        return _baselines(each[0], parts[0], layer, sample)
    if sample and any(isinstance(one, Tensor) for one in each):
        raise InputError("needed baselines of gradient_shap as numbers where there are several inputs, got a tensor")
    layers = (layer, *[None] * (len(parts) - 1))
    given = [_baselines(one, part, here, False) for one, part, here in zip(each, parts, layers, strict=True)]
    whole = joined.join(joined.batch_first(given))
    return whole[:1] if sample else whole
