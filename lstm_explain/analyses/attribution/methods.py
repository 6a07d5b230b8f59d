"""The methods, and why some are refused."""

import difflib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_explain.analyses.attribution.explained import Explained
from lstm_explain.errors import InputError

FEWEST_NODES = 8


def captum() -> Any:
    """``captum.attr``, imported when it is first needed; in a notebook its progress bars ask for widgets, which nothing here needs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        return import_module("captum.attr")


@dataclass(frozen=True)
class Problem:
    """Points ``(batch, time[, feature])``, what stands for nothing in their place, and what the model makes of both.

    Padding is the same in `inputs` and `baselines`; `valid` is as wide as they are.
    """

    inputs: Tensor
    baselines: Tensor
    valid: Tensor
    explained: Explained
    rows_at_once: int
    at_input: Tensor
    at_baseline: Tensor | None
    tolerance: float
    n_steps: int

    @property
    def rows(self) -> Tensor:
        """Every example once."""
        return torch.arange(len(self.inputs), device=self.inputs.device)

    def masked(self, attributions: Tensor, rows: Tensor) -> Tensor:
        """Padding at zero, whatever stood there."""
        return torch.where(self.valid[rows], attributions, 0.0)

    def adds_up(self, attributions: Tensor, rows: Tensor) -> Tensor:
        """Whether sums are within the tolerance of the difference of outputs, or as near as numbers of that size are rounded."""
        assert self.at_baseline is not None
        at_input, at_baseline = self.at_input[rows].double(), self.at_baseline[rows].double()
        terms, difference = attributions.flatten(1), at_input - at_baseline
        scale = torch.stack([at_input.abs(), at_baseline.abs(), terms.abs().sum(1)]).amax(0)
        rounding = 8 * torch.finfo(self.inputs.dtype).eps * scale
        return (terms.sum(1) - difference).abs() <= torch.maximum(self.tolerance * difference.abs(), rounding)

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """The gradient of each number at its point, by Captum."""
        wanted = points.detach().clone().requires_grad_()
        gradient: Tensor = captum().Saliency(self.explained).attribute(wanted, abs=False, additional_forward_args=(rows,))
        return gradient.detach()

    def gradients(self) -> Tensor:
        """The gradient at the inputs themselves."""
        return torch.cat([self.gradient(self.inputs[part], part) for part in self.rows.split(self.rows_at_once)])


Method = Callable[[Problem], tuple[Tensor, dict[str, Any]]]


def saliency(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The size of the gradient."""
    return problem.gradients().abs(), {}


def input_x_gradient(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The input times its gradient."""
    return problem.inputs * problem.gradients(), {}


def occlusion(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """What changes when one step gets the baseline's value."""
    time = problem.inputs.shape[1]
    step = torch.arange(time, device=problem.inputs.device).reshape(1, time, *[1] * (problem.inputs.dim() - 2))
    ablation, parts = captum().FeatureAblation(problem.explained), []
    for rows in problem.rows.split(problem.rows_at_once):
        attributions: Tensor = ablation.attribute(
            problem.inputs[rows],
            baselines=problem.baselines[rows],
            feature_mask=step.expand(1, *problem.inputs.shape[1:]),
            additional_forward_args=(rows,),
            perturbations_per_eval=max(1, problem.rows_at_once // len(rows)),
        )
        # Captum gives every feature of a step the effect of the whole step.
        parts.append(attributions.reshape(len(rows), time, -1)[:, :, 0])
    return torch.cat(parts), {}


def integrated_gradients(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Gauss-Legendre, the nodes doubled for the examples that don't add up yet.

    The gradients are Captum's; the sum is ours, since Captum 0.9 rounds its weights to float32, whatever the dtype of the model.
    """
    path = problem.masked(problem.inputs - problem.baselines, problem.rows)
    attributions = torch.zeros_like(path, dtype=torch.float64)
    used = torch.zeros(len(path), dtype=torch.int64)
    pending, nodes = problem.rows, min(FEWEST_NODES, problem.n_steps)
    while len(pending):
        attributions[pending] = problem.masked(_integral(problem, path, pending, nodes) * path[pending].double(), pending)
        used[pending.cpu()] = nodes
        pending = pending[~problem.adds_up(attributions[pending], pending)] if nodes < problem.n_steps else pending[:0]
        nodes = min(2 * nodes, problem.n_steps)
    return attributions, {"n_steps": used.tolist()}


def _integral(problem: Problem, path: Tensor, rows: Tensor, nodes: int) -> Tensor:
    """The mean gradient between baseline and input, in float64, for some examples; one point for each pair of an example and a node."""
    places, weights = (torch.as_tensor(part / 2, device=path.device) for part in np.polynomial.legendre.leggauss(nodes))
    wide = (-1, *[1] * (path.dim() - 1))
    total = torch.zeros_like(path[rows], dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(nodes, device=path.device), torch.arange(len(rows), device=path.device))
    for part in pairs.split(problem.rows_at_once):
        node, at = part.unbind(1)
        alpha = (places[node] + 0.5).to(path.dtype).reshape(wide)
        gradient = problem.gradient(problem.baselines[rows[at]] + alpha * path[rows[at]], rows[at])
        total.index_add_(0, at, weights[node].reshape(wide) * gradient.double())
    return total


METHODS: dict[str, Method] = {
    "integrated_gradients": integrated_gradients,
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "occlusion": occlusion,
}

_REFUSED = {
    "deep_lift": "its rules don't cover products of gates: on a fused LSTM it is input x gradient under another name",
    "deep_lift_shap": "its rules don't cover products of gates: on a fused LSTM it is an average of input x gradient under another name",
    "guided_backprop": "it changes the gradient of ReLUs, and a recurrent layer has none: it is saliency under another name",
    "deconvolution": "it changes the gradient of ReLUs, and a recurrent layer has none: it is saliency under another name",
}


DECOMPOSITIONS = ("lrp", "cell_decomposition")
"""Methods of a room of their own, `decomposition`."""


def method_named(name: str) -> Method:
    """A method by its name.

    Raises
    ------
    InputError
        If it is refused, or not known; a near name is mentioned.
    """
    if name in METHODS:
        return METHODS[name]
    plain, known, refused = (
        _plain(str(name)),
        {_plain(key): key for key in (*METHODS, *DECOMPOSITIONS)},
        {_plain(key): key for key in _REFUSED},
    )
    if same := [key for key in refused if key[:6] == plain[:6]]:
        wrong = refused[difflib.get_close_matches(plain, same, n=1, cutoff=0)[0]]
        raise InputError(f"{wrong} is refused: {_REFUSED[wrong]}; use integrated_gradients, or occlusion as a check on it")
    nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
    hint = f": did you mean {known[nearest[0]]!r}?" if nearest else ""
    raise InputError(f"needed method as one of {', '.join((*METHODS, *DECOMPOSITIONS))}, got {name!r}{hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
