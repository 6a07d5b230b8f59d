"""Recurrent layers and cells that run by the readable equations, in an arithmetic of somebody's own, inside an unchanged model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_explain.errors import InputError, RecordingError
from lstm_explain.nn.equations import Form, Weights, read, stepper
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.recording.cells import REGISTERED
from lstm_explain.recording.compiled import not_compiled
from lstm_explain.recording.edits import Slot
from lstm_explain.recording.opened import Forward, in_one_dtype, input_and_state
from lstm_explain.recording.recorder import Keep
from lstm_explain.recording.runner import closed_in, targets_in
from lstm_explain.recording.stack import by_equations, by_name, initial_states, kind_of, run_stack
from lstm_explain.recording.stand_in import replaced

States = Mapping[str, Tensor]
"""The states of one layer and direction by name, each ``(batch, unit)``."""


class Call(NamedTuple):
    """One call of a layer or cell, which hasn't run."""

    path: str
    module: Any
    kind: str
    form: Form | None
    layout: Layout
    rows: Tensor
    """What it reads, rows as in `Layout`."""
    initial: Mapping[str, States]
    """By suffix, in the order of the rows; a cell's suffix is empty."""

    @property
    def cell(self) -> bool:
        """Whether it is one step of a cell."""
        return not isinstance(self.module, nn.RNNBase) and not hasattr(self.module, "num_layers")

    def by_equations(self, slot: Slot) -> "Left":
        """Run it, step by step; every layer and direction has the same slot."""
        if self.cell:
            own = Weights(*(getattr(self.module, name, None) for name in Weights._fields))  # type: ignore[arg-type]
            z_x, step = read(self.rows, own), stepper(self.kind, self.form, own)
            walked = by_equations(step, z_x, self.initial[""], self.layout.sizes, False, slot, keep=False)
            return Left(walked.signals["hidden_state"], [walked.last])
        weights = {suffix: weights_of(self.module, suffix) for suffix in self.initial}
        slots = dict.fromkeys(self.initial, slot)
        ran, top = run_stack(self.module, self.kind, self.form, self.layout, self.rows, self.initial, weights, slots, keep=False)
        return Left(top, [one.last for one in ran])


class Left(NamedTuple):
    """What leaves a layer: the hidden states of its top as rows, and the last states of each layer and direction."""

    top: Tensor
    last: Sequence[States]


def recurrent_in(model: nn.Module, what: str, kinds: Sequence[str], *, cells: bool) -> dict[str, nn.Module]:
    """The recurrent layers of a model by path, all of which `what` must know.

    Raises
    ------
    InputError
        If there are none, or one of them isn't of these kinds.
    """
    try:
        found = targets_in(model, Keep(None, None, None, None, None))
    except RecordingError as error:
        raise InputError(f"{what} goes through recurrent layers: {error}") from error
    if closed := closed_in(model):
        path, why = next(iter(closed.items()))
        raise InputError(f"needed recurrent layers that can be opened for {what}, got {path or 'the model'}, {why}")
    for path, module in found.items():
        registered = any(isinstance(module, kind) for kind in REGISTERED)
        kind = None if registered else kind_of(module)[0].partition("_")[0]
        single = registered or isinstance(module, nn.RNNCellBase) or not hasattr(module, "num_layers")
        if kind not in kinds or (single and not cells):
            known = " or ".join(name.upper() for name in kinds if name != "peephole")
            only = f"{known} layers{' or cells' if cells else ''} only"
            raise InputError(f"needed {only} for {what}, got {path or 'the model'}, {type(module).__name__}: use integrated_gradients")
    return found


@contextmanager
def run_by(modules: Mapping[str, nn.Module], handler: Callable[[Call], Left], what: str) -> Iterator[None]:
    """While these modules run by `handler` in place of their own pass."""
    with not_compiled(), ExitStack() as stack:
        for path, module in modules.items():
            stack.enter_context(replaced(module, _stand_in(path, module, handler, what)))
        yield


def _stand_in(path: str, module: Any, handler: Callable[[Call], Left], what: str) -> Forward:
    original, (kind, form) = module.forward, kind_of(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        input, hx = input_and_state(original, args, kwargs)
        cell = not hasattr(module, "num_layers")
        if cell:
            in_one_dtype(input, what)
            return _cell_left(handler(_cell_call(path, module, kind, form, input, hx)), kind, input.dim() == 1)
        rows, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
        in_one_dtype(rows, what)
        states = initial_states(module, kind, layout, hx, rows)
        initial = {suffix: by_name([state[at] for state in states]) for at, suffix in enumerate(suffixes(module))}
        left = handler(Call(path, module, kind, form, layout, rows, initial))
        last = [layout.state_out(torch.stack([one[name] for one in left.last])) for name in left.last[0]]
        return layout.output(left.top), tuple(last) if len(last) == 2 else last[0]

    return forward


def _cell_call(path: str, module: Any, kind: str, form: Form | None, input: Tensor, hx: Any) -> Call:
    rows = input.unsqueeze(0) if input.dim() == 1 else input
    given = [None, None] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
    states = [
        rows.new_zeros(len(rows), module.hidden_size) if state is None else state.reshape(len(rows), -1)
        for state in given[: 2 if "lstm" in kind else 1]
    ]
    return Call(path, module, kind, form, Layout((len(rows),), False, False, False), rows, {"": by_name(states)})


def _cell_left(left: Left, kind: str, unbatched: bool) -> Any:
    states = [state.squeeze(0) if unbatched else state for state in left.last[0].values()]
    return tuple(states) if "lstm" in kind else states[0]
