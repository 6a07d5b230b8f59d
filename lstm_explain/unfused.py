"""`unfuse`: a copy of a model whose recurrent layers run step by step, with a module for each gate and state to put hooks on.

The equations are those of `lstm_explain.nn.equations`; nothing but taps is added.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from lstm_explain.errors import InputError, RecordingError, as_input_error
from lstm_explain.nn.equations import Edit, Form, Weights, read, stepper, walk
from lstm_explain.nn.kernels.replay import last
from lstm_explain.nn.kernels.sequence import before
from lstm_explain.nn.layers import suffixes, weights_of
from lstm_explain.nn.layout import Layout, lay_out
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.recording.cells import REGISTERED
from lstm_explain.recording.certificate import certify
from lstm_explain.recording.opened import Opened
from lstm_explain.recording.recorder import Keep, key_of
from lstm_explain.recording.runner import closed_in, record, targets_in, unwrapped
from lstm_explain.recording.stack import draws, initial_states, kind_of
from lstm_explain.recording.stand_in import StandIn
from lstm_explain.trajectory import KINDS

Model = TypeVar("Model", bound=nn.Module)

_LAYERS = (PeepholeLSTM, nn.LSTM, nn.GRU, nn.RNN)
_CELLS = (PeepholeLSTMCell, nn.LSTMCell, nn.GRUCell, nn.RNNCell)

_STEPS, _BATCH = 3, 2
"""How long the drawn sequences are on which a layer is certified, and how many."""


def unfuse(model: Model, *inputs: Any, **kwargs: Any) -> Model:
    """A copy of a model whose recurrent layers run step by step, through a module for each gate and state.

    Whatever works on modules then works on gates: forward hooks, Captum's layer and neuron methods, nnsight, torchlens. In place of
    a layer ``twin.lstm`` there is one with, for each of its layers and directions, by PyTorch's name,

    - ``twin.lstm.l0.forget_gate``, the *step taps*: called once at each step, in the order of reading, with one tensor
      ``(batch, unit)`` that is also returned. What a hook returns in its place is what the step goes on with, so that the change
      **feeds back** into all later steps; a new ``cell_state`` is the one that h is made of.
    - ``twin.lstm.l0.sequence.forget_gate``, the *sequence taps*: called once for each call of the layer, after its last step, with
      the whole trajectory ``(batch, time, unit)``, in the order of the input whatever the layout, and zero where a packed sequence
      has ended. What a hook returns changes what **leaves the layer**. The weights that read states inside the layer, W_h and the
      peepholes, don't see it: they have read what ran. All else is evaluated again from what the taps return. In an LSTM
      c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t, over the whole sequence, goes through the tap ``cell_state``, and of what that returns and o_t
      comes h_t = o_t ⊙ tanh(c_t), or its projection. In a GRU n_t comes of r_t, and h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1} of n_t
      and z_t, over the whole sequence. What the tap ``hidden_state`` returns is the layer's output, which the next layer reads;
      h_n and c_n are the ends of what it and ``cell_state`` return.

    So a gradient at a step tap is the whole derivative, as `Recording.gradients` has it. At a sequence tap it is the derivative along
    the cell's memory alone, with all other gates held. The sequence taps of an LSTM's gates and candidate together, or of a GRU's update
    gate and candidate, are a cut through the layer: what passes from its input to its output passes through one of them, so that
    attributions to them all (Captum's ``LayerIntegratedGradients`` on the list of them) add up. Captum can't use a module that runs
    many times in a pass: it needs these. What a step tap adds to a value stays added to what the sequence taps get. Where nothing is
    changed the layer returns what its steps gave, bit for bit.

    A cell, ``twin.cell``, is called once per step by the model itself, and has step taps only: ``twin.cell.forget_gate``.

    A packed sequence reaches a step tap as those sequences that have this step, the longest first. Weights are read at each call
    under the names that they had (``state_dict`` is the same), parametrised and pruned ones too. Masks of dropout between layers are
    drawn as on the CPU. In Python it takes some ten times as long as fused,
    and at batch 1 more than fifty times.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that `record` can open. It stays as it is, and shares nothing with the copy. Cells that `register` knows are left as they
        are in the copy: their equations are a function, without a place for taps.
    *inputs, **kwargs
        What the model may be called with, to certify the copy as a whole as well.

    Returns
    -------
    torch.nn.Module
        In the same mode, on the same device and of the same dtype, weights that were tied still tied. It is certified: each layer and
        cell has been held against the one that it replaces, on a short drawn sequence from a drawn state, in evaluation mode: every
        gate and state at every step, and what it returns. With `inputs` what the two models return has been compared as well, in
        evaluation mode, with the random state put back. Tolerances are those of a recording's certificate.

    Raises
    ------
    RecordingError
        If there is no recurrent layer or cell, or one that can't be opened, such as a subclass with a forward of its own, TorchScript's,
        a quantised or compiled one.
    CertificateError
        If the copy doesn't compute what the model does, naming the layer.
    InputError
        If the model can't be copied, or returns no tensor for `inputs`; in a later call, if a hook returns another shape.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = torch.nn.LSTM(8, 16, batch_first=True)
    >>> twin = lx.unfuse(model)
    >>> remember = twin.l0.forget_gate.register_forward_hook(lambda tap, inputs, f: torch.ones_like(f))
    >>> output, (h_n, c_n) = twin(torch.randn(4, 10, 8))
    >>> twin.l0.sequence.forget_gate
    Identity()
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    model = cast(Model, unwrapped(model))
    found = openable(model)
    twin = copied(model)
    modules = dict(twin.named_modules(remove_duplicate=False))
    for path, module in found.items():
        opened(modules[path])
        _certify(path, copied(module), copied(modules[path]))
    if inputs or kwargs:
        _certify_whole(copied(model), copied(twin), inputs, kwargs)
    return twin


def openable(model: nn.Module) -> dict[str, nn.Module]:
    """The layers and cells of a model that run by PyTorch's equations or ours, by path.

    Raises
    ------
    RecordingError
        If there are none, or others are recurrent too and can't be opened.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            raise RecordingError(f"needed modules that run eagerly, got {name} compiled: take the model before torch.compile")
    found = {path: module for path, module in targets_in(model, Keep(None, None, None, None, None)).items() if not _registered(module)}
    if not found:
        raise RecordingError(f"needed layers or cells of PyTorch's or ours, found only registered ones in {type(model).__name__}")
    if closed := closed_in(model):
        path, why = next(iter(closed.items()))
        raise RecordingError(f"needed layers that can be opened, got {path or 'the model'} ({why})")
    for path, module in found.items():
        own = vars(module).get("forward")
        kind = stock(module)
        if type(module).forward is not kind.forward or not (own is None or isinstance(own, StandIn)):
            raise RecordingError(
                f"needed {path or 'the model'} to run as {kind.__name__} does, got {type(module).__name__} with a forward of its own: "
                "put what it adds into a module around it"
            )
    return found


def stock(module: nn.Module) -> type[nn.Module]:
    """PyTorch's class, or ours, by whose equations a module runs."""
    return next(kind for kind in (*_LAYERS, *_CELLS) if isinstance(module, kind))


def _registered(module: nn.Module) -> bool:
    return any(isinstance(module, kind) for kind in REGISTERED)


def copied(model: Model, instead: Mapping[nn.Module, nn.Module] | None = None) -> Model:
    """A deep copy, also of a model that holds weights computed at its latest call, with some modules replaced wherever they stand."""
    memo: dict[int, Any] = {id(module): other for module, other in (instead or {}).items()}
    for module in model.modules():
        for value in tree_leaves(list(vars(module).values())):
            # Weights that pruning, old norms and weight dropping write anew before each call, and what a model keeps of the last one.
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    with as_input_error(f"needed a model that can be copied with copy.deepcopy, got {type(model).__name__}"):
        return copy.deepcopy(model, memo)


def is_cell(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's cells or ours, which takes one step at a time."""
    return isinstance(module, _CELLS)


# ---- the taps, and what runs through them


class Lane(nn.Module):
    """The taps of one layer in one direction: those of its steps by name, and in ``sequence`` those of whole trajectories."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        _add_taps(self, kind)
        self.sequence = nn.ModuleDict({name: nn.Identity() for name in KINDS[kind].signals})


def _add_taps(module: nn.Module, kind: str) -> None:
    for name in KINDS[kind].signals:
        module.add_module(name, nn.Identity().train(module.training))


def _through(taps: nn.Module, name: str, value: Tensor) -> Tensor:
    """What a tap, with whatever hangs on it, makes of a value."""
    given = getattr(taps, name)(value)
    if not isinstance(given, Tensor) or given.shape != value.shape:
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"needed a tensor of shape {tuple(value.shape)} from what hangs on the tap {name}, got {got}")
    return given


def _held(given: Mapping[str, Tensor]) -> Edit:
    """What knows some values already."""
    return lambda name, value: given.get(name, value)


class _Layer:
    """What makes a stack of layers run step by step: its `forward`."""

    def forward(self: Any, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """As the layer that this replaces."""
        kind, form = kind_of(self)
        rows, layout = lay_out(input, input_size=self.input_size, batch_first=self.batch_first, dtype=None)
        initial = initial_states(self, kind, layout, hx, rows)
        names = KINDS[kind].states
        directions = 2 if self.bidirectional else 1
        tops: list[Tensor] = []
        ends: list[dict[str, Tensor]] = []
        for at, suffix in enumerate(suffixes(self)):
            if at and at % directions == 0:
                rows = torch.cat(tops[-directions:], dim=1)
                rows = torch.dropout(rows, self.dropout, True) if draws(self) else rows
            states = {name: state[at] for name, state in zip(names, initial, strict=True)}
            left = _run(getattr(self, suffix), kind, form, weights_of(self, suffix), rows, states, layout, at % directions == 1)
            tops.append(left["hidden_state"])
            ends.append({name: last(left[name], states[name], layout.sizes, at % directions == 1) for name in names})
        output = layout.output(torch.cat(tops[-directions:], dim=1))
        last_states = tuple(layout.state_out(torch.stack([end[name] for end in ends])) for name in names)
        return output, last_states if len(names) == 2 else last_states[0]


class _Cell:
    """What makes a cell run through its taps: its `forward`."""

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        """As the cell that this replaces."""
        kind, form = kind_of(self)
        names = KINDS[kind].states
        if not isinstance(input, Tensor) or input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            got = tuple(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise InputError(f"needed an input of shape (batch, {self.input_size}) or ({self.input_size},), got {got}")
        shape = (*input.shape[:-1], self.hidden_size)
        given = [input.new_zeros(shape) for _ in names] if hx is None else list(hx) if len(names) == 2 else [hx]
        if [tuple(getattr(state, "shape", ())) for state in given] != [shape] * len(names):
            raise InputError(f"needed {' and '.join(names)} of shape {shape}, got {[tuple(getattr(one, 'shape', ())) for one in given]}")
        weights = Weights(*(getattr(self, name, None) for name in Weights._fields))  # type: ignore[arg-type]
        x, *states = (one.reshape(-1, one.shape[-1]) for one in (input, *given))
        now = stepper(kind, form, weights)(read(x, weights), states, partial(_through, self))
        after = tuple(now[name].reshape(shape) for name in names)
        return after if len(names) == 2 else after[0]


def _run(
    lane: Lane, kind: str, form: Form | None, weights: Weights, x: Tensor, states: dict[str, Tensor], layout: Layout, reverse: bool
) -> Mapping[str, Tensor]:
    """One layer in one direction through its taps: what leaves it by name, rows as in `Layout`."""
    by = stepper(kind, form, weights)

    def one(t: int, z_x: Tensor, states: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        now = by(z_x, states, partial(_through, lane))
        return now, now

    steps, _ = walk(read(x, weights), states, one, layout.sizes, reverse)
    ran = {name: torch.cat([now[name] for now in steps]) for name in KINDS[kind].signals}

    def tap(name: str, rows: Tensor) -> Tensor:
        return layout.rows_of(_through(lane.sequence, name, layout.batch_time(rows)))

    if form is not None:
        return _lstm_again(ran, weights, states["cell_state"], layout.sizes, reverse, tap)
    if kind == "gru":
        return _gru_again(ran, weights, x, states["hidden_state"], layout.sizes, reverse, tap)
    return {"hidden_state": tap("hidden_state", ran["hidden_state"])}


def _lstm_again(
    ran: Mapping[str, Tensor], weights: Weights, c0: Tensor, sizes: Sequence[int], reverse: bool, tap: Edit
) -> dict[str, Tensor]:
    """The states from what the taps make of the gates that ran.

    Each is what ran, plus what has become of it minus what became of it: bit for bit what ran where nothing was changed, edits at
    step taps kept.
    """
    # A layer that reads nothing: its gates are known.
    unread = Weights(weights.weight_ih[:, :0], weights.weight_hh[:, :0], weight_hr=weights.weight_hr)

    by = stepper("lstm", Form(None), unread)

    def of(given: Mapping[str, Tensor], c: Tensor) -> Mapping[str, Tensor]:
        return by(read(c[:, :0], unread), [c[:, :0], c], _held(given))

    gates = {name: ran[name] for name in ("input_gate", "forget_gate", "cell_candidate", "output_gate")}
    new = {name: tap(name, rows) for name, rows in gates.items()}
    seen = before(ran["cell_state"], c0, sizes, reverse)
    c = _carried("cell_state", of, new, ran["cell_state"], of(gates, seen)["cell_state"], c0, sizes, reverse)
    shown = tap("cell_state", c)
    became, becomes = (of(one | {"cell_state": cell}, seen)["hidden_state"] for one, cell in ((gates, ran["cell_state"]), (new, shown)))
    return {"cell_state": shown, "hidden_state": tap("hidden_state", ran["hidden_state"] + (becomes - became))}


def _gru_again(
    ran: Mapping[str, Tensor], weights: Weights, x: Tensor, h0: Tensor, sizes: Sequence[int], reverse: bool, tap: Edit
) -> dict[str, Tensor]:
    """The same for a GRU: its candidate and h."""
    z_x, by = read(x, weights), stepper("gru", None, weights)

    def of(given: Mapping[str, Tensor], h: Tensor) -> Mapping[str, Tensor]:
        """Its gates and candidate are known: what the input gives doesn't matter."""
        return by(z_x[: len(h)], [h], _held(given))

    gates = {name: ran[name] for name in ("reset_gate", "update_gate")}
    new = {name: tap(name, rows) for name, rows in gates.items()}
    seen = before(ran["hidden_state"], h0, sizes, reverse)
    became, becomes = (by(z_x, [seen], _held(one))["candidate"] for one in (gates, new))
    new["candidate"] = tap("candidate", ran["candidate"] + (becomes - became))
    raw = of(gates | {"candidate": ran["candidate"]}, seen)["hidden_state"]
    return {"hidden_state": tap("hidden_state", _carried("hidden_state", of, new, ran["hidden_state"], raw, h0, sizes, reverse))}


def _carried(
    name: str,
    of: Callable[[Mapping[str, Tensor], Tensor], Mapping[str, Tensor]],
    given: Mapping[str, Tensor],
    ran: Tensor,
    raw: Tensor,
    initial: Tensor,
    sizes: Sequence[int],
    reverse: bool,
) -> Tensor:
    """A state that goes on with itself over the whole sequence."""

    def one(t: int, row: Tensor, states: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Tensor]:
        *parts, was, became = row.chunk(len(given) + 2, dim=1)
        now = was + (of(dict(zip(given, parts, strict=True)), states[0])[name] - became)
        return {name: now}, now

    steps, _ = walk(torch.cat([*given.values(), ran, raw], dim=1), {name: initial}, one, sizes, reverse)
    return torch.cat(steps)


# ---- making and certifying the copy


def _class_of(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of layers or cells as one that runs through taps."""
    runs = _Cell if issubclass(kind, _CELLS) else _Layer
    return type(f"Unfused{kind.__name__}", (runs, kind), {"__module__": __name__, "__doc__": kind.__doc__, "__reduce_ex__": _reduced})


def _blank(kind: type[nn.Module]) -> nn.Module:
    made = _class_of(kind)
    return made.__new__(made)


def _reduced(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    """What pickle and copy make it from: its class has no name that they could find."""
    return _blank, (type(module).__bases__[1],), module.__getstate__()


def opened(module: nn.Module) -> nn.Module:
    """Make a layer or cell run through taps, in place: so it keeps its parameters, names, options, hooks and parametrisations."""
    kind, _ = kind_of(module)
    if is_cell(module):
        _add_taps(module, kind)
    else:
        for suffix in suffixes(cast(Any, module)):
            module.add_module(suffix, Lane(kind).train(module.training))
    vars(module).pop("forward", None)  # a copy of one that is being recorded has one
    module.__class__ = _class_of(type(module))
    return module


def drawn_calls(module: Any, kind: str, cell: bool) -> list[tuple[Any, Any]]:
    """One call of a layer, or one of a cell for each step, with short sequences and states that are always the same."""
    weight = next(module.parameters())
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(weight.device, weight.dtype)

    sizes = (getattr(module, "proj_size", 0) or module.hidden_size, module.hidden_size)[: len(KINDS[kind].states)]
    states = tuple(draw(*(() if cell else (len(suffixes(module)),)), _BATCH, size) for size in sizes)
    state = states if len(sizes) == 2 else states[0]
    if cell:
        return [(draw(_BATCH, module.input_size), state) for _ in range(_STEPS)]
    return [(draw(*((_BATCH, _STEPS) if module.batch_first else (_STEPS, _BATCH)), module.input_size), state)]


@contextmanager
def seeded(model: nn.Module) -> Iterator[None]:
    """The random state always the same, and afterwards as it was."""
    devices = sorted({parameter.device.index or 0 for parameter in model.parameters() if parameter.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


def taps_of(module: Any) -> dict[str, nn.Module]:
    """What holds the step taps of an opened layer or cell, by the names that recordings of it alone have."""
    if is_cell(module):
        return {key_of("", ""): module}
    return {suffix: getattr(module, suffix) for suffix in suffixes(module)}


def same(where: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Hold what a copy computed against what it stands for, by the tolerances of a recording's certificate.

    Raises
    ------
    CertificateError
        If they differ, naming `where`.
    """
    for one, other in zip(ours, theirs, strict=True):
        dtype = one.dtype if one.is_floating_point() else torch.float64
        layout = Layout((1,), False, False, False)
        certify(where, 0, Opened("", None, layout, [], {"output": one}, {"output": other}, {}, dtype, False, False), ())


@torch.no_grad()
def _certify(path: str, reference: Any, candidate: Any) -> None:
    """Hold an opened module against the one that it was: every gate and state, and what it returns.

    Their `forward` is called, so that no hook of the user's sees the drawn sequences.
    """
    kind = kind_of(reference)[0]
    calls, signals = drawn_calls(reference, kind, is_cell(reference)), KINDS[kind].signals
    with seeded(reference), record(reference.eval()) as recording:
        returned = [reference.forward(*call) for call in calls]
    seen: dict[tuple[str, str], list[Tensor]] = {(key, name): [] for key in taps_of(candidate) for name in signals}
    for (key, name), values in seen.items():
        tap = getattr(taps_of(candidate)[key], name)
        tap.register_forward_hook(lambda tap, inputs, value, values=values: values.append(value))
    candidate.eval()
    with seeded(candidate):
        ours = [candidate.forward(*call) for call in calls]
    for key, trajectory in recording.items():
        where = f"{path}.{'' if is_cell(reference) else key}".strip(".")
        for name in signals:
            recorded = torch.cat([call.trajectory.signals[name] for call in recording.calls[key]], dim=1)
            tapped = torch.stack(seen[key, name][:: -1 if trajectory.reverse else 1], dim=1)
            same(f"{name} of {where}".removesuffix(" of "), [tapped], [recorded])
    same(path, tree_leaves(ours), tree_leaves(returned))


@torch.no_grad()
def _certify_whole(reference: nn.Module, candidate: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Hold what a copy returns against what the model returns."""
    found = []
    for model in (candidate.eval(), reference.eval()):
        given, named = tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, (inputs, dict(kwargs)))
        with seeded(model):
            found.append([leaf for leaf in tree_leaves(model(*given, **named)) if isinstance(leaf, Tensor)])
    if not found[1]:
        raise InputError(f"needed a model that returns tensors, to compare the copy's with, got none from {type(reference).__name__}")
    same("the model's output", *found)
