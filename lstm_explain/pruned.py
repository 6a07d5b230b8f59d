"""`prune`: a smaller copy of a model, without some units of one layer, that computes what the model does with these held at zero."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from lstm_explain.errors import InputError, did_you_mean
from lstm_explain.nn.equations import Form, Weights
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.opened import rows_of
from lstm_explain.recording.recorder import key_of
from lstm_explain.recording.runner import numbered_units, unwrapped
from lstm_explain.recording.stack import draws, initial_states, kind_of
from lstm_explain.trajectory import KINDS
from lstm_explain.unfused import copied, drawn_calls, is_cell, openable, opened, same, seeded, taps_of


def prune(model: nn.Module, layer: str, units: Sequence[int]) -> nn.Module:
    """A smaller copy of a model, without some units of one layer.

    It computes exactly what the model computes with these units' hidden and cell states held at zero, from the initial state on and
    at every step: what they would have read and written is gone from the weights of their layer, of the layer above in the same stack,
    and from the peepholes. In PyTorch all layers of a stack are equally wide, so the stack becomes a `Pruned`: one stock layer for each
    layer and direction, of its own size, fused as before. It is called as the stack was and **keeps its shapes**: output and last
    states are as wide as they were, with zeros in place of the removed units, and what comes in for these in an initial state isn't
    read. So the rest of the model, and code that makes its states, stays as it is; units keep their numbers, and the copy can be
    pruned further.

    With a projection (`proj_size`) a unit is one of the cell's: the projected hidden state keeps its width and has no zeros.

    Parameters
    ----------
    model : torch.nn.Module
        Stays as it is, and shares nothing with the copy.
    layer : str
        As in a recording: ``"encoder.lstm.l1"``, ``"l0_reverse"`` of a layer that is the model, the path of a cell.
    units : sequence of int
        The units to remove, as the model numbers them.

    Returns
    -------
    torch.nn.Module
        In the same mode, on the same device and of the same dtype. It is certified: the smaller layer has been held against the whole one,
        run step by step with these units at zero, on a short drawn sequence from a drawn state, in evaluation mode. Hooks on the layer
        itself aren't taken along; masks of dropout between layers fall on the units as before.

    Raises
    ------
    InputError
        If there is no such layer; units are out of range, given twice, gone already, or all of them; or weights aren't the layer's alone:
        parametrised, pruned by a mask, or tied to another module's.
    RecordingError
        If the model has no layer that can be opened.
    CertificateError
        If the copy doesn't compute what the model does with these units at zero.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, num_layers=2)
    >>> lx.prune(model, "l1", units=[3, 5])
    Pruned(
      8, 16, num_layers=2, without 2 units of l1: 3, 5; 3,456 of 3,840 parameters
      (l0): LSTM(8, 16)
      (l1): LSTM(16, 14)
    )
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    module, suffix = _found(model, layer)
    removed = _removed(module, suffix, layer, units)
    _owned(model, module, layer)
    kept = {name: tuple(unit for unit in now if name != suffix or unit not in removed) for name, now in _kept(module).items()}
    smaller = (PrunedCell if is_cell(_part(module, suffix)) else Pruned)(module, kept)
    _certify(layer, module, smaller, suffix, removed)
    return copied(model, {module: smaller})


