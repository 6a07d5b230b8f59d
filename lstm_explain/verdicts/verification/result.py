"""What a verification is: for each claim three legs, each with its number, its controls and its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.trajectory import Padding
from lstm_explain.verdicts.verification.bounds import Bounds
from lstm_explain.verdicts.verification.claim import Claim
from lstm_explain.verdicts.verification.matched import ALPHA, bar

if TYPE_CHECKING:
    from pandas import DataFrame

Verdict = Literal["shown", "not shown", "not controlled"]
LEAST = 0.01
"""A share of the way that is worth the name: with less a unit moves the output the right way, and next to not at all."""


@dataclass(frozen=True, eq=False)
class Knows:
    """The units tell the label, on held-out groups, better than every control.

    Attributes
    ----------
    metric : {"AUC", "R²"}
    score : float
    controls : mapping of str to float
        The scores of ``majority``, ``window`` and ``untrained 1`` and so on.
    above : mapping of str to Bounds
        How far the score is above each control's.
    p_value : float
        Of as good a score with the label moved in time, corrected for the number of claims.
    verdict : {"shown", "not shown", "not controlled"}
        *Shown* where every interval of the family is above zero and p is at most 5 %; *not controlled* without untrained twins or a window.
    """

    metric: str
    score: float
    controls: Mapping[str, float]
    above: Mapping[str, Bounds]
    p_value: float

    @property
    def verdict(self) -> Verdict:
        """What the leg comes to."""
        if not all(any(name.startswith(of) for name in self.controls) for of in ("untrained", "window")):
            return "not controlled"
        return "shown" if self.p_value <= ALPHA and all(one.family_low > 0 for one in self.above.values()) else "not shown"

    @property
    def closest(self) -> str:
        """The control that comes closest."""
        return max(self.controls, key=lambda name: self.controls[name])


@dataclass(frozen=True, eq=False)
class Used:
    """The loss rises when the units hold what they held in a run whose label differs, more than when it doesn't differ.

    Attributes
    ----------
    effect : Bounds
        The rise of the loss per difference of labels: for a yes-or-no label, at steps where it differs against steps where it doesn't.
    change : float
        The mean change of the loss over all steps.
    matched : ndarray ``(set,)``
        The same effect of sets of other units of the layer, the most alike first in how much they vary and how strongly they are read.
    above : Bounds
        How far the effect is above that of the matched set it must pass to be among the largest 5 % with them, or, of fewer than 19, to be
        the largest; NaN in a layer without other units.
    noop : float
        The largest change of the loss at one step when units hold their own values: rounding.
    least : float
        What the interval of the family must be above: `noop`, and what that matched set does; NaN in a layer without other units.
    verdict : {"shown", "not shown", "not controlled"}
        *Shown* where the interval of the family is above `least`, and the claim's own interval of `above` is above zero. What is uncertain
        are the groups of sequences. Of networks whose 24, 10, 4 and 2 units all do the same, each with noise of its own, some unit was
        shown in 0, 1, 5 and 16 of 200: with one other unit to hold it against, more than 5 %. The other units are taken as they are, not as
        draws: of many that do something, the largest is larger than the rest, and may be shown. *Not controlled* in a layer without other
        units.
    """

    effect: Bounds
    change: float
    matched: NDArray[np.float64]
    above: Bounds
    noop: float

    @property
    def as_much(self) -> int:
        """How many matched sets do as much."""
        return int((self.matched >= self.effect.value).sum())

    @property
    def least(self) -> float:
        """What the interval of the family must be above."""
        return _least(self.noop, self.matched)

    @property
    def verdict(self) -> Verdict:
        """What the leg comes to."""
        if not len(self.matched):
            return "not controlled"
        return "shown" if _stands_out(self.effect, self.above, self.least) else "not shown"


@dataclass(frozen=True, eq=False)
class Suffices:
    """The units alone, patched from a run whose label differs, move the output to where it is with that label.

    Attributes
    ----------
    share : Bounds
        How far the output moves per difference of labels, along the direction in which outputs of other groups go with the label; 1 is as
        far as outputs go with the label when nothing is patched.
    matched : ndarray ``(set,)``
        The same of the matched sets of `Used`.
    above : Bounds
        As that of `Used`.
    least : float
        As that of `Used`, with `LEAST` in place of `noop`.
    verdict : {"shown", "not shown", "not controlled"}
        As that of `Used`.
    """

    share: Bounds
    matched: NDArray[np.float64]
    above: Bounds

    @property
    def as_much(self) -> int:
        """How many matched sets do as much."""
        return int((self.matched >= self.share.value).sum())

    @property
    def least(self) -> float:
        """What the interval of the family must be above."""
        return _least(LEAST, self.matched)

    @property
    def verdict(self) -> Verdict:
        """What the leg comes to."""
        if not len(self.matched):
            return "not controlled"
        return "shown" if _stands_out(self.share, self.above, self.least) else "not shown"


def _least(least: float, others: NDArray[np.float64]) -> float:
    return max(least, float(others[bar(others)])) if len(others) else float("nan")


def _stands_out(own: Bounds, above: Bounds, least: float) -> bool:
    return own.family_low > least and above.low > 0


_WORDS = ("knows", "is used", "suffices")


@dataclass(frozen=True, eq=False, repr=False)
class Verified:
    """One claim with its legs."""

    claim: Claim
    knows: Knows
    used: Used
    suffices: Suffices

    @property
    def legs(self) -> tuple[Verdict, Verdict, Verdict]:
        """The verdicts of the three legs."""
        return self.knows.verdict, self.used.verdict, self.suffices.verdict

    @property
    def verdict(self) -> str:
        """*verified*, *correlated only* (it knows, and nothing else is shown), *not shown*, or which legs stand and which don't."""
        stand = [word for word, leg in zip(_WORDS, self.legs, strict=True) if leg == "shown"]
        if len(stand) == 3:
            return "verified"
        if not stand:
            return "not shown"
        if self.legs == ("shown", "not shown", "not shown"):
            return "correlated only"
        fall = [f"{word} {leg}" for word, leg in zip(_WORDS, self.legs, strict=True) if leg != "shown"]
        return f"{' and '.join(stand)}; {', '.join(fall)}"

    @property
    def strength(self) -> tuple[int, float]:
        """What claims are ranked by: how many legs stand, and the weakest interval's distance from zero, in widths of its lower half."""
        parts = [*self.knows.above.values(), self.used.effect, self.suffices.share]
        each = [_distance(one) for one in parts]
        return sum(leg == "shown" for leg in self.legs), min(each)

    def __repr__(self) -> str:
        return f"<{self.claim}: {self.verdict}>"


