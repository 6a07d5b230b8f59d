"""What is asked of a model before anything is attributed: points in the place of its inputs, and the number that they make."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.explained import Explained
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.trajectory import checked_lengths

Target = int | tuple[int, ...]

STEPS_AT_ONCE = 16_384
"""Time steps in one forward pass, unless `internal_batch_size` says otherwise."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""What a residual may be, as a share of the difference of outputs; at lower precision than these, `LOOSEST`."""
LOOSEST = 2e-2


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients on, and no cuDNN, whose recurrent layers have no backward pass in that mode; all put back after."""
    modes = {module: module.training for module in model.modules()}
    if any(modes.values()):
        model.eval()
    cudnn = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in modes.items():
            if module.training != training:
                module.training = training


def _embedding(model: nn.Module, path: str | None) -> tuple[str, nn.Embedding]:
    """The layer in whose space tokens are attributed."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if path is not None:
        if path not in found:
            raise InputError(f"needed embedding as the path of a torch.nn.Embedding, one of {', '.join(found) or 'none'}, got {path!r}")
        return path, found[path]
    if len(found) != 1:
        which = f"found {', '.join(found)}: say which with embedding=" if found else "found none: give features as floating-point numbers"
        raise InputError(f"needed one torch.nn.Embedding to attribute whole-number inputs in its space, {which}")
    return next(iter(found.items()))


def as_points(model: nn.Module, inputs: Any, embedding: str | None) -> tuple[Tensor, str | None, nn.Embedding | None]:
    """What is attributed: the inputs, or their embeddings, with the path of the embedding and the layer."""
    if not isinstance(inputs, Tensor) or inputs.dim() not in (2, 3) or 0 in inputs.shape:
        got = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"needed inputs as a tensor (batch, time[, feature]), none of them zero, got {got}")
    if inputs.is_complex():
        raise InputError("needed real inputs, got complex ones")
    if inputs.is_floating_point():
        if embedding is not None:
            raise InputError(f"needed whole-number inputs with embedding={embedding!r}, got {inputs.dtype}")
        return inputs.detach().clone(), None, None
    if inputs.dim() != 2:
        raise InputError(f"needed whole-number inputs as (batch, time), or features as floating-point numbers, got {tuple(inputs.shape)}")
    path, layer = _embedding(model, embedding)
    with torch.no_grad(), as_input_error(f"{path} can't read the inputs"):
        # Without the layer's hooks, which run when the model asks for the points.
        return layer.forward(inputs.long()).detach().clone(), path, layer


def numbers(explained: Callable[[Tensor, Tensor], Tensor], points: Tensor, rows_at_once: int, where: str) -> Tensor:
    """The number to explain at one point for each example, without gradient; it must be finite."""
    rows = torch.arange(len(points), device=points.device)
    with torch.no_grad():
        return finite(torch.cat([explained(points[part], part) for part in rows.split(rows_at_once)]), where)


def finite(numbers: Tensor, where: str) -> Tensor:
    """The numbers themselves, if they are."""
    for example, number in enumerate(numbers.tolist()):
        if not math.isfinite(number):
            raise InputError(f"needed a finite output, got {number} for example {example}{where}")
    return numbers


def copies(explained: Explained, points: Tensor, time: int) -> Tensor:
    """The last example's number beside copies of itself."""
    # Never as many as there are steps.
    rows = torch.full((3 if time == 2 else 2,), len(points) - 1, device=points.device)
    with torch.no_grad():
        return explained(points[rows], rows)


def check_independent(copies: Tensor, together: Tensor, dtype: torch.dtype) -> None:
    """Each example's number must be its own: the same beside copies of itself as it was beside the others."""
    itself = float(together[-1])
    gaps = [abs(copy - itself) for copy in copies.tolist()]
    if not all(gap <= torch.finfo(dtype).eps ** 0.5 * max(abs(itself), 1.0) for gap in gaps):
        gap = max(gaps)
        raise InputError(
            f"needed a model that reads each example by itself, batch first: example {len(together) - 1}'s output changes by {gap:.2g} "
            "with what is beside it in the batch; if the model reads time first, wrap it"
        )


NO_GRADIENT = "needed a gradient from the output to the inputs, got none: something on the way detaches; occlusion needs none"


class Differentiable(NamedTuple):
    """The first example's number ``(1,)``, on autograd's graph, and the point that it was made from."""

    number: Tensor
    point: Tensor


def differentiable(explained: Explained, points: Tensor) -> Differentiable:
    """A pass with gradients of the first example."""
    # Through a copy, so that a model that writes into its input meets no leaf.
    leaf = points[:1].detach().clone().requires_grad_()
    return Differentiable(explained(leaf.clone(), torch.zeros(1, dtype=torch.int64, device=points.device)), leaf)


def first_gradient(passed: Differentiable) -> Callable[[], Tensor]:
    """That a gradient leads from the first example's number to its input; what it is, when somebody asks, by the pass that has shown it.

    Raises
    ------
    InputError
        If none does.
    """
    result, leaf = passed
    if not _leads(result, leaf):
        raise InputError(NO_GRADIENT)

    def found() -> Tensor:
        gradient = torch.autograd.grad(result.sum(), leaf, allow_unused=True, retain_graph=True)[0]
        if gradient is None:
            raise InputError(NO_GRADIENT)
        return gradient

    return found


def _leads(result: Tensor, leaf: Tensor) -> bool:
    """Whether autograd's graph leads from a result to a leaf: a look at it is less than a backward pass."""
    ahead, seen = [result.grad_fn], set[Any]()
    while ahead:
        if (node := ahead.pop()) is not None and node not in seen:
            if getattr(node, "variable", None) is leaf:
                return True
            seen.add(node)
            ahead += [below for below, _ in node.next_functions]
    return False


def output_shape(
    model: nn.Module,
    inputs: Tensor,
    args: Any,
    output: Callable[[Any], Tensor] | None,
    embedding: str | None,
    lengths: Tensor | Sequence[int] | None,
) -> torch.Size:
    """The shape of what the model returns for its longest example and copies of it.

    Raises
    ------
    InputError
        If the model can't be called with the inputs.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    with evaluated(model), torch.no_grad():
        points, path, _ = as_points(model, inputs, embedding)
        batch, time = points.shape[:2]
        known = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
        longest = 0 if known is None else int(known.argmax())
        # Never as many as there are steps.
        rows = torch.full((3 if time == 2 else 2,), longest, device=points.device)
        return Explained(model, inputs.detach().clone(), path, args, output, [None] * batch, known).shape(points[rows], rows)


def element_in_words(index: tuple[int, ...]) -> str:
    """An element of the output, as results name it."""
    return f"output[{', '.join(map(str, index))}]" if index else "output"
