"""Claims on their three legs, and one claim's effect among those of matched units."""

from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lstm_explain.display import percent
from lstm_explain.errors import InputError
from lstm_explain.plots._dispatch import chosen, draw
from lstm_explain.plots._drawable import LONGEST_BELOW, LONGEST_BESIDE
from lstm_explain.verdicts.verification.bounds import Bounds
from lstm_explain.verdicts.verification.result import VerificationResult, Verified

_CLAIMS = 24
"""More rows than these can't be read."""
_SHOWN, _FALLS = "C2", "0.55"
_ZERO, _WIDTH, _TEXT = 0.12, 0.28, 0.98
"""Where a leg's zero stands in its lane, how wide its largest value is drawn, and where its number ends."""


@draw.register
def draw_verification(
    result: VerificationResult, ax: Axes, kind: str | None = None, claim: int = 0, effect: str = "rise of the loss"
) -> None:
    """Draw the legs of all claims, the best founded first, or the `claim`-th of them among its matched units; `effect` is the loss's."""
    if chosen("kind", kind, ("legs", "used", "suffices")) == "legs":
        _legs(ax, result, effect)
        return
    if not 0 <= claim < len(result.claims):
        raise InputError(f"needed claim from 0, the best founded, to {len(result.claims) - 1}, got {claim}")
    _among(ax, result.ranked[claim], kind == "used", effect)


def _legs(ax: Axes, result: VerificationResult, effect: str) -> None:
    claims = result.ranked[:_CLAIMS]
    for lane in range(3):
        each = [_leg(one, lane) for one in claims]
        known = [abs(end) for bounds, _ in each for end in (bounds.value, bounds.family_low, bounds.family_high) if np.isfinite(end)]
        largest = max(known, default=0.0) or 1.0
        ax.plot([lane + _ZERO] * 2, [-0.5, len(claims) - 0.5], color="0.5", linewidth=0.8)
        for row, ((bounds, text), one) in enumerate(zip(each, claims, strict=True)):
            colour = _SHOWN if one.legs[lane] == "shown" else _FALLS
            # What reaches beyond the lane's left edge ends there.
            low, high, value = (
                lane + max(_ZERO + _WIDTH * end / largest, 0.01) for end in (bounds.family_low, bounds.family_high, bounds.value)
            )
            if np.isfinite([low, high]).all():
                ax.plot([low, high], [row, row], color=colour, linewidth=3, alpha=0.35, solid_capstyle="butt")
            if np.isfinite(value):
                ax.plot(value, row, "o" if colour == _SHOWN else "x", color=colour)
            number = ax.text(lane + _TEXT, row, text, ha="right", va="center", size=8, color="black" if colour == _SHOWN else "0.4")
            # Beside long names lanes are narrow, and a bar may reach under its number.
            number.set_bbox({"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.5})
    for lane in (1, 2):
        ax.axvline(lane, color="0.8", linewidth=0.8)
    ax.set(xlim=(0, 3), ylim=(len(claims) - 0.5, -0.5))
    ax.set_xticks(
        np.arange(3) + 0.5,
        [
            "knows: score above\nits closest control",
            fill(f"is used: {effect} where the label differs; matched units as much", LONGEST_BELOW),
            "suffices: share of the way\nto the other output",
        ],
    )
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(False)
    ax.set_yticks(range(len(claims)), [f"{one.claim.named}: {one.claim.label.replace('_', ' ')}" for one in claims])
    verdicts = ax.secondary_yaxis("right")
    verdicts.set_yticks(range(len(claims)), [_verdict(one) for one in claims])
    verdicts.tick_params(length=0)
    for side in (ax, verdicts):
        for spine in side.spines.values():
            spine.set_visible(False)
    more = "" if len(claims) == len(result.claims) else f"; the {len(claims)} best founded"
    ax.set_title(f"{len(result.claims)} claims tested, {len(result.verified)} verified{more} (bars: 95 % for all claims at once)")


def _verdict(one: Verified) -> str:
    if one.verdict in ("verified", "correlated only", "not shown"):
        return one.verdict
    return f"{sum(leg == 'shown' for leg in one.legs)} of 3 legs"


def _leg(one: Verified, lane: int) -> tuple[Bounds, str]:
    """What is drawn of a leg, and its number in words."""
    if lane == 0:
        control = min(one.knows.above, key=lambda name: one.knows.above[name].family_low)
        above = one.knows.above[control]
        return above, f"{one.knows.score:.2f}; {control.split(' ')[0]} {one.knows.controls[control]:.2f}"
    bounds = one.used.effect if lane == 1 else one.suffices.share
    if np.isnan(bounds.value):
        return bounds, "not defined"
    if lane == 1:
        return bounds, f"{bounds.value:+.2g}; {one.used.as_much} of {len(one.used.matched)}"
    return bounds, f"{percent(bounds.value, 1)}"


def _among(ax: Axes, one: Verified, used: bool, effect: str) -> None:
    leg = one.used if used else one.suffices
    bounds, matched = (one.used.effect, one.used.matched) if used else (one.suffices.share, one.suffices.matched)
    if not len(matched):
        raise InputError(f"needed units to hold {one.claim.named} against, got a layer without others")
    ordered = np.sort(matched)[::-1]
    ax.plot(
        np.arange(1, len(ordered) + 1),
        ordered,
        "o",
        color="0.55",
        label=f"{len(ordered)} matched {'units' if len(one.claim.units) == 1 else 'sets of units'}",
    )
    ax.plot(0, bounds.value, "o", color=_SHOWN if leg.verdict == "shown" else "C1", markersize=6, label=one.claim.named)
    ax.plot([0, 0], [bounds.family_low, bounds.family_high], color=_SHOWN if leg.verdict == "shown" else "C1", linewidth=3, alpha=0.35)
    ax.axhline(0, color="0.5", linewidth=0.8)
    words = one.claim.label.replace("_", " ")
    what = f"{effect} where “{words}” differs" if used else f"share of the way to the output with the other “{words}”"
    ax.set(xlabel="the claim, then units that vary as much and are read as strongly, largest first", ylabel=fill(what, LONGEST_BESIDE))
    ax.set_title(f"{'is used' if used else 'suffices'}: {leg.verdict}; {leg.as_much} of {len(matched)} matched do as much")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
