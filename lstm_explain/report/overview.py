"""What was explained, on how much data, and whether the recording is what the network computed."""

import math
from typing import Any

from lstm_explain.display import jsonable, number
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Section
from lstm_explain.report.words import counted
from lstm_explain.study import Study


def section(study: Study, measured: Measured) -> Section:
    """The first section."""
    certificate, coverage = measured.certificate, measured.coverage
    groups = len(set(study.groups)) if study.groups is not None else None
    worst = max(certificate.calls, key=lambda call: call.share)
    _, difference, allowed = worst.nearest
    units = sum(measured.units.values())
    files = f" from {counted(groups, 'group')}" if groups else ""
    source = f" of {study.about['text']}" if "text" in study.about else ""
    data = f"{counted(study.steps, 'step')} of {counted(len(study.inputs), 'sequence')}{files}{source}"
    parts = [
        f"{study.about.get('what', type(study.model).__name__)}, recorded over {data}: {counted(units, 'unit')} in "
        f"{counted(len(measured.units), 'layer')}, {certificate.state} with a largest difference of {difference:.1e} "
        f"(allowed {allowed:.1e})"
    ]
    card: dict[str, Any] = study.about.get("card", {})
    if measured.loss is not None and math.isfinite(measured.loss):
        predicts = f"It predicts the next step with {measured.loss:z.3f} nats"
        parts.append(f"{predicts if study.next_tokens else f'Its loss is {measured.loss:.3g} a step'} on this data")
    if card:
        nats = card["nats_per_character"]
        parts.append(
            f"On all held-out test files it has {nats['test']:.3f} nats per character; an interpolated {nats['ngram']['order']}-gram model "
            f"has {nats['ngram']['test']:.3f} and lzma {nats['lzma']['test']:.3f} on the same text"
        )
        if beside := nats.get("other"):
            own = card["training"]["characters"]
            budgets = f", but was trained on {number(beside['characters'])} characters, and this one on {number(own)}"
            unequal = budgets if beside["characters"] != own else ""
            parts.append(f"Another bundled network ({beside['model']}) has {beside['test']:z.3f} there{unequal}")
    missing = [f"never called: {', '.join(coverage.never_called)}"] if coverage.never_called else []
    missing += [f"not opened: {', '.join(f'{n} ({kind})' for n, kind in coverage.not_opened.items())}"] if coverage.not_opened else []
    if coverage.padding == "unknown":
        missing.append("which steps are padding is unknown, so every step counts")
    if study.about.get("trained_on_this_text") is False:
        missing.append("the library read here isn't the one that the network was trained on; figures of its card are of that one")
    nonfinite = sum(call.nonfinite for call in certificate.calls)
    if nonfinite:
        missing.append(f"{number(nonfinite)} values of the layers' output are NaN or infinite and enter no figure")
    if study.loss is None:
        missing.append("how well the network does its job (the study has no loss)")
    return Section(
        name="overview",
        title="What was explained",
        finding=". ".join(part[0].upper() + part[1:] for part in parts) + ".",
        pictures=(),
        method=(
            "Every forward pass was recorded layer by layer. Each call was checked when it happened: what the layer returned against "
            "what the equations give, every recorded value against one step of the readable equations from the recorded state before "
            "it, and the named signals against each other, as c = f·c + i·g and h = o·tanh(c) of an LSTM. A "
            "call outside its tolerance stops the report."
        ),
        not_shown="; ".join(missing) or "nothing is missing: every recurrent layer was called, opened and certified",
        brief=_brief(card),
        missed=f"Of the model itself: {'; '.join(missing)}." if missing else "",
        numbers=jsonable(
            {
                "sequences": len(study.inputs),
                "steps": study.steps,
                "groups": groups,
                "groups_none": None if groups is not None else "the study has no groups",
                "units": units,
                "layers": measured.units,
                "certificate": {
                    "state": certificate.state,
                    "calls": len(certificate.calls),
                    "largest_difference": difference,
                    "tolerance": allowed,
                    "nonfinite": nonfinite,
                    "dtype": worst.dtype,
                },
                "coverage": {
                    "recorded": coverage.recorded,
                    "never_called": coverage.never_called,
                    "not_opened": coverage.not_opened,
                    "padding": coverage.padding,
                },
                "loss": measured.loss,
                "loss_none": _why_no_loss(measured.loss),
                "loss_by_group": measured.loss_by_group,
                "about": study.about,
            }
        ),
        results={"certificate": certificate, "coverage": coverage},
    )


def _brief(card: dict[str, Any]) -> str:
    """How well the network does its job, where something stands beside it."""
    if not card:
        return ""
    nats = card["nats_per_character"]
    return (
        f"On all held-out test files it needs {nats['test']:.3f} nats per character, where a {nats['ngram']['order']}-gram model needs "
        f"{nats['ngram']['test']:z.3f} and the compressor lzma {nats['lzma']['test']:z.3f}."
    )


def _why_no_loss(loss: float | None) -> str | None:
    if loss is None:
        return "the study has no loss"
    return None if math.isfinite(loss) else "the loss is not finite"
