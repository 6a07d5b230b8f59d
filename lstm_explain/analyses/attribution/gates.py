"""`gate_attribution`: how much a gate or a state, at each step and unit, mattered for one number of the output."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import (
    LOOSEST,
    STEPS_AT_ONCE,
    TOLERANCE,
    Target,
    check_independent,
    copies,
    element_in_words,
    evaluated,
    numbers,
)
from lstm_explain.analyses.attribution.explained import Explained, targets_of
from lstm_explain.analyses.attribution.gates_result import GateAttributionResult
from lstm_explain.analyses.attribution.joined import Joined
from lstm_explain.analyses.attribution.methods import Problem, mean_gradient, refined
from lstm_explain.analyses.attribution.partition import partition_of
from lstm_explain.analyses.attribution.replacing import feature_ablation
from lstm_explain.display import number
from lstm_explain.errors import InputError, did_you_mean
from lstm_explain.intervention.intervene import intervene
from lstm_explain.intervention.values import Course
from lstm_explain.recording.runner import layers_in, record, unwrapped, words_of
from lstm_explain.trajectory import Trajectory, checked_lengths

METHODS = ("integrated_gradients", "gradient", "gradient_x_difference", "ablation")


class _Held:
    """The number to explain, with a signal of one layer held at given trajectories."""

    def __init__(self, model: nn.Module, inputs: Tensor, layer: str, signal: str, explained: Explained, lengths: Tensor | None) -> None:
        self._model, self._inputs, self._layer, self._signal = model, inputs, layer, signal
        self._explained, self._lengths = explained, lengths

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Trajectories ``(n, time, unit)``, each of the example that `rows` says, to ``(n,)``."""
        lengths = None if self._lengths is None else self._lengths[rows.cpu()]
        held: dict[str, Any] = {self._signal: Course(points)}
        with intervene(self._model, self._layer, feedback=True, lengths=lengths, **held):
            return self._explained(self._inputs[rows].clone(), rows)


def _check_place(model: nn.Module, layer: str, signal: str) -> Sequence[str] | None:
    """Whether the model has the layer, and the layer the signal: what is to be recorded, all of a registered cell."""
    known = layers_in(model)
    if layer not in known:
        raise InputError(f"needed layer as one of {', '.join(known) or '(no recurrent layers)'}, got {layer!r}{did_you_mean(layer, known)}")
    # What a registered cell has, its equations say when they run.
    words = words_of(known[layer].module)
    if words is None:
        return None
    _check_signal(layer, signal, words)
    return (signal,)


def _check_signal(layer: str, signal: str, words: Sequence[str]) -> None:
    if signal not in words:
        raise InputError(f"needed signal as one of {', '.join(words)} of {layer}, got {signal!r}{did_you_mean(signal, words)}")


def _check_settings(method: str, baselines: Any, tolerance: Any, whole: dict[str, Any]) -> None:
    if method not in METHODS:
        raise InputError(f"needed method as one of {', '.join(METHODS)}, got {method!r}{did_you_mean(method, METHODS)}")
    if method == "gradient" and baselines is not None:
        raise InputError("needed no baselines for gradient, which has none, got some: use gradient_x_difference")
    for name, value in whole.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"needed {name} as a positive whole number, got {value!r}")
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise InputError(f"needed a positive tolerance, got {tolerance!r}")


def _recorded(
    model: nn.Module, inputs: Tensor, layer: str, kept: Sequence[str] | None, explained: Explained, lengths: Tensor | None
) -> tuple[Trajectory, Tensor]:
    """The layer as it was, and the number that the model says by itself ``(batch,)``."""
    batch = len(inputs)
    with torch.no_grad(), record(model, layers=layer, signals=kept, lengths=lengths) as recording:
        by_itself = explained(inputs.clone(), torch.arange(batch, device=inputs.device))
    count = len(recording[layer].valid) if layer in recording else 0
    if count != batch:
        raise InputError(f"needed a model that runs {layer} over each of {batch} examples once, got {count} sequences of it")
    return recording[layer], by_itself


def _baseline(given: float | Tensor | str | None, values: Tensor, valid: Tensor) -> Tensor:
    """What stands for "nothing was there", for every step and unit; padding isn't held, whatever stands there."""
    if isinstance(given, str):
        if given != "mean":
            raise InputError(f"needed baselines as a number, a tensor or 'mean', got {given!r}")
        baseline = values[valid].double().mean(0).to(values.dtype).expand_as(values)
    else:
        try:
            baseline = torch.as_tensor(0.0 if given is None else given, device=values.device).detach().to(values.dtype)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"needed baselines as a number, a tensor or 'mean', got {type(given).__name__}") from None
        if not bool(baseline.isfinite().all()):
            raise InputError(f"needed baselines as finite numbers, got {float(baseline[~baseline.isfinite()][0])}")
        shape = tuple(baseline.shape)
        try:
            baseline = baseline.expand_as(values)
        except RuntimeError:
            needed = f"(batch, time, unit) = {tuple(values.shape)}"
            raise InputError(f"needed baselines as a number or a tensor that broadcasts to {needed}, got shape {shape}") from None
    return baseline


