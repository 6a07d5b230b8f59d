"""Which input step made which output step: of taggers, forecasters and language models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import STEPS_AT_ONCE, output_shape
from lstm_explain.analyses.attribution.attribute import attribute
from lstm_explain.analyses.attribution.explained import Shared
from lstm_explain.analyses.attribution.methods import DECOMPOSITIONS
from lstm_explain.analyses.attribution.result import AttributionResult, share_of_difference
from lstm_explain.display import jsonable, number, table
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding, checked_lengths

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class AttributionMatrix:
    """What each input step contributed to each output step.

    Attributes
    ----------
    attributions : ndarray ``(batch, output step, input step)``
        In units of the output, summed over features; exactly zero where either step is padding.
    valid : ndarray of bool ``(batch, input step)``
    output_valid : ndarray of bool ``(batch, output step)``
    output_steps : ndarray of int ``(output step,)``
        Which steps of the output these are.
    output, baseline_output : ndarray ``(batch, output step)``
        What was explained, and the same with the baseline in place of the input, or None; NaN at padding.
    convergence_delta : ndarray ``(batch, output step)`` or None
        The residual of every output step, as in `lx.attribute`; NaN at padding.
    converged : ndarray of bool ``(batch, output step)`` or None
        Whether the residual is within the tolerance of `settings`; False at padding. None for a method that doesn't claim to add up.
    from_future : ndarray ``(batch,)`` or None
        The size of the largest attribution of an output step to a later input step: zero for a network that reads one way. None where
        output steps aren't the input's steps.
    classes : ndarray of int ``(batch, output step)`` or None
        Which class of each step was explained.
    method : str
    settings : mapping
        All that is needed to repeat it.
    padding : {"none", "known", "unknown"}
    spread : ndarray as `attributions`, or None
        The standard error of random draws, as in `lx.attribute`.
    """

    attributions: NDArray[np.float64]
    valid: NDArray[np.bool_]
    output_valid: NDArray[np.bool_]
    output_steps: NDArray[np.int64]
    output: NDArray[np.float64]
    baseline_output: NDArray[np.float64] | None
    convergence_delta: NDArray[np.float64] | None
    converged: NDArray[np.bool_] | None
    from_future: NDArray[np.float64] | None
    classes: NDArray[np.int64] | None
    method: str
    settings: Mapping[str, Any]
    padding: Padding
    spread: NDArray[np.float64] | None = None

    @property
    def relative_delta(self) -> NDArray[np.float64] | None:
        """The size of the residual as a share of the difference of outputs ``(batch, output step)``; NaN at padding."""
        if self.convergence_delta is None or self.baseline_output is None:
            return None
        return share_of_difference(self.convergence_delta, self.output, self.baseline_output)

    def __repr__(self) -> str:
        batch, outputs, inputs = self.attributions.shape
        shape = f"batch {batch}, {outputs} output steps of {inputs} input steps"
        return f"<Attribution matrix by {self.method}: {shape}; {self._check()}; padding {self.padding}>"

    def _check(self) -> str:
        future = "" if self.from_future is None else f"; from the future at most {number(float(self.from_future.max()))}"
        if self.relative_delta is None:
            return f"doesn't claim to add up{future}"
        residual = f"residual at most {float(self.relative_delta[self.output_valid].max()):.1e} of the difference of outputs"
        if self.converged is None:
            return f"{residual}, but it doesn't claim to add up{future}"
        within, count = int(self.converged.sum()), int(self.output_valid.sum())
        return f"{residual}, within {number(self.settings['tolerance'])} (or rounding) for {within} of {count}{future}"

    def _repr_html_(self) -> str:
        rows = []
        for example, valid in enumerate(self.output_valid):
            sizes = np.abs(self.attributions[example])
            step, source = np.unravel_index(int(sizes.argmax()), sizes.shape)
            delta = "" if self.convergence_delta is None else f"{np.abs(self.convergence_delta[example][valid]).max():.1e}"
            future = "" if self.from_future is None else f"{self.from_future[example]:.1e}"
            strongest = f"{self.output_steps[step]} from {source} ({self.attributions[example, step, source]:.3g})"
            rows.append((example, int(valid.sum()), delta, future, strongest))
        header = ("example", "output steps", "largest residual", "largest from the future", "strongest")
        return table(f"Attribution matrix by {self.method}: {self._check()}; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        return dict(jsonable(vars(self)))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each valid pair of an output and an input step. Needs pandas."""
        from pandas import DataFrame

        pairs = self.output_valid[:, :, None] & self.valid[:, None, :]
        example, step, source = np.nonzero(pairs)
        steps = {"example": example, "output_step": self.output_steps[step], "input_step": source}
        return DataFrame(steps | {"attribution": self.attributions[pairs]})


