"""One label's verdict: its best probe beside the majority, every untrained twin, the last inputs, and chance."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.chance import p_value
from lstm_explain.analyses.probing.fitting import Fit
from lstm_explain.analyses.probing.kept import Rows
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.result import MAJORITY, UNDEFINED, UNTRAINED, WINDOW, LabelProbing, Probed, Verdict, rank
from lstm_explain.analyses.probing.scores import METRICS, Interval, Score, interval, score
from lstm_explain.analyses.probing.sources import Source
from lstm_explain.analyses.probing.unit_scores import Moved, null_for, scores_of

ALPHA = 0.05


class Highest:
    """The highest of several scores, draw by draw."""

    def __init__(self, scores: Sequence[Score]) -> None:
        self._scores = scores

    def __call__(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(draw, group)`` to ``(draw,)``; NaN where none is defined."""
        return np.asarray(np.fmax.reduce([one(times) for one in self._scores]))


class Judge:
    """Scores all that was fitted for a label, and says what follows.

    Parameters
    ----------
    kept : Rows
    cells : sequence of Source
        Whose units are scored by themselves.
    twins : int
    times : ndarray ``(draw, group)``
        How often each group counts in each bootstrap sample.
    permutations, seed : int
    """

    def __init__(self, kept: Rows, cells: Sequence[Source], twins: int, times: NDArray[np.float64], permutations: int, seed: int) -> None:
        self._kept, self._cells, self._twins, self._times = kept, cells, twins, times
        self._permutations, self._seed = permutations, seed

    def __call__(self, name: str, truth: Truth, fitted: Mapping[Source, Fit]) -> LabelProbing:
        """The verdict on a label, from what was fitted for it."""
        defined = self._kept["defined", name]
        fold, group, far = (self._kept[column][defined] for column in ("fold", "group", ("far", name)))
        everywhere = np.ones(len(fold), dtype=bool)

        def scored(predicted: NDArray[np.float64], here: NDArray[np.bool_], truth: Truth = truth) -> Score:
            return score(truth, predicted, group, fold, self._times.shape[1], here)

        constant = fits.majority(truth, fold)
        fitted = {**fitted, Source(MAJORITY): Fit(constant, constant, {})}
        scores: dict[str, dict[Source, Score]] = {"score": {}, "long_range": {}}
        probed = {}
        for source, one in fitted.items():
            near = scores["score"][source] = scored(one.whole.predicted, everywhere)
            long_range = scores["long_range"][source] = scored(one.whole.predicted, far)
            task = None if one.control is None else scored(one.control[1].predicted, everywhere, one.control[0])
            probed[source] = Probed(
                interval(near, self._times),
                interval(long_range, self._times),
                interval(scored(one.alone.predicted, everywhere), self._times),
                tuple(one.chosen[out] for out in sorted(one.chosen)),
                UNDEFINED if task is None else interval(task, self._times),
                UNDEFINED if task is None else interval(near, self._times, task),
            )
        probes = [source for source in fitted if not source.control]
        best = max(probes, key=lambda source: rank(probed[source].score))
        rivals = _rivals(fitted)

        def best_of(where: str) -> dict[str, list[Source]]:
            """Of each network, and each other control, the best: it has the same choice among its layers and signals."""
            return {of: [max(own, key=lambda one: rank(getattr(probed[one], where))) for own in each] for of, each in rivals.items()}

        def above(where: str) -> dict[str, Interval]:
            over = {of: Highest([scores[where][source] for source in each]) for of, each in best_of(where).items()}
            return {of: interval(scores[where][best], self._times, highest) for of, highest in over.items()}

        above_all, above_far = above("score"), above("long_range")
        null = null_for(truth.values, self._kept["sequence"][defined])
        # Labels are moved within sequences, or between whole groups where a label mostly stays the same in a sequence.
        runs = self._kept["sequence" if null == "circular_shift" else "group"][defined]
        predictions = [fitted[source].whole.predicted for source in probes]
        p, p_far = (
            p_value(truth, predictions, fold, here, Moved(runs, null), self._permutations, self._seed) for here in (everywhere, far)
        )
        states = np.concatenate([self._kept[cell][defined] for cell in self._cells], axis=1)
        controlled = UNTRAINED in rivals and WINDOW in rivals
        return LabelProbing(
            kind=truth.kind,
            metric=METRICS[truth.kind],
            classes=truth.classes,
            steps=len(fold),
            long_range_steps=int(far.sum()),
            mean=float("nan") if truth.kind == "categorical" else float(truth.values.mean()),
            probes={source.key(self._twins): probed[source] for source in probes},
            controls={source.key(self._twins): one for source, one in probed.items() if source.control},
            best=best.key(self._twins),
            twins=tuple(probed[source] for source in best_of("score").get(UNTRAINED, ())),
            above=above_all,
            above_long_range=above_far,
            p_value=p,
            null=null,
            verdict=verdict(controlled, above_all, p),
            verdict_long_range=verdict(controlled, above_far, p_far),
            units=scores_of(states, truth, runs, null, self._permutations, self._seed),
            unconverged=sum(one.whole.unconverged + (one.control[1].unconverged if one.control else 0) for one in fitted.values()),
        )


def _rivals(fitted: Mapping[Source, Fit]) -> dict[str, list[list[Source]]]:
    """What the best probe has to be above: the sources of each control, of untrained networks those of each twin."""
    found: dict[str, dict[int, list[Source]]] = {}
    for control in (MAJORITY, UNTRAINED, WINDOW):
        for source in fitted:
            if source.control == control:
                found.setdefault(control, {}).setdefault(source.twin, []).append(source)
    return {control: list(twins.values()) for control, twins in found.items()}


def verdict(controlled: bool, above: Mapping[str, Interval], p_value: float) -> Verdict:
    """Shown, if the best probe is above every control and that isn't chance."""
    if not controlled:
        return "not controlled"
    return "shown" if p_value <= ALPHA and all(one.low > 0 for one in above.values()) else "not shown"