class Pruned(nn.Module):
    """A stack of layers of unequal sizes, called as the stack of equal ones that it was made from; see `prune`.

    Attributes
    ----------
    l0, l0_reverse, l1, ... : torch.nn.LSTM, GRU, RNN or PeepholeLSTM
        One layer in one direction each; ``_reverse`` reads the sequence turned round.
    kept : mapping of str to tuple of int
        The units of each that are there, by the numbers that they had.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    kept: dict[str, tuple[int, ...]]

    def __init__(self, module: Any, kept: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        _take_options(self, module)
        self.kept = dict(kept)
        before, directions = _kept(module), 2 if module.bidirectional else 1
        for at, suffix in enumerate(kept):
            part = _part(module, suffix)
            old = weights_of(part, "l0" if part is not module else suffix)
            below = list(kept)[(at // directions - 1) * directions : at // directions * directions] if at >= directions else []
            reads = [] if self.proj_size else [(before[name], kept[name]) for name in below]
            weights = _cut(old, before[suffix], kept[suffix], reads, kind_of(part)[1])
            self.add_module(suffix, _like(part, weights, len(kept[suffix])))
            self.register_buffer(f"_kept_{suffix}", torch.tensor(kept[suffix], device=old.weight_ih.device), persistent=False)
            offsets = [at * self.hidden_size + unit for at, name in enumerate(below) for unit in kept[name]]
            self.register_buffer(f"_read_{suffix}", torch.tensor(offsets, device=old.weight_ih.device), persistent=False)
        self.train(module.training)

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """As the stack that it was made from."""
        kind, _ = kind_of(self.l0)
        rows, layout = lay_out(input, input_size=self.input_size, batch_first=self.batch_first, dtype=None)
        names = KINDS[kind].states
        initial = initial_states(self, kind, layout, hx, rows)
        directions = 2 if self.bidirectional else 1
        tops: list[Tensor] = []
        ends: list[list[Tensor]] = []
        for at, suffix in enumerate(self.kept):
            if at and at % directions == 0:
                rows = torch.cat(tops[-directions:], dim=1)
                rows = torch.dropout(rows, self.dropout, True) if draws(self) else rows
            read = rows if at < directions or self.proj_size else rows[:, getattr(self, f"_read_{suffix}")]
            units = getattr(self, f"_kept_{suffix}")
            whole = [self.proj_size > 0 and name == "hidden_state" for name in names]
            states = [state[at] if all_of_it else state[at][:, units] for state, all_of_it in zip(initial, whole, strict=True)]
            hidden, last = _through(getattr(self, suffix), read, states, layout, at % directions == 1)
            tops.append(hidden if self.proj_size else _widened(hidden, units, self.hidden_size))
            ends.append([s if all_of_it else _widened(s, units, self.hidden_size) for s, all_of_it in zip(last, whole, strict=True)])
        output = layout.output(torch.cat(tops[-directions:], dim=1))
        stacked = tuple(layout.state_out(torch.stack(one)) for one in zip(*ends, strict=True))
        return output, stacked if len(stacked) == 2 else stacked[0]

    def flatten_parameters(self) -> None:
        """Nothing to do; here because code written for `torch.nn.LSTM` calls it."""

    def extra_repr(self) -> str:
        """What `repr` shows of it."""
        return _described(self)


class PrunedCell(nn.Module):
    """A smaller cell that is called as the one that it was made from; see `prune`.

    Attributes
    ----------
    cell : torch.nn.LSTMCell, GRUCell, RNNCell or PeepholeLSTMCell
    kept : mapping of str to tuple of int
        The units that are there, by the numbers that they had, under ``"cell"``.
    """

    input_size: int
    hidden_size: int
    kept: dict[str, tuple[int, ...]]

    def __init__(self, module: Any, kept: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        _take_options(self, module)
        self.kept = dict(kept)
        part = _part(module, "cell")
        old = Weights(*(getattr(part, name, None) for name in Weights._fields))  # type: ignore[arg-type]
        weights = _cut(old, _kept(module)["cell"], kept["cell"], [], kind_of(part)[1])
        self.cell = _like(part, weights, len(kept["cell"]))
        self.register_buffer("_kept_cell", torch.tensor(kept["cell"], device=old.weight_ih.device), persistent=False)
        self.train(module.training)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As the cell that it was made from."""
        pair = len(KINDS[kind_of(self.cell)[0]].states) == 2
        units = self.get_buffer("_kept_cell")
        if hx is not None:
            shape = (*input.shape[:-1], self.hidden_size)
            given = [tuple(getattr(state, "shape", ())) for state in (hx if pair else [hx])]
            if given != [shape] * (1 + pair):
                raise InputError(f"needed a state of shape {shape}{' twice' if pair else ''}, got {given}")
            hx = tuple(state[..., units] for state in hx) if pair else hx[..., units]
        after = self.cell(input, hx)
        return tuple(_widened(one, units, self.hidden_size) for one in after) if pair else _widened(after, units, self.hidden_size)

    def extra_repr(self) -> str:
        """What `repr` shows of it."""
        return _described(self)


_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")


def _take_options(pruned: Any, module: Any) -> None:
    """The sizes and options that users' code may ask a layer for, as they were."""
    for name in (*_OPTIONS, "nonlinearity", "mode"):
        if hasattr(module, name):
            setattr(pruned, name, getattr(module, name))
    if isinstance(pruned, Pruned):
        pruned.proj_size = getattr(module, "proj_size", 0)
    pruned.whole = module.whole if isinstance(module, (Pruned, PrunedCell)) else sum(p.numel() for p in module.parameters())


def _described(pruned: Any) -> str:
    defaults: dict[str, Any] = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0}
    options = [f"{name}={vars(pruned)[name]}" for name, default in defaults.items() if vars(pruned).get(name, default) != default]
    gone = {name: [unit for unit in range(pruned.hidden_size) if unit not in kept] for name, kept in pruned.kept.items()}
    without = [
        f"without {len(units)} unit{'s' if len(units) > 1 else ''}{'' if name == 'cell' else f' of {name}'}: {', '.join(map(str, units))}"
        for name, units in gone.items()
        if units
    ]
    left = sum(parameter.numel() for parameter in pruned.parameters())
    return f"{', '.join([str(pruned.input_size), str(pruned.hidden_size), *options, *without])}; {left:,} of {pruned.whole:,} parameters"


