"""May the attributions be trusted? Several methods on the same outputs, and what the model does without what they name."""

from typing import Any, NamedTuple

import numpy as np
import torch

from lstm_explain.analyses.attribution.attribute import attribute
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import number, percent
from lstm_explain.errors import InputError, LstmExplainError
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Table
from lstm_explain.study import Study
from lstm_explain.verdicts.comparison import ComparisonResult, compare_attributions
from lstm_explain.verdicts.faithfulness.faithfulness import faithfulness
from lstm_explain.verdicts.faithfulness.result import FaithfulnessResult

SEQUENCES, STEPS = 20, 48
"""At most so many sequences, evenly spaced, and the first so many steps of each."""
FEWEST = 6
"""Of fewer sequences intervals are too wide to show anything."""
METHODS = ("integrated_gradients", "occlusion", "input_x_gradient", "saliency")
NODES, TOLERANCE = 32, 1e-2
DRAWS, SUBSETS, TWINS = 2, 16, 2


class Trust(NamedTuple):
    """What goes into the section on attributions."""

    finding: str
    brief: str
    missed: str
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    method: str
    numbers: dict[str, Any]
    results: dict[str, Any]


class _Read(NamedTuple):
    """What is explained: some of the study's sequences, and an output of each."""

    rows: list[int]
    inputs: torch.Tensor
    lengths: list[int]
    target: Any
    what: str


def trust(study: Study, measured: Measured) -> Trust | str:
    """What holds of attributions of this kind over many sequences, or why it isn't asked."""
    try:
        read = _read(study)
        results = {method: _attributed(study, read, method) for method in METHODS}
        compared = compare_attributions(results)
        # The first with both controls; saliency, the cheapest of all, with weights drawn anew.
        held = [_held(study, read, results[method], measured.seed, twins) for method, twins in ((METHODS[0], 0), (METHODS[-1], TWINS))]
    except LstmExplainError as error:
        return str(error)
    said = _brief(compared, held)
    shown = next(iter(held[0].verdicts.values())).startswith("shown")
    return Trust(
        finding=_finding(compared, held),
        brief=said if shown else "",
        missed="" if shown else said,
        pictures=_pictures(compared, held[0]),
        tables=(_verdicts(held), _agreement(compared)),
        method=_method(read, compared, held),
        numbers={
            "what": read.what,
            "sequences": read.rows,
            "first_steps": read.inputs.shape[1],
            "comparison": {name: value for name, value in compared.to_dict().items() if name not in ("by_step", "valid")},
            "verdicts": {one.method: one.verdicts for one in held},
            "faithfulness": {
                one.method: {name: one.to_dict()[name] for name in ("claims", "removal", "rank", "resamples", "seed")} for one in held
            },
        },
        results={"comparison": compared, "faithfulness": {one.method: one for one in held}},
    )