def _distance(one: Bounds) -> float:
    width = one.value - one.low
    if not np.isfinite(width):
        return -np.inf
    return np.inf * np.sign(one.value) if width == 0 and one.value else one.value / (width or 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class VerificationResult:
    """Which claims stand.

    Attributes
    ----------
    claims : tuple of Verified
        In the order in which they were made.
    matched_by : mapping of str to tuple of str
        For each layer the weights that a unit's outgoing norm is made of, for the matched units.
    certificates : mapping of str to (str, str)
        Of each layer as it is, and with units patched.
    groups, folds, donors, twins, window, resamples, permutations, seed, passes, padding
    """

    claims: tuple[Verified, ...]
    matched_by: Mapping[str, tuple[str, ...]]
    certificates: Mapping[str, tuple[str, str]]
    groups: int
    folds: int
    donors: int
    twins: int
    window: int
    resamples: int
    permutations: int
    seed: int
    passes: int
    padding: Padding

    @property
    def verified(self) -> tuple[Claim, ...]:
        """The claims that stand on all three legs."""
        return tuple(one.claim for one in self.claims if one.verdict == "verified")

    @property
    def ranked(self) -> tuple[Verified, ...]:
        """The claims, the best founded first."""
        return tuple(sorted(self.claims, key=lambda one: one.strength, reverse=True))

    def __getitem__(self, claim: Claim) -> Verified:
        for one in self.claims:
            if one.claim == claim:
                return one
        raise KeyError(str(claim))

    def __repr__(self) -> str:
        best = self.ranked[0]
        return f"<Verification: {len(self.claims)} tested, {len(self.verified)} verified; best founded: {best.claim} ({best.verdict})>"

    def _repr_html_(self) -> str:
        header = (
            "claim",
            "knows",
            "closest control",
            "p",
            "rise of the loss",
            "matched units that do as much",
            "share of the way",
            "verdict",
        )
        rows = []
        for one in self.ranked:
            knows, used, share = one.knows, one.used, one.suffices.share
            rows.append(
                (
                    str(one.claim),
                    f"{knows.metric} {knows.score:.3f}",
                    f"{knows.closest} {knows.controls[knows.closest]:.3f}",
                    f"{knows.p_value:.3f}",
                    f"{number(used.effect.value)} [{number(used.effect.family_low)}, {number(used.effect.family_high)}]",
                    f"{used.as_much} of {len(used.matched)}",
                    f"{share.value:.3f} [{share.family_low:.3f}, {share.family_high:.3f}]",
                    one.verdict,
                )
            )
        caption = (
            f"{len(self.claims)} claims tested, {len(self.verified)} verified, on {self.groups} groups; intervals at 95 %, for all claims"
        )
        return table(caption, header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""

        def plain(leg: Knows | Used | Suffices) -> dict[str, Any]:
            fields = {name: value._asdict() if isinstance(value, Bounds) else value for name, value in vars(leg).items()}
            if isinstance(leg, Knows):
                fields["above"] = {name: one._asdict() for name, one in leg.above.items()}
            else:
                fields["least"] = leg.least
            return fields | {"verdict": leg.verdict}

        claims = [
            {
                "layer": one.claim.layer,
                "units": one.claim.units,
                "label": one.claim.label,
                "verdict": one.verdict,
                "knows": plain(one.knows),
                "used": plain(one.used),
                "suffices": plain(one.suffices),
            }
            for one in self.claims
        ]
        return dict(jsonable(vars(self) | {"claims": claims, "tested": len(self.claims), "verified": len(self.verified)}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each claim. Needs pandas."""
        from pandas import DataFrame

        rows = [
            {
                "layer": one.claim.layer,
                "units": "+".join(map(str, one.claim.units)),
                "label": one.claim.label,
                "metric": one.knows.metric,
                "score": one.knows.score,
                "closest_control": one.knows.controls[one.knows.closest],
                "p_value": one.knows.p_value,
                "effect": one.used.effect.value,
                "effect_family_low": one.used.effect.family_low,
                "matched_as_much": one.used.as_much,
                "above_matched_low": one.used.above.low,
                "share": one.suffices.share.value,
                "share_family_low": one.suffices.share.family_low,
                "knows": one.knows.verdict,
                "used": one.used.verdict,
                "suffices": one.suffices.verdict,
                "verdict": one.verdict,
            }
            for one in self.claims
        ]
        return DataFrame(rows)