def _part(module: Any, suffix: str) -> Any:
    """The stock layer or cell that has a layer's weights."""
    return getattr(module, suffix) if isinstance(module, Pruned) else module.cell if isinstance(module, PrunedCell) else module


def _kept(module: Any) -> dict[str, tuple[int, ...]]:
    """The units that a module has, by suffix; of a cell as ``"cell"``."""
    if isinstance(module, (Pruned, PrunedCell)):
        return module.kept
    return {name: tuple(range(module.hidden_size)) for name in (["cell"] if is_cell(module) else suffixes(module))}


# ---- what is asked for


def _found(model: nn.Module, layer: str) -> tuple[nn.Module, str]:
    """The module that a layer is in, and the layer's suffix, ``"cell"`` for a cell."""
    already = {path: module for path, module in model.named_modules() if isinstance(module, (Pruned, PrunedCell))}
    inside = {id(part) for module in already.values() for part in module.modules()}
    stock = {path: module for path, module in openable(model).items() if id(module) not in inside}
    keys = {
        key_of(path, "" if name == "cell" else name): (module, name)
        for path, module in {**stock, **already}.items()
        for name in _kept(module)
    }
    if layer not in keys:
        raise InputError(f"needed one layer of {', '.join(keys)}, got {layer!r}{did_you_mean(layer, keys)}")
    return keys[layer]


def _removed(module: Any, suffix: str, layer: str, units: Sequence[int]) -> tuple[int, ...]:
    removed, now = numbered_units(units), _kept(module)[suffix]
    if removed is None:
        raise InputError("needed units as whole numbers, each once, got None")
    for unit in removed:
        if not 0 <= unit < module.hidden_size:
            raise InputError(f"needed units from 0 to {module.hidden_size - 1} of {layer}, got {unit}")
        if unit not in now:
            raise InputError(f"needed units of {layer} that are still there, got {unit}, which is gone already")
    left, least = len(now) - len(removed), getattr(module, "proj_size", 0) + 1
    if left < least:
        projected = f", more than it projects to (proj_size {module.proj_size})" if least > 1 else ""
        raise InputError(f"needed at least {least} of the {len(now)} units of {layer} to stay{projected}, got {len(removed)} to remove")
    return removed


def _owned(model: nn.Module, module: Any, layer: str) -> None:
    """Weights that can be cut are plain parameters, and nobody else's."""
    owners: dict[int, set[str]] = {}
    for path, other in model.named_modules():
        for name, parameter in other._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(f"{path}.{name}".strip("."))
    for suffix in _kept(module):
        part = _part(module, suffix)
        ends = [""] if is_cell(part) else [f"_{'l0' if part is not module else suffix}"]
        for name in (f"{field}{end}" for field in Weights._fields for end in ends):
            value = getattr(part, name, None)
            if value is not None and part._parameters.get(name) is not value:
                raise InputError(f"needed weights of {layer} that are parameters, got {name} computed: make it one, then prune")
            if value is not None and len(tied := owners[id(value)]) > 1:
                raise InputError(
                    f"needed weights that are {layer}'s alone, got {' tied to '.join(sorted(tied))}: untie them in a copy, then prune"
                )


# ---- making it smaller


def _cut(
    weights: Weights,
    before: tuple[int, ...],
    kept: tuple[int, ...],
    reads: list[tuple[tuple[int, ...], tuple[int, ...]]],
    form: Form | None,
) -> Weights:
    """The weights of one layer and direction without what belongs to removed units: of its own, and of the layer below (`reads`)."""
    device, size = weights.weight_ih.device, len(before)

    def positions(was: tuple[int, ...], now: tuple[int, ...], start: int = 0) -> list[int]:
        where = {unit: at for at, unit in enumerate(was)}
        return [start + where[unit] for unit in now]

    own = torch.tensor(positions(before, kept), device=device)
    rows = torch.cat([own + at for at in range(0, len(weights.weight_ih), size)])
    weight_ih = weights.weight_ih[rows]
    if reads:
        starts = [sum(len(was) for was, _ in reads[:at]) for at in range(len(reads))]
        columns = [at for start, (was, now) in zip(starts, reads, strict=True) for at in positions(was, now, start)]
        weight_ih = weight_ih[:, torch.tensor(columns, device=device)]
    weight_ch, weight_hr = weights.weight_ch, weights.weight_hr
    if weight_ch is not None:
        full = form is not None and form.peephole == "full"
        weight_ch = weight_ch[torch.cat([own + at for at in range(0, len(weight_ch), size)])][:, own] if full else weight_ch[:, own]
    cut = weights._replace(
        weight_ih=weight_ih,
        weight_hh=weights.weight_hh[rows] if weight_hr is not None else weights.weight_hh[rows][:, own],
        bias_ih=None if weights.bias_ih is None else weights.bias_ih[rows],
        bias_hh=None if weights.bias_hh is None else weights.bias_hh[rows],
        weight_ch=weight_ch,
        weight_hr=None if weight_hr is None else weight_hr[:, own],
    )
    trained = {name: was.requires_grad for name, was in weights._asdict().items() if was is not None}
    return cut._replace(**{name: nn.Parameter(getattr(cut, name).detach().clone(), requires_grad=on) for name, on in trained.items()})


