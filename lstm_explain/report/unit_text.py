"""What does one unit do while it reads this text?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lstm_explain.analyses.unit_text import UnitTextResult
from lstm_explain.display import jsonable, number
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section
from lstm_explain.study import Study

TOKENS, COLUMNS = 1100, 88


def section(study: Study, measured: Measured) -> Section:
    """One unit over a stretch of text, with a label underlined."""
    label = next((name for name, values in study.labels.items() if values.dtype == bool), None)
    if study.tokens is None or label is None or not study.select:
        missing = "tokens" if study.tokens is None else "a yes-or-no label" if label is None else "sequences to choose a unit on"
        return _empty(f"the study has no {missing}")
    if not measured.cells:
        return _empty("there are more cell states than are kept for it")
    truth = study.labels[label][measured.rows, measured.steps]
    choosing = np.isin(measured.rows, list(study.select))
    if any(len(set(truth[part].tolist())) < 2 for part in (choosing, ~choosing)):
        return _empty(f"{label} doesn't change in the sequences that it would be chosen on or shown on")

    layer, unit, chosen_on = _best(measured.cells, truth, choosing)
    states = measured.cells[layer][:, unit]
    cells = sum(layer_cells.shape[1] for layer_cells in measured.cells.values())
    sign = 1 if chosen_on >= 0.5 else -1
    chosen_on, score = (sign * (auc - 0.5) + 0.5 for auc in (chosen_on, float(_auc(states[~choosing, None], truth[~choosing])[0])))
    row, start = _liveliest(measured, truth, ~choosing)
    here = np.flatnonzero(measured.rows == row)[start : start + TOKENS]
    here = here[_from_line_start([study.tokens[row][step] for step in measured.steps[here]]) :]
    stretch = UnitTextResult(
        tokens=tuple(study.tokens[row][step] for step in measured.steps[here]),
        values=states[here].astype(np.float64),
        marks=truth[here],
        layer=layer,
        unit=unit,
        signal="cell_state",
    )
    words = label.replace("_", " ")
    group = f" of {study.groups[row]}" if study.groups is not None else ""
    lines = [len(line) for line in "".join(stretch.tokens).split("\n")]
    drawn, (ax,) = panels(0.6 + 0.095 * min(max(lines), COLUMNS), 1.0 + 0.19 * sum(1 + n // COLUMNS for n in lines))
    plot(stretch, ax, columns=COLUMNS, title=f"{layer} unit {unit}, cell state: AUC {score:.2f} for “{words}” on text it was not chosen on")
    return Section(
        name="unit_text",
        title="One unit, reading",
        finding=(
            f"Of {number(cells)} cells, unit {unit} of {layer} tells “{words}” best: AUC {chosen_on:.3f} where it was chosen, "
            f"{score:.3f} on other sequences. Verdict: not controlled."
        ),
        pictures=(
            Picture("unit_text", drawn, f"Text{group} coloured by the cell state of {layer} unit {unit}; AUC {score:.2f} for {words}."),
        ),
        method=(
            f"The unit was chosen by its AUC for “{words}” on {number(int(choosing.sum()))} steps of validation sequences and scored on "
            f"{number(int((~choosing).sum()))} steps of others. The text is the stretch{group} with the most changes of that label; "
            "underlined characters are where the label holds after reading them. The AUC's sign was fixed where the unit was chosen."
        ),
        not_shown=(
            "The same choice was not made on an untrained network or on a window of the input, which score high for such labels too; "
            "and nothing here says that the network uses this cell."
        ),
        numbers=jsonable(
            {
                "label": label,
                "cells": cells,
                "steps_chosen_on": int(choosing.sum()),
                "steps_scored_on": int((~choosing).sum()),
                "layer": layer,
                "unit": unit,
                "auc_where_chosen": chosen_on,
                "auc": score,
                "verdict": "not controlled",
                "sequence": row,
                "group": None if study.groups is None else study.groups[row],
                "start": int(measured.steps[here[0]]),
                "text": "".join(stretch.tokens),
                "values": stretch.values.round(4),
                "marks": stretch.marks,
            }
        ),
    )


def _empty(reason: str) -> Section:
    return Section("unit_text", "One unit, reading", f"No text is shown: {reason}.", (), "Nothing was computed.", reason, {"none": reason})


def _auc(states: NDArray[Any], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under the ROC curve of each unit ``(step, unit)``, from ranks (Mann & Whitney 1947)."""
    positive = int(truth.sum())
    ranks = rankdata(states, axis=0)[truth].sum(0)
    return np.asarray((ranks - positive * (positive + 1) / 2) / (positive * (len(truth) - positive)))


def _best(cells: dict[str, NDArray[np.float32]], truth: NDArray[np.bool_], choosing: NDArray[np.bool_]) -> tuple[str, int, float]:
    """The unit whose AUC is farthest from one half, either way."""
    scores = {name: _auc(states[choosing], truth[choosing]) for name, states in cells.items()}
    layer = max(scores, key=lambda name: np.abs(scores[name] - 0.5).max())
    unit = int(np.abs(scores[layer] - 0.5).argmax())
    return layer, unit, float(scores[layer][unit])


def _from_line_start(tokens: list[str]) -> int:
    """How many tokens to leave out so that a stretch begins with a whole line; none where no line ends soon."""
    return next((at + 1 for at, token in enumerate(tokens[: 2 * COLUMNS]) if token == "\n"), 0)


def _liveliest(measured: Measured, truth: NDArray[np.bool_], shown: NDArray[np.bool_]) -> tuple[int, int]:
    """The sequence, and the place in it, of the stretch with the most changes of the label."""
    best = (-1, 0, 0)
    for row in dict.fromkeys(measured.rows[shown].tolist()):
        changes = np.concatenate([[0], np.cumsum(np.diff(truth[measured.rows == row]) != 0)])
        for start in range(0, max(len(changes) - TOKENS, 0) + 1, 50):
            found = int(changes[min(start + TOKENS, len(changes)) - 1] - changes[start])
            if found > best[0]:
                best = (found, row, start)
    return best[1], best[2]
