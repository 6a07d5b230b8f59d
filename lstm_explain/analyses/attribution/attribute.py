"""`attribute`: what each step and feature of the input contributed to one number of the output."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.explained import Explained, targets_of
from lstm_explain.analyses.attribution.methods import DECOMPOSITIONS, Problem, method_named
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import number
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.trajectory import checked_lengths

Target = int | tuple[int, ...]

STEPS_AT_ONCE = 16_384
"""Time steps in one forward pass, unless `internal_batch_size` says otherwise."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""What a residual may be, as a share of the difference of outputs; at lower precision than these, `LOOSEST`."""
LOOSEST = 2e-2


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients on, and no cuDNN, whose recurrent layers have no backward pass in that mode; all put back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    cudnn = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in modes.items():
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


def _as_points(model: nn.Module, inputs: Any, embedding: str | None) -> tuple[Tensor, str | None, nn.Embedding | None]:
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


def _baselines(baselines: Any, points: Tensor, layer: nn.Embedding | None) -> Tensor:
    """A baseline for every point: a number, a tensor that broadcasts to the points, or tokens where the inputs are tokens."""
    try:
        given = torch.as_tensor(0.0 if baselines is None else baselines, device=points.device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"needed baselines as a number or a tensor, got {type(baselines).__name__}") from None
    if layer is not None and not given.is_floating_point():
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < layer.num_embeddings:
            raise InputError(
                f"needed baseline tokens from 0 to {layer.num_embeddings - 1}, got {int(given.min())} to {int(given.max())}; a vector is "
                "given as floating-point numbers"
            )
        with torch.no_grad():
            given = layer.forward(given)
    try:
        return given.to(points.dtype).expand(points.shape).clone()
    except RuntimeError:
        shape, wanted = tuple(given.shape), tuple(points.shape)
        raise InputError(f"needed baselines as a number or a tensor that broadcasts to {wanted}, got shape {shape}") from None


def _numbers(explained: Explained, points: Tensor, rows_at_once: int, where: str) -> Tensor:
    """The number to explain at one point for each example, without gradient; it must be finite."""
    rows = torch.arange(len(points), device=points.device)
    with torch.no_grad():
        numbers = torch.cat([explained(points[part].clone(), part) for part in rows.split(rows_at_once)])
    bad = (~numbers.isfinite()).nonzero()
    if len(bad):
        example = int(bad[0])
        raise InputError(f"needed a finite output, got {float(numbers[example])} for example {example}{where}")
    return numbers


def _copies(explained: Explained, points: Tensor) -> Tensor:
    """The last example's number beside copies of itself."""
    # Never as many as there are steps.
    rows = torch.full((3 if points.shape[1] == 2 else 2,), len(points) - 1, device=points.device)
    with torch.no_grad():
        return explained(points[rows], rows)


def _check_independent(copies: Tensor, together: Tensor, dtype: torch.dtype) -> None:
    """Each example's number must be its own: the same beside copies of itself as it was beside the others."""
    gap = float((copies - together[-1]).abs().max())
    if not gap <= torch.finfo(dtype).eps ** 0.5 * float(together[-1].abs().clamp(min=1)):
        raise InputError(
            f"needed a model that reads each example by itself, batch first: example {len(together) - 1}'s output changes by {gap:.2g} "
            "with what is beside it in the batch; if the model reads time first, wrap it"
        )


def _check_gradient(explained: Explained, points: Tensor) -> None:
    # Through a copy, so that a model that writes into its input meets no leaf.
    leaf = points[:1].detach().clone().requires_grad_()
    result = explained(leaf.clone(), torch.zeros(1, dtype=torch.int64, device=points.device))
    if not result.requires_grad or torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0] is None:
        raise InputError("needed a gradient from the output to the inputs, got none: something on the way detaches; occlusion needs none")


def _check_settings(baselines: Any, method: str, tolerance: Any, n_steps: Any, internal_batch_size: Any) -> None:
    if baselines is not None and method in ("saliency", "input_x_gradient"):
        raise InputError(f"needed no baselines for {method}, which has none, got some")
    for name, value in (("n_steps", n_steps), ("internal_batch_size", internal_batch_size)):
        if value is not None and not (isinstance(value, int) and value > 0):
            raise InputError(f"needed {name} as a positive whole number, got {value!r}")
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise InputError(f"needed a positive tolerance, got {tolerance!r}")


