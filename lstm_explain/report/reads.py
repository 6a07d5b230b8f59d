"""What each step of a study reads, for people: its token, its symbol, or its numbers."""

import numpy as np
from numpy.typing import NDArray

from lstm_explain.study import Study


def reads(study: Study, row: int, start: int, stop: int) -> tuple[str, ...] | NDArray[np.float64]:
    """Tokens ``(time,)``, or numbers ``(time, feature)``, of some steps of a sequence."""
    if study.tokens is not None:
        given = tuple(map(str, study.tokens[row][start:stop]))
        return given + ("",) * (stop - start - len(given))
    values = study.inputs[row, start:stop].detach().cpu()
    if values.is_floating_point():
        return values.double().reshape(len(values), -1).numpy()
    return tuple(" ".join(map(str, step)) for step in values.reshape(len(values), -1).tolist())
