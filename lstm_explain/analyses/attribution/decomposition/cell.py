"""The cell decomposition (Murdoch & Szlam 2017): a cell state is a sum over steps, and so is what is read from it.

With the gates as they were, c_T = Σ_k e_k with e_k = (Π_{j>k} f_j) i_k g_k, peepholes or none, and the step k has raised what is read from
h_T = o_T tanh(c_T) by W (o_T (tanh Σ_{j<=k} e_j - tanh Σ_{j<k} e_j)). These telescope to W h_T. Of a GRU, h_T is itself such a sum, of
e_k = (Π_{j>k} z_j) (1 - z_k) n_k.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lstm_explain.analyses.attribution.decomposition.layers import recurrent_in
from lstm_explain.analyses.attribution.decomposition.posed import Posed
from lstm_explain.display import number
from lstm_explain.errors import InputError
from lstm_explain.nn.kernels import native
from lstm_explain.nn.layers import suffixes
from lstm_explain.nn.layout import lay_out
from lstm_explain.recording.opened import input_and_state
from lstm_explain.recording.recorder import key_of
from lstm_explain.recording.recording import Recording
from lstm_explain.recording.runner import record
from lstm_explain.recording.stand_in import replaced
from lstm_explain.trajectory import Trajectory

METHOD = "cell_decomposition"
_LINEAR = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far a read-out may be from a linear one, as a share of what it reads; at lower precision than these, 2e-2."""
_VALUES = 1 << 16
"""How many values of a state are summed up at once: what is made on the way then stays where it is near."""


@contextmanager
def recorded(model: nn.Module) -> Iterator[Recording]:
    """While the pass that is decomposed runs.

    Raises
    ------
    InputError
        If the model has layers that aren't sums over steps.
    """
    recurrent_in(model, METHOD, ("lstm", "peephole", "gru"), cells=False)
    # The output may then differ by rounding; it is compared with the model's own where copies are.
    with record(model, fast=True) as recording:
        yield recording


def cell_decomposition(posed: Posed) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
    """The credit of every step of the top layer's input ``(batch, time)``, and of its initial state and what doesn't come from it.

    Raises
    ------
    InputError
        If the output isn't a linear read-out of the top layer's hidden state at one step.
    """
    top = _Top(posed.seen, posed.model, posed.points, posed.lengths)
    reads, constant = _linear(posed, top)
    attributions = torch.zeros(posed.points.shape[:2], dtype=torch.float64, device=posed.points.device)
    initial = torch.zeros_like(constant, dtype=torch.float64)
    for one, read in zip(top.directions, reads, strict=True):
        for state, step, weights in read:
            if not bool(weights.any()):
                continue
            of_steps, of_start = _credit(one, state, step, weights)
            attributions[:, : of_steps.shape[1]] += of_steps
            initial += of_start
    settings = {"credit_to": f"steps of the input of {', '.join(one.name for one in top.directions)}, gates held"}
    return attributions, settings, {"initial_state": initial, "constant": constant}


class _Top:
    """The top layer of the recurrent module that ran last, as it was recorded, and in the place of the module's own pass."""

    def __init__(self, recording: Recording, model: nn.Module, inputs: Tensor, known: Tensor | None) -> None:
        calls = recording.certificate.calls
        if not calls:
            raise InputError(f"needed a recurrent layer that runs for {METHOD}, got none")
        path = calls[-1].module
        module: Any = model.get_submodule(path)
        self._module = module
        names = [key_of(path, suffix) for suffix in suffixes(module)]
        count = 2 if module.bidirectional else 1
        self.directions = [recording[name] for name in names[-count:]]
        self._states = tuple(self.directions[0].initial)
        self._last = {
            state: torch.stack([torch.cat([call.last[state] for call in recording.calls[name]]) for name in names])
            for state in self._states
        }
        self._dtype = next(module.parameters()).dtype
        one = self.directions[0]
        self.name, (batch, time) = one.name, one.valid.shape
        if batch != len(inputs):
            raise InputError(f"needed {self.name} to read each example once for {METHOD}, got {batch} sequences of {len(inputs)}: use lrp")
        same = time == inputs.shape[1] if one.padding == "unknown" else time <= inputs.shape[1]
        if not same or (known is not None and one.padding != "unknown" and not torch.equal(one.valid.sum(1), known.to(one.valid.device))):
            raise InputError(f"needed {self.name} to read every step of the inputs for {METHOD}, got {time} of {inputs.shape[1]}: use lrp")

    def hidden(self, rows: slice) -> Tensor:
        """What the layer gives: ``(batch, time, directions * state)``."""
        return torch.cat([one.hidden_state[rows] for one in self.directions], dim=2).to(self._dtype)

    def last(self, rows: slice) -> list[Tensor]:
        """The last states of all layers, each ``(layers * directions, batch, unit)``."""
        return [state[:, rows].to(self._dtype) for state in self._last.values()]

    @contextmanager
    def giving(self, hidden: Tensor, last: Sequence[Tensor]) -> Iterator[None]:
        """While the module gives these in place of running."""
        module, original = self._module, self._module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            input, _ = input_and_state(original, args, kwargs)
            _, layout = lay_out(input, input_size=module.input_size, batch_first=module.batch_first, dtype=None)
            output = layout.as_output(hidden[:, : len(layout.sizes)])
            states = [state.squeeze(1) if layout.unbatched else state for state in last]
            return output, tuple(states) if len(states) == 2 else states[0]

        with replaced(module, forward):
            yield