def _like(part: Any, weights: Weights, hidden: int) -> nn.Module:
    """One layer in one direction, or a cell, of the same kind with these weights."""
    kind = next(kind for kind in _MAKERS if isinstance(part, kind))
    options: dict[str, Any] = {"bias": part.bias, "device": "meta"}  # drawn nowhere: every weight is put in
    if isinstance(part, (PeepholeLSTM, PeepholeLSTMCell)):
        options |= {"peephole": part.form.peephole, "wiring": part.form.wiring}
    if isinstance(part, (nn.RNN, nn.RNNCell)):
        options["nonlinearity"] = part.nonlinearity
    if weights.weight_hr is not None:
        options["proj_size"] = len(weights.weight_hr)
    made: nn.Module = kind(weights.weight_ih.shape[1], hidden, **options)
    for name, weight in weights._asdict().items():
        if weight is not None:
            setattr(made, name if is_cell(part) else f"{name}_l0", weight)
    return made


_MAKERS: tuple[Any, ...] = (PeepholeLSTM, nn.LSTM, nn.GRU, nn.RNN, PeepholeLSTMCell, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def _widened(values: Tensor, units: Tensor, width: int) -> Tensor:
    """Values of the units that are there, and zero in place of those that aren't."""
    return values.new_zeros(*values.shape[:-1], width).index_copy(-1, units, values)


def _through(part: nn.Module, rows: Tensor, states: list[Tensor], layout: Layout, reverse: bool) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction: its hidden states, rows as in `Layout`, and its last states ``(batch, unit)``."""
    inner = layout._replace(batch_first=False, unbatched=False, sorted_indices=None, unsorted_indices=None)
    turned = _turned(layout).to(rows.device) if reverse else None
    given = [state.unsqueeze(0).to(rows.dtype).contiguous() for state in states]
    read = rows if turned is None else rows[turned]
    output, last = part(inner.output(read), tuple(given) if len(given) == 2 else given[0])
    hidden = inner.rows(rows_of(output))
    ends = [state.squeeze(0) for state in ((last,) if isinstance(last, Tensor) else last)]
    return hidden if turned is None else hidden[turned], ends


def _turned(layout: Layout) -> Tensor:
    """Where each row stands when every sequence is turned round."""
    sizes = torch.tensor(layout.sizes)
    starts = sizes.cumsum(0) - sizes
    lengths = (sizes.unsqueeze(1) > torch.arange(layout.batch)).sum(0)
    return torch.cat([starts[lengths[:n] - 1 - t] + torch.arange(n) for t, n in enumerate(layout.sizes)])


# ---- the certificate


@torch.no_grad()
def _certify(layer: str, module: Any, smaller: Any, suffix: str, removed: tuple[int, ...]) -> None:
    """Hold a pruned module against the whole one, run step by step with the removed units at zero."""
    whole, part = copied(module).eval(), _part(module, suffix)
    kind, names = kind_of(part)[0], KINDS[kind_of(part)[0]].states
    inner = opened(_part(whole, suffix))
    taps = next(iter(taps_of(inner).values())) if inner is not whole or suffix == "cell" else taps_of(inner)[suffix]
    zeroed = [name for name in names if name == "cell_state" or not getattr(module, "proj_size", 0)]
    where = torch.tensor([_kept(module)[suffix].index(unit) for unit in removed], device=next(module.parameters()).device)
    for name in zeroed:
        getattr(taps, name).register_forward_hook(lambda tap, inputs, value: value.index_fill(1, where, 0.0))
    units = torch.tensor(removed, device=where.device)
    small = copied(smaller).eval()
    for x, given in drawn_calls(module, kind, suffix == "cell"):
        states = [state.clone() for state in (given if len(names) == 2 else (given,))]
        for name, state in zip(names, states, strict=True):
            if name in zeroed:
                (state if suffix == "cell" else state[list(_kept(module)).index(suffix)])[:, units] = 0.0
        with seeded(module):
            expected = whole.forward(x, tuple(states) if len(names) == 2 else states[0])
            found = small.forward(x, given)
        same(f"{layer} without {len(removed)} units", tree_leaves(found), tree_leaves(expected))
