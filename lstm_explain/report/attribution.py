"""Why this output, here? Integrated gradients at the study's places, each with its residual."""

from typing import Any

import numpy as np
import torch

from lstm_explain.analyses.attribution.attribute import attribute
from lstm_explain.analyses.attribution.result import AttributionResult
from lstm_explain.display import jsonable, number, percent
from lstm_explain.errors import InputError
from lstm_explain.plots import panels, plot
from lstm_explain.plots._text import short
from lstm_explain.plots.attribution import MOST_SERIES, strongest
from lstm_explain.report.faithfulness import trust
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section, nothing
from lstm_explain.report.words import counted
from lstm_explain.study import Place, Study

SHOWN = 440
"""At most so many steps before the place are drawn; all of them are attributed to."""
NEAR = 10
NODES, TOLERANCE = 256, 1e-3
EXAMPLES = 3


def section(study: Study, measured: Measured) -> Section:
    """What the network looked at before a few outputs."""
    places = list(study.places)
    if not places and study.target is not None:
        places = [Place(f"the target of sequence {row}", row, study.target) for row in range(min(EXAMPLES, len(study.inputs)))]
    if not places:
        return _empty("the study doesn't say which output to explain: give it target= or places=")
    pictures, rows, results = [], [], []
    for at, place in enumerate(places):
        try:
            result, start = _attributed(study, place)
        except InputError as error:
            return _empty(str(error))
        results.append(result)
        rows.append(_numbers(study, place, result))
        pictures.append(_picture(study, measured.inputs, place, result, rows[-1], at, start))
    good = sum(row["converged"] for row in rows)
    worst = max(row["residual_share"] for row in rows)
    baseline = "zero" if study.baselines is None else "the study’s baseline"
    chosen = study.about.get("caveats", {}).get("attribution", "The places are the study’s.")
    near, longest = float(np.median([row["share_near"] for row in rows])), max(row["steps"] for row in rows)
    found = trust(study, measured)
    known = None if isinstance(found, str) else found
    return Section(
        name="attribution",
        title="Why this output, here?",
        finding=(
            f"{_sums(good, len(rows), worst)}"
            # Of a sequence that short it is all of it.
            + (f"; at the median place {percent(near)} of their size falls within {NEAR} steps." if longest > NEAR else ".")
            + ("" if known is None else f" {known.finding}")
        ),
        brief=known.brief if known else "",
        missed=known.missed if known else f"Whether an explanation of an output may be trusted is not controlled: {found}.",
        holds=_holds(study, measured, rows),
        pictures=(*pictures, *(known.pictures if known else ())),
        tables=known.tables if known else (),
        method=(
            f"Integrated gradients (Sundararajan, Taly & Yan 2017) from {baseline}, for "
            f"symbols in the space of their embedding, by Gauss-Legendre with 8 to {NODES} nodes, until the attributions add up to the "
            f"difference between the output and the baseline's within {percent(TOLERANCE, 1)} of it. A step's attribution is the sum over "
            f"its features. {chosen if study.places else 'The places are the study’s target in its first sequences.'}"
            f"{known.method if known else ''}"
        ),
        not_shown=(
            "That attributions add up says that nothing is left out, not that they are faithful to how the network works; they depend "
            "on the baseline, and a few places show what is possible, not what is usual. "
            + (
                f"Whether they may be trusted is not controlled: {found}."
                if known is None
                else "What isn’t shown may still be so; and taking steps away makes "
                f"{'series that nobody recorded' if study.tokens is None else 'texts that nobody wrote'}."
            )
        ),
        numbers=jsonable(
            {
                "places": rows,
                "converged": good,
                "of": len(rows),
                "largest_residual_share": worst,
                "median_share_near": near,
                "near": NEAR,
                "steps_shown": _steps_shown(rows),
                "trust": {"none": found} if known is None else known.numbers,
            }
        ),
        results={"places": tuple(results)} | ({} if known is None else dict(known.results)),
    )


def _sums(good: int, places: int, worst: float) -> str:
    """Whether the attributions add up, which a network whose cell states run far up can make too hard for `NODES` nodes."""
    if good == places:
        return (
            f"At {number(places)} place{'s' if places > 1 else ''} the attributions of all steps add up to what they explain, within "
            f"{worst:.1e} of it ({number(good)} of {number(places)} inside the tolerance)"
        )
    return (
        f"At {number(good)} of {number(places)} place{'s' if places > 1 else ''} the attributions of all steps add up to what they explain "
        f"within the tolerance; the largest residual is {worst:.1e} of it, and where they don't add up they are an approximation"
    )