def _read(study: Study) -> _Read:
    lengths = study.sequence_lengths
    device = next(study.model.parameters()).device
    given = study.target is not None and not study.places
    steps = study.inputs.shape[1] if given else min(STEPS, study.inputs.shape[1])
    count = min(len(lengths), SEQUENCES, SEQUENCES * STEPS // steps)
    if count < FEWEST:
        raise InputError(
            f"needed at least {FEWEST} sequences that can be read in a few seconds, got {count}: call lx.faithfulness yourself"
        )
    rows = np.linspace(0, len(lengths) - 1, count).round().astype(int).tolist()
    inputs, ends = study.inputs[rows, :steps].to(device), [min(lengths[row], steps) for row in rows]
    if given:
        return _Read(rows, inputs, ends, study.target, "the study’s target")
    with torch.no_grad():
        returned = study.model(inputs)
    output = study.output(returned) if study.output is not None else returned[0] if isinstance(returned, tuple) else returned
    if output.dim() != 3 or output.shape[1] != steps:
        raise InputError(f"needed an output (sequence, step, class) where the study has no target, got {tuple(output.shape)}")
    classes = output[torch.arange(count), torch.tensor(ends) - 1].argmax(1).tolist()
    target = [(end - 1, one) for end, one in zip(ends, classes, strict=True)]
    what = "what the network holds most likely after them" if study.next_tokens else "the largest output at the last of them"
    return _Read(rows, inputs, ends, target, what)


def _attributed(study: Study, read: _Read, method: str) -> AttributionResult:
    return attribute(
        study.model,
        read.inputs,
        target=read.target,
        method=method,
        baselines=None if method in ("input_x_gradient", "saliency") else study.baselines,
        output=study.output,
        lengths=read.lengths,
        n_steps=NODES,
        tolerance=TOLERANCE,
    )


def _held(study: Study, read: _Read, result: AttributionResult, seed: int, twins: int) -> FaithfulnessResult:
    return faithfulness(
        study.model,
        read.inputs,
        result,
        output=study.output,
        baselines=study.baselines if result.method == METHODS[0] else None,
        groups=None if study.groups is None else [study.groups[row] for row in read.rows],
        draws=DRAWS,
        subsets=SUBSETS,
        perturbations=0,
        twins=twins,
        seed=seed,
    )


def _finding(compared: ComparisonResult, held: list[FaithfulnessResult]) -> str:
    question, verdict = next(iter(held[0].verdicts.items()))
    return (
        f"Over {number(len(compared.valid))} sequences, {question.replace('it names', 'they name')}: {verdict.rpartition(',')[0]}; they "
        f"and occlusion agree with a rank correlation of {compared.signed.median[0, 1]:z.2f} {compared.signed.interval(0, 1)} at the "
        "median."
    )


def _brief(compared: ComparisonResult, held: list[FaithfulnessResult]) -> str:
    question, verdict = next(iter(held[0].verdicts.items()))
    return (
        f"May explanations of single outputs be trusted? Over {number(len(compared.valid))} sequences, {question}: "
        f"{verdict.rpartition(',')[0]}."
    )


def _pictures(compared: ComparisonResult, held: FaithfulnessResult) -> tuple[Picture, ...]:
    curve, (ax,) = panels(6.8, 3.6)
    plot(held, ax, kind="deletion")
    claim = held.claims["random"].verdict("deletion, area")
    fall = f"Fall of the output as the steps that integrated gradients name are replaced, beside two controls; against random: {claim}."
    figure, (ax,) = panels(6.2, 4.6)
    plot(compared, ax, kind="matrix")
    pairs = compared.signed.median[np.triu_indices(len(compared.names), 1)]
    alt = f"Rank correlations between {len(compared.names)} methods, medians from {np.nanmin(pairs):z.2f} to {np.nanmax(pairs):z.2f}."
    return (Picture("attribution_deletion", curve, fall), Picture("attribution_agreement", figure, alt))


def _verdicts(held: list[FaithfulnessResult]) -> Table:
    rows = [(one.method.replace("_", " "), question, verdict) for one in held for question, verdict in one.verdicts.items()]
    return Table("May they be trusted? In brackets: 95 % for all measures at once", ("attributions", "question", "verdict"), tuple(rows))


def _agreement(compared: ComparisonResult) -> Table:
    names = [name.replace("_", " ") for name in compared.names]
    rows = []
    for one in range(len(names)):
        for other in range(one + 1, len(names)):
            agreements = (compared.signed, compared.size, compared.overlap)
            cells = (f"{of.median[one, other]:z.2f} {of.interval(one, other)}" for of in agreements)
            rows.append((f"{names[one]}, {names[other]}", *cells))
    first = f"first {percent(compared.fraction)} in common (by chance {percent(compared.chance)})"
    return Table(
        "Do methods agree? Medians over sequences, 95 % in brackets", ("attributions", "rank correlation", "of sizes", first), tuple(rows)
    )


def _method(read: _Read, compared: ComparisonResult, held: list[FaithfulnessResult]) -> str:
    checks = "; ".join(f"{name.replace('_', ' ')} {compared.check(at)}" for at, name in enumerate(compared.names))
    return (
        f" Whether such attributions may be trusted is asked of {number(len(read.rows))} sequences, evenly spaced, of which the first "
        f"{number(read.inputs.shape[1])} steps are read and {read.what} is explained, with {NODES} nodes at most, until they "
        f"add up within {percent(TOLERANCE)} ({checks}). Steps that are "
        f"taken away get what another sequence had there, drawn {DRAWS} times (deletion and insertion: Petsiuk, Das & Saenko 2018; "
        f"comprehensiveness and sufficiency: DeYoung et al. 2020); infidelity is that of Yeh et al. 2019; weights are drawn anew, {TWINS} "
        f"times, for saliency (Adebayo et al. 2018). Shown means above zero in the interval that holds for all measures at once, from "
        f"{number(held[0].resamples)} bootstrap draws of {number(held[0].groups)} groups, studentised."
    )
