"""The cell decomposition (Murdoch & Szlam 2017): a cell state is a sum over steps, and so is what is read from it.

With the gates as they were, c_T = Σ_k e_k with e_k = (Π_{j>k} f_j) i_k g_k, peepholes or none, and the step k has raised what is read from
h_T = o_T tanh(c_T) by W (o_T (tanh Σ_{j<=k} e_j - tanh Σ_{j<k} e_j)). These telescope to W h_T. Of a GRU, h_T is itself such a sum, of
e_k = (Π_{j>k} z_j) (1 - z_k) n_k.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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


def cell_decomposition(posed: Posed) -> tuple[NDArray[np.float64], dict[str, Any], dict[str, NDArray[np.float64]]]:
    """The credit of every step of the top layer's input ``(batch, time)``, and of its initial state and what doesn't come from it.

    Raises
    ------
    InputError
        If the output isn't a linear read-out of the top layer's hidden state at one step.
    """
    top = _Top(posed.seen, posed.model, posed.points, posed.lengths)
    attributions = np.zeros(posed.points.shape[:2])
    initial, constant = np.zeros((2, len(attributions)))
    for start in range(0, len(attributions), posed.rows_at_once):
        some = slice(start, start + posed.rows_at_once)
        reads, constant[some] = _linear(posed, top, some)
        for one, read in reads:
            of_steps, of_start = _credit(one, some, read)
            attributions[some, : of_steps.shape[1]] += of_steps.cpu().numpy()
            initial[some] += of_start.cpu().numpy()
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
    """``(some, unit)``."""


def _linear(posed: Posed, top: _Top, some: slice) -> tuple[list[tuple[Trajectory, _Read]], NDArray[np.float64]]:
    """What is read of the layer for some examples, and the constant ``(some,)``: run with its opposite in the layer's place."""
    rows = posed.rows[some]
    count, hidden, last = len(top.directions), top.hidden(some), top.last(some)
    wanted = [posed.points[some], -hidden, *(-state for state in last)]
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
    reads = []
    for at, one in enumerate(top.directions):
        of_end = [None if state is None else state[at - count] for state in of_last]
        of_all = None if of_hidden is None else of_hidden.chunk(count, dim=2)[at]
        reads += [(one, read) for read in _reads(one, some, of_all, of_end)]
    # Of a linear read-out, what doesn't turn with it is its constant, and what does is what is read.
    output, opposite = (np.array(numbers.tolist()) for numbers in (posed.output[some], turned))
    read = sum((_number(one, some, read) for one, read in reads), np.zeros_like(output))
    _check_linear((output - opposite) / 2, read, turned.dtype, top.name)
    return reads, (output + opposite) / 2


def _number(one: Trajectory, some: slice, read: _Read) -> NDArray[np.float64]:
    """What is read, ``(some,)``."""
    state = one.signal(read.state)[some][torch.arange(len(read.step), device=read.step.device), read.step]
    return np.array(torch.linalg.vecdot(state.to(read.weights), read.weights).tolist())


def _reads(one: Trajectory, some: slice, of_all: Tensor | None, of_end: Sequence[Tensor | None]) -> Iterator[_Read]:
    """What is read by the weights of all hidden states ``(some, time, unit)`` and of the last states, which a layer gives apart as well."""
    ends, (of_last, *of_cell) = _end(one)[some], of_end
    if of_all is not None:
        every = torch.arange(len(ends), device=ends.device)
        of_all = of_all if of_last is None else of_all.index_put((every, ends), of_last, accumulate=True)
        at = (of_all.abs().amax(2) != 0).cpu().numpy()
        if (most := int(at.sum(1).max())) > 1:
            raise InputError(f"needed an output that reads {one.name} at one step for {METHOD}, got {most} steps: use lrp")
        if most:  # of two directions one may be read alone
            step = torch.from_numpy(at.argmax(1)).to(ends)
            yield _Read("hidden_state", step, of_all[every, step])
    elif of_last is not None:
        yield _Read("hidden_state", ends, of_last)
    yield from (_Read("cell_state", ends, weights) for weights in of_cell if weights is not None)


