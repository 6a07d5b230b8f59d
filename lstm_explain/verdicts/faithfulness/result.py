"""What a verdict on an attribution is: every measure beside its controls, with what is shown and what isn't."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.display import jsonable, number, table
from lstm_explain.trajectory import Padding
from lstm_explain.verdicts.faithfulness.claims import Claims
from lstm_explain.verdicts.faithfulness.infidelity import Infidelity
from lstm_explain.verdicts.faithfulness.randomisation import SIMILAR, Randomisation
from lstm_explain.verdicts.faithfulness.removal import FRACTIONS, Rank, Removal

if TYPE_CHECKING:
    from pandas import DataFrame

HEADLINE = "comprehensiveness at 10 %"
CHEAPEST = "it does more than the cheapest method"
FORETELLS = "it foretells what changes"
LOST = "little of it is left when all weights are drawn anew"
STABLE = "a small change of the input changes it little"


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessResult:
    """Whether an attribution is faithful to its model, held against controls.

    The first ranking of each array is the attribution's; the others are those of `controls`, in order.

    Attributes
    ----------
    method : str
    rank : {"signed", "size"}
        Whether steps were ordered by their attribution, and the fall of the output counts, or by its size, and the size of the change.
    controls : tuple of str
        ``random``, the attribution's own values on steps drawn at random, and the cheapest method.
    removal : Removal
        Deletion and insertion: the output's fall ``(ranking, batch, point)`` with a share of the steps replaced, or kept.
    infidelity : Infidelity or None
        None for an attribution without baseline, which says nothing of differences.
    max_sensitivity : mapping of str to ndarray ``(batch,)``
        Of the method and of the cheapest one. Small is stable, which isn't faithful: a constant is perfectly stable.
    claims : mapping of str to Claims
        For each control, how much better the attribution is, by each measure.
    randomisation : Randomisation or None
        What becomes of the attribution when weights are drawn anew.
    not_controlled : mapping of str to str
        What wasn't held against anything, and why.
    output_gap : float
        How far the model's outputs are from those that were attributed: rounding.
    repeats : float or None
        How far the attribution, made again, is from what was given, as a share of its largest; None where it wasn't made again.
    sequences, groups : int
    draws, subsets, radius, resamples, seed, passes, padding
    """

    method: str
    rank: Rank
    controls: tuple[str, ...]
    removal: Removal
    infidelity: Infidelity | None
    max_sensitivity: Mapping[str, NDArray[np.float64]]
    claims: Mapping[str, Claims]
    randomisation: Randomisation | None
    not_controlled: Mapping[str, str]
    output_gap: float
    repeats: float | None
    sequences: int
    groups: int
    draws: int
    subsets: int
    radius: float
    resamples: int
    seed: int
    passes: int
    padding: Padding

    @property
    def comprehensiveness(self) -> NDArray[np.float64]:
        """How far the output falls without the first 1, 5, 10, 20, 50 % of the steps ``(ranking, batch, fraction)``; more is better."""
        return self.removal.at(self.removal.deletion)

    @property
    def sufficiency(self) -> NDArray[np.float64]:
        """How far it falls with these steps only ``(ranking, batch, fraction)``; less is better."""
        return self.removal.at(self.removal.insertion)

    @property
    def shown(self) -> bool:
        """Whether removing the 10 % of steps that it names is shown to do more than removing as many at random."""
        claims = self.claims["random"]
        return bool(claims.shown[claims.measures.index(HEADLINE)])

    @property
    def verdicts(self) -> dict[str, str]:
        """Each question with its verdict, in words."""
        moves = "lowers the output" if self.rank == "signed" else "changes the output"
        of, found = f", {number(self.sequences)} sequences", {}
        for control, claims in self.claims.items():
            cheap = control.replace("_", " ")
            removed, kept, said = (
                ("removing as many at random", "as many at random", "its own values on other steps")
                if control == "random"
                else (f"removing those that {cheap} names", f"those of {cheap}", cheap)
            )
            found[f"removing the 10 % of steps it names {moves} more than {removed}"] = claims.verdict(HEADLINE) + of
            found[f"the 10 % of steps it names keep more of the output than {kept}"] = claims.verdict("sufficiency at 10 %") + of
            if self.infidelity is not None:
                found[f"it foretells what its baseline does to sets of steps better than {said}"] = claims.verdict("infidelity, root") + of
        if self.randomisation is not None:
            found[LOST] = self.lost + of
        return found | {what: f"not controlled: {why}" for what, why in self.not_controlled.items()}

    @property
    def lost(self) -> str:
        """The verdict on whether little of it is left when all weights are drawn anew."""
        of = self.randomisation
        if of is None:
            return f"not controlled: {self.not_controlled[LOST]}"
        kind = "anew" if self.rank == "signed" else "anew_size"
        value, low, high = (float(each[0]) for each in of.means[kind][:3])
        if not np.isfinite(high):
            return "not controlled: fewer than three groups of sequences with attributions that differ"
        word = "shown" if -SIMILAR < low and high < SIMILAR else "not shown"
        twins = [float(each[np.isfinite(each)].mean()) for each in getattr(of, kind) if np.isfinite(each).any()]
        several = f" ({min(twins):+.2f} to {max(twins):+.2f} over {len(twins)} draws of weights)" if len(twins) > 1 else ""
        return f"{word}, rank correlation {value:+.2f} [{low:.2f}, {high:.2f}]{several}"

    def __repr__(self) -> str:
        question, verdict = next(iter(self.verdicts.items()))
        return (
            f"<Faithfulness of {self.method}: {question}: {verdict}; {number(len(self.verdicts))} questions, held against "
            f"{' and '.join(self.controls)}; padding {self.padding}>"
        )

    def _repr_html_(self) -> str:
        rows = [
            (measure, f"{claims.attribution[at]:.4g}", control, f"{claims.control[at]:.4g}", claims.verdict(measure))
            for control, claims in self.claims.items()
            for at, measure in enumerate(claims.measures)
        ]
        if self.method in self.max_sensitivity:
            means = [(name, f"{values.mean():.4g}") for name, values in self.max_sensitivity.items()]
            other, theirs = means[1] if len(means) > 1 else ("", "")
            rows.append(("max-sensitivity", means[0][1], other, theirs, "stable isn't faithful: no verdict"))
        if self.randomisation is not None:
            rows.append(("rank correlation, weights drawn anew", "", "", "", f"{LOST}: {self.lost}"))
        rows += [(what, "", "", "", f"not controlled: {why}") for what, why in self.not_controlled.items()]
        caption = (
            f"Faithfulness of {self.method}, over {number(self.sequences)} sequences of {number(self.groups)} groups, {number(self.draws)} "
            f"draws of replacements; brackets: 95 % over the family; outputs within {self.output_gap:.1e} of those explained; padding "
            f"{self.padding}"
        )
        return table(caption, ("measure", "attribution", "control", "control's", "verdict on the difference"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        parts = {
            "removal": self.removal._asdict(),
            "fractions": FRACTIONS,
            "comprehensiveness": self.comprehensiveness,
            "sufficiency": self.sufficiency,
            "infidelity": None if self.infidelity is None else self.infidelity._asdict() | {"share": self.infidelity.share},
            "claims": {control: vars(claims) for control, claims in self.claims.items()},
            "randomisation": None
            if self.randomisation is None
            else vars(self.randomisation) | {"means": {name: mean._asdict() for name, mean in self.randomisation.means.items()}},
            "verdicts": self.verdicts,
            "shown": self.shown,
        }
        return dict(jsonable(vars(self) | parts))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each control and measure. Needs pandas."""
        from pandas import DataFrame, concat

        columns = ("attribution", "control", "value", "low", "high", "family_low", "family_high", "shown")
        return concat(
            [
                DataFrame(
                    {"against": control, "measure": claims.measures} | {column: getattr(claims, column) for column in columns},
                )
                for control, claims in self.claims.items()
            ],
            ignore_index=True,
        )
