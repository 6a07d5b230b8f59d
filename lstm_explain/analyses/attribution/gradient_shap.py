"""Gradients at random places between the inputs and random baselines."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lstm_explain.analyses.attribution.draws import Draws

if TYPE_CHECKING:
    from lstm_explain.analyses.attribution.methods import Problem

DRAWS = 50


def gradient_shap(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None, Tensor | None]:
    """Expected gradients (Erion et al. 2021), as Captum's GradientShap without noise: it adds up on average over the draws only.

    The gradients are Captum's, the draws ours: Captum's run all draws of all examples at once, and take from NumPy's global generator.
    """
    times, random = problem.draws(DRAWS), problem.random()
    sample = problem.baseline_sample
    assert sample is not None
    which = torch.as_tensor(random.integers(len(sample), size=times), device=sample.device)
    alpha = torch.as_tensor(random.random(times), device=sample.device).to(sample.dtype)
    wide = (-1, *[1] * (problem.inputs.dim() - 1))

    def terms(draw: Tensor, at: Tensor) -> Tensor:
        path = problem.masked(problem.inputs[at] - sample[which[draw]], at)
        gradient = problem.gradient(problem.inputs[at] - (1 - alpha[draw]).reshape(wide) * path, at)
        return problem.masked(path.double() * gradient.double(), at)

    first = torch.cat([terms(torch.zeros_like(at), at) for at in problem.rows.split(problem.rows_at_once)])
    draws, groups = Draws(first, times), Draws(problem.partition.sums(first), times)
    for part in torch.cartesian_prod(torch.arange(1, times, device=sample.device), problem.rows).split(problem.rows_at_once):
        at, drawn = part[:, 1], terms(part[:, 0], part[:, 1])
        draws.add(at, drawn)
        groups.add(at, problem.partition.rows(at).sums(drawn))
    return draws.mean, {"n_samples": times, "seed": problem.seed}, draws.error, groups.error
