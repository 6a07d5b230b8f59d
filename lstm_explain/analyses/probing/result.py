"""What a probing is: for each label the scores of its probes beside those of their controls, and a verdict."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lstm_explain.analyses.probing.labels import Kind
from lstm_explain.analyses.probing.scores import Interval
from lstm_explain.analyses.probing.unit_scores import UnitScoresResult
from lstm_explain.display import jsonable, table
from lstm_explain.errors import InputError
from lstm_explain.trajectory import Padding

if TYPE_CHECKING:
    from pandas import DataFrame

UNTRAINED, WINDOW, MAJORITY = "untrained", "window", "majority"
JOINT = "all"

UNDEFINED = Interval(np.nan, np.nan, np.nan)
Verdict = Literal["shown", "not shown", "not controlled"]


class Probed(NamedTuple):
    """One probe's score: on all held-out steps, on those far from the deciding event, and of its best single unit.

    ``units`` says which unit each fold's others chose; the score is of these, each on the fold that didn't choose it. ``control_task`` is
    the score of a probe of the same kind, on the same features and folds, of labels that are drawn for each type of step;
    ``selectivity`` is how far the score lies above it, on the same bootstrap samples of groups. Both are NaN without types, for
    controls, and where all types drew the same.
    """

    score: Interval
    long_range: Interval
    unit_score: Interval
    units: tuple[int, ...]
    control_task: Interval = UNDEFINED
    selectivity: Interval = UNDEFINED


@dataclass(frozen=True, eq=False)
class LabelProbing:
    """One label.

    Attributes
    ----------
    kind : {"binary", "categorical", "continuous"}
    metric : str
        AUC, balanced accuracy or R², all on steps of groups that the probe hasn't seen.
    classes : tuple of str
    steps, long_range_steps : int
        Steps that were scored, and those of them that lie more than `ProbingResult.window` steps after the deciding event.
    mean : float
        The share of yes, or the mean of a number; NaN for categories.
    probes : mapping of str to Probed
        By layer and signal: ``"lstm.l1 cell_state"``; ``"all"`` is all of them together.
    controls : mapping of str to Probed
        ``"majority"``; ``"window"``; ``"untrained lstm.l1 cell_state"`` and so on, of several twins ``"untrained 0 lstm.l1 cell_state"``.
    best : str
        The key of the best of `probes`; each untrained network's best one is its control.
    twins : tuple of Probed
        Each untrained network's best probe, chosen as the trained one's is: how far they spread is how much a draw of weights matters.
    above : mapping of str to Interval
        How far the best probe is above each control, on the same bootstrap samples of groups; above the best of all twins in each of
        them. Long-range likewise in `above_long_range`.
    p_value : float
        Of the best probe's score: held-out predictions against labels that are moved, the best of all probes in each draw. Where series
        are hardly longer than their memory it is a little too small: of 200 draws of independent AR(0.95) series of 50 steps, 9.5 %
        (yes or no), 5 % (numbers) and 7 % (categories) came out at 5 % or below. The verdict needs more, and was wrong in 0, 0 and 1.5 %.
    null : str
        How they are moved.
    verdict, verdict_long_range : {"shown", "not shown", "not controlled"}
        *Shown* if every interval of `above` lies above zero, which is above every twin, and the p-value is at most 5 %; *not shown* isn't
        "not so". *Not controlled* without an untrained network and a window.
    units : UnitScoresResult
        All units of each layer's `cells` by themselves, in the order of `ProbingResult.cells`.
    unconverged : int
        Fits that had not converged.
    """

    kind: Kind
    metric: str
    classes: tuple[str, ...]
    steps: int
    long_range_steps: int
    mean: float
    probes: Mapping[str, Probed]
    controls: Mapping[str, Probed]
    best: str
    twins: tuple[Probed, ...]
    above: Mapping[str, Interval]
    above_long_range: Mapping[str, Interval]
    p_value: float
    null: str
    verdict: Verdict
    verdict_long_range: Verdict
    units: UnitScoresResult
    unconverged: int

    def best_unit(self, signal: str | None = None) -> tuple[str, Probed]:
        """The layer and signal whose best single unit scores highest, among those of a signal or the states that remember.

        Raises
        ------
        InputError
            If that signal wasn't probed.
        """
        names = memories(self.probes) if signal is None else [name for name in self.probes if name.endswith(f" {signal}")]
        if not names:
            there = dict.fromkeys(name.rpartition(" ")[2] for name in self.probes)
            raise InputError(f"needed signal as one that was probed, {', '.join(there)}, got {signal!r}")
        name = max(names, key=lambda name: rank(self.probes[name].unit_score))
        return name, self.probes[name]

    def best_untrained_unit(self) -> float:
        """The same of the untrained networks, of all twins: the score of their best unit; NaN without one."""
        names = memories(name for name in self.controls if name.startswith(f"{UNTRAINED} "))
        return max((self.controls[name].unit_score.value for name in names), default=float("nan"))

    def spread(self, digits: int) -> str:
        """From the lowest to the highest score of an untrained network, in words."""
        values = [f"{twin.score.value:.{digits}f}" for twin in sorted(self.twins, key=lambda twin: rank(twin.score))]
        return "–" if not values else values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"

    def best_control(self, of: str) -> tuple[str, Probed] | None:
        """The best of a control's probes (``"untrained"`` has one for each twin, layer and signal), or None without that control."""
        names = [name for name in self.controls if name.split(" ")[0] == of]
        best = max(names, key=lambda name: rank(self.controls[name].score), default=None)
        return None if best is None else (best, self.controls[best])


