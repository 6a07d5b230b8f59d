"""`intervene`: change gates and states inside a model's recurrent layers for as long as a ``with`` block lasts."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError, did_you_mean
from lstm_explain.intervention.places import Steps, Units
from lstm_explain.intervention.values import Add, Clamp, Course, Edit, Mean, Patch, Place, Resample, clamp
from lstm_explain.recording.difference import wide
from lstm_explain.recording.edits import Begun, Editor, Site
from lstm_explain.recording.joining import Before, Joining, differs
from lstm_explain.recording.opened import Opened
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import layers_in, unwrapped, watched, words_of
from lstm_explain.trajectory import checked_lengths


class _Intervener:
    """Changes one layer and direction, call by call."""

    graph = fast = False

    def __init__(
        self, key: str, path: str, suffix: str, edits: Mapping[str, Edit], units: Units, steps: Steps, lengths: Any, feedback: bool
    ) -> None:
        self.thread = get_ident()
        self.editor: Editor | None = self
        self._key, self.path, self.suffix = key, path, suffix
        self._edits, self._units, self._steps, self._lengths, self._feedback = edits, units, steps, lengths, feedback
        self._joining = Joining()
        self._before = Before(False, None, 0)
        self._went_on: Mapping[str, Tensor] | None = None
        self._left: Mapping[str, Tensor] = {}
        self.called = self.changed = False
        self.reached = 0

    def enter(self, path: str) -> None:
        self._joining.enter()

    def leave(self, path: str, failed: bool) -> None:
        self._joining.leave()

    def take(self, path: str, opened: Opened) -> None: ...

    def again(self, path: str) -> None: ...

    def other_thread(self, path: str) -> None: ...

    def begin(self, site: Site) -> Begun:
        """What is changed in this call."""
        self.called = True
        cell, like = not site.suffix, next(iter(site.initial.values()))
        given = {name: wide(state) for name, state in site.initial.items()}
        self._before = self._joining.before(self._key, given, given=site.given, carries=site.carries, cell=cell)
        first = self._before.steps
        lengths = self._known_lengths(site, first, like.device)
        open_ended = lengths is None
        self.reached = max(self.reached, first + site.time)
        if lengths is None and not cell and not first:
            lengths = torch.full((site.batch,), site.time, device=like.device)
        steps = torch.arange(first, first + site.time, device=like.device)
        when = self._steps.where(self._key, steps, site.batch, lengths, open_ended=open_ended)
        if lengths is not None:
            when = when & (steps < lengths[:, None])
        changes = []
        for signal, edit in self._edits.items():
            if signal not in site.widths:
                can = " or ".join(site.widths) or "nothing"
                why = f"the equations registered for {site.kind} run whole, and no more can be changed"
                raise InputError(f"needed {can} of {self._key}, got {signal}: {why}")
            width = site.widths[signal]
            self._units.fit(self._key, signal, width)
            which, named = self._units.where(self._key, site.batch, width, like.device)
            where = when[:, :, None] & which
            place = Place(self._key, signal, where, named, site.batch, site.time, first, cell, lengths, like.detach(), self._feedback)
            changes.append(edit.change(place))
            self.changed |= bool(where.any())
        return Begun(changes, None if self._feedback else self._resumed(site))

    def _known_lengths(self, site: Site, first: int, device: torch.device) -> Tensor | None:
        """How many steps each sequence has, by the call or by what the user said."""
        given = self._lengths
        if given is not None:
            given = checked_lengths(given, site.batch, None if first or not site.suffix else site.time)
        if site.lengths is not None:
            if given is not None and not torch.equal(site.lengths, given.to(site.lengths)):
                raise InputError(f"needed the lengths of the PackedSequence, {site.lengths.tolist()}, got {given.tolist()}")
            given = site.lengths + first
        return None if given is None else given.to(device)

    def _resumed(self, site: Site) -> Mapping[str, Tensor] | None:
        """Of a call that goes on where the last one ended: the states that its recurrence ended with, which the model hasn't seen."""
        if self._went_on is None or not self._before.continues:
            return None
        went_on, edited = self._went_on, self._before.edited
        if edited is None:
            return went_on
        moved = torch.stack([differs(self._left[name], wide(state)) for name, state in went_on.items()]).any(0)
        if bool((moved & edited).any()):
            raise RecordingError(
                f"needed {self._key} to go on with the state that it returned for feedback=False, got one that the model changed between "
                "the steps: use feedback=True"
            )
        return {name: torch.where(edited[:, None], site.initial[name], state) for name, state in went_on.items()}

    def end(self, site: Site, left: Mapping[str, Tensor], went_on: Mapping[str, Tensor] | None) -> None:
        """Where this call has ended."""
        whole = site.lengths is None or bool((site.lengths == site.time).all())
        self._left = {name: wide(state).clone() for name, state in left.items()}
        self._joining.ends({self._key: self._left if site.carries and whole else None}, {self._key: self._before.steps + site.time})
        self._went_on = went_on


def _edit_of(signal: str, value: Any) -> Edit:
    if isinstance(value, (Clamp, Course, Add, Mean, Resample, Patch)):
        return value
    if isinstance(value, Recording):
        raise InputError(f"needed for {signal} lx.patch, lx.resample or lx.mean of the recording, got the recording itself")
    return clamp(value)


