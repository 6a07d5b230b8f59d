"""One pass over a study: everything that the report's sections are made from."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lstm_explain.analyses.saturation import Saturation, SaturationResult
from lstm_explain.analyses.timescale import Timescale, TimescaleResult
from lstm_explain.errors import as_input_error
from lstm_explain.recording.runner import record
from lstm_explain.study import Study
from lstm_explain.trajectory import CallCheck, Certificate, Coverage, Padding, together

BATCH = 16
KEPT = 100_000_000
"""At most so many cell-state values are kept for the picture of one unit: 400 MB in float32."""


class Clock:
    """How long each part took, for ``-v``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Add the time that a block takes to that of its name."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - began


@dataclass
class Measured:
    """What the pass found.

    ``halves`` are the saturation of two disjoint halves of the groups, for a check of how far the shares depend on which text was
    read. ``cells`` maps a layer to its cell states ``(step, unit)`` of the first sequences, ``rows`` says which sequence
    each of those steps belongs to, and ``steps`` which step of it.
    """

    saturation: SaturationResult
    halves: tuple[SaturationResult, SaturationResult] | None
    timescale: TimescaleResult
    certificate: Certificate
    coverage: Coverage
    loss: float | None
    loss_by_group: dict[str, float]
    cells: dict[str, NDArray[np.float32]]
    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    clock: Clock = field(repr=False)


def _half_of(study: Study) -> list[int]:
    """A half, 0 or 1, for each sequence; the sequences of a group stay together."""
    groups = list(range(len(study.inputs))) if study.groups is None else list(study.groups)
    order = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % 2 for group in groups]


def measure(study: Study, device: torch.device, clock: Clock, *, quiet: bool) -> Measured:
    """Record a whole study and reduce it, batch by batch.

    Raises
    ------
    LstmExplainError
        Whatever `lx.record` or the analyses raise.
    """
    model = study.model.to(device).eval()
    half_of = _half_of(study)
    saturations, timescales = (Saturation(), Saturation()), Timescale()
    checks: list[CallCheck] = []
    seen: dict[str, int] = {}
    never: set[str] | None = None
    closed: dict[str, str] = {}
    paddings: set[Padding] = set()
    cells: dict[str, list[NDArray[np.float32]]] = {}
    rows: list[NDArray[np.int64]] = []
    steps: list[NDArray[np.int64]] = []
    kept = 0
    nats: dict[str, list[float]] = {}
    batches = list(study.batches(BATCH))
    for batch in tqdm(batches, desc="recording", unit="batch", disable=True if quiet else None):
        lengths = None if study.lengths is None else batch.lengths
        shape = f"{tuple(batch.inputs.shape)}, {str(batch.inputs.dtype).removeprefix('torch.')}"
        with clock("recording"), torch.no_grad(), record(model, lengths=lengths) as recording:
            # The model's own errors are the study's: its inputs don't fit it.
            with as_input_error(f"the model can't read the study's inputs of shape {shape}"):
                output = model(batch.inputs.to(device))
        with clock("loss"):
            if study.loss is not None:
                losses = study.loss(output, batch.rows).double().cpu()
                for at, length in enumerate(batch.lengths.tolist()):
                    group = "all" if study.groups is None else str(study.groups[batch.rows.start + at])
                    total = nats.setdefault(group, [0.0, 0.0])
                    total[0] += float(losses[at, :length].sum())
                    total[1] += length
        for trajectory in recording.values():
            with clock("saturation"):
                for half in (0, 1):
                    mine = [at for at in range(len(batch.lengths)) if half_of[batch.rows.start + at] == half]
                    if mine:
                        saturations[half].update(trajectory.select(mine))
            with clock("timescale"):
                timescales.update(trajectory)
        values = sum(t.cell_state.numel() for t in recording.values())
        if kept + values <= KEPT:
            kept += values
            for name, trajectory in recording.items():
                cells.setdefault(name, []).append(trajectory.steps("cell_state").float().cpu().numpy())
            valid = next(iter(recording.values())).valid.cpu().numpy()
            at_row, at_step = np.nonzero(valid)
            rows.append(at_row + batch.rows.start)
            steps.append(at_step)
        checks += recording.certificate.calls
        coverage = recording.coverage
        paddings.add(coverage.padding)
        for name, n in coverage.recorded.items():
            seen[name] = seen.get(name, 0) + n
        never = set(coverage.never_called) if never is None else never & set(coverage.never_called)
        closed |= coverage.not_opened
    with clock("saturation"):
        halves = (saturations[0].compute(), saturations[1].compute()) if len(set(half_of)) == 2 else None
        saturations[0].merge(saturations[1])
    sums = np.array(list(nats.values())).sum(0) if nats else None
    return Measured(
        saturation=saturations[0].compute(),
        halves=halves,
        timescale=timescales.compute(),
        certificate=Certificate(tuple(checks)),
        coverage=Coverage(seen, tuple(sorted(never or ())), closed, together(paddings)),
        loss=None if sums is None else float(sums[0] / sums[1]),
        loss_by_group={group: total / n for group, (total, n) in nats.items()},
        cells={name: np.concatenate(parts) for name, parts in cells.items()},
        rows=np.concatenate([np.empty(0, dtype=np.int64), *rows]),
        steps=np.concatenate([np.empty(0, dtype=np.int64), *steps]),
        clock=clock,
    )
