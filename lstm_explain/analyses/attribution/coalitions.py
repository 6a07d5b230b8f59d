"""Shapley values: what each group of inputs adds, on average over the orders in which they could be put in.

The model is run on coalitions, some groups as they are and the others at the baseline. Captum's two estimators ask for the same runs,
but sum in float32, so that what adds up exactly doesn't, and put the same order to a whole batch, padding included, so that an example's
numbers hang on what is beside it; here each example has its own valid groups, sums are float64, and seeds are ours.
"""

from collections.abc import Callable
from itertools import product
from math import comb, factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.errors import InputError

if TYPE_CHECKING:
    from lstm_explain.analyses.attribution.methods import Problem

Array = NDArray[np.float64]
MOST_GROUPS = 8
ORDERS = 25
FITS = 5


def shapley(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """Every coalition, each group's effects weighted by the orders that begin with it (Shapley 1953)."""
    counts = (problem.partition.size > 0).sum(1)
    if int(counts.max()) > MOST_GROUPS:
        needed = f"at most {MOST_GROUPS} groups for exact Shapley values, which run the model 2^groups times"
        raise InputError(f"needed {needed}, got {int(counts.max())}: give fewer with by=, or use shapley_value_sampling")

    def one(example: int, groups: int, values: "Values") -> tuple[Array, Array | None]:
        subsets = np.array(list(product((False, True), repeat=groups)))
        worth = values(lambda part: torch.as_tensor(subsets[part]), len(subsets))
        found = np.empty(groups)
        for group in range(groups):
            # `product` counts in binary, the first group the highest digit.
            without = np.flatnonzero(~subsets[:, group])
            sizes = subsets[without].sum(1)
            weights = np.array([factorial(k) * factorial(groups - k - 1) / factorial(groups) for k in range(groups)])[sizes]
            found[group] = weights @ (worth[without + 2 ** (groups - 1 - group)] - worth[without])
        return found, None

    return _each(problem, one)


def shapley_value_sampling(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """Random orders, the groups put in one after the other (Castro, Gomez & Tejada 2009)."""
    orders = problem.draws(ORDERS)

    def one(example: int, groups: int, values: "Values") -> tuple[Array, Array | None]:
        random = problem.random()
        # Each group's place in an order.
        places = np.stack([random.permutation(groups) for _ in range(orders)])

        def coalitions(part: NDArray[np.int64]) -> Tensor:
            order, put_in = np.divmod(part, groups + 1)
            return torch.as_tensor(places[order] < put_in[:, None])

        worth = values(coalitions, orders * (groups + 1)).reshape(orders, groups + 1)
        effects = np.take_along_axis(np.diff(worth, axis=1), places, 1)
        return effects.mean(0), _standard_error(effects)

    return _each(problem, one, n_samples=orders, seed=problem.seed)


def kernel_shap(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """A linear model of random coalitions, which adds up by constraint (Lundberg & Lee 2017, theorem 2); fitted five times.

    Coalitions are drawn with their complements (Covert & Lee 2021, section 4.2). Where all of them are fewer than the draws, all are taken,
    with their weights, and the values are exact.
    """
    asked: list[int] = []

    def one(example: int, groups: int, values: "Values") -> tuple[Array, Array | None]:
        samples = problem.draws(4 * groups + 200)
        asked.append(samples)
        whole = problem.difference(example)
        if groups == 1:
            return np.array([whole]), None
        if 2**groups - 2 <= samples:
            subsets = np.array(list(product((False, True), repeat=groups)))[1:-1]
            sizes = subsets.sum(1)
            weights = np.array([0.0, *((groups - 1) / (comb(groups, k) * k * (groups - k)) for k in range(1, groups))])[sizes]
            return _fitted(subsets, values(lambda part: torch.as_tensor(subsets[part]), len(subsets)), weights, problem, example), None
        random = problem.random()
        drawn = np.concatenate([_pairs(random, groups, -(-samples // 2)) for _ in range(FITS)])
        worth = values(lambda part: torch.as_tensor(drawn[part]), len(drawn))
        equal = np.ones(len(drawn) // FITS)
        fits = np.stack(
            [
                _fitted(subsets, numbers, equal, problem, example)
                for subsets, numbers in zip(np.split(drawn, FITS), np.split(worth, FITS), strict=True)
            ]
        )
        return fits.mean(0), _standard_error(fits)

    values, settings, spread = _each(problem, one, seed=problem.seed, fits=FITS)
    return values, settings | {"n_samples": asked}, spread


Values = Callable[[Callable[[NDArray[np.int64]], Tensor], int], Array]
"""From numbers of coalitions to coalitions ``(n, group)`` and how many there are, to what the model makes of each."""


def _each(
    problem: "Problem", one: Callable[[int, int, Values], tuple[Array, Array | None]], **settings: Any
) -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """One example after the other, with those of its groups that have valid inputs."""
    groups = problem.partition.size > 0
    found, spread = (torch.zeros(groups.shape, dtype=torch.float64) for _ in range(2))
    uncertain = False
    for example in range(len(groups)):
        here = groups[example].nonzero().squeeze(1)
        values, errors = one(example, len(here), _values_of(problem, example, here))
        found[example, here.cpu()] = torch.as_tensor(values)
        if errors is not None:
            uncertain = True
            spread[example, here.cpu()] = torch.as_tensor(errors)
    device = problem.inputs.device
    return found.to(device), settings, spread.to(device) if uncertain else None


def _values_of(problem: "Problem", example: int, groups: Tensor) -> Values:
    """What the model makes of an example's coalitions; the empty and the full one are known already."""
    member = problem.partition.of[example]
    # Groups without a valid input have no place of their own; at padding inputs and baseline are the same.
    place = torch.zeros(len(problem.partition.names), dtype=torch.int64, device=member.device).index_copy(
        0, groups, torch.arange(len(groups), device=member.device)
    )[member]
    inputs, baseline = problem.inputs[example], problem.baselines[example]

    def values(coalitions: Callable[[NDArray[np.int64]], Tensor], count: int) -> Array:
        worth = np.empty(count)
        for part in np.array_split(np.arange(count), -(-count // problem.rows_at_once)):
            chosen = coalitions(part).to(member.device)
            sizes = chosen.sum(1)
            worth[part] = np.where((sizes == 0).cpu(), problem.at_nothing(example), float(problem.at_input[example]))
            run = ((sizes > 0) & (sizes < len(groups))).nonzero().squeeze(1)
            if len(run):
                points = torch.where(chosen[run][:, place], inputs, baseline)
                rows = torch.full((len(run),), example, device=member.device)
                with torch.no_grad():
                    worth[part[run.cpu().numpy()]] = problem.explained(points, rows).double().cpu().numpy()
        return worth

    return values


def _pairs(random: np.random.Generator, groups: int, pairs: int) -> NDArray[np.bool_]:
    """Coalitions by the weights of Shapley's kernel, each followed by its complement."""
    sizes = np.arange(1, groups)
    odds = 1 / (sizes * (groups - sizes))
    drawn = random.choice(sizes, size=pairs, p=odds / odds.sum())
    places = random.permuted(np.tile(np.arange(groups), (pairs, 1)), axis=1)
    chosen = places < drawn[:, None]
    return np.stack([chosen, ~chosen], 1).reshape(-1, groups)


def _fitted(subsets: NDArray[np.bool_], worth: Array, weights: Array, problem: "Problem", example: int) -> Array:
    """Weighted least squares under the constraint that the values add up: the last one is what the others leave."""
    whole = problem.difference(example)
    z = subsets.astype(np.float64)
    root = np.sqrt(weights)
    others = (z[:, :-1] - z[:, -1:]) * root[:, None]
    left, _, rank, _ = np.linalg.lstsq(others, (worth - problem.at_nothing(example) - z[:, -1] * whole) * root, rcond=None)
    if rank < z.shape[1] - 1:
        needed = f"enough coalitions to tell {z.shape[1]} groups apart"
        raise InputError(f"needed {needed}, got {len(z)}: give more with n_samples=, or fewer groups with feature_mask=")
    return np.append(left, whole - left.sum())


def _standard_error(draws: Array) -> Array | None:
    """How far the mean of independent draws is from where it would be with more of them; None of a single one."""
    if len(draws) < 2:
        return None
    error: Array = draws.std(0, ddof=1) / np.sqrt(len(draws))
    return error
