"""Shapley values: what each group of inputs adds, on average over the orders in which they could be put in.

The model is run on coalitions, some groups as they are and the others at the baseline. Captum's two estimators ask for the same runs,
but sum in float32, so that what adds up exactly doesn't, and put the same order to a whole batch, padding included, so that an example's
numbers hang on what is beside it; here each example has its own valid groups, sums are float64, and seeds are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
Coalitions = NDArray[np.bool_]
MOST_GROUPS = 8
ORDERS = 25
FITS = 5


@dataclass(frozen=True)
class Plan:
    """Which coalitions of so many groups to run, by their numbers, and what their outputs make of each group.

    `values` takes the outputs, the output of the empty coalition, and how much more the full one has; it gives values and, of random draws,
    their standard errors.
    """

    count: int
    coalitions: Callable[[NDArray[np.int64]], Coalitions]
    values: Callable[[Array, float, float], tuple[Array, Array | None]]


def shapley(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """Every coalition, each group's effects weighted by the orders that begin with it (Shapley 1953)."""
    most = int((problem.partition.size > 0).sum(1).max())
    if most > MOST_GROUPS:
        needed = f"at most {MOST_GROUPS} groups for exact Shapley values, which run the model 2^groups times"
        raise InputError(f"needed {needed}, got {most}: give fewer with by=, or use shapley_value_sampling")

    def plan(groups: int) -> Plan:
        subsets = np.array(list(product((False, True), repeat=groups)))
        weights = np.array([factorial(size) * factorial(groups - size - 1) / factorial(groups) for size in range(groups)])

        def values(worth: Array, nothing: float, whole: float) -> tuple[Array, None]:
            found = np.empty(groups)
            for group in range(groups):
                # `product` counts in binary, the first group the highest digit.
                without = np.flatnonzero(~subsets[:, group])
                effects = worth[without + 2 ** (groups - 1 - group)] - worth[without]
                found[group] = weights[subsets[without].sum(1)] @ effects
            return found, None

        return Plan(len(subsets), lambda part: subsets[part], values)

    return _each(problem, plan)[0], {}, None