def attribute(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: Target | list[Any] | Tensor | None = None,
    method: str = "integrated_gradients",
    baselines: Tensor | float | int | None = None,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    embedding: str | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    tolerance: float | None = None,
    n_steps: int = 512,
    internal_batch_size: int | None = None,
    rule: str | None = None,
    epsilon: float | None = None,
) -> AttributionResult:
    """What each step and feature of the input contributed to one number of the output.

    The model runs in evaluation mode, and without cuDNN, whose recurrent layers refuse a backward pass there; its own mode, its gradients
    and every setting are as before when this returns.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs, *additional_forward_args)``; reads the batch first, each example by itself (which is checked).
    inputs : Tensor ``(batch, time[, feature])``
        Features; or tokens ``(batch, time)`` as whole numbers, which are attributed in the space of the model's embedding.
    target : optional
        Which element of each example's output: None for an output ``(batch,)``, a class for ``(batch, class)``, ``(step,)`` for
        ``(batch, time)``, ``(step, class)`` for ``(batch, time, class)``; or a list with one for each example. Step -1 is the last
        valid one.
    method : {"integrated_gradients", "saliency", "input_x_gradient", "occlusion", "lrp", "cell_decomposition"}
        Integrated gradients (Sundararajan, Taly & Yan 2017) by Gauss-Legendre, with 8 nodes, then 16, 32, ... for the examples whose
        attributions don't add up within `tolerance`. Saliency (Simonyan, Vedaldi & Zisserman 2014): the size of the gradient. Input x
        gradient (Shrikumar et al. 2016). Occlusion (Zeiler & Fergus 2014): what changes when one step gets the baseline's value.

        Layer-wise relevance propagation (Arras et al. 2017, 2019) hands the whole output back through the equations of recurrent layers
        and cells, of a stack in all directions, and says what went elsewhere; past them it is gradient times input, exact where the model
        is linear, with the rest in the residual. Cell decomposition (Murdoch & Szlam 2017): what each step has added to the cell state that
        the output is read from, with the gates held as they were; of a stack, the steps of the top layer's input, as `settings` say. It is
        defined where the output is a linear read-out of the top layer's hidden (or last cell) state at one step, which is checked.
    baselines : number or Tensor, optional
        What stands for "nothing was there": a number, or a tensor that broadcasts to the inputs (or to their embeddings); tokens, where
        the inputs are tokens. Zero if left out. Padding is never changed.
    additional_forward_args : optional
        What else the model is called with; tensors whose first axis is as long as the batch go along with their example.
    output : callable, optional
        What the model returned -> the tensor to explain; if left out, what it returned, or the first item of a tuple.
    embedding : str, optional
        Path of the `torch.nn.Embedding`, where the model has several.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each example are real. Padding gets exactly zero. Only for the attribution: a model that needs them gets them
        through `additional_forward_args`.
    tolerance : float, optional
        What the residual may be, as a share of the difference of outputs: 1e-6 in float64, 1e-4 in float32, 2e-2 below.
    n_steps : int
        At most so many nodes for integrated gradients.
    internal_batch_size : int, optional
        Rows in one forward pass; as many as make 16,384 time steps if left out.
    rule : {"all", "half", "proportional"}, optional
        Of LRP, what a gate gets of the relevance of gate times signal: nothing, half, or as the sizes of the two compare. The first, if
        left out; only there nothing divides by a sum that may vanish. Of a GRU and an RNN only the first is defined, gates holding still.
        Peepholes into gates get what the gate gets; into the candidate, as in the ``previous`` wiring, they carry a signal.
    epsilon : float, optional
        Of LRP's ε-rule inside recurrent layers; what it takes is stated. 0 for the rule ``"all"``, which needs none, else 1e-6.

    Returns
    -------
    AttributionResult
        With the residual of every example. One that doesn't reach the tolerance is returned and marked in `converged`.

    Raises
    ------
    InputError
        If a method is refused or unknown, or not defined for the model, an argument doesn't fit, the output isn't finite, or no gradient
        reaches the inputs.
    CertificateError
        If a decomposition meets a recurrent layer that isn't what its equations say.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True).double()
    >>> result = lx.attribute(model, torch.randn(4, 10, 8).double(), target=(-1, 3), lengths=[10, 7, 10, 10])
    >>> result.attributions.shape, bool(result.converged.all())
    ((4, 10, 8), True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    if method in DECOMPOSITIONS:
        # It stands on what is above.
        from lstm_explain.analyses.attribution.decomposition.decomposed import decomposed

        if baselines is not None:
            raise InputError(f"needed no baselines for {method}, which has none, got some")
        if method != "lrp":
            _check_without_rule(rule, epsilon, method)
        question = {"additional_forward_args": additional_forward_args, "output": output, "embedding": embedding, "lengths": lengths}
        question |= {"tolerance": tolerance, "internal_batch_size": internal_batch_size}
        return decomposed(model, inputs, target, method, rule, epsilon, **question)
    _check_without_rule(rule, epsilon, method)
    how = method_named(method)
    _check_settings(baselines, method, tolerance, n_steps, internal_batch_size)
    with _evaluated(model):
        points, path, layer = _as_points(model, inputs, embedding)
        batch, time = points.shape[:2]
        known = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
        steps = torch.arange(time) < (torch.full((batch,), time) if known is None else known).unsqueeze(1)
        valid = steps.to(points.device).reshape(batch, time, *[1] * (points.dim() - 2)).expand(points.shape)
        baseline = torch.where(valid, _baselines(baselines, points, layer), points)
        wanted = targets_of(target, batch)
        explained = Explained(model, inputs.detach().clone(), path, additional_forward_args, output, wanted, known)
        rows_at_once = internal_batch_size or max(1, STEPS_AT_ONCE // time)
        # Of tokens, the first pass must not be square: it shows whether the model turns them.
        copies = None if path is None else _copies(explained, points)
        at_input = _numbers(explained, points, rows_at_once, "")
        copies = _copies(explained, points) if copies is None else copies
        _check_independent(copies, at_input, points.dtype)
        if method != "occlusion":
            _check_gradient(explained, points)
        elsewhere = " at the baseline: choose another with baselines="
        at_baseline = None if method == "saliency" else _numbers(explained, baseline, rows_at_once, elsewhere)
        allowed = TOLERANCE.get(points.dtype, LOOSEST) if tolerance is None else tolerance
        problem = Problem(points, baseline, valid, explained, rows_at_once, at_input, at_baseline, allowed, n_steps)
        found, settings = how(problem)
    attributions = torch.where(valid if found.dim() == valid.dim() else steps.to(points.device), found.double(), 0.0)
    delta = None
    if at_baseline is not None:
        delta = (attributions.flatten(1).sum(1) - (at_input.double() - at_baseline.double())).cpu().numpy()
    complete = method == "integrated_gradients"
    return AttributionResult(
        attributions=attributions.cpu().numpy(),
        valid=steps.numpy(),
        output=at_input.double().cpu().numpy(),
        baseline_output=None if at_baseline is None else at_baseline.double().cpu().numpy(),
        convergence_delta=delta,
        converged=problem.adds_up(attributions, problem.rows).cpu().numpy() if complete else None,
        explained=tuple(_element_in_words(explained.index[row]) for row in range(batch)),
        method=method,
        settings={
            "tolerance": allowed,
            "n_steps_at_most": n_steps,
            "baselines": _in_words(baselines, method),
            "embedding": path,
            "dtype": str(points.dtype).removeprefix("torch."),
            **settings,
        },
        padding="unknown" if known is None else "none" if bool(steps.all()) else "known",
    )


def _check_without_rule(rule: Any, epsilon: Any, method: str) -> None:
    for name, value in (("rule", rule), ("epsilon", epsilon)):
        if value is not None:
            raise InputError(f"needed no {name} for {method}, which has none, got {value!r}")


def _element_in_words(index: tuple[int, ...]) -> str:
    return f"output[{', '.join(map(str, index))}]" if index else "output"


def _in_words(baselines: Any, method: str) -> str | None:
    if method == "saliency":
        return None
    given = torch.as_tensor(0.0 if baselines is None else baselines)
    kind = "token " if not given.is_floating_point() and baselines is not None else ""
    return f"{kind}{number(float(given))}" if given.dim() == 0 else f"{kind}tensor {tuple(given.shape)}"
