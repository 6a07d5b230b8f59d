"""One pass over a study: everything that the report's sections are made from."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lstm_explain.analyses.attribution.explained import tensor_of
from lstm_explain.analyses.contexts.contexts import Contexts
from lstm_explain.analyses.contexts.result import ContextsResult
from lstm_explain.analyses.probing.labels import read, resolve
from lstm_explain.analyses.probing.result import ProbingResult
from lstm_explain.analyses.probing.stream import Probing
from lstm_explain.analyses.probing.untrained import untrained
from lstm_explain.analyses.saturation import Saturation, SaturationResult
from lstm_explain.analyses.timescale import KEEPS, Timescale, TimescaleResult
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.recording.certificate import CallCheck, Certificate
from lstm_explain.recording.recording import Coverage, Recording
from lstm_explain.recording.runner import record
from lstm_explain.report.reads import reads
from lstm_explain.study import Batch, Study
from lstm_explain.trajectory import Padding, together

BATCH = 16
FOLDS = 3
PROBED = 4_000
"""About so many steps are kept for probes: of more, every so many of each sequence."""
CONTEXTS, BEFORE, AFTER = 4, 24, 8
"""Contexts of each unit at either end, and the steps shown before and after the place."""
TWINS = 5
"""Untrained networks beside the trained one."""


def last_two(inputs: Tensor) -> NDArray[np.int64] | None:
    """Which two symbols came last at each step, numbered; the first step's is its own and that there was none. None for features."""
    if inputs.is_floating_point() or inputs.dim() != 2:
        return None
    symbols = inputs.cpu().numpy().astype(np.int64)
    before = np.concatenate([np.full((len(symbols), 1), -1), symbols[:, :-1]], axis=1)
    return (before + 1) * 2**31 + symbols


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

    def say(self, where: TextIO) -> None:
        """Print it all."""
        for what, seconds in self.seconds.items():
            print(f"{seconds:8.2f} s  {what}", file=where)
        print(f"{sum(self.seconds.values()):8.2f} s  in all", file=where)


@dataclass
class Measured:
    """What the pass found.

    ``units`` has how many units each layer has. ``saturation`` and ``timescale`` are None where no layer has gates, or none that keeps.
    ``halves`` are the saturation of two disjoint halves of the groups, for a check of how far the shares depend on which text was read.
    ``contexts`` are each unit's highest and lowest places over all that was read, None where that is to be kept out. ``probing`` is None
    where there is nothing to probe for, and ``unprobed`` says why, for each label and control. ``seed``, ``thorough``, ``quiet`` and
    ``inputs``, whether anything of the inputs may be shown, are as they were asked for.
    """

    units: dict[str, int]
    saturation: SaturationResult | None
    halves: tuple[SaturationResult, SaturationResult] | None
    timescale: TimescaleResult | None
    certificate: Certificate
    coverage: Coverage
    loss: float | None
    loss_by_group: dict[str, float]
    probing: ProbingResult | None
    unprobed: dict[str, str]
    contexts: ContextsResult | None
    clock: Clock = field(repr=False)
    seed: int = 0
    thorough: bool = False
    quiet: bool = False
    inputs: bool = True


def _half_of(study: Study) -> list[int]:
    """A half, 0 or 1, for each sequence; the sequences of a group stay together."""
    groups = list(range(len(study.inputs))) if study.groups is None else list(study.groups)
    order = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    return [order[group] % 2 for group in groups]


class _Probes:
    """Probing of what can be probed: labels with more than one value, in enough groups, with the controls that can be had."""

    def __init__(self, study: Study, seed: int, quiet: bool) -> None:
        self._progress = False if quiet else None
        self.missing: dict[str, str] = {}
        groups = list(range(len(study.inputs))) if study.groups is None else list(study.groups)
        folds = min(FOLDS, len(set(groups)))
        self._study, self._groups = study, groups
        self._labels = {name: label for name, label in study.labels.items() if self._varies(name, label)}
        self._stream: Probing | None = None
        if folds < 2:
            self.missing["probes"] = "the study has one group only, and probes are scored on groups that they haven't seen"
        elif not study.labels:
            self.missing["probes"] = "the study has no labels"
        elif self._labels:
            stride = max(1, round(study.steps / PROBED))
            self._stream = Probing(groups, folds=folds, stride=stride, seed=seed)
        self._twins: list[nn.Module] = []
        if self._stream is not None:
            try:
                self._twins = [untrained(study.model, seed=seed + twin) for twin in range(TWINS)]
            except InputError as error:
                self.missing["untrained"] = str(error)

    def _varies(self, name: str, label: NDArray[Any]) -> bool:
        try:
            valid = np.zeros(label.shape, dtype=bool)
            for batch in self._study.batches(len(label)):
                valid[:, : batch.inputs.shape[1]] = np.arange(batch.inputs.shape[1]) < batch.lengths.numpy()[:, None]
            given = read(name, label)
            resolve(name, given.values[given.defined & valid], given.continuous)
        except InputError as error:
            self.missing[name] = str(error)
            return False
        return True

    def update(self, batch: Batch, recording: Recording, lengths: Tensor | None, device: torch.device, clock: Clock) -> None:
        """Take in one batch, and what the untrained twins make of it."""
        if self._stream is None:
            return
        twins = []
        states = sorted({state for layer in recording.values() for state in layer.initial})
        for model in self._twins:
            with clock("recording untrained twins"), torch.no_grad():
                with record(model.to(device).eval(), lengths=lengths, signals=states, fast=True) as twin:
                    model(batch.inputs.to(device))
            twins.append(twin)
        time = batch.inputs.shape[1]
        try:
            with clock("probing, collecting"):
                self._stream.update(
                    recording,
                    {name: label[batch.rows, :time] for name, label in self._labels.items()},
                    self._groups[batch.rows],
                    untrained=twins or None,
                    inputs=batch.inputs,
                    types=last_two(batch.inputs),
                    events={name: event[batch.rows, :time] for name, event in self._study.events.items() if name in self._labels},
                )
        except InputError as error:
            self._stream, self.missing["probes"] = None, str(error)

    def compute(self, clock: Clock) -> ProbingResult | None:
        """The result for all labels that can be probed for, if there are any."""
        if self._stream is None:
            return None
        with clock("probing, fitting"):
            good = list(self._labels)
            try:
                return self._stream.compute(progress=self._progress)
            except InputError:
                for name in self._labels:
                    try:
                        self._stream.compute(labels=[name], resamples=1, permutations=1, progress=False)
                    except InputError as error:
                        self.missing[name] = str(error)
                        good.remove(name)
            return self._stream.compute(labels=good, progress=self._progress) if good else None


