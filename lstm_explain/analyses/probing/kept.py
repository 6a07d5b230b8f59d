"""What a stream keeps: rows of some steps, and for numbers the sums of products of all steps."""

from collections.abc import Hashable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing.control_task import Levels
from lstm_explain.analyses.probing.sources import Source


class Rows:
    """Rows that were kept: by column, in parts that are put together once."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, list[NDArray[Any]]] = {}

    def add(self, name: Hashable, values: NDArray[Any]) -> None:
        """Add rows to a column."""
        self._parts.setdefault(name, []).append(values)

    def merge(self, other: Self, sequences: int) -> None:
        """Add another's rows, whose sequences are numbered from so many on."""
        for name, parts in other._parts.items():
            self._parts.setdefault(name, []).extend([part + sequences for part in parts] if name == "sequence" else parts)

    def get(self, name: Hashable) -> NDArray[Any] | None:
        """A column, or None if there is none of that name."""
        return self[name] if name in self._parts else None

    def __getitem__(self, name: Hashable) -> NDArray[Any]:
        parts = self._parts[name]
        if len(parts) > 1:
            self._parts[name] = [np.concatenate(parts)]
        return self._parts[name][0]


class Products:
    """Sums of products of features with each other and with labels that are numbers, by source, label and fold."""

    def __init__(self) -> None:
        self._grams: dict[tuple[Source, str, int], Gram] = {}
        self._levels: dict[tuple[Source, str, int], Levels] = {}

    def update(
        self,
        source: Source,
        features: Any,
        labels: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]],
        fold: NDArray[np.int64],
        levels: Mapping[str, NDArray[np.int64]],
    ) -> None:
        """Add steps: their features, the values of labels and where these are defined, their folds and the control task's levels."""
        for one in np.unique(fold):
            products: dict[bytes, NDArray[np.float64]] = {}
            sums: dict[tuple[int, bytes], NDArray[np.float64]] = {}
            for name, (values, defined) in labels.items():
                rows = np.flatnonzero((fold == one) & defined)
                here = features[rows]
                # Labels that are defined at the same steps share the sums of products of the features, and the memory that these take.
                same = rows.tobytes()
                if same not in products:
                    products[same] = Gram.products(here)
                gram = self._grams.setdefault((source, name, int(one)), Gram())
                before = id(gram.xx) if gram.n else 0
                gram.update(here, values[rows], products[same])
                gram.xx = sums.setdefault((before, same), gram.xx)
                if name in levels:
                    self._levels.setdefault((source, name, int(one)), Levels()).update(here, levels[name][rows])

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        sums: dict[tuple[int, int], NDArray[np.float64]] = {}
        # What arrays were before stays alive until the end, so that no two have the same id.
        before = {key: self._grams.setdefault(key, Gram()).xx for key in other._grams}
        for key, gram in other._grams.items():
            mine = self._grams[key]
            shared = (id(before[key]) if mine.n else 0, id(gram.xx))
            mine.merge(gram)
            mine.xx = sums.setdefault(shared, mine.xx)
        for key, levels in other._levels.items():
            self._levels.setdefault(key, Levels()).merge(levels)

    def grams(self, source: Source, name: str, folds: int) -> dict[int, Gram]:
        """A label's sums of products in each fold where it is defined."""
        found = {fold: self._grams[source, name, fold] for fold in range(folds) if (source, name, fold) in self._grams}
        return {fold: gram for fold, gram in found.items() if gram.n}

    def levels(self, source: Source, name: str) -> dict[int, Levels]:
        """The control task's sums in each fold."""
        return {fold: levels for (of, label, fold), levels in self._levels.items() if (of, label) == (source, name)}