def _noop(held: _Held, values: Tensor, by_itself: Tensor, rows_at_once: int, layer: str) -> tuple[Tensor, Tensor]:
    """The number with the signal held at what it was ``(batch,)``, and how far it is from what the model says by itself."""
    at_value = numbers(held, values, rows_at_once, "")
    rows = torch.arange(len(values), device=values.device).flip(0)
    with torch.no_grad():
        # In the other order, since a model that sorts its sequences would have each held at another one's values.
        turned = torch.cat([held(values[part], part) for part in rows.split(rows_at_once)]).flip(0)
    gap = torch.stack([(one - by_itself).abs() for one in (at_value, turned)]).amax(0)
    if not bool((gap <= torch.finfo(by_itself.dtype).eps ** 0.5 * by_itself.abs().clamp(min=1)).all()):
        raise InputError(
            f"needed a model that gives {layer} its sequences in the order of the inputs, the same each time: held at its own values the "
            f"output changed by {float(gap.max()):.2g}"
        )
    return at_value, gap


def gate_attribution(
    model: nn.Module,
    inputs: Tensor,
    layer: str,
    signal: str,
    *,
    target: Target | list[Any] | Tensor | None = None,
    method: str = "integrated_gradients",
    baselines: float | Tensor | str | None = None,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    tolerance: float | None = None,
    n_steps: int = 512,
    internal_batch_size: int | None = None,
) -> GateAttributionResult:
    """How much one gate or state of a layer, at each step and unit, mattered for one number of the output.

    The signal's whole trajectory is an independent variable: it is held, at all steps and units, and everything that comes after it is
    recomputed from what it is held at: the layer's own states, later layers, the output. Everything else that the layer computes from
    those states follows; only the held signal doesn't, although by itself it would hang on earlier steps. So a step is credited with
    what it does through the cell and the other signals, and not with what it would make of the same signal later, which is credited there.
    Captum's layer methods on a copy by `unfuse` also hold the other gates, and agree where no gate sees a state. Each signal's result has
    a difference of its own to add up to; those of several gates don't add up to the output.

    The model runs as in `attribute`, in evaluation mode, and the layer by its equations, as in `intervene`.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs, *additional_forward_args)``; reads the batch first, each example by itself, and runs the layer over each
        of them once, in their order (all of which is checked). Layers and cells, PyTorch's, ours and registered ones.
    inputs : Tensor ``(batch, time[, feature])``
        Features or tokens.
    layer : str
        Its name in a recording: ``"encoder.lstm.l1"``, ``"gru.l0_reverse"``, the path of a cell.
    signal : str
        ``"forget_gate"``, ``"cell_state"``, ... as the layer's kind has them; of a registered cell the hidden state, which comes last.
    target : optional
        As in `attribute`.
    method : {"integrated_gradients", "gradient", "gradient_x_difference", "ablation"}
        - ``integrated_gradients`` (Sundararajan, Taly & Yan 2017): along the straight line of trajectories from the baseline to what the
          signal was, by Gauss-Legendre with 8 nodes, then 16, 32, ... until the attributions add up to what the signal changes: the
          output with it as it was, less the output with it at the baseline;
        - ``gradient``: of the output by the signal, where it was;
        - ``gradient_x_difference``: times how far the signal was from the baseline; needn't add up;
        - ``ablation``: what changes when one unit at one step is at the baseline, and all the rest of the signal as it was; one run for
          each step and unit; needn't add up.
    baselines : float, Tensor or "mean", optional
        A number; a tensor that broadcasts to ``(batch, time, unit)``; or each unit's mean over all valid steps of these examples. Zero
        if left out: a gate that is closed.
    additional_forward_args, output : optional
        As in `attribute`.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each example are real, for padded batches; padding is never held and gets exactly zero. Packed sequences bring
        their own.
    tolerance : float, optional
        What the residual may be, as a share of the difference of outputs: 1e-6 in float64, 1e-4 in float32, 2e-2 below.
    n_steps : int
        At most so many nodes for integrated gradients.
    internal_batch_size : int, optional
        Rows in one forward pass; as many as make 16,384 time steps if left out.

    Returns
    -------
    GateAttributionResult
        With the residual of every example, and in `noop` what holding the signal at its own values changes: nothing, to rounding.

    Raises
    ------
    InputError
        If there is no such layer or signal, an argument doesn't fit, the output isn't finite, or no gradient reaches the signal.
    RecordingError, CertificateError
        If the layer can't be run by its equations, or isn't what they say.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True).double()
    >>> why = lx.gate_attribution(model, torch.randn(4, 10, 8).double(), "l0", "forget_gate", target=(-1, 3))
    >>> why.attributions.shape, bool(why.converged.all())
    ((4, 10, 16), True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    kept = _check_place(model, layer, signal)
    _check_settings(method, baselines, tolerance, {"n_steps": n_steps, "internal_batch_size": internal_batch_size})
    if not isinstance(inputs, Tensor) or inputs.dim() not in (2, 3) or 0 in inputs.shape:
        got = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"needed inputs as a tensor (batch, time[, feature]), none of them zero, got {got}")
    batch, time = inputs.shape[:2]
    known = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
    with evaluated(model):
        inputs = inputs.detach().clone()
        explained = Explained(model, inputs, None, additional_forward_args, output, targets_of(target, batch), known)
        trajectory, by_itself = _recorded(model, inputs, layer, kept, explained, known)
        _check_signal(layer, signal, list(trajectory.signals))
        check_independent(copies(explained, inputs, time), by_itself, by_itself.dtype)
        values, steps = trajectory.signal(signal).clone(), trajectory.valid
        valid = steps.to(values.device).unsqueeze(2).expand_as(values)
        rows_at_once = internal_batch_size or max(1, STEPS_AT_ONCE // values.shape[1])
        held = _Held(model, inputs, layer, signal, explained, known)
        at_value, noop = _noop(held, values, by_itself, rows_at_once, layer)
        baseline = _baseline(baselines, values, valid[:, :, 0])
        elsewhere = f" with {signal} at the baseline: choose another with baselines="
        at_baseline = None if method == "gradient" else numbers(held, baseline, rows_at_once, elsewhere)
        joined = Joined(values, [], [], nested=(values,))
        allowed = TOLERANCE.get(by_itself.dtype, LOOSEST) if tolerance is None else tolerance
        problem = Problem(
            values,
            baseline,
            valid,
            held,
            rows_at_once,
            at_value,
            at_baseline,
            allowed,
            n_steps,
            model,
            partition_of("element", joined, valid, tokens=False),
            donated=values.__getitem__,
        )
        found, settings = _found(method, problem)
    terms = torch.where(valid, found.double(), 0.0)
    delta = None if at_baseline is None else terms.flatten(1).sum(1) - (at_value.double() - at_baseline.double())
    adds_up = problem.adds_up(terms, problem.rows) if method == "integrated_gradients" else None
    return GateAttributionResult(
        attributions=terms.cpu().numpy(),
        values=torch.where(valid, values.double(), 0.0).cpu().numpy(),
        baselines=torch.where(valid, baseline.double(), 0.0).cpu().numpy(),
        valid=steps.cpu().numpy(),
        output=at_value.double().cpu().numpy(),
        noop=noop.double().cpu().numpy(),
        baseline_output=None if at_baseline is None else at_baseline.double().cpu().numpy(),
        convergence_delta=None if delta is None else delta.cpu().numpy(),
        converged=None if adds_up is None else adds_up.cpu().numpy(),
        explained=tuple(element_in_words(explained.index[row]) for row in range(batch)),
        layer=layer,
        signal=signal,
        method=method,
        settings={
            "tolerance": allowed,
            "n_steps_at_most": n_steps,
            "baselines": None if method == "gradient" else _in_words(baselines),
            "dtype": str(values.dtype).removeprefix("torch."),
            **settings,
        },
        padding=trajectory.padding,
    )


def _found(method: str, problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Attributions ``(batch, time, unit)``, and settings."""
    if method == "ablation":
        return problem.partition.shares(feature_ablation(problem)[0]), {}
    _check_gradient(problem)
    path = problem.masked(problem.inputs - problem.baselines, problem.rows)
    if method == "integrated_gradients":
        found, used = refined(problem, path, lambda rows, nodes: mean_gradient(problem, path, rows, nodes))
        return found, {"n_steps": used}
    gradients = problem.gradients()
    return (gradients if method == "gradient" else gradients * path), {}


def _check_gradient(problem: Problem) -> None:
    """Whether the first example's number hangs on the signal through autograd's graph."""
    leaf = problem.inputs[:1].detach().clone().requires_grad_()
    result = problem.explained(leaf, problem.rows[:1])
    if not result.requires_grad or torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0] is None:
        raise InputError("needed a gradient from the output to the signal, got none: something on the way detaches; ablation needs none")


def _in_words(baselines: float | Tensor | str | None) -> str:
    if isinstance(baselines, str):
        return "each unit's mean"
    given = torch.as_tensor(0.0 if baselines is None else baselines)
    return number(float(given)) if given.dim() == 0 else f"tensor {tuple(given.shape)}"