@contextmanager
def intervene(
    model: nn.Module,
    layer: str,
    *,
    feedback: bool | None = None,
    units: Sequence[int] | Mapping[str, int | Sequence[int]] | int | Tensor | NDArray[np.bool_] | None = None,
    steps: slice | Sequence[int] | int | Tensor | NDArray[np.bool_] | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    **signals: Edit | float | Tensor,
) -> Iterator[None]:
    """Change gates and states of one of a model's recurrent layers, at some steps and units, while the model runs.

    The layer runs by its equations, step by step, and everything else of the model as it was: layers of the same stack, other
    directions, the masks of dropout. A gate is changed after its nonlinearity and before it is used, a cell state before the hidden
    state is computed from it, a hidden state (after the projection, where there is one) before anybody sees it. Nothing is left
    behind when the block ends, also by an exception. Blocks may be nested, on one layer or several: what an inner one does
    comes after what an outer one does. `record` sees the changed values, and its certificate names the signals that were edited. An
    intervention belongs to the thread that makes it.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that `record` can open.
    layer : str
        Its name in a recording: ``"encoder.lstm.l1"``, ``"gru.l0_reverse"``, the path of a cell.
    feedback : bool
        Must be said. True: later steps see the change. False: only what leaves the layer at that step is changed, and with it what leaves
        at the end (``h_n``, ``c_n``); its recurrence goes on as if nothing had happened, also in a later call that goes on from there.
    units : sequence of int, mapping of str to them, or Tensor of bool ``(batch, unit)``, optional
        Which units; all if left out. Of a mapping, the names that `lx.ablation` takes as well, all are meant. A mask picks them for
        each sequence.
    steps : slice, sequence of int or Tensor of bool ``(batch, time)``, optional
        Which steps, in the order of the input; all if left out. Negative ones count from the end of each sequence. In calls that
        go on with their state, and for a cell in a loop, steps count on as in a recording: from the beginning of a pass of the model;
        a mask is of all of them.
    lengths : sequence of int ``(batch,)``, optional
        How many steps of each sequence are real, for padded batches; padding isn't changed. A `PackedSequence` brings its own.
    **signals
        What to do, by the name of the gate or state: a number or tensor (`clamp`), or `clamp`, `add`, `mean`, `resample` or `patch`.
        Of a registered cell only the hidden state, which comes last.

    Raises
    ------
    InputError
        If an argument doesn't fit the model or a call.
    RecordingError
        If the layer can't be run by its equations: under autocast, under activation checkpointing, dropout between layers in training mode
        elsewhere than on the CPU; or for a cell whose state the model changes between steps with ``feedback=False``.
    CertificateError
        If a layer with a forward pass of its own isn't what its equations say.

    Warns
    -----
    UserWarning
        If the block ends and nothing was changed, or a step that was named never came.

    Examples
    --------
    A forget gate of 1 with an input gate of 0 keeps the cell state as it is:

    >>> import torch, lstm_explain as lx
    >>> model, x = torch.nn.LSTM(8, 16, batch_first=True), torch.randn(4, 10, 8)
    >>> with lx.intervene(model, "l0", forget_gate=1.0, input_gate=0.0, units=[3], steps=slice(5, None), feedback=True):
    ...     with lx.record(model) as recording:
    ...         _ = model(x)
    >>> cell = recording["l0"].cell_state[:, :, 3]
    >>> bool((cell[:, 5:] == cell[:, 4:5]).all())
    True
    """
    model = unwrapped(model)
    known = layers_in(model)
    if not known:
        raise RecordingError(f"needed a model with recurrent layers or cells, found none in {type(model).__name__}")
    if layer not in known:
        raise InputError(f"needed layer as one of {', '.join(known)}, got {layer!r}{did_you_mean(layer, known)}")
    if not isinstance(feedback, bool):
        raise InputError(f"needed feedback=True (later steps see the change) or False (only what leaves the layer), got {feedback!r}")
    path, suffix, module = known[layer]
    words = words_of(module)
    if not signals:
        raise InputError(f"needed at least one of {', '.join(words or ('hidden_state',))} of {layer}, like hidden_state=0.0, got none")
    if unknown := [name for name in signals if words is not None and name not in words]:
        raise InputError(
            f"needed signals of {', '.join(words or ())} of {layer}, got {unknown[0]!r}{did_you_mean(unknown[0], words or ())}"
        )
    edits = {name: _edit_of(name, value) for name, value in signals.items()}
    chosen = Units.of(units)
    for name in signals if words is not None else ():
        projected, hidden = getattr(module, "proj_size", 0), getattr(module, "hidden_size", 0)
        chosen.fit(layer, name, projected if projected and name == "hidden_state" else hidden)
    when = Steps.of(steps)
    intervener = _Intervener(layer, path, suffix, edits, chosen, when, lengths, feedback)
    with watched(model, {path: module}, intervener):
        yield
    # Only now is it known that no further call goes on.
    if when.mask is not None and suffix and intervener.called and (reached := intervener.reached) < when.mask.shape[1]:
        raise InputError(f"needed steps of {layer} as a mask {(len(when.mask), reached)}, got {tuple(when.mask.shape)}")
    if not intervener.changed:
        why = "no step or unit of its calls was meant" if intervener.called else "it wasn't called inside the block"
        warnings.warn(f"nothing was changed in {layer}: {why}", UserWarning, stacklevel=3)
    elif (missed := when.missed(intervener.reached)) is not None:
        warnings.warn(f"step {missed} of {layer} never came: its calls had {intervener.reached} steps", UserWarning, stacklevel=3)
