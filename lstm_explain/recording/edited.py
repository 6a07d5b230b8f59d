"""A module run with some of its signals changed: what is changed by the readable equations, everything else as it was."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.checkpoint import CheckpointFunction

from lstm_explain.errors import CertificateError, RecordingError
from lstm_explain.nn.equations import Edit, Form, Stepper, Weights, read, stepper
from lstm_explain.nn.kernels import replay
from lstm_explain.nn.layers import LayerRun, suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED, Told, call_cell, call_registered, opened_cell, swapped, tensors_in
from lstm_explain.recording.certificate import certify
from lstm_explain.recording.difference import Difference, compare, wide
from lstm_explain.recording.edits import Change, Site, Slot
from lstm_explain.recording.fused import replayed_layer
from lstm_explain.recording.layers import kept_weights, own_layer
from lstm_explain.recording.opened import Forward, Opened, OpenedLayer, in_one_dtype, input_and_state, not_checkpointed, reached
from lstm_explain.recording.stack import Ran, Walked, by_equations, by_name, draws, initial_states, random_state, repeatable, run_stack
from lstm_explain.recording.stand_in import Opener, Run, Wanted
from lstm_explain.trajectory import KINDS

_STOCK = tuple(kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell, PeepholeLSTM, PeepholeLSTMCell))
_ROWS = 4096
"""How many rows are checked at once: bounds memory, changes nothing else."""

States = Mapping[str, Tensor]
Again = Callable[[Tensor, Sequence[Tensor], Edit], dict[str, Tensor]]
"""``again(x, states, edit)``: the signals of some rows."""


def edited_layers(opener: Opener, wanted: Wanted) -> Run:
    """How a stack of layers runs while it is changed."""

    def run(module: Any, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened | None]:
        repeatable(module)
        input, hx = input_and_state(original, args, kwargs)
        x, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
        graph = _allowed(x, wanted)
        state = None
        if not _stock(module, original):
            state = torch.get_rng_state() if draws(module) else None
            _certified(wanted, opener(module, original, *args, **kwargs)[1])
        kind, form = _kind(module)
        names = suffixes(module)
        weights = {suffix: weights_of(module, suffix) for suffix in names}
        with random_state(state):
            x = reached(x) if graph else x
            initial = initial_states(module, kind, layout, hx, x)
            given = {suffix: by_name([state[at] for state in initial]) for at, suffix in enumerate(names)}
            widths = dict.fromkeys(KINDS[kind].signals, module.hidden_size) | {"hidden_state": module.proj_size or module.hidden_size}
            begun = _Begun(wanted, kind, layout, given, widths, given_state=hx is not None, carries=not module.bidirectional)
            slots = begun.slots(names if graph else ())
            ran, top = run_stack(module, kind, form, layout, x, begun.starts, weights, slots, keep=wanted.opened or graph)
        last = [layout.state_out(torch.stack([one.last[name] for one in ran])) for name in ran[0].last]
        returned = layout.output(top), tuple(last) if len(last) == 2 else last[0]
        begun.end({one.suffix: one for one in ran})
        if not wanted.opened:
            return returned, None
        with torch.no_grad():
            layers, ends = zip(*(_layer(one, given[one.suffix], kind, form, layout, slots, graph) for one in ran), strict=True)
            expected = [layout.state_out(torch.stack(states)) for states in zip(*ends, strict=True)]
        short = ("h_n", "c_n")
        return returned, Opened(
            kind=kind,
            form=form,
            layout=layout,
            layers=list(layers),
            expected={"output": top.detach(), **dict(zip(short, expected, strict=False))},
            returned={"output": top.detach(), **dict(zip(short, last, strict=False))},
            states=by_name([torch.stack([one.last[name].detach() for one in ran]) for name in ran[0].last]),
            dtype=top.dtype,
            given=hx is not None,
            carries=not module.bidirectional,
        )

    return run


def _kind(module: Any) -> tuple[str, Form | None]:
    if isinstance(module, PeepholeLSTM):
        return "peephole_lstm", module.form
    kind: str = module.mode.lower()
    return kind, Form(None) if kind == "lstm" else None


def _allowed(x: Tensor, wanted: Wanted) -> bool:
    """Whether the signals are wanted on autograd's graph, in a pass that can be changed."""
    in_one_dtype(x, "lx.intervene")
    if torch.is_grad_enabled():
        not_checkpointed("lx.intervene")
    elif _reentrant():
        raise RecordingError("needed a pass without activation checkpointing for lx.intervene: leave it off")
    return wanted.graph and torch.is_grad_enabled()


