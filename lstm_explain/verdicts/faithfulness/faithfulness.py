"""`faithfulness`: whether what an attribution says is what the model does."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.ablation.intervals import draws as drawn_groups
from lstm_explain.analyses.attribution.asked import evaluated
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import percent
from lstm_explain.errors import InputError
from lstm_explain.verdicts.faithfulness.claims import claims, numbered
from lstm_explain.verdicts.faithfulness.infidelity import infidelity
from lstm_explain.verdicts.faithfulness.randomisation import randomisation
from lstm_explain.verdicts.faithfulness.removal import FRACTIONS, Rank, Removal, removal
from lstm_explain.verdicts.faithfulness.result import CHEAPEST, FORETELLS, LOST, STABLE, FaithfulnessResult
from lstm_explain.verdicts.faithfulness.sensitivity import max_sensitivity
from lstm_explain.verdicts.faithfulness.setting import Setting


def faithfulness(
    model: nn.Module,
    inputs: Tensor,
    result: AttributionResult,
    *,
    baselines: Tensor | float | int | None = None,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    groups: Sequence[Any] | None = None,
    rank: Rank | None = None,
    twins: int = 4,
    draws: int = 4,
    subsets: int = 32,
    perturbations: int = 4,
    radius: float = 0.02,
    resamples: int = 1000,
    seed: int = 0,
    internal_batch_size: int | None = None,
    **options: Any,
) -> FaithfulnessResult:
    """Whether an attribution says what the model does, held against a random attribution and the cheapest method.

    That an attribution adds up says that nothing is left out, not that it is right. Here the steps that it names are taken away, each
    replaced by what another sequence had at the same step, since a zero may be as telling as what it replaces: the output should fall by
    more than with as many other steps taken away (comprehensiveness, deletion), and stay where it was with these steps alone
    (sufficiency, insertion). Sets of steps at the attribution's own baseline should change the output by what it foretells (infidelity);
    a small change of the input shouldn't change it much (max-sensitivity); and with weights drawn anew, from the output down and gate by
    gate, little of it should be left.

    A difference to a control is *shown* where its interval at 95 %, by a studentised bootstrap over groups and for all measures at once
    (Romano & Wolf 2005), lies above zero. The target, the lengths, the embedding and the method are the attribution's own; what a result
    doesn't carry has to be given again, and is checked: the model must give the outputs that were explained. The model, its mode, its
    weights and gradients and the random state are as before when this returns.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : Tensor ``(batch, time[, feature])``
        What was attributed to: at least two sequences, which replace each other's steps.
    result : AttributionResult
        Of `lx.attribute`, by any method.
    baselines : number or Tensor, optional
        As `lx.attribute` got them, where these were a tensor or a broken number: a result has them in words only.
    additional_forward_args, output : optional
        As `lx.attribute` got them.
    groups : sequence ``(batch,)``, optional
        Which sequences belong together (files, patients) and are drawn together; each by itself if left out.
    rank : {"signed", "size"}, optional
        ``signed``: the steps that are said to raise the output most come first, and its fall counts. ``size``: those with the largest
        attributions of either sign come first, and the size of the change counts. If left out, signed, and size for what has no sign,
        such as saliency.
    twins : int
        How often all weights are drawn anew, each of which takes an attribution; the first time part by part, which takes two for each
        part. None if 0.
    draws : int
        How often replacements, and the random attribution, are drawn.
    subsets : int
        Sets of steps of each sequence for infidelity.
    perturbations : int
        Small changes of the input for max-sensitivity, each of which takes an attribution; none if 0.
    radius : float
        How large they are at most, in standard deviations of the input.
    resamples : int
        Bootstrap draws of groups.
    seed : int
    internal_batch_size : int, optional
        Rows in one forward pass; as many as make 16,384 time steps if left out.
    **options
        What else `lx.attribute` was called with for this method.

    Returns
    -------
    FaithfulnessResult

    Raises
    ------
    InputError
        If there is one sequence only, an argument doesn't fit, or the model, inputs or arguments aren't those of the attribution.

    References
    ----------
    Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations"; DeYoung et al. 2020, "ERASER" (comprehensiveness,
    sufficiency and their means over fractions, AOPC); Petsiuk, Das & Saenko 2018, "RISE" (deletion, insertion); Adebayo et al. 2018,
    "Sanity checks for saliency maps"; infidelity and max-sensitivity as in Captum.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model, x = torch.nn.LSTM(3, 8, batch_first=True), torch.randn(12, 10, 3)
    >>> why = lx.attribute(model, x, target=(-1, 2))
    >>> verdict = lx.faithfulness(model, x, why, draws=2, perturbations=1)
    >>> verdict.controls, verdict.comprehensiveness.shape
    (('random', 'input_x_gradient'), (3, 12, 5))
    """
    _check(model, result, rank, radius, seed)
    several = {"draws": (draws, 1), "subsets": (subsets, 1), "perturbations": (perturbations, 0), "twins": (twins, 0)}
    for name, (value, least) in (several | {"resamples": (resamples, 1)}).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"needed {name} as a whole number from {least} on, got {value!r}")
    batch = len(result.valid)
    if batch < 2:
        raise InputError("needed at least two sequences, since removed steps get what another one had, got 1")
    group = numbered(groups, batch)
    # Sizes of something that isn't a difference to a baseline have no sign.
    order = rank or ("size" if result.baseline_output is None and (result.attributions >= 0).all() else "signed")
    setting = Setting(
        model,
        inputs,
        result,
        baselines=baselines,
        additional_forward_args=additional_forward_args,
        output=output,
        options=options,
        internal_batch_size=internal_batch_size,
    )
    with evaluated(model), torch.no_grad():
        gap = setting.check()
    missing: dict[str, str] = {}
    cheap = _cheapest(setting, result, order, missing)
    own = result.by_step
    random = _shuffled(own, result.valid, seed)
    foretold = np.stack([own, random, *([] if cheap is None else [cheap.by_step])])
    controls = ("random", *([] if cheap is None else [cheap.method]))
    scores = np.abs(foretold) if order == "size" else foretold.copy()
    # All ties, which are broken anew in every draw.
    scores[1] = 0.0
    with evaluated(model), torch.no_grad():
        removed = removal(setting, result.output, scores, order, draws, seed)
        kept = None
        if setting.baseline is None:
            missing[FORETELLS] = setting.no_baseline
        else:
            kept = infidelity(setting, result.output, foretold, subsets, seed)
    measured = _measured(removed)
    if kept is not None:
        # Squares would let a few sequences decide.
        measured["infidelity, root"] = (kept.root, False)
    times = drawn_groups(int(group.max()) + 1, resamples, seed)
    rounding = 16 * torch.finfo(setting.dtype).eps * max(1.0, float(np.abs(result.output).max()))
    held = {name: claims(measured, 1 + at, rounding, group, times) for at, name in enumerate(controls)}
    repeats, sensitive, drawn = None, {}, None
    try:
        repeats = setting.repeats() if perturbations or twins else None
    except InputError as error:
        missing[STABLE] = missing[LOST] = str(error)
    if repeats is not None and perturbations:
        sensitive = {
            one.method: max_sensitivity(setting, one.attributions, name, radius, perturbations, seed)
            for one, name in ((result, None), *([] if cheap is None else [(cheap, cheap.method)]))
        }
    if not twins:
        missing[LOST] = "no weights were drawn anew (twins=0)"
    elif repeats is not None:
        try:
            drawn = randomisation(setting, model, result, twins, group, times, seed)
        except InputError as error:
            missing[LOST] = str(error)
    return FaithfulnessResult(
        method=result.method,
        rank=order,
        controls=controls,
        removal=removed,
        infidelity=kept,
        max_sensitivity=sensitive,
        claims=held,
        randomisation=drawn,
        not_controlled=missing,
        output_gap=gap,
        repeats=repeats,
        sequences=batch,
        groups=int(group.max()) + 1,
        draws=draws,
        subsets=subsets,
        radius=radius,
        resamples=resamples,
        seed=seed,
        passes=removed.passes + (0 if kept is None else kept.passes),
        padding=result.padding,
    )


def _check(model: Any, result: Any, rank: Any, radius: Any, seed: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(result, AttributionResult):
        raise InputError(f"needed what lx.attribute returned, got {type(result).__name__}")
    if not np.isfinite(result.attributions).all():
        raise InputError("needed finite attributions, got NaN or infinity among them")
    if rank not in (None, "signed", "size"):
        raise InputError(f"needed rank as 'signed' or 'size', got {rank!r}")
    if not 0 < radius < float("inf"):
        raise InputError(f"needed a positive radius, got {radius!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"needed seed as a whole number from 0 on, got {seed!r}")


def _cheapest(setting: Setting, result: AttributionResult, rank: Rank, missing: dict[str, str]) -> AttributionResult | None:
    """The attribution that one gradient gives, if there is one and it isn't this."""
    method = "saliency" if rank == "size" else "input_x_gradient"
    if result.method == method:
        missing[CHEAPEST] = f"{method} is the cheapest one"
        return None
    try:
        return setting.again(method=method)
    except InputError as error:
        missing[CHEAPEST] = str(error)
        return None


def _shuffled(values: NDArray[np.float64], valid: NDArray[np.bool_], seed: int) -> NDArray[np.float64]:
    """Each sequence's attributions on steps drawn at random."""
    # Other numbers than those that sets of steps are drawn by.
    rng, found = np.random.default_rng((seed, 1)), np.zeros_like(values)
    for row, steps in enumerate(valid):
        found[row, steps] = rng.permutation(values[row, steps])
    return found


def _measured(removed: Removal) -> dict[str, tuple[NDArray[np.float64], bool]]:
    """Each measure of removal ``(ranking, batch)``, and whether more is better."""
    found: dict[str, tuple[NDArray[np.float64], bool]] = {}
    for name, curve, more in (("comprehensiveness", removed.deletion, True), ("sufficiency", removed.insertion, False)):
        at = removed.at(curve)
        found |= {f"{name} at {percent(fraction)}": (at[:, :, n], more) for n, fraction in enumerate(FRACTIONS)}
        found[f"{name}, AOPC"] = (at.mean(2), more)
    found["deletion, area"] = (removed.area(removed.deletion), True)
    found["insertion, area"] = (removed.area(removed.insertion), False)
    return found