def shapley_value_sampling(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """Random orders, the groups put in one after the other (Castro, Gomez & Tejada 2009)."""
    orders = problem.draws(ORDERS)

    def plan(groups: int) -> Plan:
        random = problem.random()
        # Each group's place in an order.
        places = np.stack([random.permutation(groups) for _ in range(orders)])

        def coalitions(part: NDArray[np.int64]) -> Coalitions:
            order, put_in = np.divmod(part, groups + 1)
            chosen: Coalitions = places[order] < put_in[:, None]
            return chosen

        def values(worth: Array, nothing: float, whole: float) -> tuple[Array, Array | None]:
            effects = np.take_along_axis(np.diff(worth.reshape(orders, groups + 1), axis=1), places, 1)
            return effects.mean(0), _standard_error(effects)

        return Plan(orders * (groups + 1), coalitions, values)

    found, errors = _each(problem, plan)
    return found, {"n_samples": orders, "seed": problem.seed}, errors


def kernel_shap(problem: "Problem") -> tuple[Tensor, dict[str, Any], Tensor | None]:
    """A linear model of random coalitions, which adds up by constraint (Lundberg & Lee 2017, theorem 2); fitted five times.

    Coalitions are drawn with their complements (Covert & Lee 2021, section 4.2). Where all of them are fewer than the draws, all are taken,
    with their weights, and the values are exact.
    """

    def plan(groups: int) -> Plan:
        samples = problem.draws(4 * groups + 200)
        if 2**groups - 2 <= samples:
            subsets = np.array(list(product((False, True), repeat=groups)))[1:-1]
            sizes = range(1, groups)
            by_size = np.array([0.0, *((groups - 1) / (comb(groups, size) * size * (groups - size)) for size in sizes)])
            weights = by_size[subsets.sum(1)]
            return Plan(
                len(subsets),
                lambda part: subsets[part],
                lambda worth, nothing, whole: (_fitted(subsets, worth - nothing, weights, whole), None),
            )
        random = problem.random()
        drawn = np.concatenate([_pairs(random, groups, -(-samples // 2)) for _ in range(FITS)])
        equal = np.ones(len(drawn) // FITS)

        def values(worth: Array, nothing: float, whole: float) -> tuple[Array, Array | None]:
            parts = zip(np.split(drawn, FITS), np.split(worth - nothing, FITS), strict=True)
            fits = np.stack([_fitted(subsets, numbers, equal, whole) for subsets, numbers in parts])
            return fits.mean(0), _standard_error(fits)

        return Plan(len(drawn), lambda part: drawn[part], values)

    found, errors = _each(problem, plan)
    samples = [problem.draws(4 * int(groups) + 200) for groups in (problem.partition.size > 0).sum(1)]
    return found, {"n_samples": samples, "seed": problem.seed, "fits": FITS}, errors


def _each(problem: "Problem", plan: Callable[[int], Plan]) -> tuple[Tensor, Tensor | None]:
    """Each example by the plan for as many groups as have valid inputs in it, with the standard errors if there are any."""
    here = problem.partition.size > 0
    plans = {groups: plan(groups) for groups in set(here.sum(1).tolist())}
    each = [plans[groups] for groups in here.sum(1).tolist()]
    found, spread = (torch.zeros(here.shape, dtype=torch.float64) for _ in range(2))
    certain = True
    for example, worth in enumerate(_worths(problem, here, each)):
        nothing, everything = problem.ends(example)
        values, errors = each[example].values(worth, nothing, everything - nothing)
        found[example, here[example].cpu()] = torch.as_tensor(values)
        if errors is not None:
            certain = False
            spread[example, here[example].cpu()] = torch.as_tensor(errors)
    device = problem.inputs.device
    return found.to(device), None if certain else spread.to(device)


def _worths(problem: "Problem", here: Tensor, plans: list[Plan]) -> list[Array]:
    """What the model makes of each example's coalitions, those of several examples in a pass."""
    worths = [np.empty(plan.count) for plan in plans]
    after = np.cumsum([plan.count for plan in plans])
    member = _places(problem, here)
    for start in range(0, int(after[-1]), problem.rows_at_once):
        block = np.arange(start, min(start + problem.rows_at_once, int(after[-1])))
        whose = np.searchsorted(after, block, side="right")
        points, rows, into = [], [], []
        for example in np.unique(whose):
            part = block[whose == example] - (after[example] - plans[example].count)
            chosen = plans[example].coalitions(part)
            sizes = chosen.sum(1)
            # The empty and the full one are known already.
            worths[example][part] = np.where(sizes == 0, *problem.ends(example))
            run = np.flatnonzero((sizes > 0) & (sizes < chosen.shape[1]))
            there = torch.as_tensor(chosen[run], device=member.device)[:, member[example]]
            points.append(torch.where(there, problem.inputs[example], problem.baselines[example]))
            rows.append(torch.full((len(run),), int(example), device=member.device))
            into.append((example, part[run]))
        with torch.no_grad():
            together = torch.cat(rows)
            numbers = problem.explained(torch.cat(points), together).double().cpu().numpy() if len(together) else np.empty(0)
        for (example, part), of_example in zip(into, np.split(numbers, np.cumsum([len(part) for _, part in into])[:-1]), strict=True):
            worths[example][part] = of_example
    return worths


def _places(problem: "Problem", here: Tensor) -> Tensor:
    """The place of each point's group among those of its example that have valid inputs, and 0 where its group has none."""
    place = torch.where(here, here.long().cumsum(1) - 1, 0)
    of = problem.partition.of
    return place.gather(1, of.flatten(1)).reshape(of.shape)


def _pairs(random: np.random.Generator, groups: int, pairs: int) -> Coalitions:
    """Coalitions by the weights of Shapley's kernel, each followed by its complement."""
    sizes = np.arange(1, groups)
    odds = 1 / (sizes * (groups - sizes))
    drawn = random.choice(sizes, size=pairs, p=odds / odds.sum())
    places = random.permuted(np.tile(np.arange(groups), (pairs, 1)), axis=1)
    chosen = places < drawn[:, None]
    return np.stack([chosen, ~chosen], 1).reshape(-1, groups)


def _fitted(subsets: Coalitions, worth: Array, weights: Array, whole: float) -> Array:
    """Weighted least squares under the constraint that the values add up to the whole: the last one is what the others leave."""
    if not len(subsets):
        return np.array([whole])
    z, root = subsets.astype(np.float64), np.sqrt(weights)
    others = (z[:, :-1] - z[:, -1:]) * root[:, None]
    left, _, rank, _ = np.linalg.lstsq(others, (worth - z[:, -1] * whole) * root, rcond=None)
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
