"""What sections read again: some of a study's sequences, from their beginning."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from lstm_explain.study import Study


class Read(NamedTuple):
    """Some of a study's sequences, the first so many steps of each."""

    rows: NDArray[np.int64]
    inputs: torch.Tensor
    lengths: torch.Tensor | None
    groups: list[str] | None
    study_loss: Callable[[Any, Any], torch.Tensor] | None

    @classmethod
    def of(cls, study: Study, sequences: int, steps: int, among: NDArray[np.int64] | None = None) -> Self:
        """At most so many sequences (of some, `among`), evenly spaced, and so many steps of all together."""
        every = np.arange(len(study.inputs)) if among is None else among
        rows = every[np.unique(np.linspace(0, len(every) - 1, min(sequences, len(every))).round().astype(np.int64))]
        lengths = None if study.lengths is None else torch.as_tensor(study.lengths)[torch.from_numpy(rows)]
        longest = study.inputs.shape[1] if lengths is None else int(lengths.max())
        first = min(longest, max(2, steps // len(rows)))
        device = next(study.model.parameters()).device
        return cls(
            rows=rows,
            inputs=study.inputs[torch.from_numpy(rows), :first].to(device),
            lengths=None if lengths is None else lengths.clamp(max=first),
            groups=None if study.groups is None else [str(study.groups[row]) for row in rows],
            study_loss=study.loss,
        )

    @property
    def steps(self) -> int:
        """How many steps of each sequence."""
        return self.inputs.shape[1]

    def loss(self, output: Any, rows: torch.Tensor) -> torch.Tensor:
        """The study's loss; `rows` counts the sequences that are read."""
        assert self.study_loss is not None
        return self.study_loss(output, torch.from_numpy(self.rows)[rows])
