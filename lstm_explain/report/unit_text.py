"""What does one unit do while it reads this text?"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.analyses.probing.result import UNTRAINED
from lstm_explain.analyses.unit_text import unit_text
from lstm_explain.display import jsonable, number
from lstm_explain.plots import panels, plot
from lstm_explain.plots._text import short
from lstm_explain.recording.runner import record
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section, nothing
from lstm_explain.report.words import called
from lstm_explain.study import Study

TOKENS, COLUMNS = 1100, 88
FOLD = 0
"""The text is of this fold, and the cell is the one that the other folds chose."""


def section(study: Study, measured: Measured) -> Section:
    """One cell over a stretch of text, with a label underlined."""
    label = farthest_ahead(measured)
    if not measured.inputs:
        return nothing("unit_text", "One unit, reading", "No text is shown", "inputs are kept out of this report")
    if study.tokens is None or measured.probing is None or label is None:
        missing = "tokens" if study.tokens is None else "yes-or-no label that can be probed for"
        return nothing("unit_text", "One unit, reading", "No text is shown", f"the study has no {missing}")
    found = measured.probing.labels
    source, cell = found[label].best_unit()
    score, twin = cell.unit_score, found[label].best_untrained_unit()
    (layer, state), unit = source.rsplit(" ", 1), cell.units[FOLD]
    truth = study.labels[label]
    groups = list(range(len(study.inputs))) if study.groups is None else list(study.groups)
    rows = [row for row, group in enumerate(groups) if measured.probing.fold_of[group] == FOLD]
    lengths = study.sequence_lengths
    row, start = _liveliest({row: truth[row, : lengths[row]] == 1 for row in rows})
    start += _from_line_start(study.tokens[row][start : min(start + TOKENS, lengths[row])])
    inputs = study.inputs[row : row + 1, : lengths[row]].to(next(study.model.parameters()).device)
    with torch.no_grad(), record(study.model, lengths=[lengths[row]]) as recording:
        study.model(inputs)
    stretch = unit_text(
        recording,
        study.tokens[row],
        layer=layer,
        unit=unit,
        signal=state,
        start=start,
        stop=start + TOKENS,
        marks=truth[row, : lengths[row]] == 1,
    )
    words = label.replace("_", " ")
    group = f" of {called(study.groups[row])}" if study.groups is not None else ""
    lines = [len(line) for line in "".join(map(short, stretch.tokens)).split("\n")]
    drawn, (ax,) = panels(0.6 + 0.095 * min(max(lines), COLUMNS), 1.0 + 0.19 * sum(1 + n // COLUMNS for n in lines))
    plot(
        stretch,
        ax,
        columns=COLUMNS,
        title=f"{layer} unit {unit}, {state.replace('_', ' ')}: AUC {score.value:z.2f} for “{words}” on text it was not chosen on",
    )
    cells = len(measured.probing.cells)
    control = f"the best cell of an untrained network has {twin:z.3f}" if np.isfinite(twin) else "no untrained network stands beside it"
    said = (
        f"Unit {unit} of {layer} by itself tells “{words}” on text that had no part in its choice: AUC {score.value:z.2f}, where 1 is "
        f"always right and 0.5 is chance; {control}."
    )
    return Section(
        name="unit_text",
        title="One unit, reading",
        finding=(
            f"Of {number(cells)} cells, unit {unit} of {layer} tells “{words}” best: AUC {score.value:z.3f} ({score.low:z.3f} to "
            f"{score.high:z.3f}) on text that had no part in its choice; {control}."
        ),
        pictures=(
            Picture(
                "unit_text",
                drawn,
                f"Text{group} coloured by the {state.replace('_', ' ')} of {layer} unit {unit}; AUC {score.value:z.2f} for {words}.",
            ),
        ),
        method=(
            f"The yes-or-no label is the one for which a single cell is farthest ahead of an untrained network's best. In each of "
            f"{number(measured.probing.folds)} folds of groups the cell was chosen on the others, and so was the way round; in all folds: "
            f"{', '.join(map(str, cell.units))}. The text is the stretch{group}, in the first fold, that is most evenly inside and outside "
            "the label; underlined characters are where the label holds after reading them."
        ),
        not_shown=(
            "Nothing here says that the network uses this cell, and the rest of the state may tell the label better: see “What do the "
            "cells know?”."
        ),
        brief=said if (ahead := score.low > twin) else "",
        missed="" if ahead else f"No single unit is shown to tell a label better than an untrained network’s best. The nearest: {said}",
        holds=(f"{number(len(stretch.tokens))} tokens{group} with one unit’s value after each",),
        numbers=jsonable(
            {
                "label": label,
                "cells": cells,
                "layer": layer,
                "unit": unit,
                "units_chosen": cell.units,
                "auc": score._asdict(),
                "auc_untrained": twin if np.isfinite(twin) else None,
                "auc_untrained_none": None if np.isfinite(twin) else measured.unprobed.get(UNTRAINED, "there is no untrained network"),
                "folds": measured.probing.folds,
                "sequence": row,
                "group": "" if study.groups is None else str(study.groups[row]),
                "start": start,
                "text": "".join(stretch.tokens),
                "values": stretch.values.round(4),
                "marks": stretch.marks,
            }
        ),
        results={"unit_text": stretch},
    )


def farthest_ahead(measured: Measured) -> str | None:
    """The yes-or-no label for which a single cell is farthest ahead of an untrained network's best; None where there is none."""
    labels = {} if measured.probing is None else measured.probing.labels
    found = {name: label for name, label in labels.items() if label.kind == "binary" and label.classes[0] in "0"}
    return max(
        found,
        key=lambda name: found[name].best_unit()[1].unit_score.value - np.nan_to_num(found[name].best_untrained_unit()),
        default=None,
    )


def _from_line_start(tokens: Sequence[str]) -> int:
    """How many tokens to leave out so that a stretch begins with a whole line; none where no line ends soon."""
    return next((at + 1 for at, token in enumerate(tokens[: 2 * COLUMNS]) if token == "\n"), 0)


def _liveliest(truth: dict[int, NDArray[np.bool_]]) -> tuple[int, int]:
    """The sequence, and the place in it, of the stretch that is most evenly inside and outside the label, and then changes most often."""
    best = (-1, -1, 0, 0)
    for row, values in truth.items():
        for start in range(0, max(len(values) - TOKENS, 0) + 1, 50):
            here = values[start : start + TOKENS]
            evenly, changes = int(min(here.sum(), (~here).sum())), int((np.diff(here) != 0).sum())
            best = max(best, (evenly, changes, row, start))
    return best[2], best[3]