def _reentrant() -> bool:
    """Whether this is the first pass of reentrant checkpointing, which hides from autograd that there will be a second one."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            return any(frame.f_locals["ctx"].needs_input_grad)
        frame = frame.f_back
    return False


def _stock(module: nn.Module, original: Forward) -> bool:
    """Whether a module's own pass is certainly what its equations say, with weights that are the same however often they are read."""
    computed = any(isinstance(part, ParametrizationList) for part in module.modules())
    return getattr(original, "__func__", None) in _STOCK and not computed


def _certified(wanted: Wanted, clean: Opened) -> None:
    """A pass that isn't changed must be what the equations say: else one that is would be of another model."""
    try:
        certify(wanted.editors[0].path, 0, clean, ())
    except CertificateError:
        if clean.again is None:
            raise
        certify(wanted.editors[0].path, 0, clean.again(), ())


class _Begun:
    """One call, about to be changed."""

    def __init__(
        self,
        wanted: Wanted,
        kind: str,
        layout: Layout,
        given: Mapping[str, States],
        widths: Mapping[str, int],
        *,
        given_state: bool,
        carries: bool,
    ) -> None:
        self._layout, self._wanted = layout, wanted
        self._device = next(iter(next(iter(given.values())).values())).device
        self._changes: dict[str, list[Change]] = {}
        self.starts: dict[str, States] = dict(given)
        self._sites = []
        lengths = layout.lengths() if layout.packed else None
        for editor in wanted.editors:
            initial = {name: _reordered(state, layout.unsorted_indices) for name, state in given[editor.suffix].items()}
            time = len(layout.sizes)
            site = Site(kind, editor.suffix, widths, layout.batch, time, lengths, initial, given_state, carries)
            changes, resumed = editor.begin(site)
            self._changes.setdefault(editor.suffix, []).extend(changes)
            if resumed is not None:
                self.starts[editor.suffix] = {name: _reordered(state, layout.sorted_indices) for name, state in resumed.items()}
            self._sites.append((editor, site))

    def slots(self, further: Sequence[str] = ()) -> dict[str, Slot]:
        """The slot of each layer and direction that is changed, and empty ones of further ones."""
        made = {suffix: Slot(self._changes.get(suffix, ()), self._layout, self._device) for suffix in {*self._changes, *further}}
        if self._wanted.graph and any(slot.leaves for slot in made.values()):
            raise RecordingError("needed feedback=True under lx.record(grad=True), got feedback=False: record without grad=True")
        return made

    def end(self, ran: Mapping[str, Ran]) -> None:
        """Tell the editors what their layers ended with."""

        def of(states: States) -> dict[str, Tensor]:
            return {name: _reordered(state, self._layout.unsorted_indices) for name, state in states.items()}

        for editor, site in self._sites:
            walked = ran[editor.suffix].walked
            assert walked is not None
            editor.end(site, of(walked.last), None if walked.went_on is None else of(walked.went_on))


