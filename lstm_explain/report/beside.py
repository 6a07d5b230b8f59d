"""Predictions on real text, as the network is and with units held, beside each other."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.analyses.ablation.held import Held
from lstm_explain.analyses.ablation.predictions import Predictions, predictions
from lstm_explain.display import number
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import BATCH
from lstm_explain.report.read import Read
from lstm_explain.report.section import Picture, Table
from lstm_explain.study import Study

SHOWN, COLUMNS = 240, 80
"""Tokens whose predictions are shown."""
PLACES = 10


class Beside(NamedTuple):
    """Predictions over the stretch of text where holding some units of a layer costs most."""

    predictions: Predictions
    layer: str
    units: tuple[int, ...]
    sequence: int

    @property
    def held(self) -> str:
        """What is held, for people."""
        return f"unit{'' if len(self.units) == 1 else 's'} {', '.join(map(str, self.units))} of {self.layer}"

    @property
    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        unit = self.units[0] if len(self.units) == 1 else list(self.units)
        right, of = self.predictions.right, len(self.predictions.tokens)
        return self.predictions.to_dict() | {"layer": self.layer, "unit": unit, "sequence": self.sequence, "right": right, "of": of}


def beside_each_other(study: Study, read: Read, layer: str, units: Sequence[int], donors: NDArray[np.int64]) -> Beside | None:
    """Predictions where holding units at what the donors ``(row,)`` had raises the loss most; None where the study predicts no tokens."""
    if study.next_tokens is None or study.tokens is None:
        return None
    held = Held(study.model, read.inputs, layer, read.loss, None, read.lengths, BATCH, 0)
    known = set(study.next_tokens)
    best: tuple[float, int, int] = (-np.inf, 0, 0)

    def holding(rows: torch.Tensor) -> Any:
        which = torch.zeros(len(rows), held.width, dtype=torch.bool)
        which[:, list(units)] = True
        return held.holding(rows, which, torch.from_numpy(donors)[rows])

    with torch.no_grad():
        for rows in held.batches:
            with holding(rows):
                worse = read.loss(study.model(read.inputs[rows]), rows).double().cpu() - held.clean[rows]
            for row, rise in zip(rows.tolist(), worse.numpy(), strict=True):
                length = int(held.valid[row].sum())
                # A token's prediction is made at the step before it; tokens without a class can't be shown.
                tokens = study.tokens[int(read.rows[row])][1:length]
                if len(tokens) and all(token in known for token in tokens):
                    size = min(SHOWN, len(tokens))
                    summed = np.concatenate([[0.0], np.cumsum(rise[: len(tokens)])])
                    sums = summed[size:] - summed[:-size]
                    best = max(best, (float(sums.max()), row, 1 + int(sums.argmax())))
        if not np.isfinite(best[0]):
            return None
        _, row, start = best
        rows = torch.tensor([row])
        clean = study.model(read.inputs[rows])
        with holding(rows):
            ablated = study.model(read.inputs[rows])
    output = study.output or (lambda returned: returned)
    sequence, length = int(read.rows[row]), int(held.valid[row].sum())
    before, after = (output(run)[0, :length] for run in (clean, ablated))
    shown = predictions(before, after, study.tokens[sequence], study.next_tokens, start=start, stop=start + SHOWN)
    return Beside(shown, layer, tuple(units), sequence)


def text(beside: Beside, name: str) -> Picture:
    """What came, and what was most likely as it is and with the units held."""
    shown = beside.predictions
    figure, (ax,) = panels(9.0, 1.2 + 0.76 * -(-len(shown.tokens) // COLUMNS))
    (clean, ablated), count = shown.right, len(shown.tokens)
    plot(
        shown,
        ax,
        columns=COLUMNS,
        title=f"{beside.held} held, where that hurts most: {clean} of {count} are what was most likely as it is, {ablated} then",
    )
    return Picture(
        name,
        figure,
        f"What came in sequence {beside.sequence}, and below it what was most likely for the network as it is ({clean} of {count} right) "
        f"and with {beside.held} held ({ablated} right).",
    )


def held_texts(beside: Iterable[Beside]) -> tuple[str, ...]:
    """What of the inputs these show, in words."""
    return tuple(f"{number(len(one.predictions.tokens))} tokens beside predictions with {one.held} held" for one in beside)


def costliest(beside: Beside) -> Table:
    """The places at which holding the units costs most."""
    shown = beside.predictions
    cost = np.log(shown.clean_came) - np.log(shown.ablated_came)
    rows = []
    for at in np.sort(np.argsort(-cost, kind="stable")[:PLACES]):
        before = "".join(shown.tokens[max(0, at - 24) : at]).replace("\n", "↵").replace("\t", "→")
        rows.append(
            (
                before,
                _visible(shown.tokens[at]),
                f"{shown.clean_came[at]:z.2f}",
                f"{_visible(shown.clean[at])} ({shown.clean_top[at]:z.2f})",
                f"{shown.ablated_came[at]:z.2f}",
                f"{_visible(shown.ablated[at])} ({shown.ablated_top[at]:z.2f})",
            )
        )
    header = ("before", "what came", "its probability", "as it is: most likely", "its probability, held", "held: most likely")
    return Table("Predictions as it is and with units held, where it costs most", header, tuple(rows))


def _visible(token: str) -> str:
    return token if token.isprintable() and token.strip() else {"\n": "↵", "\t": "→", " ": "␣"}.get(token, repr(token)[1:-1])
