"""Does a unit's top mark the same steps as a label?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.labels import Truth


def overlap(units: NDArray[Any], ordered: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
    """Intersection over union of a yes-or-no label and each unit's mask, the better of both ways up: ``(unit,)``; NaN for other labels.

    Units are given as ``(unit, step)``, and in order as well.

    The mask are the unit's highest (or lowest) steps, as many as the label has yes, and those equal to the last of them. Network
    dissection (Bau et al. 2017, section 2.2; Zhou et al. 2018) takes the top 0.5 % whatever the concept; matched to the label's
    prevalence, a perfect unit has 1. Chance is p / (2 - p) for a prevalence p.
    """
    if truth.kind != "binary":
        return np.full(len(units), np.nan)
    yes = truth.values == 1
    count = int(yes.sum())
    masks = (units >= ordered[:, -count, None], units <= ordered[:, count - 1, None])
    shared = [mask @ yes.astype(np.float64) for mask in masks]
    return np.asarray(np.maximum(*(both / (mask.sum(1) + count - both) for both, mask in zip(shared, masks, strict=True))))
