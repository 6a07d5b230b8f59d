"""Which inputs made this output?

Attributions by Captum's methods, made safe for recurrent networks: tokens are attributed in embedding space, padding gets exactly
zero, integrated gradients are refined until they add up, and methods that are wrong on gates are refused with the reason.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.recording.runner import replaced
from lstm_explain.trajectory import Padding, checked_lengths

if TYPE_CHECKING:
    from pandas import DataFrame

Target = int | tuple[int, ...]

STEPS_AT_ONCE = 16_384
"""Time steps in one forward pass, unless `internal_batch_size` says otherwise."""
FEWEST_NODES = 8
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""What a residual may be, as a share of the difference of outputs; at lower precision than these, `LOOSEST`."""
LOOSEST = 2e-2


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult:
    """What each input contributed to one number of each example's output.

    Attributes
    ----------
    attributions : ndarray ``(batch, time[, feature])``
        In units of the output; exactly zero at padding. For tokens, `feature` is the embedding's axis. Occlusion has one value for each
        step.
    valid : ndarray of bool ``(batch, time)``
    output : ndarray ``(batch,)``
        The number that was explained.
    baseline_output : ndarray ``(batch,)`` or None
        The same number with the baseline in place of the input; None for a method without one.
    convergence_delta : ndarray ``(batch,)`` or None
        What the attributions are short of adding up, or beyond it: their sum less `output` plus `baseline_output`. None for saliency,
        which doesn't claim to add up.
    converged : ndarray of bool ``(batch,)`` or None
        Whether the residual is within the tolerance of `settings`. None for saliency.
    explained : tuple of str ``(batch,)``
        Which element of the output, in words.
    method : str
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    """

    attributions: NDArray[np.float64]
    valid: NDArray[np.bool_]
    output: NDArray[np.float64]
    baseline_output: NDArray[np.float64] | None
    convergence_delta: NDArray[np.float64] | None
    converged: NDArray[np.bool_] | None
    explained: tuple[str, ...]
    method: str
    settings: Mapping[str, Any]
    padding: Padding

    @property
    def by_step(self) -> NDArray[np.float64]:
        """The attributions of each step, summed over features: ``(batch, time)``."""
        summed: NDArray[np.float64] = self.attributions.reshape(*self.valid.shape, -1).sum(2)
        return summed

    @property
    def relative_delta(self) -> NDArray[np.float64] | None:
        """The size of the residual as a share of the difference of outputs ``(batch,)``; infinite where the outputs don't differ."""
        if self.convergence_delta is None or self.baseline_output is None:
            return None
        residual = np.abs(self.convergence_delta)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = residual / np.abs(self.output - self.baseline_output)
        return np.where(residual == 0, 0.0, share)

    def __repr__(self) -> str:
        batch, time = self.valid.shape
        return f"<Attribution by {self.method}: batch {batch}, time {time}, of {self._what()}; {self._check()}; padding {self.padding}>"

    def _what(self) -> str:
        return self.explained[0] if len(set(self.explained)) == 1 else f"{self.explained[0]}, ..."

    def _check(self) -> str:
        if self.converged is None or self.relative_delta is None:
            return "makes no claim to add up"
        n, of, worst = int(self.converged.sum()), len(self.converged), float(self.relative_delta.max())
        allowed = number(self.settings["tolerance"])
        return f"residual at most {worst:.1e} of the difference of outputs, within {allowed} (or rounding) for {n} of {of}"

    def _repr_html_(self) -> str:
        rows = []
        for at, what in enumerate(self.explained):
            before = "" if self.baseline_output is None else f"{self.baseline_output[at]:.4g}"
            delta = "" if self.convergence_delta is None else f"{self.convergence_delta[at]:.1e}"
            strongest = int(np.abs(self.by_step[at]).argmax())
            within = "" if self.converged is None else "yes" if self.converged[at] else "no"
            rows.append((at, what, f"{self.output[at]:.4g}", before, delta, within, f"{strongest} ({self.by_step[at, strongest]:.3g})"))
        header = ("example", "explained", "output", "baseline's output", "residual", "within tolerance", "strongest step")
        return table(f"Attribution by {self.method}: {self._check()}; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each valid step of each example. Needs pandas."""
        from pandas import DataFrame

        example, step = np.nonzero(self.valid)
        return DataFrame({"example": example, "step": step, "attribution": self.by_step[self.valid]})


def _looked_up(path: str, tokens: Tensor, points: Tensor) -> Callable[[Tensor], Tensor]:
    """In place of an embedding's forward pass: the points, in the order in which the model asks for them."""
    calls = 0

    def forward(input: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise InputError(f"needed {path} to be called once in a forward pass, got a second call: its tokens can't be told apart")
        if torch.equal(input, tokens):
            return points
        if input.dim() == 2 and torch.equal(input.T, tokens):
            return points.transpose(0, 1)
        raise InputError(f"needed {path} to be called with the inputs, got {tuple(input.shape)} that differs from them: name another layer")

    return forward


def _tensor_of(returned: Any, output: Callable[[Any], Tensor] | None) -> Tensor:
    """The tensor to explain, out of what the model returned."""
    if output is not None:
        with as_input_error("output= failed on what the model returned"):
            returned = output(returned)
    elif isinstance(returned, (tuple, list)) and returned and isinstance(returned[0], Tensor):
        returned = returned[0]
    if not isinstance(returned, Tensor):
        raise InputError(f"needed a tensor to explain, got {type(returned).__name__}: say how to get one with output=")
    return returned


def _targets(target: Any, batch: int) -> list[tuple[int, ...]]:
    """One target for each example."""
    if isinstance(target, Tensor):
        target = target.tolist()
    each = list(target) if isinstance(target, list) else [target] * batch
    if len(each) != batch:
        raise InputError(f"needed one target, or a list of {batch}, one for each example, got {len(each)}")
    return [() if one is None else tuple(one) if isinstance(one, (tuple, list)) else (int(one),) for one in each]


def _resolve(targets: list[tuple[int, ...]], shape: torch.Size, lengths: Tensor, time: int) -> list[tuple[int, ...]]:
    """Targets as indices into an output ``(batch, ...)``; negative steps count from each example's last valid one.

    Raises
    ------
    InputError
        If a target doesn't fit the output.
    """
    axes = shape[1:]
    resolved = []
    for example, target in enumerate(targets):
        if len(target) != len(axes):
            wanted = {0: "None", 1: "a class, or a step as (step,)", 2: "(step, class)"}.get(len(axes))
            if wanted is None:
                raise InputError(f"needed an output (batch[, step][, class]), got {tuple(shape)}: choose from it with output=")
            raise InputError(f"needed target as {wanted} for an output of shape {tuple(shape)}, got {target if target else None}")
        index = list(target)
        if axes and (len(axes) == 2 or axes[0] == time):
            steps = int(lengths[example]) if axes[0] == time else axes[0]
            if len(axes) == 2 or target[0] < 0:
                if not -steps <= target[0] < steps:
                    raise InputError(f"needed target step from {-steps} to {steps - 1} for example {example}, got {target[0]}")
                index[0] = target[0] % steps
        if axes and not 0 <= index[-1] < axes[-1]:
            raise InputError(f"needed target class from 0 to {axes[-1] - 1}, got {index[-1]}")
        resolved.append(tuple(index))
    return resolved


class _Forward:
    """The one number to explain for each row: a model, its targets, and points in place of its inputs or their embeddings."""

    def __init__(self, model: nn.Module, inputs: Tensor, path: str | None, args: Any, output: Any, target: Any, ends: Tensor) -> None:
        self.model, self.inputs, self.path, self.output, self.ends = model, inputs, path, output, ends
        self.args = () if args is None else args if isinstance(args, tuple) else (args,)
        self.targets = _targets(target, len(inputs))
        self.resolved: list[tuple[int, ...]] | None = None

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Points ``(n, time[, feature])``, each of the example that `rows` says, to ``(n,)``."""
        args = [
            arg[rows.to(arg.device)] if isinstance(arg, Tensor) and arg.dim() and len(arg) == len(self.inputs) else arg for arg in self.args
        ]
        shape = f"{tuple(points.shape)}, {str(points.dtype).removeprefix('torch.')}"
        with as_input_error(f"the model can't be called with inputs of shape {shape}"):
            if self.path is None:
                returned = self.model(points, *args)
            else:
                tokens = self.inputs[rows]
                with replaced(self.model.get_submodule(self.path), _looked_up(self.path, tokens, points)):
                    returned = self.model(tokens, *args)
        explained = _tensor_of(returned, self.output)
        if explained.dim() == 0 or len(explained) != len(rows):
            raise InputError(
                f"needed an output whose first axis is the batch, {len(rows)} here, got shape {tuple(explained.shape)}: rearrange it with "
                "output="
            )
        if self.resolved is None:
            self.resolved = _resolve(self.targets, explained.shape, self.ends, self.inputs.shape[1])
        index = torch.tensor([self.resolved[row] for row in rows.tolist()], device=explained.device).reshape(len(rows), -1).long()
        return explained[(torch.arange(len(rows), device=explained.device), *index.unbind(1))]


@dataclass(frozen=True)
class _Problem:
    """Points ``(batch, time[, feature])`` and what the model makes of them: one number for each example."""

    inputs: Tensor
    baselines: Tensor
    forward: _Forward
    rows_at_once: int

    def numbers(self, points: Tensor) -> Tensor:
        """The number to explain at one point for each example, without gradient."""
        rows = torch.arange(len(points), device=points.device)
        with torch.no_grad():
            parts = zip(points.split(self.rows_at_once), rows.split(self.rows_at_once), strict=True)
            return torch.cat([self.forward(part, of) for part, of in parts])

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """Each number's gradient at its point, by Captum."""
        from captum.attr import Saliency

        wanted = points.detach().requires_grad_()
        gradient: Tensor = Saliency(self.forward).attribute(wanted, abs=False, additional_forward_args=(rows,))
        return gradient.detach()

    def gradients(self) -> Tensor:
        """The gradient at the inputs themselves."""
        rows = torch.arange(len(self.inputs), device=self.inputs.device)
        parts = zip(self.inputs.split(self.rows_at_once), rows.split(self.rows_at_once), strict=True)
        return torch.cat([self.gradient(part, of) for part, of in parts])


def _saliency(problem: _Problem, tolerance: float, n_steps: int) -> tuple[Tensor, dict[str, Any]]:
    return problem.gradients().abs(), {}


def _input_x_gradient(problem: _Problem, tolerance: float, n_steps: int) -> tuple[Tensor, dict[str, Any]]:
    return problem.inputs * problem.gradients(), {}


def _occlusion(problem: _Problem, tolerance: float, n_steps: int) -> tuple[Tensor, dict[str, Any]]:
    from captum.attr import FeatureAblation

    batch, time = problem.inputs.shape[:2]
    step = torch.arange(time, device=problem.inputs.device).reshape(1, time, *[1] * (problem.inputs.dim() - 2))
    at_once = max(1, problem.rows_at_once // batch)
    attributions: Tensor = FeatureAblation(problem.forward).attribute(
        problem.inputs,
        baselines=problem.baselines,
        feature_mask=step.expand(1, *problem.inputs.shape[1:]),
        additional_forward_args=(torch.arange(batch, device=problem.inputs.device),),
        perturbations_per_eval=at_once,
    )
    # Captum gives every feature of a step the effect of the whole step.
    return attributions.reshape(batch, time, -1)[:, :, 0], {}


def _integrated_gradients(problem: _Problem, tolerance: float, n_steps: int) -> tuple[Tensor, dict[str, Any]]:
    """Gauss-Legendre, the nodes doubled for the examples that don't add up yet.

    The gradients are Captum's; the sum is ours, since Captum 0.9 rounds its weights to float32, whatever the dtype of the model.
    """
    path = problem.inputs - problem.baselines
    difference = problem.numbers(problem.inputs).double() - problem.numbers(problem.baselines).double()
    scale = torch.maximum(problem.numbers(problem.inputs).abs(), problem.numbers(problem.baselines).abs()).double()
    attributions = torch.zeros_like(path, dtype=torch.float64)
    used = torch.zeros(len(path), dtype=torch.int64)
    pending = torch.arange(len(path), device=path.device)
    nodes = min(FEWEST_NODES, n_steps)
    while len(pending):
        places, weights = np.polynomial.legendre.leggauss(nodes)
        total = torch.zeros_like(attributions[pending])
        # One point for each pair of an example and a node, so many pairs at a time.
        pairs = torch.cartesian_prod(torch.arange(nodes, device=path.device), torch.arange(len(pending), device=path.device))
        for part in pairs.split(problem.rows_at_once):
            node, at = part.unbind(1)
            rows = pending[at]
            alpha = torch.as_tensor((places + 1) / 2, device=path.device)[node].to(path.dtype).reshape(-1, *[1] * (path.dim() - 1))
            gradient = problem.gradient(problem.baselines[rows] + alpha * path[rows], rows).double()
            weight = torch.as_tensor(weights / 2, device=path.device)[node].reshape(-1, *[1] * (path.dim() - 1))
            total.index_add_(0, at, weight * gradient)
        attributions[pending] = total * path[pending].double()
        used[pending.cpu()] = nodes
        wrong = ~_adds_up(attributions[pending], difference[pending], scale[pending], tolerance, path.dtype)
        pending = pending[wrong] if nodes < n_steps else pending[:0]
        nodes = min(2 * nodes, n_steps)
    return attributions, {"n_steps": used.tolist()}


def _adds_up(attributions: Tensor, difference: Tensor, scale: Tensor, tolerance: float, dtype: torch.dtype) -> Tensor:
    """Whether sums are within `tolerance` of a difference of outputs, or as near as numbers of that size are rounded."""
    terms = attributions.flatten(1)
    residual = (terms.sum(1) - difference).abs()
    rounding = 8 * torch.finfo(dtype).eps * torch.maximum(scale, terms.abs().sum(1))
    return residual <= torch.maximum(tolerance * difference.abs(), rounding)


Method = Callable[[_Problem, float, int], tuple[Tensor, dict[str, Any]]]

METHODS: dict[str, Method] = {
    "integrated_gradients": _integrated_gradients,
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "occlusion": _occlusion,
}

_REFUSED = {
    "deep_lift": "its rules don't cover products of gates: on a fused LSTM it is input x gradient under another name",
    "deep_lift_shap": "its rules don't cover products of gates: on a fused LSTM it is an average of input x gradient under another name",
    "guided_backprop": "it changes the gradient of ReLUs, and a recurrent layer has none: it is saliency under another name",
    "deconvolution": "it changes the gradient of ReLUs, and a recurrent layer has none: it is saliency under another name",
}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _method(name: str) -> Method:
    if name in METHODS:
        return METHODS[name]
    known, refused = {_plain(key): key for key in METHODS}, {_plain(key): key for key in _REFUSED}
    nearest = difflib.get_close_matches(_plain(str(name)), [*known, *refused], n=1)
    if nearest and nearest[0] in refused:
        wrong = refused[nearest[0]]
        raise InputError(f"{wrong} is refused: {_REFUSED[wrong]}; use integrated_gradients, or occlusion as a check on it")
    hint = f": did you mean {known[nearest[0]]!r}?" if nearest else ""
    raise InputError(f"needed method as one of {', '.join(METHODS)}, got {name!r}{hint}")


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


def _check_numbers(numbers: Tensor, what: str) -> None:
    bad = (~numbers.isfinite()).nonzero()
    if len(bad):
        example = int(bad[0])
        raise InputError(f"needed a finite output, got {float(numbers[example])} for example {example} {what}")


def _check_independent(problem: _Problem, numbers: Tensor) -> None:
    """Each example's number must be its own: the same beside a copy of itself as it was beside the others."""
    last = len(numbers) - 1
    twice = torch.tensor([last, last], device=numbers.device)
    with torch.no_grad():
        alone = problem.forward(problem.inputs[twice], twice)
    scale = float(numbers[last].abs().clamp(min=1))
    gap = float((alone - numbers[last]).abs().max())
    if not gap <= torch.finfo(problem.inputs.dtype).eps ** 0.5 * scale:
        raise InputError(
            f"needed a model that reads each example by itself, batch first: example {last}'s output changes by {gap:.2g} with what is "
            "beside it in the batch; if the model reads time first, wrap it"
        )


def _check_gradient(problem: _Problem) -> None:
    rows = torch.zeros(1, dtype=torch.int64, device=problem.inputs.device)
    points = problem.inputs[:1].detach().requires_grad_()
    result = problem.forward(points, rows)
    if not result.requires_grad or torch.autograd.grad(result.sum(), points, allow_unused=True)[0] is None:
        raise InputError("needed a gradient from the output to the inputs, got none: something on the way detaches; occlusion needs none")


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
        return layer(inputs).detach().clone(), path, layer


def _baselines(baselines: Any, points: Tensor, layer: nn.Embedding | None) -> Tensor:
    """A baseline for every point: a number, a tensor that broadcasts to the points, or tokens where the inputs are tokens."""
    given = torch.as_tensor(0.0 if baselines is None else baselines, device=points.device)
    if layer is not None and not given.is_floating_point():
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < layer.num_embeddings:
            raise InputError(
                f"needed baseline tokens from 0 to {layer.num_embeddings - 1}, got {int(given.min())} to {int(given.max())}; a vector is "
                "given as floating-point numbers"
            )
        with torch.no_grad():
            given = layer(given)
    try:
        return given.to(points.dtype).expand(points.shape).clone()
    except RuntimeError:
        shape, wanted = tuple(given.shape), tuple(points.shape)
        raise InputError(f"needed baselines as a number or a tensor that broadcasts to {wanted}, got shape {shape}") from None


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
    method : {"integrated_gradients", "saliency", "input_x_gradient", "occlusion"}
        Integrated gradients (Sundararajan, Taly & Yan 2017) by Gauss-Legendre, with 8 nodes, then 16, 32, ... for the examples whose
        attributions don't add up within `tolerance`. Saliency (Simonyan, Vedaldi & Zisserman 2014): the size of the gradient. Input x
        gradient (Shrikumar et al. 2016). Occlusion (Zeiler & Fergus 2014): what changes when one step gets the baseline's value.
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

    Returns
    -------
    AttributionResult
        With the residual of every example. One that doesn't reach the tolerance is returned and marked in `converged`.

    Raises
    ------
    InputError
        If a method is refused or unknown, an argument doesn't fit, the output isn't finite, or no gradient reaches the inputs.

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
    how = _method(method)
    if baselines is not None and method in ("saliency", "input_x_gradient"):
        raise InputError(f"needed no baselines for {method}, which has none, got some")
    if n_steps < 1 or (internal_batch_size is not None and internal_batch_size < 1):
        raise InputError(f"needed positive n_steps and internal_batch_size, got {n_steps} and {internal_batch_size}")
    with _evaluated(model):
        points, path, layer = _as_points(model, inputs, embedding)
        batch, time = points.shape[:2]
        known = None if lengths is None else checked_lengths(lengths, batch, time)
        ends = torch.full((batch,), time) if known is None else known.cpu()
        valid = (torch.arange(time) < ends.unsqueeze(1)).to(points.device)
        wide = valid.reshape(batch, time, *[1] * (points.dim() - 2))
        baseline = torch.where(wide, _baselines(baselines, points, layer), points)
        forward = _Forward(model, inputs.detach().clone(), path, additional_forward_args, output, target, ends)
        problem = _Problem(points, baseline, forward, internal_batch_size or max(1, STEPS_AT_ONCE // time))
        at_input = problem.numbers(points)
        _check_numbers(at_input, "")
        _check_independent(problem, at_input)
        if method != "occlusion":
            _check_gradient(problem)
        at_baseline = None if method == "saliency" else problem.numbers(baseline)
        if at_baseline is not None:
            _check_numbers(at_baseline, "at the baseline: choose another with baselines=")
        allowed = TOLERANCE.get(points.dtype, LOOSEST) if tolerance is None else tolerance
        attributions, settings = how(problem, allowed, n_steps)
    attributions = attributions.double() * valid.reshape(batch, time, *[1] * (attributions.dim() - 2))
    delta = converged = None
    if at_baseline is not None:
        difference = at_input.double() - at_baseline.double()
        scale = torch.maximum(at_input.abs(), at_baseline.abs()).double()
        delta = (attributions.flatten(1).sum(1) - difference).cpu().numpy()
        converged = _adds_up(attributions, difference, scale, allowed, points.dtype).cpu().numpy()
    whole = bool(valid.all())
    return AttributionResult(
        attributions=attributions.cpu().numpy(),
        valid=valid.cpu().numpy(),
        output=at_input.double().cpu().numpy(),
        baseline_output=None if at_baseline is None else at_baseline.double().cpu().numpy(),
        convergence_delta=delta,
        converged=converged,
        explained=tuple(f"output[{', '.join(map(str, index))}]" if index else "output" for index in forward.resolved or []),
        method=method,
        settings={
            "tolerance": allowed,
            "baselines": _in_words(baselines, method),
            "embedding": path,
            "dtype": str(points.dtype).removeprefix("torch."),
            **settings,
        },
        padding="unknown" if known is None else "none" if whole else "known",
    )


def _in_words(baselines: Any, method: str) -> str | None:
    if method == "saliency":
        return None
    given = torch.as_tensor(0.0 if baselines is None else baselines)
    kind = "token " if not given.is_floating_point() and baselines is not None else ""
    return f"{kind}{number(float(given))}" if given.dim() == 0 else f"{kind}tensor {tuple(given.shape)}"
