"""How often labels that are moved agree with held-out predictions as well as the real ones do."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.unit_scores import Moved


def p_value(
    truth: Truth,
    predictions: list[NDArray[np.float64]],
    fold: NDArray[np.int64],
    here: NDArray[np.bool_],
    moved: Moved,
    permutations: int,
    seed: int,
) -> float:
    """How often moved labels agree with some probe's held-out predictions as well as the real ones do; the real ones count as one draw."""
    if not here.any():
        return 1.0
    rows = [np.flatnonzero(here & (fold == one)) for one in np.unique(fold[here])]
    ranks = [[rankdata(predicted[part]) for part in rows] for predicted in predictions]

    def agreement(labels: NDArray[Any], probe: int) -> NDArray[np.float64]:
        """One probe's score of each labelling ``(draw, step)``; NaN where it isn't defined."""
        match truth.kind:
            case "binary":
                right, pairs = np.zeros(len(labels)), np.zeros(len(labels))
                for part, ranked in zip(rows, ranks[probe], strict=True):
                    yes = labels[:, part] == 1
                    count = yes.sum(1)
                    right += yes @ ranked - count * (count + 1) / 2
                    pairs += count * (len(part) - count)
                return np.asarray(np.divide(right, pairs, out=np.full(len(labels), np.nan), where=pairs > 0))
            case "continuous":
                y, predicted = labels[:, here], predictions[probe][here]
                total = ((y - y.mean(1, keepdims=True)) ** 2).sum(1)
                error = ((y - predicted) ** 2).sum(1)
                return np.asarray(1 - np.divide(error, total, out=np.full(len(labels), np.nan), where=total > 0))
            case "categorical":
                y = labels[:, here]
                right = y == predictions[probe][here]
                counts = np.stack([(y == one).sum(1) for one in range(len(truth.classes))])
                hits = np.stack([((y == one) & right).sum(1) for one in range(len(truth.classes))])
                shares = np.divide(hits, counts, out=np.zeros(hits.shape), where=counts > 0)
                return np.asarray(shares.sum(0) / np.maximum((counts > 0).sum(0), 1))

    def best(labels: NDArray[Any]) -> NDArray[np.float64]:
        each = np.stack([agreement(labels, probe) for probe in range(len(predictions))])
        return np.asarray(np.where(np.isnan(each), -np.inf, each).max(0))

    found = best(truth.values[None])[0]
    if not np.isfinite(found):
        return 1.0
    allowed = found - 1e-12 * max(1.0, abs(found))
    as_good = sum(int((best(truth.values[places]) >= allowed).sum()) for places in moved.places(permutations, seed))
    return (1 + as_good) / (1 + permutations)