def _check_linear(change: NDArray[np.float64], read: NDArray[np.float64], dtype: torch.dtype, name: str) -> None:
    """Half of what the output changes from one state to its opposite must be what is read, by weights that were found at the opposite."""
    off, scale = np.abs(change - read), np.maximum(np.abs(change), np.abs(read)).clip(min=1)
    if not (off <= _LINEAR.get(dtype, 2e-2) * scale).all():
        raise InputError(
            f"needed an output that is linear in the hidden state of {name} for {METHOD}, got one that is off by "
            f"{number(float(off.max()))}: choose a number before the nonlinearity with output=, or use lrp"
        )


def _end(one: Trajectory) -> Tensor:
    """The step that each sequence's reading ended with."""
    ends = one.valid.sum(1) - 1 if one.padding != "unknown" else torch.full_like(one.first_step, one.valid.shape[1] - 1)
    return torch.zeros_like(ends) if one.reverse else ends


def _credit(one: Trajectory, some: slice, read: _Read) -> tuple[Tensor, Tensor]:
    """Of what is read of a state at one step, the share of each step ``(some, time)`` and that of the initial state ``(some,)``."""
    squashed = read.state == "hidden_state" and one.kind != "gru"
    if one.kind == "gru":
        keep, take, candidate = one.update_gate[some], None, one.candidate[some]
    else:
        keep, take, candidate = one.forget_gate[some], one.input_gate[some], one.cell_candidate[some]
    state, output = one.signal(one.memory)[some], one.output_gate[some] if squashed else None
    weights, start, first = read.weights.to(state), one.initial[one.memory][some].to(state), one.first_step[some]
    if squashed and "weight_hr" in one.weights:
        weights = weights @ one.weights["weight_hr"].to(state)
    signals = state, keep, take, candidate, output
    if native.serves(*signals, start, weights) and all(signal is None or signal.stride(2) == 1 for signal in signals):
        return native.credit(state, keep, take, candidate, output, start, weights, read.step, first, one.reverse)
    every = torch.arange(len(state), device=state.device)
    weights, end = weights if output is None else weights * output[every, read.step], state[every, read.step]
    found = []
    for part in every.split(max(1, _VALUES // state[0].numel())):
        changes = _until_read(one.reverse, read.step[part], first[part], keep[part], take if take is None else take[part], candidate[part])
        # Backwards from what was read: what is kept of a step is the product of the gates of all that came after it. A product that has
        # come to zero stays there, so nothing is ever divided by one.
        left, added = ((signal if one.reverse else signal.flip(1)).contiguous() for signal in changes)
        kept, whole = left.cumprod(1), end[part].unsqueeze(1)
        added[:, 1:] *= kept[:, :-1]
        sums = torch.cat([whole, whole - added.cumsum(1), start[part].unsqueeze(1) * kept[:, -1:]], 1)
        found.append(((sums.tanh_() if squashed else sums) @ weights[part].unsqueeze(2)).squeeze(2))
    by_sum = torch.cat(found).double()
    shares = by_sum[:, :-2] - by_sum[:, 1:-1]
    return shares if one.reverse else shares.flip(1), by_sum[:, -1]


def _until_read(reverse: bool, step: Tensor, first: Tensor, keep: Tensor, take: Tensor | None, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """What each step keeps of the state and what it adds to it, each ``(some, time, unit)``, where nothing happens after what is read.

    What is added is new, and may be written into.
    """
    new, at = (1 - keep if take is None else take) * candidate, torch.arange(keep.shape[1], device=step.device)
    apart = (at > first.unsqueeze(1)) | (at < step.unsqueeze(1)) if reverse else at > step.unsqueeze(1)
    if not bool(apart.any()):
        return keep, new
    return keep.masked_fill(apart.unsqueeze(2), 1.0), new.masked_fill(apart.unsqueeze(2), 0.0)