def attribution_matrix(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: int | Sequence[Sequence[int]] | Tensor | NDArray[np.int64] | None = None,
    output_steps: Sequence[int] | None = None,
    method: str = "integrated_gradients",
    baselines: Tensor | float | int | None = None,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    embedding: str | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    **options: Any,
) -> AttributionMatrix:
    """What each input step contributed to each output step.

    Every output step is explained by itself, as by `lx.attribute`, so many in a pass as fit: T steps cost about T attributions.

    Parameters
    ----------
    model : torch.nn.Module
        With an output ``(batch, step)`` or ``(batch, step, class)``; as for `lx.attribute`. Where there are as many output steps as input
        steps they are taken for the same ones, with the same padding.
    inputs : Tensor ``(batch, time[, feature])``
        Features, or tokens as whole numbers.
    target : int or whole numbers ``(batch, step)``, optional
        Which class of each output step: one for all, or each step's own, as of a language model the token that came next. None for an
        output ``(batch, step)``.
    output_steps : sequence of int, optional
        Which output steps; all if left out.
    method : str
        As of `lx.attribute`, but for feature_permutation and decompositions; a method that replaces inputs replaces steps.
    baselines, additional_forward_args, output, embedding, lengths : optional
        As of `lx.attribute`.
    **options
        ``tolerance``, ``n_steps``, ``n_samples``, ``seed``, ``internal_batch_size`` and ``memory_budget`` of `lx.attribute`.

    Returns
    -------
    AttributionMatrix
        With the residual of every output step, and the largest attribution from the future.

    Raises
    ------
    InputError
        If the output has no steps, the target doesn't fit it, or `lx.attribute` refuses.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True).double()
    >>> matrix = lx.attribution_matrix(model, torch.randn(4, 10, 8).double(), target=3)
    >>> matrix.attributions.shape, float(matrix.from_future.max())
    ((4, 10, 10), 0.0)
    """
    if not isinstance(inputs, Tensor):
        raise InputError(f"needed inputs as one tensor (batch, time[, feature]), got {type(inputs).__name__}")
    if unknown := options.keys() & {"by", "feature_mask", "temporal_rescaling"}:
        raise InputError(f"needed a matrix of steps, got {', '.join(sorted(unknown))}: use lx.attribute for one output step")
    if method == "feature_permutation":
        raise InputError("needed a method that explains each example by itself, got feature_permutation: use feature_ablation")
    if method in DECOMPOSITIONS:
        raise InputError(f"needed a method whose numbers add up over steps, got {method}, with shares elsewhere: use lx.attribute")
    shape = output_shape(model, inputs, additional_forward_args, output, embedding, lengths)
    batch, time = inputs.shape[:2]
    if len(shape) not in (2, 3):
        raise InputError(f"needed an output (batch, step[, class]), got {tuple(shape)}: choose from it with output=")
    known = None if lengths is None else checked_lengths(lengths, batch, time).cpu().numpy()
    longest = time if known is None else int(known.max())
    aligned = shape[1] in (time, longest)
    steps = _chosen(output_steps, longest if aligned else shape[1])
    ends = np.full(batch, time) if known is None else known
    output_valid = steps < ends[:, None] if aligned else np.ones((batch, len(steps)), dtype=bool)
    classes = _classes(target, batch, steps, len(shape) == 3)
    rows = np.argwhere(output_valid)
    found = _Places(batch, len(steps), time)
    args = () if additional_forward_args is None else additional_forward_args
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    for part in np.array_split(rows, -(-len(rows) // max(1, STEPS_AT_ONCE // time))):
        example = torch.as_tensor(part[:, 0])
        wanted = [(int(steps[at]),) if classes is None else (int(steps[at]), int(classes[row, at])) for row, at in part]
        result = attribute(
            model,
            inputs[example.to(inputs.device)],
            target=wanted,
            method=method,
            baselines=_of_rows(baselines, example, inputs) if method != "gradient_shap" else baselines,
            additional_forward_args=tuple(_of_row_or_shared(arg, example, batch) for arg in args),
            output=output,
            embedding=embedding,
            lengths=None if known is None else known[part[:, 0]].tolist(),
            by="step",
            **options,
        )
        found.add(part, result)
    future = np.arange(time) > steps[:, None]
    return AttributionMatrix(
        attributions=found.attributions,
        valid=np.arange(time) < ends[:, None],
        output_valid=output_valid,
        output_steps=steps,
        output=found.output,
        baseline_output=found.of("baseline_output"),
        convergence_delta=found.of("convergence_delta"),
        converged=found.of("converged"),
        from_future=np.abs(found.attributions * future).max((1, 2)) if aligned else None,
        classes=classes,
        method=method,
        settings={key: value for key, value in found.settings.items() if key != "n_steps"},
        padding="unknown" if known is None else "none" if bool((known == time).all()) else "known",
        spread=found.of("spread"),
    )


class _Places:
    """Explained output steps, each put in its place."""

    def __init__(self, batch: int, outputs: int, time: int) -> None:
        self.attributions = np.zeros((batch, outputs, time))
        self.output = np.full((batch, outputs), np.nan)
        self.settings: Mapping[str, Any] = {}
        self._others: dict[str, Any] = {}

    def add(self, places: NDArray[np.int64], result: AttributionResult) -> None:
        """Put one result's examples in their places ``(example, output step)``."""
        at = tuple(places.T)
        assert result.by_group is not None
        self.attributions[at] = result.by_group
        self.output[at] = result.output
        self.settings = result.settings
        if result.group_spread is not None:
            self._others.setdefault("spread", np.zeros(self.attributions.shape))[at] = result.group_spread
        for name in ("baseline_output", "convergence_delta", "converged"):
            if (values := getattr(result, name)) is not None:
                empty = np.zeros(self.output.shape, dtype=bool) if values.dtype == bool else np.full(self.output.shape, np.nan)
                self._others.setdefault(name, empty)[at] = values

    def of(self, name: str) -> Any:
        """What was put in place of this name; None where the method hasn't got it."""
        return self._others.get(name)


def _chosen(output_steps: Sequence[int] | None, count: int) -> NDArray[np.int64]:
    steps = np.arange(count) if output_steps is None else np.asarray(output_steps)
    if steps.ndim != 1 or not len(steps) or steps.dtype.kind not in "iu" or not 0 <= steps.min() <= steps.max() < count:
        raise InputError(f"needed output_steps as whole numbers from 0 to {count - 1}, got {output_steps!r}")
    return steps.astype(np.int64)


def _classes(target: Any, batch: int, steps: NDArray[np.int64], needed: bool) -> NDArray[np.int64] | None:
    """A class for each output step, or None where the output has none."""
    if not needed:
        if target is not None:
            raise InputError(f"needed target as None for an output (batch, step), got {target!r}")
        return None
    given = np.asarray(target.cpu() if isinstance(target, Tensor) else target)
    if target is None or given.dtype.kind not in "iu" or given.ndim not in (0, 2):
        raise InputError("needed target as a class, or one for each step (batch, step), for an output (batch, step, class)")
    if given.ndim == 2 and (len(given) != batch or given.shape[1] <= steps.max()):
        raise InputError(f"needed target for {batch} examples of {steps.max() + 1} steps, got shape {given.shape}")
    return np.broadcast_to(given, (batch, len(steps))) if given.ndim == 0 else given[:, steps]


def _of_rows(baselines: Any, example: Tensor, inputs: Tensor) -> Any:
    """Each row's own baseline, where there is one for each example: with as many axes as the inputs, or as their embeddings."""
    if not isinstance(baselines, (Tensor, np.ndarray)):
        return baselines
    given = torch.as_tensor(baselines)
    axes = 3 if given.is_floating_point() and not inputs.is_floating_point() else inputs.dim()
    return given[example.to(given.device)] if given.dim() == axes and len(given) == len(inputs) else given


def _of_row_or_shared(arg: Any, example: Tensor, batch: int) -> Any:
    """What goes along with its example, or is for all: there may be as many rows as that is long."""
    if not isinstance(arg, Tensor):
        return arg
    return arg[example.to(arg.device)] if arg.dim() and len(arg) == batch else Shared(arg)
