"""Does the network use what its cells know? Units held at another sequence's values, and what that does to the loss."""

from typing import Any, NamedTuple

import numpy as np

from lstm_explain.analyses.ablation.ablation import ablation
from lstm_explain.analyses.ablation.held import Held
from lstm_explain.analyses.ablation.result import AblationResult
from lstm_explain.display import jsonable, number
from lstm_explain.errors import LstmExplainError
from lstm_explain.plots import panels, plot
from lstm_explain.plots._drawable import LONGEST_BESIDE, drawable
from lstm_explain.report.beside import Beside, beside_each_other, costliest, held_texts, text
from lstm_explain.report.measure import BATCH, Measured
from lstm_explain.report.read import Read
from lstm_explain.report.section import Picture, Section, Table, nothing
from lstm_explain.report.unit_text import farthest_ahead
from lstm_explain.study import Study

TITLE = "Does the network use what its cells know?"
SEQUENCES, STEPS = 64, 12_288
"""At most so many sequences, evenly spaced, and the first so many steps of all of them together."""
UNITS = 10
LARGEST = 30


class _Asked(NamedTuple):
    """Which units of a layer, and why these."""

    layer: str
    units: list[int] | None
    best: list[int]
    matched: list[int]
    why: str
    others: str = ""
    """What the matched ones are, in words."""
    active: tuple[float, float] | None = None
    """The median mean absolute states of the best and of the matched."""


def section(study: Study, measured: Measured) -> Section:
    """The units that tell a label best beside units that don't, and predictions with one of them held."""
    if study.loss is None:
        return nothing("ablation", TITLE, "No unit is held", "the study has no loss that could change")
    read = Read.of(study, SEQUENCES, STEPS)
    label = farthest_ahead(measured)
    truth = {} if label is None else {label: study.labels[label][read.rows, : read.steps]}
    try:
        asked = (
            [_Asked(layer, None, [], [], "") for layer in measured.units] if measured.thorough else [_chosen(study, measured, read, label)]
        )
        found = [
            ablation(
                study.model,
                read.inputs,
                one.layer,
                loss=lambda output, rows: read.loss(output, rows),
                units=one.units,
                lengths=read.lengths,
                by=truth,
                groups=read.groups,
                order="removal",
                seed=measured.seed,
                progress=False if measured.quiet else None,
            )
            for one in asked
        ]
        beside = _beside(study, read, found)
    except LstmExplainError as error:
        return nothing("ablation", TITLE, "No unit is held", str(error))
    medians = _medians(found[0], asked[0])
    no_predictions = (
        "the study doesn't say what its output predicts (next_tokens=)"
        if study.next_tokens is None
        else "the study has no tokens, or no unit's rise is shown"
    )
    pictures = [
        picture for at, one in enumerate(found) for picture in _pictures(one, asked[at], label, f"_{at + 1}" if len(found) > 1 else "")
    ]
    tables = [_table(one, asked[at], label) for at, one in enumerate(found)]
    if beside is not None:
        pictures.append(text(beside, "ablation_text"))
        tables.append(costliest(beside))
    return Section(
        name="ablation",
        title=TITLE,
        finding=" ".join(_finding(one, asked[at], label) for at, one in enumerate(found)),
        pictures=tuple(pictures),
        tables=tuple(tables),
        brief=_brief(found[0], asked[0], label),
        missed=_missed(found),
        holds=held_texts([] if beside is None else [beside]),
        method=_method(read, asked, found, beside),
        not_shown=(
            "What isn't shown may still be so: the intervals are as wide as the groups are few. An effect is that of the unit in a network "
            "that has all the others, some of which may stand in for it; and a change of the loss says that something needs the unit, not "
            "that it is the label that is needed." + ("" if beside is not None else f" Predictions aren't shown: {no_predictions}.")
        ),
        numbers=jsonable(
            {
                "layers": {one.layer: one.to_dict() | _beyond(one) for one in found},
                "best": asked[0].best,
                "matched": asked[0].matched,
                "label": label,
                "label_none": None if label is not None else "there is no yes-or-no label that could be probed for",
                "sequences": read.rows,
                "first_steps": read.steps,
                "thorough": measured.thorough,
                "layers_none": "within, an interval is null where too few groups have such steps",
                "median_change_of_best": medians[0],
                "median_change_of_matched": medians[1],
                "median_activity_of_best": None if asked[0].active is None else asked[0].active[0],
                "median_activity_of_matched": None if asked[0].active is None else asked[0].active[1],
                "median_activity_of_best_none": None if asked[0].active else "no label is told, or every unit was held",
                "median_activity_of_matched_none": None if asked[0].active else "no label is told, or every unit was held",
                "median_change_of_best_none": None if medians[0] is not None else "no label is told, or every unit was held",
                "median_change_of_matched_none": None if medians[1] is not None else "no label is told, or every unit was held",
                "predictions": None if beside is None else beside.numbers,
                "predictions_none": no_predictions if beside is None else None,
            }
        ),
        results={"ablation": {one.layer: one for one in found}},
    )


