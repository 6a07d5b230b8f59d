"""What an attribution was made of, made anew from its result: points, baseline, the number that was explained, and the method itself."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import STEPS_AT_ONCE, evaluated
from lstm_explain.analyses.attribution.attribute import attribute
from lstm_explain.analyses.attribution.explained import Explained, Wanted, targets_of
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.errors import InputError

_REPEATS = 1e-3
"""What attributions that are made again may differ by, as a share of the largest; integrals are refined to a tolerance only."""


class _AtPoints(nn.Module):
    """A model of tokens as one of points, for which each row says whose tokens it stands for."""

    def __init__(self, model: nn.Module, explained: Explained) -> None:
        super().__init__()
        self.model, self.explained = model, explained

    def forward(self, points: Tensor, rows: Tensor) -> Tensor:
        return self.explained(points, rows)


class Setting:
    """An attribution's model, inputs and arguments.

    Attributes
    ----------
    points : Tensor ``(batch, time[, feature])``
        The inputs, or the embeddings of tokens.
    baseline : Tensor or None
        What stood for nothing, in the same shape; padding as in the points. None where there is none that is known, and `no_baseline`
        says why.
    valid : ndarray of bool ``(batch, time)``
    dtype : torch.dtype
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        result: AttributionResult,
        *,
        baselines: Any,
        additional_forward_args: Any,
        output: Callable[[Any], Tensor] | None,
        options: Mapping[str, Any],
        internal_batch_size: int | None,
    ) -> None:
        batch, time = result.valid.shape
        if not isinstance(inputs, Tensor) or inputs.dim() < 2 or tuple(inputs.shape[:2]) != (batch, time):
            got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise InputError(f"needed the inputs that were attributed to, ({batch}, {time}, ...), got {got}")
        settings, self.valid = result.settings, result.valid
        self._model, self._inputs, self._result = model, inputs.detach(), result
        self._path = settings.get("embedding")
        self._targets = [_target(words) for words in result.explained]
        lengths = None if result.padding == "unknown" else torch.from_numpy(result.valid.sum(1))
        given = _baselines(settings.get("baselines"), baselines)
        self._arguments: dict[str, Any] = {
            "target": self._targets,
            "output": output,
            "additional_forward_args": additional_forward_args,
            "lengths": lengths,
            "internal_batch_size": internal_batch_size,
        }
        self._numerical = {"tolerance": settings.get("tolerance"), "n_steps": settings.get("n_steps_at_most", 512)}
        self._options, self._given = dict(options), given
        self.rows_at_once = internal_batch_size or max(1, STEPS_AT_ONCE // time)
        with evaluated(model), torch.no_grad():
            layer = self._embedding()
            self.points = self._inputs.clone() if layer is None else layer.forward(self._inputs.long()).detach().clone()
            self._explained = Explained(
                model, self._inputs.clone(), self._path, additional_forward_args, output, targets_of(self._targets, batch), lengths
            )
            self.no_baseline = ""
            self.baseline = self._baseline(layer)
        self.dtype = self.points.dtype

    def _embedding(self) -> nn.Embedding | None:
        if self._path is None:
            if not self._inputs.is_floating_point():
                raise InputError(f"needed the inputs that were attributed to, features as floating-point numbers, got {self._inputs.dtype}")
            return None
        found = dict(self._model.named_modules()).get(self._path)
        if not isinstance(found, nn.Embedding) or self._inputs.is_floating_point():
            got = type(found).__name__ if not isinstance(found, nn.Embedding) else str(self._inputs.dtype)
            raise InputError(f"needed the model and the tokens that were attributed to, by the embedding {self._path}, got {got}")
        return found

    def _baseline(self, layer: nn.Embedding | None) -> Tensor | None:
        if self._result.baseline_output is None:
            self.no_baseline = f"{self._result.method} has no baseline, so it doesn't say what a step contributes"
            return None
        given = torch.as_tensor(0.0 if self._given is None else self._given, device=self.points.device).detach()
        if layer is not None and not given.is_floating_point():
            given = layer.forward(given)
        try:
            whole = given.to(self.points.dtype).expand(self.points.shape)
        except RuntimeError:
            self.no_baseline = f"needed baselines that broadcast to {tuple(self.points.shape)}, got {tuple(given.shape)}"
            return None
        return torch.where(self.wide(torch.from_numpy(self.valid).to(self.points.device)), whole, self.points)

    def wide(self, steps: Tensor) -> Tensor:
        """Something for each step, ``(row, time)``, made to broadcast over features."""
        return steps.reshape(*steps.shape, *[1] * (self.points.dim() - 2))

    def numbers(self, points: Tensor, rows: Tensor) -> NDArray[np.float64]:
        """The number that was explained at one point for each row, each in the place of the example that `rows` names: ``(row,)``.

        Raises
        ------
        InputError
            If one isn't finite.
        """
        found = self._explained(points, rows).double().cpu().numpy()
        if not np.isfinite(found).all():
            raise InputError(
                f"needed a finite output, got {found[~np.isfinite(found)][0]} for steps of another sequence or of the baseline"
            )
        return np.asarray(found)

    def check(self) -> float:
        """How far the outputs are from those that were explained; rounding at most.

        Raises
        ------
        InputError
            If they are others: then this isn't the model, the inputs or the arguments of the attribution.
        """
        gap = self._gap(self.points, self._result.output)
        if not gap <= self._allowed:
            raise InputError(
                f"needed the model, inputs, output= and additional_forward_args= that were attributed to, got outputs that differ by "
                f"{gap:.2g}: give them as lx.attribute got them"
            )
        if self.baseline is not None and self._result.baseline_output is not None:
            other = self._gap(self.baseline, self._result.baseline_output)
            if not other <= self._allowed:
                self.baseline = None
                self.no_baseline = f"needed baselines= as lx.attribute got them, got some whose outputs differ by {other:.2g}"
        return gap

    def _gap(self, points: Tensor, output: NDArray[np.float64]) -> float:
        rows = torch.arange(len(points), device=points.device)
        found = np.concatenate([self.numbers(points[part].clone(), part) for part in rows.split(self.rows_at_once)])
        return float(np.abs(found - output).max())

    @property
    def _allowed(self) -> float:
        """What outputs may differ by, in other batches than theirs were."""
        return float(torch.finfo(self.dtype).eps ** 0.5 * max(1.0, float(np.abs(self._result.output).max())))

    def again(self, model: nn.Module | None = None, method: str | None = None) -> AttributionResult:
        """The same attribution of another model, or by another method."""
        how: dict[str, Any] = {"method": method} if method is not None else self._how(self._given)
        return attribute(model or self._model, self._inputs, embedding=self._path, **self._arguments, **how)

    def at(self, points: Tensor, method: str | None = None) -> AttributionResult:
        """The same attribution at other points."""
        if self._path is None:
            how: dict[str, Any] = {"method": method} if method is not None else self._how(self._given)
            return attribute(self._model, points, **self._arguments, **how)
        how = {"method": method} if method is not None else self._how(None if self._given is None else self.baseline)
        adapted = _AtPoints(self._model, self._explained)
        rows = torch.arange(len(points), device=points.device)
        arguments = {"lengths": self._arguments["lengths"], "internal_batch_size": self._arguments["internal_batch_size"]}
        return attribute(adapted, points, additional_forward_args=rows, **arguments, **how)

    def _how(self, baselines: Any) -> dict[str, Any]:
        return {"method": self._result.method, "baselines": baselines} | self._numerical | self._options

    def repeats(self) -> float:
        """How far the attribution, made again, is from what it was, as a share of its largest.

        Raises
        ------
        InputError
            If that is more than rounding and the integral's own tolerance: then what it was made with isn't known here.
        """
        again, was = self.again().attributions, self._result.attributions
        largest = float(np.abs(was).max())
        gap = float(np.abs(again - was).max() / largest) if again.shape == was.shape and largest else float(again.shape != was.shape)
        if not gap <= max(_REPEATS, torch.finfo(self.dtype).eps ** 0.5):
            raise InputError(
                f"needed the options that {self._result.method} was called with, got attributions that differ by {gap:.2g} of the largest "
                "when made again: give baselines= and the method's other options as lx.attribute got them"
            )
        return gap


def _target(words: str) -> Wanted:
    """The element that an attribution says it explained: ``output[4, 1]``."""
    index = tuple(int(part) for part in re.findall(r"\d+", words))
    # One number alone may be a class or a step; as an int it isn't held against the lengths.
    return None if not index else index[0] if len(index) == 1 else index


def _baselines(words: str | None, given: Any) -> Any:
    """The baselines as given, or out of an attribution's own words where these say all."""
    if given is not None or words is None or words == "0":
        return given
    value = words.removeprefix("token ")
    if re.fullmatch(r"-?[\d,]+", value):
        whole = int(value.replace(",", ""))
        return whole if words.startswith("token ") else float(whole)
    raise InputError(f"needed baselines= as the attribution had them, since all that it says of them is {words!r}")
