"""The methods, and why some are refused."""

import difflib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import NO_GRADIENT
from lstm_explain.analyses.attribution.coalitions import kernel_shap, shapley, shapley_value_sampling
from lstm_explain.analyses.attribution.gradient_shap import gradient_shap
from lstm_explain.analyses.attribution.linear_path import LinearPath
from lstm_explain.analyses.attribution.partition import Partition
from lstm_explain.analyses.attribution.replacing import feature_ablation, feature_permutation
from lstm_explain.errors import InputError
from lstm_explain.recording.own_kernels import own_kernels

_DETACHED = ("does not require grad", "appears to not have been used in the graph")
"""What autograd says where nothing leads from an output to the inputs."""
FEWEST_NODES = 8
FEWEST_FUSED = 16
"""With fewer nodes it takes as long to look for what is linear in the path as is saved by it."""


def captum() -> Any:
    """``captum.attr``, imported when it is first needed; in a notebook its progress bars ask for widgets, which nothing here needs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        return import_module("captum.attr")


@dataclass(frozen=True)
class Problem:
    """Points ``(batch, time[, feature])``, what stands for nothing in their place, and what the model makes of both.

    Padding is the same in `inputs` and `baselines`; `valid` is as wide as they are. `partition` says what is replaced together;
    `donated` puts the examples of some rows in the place of all, and `baseline_sample` has baselines to draw from.
    """

    inputs: Tensor
    baselines: Tensor
    valid: Tensor
    explained: Callable[[Tensor, Tensor], Tensor]
    rows_at_once: int
    at_input: Tensor
    at_baseline: Tensor | None
    tolerance: float
    n_steps: int
    model: nn.Module
    partition: Partition
    donated: Callable[[Tensor], Tensor]
    baseline_sample: Tensor | None = None
    n_samples: int | None = None
    seed: int = 0
    first_gradient: Callable[[], Tensor] | None = None
    """The gradient of the first example at its input, by the model as it is; None where points aren't what the model reads."""

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

    def draws(self, usual: int) -> int:
        """How many random draws to make."""
        return usual if self.n_samples is None else self.n_samples

    def random(self) -> np.random.Generator:
        """The draws of the seed from their beginning, the same for each example, so that none hangs on those beside it."""
        return np.random.default_rng(self.seed)

    def ends(self, example: int) -> tuple[float, float]:
        """The number at one example's baseline, and at its inputs."""
        assert self.at_baseline is not None
        return float(self.at_baseline[example]), float(self.at_input[example])

    def effects(self, baselines: Tensor) -> Tensor:
        """What changes when each group gets the baselines' values ``(batch, group)``, by Captum, all groups of many examples in a pass."""
        ablation, parts = captum().FeatureAblation(self.explained), []
        for rows in self.rows.split(self.rows_at_once):
            of = self.partition.of[rows]
            if bool((of == of[:1]).all()):
                of = of[:1]
            attributions: Tensor = ablation.attribute(
                self.inputs[rows],
                baselines=baselines[rows],
                feature_mask=of,
                additional_forward_args=(rows,),
                perturbations_per_eval=max(1, self.rows_at_once // len(rows)),
            )
            parts.append(attributions.double())
        # Captum gives every number of a group the effect of the whole group.
        size = self.partition.size
        return torch.where(size > 0, self.partition.sums(torch.cat(parts)) / size.clamp(min=1), 0.0)

    def gradient(self, points: Tensor, rows: Tensor) -> Tensor:
        """The gradient of each number at its point, by Captum.

        Raises
        ------
        InputError
            If there is none.
        """
        wanted = points.detach().clone().requires_grad_()
        try:
            gradient: Tensor = captum().Saliency(self.explained).attribute(wanted, abs=False, additional_forward_args=(rows,))
        except RuntimeError as error:
            if not any(said in str(error) for said in _DETACHED):
                raise
            raise InputError(NO_GRADIENT) from error
        return gradient.detach()

    def gradients(self) -> Tensor:
        """The gradient at the inputs themselves."""
        return torch.cat([self.gradient(self.inputs[part], part) for part in self.rows.split(self.rows_at_once)])


Errors = Tensor | None
Method = Callable[
    [Problem],
    tuple[Tensor, dict[str, Any]] | tuple[Tensor, dict[str, Any], Errors] | tuple[Tensor, dict[str, Any], Errors, Errors],
]
"""To attributions, of every number of the input or of every group (those in `BY_GROUP`), settings, and of random draws standard errors,
of the attributions and of their sums over groups.
"""


def saliency(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The size of the gradient."""
    return problem.gradients().abs(), {}


def input_x_gradient(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """The input times its gradient."""
    return problem.inputs * problem.gradients(), {}


def integrated_gradients(problem: Problem) -> tuple[Tensor, dict[str, Any]]:
    """Gauss-Legendre, the nodes doubled for the examples that don't add up yet; ``path`` says how the gradients come about.

    Where an LSTM reads what is linear in the points, all nodes go through it at once (`LinearPath`). Elsewhere the gradients are Captum's;
    the sum is ours, since Captum 0.9 rounds its weights to float32, whatever the dtype of the model.
    """
    path = problem.masked(problem.inputs - problem.baselines, problem.rows)
    line = LinearPath(problem, path)
    with own_kernels(problem.model, line.lowest) as kernels:

        def mean(rows: Tensor, nodes: int) -> Tensor:
            if kernels.layers and not line.sought and nodes >= FEWEST_FUSED:
                line.find()
            return line.integral(rows, *_nodes(nodes, path)) if line.layers else mean_gradient(problem, path, rows, nodes)

        attributions, used = refined(problem, path, mean)
    by = f"kernels of {_named(kernels.ran)}" if kernels.ran else "the model itself"
    fused = f"; from {FEWEST_FUSED} nodes on fused into {_named(line.layers)}" if line.layers else ""
    return attributions, {"n_steps": used, "path": by + fused}


def refined(problem: Problem, path: Tensor, mean: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, list[int]]:
    """Integrated gradients, the nodes doubled for the examples that don't add up yet.

    Parameters
    ----------
    path : Tensor as the inputs
        How far it is from the baselines to the inputs, zero at padding.
    mean : callable
        ``mean(rows, nodes)``: the mean gradient along the path of some examples, in float64.

    Returns
    -------
    The attributions, in float64, and how many nodes each example took.
    """
    attributions = torch.zeros_like(path, dtype=torch.float64)
    used = torch.zeros(len(path), dtype=torch.int64)
    pending, nodes = problem.rows, min(FEWEST_NODES, problem.n_steps)
    while len(pending):
        attributions[pending] = problem.masked(mean(pending, nodes) * path[pending].double(), pending)
        used[pending.cpu()] = nodes
        pending = pending[~problem.adds_up(attributions[pending], pending)] if nodes < problem.n_steps else pending[:0]
        nodes = min(2 * nodes, problem.n_steps)
    return attributions, used.tolist()


def _named(layers: Iterable[str]) -> str:
    return ", ".join(layer or "the model" for layer in layers)


def _nodes(nodes: int, path: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre between 0 and 1: places and weights, in float64."""
    places, weights = (torch.as_tensor(part / 2, device=path.device) for part in _legendre(nodes))
    return places + 0.5, weights


@lru_cache
def _legendre(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between -1 and 1; to find them costs as much as a forward pass of a small model."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return places, weights


def mean_gradient(problem: Problem, path: Tensor, rows: Tensor, nodes: int) -> Tensor:
    """The mean gradient between baseline and input, in float64, for some examples; one point for each pair of an example and a node."""
    places, weights = _nodes(nodes, path)
    wide = (-1, *[1] * (path.dim() - 1))
    total = torch.zeros_like(path[rows], dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(nodes, device=path.device), torch.arange(len(rows), device=path.device))
    for part in pairs.split(problem.rows_at_once):
        node, at = part.unbind(1)
        alpha = places[node].to(path.dtype).reshape(wide)
        gradient = problem.gradient(problem.baselines[rows[at]] + alpha * path[rows[at]], rows[at])
        total.index_add_(0, at, weights[node].reshape(wide) * gradient.double())
    return total


METHODS: dict[str, Method] = {
    "integrated_gradients": integrated_gradients,
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "gradient_shap": gradient_shap,
    "occlusion": feature_ablation,
    "feature_ablation": feature_ablation,
    "feature_permutation": feature_permutation,
    "shapley_value_sampling": shapley_value_sampling,
    "kernel_shap": kernel_shap,
    "shapley": shapley,
}
BY_GROUP = frozenset({"occlusion", "feature_ablation", "feature_permutation", "shapley_value_sampling", "kernel_shap", "shapley"})
"""Those that replace inputs, and give one number to each group of the partition; the others give one to each number of the input."""
COMPLETE = frozenset({"integrated_gradients", "shapley_value_sampling", "kernel_shap", "shapley"})
"""Those that claim to add up; gradient_shap does on average over its draws."""
WITHOUT_BASELINE = frozenset({"saliency", "feature_permutation"})
"""Those that compare with no single other output; input x gradient compares with zero."""
RANDOM = frozenset({"gradient_shap", "feature_permutation", "shapley_value_sampling", "kernel_shap"})

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