def _beyond(result: AblationResult) -> dict[str, Any]:
    """What is shown that the result has in other words only."""
    assert result.removal is not None
    return {
        "loss_with_all_held": result.effects.clean + float(result.removal.change[-1]),
        "largest_difference_held": result.ablated_certificate.worst.worst,
    }


def _chosen(study: Study, measured: Measured, read: Read, label: str | None) -> _Asked:
    """The units that tell the label best, and as many that are as active and don't; without a label the most active ones."""
    layer = next(iter(measured.units))
    if measured.probing is not None and label is not None:
        layer = measured.probing.labels[label].best_unit()[0].rsplit(" ", 1)[0]
    held = Held(study.model, read.inputs, layer, lambda output, rows: read.loss(output, rows), None, read.lengths, BATCH, 0)
    trajectory = held.trajectory
    active = trajectory.steps(trajectory.memory).double().abs().mean(0).cpu().numpy()
    if measured.probing is None or label is None:
        units = np.argsort(-active, kind="stable")[: 2 * UNITS].tolist()
        return _Asked(layer, units, [], [], f"the {number(len(units))} units of {layer} with the largest mean absolute state")
    known = measured.probing.labels[label].units
    here = [at for at, (of, _) in enumerate(measured.probing.cells) if of == layer]
    scores, chance = known.scores[here], known.p_values_family[here] > 0.05
    ranked = np.argsort(-scores, kind="stable")
    best = ranked[: min(UNITS, len(ranked) // 2)].tolist()
    best = [unit for unit in best if not chance[unit]] or best
    apart = [unit for unit in ranked[len(best) :].tolist() if chance[unit]]
    rest = apart or ranked[len(best) :].tolist()
    matched: list[int] = []
    for unit in best:
        free = [other for other in rest if other not in matched]
        if free:
            matched.append(min(free, key=lambda other: abs(active[other] - active[unit])))
    words, of = label.replace("_", " "), "that aren’t shown to tell it" if apart else "that tell it less well"
    medians = (float(np.median(active[best])), float(np.median(active[matched]))) if matched else None
    why = (
        f"the {number(len(best))} units of {layer} that tell “{words}” best by themselves, and {number(len(matched))} others: for each of "
        f"these in turn, of the layer's units {of}, the one whose mean absolute {trajectory.memory.replace('_', ' ')} is nearest"
        + (f" (medians {medians[0]:.3g} and {medians[1]:.3g})" if medians else "")
    )
    return _Asked(layer, [*best, *matched], best, matched, why, f"others {of}", medians)


def _beside(study: Study, read: Read, found: list[AblationResult]) -> Beside | None:
    """Predictions where the unit whose rise is largest raises the loss most."""
    result = max(found, key=lambda one: float(np.where(one.effects.shown, one.effects.change, -np.inf).max()))
    at = int(np.where(result.effects.shown, result.effects.change, -np.inf).argmax())
    if not (result.effects.shown[at] and result.effects.change[at] > 0):
        return None
    return beside_each_other(study, read, result.layer, result.units[at], result.donors)


def _medians(result: AblationResult, asked: _Asked) -> tuple[float | None, float | None]:
    """The median change of the units that tell the label best, and of the matched ones; None where they weren't told apart."""
    n, change = len(asked.best), result.effects.change
    return (float(np.median(change[:n])), float(np.median(change[n:]))) if n and asked.matched else (None, None)


def _finding(result: AblationResult, asked: _Asked, label: str | None) -> str:
    effects = result.effects
    rises = effects.shown & (effects.change > 0)
    most = int(np.argmax(effects.change))
    largest = (
        f"the largest is {effects.change[most]:+z.3f} on {effects.clean:z.3f} (unit {result.names[most]}; {effects.low[most]:+z.3f} to "
        f"{effects.high[most]:+z.3f})"
    )
    if not asked.matched or label is None:
        count = number(int(rises.sum()))
        return f"Of {number(len(result.units))} units of {result.layer}, {count} are shown to raise the loss when held; {largest}."
    n, words, matched = len(asked.best), label.replace("_", " "), number(len(asked.matched))
    first, second = (f"{median:+z.4f}" for median in _medians(result, asked))
    return (
        f"Held at what they were in another sequence, {number(int(rises[:n].sum()))} of {number(n)} units of {result.layer} that tell "
        f"“{words}” best are shown to raise the loss, and {number(int(rises[n:].sum()))} of {matched} {asked.others}: {first} and {second} "
        f"at the median; {largest}."
    )


def _brief(result: AblationResult, asked: _Asked, label: str | None) -> str:
    """What holding does, for somebody who doesn't know the word."""
    effects = result.effects
    rises, most, (first, second) = effects.shown & (effects.change > 0), int(np.argmax(effects.change)), _medians(result, asked)
    if not rises.any():
        return ""
    held = "Held, each by itself, at what they were while another sequence was read"
    if label is None or first is None or second is None:
        return (
            f"{held}, {number(int(rises.sum()))} of {number(len(result.units))} units of {result.layer} make predictions worse; unit "
            f"{result.names[most]} the most, by {effects.change[most]:+z.3f} on a loss of {effects.clean:z.3f}."
        )
    n = len(asked.best)
    return (
        f"{held}, {number(int(rises[:n].sum()))} of {number(n)} units that tell “{label.replace('_', ' ')}” best are shown to make "
        f"predictions worse, by {first:+z.4f} at the median of all {number(n)}; of {number(len(asked.matched))} {asked.others} "
        f"{number(int(rises[n:].sum()))} are, by {second:+z.4f}."
    )


def _missed(found: list[AblationResult]) -> str:
    few = sum(int((~(one.effects.shown & (one.effects.change > 0))).sum()) for one in found)
    of = sum(len(one.units) for one in found)
    return f"Held, {number(few)} of {number(of)} units are not shown to make predictions worse." if few else ""


def _pictures(result: AblationResult, asked: _Asked, label: str | None, suffix: str) -> list[Picture]:
    notes = {str(unit): "●" for unit in asked.best}
    split = label if label in result.by else None
    rows = min(LARGEST, len(result.units))
    drawn, (ax,) = panels(8.2, max(3.4, 1.6 + 0.26 * rows))
    plot(result, ax, label=split, units=LARGEST, notes=notes)
    if asked.best and label is not None:
        ax.set_ylabel(drawable(f"unit of {result.layer}\n(● tells “{label.replace('_', ' ')}” best)", LONGEST_BESIDE))
    curve, (ax,) = panels(6.8, 3.8)
    plot(result, ax, kind="removal")
    effects, removal = result.effects, result.removal
    assert removal is not None
    return [
        Picture(
            f"ablation_effects{suffix}",
            drawn,
            f"Change of the loss with each of {number(rows)} units of {result.layer} held, sorted: from {effects.change.min():+z.4f} "
            f"to {effects.change.max():+z.4f} on {effects.clean:z.3f}; {number(int(effects.shown.sum()))} of {number(len(result.units))} "
            "shown.",
        ),
        Picture(
            f"ablation_removal{suffix}",
            curve,
            f"Loss with ever more units of {result.layer} held, least effect first: {effects.clean:z.3f} to "
            f"{effects.clean + removal.change[-1]:z.3f} with {number(len(result.units))}; {number(result.removable or 0)} before a rise is "
            "shown.",
        ),
    ]


def _table(result: AblationResult, asked: _Asked, label: str | None) -> Table:
    classes = result.by.get(label, {}) if label is not None else {}
    effects = result.effects
    order = np.argsort(-effects.change, kind="stable")[: 2 * UNITS]
    rows = []
    for at in order:
        unit = result.names[at]
        kind = "tells it" if result.units[at][0] in asked.best else "matched" if result.units[at][0] in asked.matched else "–"
        rows.append(
            (
                unit,
                kind,
                f"{effects.change[at]:+z.4f}",
                f"{effects.low[at]:+z.4f} to {effects.high[at]:+z.4f}",
                "shown" if effects.shown[at] else "not shown",
                *(f"{one.change[at]:+z.4f}{'' if one.shown[at] else ' (not shown)'}" for one in classes.values()),
            )
        )
    words = (label or "").replace("_", " ")
    header = ("unit", "chosen as", "change of the loss", "95 %", "verdict", *(f"{words}: {name}" for name in classes))
    return Table(f"Units of {result.layer} held at another sequence's values, most used first", header, tuple(rows))


def _method(read: Read, asked: list[_Asked], found: list[AblationResult], beside: Beside | None) -> str:
    result = found[0]
    which = "Every unit of every layer was held by itself" if asked[0].units is None else f"Held, each by itself, were {asked[0].why}"
    stretch = (
        f" The text is the stretch of {number(len(beside.predictions.tokens))} tokens, of all that were read, where holding {beside.held}, "
        "the one whose rise is the largest, raises the loss most: a worst case, not a usual one."
        if beside is not None
        else ""
    )
    noop, certificate = max(one.noop for one in found), result.ablated_certificate
    return (
        f"Persistent resample ablation: at every step a unit's states are held at what they were at the same step of another sequence, "
        f"and later steps see it. {which}. Read were the first {number(read.steps)} steps of {number(len(read.rows))} sequences. Intervals "
        f"are from {number(result.resamples)} bootstrap draws of {number(result.effects.groups)} groups, studentised; shown means that the "
        f"interval that holds for all units at once (max-statistic: Romano & Wolf 2005; for classes of a label, for all units and classes) "
        f"leaves out zero. In the removal curve units are held together, greedily by what each does alone, chosen on the same text. "
        f"Holding a unit at its own values changes the loss by at most {noop:.1e} at any step, and the held run is "
        f"{certificate.state}: largest difference {certificate.worst.worst:.1e} from the equations with the edits taken out. Cost: "
        f"{'; '.join(f'{one.layer}: {one.cost}' for one in found)}.{stretch}"
    )
