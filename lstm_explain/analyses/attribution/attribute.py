"""`attribute`: what each step and feature of the input contributed to one number of the output."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import (
    LOOSEST,
    STEPS_AT_ONCE,
    TOLERANCE,
    Target,
    as_points,
    check_independent,
    copies,
    differentiable,
    element_in_words,
    evaluated,
    finite,
    first_gradient,
    numbers,
)
from lstm_explain.analyses.attribution.baselines import joined_baselines
from lstm_explain.analyses.attribution.budget import rows_within
from lstm_explain.analyses.attribution.decomposition.decomposed import decomposed
from lstm_explain.analyses.attribution.explained import Explained, targets_of
from lstm_explain.analyses.attribution.joined import Joined, taken_apart
from lstm_explain.analyses.attribution.methods import (
    BY_GROUP,
    COMPLETE,
    DECOMPOSITIONS,
    RANDOM,
    WITHOUT_BASELINE,
    Method,
    Problem,
    method_named,
)
from lstm_explain.analyses.attribution.partition import partition_of
from lstm_explain.analyses.attribution.rescaling import temporally_rescaled
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import number
from lstm_explain.errors import InputError
from lstm_explain.trajectory import checked_lengths


def _check_settings(given: dict[str, Any], method: str, tolerance: Any) -> None:
    if given["baselines"] is not None and method in WITHOUT_BASELINE | {"input_x_gradient"}:
        raise InputError(f"needed no baselines for {method}, which has none, got some")
    for name in ("n_steps", "internal_batch_size", "memory_budget", "n_samples"):
        if given[name] is not None and not (isinstance(given[name], int) and given[name] > 0):
            raise InputError(f"needed {name} as a positive whole number, got {given[name]!r}")
    if not isinstance(given["seed"], int) or given["seed"] < 0:
        raise InputError(f"needed seed as a whole number from 0, got {given['seed']!r}")
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise InputError(f"needed a positive tolerance, got {tolerance!r}")
    if given["n_samples"] is not None and method not in RANDOM:
        raise InputError(f"needed n_samples only for {', '.join(sorted(RANDOM))}, got it for {method}")
    if given["internal_batch_size"] is not None and given["memory_budget"] is not None:
        raise InputError("needed internal_batch_size or memory_budget, got both")
    if given["feature_mask"] is not None and method not in BY_GROUP:
        raise InputError(f"needed feature_mask only for methods that replace inputs, got it for {method}: give groups with by=")
    if given["feature_mask"] is not None and given["by"] is not None:
        raise InputError("needed feature_mask or by, which say what belongs together, got both")


def _check_rescaling(inputs: tuple[Any, ...], method: str, by: Any) -> None:
    if method == "feature_permutation":
        raise InputError("needed a method that explains each example by itself for temporal_rescaling, got feature_permutation")
    if by is not None:
        raise InputError("needed no groups with temporal_rescaling, whose numbers don't add up, got by=")
    if len(inputs) > 1:
        raise InputError(f"needed one input for temporal_rescaling, got {len(inputs)}")


def attribute(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    *,
    target: Target | list[Any] | Tensor | None = None,
    method: str = "integrated_gradients",
    baselines: Tensor | float | int | tuple[Any, ...] | None = None,
    by: Any = None,
    feature_mask: Any = None,
    temporal_rescaling: bool = False,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    embedding: str | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    tolerance: float | None = None,
    n_steps: int = 512,
    n_samples: int | None = None,
    seed: int = 0,
    internal_batch_size: int | None = None,
    memory_budget: int | None = None,
    rule: str | None = None,
    epsilon: float | None = None,
) -> AttributionResult:
    """What each step and feature of the input contributed to one number of the output.

    The model runs in evaluation mode, and without cuDNN, whose recurrent layers refuse a backward pass there; its own mode, its gradients
    and every setting are as before when this returns.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs, *additional_forward_args)``, or ``model(*inputs, *additional_forward_args)`` where they are several;
        reads the batch first, each example by itself (which is checked).
    inputs : Tensor ``(batch, time[, feature])``, or tuple
        Features; or tokens ``(batch, time)`` as whole numbers, which are attributed in the space of the model's embedding. Of a tuple,
        the first is that; the others are floating-point numbers with the batch first, padded like the first where they are ``(batch,
        time, feature)``; states ``(layer, batch, unit)`` are in a tuple of their own, as in ``(x, (h_0, c_0))``, or ``(x, (h_0,))`` for a
        model that takes a tensor.
    target : optional
        Which element of each example's output: None for an output ``(batch,)``, a class for ``(batch, class)``, ``(step,)`` for
        ``(batch, time)``, ``(step, class)`` for ``(batch, time, class)``; or a list with one for each example. Step -1 is the last
        valid one.
    method : str
        By gradients, for each number of the inputs:

        - ``integrated_gradients`` (Sundararajan, Taly & Yan 2017), by Gauss-Legendre with 8 nodes, then 16, 32, ... for the examples whose
          attributions don't add up within `tolerance`; LSTMs run by our kernels, and where one reads the points of the path, or what is
          linear in them, all nodes at once: ``settings["path"]`` says so;
        - ``gradient_shap`` (Erion et al. 2021; Captum's GradientShap): the same at random places, between the inputs and baselines drawn
          from several; adds up on average over the draws;
        - ``saliency`` (Simonyan, Vedaldi & Zisserman 2014), the size of the gradient, and ``input_x_gradient`` (Shrikumar et al. 2016),
          which needn't add up.

        By replacing inputs, for each step or as `feature_mask` or `by` say:

        - ``occlusion`` (Zeiler & Fergus 2014) and ``feature_ablation``: what changes when one group gets the baseline's values;
        - ``feature_permutation`` (Breiman 2001): when it gets another example's, drawn at random; neither need add up;
        - ``shapley_value_sampling`` (Castro, Gomez & Tejada 2009): what each group adds on average over random orders; adds up;
        - ``kernel_shap`` (Lundberg & Lee 2017): the same from a linear model of random coalitions; adds up;
        - ``shapley`` (Shapley 1953): the same exactly, for up to 8 groups, by 2^groups runs.

        By decomposition, which hands out the whole output and has no baseline (Murdoch & Szlam 2017; Arras et al. 2017, 2019):

        - ``lrp``, layer-wise relevance propagation, back through the equations of recurrent layers and cells, of a stack in all directions;
          past them it is gradient times input, exact where the model is linear, with the rest in the residual;
        - ``cell_decomposition``, what each step has added to the cell state that the output is read from, with the gates held as they were;
          of a stack, the steps of the top layer's input, as `settings` say. It is defined where the output is a linear read-out of the top
          layer's hidden (or last cell) state at one step, which is checked.

        Both say in `elsewhere` what went to biases, initial states and ε.
    baselines : number, Tensor or tuple, optional
        What stands for "nothing was there": a number, or a tensor that broadcasts to the inputs (or to their embeddings); tokens, where
        the inputs are tokens; or one for each of several inputs. Zero if left out. Padding is never changed. For gradient_shap a tensor
        with as many axes as the inputs is ``(baseline, time[, feature])``, several to draw from.
    by : optional
        Which inputs belong together: "step", "feature", "element" (each number) or "input" (each of several inputs); a number of steps in
        a window; names with their features, or with masks of truth values, as in ``{"audio": range(40), "video": slice(40, 60)}``, where
        what has no name is the rest; or a mask of whole numbers that broadcasts to the inputs, the same number for the same group. The
        result has their contributions in `by_group`.
    feature_mask : optional
        The same, by Captum's name, for methods that replace inputs; of several inputs a tuple of masks.
    temporal_rescaling : bool
        Whether to rescale the method's attributions in time (Ismail et al. 2020): each number by how much all attributions change when its
        step is at the baseline, times the same of this number alone, both from 0 to 1. It takes an attribution for each step and for each
        number of nearly half the steps. Of tokens and series of single numbers it is the step's. The result doesn't add up.
    additional_forward_args : optional
        What else the model is called with; tensors whose first axis is as long as the batch go along with their example.
    output : callable, optional
        What the model returned -> the tensor to explain; if left out, what it returned, or the first item of a tuple.
    embedding : str, optional
        Path of the `torch.nn.Embedding`, where the model has several.
    lengths : Tensor of int or sequence of int ``(batch,)``, optional
        How many steps of each example are real. Padding gets exactly zero. Only for the attribution: a model that needs them gets them
        through `additional_forward_args`.
    tolerance : float, optional
        What the residual may be, as a share of the difference of outputs: 1e-6 in float64, 1e-4 in float32, 2e-2 below.
    n_steps : int
        At most so many nodes for integrated gradients.
    n_samples : int, optional
        Random draws: orders of shapley_value_sampling (25 if left out), places of gradient_shap (50), exchanges of feature_permutation
        (25), coalitions of each of five fits of kernel_shap (200 more than four times the groups). Their standard errors are in `spread`.
    seed : int
        Of these draws, which are the same for each example, whatever is beside it, and leave the global generators alone.
    internal_batch_size : int, optional
        Rows in one forward pass; as many as make 16,384 time steps if left out.
    memory_budget : int, optional
        Bytes that a pass may hold, in place of rows: inputs, their gradients and what autograd keeps, as measured on this model. Weights
        and results are beside it.
    rule : {"all", "half", "proportional"}, optional
        Of LRP, what a gate gets of the relevance of gate times signal: nothing, half, or as the sizes of the two compare. The first, if
        left out; only there nothing divides by a sum that may vanish. Of a GRU and an RNN only the first is defined, gates holding still.
        Peepholes into gates get what the gate gets; into the candidate, as in the ``previous`` wiring, they carry a signal.
    epsilon : float, optional
        Of LRP's ε-rule inside recurrent layers; what it takes is stated. 0 for the rule ``"all"``, which needs none, else 1e-6.

    Returns
    -------
    AttributionResult
        With the residual of every example. One that doesn't reach the tolerance is returned and marked in `converged`.

    Raises
    ------
    InputError
        If a method is refused or unknown, or not defined for the model, an argument doesn't fit, the output isn't finite, or no gradient
        reaches the inputs.
    CertificateError
        If a decomposition meets a recurrent layer that isn't what its equations say.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True).double()
    >>> result = lx.attribute(model, torch.randn(4, 10, 8).double(), target=(-1, 3), lengths=[10, 7, 10, 10])
    >>> result.attributions.shape, bool(result.converged.all())
    ((4, 10, 8), True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    if method in DECOMPOSITIONS:
        if baselines is not None:
            raise InputError(f"needed no baselines for {method}, which has none, got some")
        without = {"by": by, "feature_mask": feature_mask, "n_samples": n_samples, "memory_budget": memory_budget}
        for name, value in (without | {"temporal_rescaling": temporal_rescaling or None}).items():
            if value is not None:
                raise InputError(f"needed no {name} for {method}, which gives each step its share in one pass, got some")
        if method != "lrp":
            _check_without_rule(rule, epsilon, method)
        question = {"additional_forward_args": additional_forward_args, "output": output, "embedding": embedding, "lengths": lengths}
        question |= {"tolerance": tolerance, "internal_batch_size": internal_batch_size}
        return decomposed(model, inputs, target, method, rule, epsilon, **question)
    _check_without_rule(rule, epsilon, method)
    how = method_named(method)
    given = {"baselines": baselines, "by": by, "feature_mask": feature_mask, "n_steps": n_steps, "n_samples": n_samples, "seed": seed}
    _check_settings(given | {"internal_batch_size": internal_batch_size, "memory_budget": memory_budget}, method, tolerance)
    each = inputs if isinstance(inputs, tuple) and inputs else (inputs,)
    if temporal_rescaling:
        _check_rescaling(each, method, by)
    with evaluated(model):
        first, path, layer = as_points(model, each[0], embedding)
        batch, time = first.shape[:2]
        known = None if lengths is None else checked_lengths(lengths, batch, time).cpu()
        steps = torch.arange(time) < (torch.full((batch,), time) if known is None else known).unsqueeze(1)
        joined = Joined(first, *taken_apart(each, padded=not bool(steps.all())), nested=each)
        points, valid = joined.join([first, *joined.further]), joined.steps(steps.to(first.device))
        partition = partition_of(next((one for one in (by, feature_mask) if one is not None), "step"), joined, valid, layer is not None)
        given_baseline = joined_baselines(baselines, joined, points, layer, sample=method == "gradient_shap")
        sample = given_baseline if method == "gradient_shap" else None
        baseline = torch.where(valid, given_baseline if sample is None else given_baseline[:1], points)
        wanted = targets_of(target, batch)
        explained = Explained(model, each[0].detach().clone(), path, additional_forward_args, output, wanted, known, joined)
        # Of tokens, the first pass must not be square: it shows whether the model turns them.
        beside = None if path is None else copies(explained, points, time)
        rows_at_once = internal_batch_size or max(1, STEPS_AT_ONCE // time)
        if memory_budget is not None:
            rows_at_once = rows_within(memory_budget, explained, points)
        # Of a single example, the pass that shows that there is a gradient gives the number as well.
        passed = differentiable(explained, points) if batch == 1 and method not in BY_GROUP else None
        at_input = numbers(explained, points, rows_at_once, "") if passed is None else finite(passed.number.detach(), "")
        beside = copies(explained, points, time) if beside is None else beside
        check_independent(beside, at_input, points.dtype)
        elsewhere = " at the baseline: choose another with baselines="
        gradient = None if method in BY_GROUP else first_gradient(passed or differentiable(explained, points))
        at_baseline = None
        if sample is not None:
            drawn = [numbers(explained, torch.where(valid, one, points), rows_at_once, elsewhere).double() for one in sample]
            at_baseline = torch.stack(drawn).mean(0)
        elif method not in WITHOUT_BASELINE:
            at_baseline = numbers(explained, baseline, rows_at_once, elsewhere)
        allowed = TOLERANCE.get(points.dtype, LOOSEST) if tolerance is None else tolerance
        ends = steps.sum(1).to(points.device)
        problem = Problem(
            points,
            baseline,
            valid,
            explained,
            rows_at_once,
            at_input,
            at_baseline,
            allowed,
            n_steps,
            model,
            partition,
            donated=lambda donors: torch.where(valid, joined.donated(points, donors, ends), points),
            baseline_sample=sample,
            n_samples=n_samples,
            seed=seed,
            first_gradient=gradient if joined.single else None,
        )
        found, settings, *errors = how(problem)
        if temporal_rescaling:
            found = temporally_rescaled(problem, partial(_per_number, how, method), by_step=path is not None)
            # Neither the method's errors nor the difference of outputs are of these numbers.
            settings, errors, at_baseline = settings | {"temporal_rescaling": True}, [], None
    groups = by is not None or feature_mask is not None and not (isinstance(feature_mask, str) and feature_mask in ("step", "element"))
    by_group = group_spread = spread = delta = None
    if temporal_rescaling:
        terms = found
    elif method in BY_GROUP:
        terms, by_group, group_spread = found, found, errors[0]
        shared = (joined.single and partition.of_steps) or partition
        found, spread = shared.shares(found), None if group_spread is None else shared.shares(group_spread)
    else:
        terms = found = torch.where(valid, found.double(), 0.0)
        by_group = partition.sums(found)
        spread, group_spread = errors or (None, None)
    if at_baseline is not None:
        delta = (terms.flatten(1).sum(1) - (at_input.double() - at_baseline.double())).cpu().numpy()
    attributions, *others = (part.cpu().numpy() for part in joined.as_given(found))
    return AttributionResult(
        attributions=attributions,
        valid=steps.numpy(),
        output=at_input.double().cpu().numpy(),
        baseline_output=None if at_baseline is None else at_baseline.double().cpu().numpy(),
        convergence_delta=delta,
        converged=problem.adds_up(terms, problem.rows).cpu().numpy() if method in COMPLETE and not temporal_rescaling else None,
        explained=tuple(element_in_words(explained.index[row]) for row in range(batch)),
        method=method,
        settings={
            "tolerance": allowed,
            "n_steps_at_most": n_steps,
            "baselines": _in_words(baselines, method),
            "by": _groups_in_words(by if feature_mask is None else feature_mask) if groups or method in BY_GROUP else None,
            "embedding": path,
            "dtype": str(points.dtype).removeprefix("torch."),
            **settings,
        },
        padding="unknown" if known is None else "none" if bool(steps.all()) else "known",
        others=tuple(others),
        groups=partition.names if groups and by_group is not None else None,
        by_group=by_group.cpu().numpy() if groups and by_group is not None else None,
        spread=None if spread is None else joined.as_given(spread)[0].cpu().numpy(),
        group_spread=None if group_spread is None or not groups else group_spread.cpu().numpy(),
    )


def _per_number(how: Method, method: str, problem: Problem) -> Tensor:
    """A method's attributions of every number of the input."""
    found = how(problem)[0]
    return problem.partition.shares(found) if method in BY_GROUP else problem.masked(found.double(), problem.rows)


def _check_without_rule(rule: Any, epsilon: Any, method: str) -> None:
    for name, value in (("rule", rule), ("epsilon", epsilon)):
        if value is not None:
            raise InputError(f"needed no {name} for {method}, which has none, got {value!r}")


def _in_words(baselines: Any, method: str) -> str | None:
    if method in WITHOUT_BASELINE:
        return None
    if isinstance(baselines, tuple):
        return f"{len(baselines)} of them, one for each input"
    given = torch.as_tensor(0.0 if baselines is None else baselines)
    kind = "token " if not given.is_floating_point() and baselines is not None else ""
    return f"{kind}{number(float(given))}" if given.dim() == 0 else f"{kind}tensor {tuple(given.shape)}"


def _groups_in_words(by: Any) -> str | int:
    if by is None or isinstance(by, (str, int)):
        return "step" if by is None else by
    return f"names {', '.join(map(str, by))}" if isinstance(by, Mapping) else "mask"
