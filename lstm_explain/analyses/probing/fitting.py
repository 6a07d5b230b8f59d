"""One source's probes: for each label the whole source, its best single unit, and the control task."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from lstm_explain.analyses.probing import control_task, fits, sources
from lstm_explain.analyses.probing.kept import Products, Rows
from lstm_explain.analyses.probing.labels import Truth
from lstm_explain.analyses.probing.solvers import Normal
from lstm_explain.analyses.probing.sources import Source


class Fit(NamedTuple):
    """What a source's probes predict of a label: all features together, and the unit that each fold's others chose.

    ``control`` has the control task's labels and their predictions, where there are types and something to tell apart.
    """

    whole: fits.Fitted
    alone: fits.Fitted
    chosen: Mapping[int, int]
    control: tuple[Truth, fits.Fitted] | None = None


def fit(
    source: Source, truths: Mapping[str, Truth], kept: Rows, products: Products, folds: int, symbols: int, seed: int
) -> Iterator[tuple[str, Fit]]:
    """For each label what a source's probes predict, on all folds but one each; networks, twins and the window all alike."""
    units: dict[bytes, fits.Units] = {}
    shared: list[tuple[Mapping[int, Any], dict[tuple[int, ...], Normal]]] = []
    for name, truth in truths.items():
        defined = kept["defined", name]
        fold, features = kept["fold"][defined], sources.exact(kept[source][defined], symbols)
        dense: NDArray[Any] = features if kept[source].dtype.kind == "f" else features.toarray()
        types = None if source.control else kept.get("type")
        drawn = None if types is None else control_task.control_truth(truth, types[defined], name, seed)
        control = None
        if drawn is not None and not control_task.can_be_fitted(drawn, fold):
            drawn = None
        if truth.kind == "continuous":
            grams = products.grams(source, name, folds)
            factors = next((found for other, found in shared if _same(other, grams)), {})
            shared.append((grams, factors))
            whole = fits.ridge(features, fold, grams, factors)
            if drawn is not None:
                of_types = control_task.grams_of(grams, products.levels(source, name), control_task.levels_of(truth))
                control = drawn, fits.ridge(features, fold, of_types, factors)
        else:
            whole = fits.logistic(name, features, truth, fold)
            if drawn is not None:
                control = drawn, fits.logistic(name, features, drawn, fold)
        same = defined.tobytes()
        if same not in units:
            units[same] = fits.Units(dense, fold)
        chosen = units[same].best(truth)
        yield name, Fit(whole, fits.single(dense, truth, fold, chosen), chosen, control)


def _same(one: Mapping[int, Any], other: Mapping[int, Any]) -> bool:
    """Whether two labels' sums are over the same steps; those share the memory of their features' products."""
    return one.keys() == other.keys() and all(one[fold].xx is other[fold].xx for fold in one)