@dataclass(frozen=True, eq=False, repr=False)
class ProbingResult:
    """What linear probes found, label by label.

    Attributes
    ----------
    labels : mapping of str to LabelProbing
    cells : tuple of (layer, unit)
        The unit axis of each label's `units`: cell states; hidden states of a layer without cells; of a layer of which neither was probed
        the first signal that was.
    groups, folds : int
    stride : int
        Every so many steps of a sequence were kept for classification and scores; ridge fits use all of them.
    window : int
        Steps of input that the window control sees.
    resamples : int
    padding : {"none", "known", "unknown"}
    fold_of : mapping
        The fold that each group is in.
    twins : int
        How many untrained networks stand beside it.
    """

    labels: Mapping[str, LabelProbing]
    cells: tuple[tuple[str, int], ...]
    groups: int
    folds: int
    stride: int
    window: int
    resamples: int
    padding: Padding
    fold_of: Mapping[Any, int]
    twins: int

    def __repr__(self) -> str:
        parts = [
            f"{name}: {found.metric} {found.probes[found.best].score.value:.2f}, {found.verdict}" for name, found in self.labels.items()
        ]
        return f"<Probing by {self.groups} groups in {self.folds} folds: {'; '.join(parts)}; padding {self.padding}>"

    def _repr_html_(self) -> str:
        of_twins = f"untrained, {self.twins} twins" if self.twins > 1 else "untrained"
        header = (
            "label",
            "score",
            "best probe",
            "95 %",
            "majority",
            of_twins,
            "window",
            "selectivity",
            "best cell",
            "long range",
            "p",
            "verdict",
        )
        rows = []
        for name, found in self.labels.items():
            best, majority, window = found.probes[found.best], found.controls[MAJORITY], found.controls.get(WINDOW)
            rows.append(
                (
                    name,
                    found.metric,
                    f"{best.score.value:.3f} ({found.best})",
                    f"{best.score.low:.3f} to {best.score.high:.3f}",
                    f"{majority.score.value:.3f}",
                    found.spread(3),
                    "–" if window is None else f"{window.score.value:.3f}",
                    "–" if np.isnan(best.selectivity.value) else f"{best.selectivity.value:.3f}",
                    f"{found.best_unit()[1].unit_score.value:.3f}",
                    "–" if np.isnan(best.long_range.value) else f"{best.long_range.value:.3f}, {found.verdict_long_range}",
                    f"{found.p_value:.3g}",
                    found.verdict,
                )
            )
        return table(f"Linear probes on {self.groups} groups in {self.folds} folds; padding {self.padding}", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers; None where a value isn't finite."""
        whole = {name: getattr(self, name) for name in ("cells", "groups", "folds", "stride", "window", "resamples", "padding", "twins")}
        return dict(jsonable(whole | {"labels": {name: _plain(found) for name, found in self.labels.items()}}))

    def to_frame(self) -> "DataFrame":
        """A pandas frame, one row for each label and probe or control. Needs pandas."""
        from pandas import DataFrame

        spans = ("score", "long_range", "unit_score", "control_task", "selectivity")
        rows = [
            (name, found.metric, source, *(end for span in spans for end in getattr(probed, span)))
            for name, found in self.labels.items()
            for source, probed in (found.probes | found.controls).items()  # type: ignore[operator]
        ]
        ends = [f"{span}{end}" for span in spans for end in ("", "_low", "_high")]
        return DataFrame(rows, columns=["label", "metric", "source", *ends])


def memories(sources: Iterable[str]) -> list[str]:
    """Of layers and signals, ``"lstm.l1 cell_state"``, those that remember best: of each layer cell, else hidden state, else the first."""
    signals: dict[str, list[str]] = {}
    for name in sources:
        layer, _, signal = name.rpartition(" ")
        if signal != JOINT:
            signals.setdefault(layer, []).append(signal)
    return [f"{layer} {next((one for one in ('cell_state', 'hidden_state') if one in of), of[0])}" for layer, of in signals.items()]


def _plain(found: LabelProbing) -> dict[str, Any]:
    """Fields by name, named tuples as mappings."""

    def named(value: Any) -> Any:
        if isinstance(value, Interval) and np.isnan(value.value):
            return None
        if hasattr(value, "_asdict"):
            return {name: named(item) for name, item in value._asdict().items()}
        if isinstance(value, tuple):
            return [named(item) for item in value]
        return {key: named(item) for key, item in value.items()} if isinstance(value, Mapping) else value

    return {name: value.to_dict() if isinstance(value, UnitScoresResult) else named(value) for name, value in vars(found).items()}


def rank(found: Interval) -> float:
    """Where a score stands among others: one that isn't defined, last."""
    return -np.inf if np.isnan(found.value) else found.value
