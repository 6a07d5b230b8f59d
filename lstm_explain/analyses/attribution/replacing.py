"""What changes when a group of inputs is replaced: by the baseline, or by what stands there in another example."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lstm_explain.analyses.attribution.draws import Draws
from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from lstm_explain.analyses.attribution.methods import Problem

PERMUTATIONS = 25


def feature_ablation(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """What changes when one group gets the baseline's values."""
    return problem.effects(problem.baselines), {}, None


def feature_permutation(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """What changes when one group gets another example's values, on average over who gives to whom."""
    batch = len(problem.inputs)
    if batch < 2:
        raise InputError("needed at least two examples, which feature_permutation exchanges, got 1: use feature_ablation")
    times, random = problem.draws(PERMUTATIONS), problem.random()
    draws: Draws | None = None
    for _ in range(times):
        # One cycle through all examples, so that nobody keeps its own (Sattolo 1986).
        cycle = torch.as_tensor(random.permutation(batch), device=problem.inputs.device)
        donors = torch.empty_like(cycle)
        donors[cycle] = cycle.roll(1)
        effects = problem.effects(problem.donated(donors))
        draws = draws or Draws(effects, times)
        draws.add(problem.rows, effects)
    assert draws is not None
    return draws.mean, {"n_samples": times, "seed": problem.seed}, draws.error
