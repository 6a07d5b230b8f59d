"""`probe`: does a layer's state tell this label, beyond what an untrained network and the last few inputs tell of it?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata
from torch import Tensor

from lstm_explain.accumulators import Gram
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.labels import Given, Truth, changes, read, resolve, steps_since
from lstm_explain.analyses.probing.result import MAJORITY, UNTRAINED, WINDOW, LabelProbing, Probed, ProbingResult, Verdict, memories, rank
from lstm_explain.analyses.probing.scores import METRICS, Interval, Score, draws, interval, score
from lstm_explain.analyses.probing.unit_scores import Moved, Null, UnitScoresResult, null_for, scores_of
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording
from lstm_explain.trajectory import Padding, Trajectory, together

STATES: tuple[Literal["cell_state", "hidden_state"], ...] = ("cell_state", "hidden_state")
ALPHA = 0.05


class _Table:
    """Rows that were kept: by column, in parts that are put together once."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def add(self, name: str, values: NDArray[Any]) -> None:
        self._parts.setdefault(name, []).append(values)

    def merge(self, other: Self) -> None:
        for name, parts in other._parts.items():
            self._parts.setdefault(name, []).extend(parts)

    def __getitem__(self, name: str) -> NDArray[Any]:
        parts = self._parts[name]
        if len(parts) > 1:
            self._parts[name] = [np.concatenate(parts)]
        return self._parts[name][0]

    def named(self, kind: str) -> list[str]:
        return [name.removeprefix(kind) for name in self._parts if name.startswith(kind)]


