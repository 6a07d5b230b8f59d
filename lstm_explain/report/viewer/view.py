"""`View`: some of what was read, every value of every unit while it was, and what is known about the units."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.analyses.contexts.result import ContextsResult
from lstm_explain.display import number
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import record
from lstm_explain.report.measure import Measured
from lstm_explain.report.reads import reads
from lstm_explain.report.section import Section
from lstm_explain.report.viewer.orders import Order, interest, orders
from lstm_explain.report.viewer.painted import Painted, painted
from lstm_explain.report.viewer.pieces import Piece, pieces
from lstm_explain.report.words import counted
from lstm_explain.study import Study


class Seen(NamedTuple):
    """One layer's values while the pieces were read, one after the other."""

    kind: str
    memory: str
    signals: Mapping[str, NDArray[np.float32]]
    """Each ``(unit, step)``; a hidden state that is projected has other units and isn't among them."""


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """What the viewer can show.

    Attributes
    ----------
    pieces : tuple of Piece
    tokens : tuple of str or None
        Of all pieces, one after the other; None where series are shown, or nothing of what was read.
    series : ndarray ``(step, feature)`` or None
    feature_names : tuple of str
    layers : mapping of str to Seen
    units : tuple of (layer, unit)
        The most interesting first.
    orders : tuple of Order
        By what units can be put in order.
    contexts : ContextsResult or None
        Where each unit is highest and lowest over all that was read; None where nothing of it is shown.
    all_steps : int
        How many steps the study has.
    why : Painted or str
        What each step contributed to later outputs; or why that isn't known.
    """

    pieces: tuple[Piece, ...]
    tokens: tuple[str, ...] | None
    series: NDArray[np.float64] | None
    feature_names: tuple[str, ...]
    layers: Mapping[str, Seen]
    units: tuple[tuple[str, int], ...]
    orders: tuple[Order, ...]
    contexts: ContextsResult | None
    all_steps: int
    why: Painted | str = ""

    @property
    def steps(self) -> int:
        """How many steps all pieces have."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def shortened(self, steps: int) -> Self:
        """Its first steps."""
        pieces, left = [], steps
        for piece in self.pieces:
            if left > 0:
                pieces.append(piece._replace(stop=min(piece.stop, piece.start + left)))
                left -= piece.stop - piece.start
        return replace(
            self,
            pieces=tuple(pieces),
            tokens=None if self.tokens is None else self.tokens[:steps],
            series=None if self.series is None else self.series[:steps],
            layers={
                name: seen._replace(signals={signal: values[:, :steps] for signal, values in seen.signals.items()})
                for name, seen in self.layers.items()
            },
            why=self.why if isinstance(self.why, str) else self.why.shortened([piece.stop - piece.start for piece in pieces]),
        )

    @property
    def holds(self) -> tuple[str, ...]:
        """What of the inputs it shows, in words."""
        if not self.inputs:
            return ()
        found = (
            ()
            if self.contexts is None or self.tokens is None
            else (f"up to {number(2 * self.contexts.count)} contexts of each unit shown",)
        )
        steps = counted(self.steps, "token") if self.tokens is not None else f"{counted(self.steps, 'step')} of series"
        return (f"{steps} in the viewer", *found)

    @property
    def inputs(self) -> bool:
        """Whether what was read is shown."""
        return self.tokens is not None or self.series is not None


def view(study: Study, measured: Measured, sections: Mapping[str, Section], steps: int) -> View:
    """Read some of a study again, and keep all of it.

    Parameters
    ----------
    sections : mapping of str to Section
        By name: what they found about units, and where the text of the page's first picture begins.
    steps : int
        About so many.
    """
    device = next(study.model.parameters()).device
    shown = pieces(study, sections, steps)
    parts: list[Recording] = []
    for piece in shown:
        # To its end: what a unit holds may hang on what comes later.
        length = study.sequence_lengths[piece.sequence]
        with torch.no_grad(), record(study.model, lengths=[length]) as recording:
            study.model(study.inputs[piece.sequence : piece.sequence + 1, :length].to(device))
        parts.append(recording)
    layers = {name: _seen(name, parts, shown) for name in parts[0]}
    known = orders(measured, sections)
    read = [reads(study, piece.sequence, piece.start, piece.stop) for piece in shown] if measured.inputs else []
    numeric = bool(read) and isinstance(read[0], np.ndarray)
    return View(
        pieces=shown,
        tokens=tuple(token for part in read for token in part) if read and not numeric else None,
        series=np.concatenate(read) if numeric else None,
        feature_names=tuple(study.feature_names or ()) if numeric else (),
        layers=layers,
        units=interest({name: len(layer.signals[layer.memory]) for name, layer in layers.items()}, known, sections),
        orders=known,
        contexts=measured.contexts,
        all_steps=study.steps,
        why=painted(study, shown) if measured.inputs else "",
    )


def _seen(name: str, parts: list[Recording], shown: tuple[Piece, ...]) -> Seen:
    first = parts[0][name]
    width = first.signal(first.memory).shape[2]
    signals = {}
    for signal in first.signals:
        if first.signal(signal).shape[2] == width:
            each = [part[name].signal(signal)[0, piece.start : piece.stop].float() for part, piece in zip(parts, shown, strict=True)]
            signals[signal] = torch.cat(each).T.contiguous().cpu().numpy()
    return Seen(first.kind, first.memory, signals)
