"""Which stretches of the data the viewer shows."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lstm_explain.report.section import Section
from lstm_explain.study import Study

PIECES = 4
"""So many stretches of the data at least, from different sequences; of short ones as many as there are steps for."""


class Piece(NamedTuple):
    """A stretch of one sequence."""

    sequence: int
    group: str
    start: int
    stop: int


def pieces(study: Study, sections: Mapping[str, Section], steps: int) -> tuple[Piece, ...]:
    """Half of it the stretch that the page's picture of a unit shows, the rest from sequences that are evenly spaced."""
    whole = study.sequence_lengths
    shown = sections["unit_text"].numbers
    first, start = int(shown.get("sequence", 0)), int(shown.get("start", 0))
    if steps >= sum(whole):
        return tuple(_piece(study, row, 0, length) for row, length in enumerate(whole))
    many = min(len(whole), max(PIECES, steps * len(whole) // sum(whole)))
    spread = np.linspace(0, len(whole) - 1, many).round().astype(int).tolist()
    found = [_piece(study, first, start, min(whole[first], start + -(-steps // 2)))]
    others = [row for row in spread if row != first][: many - 1]
    for n, row in enumerate(others):
        left = steps - sum(piece.stop - piece.start for piece in found)
        if left > 0:
            found.append(_piece(study, row, 0, min(whole[row], -(-left // (len(others) - n)))))
    return tuple(found)


def _piece(study: Study, row: int, start: int, stop: int) -> Piece:
    return Piece(row, "" if study.groups is None else str(study.groups[row]), start, stop)