class _Read(NamedTuple):
    """What is read of one state of one direction, by example."""

    state: str
    step: Tensor
    weights: Tensor
    """``(batch, unit)``, zero where nothing is."""


def _linear(posed: Posed, top: _Top) -> tuple[list[list[_Read]], Tensor]:
    """The weights of what is read, by direction, and the constant: run with its opposite in place of the top layer."""
    starts = range(0, len(posed.points), posed.rows_at_once)
    found = [_of_some(posed, top, slice(start, start + posed.rows_at_once)) for start in starts]
    reads = [
        [
            _Read(parts[0].state, *(torch.cat(of_all) for of_all in list(zip(*parts, strict=True))[1:]))
            for parts in zip(*of_one, strict=True)
        ]
        for of_one in zip(*(reads for reads, _ in found), strict=True)
    ]
    return reads, torch.cat([constant for _, constant in found])


def _of_some(posed: Posed, top: _Top, some: slice) -> tuple[list[list[_Read]], Tensor]:
    """`_linear` of some examples."""
    rows = posed.rows[some]
    count, hidden, last = len(top.directions), top.hidden(some), top.last(some)
    wanted = [posed.points[some].clone(), -hidden, *(-state for state in last)]
    for part in wanted:
        part.requires_grad_()
    with top.giving(wanted[1], wanted[2:]):
        turned = posed.explained(wanted[0].clone(), rows)
    gradients = torch.autograd.grad(turned.sum(), wanted, allow_unused=True) if turned.requires_grad else [None] * len(wanted)
    past, of_hidden, *of_last = gradients
    if any(one is not None and bool(one.any()) for one in [past, *(None if state is None else state[:-count] for state in of_last)]):
        raise InputError(
            f"needed an output that reads the inputs through the hidden state of {top.name} alone for {METHOD}, got one that also reads "
            "past it: use lrp"
        )
    # Of a linear read-out, what doesn't turn with it is its constant, and what does is what is read.
    output, turned = posed.output[some], turned.detach()
    reads, read = [], torch.zeros_like(output)
    for at, one in enumerate(top.directions):
        ends = _end(one)[some]
        of_ends = [None if state is None else state[at - count] for state in of_last]
        here = [_hidden(one, some, None if of_hidden is None else of_hidden.chunk(count, dim=2)[at], ends, of_ends[0])]
        if len(of_ends) == 2:
            weights = torch.zeros_like(last[1][0]) if of_ends[1] is None else of_ends[1]
            here.append(_Read("cell_state", ends, weights))
        for state, step, weights in here:
            read += (one.signal(state)[rows, step].to(weights) * weights).sum(1)
        reads.append(here)
    _check_linear((output - turned) / 2, read, top.name)
    return reads, (output + turned) / 2


