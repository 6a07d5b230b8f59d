"""Claims as the first screen has them: each leg one number with its control, and real text with the unit held."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lstm_explain.display import jsonable
from lstm_explain.report.beside import Beside
from lstm_explain.report.words import counted
from lstm_explain.verdicts.verification.bounds import Bounds
from lstm_explain.verdicts.verification.result import VerificationResult, Verified

SHOWN = 40
"""Tokens of the excerpt: those of the stretch at which holding the unit costs most."""

ROUNDING = 1e-12
"""An effect that is no larger is the arithmetic's."""


def lead(result: VerificationResult, failed: Verified | None, beside: Mapping[str, Beside]) -> tuple[dict[str, Any], ...]:
    """The best founded claim, and the most plausible one that failed."""
    chosen = {"best": result.ranked[0]} | ({} if failed is None else {"failed": failed})
    return tuple(_claim(kind, one, result.window, beside.get(kind)) for kind, one in chosen.items())


def _claim(kind: str, one: Verified, window: int, beside: Beside | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "unit": one.claim.named,
        "label": one.claim.label.replace("_", " "),
        "verdict": one.verdict,
        "legs": _legs(one, window),
        "text": None if beside is None else _excerpt(beside),
        "text_none": None if beside is not None else "no stretch of text is shown",
    }


def _legs(one: Verified, window: int) -> list[dict[str, Any]]:
    knows, used, suffices = one.knows, one.used, one.suffices
    names = {"window": f"the last {window} inputs", "majority": "a constant"}
    closest = names.get(knows.closest, "an untrained network")
    score, control = _number(knows.score, "z.2f"), _number(knows.controls[knows.closest], "z.2f")
    effect = _number(used.effect.value, "+.3g") if not abs(used.effect.value) <= ROUNDING else "0"
    share = _number(100 * suffices.share.value, "z.0f")
    matched = counted(len(used.matched), "comparable unit" if len(one.claim.units) == 1 else "comparable set of units")
    used_by = f"{_between(used.effect, used.least, 1, '+.2g', '')}{used.as_much} of {matched} as much"
    moved_by = f"{_between(suffices.share, suffices.least, 100, 'z.1f', ' %')}{suffices.as_much} of {matched} as much"
    return [
        _leg("knows", knows.verdict, f"{knows.metric} {score}", f"{control} for {closest}", knows.score),
        _leg("is used", used.verdict, effect, used_by, used.effect.value),
        _leg("suffices", suffices.verdict, f"{share} %", moved_by, suffices.share.value),
    ]


def _between(bounds: Bounds, least: float, scale: float, how: str, unit: str) -> str:
    """The interval of all claims at once, where there is one, and what it must be above."""
    if not np.isfinite([bounds.family_low, bounds.family_high]).all():
        return ""
    needed = f", needed above {scale * least if abs(least) > ROUNDING else 0:{how}}{unit}" if np.isfinite(least) else ""
    return f"from {scale * bounds.family_low:{how}}{unit} to {scale * bounds.family_high:{how}}{unit}{needed}; "


def _leg(name: str, verdict: str, value: str, control: str, exact: float) -> dict[str, Any]:
    known = bool(np.isfinite(exact))
    why = None if known else "it isn’t defined on these groups"
    return {"leg": name, "value": value if known else "–", "control": control, "verdict": verdict, "exact": exact, "exact_none": why}


def _number(value: float, how: str) -> str:
    return format(value, how) if np.isfinite(value) else "–"


def _excerpt(beside: Beside) -> dict[str, Any]:
    """The tokens at which holding the units costs most, and the one of them at which it costs the most."""
    shown = beside.predictions
    cost = np.log(shown.clean_came) - np.log(shown.ablated_came)
    size = min(SHOWN, len(cost))
    summed = np.concatenate([[0.0], np.cumsum(cost)])
    start = int((summed[size:] - summed[:-size]).argmax())
    here = slice(start, start + size)
    return dict(
        jsonable(
            {
                "sequence": beside.sequence,
                "start": shown.start + start,
                "tokens": shown.tokens[here],
                "clean": shown.clean[here],
                "held": shown.ablated[here],
                "costliest": int(cost[here].argmax()),
                "clean_came": shown.clean_came[here],
                "held_came": shown.ablated_came[here],
                "right": shown.right,
                "of": len(shown.tokens),
            }
        )
    )
