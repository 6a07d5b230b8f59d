"""`Probing`: recordings in, one after the other or on several machines; what their probes find out."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lstm_explain.analyses.probing import control_task, sources
from lstm_explain.analyses.probing.fits import folds_of
from lstm_explain.analyses.probing.fitting import Fit, fit
from lstm_explain.analyses.probing.judging import Judge
from lstm_explain.analyses.probing.kept import Products, Rows
from lstm_explain.analyses.probing.labels import Given, changes, read, resolve, steps_since
from lstm_explain.analyses.probing.result import UNTRAINED, WINDOW, ProbingResult, memories
from lstm_explain.analyses.probing.scores import draws
from lstm_explain.analyses.probing.sources import Source
from lstm_explain.analyses.probing.threads import one_thread
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, together


class Probing:
    """Probing as a stream: `update` with each recording, `merge` with another's, `compute` the result.

    Kept are, in memory that doesn't grow with what isn't kept: every `stride`-th step of each sequence, with its labels and with the
    features of each signal, network, twin and window in single precision (symbols of a window as they are); and for labels that are
    numbers the sums of products of all steps, ``feature x feature`` for each source and fold, once for all labels that are defined at the
    same steps. Steps are thinned before they are kept: with ``stride = steps // 20_000`` about 20,000 are.

    Parameters
    ----------
    groups : sequence
        All groups that will come: files, patients. A fold has whole groups, drawn by `seed`.
    folds : int
    stride : int
    window : int
        Steps of input that the window control sees; more than so many steps from the deciding event is long range.
    signals : str or sequence of str, optional
        The signals to probe, each by itself in each layer that has it, such as ``"forget_gate"``; the states if left out.
    joint : bool
        Whether all layers and signals are probed together as well, under the key ``"all"``.
    seed : int

    Raises
    ------
    InputError
        If there are fewer groups than folds.
    """

    needs = ("labels", "groups")
    """What ``record(model, into=[...])`` must be told with `Recording.annotate` before each call."""

    def __init__(
        self,
        groups: Sequence[Any],
        *,
        folds: int = 5,
        stride: int = 1,
        window: int = 8,
        signals: Sequence[str] | str | None = None,
        joint: bool = False,
        seed: int = 0,
    ) -> None:
        names = list(dict.fromkeys(groups))
        if min(folds - 1, stride, window) < 1:
            raise InputError(f"needed at least 2 folds, and a positive stride and window, got {folds}, {stride} and {window}")
        signals = (signals,) if isinstance(signals, str) else None if signals is None else tuple(dict.fromkeys(signals))
        if signals == ():
            raise InputError("needed at least one signal to probe, got none: leave signals out for the states")
        at = {name: place for place, name in enumerate(names)}
        sequences = np.array([at[group] for group in groups])
        fold = folds_of(sequences, folds, seed)
        self.fold_of = {names[place]: int(fold[first]) for place, first in zip(*np.unique(sequences, return_index=True), strict=True)}
        self._at, self._folds, self._stride, self._window, self._seed = at, folds, stride, window, seed
        self._signals, self._joint = signals, joint
        self._phase = int(np.random.default_rng(seed).integers(stride))
        self._rows, self._products = Rows(), Products()
        self._continuous: dict[str, bool] = {}
        self._sources: dict[Source, tuple[int, str]] = {}
        self._paddings: set[Padding] = set()
        self._sequences = self._symbols = 0
        self._types = False

    def update(
        self,
        recording: Recording,
        labels: Mapping[str, Any],
        groups: Sequence[Any],
        *,
        untrained: Recording | Sequence[Recording] | None = None,
        inputs: Tensor | None = None,
        types: NDArray[np.integer[Any]] | None = None,
        events: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Take in some sequences: their recording, their labels ``(batch, time)``, their groups ``(batch,)``, and the controls'.

        `untrained`, `inputs` and `types` are the controls of `probe`: ``"untrained"``, ``"window"`` and ``"types"``.

        Raises
        ------
        InputError
            If these don't fit each other, or a state isn't finite.
        """
        if not len(recording):
            raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
        first = next(iter(recording.values()))
        valid = first.valid.cpu().numpy()
        if not labels:
            raise InputError("needed at least one label, got none")
        if self._continuous and set(labels) != set(self._continuous):
            raise InputError(f"needed the labels {', '.join(self._continuous)} as before, got {', '.join(labels)}")
        if unknown := sorted(set(events or ()) - set(labels)):
            raise InputError(f"needed events of one of the labels {', '.join(labels)}, got {unknown[0]!r}")
        given = {name: self._read(name, label, valid) for name, label in labels.items()}
        if len(groups) != len(valid):
            raise InputError(f"needed groups for {len(valid)} sequences, got {len(groups)}")
        if missing := [group for group in groups if group not in self._at]:
            raise InputError(f"needed groups that were announced, got {missing[0]!r}")
        if self._sources and (types is not None) != self._types:
            raise InputError("needed the same layers and controls as before, got others")

        sequence, step = np.nonzero(valid)
        group = np.array([self._at[name] for name in groups])[sequence]
        fold = np.array([self.fold_of[name] for name in groups])[sequence]
        # A sequence that is shorter than the phase keeps a step as well.
        keep = step % self._stride == (self._phase % valid.sum(1))[sequence]
        rows: dict[Any, NDArray[Any]] = {"sequence": sequence + self._sequences, "group": group, "fold": fold}
        if types is not None:
            rows["type"] = control_task.read(types, valid)
        for name, label in given.items():
            event = changes(label) if events is None or name not in events else _event(name, events[name], valid.shape)
            rows |= {("label", name): label.values[valid], ("defined", name): label.defined[valid]}
            rows |= {("far", name): (steps_since(event) > self._window)[valid]}
        numbers = {name: (label.values[valid], label.defined[valid]) for name, label in given.items() if label.continuous}
        levels = {name: control_task.level(rows["type"], name, self._seed) for name in numbers} if types is not None else {}
        features = dict(sources.read([recording, *sources.twins_of(untrained)], self._signals, self._joint, valid))
        if inputs is not None:
            features[Source(WINDOW)] = sources.window(inputs, valid, self._window)
        self._check_sources({source: (here.shape[1], here.dtype.kind) for source, here in features.items()})

        # Nothing is refused from here on.
        self._types = types is not None
        self._paddings.add(first.padding)
        self._continuous |= {name: label.continuous for name, label in given.items()}
        self._sequences += len(valid)
        for column, values in rows.items():
            self._rows.add(column, values[keep])
        for source, here in features.items():
            self._rows.add(source, here[keep])
            if here.dtype.kind == "i":
                self._symbols = max(self._symbols, int(here.max()) + 1)
            if numbers:
                own = {} if source.control else levels
                self._products.update(source, sources.exact(here, self._symbols), numbers, fold, own)

    def merge(self, other: Self) -> None:
        """Add what another took in; it must have been made with the same settings, and have the same labels, layers and controls.

        Raises
        ------
        InputError
            If it has others.
        """
        mine, others = (
            (one._at, one.fold_of, one._stride, one._window, one._phase, one._seed, one._signals, one._joint) for one in (self, other)
        )
        if mine != others:
            raise InputError("needed streams with the same groups, folds, stride, window, seed, signals and joint, got others")
        if self._sequences and other._sequences:
            if self._continuous != other._continuous:
                raise InputError(f"needed the labels {', '.join(self._continuous)}, each of its kind, got {', '.join(other._continuous)}")
            if self._types != other._types:
                raise InputError("needed the same layers and controls as before, got others")
        if other._sequences:
            self._check_sources(other._sources)
        self._rows.merge(other._rows, self._sequences)
        self._products.merge(other._products)
        self._continuous |= other._continuous
        self._paddings |= other._paddings
        self._sequences += other._sequences
        self._symbols = max(self._symbols, other._symbols)
        self._types |= other._types

    @one_thread()
    def compute(
        self, *, labels: Sequence[str] | None = None, resamples: int = 1000, permutations: int = 499, progress: bool | None = None
    ) -> ProbingResult:
        """The result of everything taken in so far, for some labels or all; `progress` shows a bar, on a terminal if left out.

        Raises
        ------
        InputError
            If nothing was taken in, or a label has one value only.
        """
        if not self._sequences:
            raise InputError("needed at least one recording, got none: call update first")
        if unknown := sorted(set(labels or ()) - set(self._continuous)):
            raise InputError(f"needed labels of {', '.join(self._continuous)}, got {unknown[0]!r}")
        truths = {}
        for name in self._continuous if labels is None else labels:
            truths[name] = resolve(name, self._rows["label", name][self._rows["defined", name]], self._continuous[name])
        twins = 1 + max((source.twin for source in self._sources if source.control == UNTRAINED), default=-1)
        fits: dict[str, dict[Source, Fit]] = {name: {} for name in truths}
        hidden = None if progress is None else not progress
        with tqdm(total=len(truths) * (len(self._sources) + 1), desc="probing", unit="fit", disable=hidden) as bar:
            for source in self._sources:
                for name, one in fit(source, truths, self._rows, self._products, self._folds, self._symbols, self._seed):
                    fits[name][source] = one
                    bar.update()
            probed = [source.key(twins) for source in self._sources if not source.control]
            remembering = set(memories(probed))
            cells = [source for source in self._sources if not source.control and source.key(twins) in remembering]
            times = draws(len(self._at), resamples, self._seed)
            judge = Judge(self._rows, cells, twins, times, permutations, self._seed)
            found = {}
            for name, truth in truths.items():
                found[name] = judge(name, truth, fits[name])
                bar.update()
        return ProbingResult(
            labels=found,
            cells=tuple((cell.layer, unit) for cell in cells for unit in range(self._sources[cell][0])),
            groups=len(self._at),
            folds=self._folds,
            stride=self._stride,
            window=self._window,
            resamples=resamples,
            padding=together(self._paddings),
            fold_of=self.fold_of,
            twins=twins,
        )

    def _read(self, name: str, label: Any, valid: NDArray[np.bool_]) -> Given:
        if np.shape(label) != valid.shape:
            raise InputError(f"needed label {name!r} of shape {valid.shape}, one value for each step, got {np.shape(label)}")
        array = np.asarray(label)
        given = read(name, np.where(valid, array, np.nan) if array.dtype.kind == "f" else array)
        if self._continuous.get(name, given.continuous) != given.continuous:
            raise InputError(f"needed label {name!r} of one kind throughout, got numbers and classes")
        return given

    def _check_sources(self, given: Mapping[Source, tuple[int, str]]) -> None:
        if self._sources and given != self._sources:
            raise InputError("needed the same layers and controls as before, got others")
        self._sources = dict(given)


def _event(name: str, event: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if np.shape(event) != shape:
        raise InputError(f"needed events of {name!r} of shape {shape}, got {np.shape(event)}")
    return np.asarray(event, dtype=bool)