def measure(
    study: Study, device: torch.device, clock: Clock, *, seed: int, quiet: bool, thorough: bool = False, inputs: bool = True
) -> Measured:
    """Record a whole study and reduce it, batch by batch.

    Raises
    ------
    LstmExplainError
        Whatever `lx.record` or the analyses raise.
    """
    model = study.model.to(device).eval()
    half_of = _half_of(study)
    contexts = Contexts(count=CONTEXTS, before=BEFORE, after=AFTER) if inputs else None
    saturations, timescales = (Saturation(), Saturation()), Timescale()
    checks: list[CallCheck] = []
    seen: dict[str, int] = {}
    never: set[str] | None = None
    closed: dict[str, str] = {}
    paddings: set[Padding] = set()
    probes = _Probes(study, seed, quiet)
    nats: dict[str, list[float]] = {}
    units: dict[str, int] = {}
    gated = keeping = False
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
                losses = _losses(study, output, batch)
                for at, length in enumerate(batch.lengths.tolist()):
                    group = "all" if study.groups is None else str(study.groups[batch.rows.start + at])
                    total = nats.setdefault(group, [0.0, 0.0])
                    total[0] += float(losses[at, :length].sum())
                    total[1] += length
        if not batch.rows.start:
            _check_output(study, output)
        for name, trajectory in recording.items():
            units[name] = trajectory.signal(trajectory.memory).shape[2]
            gated |= bool(trajectory.gates)
            keeping |= any(gate in trajectory.gates for gate in KEEPS)
            with clock("saturation"):
                for half in (0, 1):
                    mine = [at for at in range(len(batch.lengths)) if half_of[batch.rows.start + at] == half]
                    if mine:
                        saturations[half].update(trajectory.select(mine))
            with clock("timescale"):
                timescales.update(trajectory)
        if contexts is not None:
            with clock("contexts"):
                rows = range(batch.rows.start, batch.rows.stop)
                taken = [reads(study, row, 0, batch.inputs.shape[1]) for row in rows]
                contexts.update(recording, np.stack(taken) if isinstance(taken[0], np.ndarray) else taken, rows)
        probes.update(batch, recording, lengths, device, clock)
        checks += recording.certificate.calls
        coverage = recording.coverage
        paddings.add(coverage.padding)
        for name, n in coverage.recorded.items():
            seen[name] = seen.get(name, 0) + n
        never = set(coverage.never_called) if never is None else never & set(coverage.never_called)
        closed |= coverage.not_opened
    with clock("saturation"):
        halves = (saturations[0].compute(), saturations[1].compute()) if gated and len(set(half_of)) == 2 else None
        saturations[0].merge(saturations[1])
    sums = np.array(list(nats.values())).sum(0) if nats else None
    return Measured(
        units=units,
        saturation=saturations[0].compute() if gated else None,
        halves=halves,
        timescale=timescales.compute() if keeping else None,
        certificate=Certificate(tuple(checks)),
        coverage=Coverage(seen, tuple(sorted(never or ())), closed, together(paddings)),
        loss=None if sums is None else float(sums[0] / sums[1]),
        loss_by_group={group: total / n for group, (total, n) in nats.items()},
        probing=probes.compute(clock),
        unprobed=probes.missing,
        contexts=None if contexts is None else contexts.compute(),
        clock=clock,
        seed=seed,
        thorough=thorough,
        quiet=quiet,
        inputs=inputs,
    )


def _losses(study: Study, output: Any, batch: Batch) -> torch.Tensor:
    """The loss of each step ``(batch, time)``."""
    assert study.loss is not None
    with as_input_error("the study's loss= failed on what the model returned"):
        losses = study.loss(output, batch.rows)
    needed = len(batch.lengths), int(batch.lengths.max())
    if not isinstance(losses, torch.Tensor) or losses.dim() != 2 or len(losses) != needed[0] or losses.shape[1] < needed[1]:
        got = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise InputError(f"needed loss= to return the loss of each step, {needed}, got {got}")
    return losses.double().cpu()


def _check_output(study: Study, returned: Any) -> None:
    """What is explained must be a tensor, with a class for each of `next_tokens`."""
    output = tensor_of(returned, study.output)
    if study.next_tokens is not None and output.dim() == 3 and output.shape[2] != len(study.next_tokens):
        raise InputError(f"needed next_tokens for the output's {output.shape[2]} classes, got {len(study.next_tokens)}")