class Probing:
    """Probing as a stream: `update` with each recording, `merge` with another's, `compute` the result.

    Kept are every `stride`-th step of each sequence, and for labels that are numbers the sums of products of all steps, by fold.

    Parameters
    ----------
    groups : sequence
        All groups that will come: files, patients. A fold has whole groups, drawn by `seed`.
    folds : int
    stride : int
    window : int
        Steps of input that the window control sees; more than so many steps from the deciding event is long range.
    seed : int

    Raises
    ------
    InputError
        If there are fewer groups than folds.
    """

    needs = ("labels", "groups")
    """What ``record(model, into=[...])`` must be told with `Recording.annotate` before each call."""

    def __init__(self, groups: Sequence[Any], *, folds: int = 5, stride: int = 1, window: int = 8, seed: int = 0) -> None:
        from sklearn.model_selection import GroupKFold

        names = list(dict.fromkeys(groups))
        if min(folds - 1, stride, window) < 1:
            raise InputError(f"needed at least 2 folds, and a positive stride and window, got {folds}, {stride} and {window}")
        if len(names) < folds:
            raise InputError(f"needed at least {folds} groups for {folds} folds, got {len(names)}: give finer groups, or fewer folds")
        at = {name: place for place, name in enumerate(names)}
        sequences = np.array([at[group] for group in groups])
        split = GroupKFold(folds, shuffle=True, random_state=seed).split(sequences, groups=sequences)
        self.fold_of = {names[place]: fold for fold, (_, held) in enumerate(split) for place in np.unique(sequences[held])}
        self._at, self._folds, self._stride, self._window, self._seed = at, folds, stride, window, seed
        self._phase = int(np.random.default_rng(seed).integers(stride))
        self._kept = _Table()
        self._grams: dict[tuple[str, str, int], Gram] = {}
        self._continuous: dict[str, bool] = {}
        self._paddings: set[Padding] = set()
        self._sequences = 0
        self._symbols = 0

    def update(
        self,
        recording: Recording,
        labels: Mapping[str, Any],
        groups: Sequence[Any],
        *,
        untrained: Recording | None = None,
        inputs: Tensor | None = None,
        events: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Take in some sequences: their recording, their labels ``(batch, time)``, their groups ``(batch,)``, and the controls'.

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

        sequence, step = np.nonzero(valid)
        group = np.array([self._at[name] for name in groups])[sequence]
        fold = np.array([self.fold_of[name] for name in groups])[sequence]
        # A sequence that is shorter than the phase keeps a step as well.
        keep = step % self._stride == (self._phase % valid.sum(1))[sequence]
        rows = {"sequence": sequence + self._sequences, "group": group, "fold": fold}
        for name, label in given.items():
            event = changes(label) if events is None or name not in events else self._event(name, events[name], valid.shape)
            rows |= {f"label {name}": label.values[valid], f"defined {name}": label.defined[valid]}
            rows |= {f"far {name}": (steps_since(event) > self._window)[valid]}
        sources = list(self._features(recording, untrained, inputs, valid, keep))
        if self._kept.named("source ") and [source for source, _, _ in sources] != self._kept.named("source "):
            raise InputError("needed the same layers and controls as before, got others")
        self._sequences += len(valid)
        self._paddings.add(first.padding)
        self._continuous |= {name: label.continuous for name, label in given.items()}
        for name, values in rows.items():
            self._kept.add(name, values[keep])
        for source, features, kept in sources:
            self._kept.add(f"source {source}", kept)
            self._add_products(source, features, {name: label for name, label in given.items() if label.continuous}, valid, fold)

    def merge(self, other: Self) -> None:
        """Add what another took in; it must have been made with the same settings."""
        if (self.fold_of, self._stride, self._window, self._phase) != (other.fold_of, other._stride, other._window, other._phase):
            raise InputError("needed streams with the same groups, folds, stride, window and seed, got others")
        renumbered = _Table()
        renumbered.merge(other._kept)
        if other._sequences:
            renumbered._parts["sequence"] = [part + self._sequences for part in other._kept._parts["sequence"]]
        self._kept.merge(renumbered)
        for key, gram in other._grams.items():
            self._grams.setdefault(key, Gram()).merge(gram)
        self._continuous |= other._continuous
        self._paddings |= other._paddings
        self._sequences += other._sequences
        self._symbols = max(self._symbols, other._symbols)

    def compute(self, *, labels: Sequence[str] | None = None, resamples: int = 1000, permutations: int = 499) -> ProbingResult:
        """The result of everything taken in so far, for some labels or all.

        Raises
        ------
        InputError
            If nothing was taken in, or a label has one value only.
        """
        if not self._sequences:
            raise InputError("needed at least one recording, got none: call update first")
        truths = {}
        if unknown := sorted(set(labels or ()) - set(self._continuous)):
            raise InputError(f"needed labels of {', '.join(self._continuous)}, got {unknown[0]!r}")
        for name in self._continuous if labels is None else labels:
            defined = self._kept[f"defined {name}"]
            truths[name] = resolve(name, self._kept[f"label {name}"][defined], self._continuous[name])
        sources = self._kept.named("source ")
        fitted: dict[str, dict[str, tuple[fits.Fitted, fits.Fitted, dict[int, int]]]] = {name: {} for name in truths}
        for source in sources:
            for name, one in self._fit(source, truths):
                fitted[name][source] = one
        times = draws(len(self._at), resamples, self._seed)
        cells = memories(source for source in sources if " " in source and not source.startswith(f"{UNTRAINED} "))
        found = {}
        for name, truth in truths.items():
            states = np.concatenate([self._kept[f"source {source}"][self._kept[f"defined {name}"]] for source in cells], axis=1)
            runs, null = self._runs(name, truth)
            units = scores_of(states, truth, runs, null, permutations, self._seed)
            found[name] = self._label(name, truth, fitted[name], units, times, permutations)
        return ProbingResult(
            labels=found,
            cells=tuple((cell.rsplit(" ", 1)[0], unit) for cell in cells for unit in range(self._kept[f"source {cell}"].shape[1])),
            groups=len(self._at),
            folds=self._folds,
            stride=self._stride,
            window=self._window,
            resamples=resamples,
            padding=together(self._paddings),
            fold_of=self.fold_of,
        )

    def _runs(self, name: str, truth: Truth) -> tuple[NDArray[np.int64], Null]:
        """What labels are moved within or between: sequences, or whole groups where a label mostly stays the same in a sequence."""
        defined = self._kept[f"defined {name}"]
        null = null_for(truth.values, self._kept["sequence"][defined])
        return self._kept["sequence" if null == "circular_shift" else "group"][defined], null

    def _read(self, name: str, label: Any, valid: NDArray[np.bool_]) -> Given:
        if np.shape(label) != valid.shape:
            raise InputError(f"needed label {name!r} of shape {valid.shape}, one value for each step, got {np.shape(label)}")
        array = np.asarray(label)
        given = read(name, np.where(valid, array, np.nan) if array.dtype.kind == "f" else array)
        if self._continuous.get(name, given.continuous) != given.continuous:
            raise InputError(f"needed label {name!r} of one kind throughout, got numbers and classes")
        return given

    @staticmethod
    def _event(name: str, event: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        if np.shape(event) != shape:
            raise InputError(f"needed events of {name!r} of shape {shape}, got {np.shape(event)}")
        return np.asarray(event, dtype=bool)

    def _features(
        self, recording: Recording, untrained: Recording | None, inputs: Tensor | None, valid: NDArray[np.bool_], keep: NDArray[np.bool_]
    ) -> Iterator[tuple[str, Any, NDArray[Any]]]:
        """Each source's features at the valid steps, and what is kept of them."""
        for prefix, one in (("", recording), (f"{UNTRAINED} ", untrained)):
            if one is None:
                continue
            if list(one) != list(recording):
                raise InputError(
                    f"needed the untrained recording of the same layers, {', '.join(recording)}, got {', '.join(one) or 'none'}"
                )
            for name, trajectory in one.items():
                if not np.array_equal(trajectory.valid.cpu().numpy(), valid):
                    raise InputError(f"needed recordings of the same steps in every layer, got others in {prefix}{name}")
                for signal in (state for state in STATES if state in trajectory.initial):
                    states = _finite(trajectory, signal, prefix)
                    yield f"{prefix}{name} {signal}", states.astype(np.float64), states[keep]
        if inputs is not None:
            window = _window(inputs, valid, self._window)
            if inputs.is_floating_point():
                yield WINDOW, window.astype(np.float64), window[keep]
            else:
                self._symbols = max(self._symbols, int(window.max()) + 1)
                yield WINDOW, _one_hot(window, self._symbols), window[keep]

    def _add_products(
        self, source: str, features: Any, labels: Mapping[str, Given], valid: NDArray[np.bool_], fold: NDArray[np.int64]
    ) -> None:
        for one in np.unique(fold):
            products: dict[bytes, NDArray[np.float64]] = {}
            for name, label in labels.items():
                rows = np.flatnonzero((fold == one) & label.defined[valid])
                here = features[rows]
                # Labels that are defined at the same steps share the sums of products of the features.
                same = rows.tobytes()
                if same not in products:
                    products[same] = Gram.products(here)
                self._grams.setdefault((source, name, int(one)), Gram()).update(here, label.values[valid][rows], products[same])

    def _fit(self, source: str, truths: Mapping[str, Truth]) -> Iterator[tuple[str, tuple[fits.Fitted, fits.Fitted, dict[int, int]]]]:
        """For each label a source's predictions, its best single units' predictions, and which these were."""
        kept = self._kept[f"source {source}"]
        symbols = source == WINDOW and kept.dtype.kind == "i"
        units: dict[bytes, fits.Units] = {}
        for name, truth in truths.items():
            defined = self._kept[f"defined {name}"]
            fold, rows = self._kept["fold"][defined], kept[defined]
            features = _one_hot(rows, self._symbols) if symbols else rows.astype(np.float64)
            dense = features.toarray() if symbols else features
            if truth.kind == "continuous":
                grams = {one: self._grams[source, name, one] for one in range(self._folds) if (source, name, one) in self._grams}
                whole = fits.ridge(features, fold, {one: gram for one, gram in grams.items() if gram.n})
            else:
                whole = fits.logistic(name, features, truth, fold)
            same = defined.tobytes()
            if same not in units:
                units[same] = fits.Units(dense, fold)
            chosen = units[same].best(truth)
            yield name, (whole, fits.single(dense, truth, fold, chosen), chosen)

    def _label(
        self,
        name: str,
        truth: Truth,
        fitted: Mapping[str, tuple[fits.Fitted, fits.Fitted, dict[int, int]]],
        units: UnitScoresResult,
        times: NDArray[np.float64],
        permutations: int,
    ) -> LabelProbing:
        defined = self._kept[f"defined {name}"]
        fold, group, far = (self._kept[column][defined] for column in ("fold", "group", f"far {name}"))
        everywhere = np.ones(len(fold), dtype=bool)

        def scored(predicted: NDArray[np.float64], here: NDArray[np.bool_]) -> Score:
            return score(truth, predicted, group, fold, len(self._at), here)

        constant = fits.majority(truth, fold)
        fitted = {**fitted, MAJORITY: (constant, constant, {})}
        near_and_far = {
            source: (scored(whole.predicted, everywhere), scored(whole.predicted, far)) for source, (whole, _, _) in fitted.items()
        }
        probed = {
            source: Probed(
                interval(near_and_far[source][0], times),
                interval(near_and_far[source][1], times),
                interval(scored(alone.predicted, everywhere), times),
                tuple(chosen[one] for one in sorted(chosen)),
            )
            for source, (_, alone, chosen) in fitted.items()
        }
        controls = {source: one for source, one in probed.items() if source.split(" ")[0] in (UNTRAINED, WINDOW, MAJORITY)}
        probes = {source: one for source, one in probed.items() if source not in controls}
        best = max(probes, key=lambda source: rank(probes[source].score))
        against = {}
        for control in (MAJORITY, UNTRAINED, WINDOW):
            own = [source for source in controls if source.split(" ")[0] == control]
            if own:
                against[control] = max(own, key=lambda source: rank(controls[source].score))
        against_far = {
            control: max((one for one in controls if one.split(" ")[0] == control), key=lambda one: rank(controls[one].long_range))
            for control in against
        }
        above, above_far = (
            {control: interval(near_and_far[best][at], times, near_and_far[source][at]) for control, source in chosen.items()}
            for at, chosen in enumerate((against, against_far))
        )
        runs, null = self._runs(name, truth)
        predictions = [fitted[source][0].predicted for source in probes]
        p_value, p_far = (
            _p_value(truth, predictions, fold, here, Moved(runs, null), permutations, self._seed) for here in (everywhere, far)
        )
        controlled = UNTRAINED in against and WINDOW in against
        return LabelProbing(
            kind=truth.kind,
            metric=METRICS[truth.kind],
            classes=truth.classes,
            steps=len(fold),
            long_range_steps=int(far.sum()),
            mean=float("nan") if truth.kind == "categorical" else float(truth.values.mean()),
            probes=probes,
            controls=controls,
            best=best,
            above=above,
            above_long_range=above_far,
            p_value=p_value,
            null=null,
            verdict=_verdict(controlled, above, p_value),
            verdict_long_range=_verdict(controlled, above_far, p_far),
            units=units,
            unconverged=sum(whole.unconverged for whole, _, _ in fitted.values()),
        )


def _verdict(controlled: bool, above: Mapping[str, Interval], p_value: float) -> Verdict:
    if not controlled:
        return "not controlled"
    return "shown" if p_value <= ALPHA and all(one.low > 0 for one in above.values()) else "not shown"


def _finite(trajectory: Trajectory, signal: str, prefix: str) -> NDArray[np.float32]:
    states: NDArray[np.float32] = trajectory.steps(signal).float().cpu().numpy()
    if not np.isfinite(states).all():
        bad = int((~np.isfinite(states)).sum())
        raise InputError(f"needed finite states to probe, got {bad} NaN or infinite values in {prefix}{trajectory.name} {signal}")
    return states


def _window(inputs: Tensor, valid: NDArray[np.bool_], window: int) -> NDArray[Any]:
    """The last inputs at each valid step, the newest first: symbols ``(step, window)``, -1 before the first, or features side by side."""
    given = inputs.detach().cpu().numpy()
    if given.shape[:2] != valid.shape:
        raise InputError(f"needed the window's inputs of shape {valid.shape} + (feature,), got {given.shape}")
    if inputs.is_floating_point() and not np.isfinite(given[valid]).all():
        raise InputError("needed finite inputs for the window control, got NaN or infinite ones")
    if inputs.is_floating_point():
        features, absent = given.reshape(*valid.shape, -1).astype(np.float32), 0.0
    elif given.ndim == 2 and (given[valid] >= 0).all():
        features, absent = given[:, :, None].astype(np.int64), -1
    else:
        raise InputError(
            f"needed the window's inputs as features (batch, time, feature) or symbols (batch, time) from 0, got {given.shape}"
        )
    lags = []
    for lag in range(window):
        shifted = np.full_like(features, absent)
        if lag < features.shape[1]:
            shifted[:, lag:] = features[:, : features.shape[1] - lag]
        lags.append(shifted[valid])
    return np.concatenate(lags, axis=1)


def _one_hot(window: NDArray[np.int64], symbols: int) -> Any:
    """A column for each symbol at each lag; symbols that come later add columns at the end."""
    steps, lags = window.shape
    step, lag = np.nonzero(window >= 0)
    columns = window[step, lag] * lags + lag
    return csr_array((np.ones(len(step)), (step, columns)), shape=(steps, symbols * lags))


def _p_value(
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


def probe(
    recording: Recording,
    labels: Mapping[str, Any] | Any,
    *,
    groups: Sequence[Any] | None = None,
    controls: Mapping[str, Any] | None = None,
    events: Mapping[str, NDArray[np.bool_]] | None = None,
    folds: int = 5,
    window: int = 8,
    at_most: int = 20_000,
    resamples: int = 1000,
    permutations: int = 499,
    seed: int = 0,
) -> ProbingResult:
    """What each layer's cell and hidden state tell of a label, beside what they must be compared with.

    Parameters
    ----------
    recording : Recording
    labels : mapping of str to ndarray ``(batch, time)``, or one such array
        What is true after each step. Booleans, whole numbers and text are classes (-1 or "" where undefined); floating-point numbers are
        numbers (NaN where undefined).
    groups : sequence ``(batch,)``, optional
        Which sequences belong together (files, patients): probes are fitted on some groups and scored on others, and groups are what is
        resampled. Each sequence by itself if left out.
    controls : mapping, optional
        ``"untrained"``: a recording of `lx.untrained(model)` on the same inputs. ``"window"``: the inputs ``(batch, time[, feature])``, of
        which a probe sees the last `window` steps. Without both the verdict is *not controlled*.
    events : mapping of str to ndarray of bool ``(batch, time)``, optional
        When a label was decided; if left out, when it last changed. Long range is more than `window` steps after that.
    folds : int
        Whole groups each.
    window : int
    at_most : int
        Steps that are kept for classification and for scores: of longer data every so many steps of each sequence. Numbers are fitted on
        all steps.
    resamples, permutations : int
        Bootstrap samples of groups (Efron 1979) for intervals; moves of the labels for p-values.
    seed : int

    Returns
    -------
    ProbingResult

    Raises
    ------
    InputError
        If shapes don't fit, there are fewer groups than folds, or a label has one value only.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model, inputs = torch.nn.LSTM(4, 8, batch_first=True), torch.randn(10, 50, 4)
    >>> with lx.record(model, lengths=[50] * 10) as recording:
    ...     _ = model(inputs)
    >>> twin = lx.untrained(model)
    >>> with lx.record(twin, lengths=[50] * 10) as control:
    ...     _ = twin(inputs)
    >>> result = lx.probe(recording, {"rising": inputs[:, :, 0].numpy() > 0}, controls={"untrained": control, "window": inputs})
    >>> result.labels["rising"].verdict  # the window knows as much
    'not shown'
    """
    if not len(recording):
        raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
    unknown = sorted(set(controls or ()) - {UNTRAINED, WINDOW})
    if unknown:
        raise InputError(f"needed controls named {UNTRAINED} and {WINDOW}, got {unknown[0]!r}")
    valid = next(iter(recording.values())).valid
    if at_most < 1:
        raise InputError(f"needed at_most as a positive number of steps, got {at_most}")
    named = dict(labels) if isinstance(labels, Mapping) else {"label": labels}
    groups = list(range(len(valid))) if groups is None else list(groups)
    stream = Probing(groups, folds=folds, stride=max(1, -(-int(valid.sum()) // at_most)), window=window, seed=seed)
    given = controls or {}
    stream.update(recording, named, groups, untrained=given.get(UNTRAINED), inputs=given.get(WINDOW), events=events)
    return stream.compute(resamples=resamples, permutations=permutations)
