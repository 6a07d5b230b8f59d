"""Attributions weighted by how much they hang on each step, and on each feature of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lstm_explain.analyses.attribution.methods import Problem

QUANTILE = 0.55
"""Steps above it are looked at feature by feature, as in the authors' code."""


def temporally_rescaled(problem: "Problem", of: Callable[["Problem"], Tensor], by_step: bool) -> Tensor:
    """Temporal saliency rescaling (Ismail, Gunady, Corrada Bravo & Feizi 2020, algorithm 1) of any method.

    A step's importance is how much all attributions change, in absolute value, when the step is at the baseline, from 0 to 1 over an
    example's valid steps; that of a feature of a step is the same with only this number at the baseline, from 0 to 1 over features. The
    result is their product, and zero for the steps below the quantile. With `by_step`, and where steps have no features, it is the step's.
    """
    plain = of(problem)
    batch, time = problem.inputs.shape[:2]
    steps = problem.valid.reshape(batch, time, -1)[:, :, 0]
    step = torch.zeros(batch, time, dtype=torch.float64, device=plain.device)
    places = steps.nonzero()
    for part in places.split(problem.rows_at_once):
        example, at = part.unbind(1)
        here = torch.arange(time, device=plain.device) == at.unsqueeze(1)
        step[example, at] = _change(problem, of, plain, example, here.reshape(*here.shape, *[1] * (problem.inputs.dim() - 2)))
    step = _from_0_to_1(step, steps)
    if by_step or problem.inputs.dim() == 2:
        return step
    features = problem.inputs.shape[2]
    of_step = torch.zeros_like(problem.inputs, dtype=torch.float64)
    threshold = torch.stack([row[valid].quantile(QUANTILE) for row, valid in zip(step, steps, strict=True)])
    active = (steps & (step > threshold.unsqueeze(1))).nonzero()
    pairs = torch.cat([active.repeat_interleave(features, 0), torch.arange(features, device=plain.device).repeat(len(active))[:, None]], 1)
    for part in pairs.split(problem.rows_at_once):
        example, at, feature = part.unbind(1)
        here = (torch.arange(time, device=plain.device) == at.unsqueeze(1)).unsqueeze(2) & (
            torch.arange(features, device=plain.device) == feature.unsqueeze(1)
        ).unsqueeze(1)
        of_step[example, at, feature] = _change(problem, of, plain, example, here)
    low, high = of_step.amin(2, keepdim=True), of_step.amax(2, keepdim=True)
    # Of a single feature, or features that are all the same, the step's importance stands alone.
    within = torch.where(high > low, (of_step - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny), (high > 0).double())
    return step.unsqueeze(2) * within


class _Copies:
    """The number to explain, of rows that are copies of examples."""

    def __init__(self, explained: Callable[[Tensor, Tensor], Tensor], example: Tensor) -> None:
        self._explained, self._example = explained, example

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        return self._explained(points, self._example[rows])


def _change(problem: "Problem", of: Callable[["Problem"], Tensor], plain: Tensor, example: Tensor, here: Tensor) -> Tensor:
    """How much the attributions of some copies of examples change, all together, with what is `here` at the baseline ``(copy,)``."""
    inputs = torch.where(here, problem.baselines[example], problem.inputs[example])
    explained = _Copies(problem.explained, example)
    rows = torch.arange(len(example), device=example.device)
    with torch.no_grad():
        at_input = torch.cat([explained(inputs[part].clone(), part) for part in rows.split(problem.rows_at_once)])
    copies = replace(
        problem,
        inputs=inputs,
        baselines=problem.baselines[example],
        valid=problem.valid[example],
        explained=explained,
        at_input=at_input,
        at_baseline=None if problem.at_baseline is None else problem.at_baseline[example],
        partition=problem.partition.rows(example),
        first_gradient=None,
    )
    return (of(copies) - plain[example]).abs().flatten(1).sum(1)


def _from_0_to_1(values: Tensor, valid: Tensor) -> Tensor:
    """Each example's values, the least of the valid ones at 0 and the largest at 1."""
    low = values.masked_fill(~valid, float("inf")).amin(1, keepdim=True)
    high = values.masked_fill(~valid, 0.0).amax(1, keepdim=True)
    tiny = torch.finfo(values.dtype).tiny
    return torch.where(valid & (high > 0), torch.where(high > low, (values - low) / (high - low).clamp(min=tiny), 1.0), 0.0)
