"""`probe`: does a layer's state tell this label, beyond what untrained networks and the last few inputs tell of it?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_explain.analyses.probing.result import UNTRAINED, WINDOW, ProbingResult
from lstm_explain.analyses.probing.stream import Probing
from lstm_explain.errors import InputError
from lstm_explain.recording.recording import Recording

TYPES = "types"


def probe(
    recording: Recording,
    labels: Mapping[str, Any] | Any,
    *,
    groups: Sequence[Any] | None = None,
    controls: Mapping[str, Any] | None = None,
    events: Mapping[str, NDArray[np.bool_]] | None = None,
    signals: Sequence[str] | str | None = None,
    joint: bool = False,
    folds: int = 5,
    window: int = 8,
    at_most: int = 20_000,
    resamples: int = 1000,
    permutations: int = 499,
    seed: int = 0,
    progress: bool | None = None,
) -> ProbingResult:
    """What each layer's cell and hidden state tell of a label, beside what they must be compared with.

    The controls answer different questions. Untrained networks and the last inputs say what training and memory have to do with a
    score, and the verdict stands against them. *Selectivity* (Hewitt & Liang 2019) says what the probe itself has to do with it: one that
    does as well on labels drawn at random for each type of step, such as each input symbol, can learn types by heart, and its score
    may be no more than that. It doesn't enter the verdict.

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
        ``"untrained"``: recordings of `lx.untrained` on the same inputs, one for each twin, or a single one; twins differ, and the verdict
        stands against the best of them, so that at least 5 are recommended. ``"window"``: the inputs ``(batch, time[, feature])``, of
        which a probe sees the last `window` steps. Without these two the verdict is *not controlled*. ``"types"``: whole numbers
        ``(batch, time)``, the type of each step, such as its symbol or its last two symbols, for selectivity: each type gets a label
        once, by `seed`, as frequent as the label's own classes, or one of its values.
    events : mapping of str to ndarray of bool ``(batch, time)``, optional
        When a label was decided; if left out, when it last changed. Long range is more than `window` steps after that.
    signals : str or sequence of str, optional
        What to probe, such as ``"forget_gate"``, in each layer that has it; cell and hidden states if left out.
    joint : bool
        Whether all layers and signals are probed together as well, as ``"all"``; untrained networks alike.
    folds : int
        Whole groups each.
    window : int
    at_most : int
        Steps that are kept for classification and for scores: of longer data every so many steps of each sequence. Numbers are fitted on
        all steps.
    resamples, permutations : int
        Bootstrap samples of groups (Efron 1979) for intervals; moves of the labels for p-values.
    seed : int
    progress : bool, optional
        A progress bar; on a terminal if left out.

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
    >>> controls = {"untrained": [], "window": inputs}
    >>> for seed in range(5):
    ...     twin = lx.untrained(model, seed=seed)
    ...     with lx.record(twin, lengths=[50] * 10, signals=["cell_state", "hidden_state"]) as control:
    ...         _ = twin(inputs)
    ...     controls["untrained"].append(control)
    >>> result = lx.probe(recording, {"rising": inputs[:, :, 0].numpy() > 0}, controls=controls)
    >>> result.labels["rising"].verdict  # the window knows as much
    'not shown'
    """
    if not len(recording):
        raise InputError("needed at least one recorded layer, got none: call the model inside lx.record first")
    unknown = sorted(set(controls or ()) - {UNTRAINED, WINDOW, TYPES})
    if unknown:
        raise InputError(f"needed controls named {UNTRAINED}, {WINDOW} and {TYPES}, got {unknown[0]!r}")
    valid = next(iter(recording.values())).valid
    if at_most < 1:
        raise InputError(f"needed at_most as a positive number of steps, got {at_most}")
    named = dict(labels) if isinstance(labels, Mapping) else {"label": labels}
    groups = list(range(len(valid))) if groups is None else list(groups)
    stride = max(1, -(-int(valid.sum()) // at_most))
    stream = Probing(groups, folds=folds, stride=stride, window=window, signals=signals, joint=joint, seed=seed)
    of = controls or {}
    stream.update(recording, named, groups, untrained=of.get(UNTRAINED), inputs=of.get(WINDOW), types=of.get(TYPES), events=events)
    return stream.compute(resamples=resamples, permutations=permutations, progress=progress)