def _hidden(one: Trajectory, some: slice, weights: Tensor | None, ends: Tensor, of_end: Tensor | None) -> _Read:
    """What is read of the hidden states ``(batch, time, unit)``, among them the last, which the layer gives apart as well."""
    every = torch.arange(len(ends), device=ends.device)
    at = torch.zeros_like(one.valid[some]) if weights is None else weights.abs().amax(2) != 0
    if of_end is not None:
        at[every, ends] |= of_end.any(1)
    if (most := int(at.sum(1).max())) > 1:
        raise InputError(f"needed an output that reads {one.name} at one step for {METHOD}, got {most} steps: use lrp")
    step = at.int().argmax(1)
    parts = [] if weights is None else [weights[every, step]]
    parts += [] if of_end is None else [of_end]
    return _Read("hidden_state", step, sum(parts, torch.zeros_like(one.hidden_state[some, 0])))


def _check_linear(change: Tensor, read: Tensor, name: str) -> None:
    """Half of what the output changes from one state to its opposite must be what is read, by weights that were found at the opposite."""
    off, scale = (change - read).abs(), torch.maximum(change.abs(), read.abs()).clamp(min=1)
    if not bool((off <= _LINEAR.get(change.dtype, 2e-2) * scale).all()):
        raise InputError(
            f"needed an output that is linear in the hidden state of {name} for {METHOD}, got one that is off by "
            f"{number(float(off.max()))}: choose a number before the nonlinearity with output=, or use lrp"
        )


def _end(one: Trajectory) -> Tensor:
    """The step that each sequence's reading ended with."""
    ends = one.valid.sum(1) - 1 if one.padding != "unknown" else torch.full_like(one.first_step, one.valid.shape[1] - 1)
    return torch.zeros_like(ends) if one.reverse else ends


def _credit(one: Trajectory, state: str, step: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Of what is read of a state at one step, the share of each step ``(batch, time)`` and that of the initial state ``(batch,)``."""
    every, squashed = torch.arange(len(step), device=step.device), state == "hidden_state" and one.kind != "gru"
    total = one.signal(one.memory)[every, step]
    weights, start = weights.to(total), one.initial[one.memory].to(total)
    if squashed:
        projection = one.weights.get("weight_hr")
        weights = (weights if projection is None else weights @ projection.to(total)) * one.output_gate[every, step]
    names = ("update_gate", "candidate") if one.kind == "gru" else ("forget_gate", "cell_candidate", "input_gate")
    keep, candidate, take = (*(one.signal(name) for name in names), None)[:3]
    if native.serves(keep, candidate, take, total, start, weights) and keep.stride(2) == candidate.stride(2) == 1:
        return native.credit(keep, take, candidate, total, start, weights, step, one.first_step, one.reverse, squashed=squashed)
    found = []
    for rows in _some(len(step), one.valid.shape[1] * total.shape[1]):
        # Backwards from what was read: what is kept of a step is the product of the gates of all that came after it. A product that has
        # come to zero stays there, so nothing is ever divided by one.
        new = (1 - keep[rows] if take is None else take[rows]) * candidate[rows]
        changes = _until_read(one, step, rows, keep[rows], new)
        left, added = ((signal if one.reverse else signal.flip(1)).contiguous() for signal in changes)
        kept, end = left.cumprod(1), total[rows].unsqueeze(1)
        added[:, 1:] *= kept[:, :-1]
        sums = torch.cat([end, end - added.cumsum(1), start[rows].unsqueeze(1) * kept[:, -1:]], 1)
        found.append(((sums.tanh_() if squashed else sums) @ weights[rows].unsqueeze(2)).squeeze(2))
    read = torch.cat(found).double()
    shares = read[:, :-2] - read[:, 1:-1]
    return shares if one.reverse else shares.flip(1), read[:, -1]


def _some(count: int, values: int) -> Iterator[slice]:
    """Some examples at a time, of so many values each."""
    at_once = max(1, _VALUES // values)
    return (slice(at, at + at_once) for at in range(0, count, at_once))


def _until_read(one: Trajectory, step: Tensor, rows: slice, keep: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """What each step keeps of the state and what it adds to it, each ``(some, time, unit)``, where nothing happens after what is read."""
    at, first, step = torch.arange(keep.shape[1], device=step.device), one.first_step[rows].unsqueeze(1), step[rows].unsqueeze(1)
    apart = (at > first) | (at < step) if one.reverse else (at > step).expand(len(keep), -1)
    if not bool(apart.any()):
        return keep, new
    return keep.masked_fill(apart.unsqueeze(2), 1.0), new.masked_fill(apart.unsqueeze(2), 0.0)
