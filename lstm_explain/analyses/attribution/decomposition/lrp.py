"""Layer-wise relevance propagation through recurrent layers (Arras et al. 2017, 2019), in any model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.decomposition.layers import recurrent_in, run_by
from lstm_explain.analyses.attribution.decomposition.posed import Posed
from lstm_explain.analyses.attribution.decomposition.rules import RULES, Relevance, Rule
from lstm_explain.errors import CertificateError, InputError

EPSILON = {"all": 0.0, "half": 1e-6, "proportional": 1e-6}
"""Of the ε-rule unless said otherwise: where no gate gets relevance nothing is divided by a sum that may vanish, and nothing need be lost.

The papers' 1e-3 takes a share that shows.
"""


def lrp(posed: Posed, rule: Rule, epsilon: float) -> tuple[NDArray[np.float64], dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Relevance of every input, and of what isn't one.

    Raises
    ------
    InputError
        If the model has no recurrent layer, one that can't be run by its equations, or one that the rule isn't defined for; or if relevance
        grows beyond all numbers.
    CertificateError
        If the model isn't what its layers' equations say.
    """
    model, what = posed.model, f"lrp with rule {rule!r}"
    kinds = ("lstm", "peephole", "gru", "rnn") if rule == "all" else ("lstm", "peephole")
    modules = recurrent_in(model, what, kinds, cells=True)
    parts: list[tuple[Tensor, ...]] = []
    for rows in posed.rows.split(posed.rows_at_once):
        points = posed.points[rows].detach().clone().requires_grad_()
        relevance = Relevance(rule, epsilon, points)
        with _biases_alone(model) as biases, run_by(modules, relevance, what):
            found = posed.explained(points.clone(), rows)
            _same(found.detach(), posed.output[rows], points.dtype)
            # The derivative is linear in these: one more derivative tells whose share of a bias is whose.
            of_each = torch.ones_like(found, requires_grad=True)
            wanted = [points, relevance.started, relevance.absorbed, *biases]
            gradients = torch.autograd.grad((of_each * found).sum(), wanted, create_graph=True, allow_unused=True)
            at_points, started, absorbed, *at_biases = gradients
            in_biases = [(bias.detach() * at).sum() for bias, at in zip(biases, at_biases, strict=True) if at is not None]
            shares = [_share(total, of_each) for total in (sum(in_biases, torch.zeros(())), started, absorbed)]
        gradient = torch.zeros_like(points) if at_points is None else at_points.detach()
        # Padding may hold anything, also what isn't a number; where nothing comes back there is no relevance.
        parts.append((torch.where(gradient == 0, 0.0, points.detach() * gradient), *shares))
    attributions, bias, initial, absorbed = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
    lost = (~attributions.flatten(1).isfinite().all(1) & posed.output.isfinite()).nonzero()
    if len(lost):
        kind = str(attributions.dtype).removeprefix("torch.")
        raise InputError(
            f"needed relevance that {kind} can hold, got some beyond it for example {int(lost[0])} by rule {rule!r}: use rule='all', or a "
            "larger epsilon"
        )
    elsewhere = {"bias": bias, "initial_state": initial, "epsilon": absorbed}
    settings = {"rule": rule, "epsilon": epsilon}
    return attributions.double().cpu().numpy(), settings, {name: share.double().cpu().numpy() for name, share in elsewhere.items()}


def checked_rule(rule: Any, epsilon: Any) -> tuple[Rule, float]:
    """The rule and ε, as a user gave them or by default.

    Raises
    ------
    InputError
        If they aren't.
    """
    rule = "all" if rule is None else rule
    if rule not in RULES:
        raise InputError(f"needed rule as one of {', '.join(RULES)}, got {rule!r}")
    epsilon = EPSILON[rule] if epsilon is None else epsilon
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < float("inf"):
        raise InputError(f"needed epsilon as a number from 0, got {epsilon!r}")
    if rule != "all" and epsilon == 0:
        raise InputError(f"needed epsilon above 0 for rule={rule!r}, which divides by the sum inside a gate, got 0")
    return rule, float(epsilon)


@contextmanager
def _biases_alone(model: nn.Module) -> Iterator[Sequence[nn.Parameter]]:
    """While of all parameters biases alone are differentiated, whether they are trained or not."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    biases = {name: parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2].startswith("bias")}
    wanted = {id(bias) for bias in biases.values()}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        yield list(biases.values())
    finally:
        for parameter, requires in before:
            parameter.requires_grad_(requires)


def _share(total: Tensor | None, of_each: Tensor) -> Tensor:
    """What each example has of a sum over all of them that is linear in `of_each`."""
    if total is None or not total.requires_grad:
        return torch.zeros_like(of_each)
    share = torch.autograd.grad(total, of_each, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(of_each) if share is None else share.detach()


def _same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    gap, allowed = (found - expected).abs(), torch.finfo(dtype).eps ** 0.5 * expected.abs().clamp(min=1)
    if not bool((gap <= allowed).all()):
        raise CertificateError(
            f"needed recurrent layers that compute what their equations say, got an output that differs by {float(gap.max()):.2g}: "
            "a forward pass of their own can't be decomposed"
        )