def _attributed(study: Study, place: Place) -> tuple[AttributionResult, int]:
    """A place's attributions; of a causal network only the steps up to the place are run, if that changes nothing."""
    row = place.sequence
    length = study.sequence_lengths[row]
    device = next(study.model.parameters()).device
    whole = study.inputs[row : row + 1, :length].to(device)

    def explained(inputs: torch.Tensor, method: str, **options: Any) -> AttributionResult:
        lengths = [inputs.shape[1]]
        return attribute(study.model, inputs, target=place.target, output=study.output, method=method, lengths=lengths, **options)

    step = place.target[0] if len(place.target) > 1 else -1
    if 0 <= step < length - 1:
        # A gradient at the whole sequence says whether later steps matter.
        later = explained(whole, "saliency").by_step[0, step + 1 :]
        if not later.any():
            whole = whole[:, : step + 1]
    options = {"baselines": study.baselines, "n_steps": NODES, "tolerance": TOLERANCE}
    return explained(whole, "integrated_gradients", **options), max(0, whole.shape[1] - SHOWN)


def _numbers(study: Study, place: Place, result: AttributionResult) -> dict[str, Any]:
    assert result.baseline_output is not None and result.convergence_delta is not None and result.converged is not None
    assert result.relative_delta is not None
    sizes = np.abs(result.by_step[0])
    at = place.target[0] if len(place.target) > 1 else len(sizes) - 1
    near = sizes[np.abs(np.arange(len(sizes)) - at % len(sizes)) < NEAR]
    strongest = int(sizes.argmax())
    tokens = None if study.tokens is None else study.tokens[place.sequence]
    return {
        "what": place.what,
        "sequence": place.sequence,
        "group": "" if study.groups is None else str(study.groups[place.sequence]),
        "target": list(place.target),
        "output": float(result.output[0]),
        "baseline_output": float(result.baseline_output[0]),
        "residual": float(result.convergence_delta[0]),
        "residual_share": float(result.relative_delta[0]),
        "converged": bool(result.converged[0]),
        "n_steps": result.settings["n_steps"][0],
        "tolerance": result.settings["tolerance"],
        "steps": int(result.valid.sum()),
        "strongest_step": strongest,
        "strongest_token": "" if tokens is None else str(tokens[strongest]),
        "share_near": float(near.sum() / sizes.sum()) if sizes.any() else 0.0,
        "attributions": result.by_step[0],
    }


def _steps_shown(rows: list[dict[str, Any]]) -> int:
    return sum(min(row["steps"], SHOWN) for row in rows)


def _holds(study: Study, measured: Measured, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """What of the inputs the pictures show."""
    places = counted(len(rows), "place")
    steps = number(_steps_shown(rows))
    if study.tokens is not None:
        return (f"{steps} tokens before {places} whose outputs are explained",)
    return (f"the series of {places}, {steps} steps in all",) if measured.inputs and _are_series(study) else ()


def _are_series(study: Study) -> bool:
    return study.inputs.is_floating_point() and study.inputs.dim() <= 3


def _picture(study: Study, inputs: bool, place: Place, result: AttributionResult, row: dict[str, Any], at: int, start: int) -> Picture:
    said = f"{number(row['output'])}, {number(row['baseline_output'])} at the baseline, residual {row['residual']:.1g}"
    next_token, tokens = "", None if study.tokens is None else list(study.tokens[place.sequence])
    most = strongest(result, 0, tokens)
    if tokens is not None:
        step = place.target[0]
        # Of a network that predicts tokens the place is about the one after it.
        if study.next_tokens is not None and len(place.target) > 1 and 0 <= step < study.sequence_lengths[place.sequence] - 1:
            next_token = f" “{_visible(tokens[step + 1])}”"
        text = "".join(map(short, tokens[start : row["steps"]]))
        figure, (ax,) = panels(9.0, 1.8 + 0.19 * sum(1 + len(line) // 88 for line in text.split("\n")))
        plot(result, ax, tokens=tokens[: row["steps"]], start=start, title=f"{place.what}{next_token}: {most}\noutput {said}")
    elif inputs and _are_series(study):
        series = study.inputs[place.sequence : place.sequence + 1, : row["steps"]]
        figure, (ax,) = panels(9.0, 2.0 + 0.4 * min(series[0, 0].numel(), MOST_SERIES))
        plot(result, ax, start=start, inputs=series, feature_names=study.feature_names, title=f"{place.what}: {most}\noutput {said}")
    else:
        figure, (ax,) = panels(9.0, 3.2)
        plot(result, ax, start=start, title=f"{place.what}: {most}\noutput {said}")
    group = f", of group {row['group']}" if row["group"] else ""
    alt = f"Attributions of the steps before {place.what}{next_token}{group}: {most}; output {said}" + (
        f"; {percent(row['share_near'])} of their size falls within {NEAR} steps of it." if row["steps"] > NEAR else "."
    )
    return Picture(f"attribution_{at + 1}", figure, alt)


def _visible(token: str) -> str:
    return token if token.isprintable() and token.strip() else repr(token)[1:-1]


def _empty(reason: str) -> Section:
    title = "Why this output, here?"
    return nothing("attribution", title, "No output is explained", reason)