def _reordered(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(0, order)


def _layer(
    one: Ran, given: States, kind: str, form: Form | None, layout: Layout, slots: Mapping[str, Slot], graph: bool
) -> tuple[OpenedLayer, tuple[Tensor, ...]]:
    """One layer and direction for those who record, and its last states once more."""
    if one.walked is not None:
        step = stepper(kind, form, one.weights)

        def again(x: Tensor, states: Sequence[Tensor], edit: Edit) -> dict[str, Tensor]:
            return step(read(x, one.weights), states, edit)

        return _walked(one, one.walked, given, kept_weights(one.weights), again, layout, slots[one.suffix], graph)
    last = tuple(one.last.values())
    if one.saved is not None:
        assert form is not None
        h, c = one.initial.values()
        run = LayerRun(one.suffix, one.weights, one.reverse, one.x, h, c, one.saved, *last)
        return own_layer(run, form), last
    weights = Weights(*(None if w is None else wide(w) for w in one.weights))  # type: ignore[arg-type]
    initial = tuple(wide(state) for state in one.initial.values())
    return replayed_layer(kind, one.suffix, wide(one.x), wide(one.hidden), initial, weights, layout, copy=True)


def _walked(
    one: Ran, walked: Walked, given: States, weights: Mapping[str, Tensor], again: Again, layout: Layout, slot: Slot, graph: bool
) -> tuple[OpenedLayer, tuple[Tensor, ...]]:
    """One layer and direction by the equations; it is checked by all of its rows at once, from the states that they started from."""
    sizes, reverse = layout.sizes, one.reverse
    signals = {name: wide(signal) for name, signal in walked.signals.items()}
    signals |= {name: signals[name].clone() for name in one.initial}  # states are also the caller's, who may write into them
    seen = walked.started or {name: replay.before(walked.signals[name], state, sizes, reverse) for name, state in one.initial.items()}

    def checked() -> Iterator[Difference]:
        for rows in torch.arange(len(one.x), device=one.x.device).split(max(_ROWS, sizes[0])):
            now = again(one.x[rows], [state[rows] for state in seen.values()], slot.among(rows))
            yield from (compare(signals[name][rows], signal) for name, signal in now.items())

    layer = OpenedLayer(
        suffix=one.suffix,
        reverse=reverse,
        signals=signals,
        initial={name: wide(state) for name, state in given.items()},
        weights=weights,
        checked=checked,
        nodes=walked.steps if graph else (),
        started={name: wide(state) for name, state in walked.started.items()},
        changed=slot.marks(),
    )
    return layer, tuple(replay.last(walked.signals[name], state, sizes, reverse) for name, state in one.initial.items())


def edited_cell(wanted: Wanted) -> Run:
    """How one step of a cell runs while it is changed: as it is, and then by its equations with what is changed."""

    def run(module: Any, original: Forward, *args: Any, **kwargs: Any) -> tuple[Any, Opened | None]:
        registered = any(isinstance(module, kind) for kind in REGISTERED)
        told = (call_registered if registered else call_cell)(module, original, *args, **kwargs)
        graph = _allowed(told.x, wanted)
        if registered or not _stock(module, original):
            _certified(wanted, opened_cell(told, upcast=not registered))
        unbatched = told.x.dim() == 1
        first = next(iter(told.after.values()))
        batch = 1 if unbatched else len(first)
        layout = Layout((batch,), False, unbatched, False)
        x = told.x.reshape(batch, -1)
        x = reached(x) if graph else x
        given = {"": {name: state.reshape(batch, -1) for name, state in told.before.items()}}
        if told.own is None:
            widths = {name: state.shape[-1] for name, state in told.after.items() if name == "hidden_state" or len(told.after) == 1}
            step, z_x = _whole(told, unbatched, tuple(widths)), x
            again: Again = step
        else:
            widths = dict.fromkeys(KINDS[told.kind].signals, first.shape[-1])
            step, z_x = stepper(told.kind, told.form, told.own), read(x, told.own)
            again = partial(_from_input, step, told.own)
        begun = _Begun(wanted, told.kind, layout, given, widths, given_state=told.given, carries=True)
        slot = begun.slots()[""]
        walked = by_equations(step, z_x, begun.starts[""], layout.sizes, False, slot, keep=True)
        weights = told.own or Weights(x, x)
        ran = Ran("", False, weights, x, begun.starts[""], walked.signals[next(iter(told.after))], walked.last, walked)
        changed = {id(state): walked.last[name].reshape(state.shape) for name, state in told.after.items()}
        if {id(one) for one in tensors_in(told.returned)} != set(changed):
            raise RecordingError(
                f"needed a cell that returns its states alone for lx.intervene, got an output of its own from {told.kind}: what changed "
                "states would make of it isn't known, so compute it outside of the cell"
            )
        begun.end({"": ran})
        returned = swapped(told.returned, changed)
        if not wanted.opened:
            return returned, None
        with torch.no_grad():
            layer, ends = _walked(ran, walked, given[""], told.weights, again, layout, slot, graph)
        short = {"hidden_state": "h_n", "cell_state": "c_n"}
        expected = {short.get(name, name): end for name, end in zip(told.after, ends, strict=True)}
        came = {short.get(name, name): walked.last[name] for name in told.after}
        return returned, opened_cell(told, upcast=not registered)._replace(
            layers=[layer],
            expected={"output": ends[0], **expected},
            returned={"output": next(iter(came.values())), **came},
            states={name: wide(walked.last[name]).unsqueeze(0) for name in told.after},
        )

    return run


def _from_input(step: Stepper, weights: Weights, x: Tensor, states: Sequence[Tensor], edit: Edit) -> dict[str, Tensor]:
    return step(read(x, weights), states, edit)


def _whole(told: Told, unbatched: bool, editable: tuple[str, ...]) -> Stepper:
    """A registered cell's equations as a step: they run whole, so that only what comes last can be changed."""

    def step(x: Tensor, states: Sequence[Tensor], edit: Edit) -> dict[str, Tensor]:
        if unbatched:
            computed = {name: signal.unsqueeze(0) for name, signal in told.equations(x[0], *(state[0] for state in states)).items()}
        else:
            computed = dict(told.equations(x, *states))
        return computed | {name: edit(name, computed[name]) for name in editable}

    return step
