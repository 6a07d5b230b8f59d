"""`contextual_decomposition`: what a phrase contributed to one number of the output, in its context.

The model runs on four copies of each example: whole, its phrase alone, everything else alone, and nothing. Before the recurrent layers what
reads one step at a time keeps the copies apart by itself, and after them what is linear; inside a layer the parts go through its equations.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.analyses.attribution.asked import Target, evaluated
from lstm_explain.analyses.attribution.decomposition.layers import Call, Left, States, recurrent_in, run_by
from lstm_explain.analyses.attribution.decomposition.parts import Parts
from lstm_explain.analyses.attribution.decomposition.posed import pose
from lstm_explain.analyses.attribution.decomposition.result import ContextualDecompositionResult
from lstm_explain.errors import InputError
from lstm_explain.nn.equations import Edit
from lstm_explain.nn.layout import Layout
from lstm_explain.recording.edits import Slot

Phrase = int | slice | Sequence[int] | Tensor | NDArray[np.bool_]
METHOD = "contextual_decomposition"
_COPIES = 4


def contextual_decomposition(
    model: nn.Module,
    inputs: Tensor,
    *,
    phrase: Phrase,
    target: Target | list[Any] | Tensor | None = None,
    additional_forward_args: Any = None,
    output: Callable[[Any], Tensor] | None = None,
    embedding: str | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    tolerance: float | None = None,
    internal_batch_size: int | None = None,
) -> ContextualDecompositionResult:
    """What a phrase contributed to one number of the output, in its context (Murdoch, Liu & Yu 2018).

    Every signal of every LSTM and GRU is taken apart into what the phrase gives, what everything else gives and a constant, step by step,
    by the paper's rules; peepholes into i, f and g hand on the parts of the cell state that they see, and o is used whole, as is a GRU's
    reset gate. The parts add up to the output: the residual says how nearly.

    The method doesn't see resets. Where a later step outside the phrase shuts the forget gate, the phrase keeps its share as if the gate
    were where its bias has it, and everything else is charged with the difference. Compare with what `attribute` says by occlusion.

    Parameters
    ----------
    model, inputs, target, additional_forward_args, output, embedding, lengths
        As in `attribute`. For the parts to add up, what reads the recurrent layers must be linear: take a logit, not a probability.
    phrase : int, slice, sequence of int, or Tensor of bool ``(batch, time)``
        Which steps; negative ones count from the end of each sequence. A mask has a phrase for each example. None at all is allowed too.
    tolerance : float, optional
        What the residual may be, as a share of the output: 1e-6 in float64, 1e-4 in float32, 2e-2 below.
    internal_batch_size : int, optional
        Rows in one forward pass, of which an example takes four; as many as make 16,384 time steps if left out.

    Returns
    -------
    ContextualDecompositionResult

    Raises
    ------
    InputError
        If the phrase isn't in the sequences, the model has recurrent layers that aren't LSTMs or GRUs, or an argument doesn't fit.

    Examples
    --------
    >>> import torch, lstm_explain as lx
    >>> model = lx.PeepholeLSTM(8, 16, batch_first=True).double()
    >>> result = lx.contextual_decomposition(model, torch.randn(4, 10, 8).double(), phrase=slice(2, 5), target=(-1, 3))
    >>> result.beta.shape, bool(result.converged.all())
    ((4,), True)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"needed a torch.nn.Module, got {type(model).__name__}")
    modules = recurrent_in(model, METHOD, ("lstm", "peephole", "gru"), cells=False)
    with evaluated(model), torch.no_grad():
        posed = pose(
            model,
            inputs,
            target,
            additional_forward_args=additional_forward_args,
            output=output,
            embedding=embedding,
            lengths=lengths,
            tolerance=tolerance,
            internal_batch_size=internal_batch_size,
        )
        points = posed.points
        inside = _steps_of(phrase, posed.valid.sum(1).tolist(), points.shape[1])
        found = torch.empty(len(points), _COPIES, dtype=torch.float64, device=points.device)
        for mask in inside.unique(dim=0):
            same = (inside == mask).all(1).nonzero().flatten().to(points.device)
            with run_by(modules, _Decomposed(mask.tolist()), METHOD):
                for rows in same.split(max(1, posed.rows_at_once // _COPIES)):
                    numbers = posed.explained(_copied(points[rows], mask.to(points.device)), rows.repeat_interleave(_COPIES))
                    found[rows] = numbers.double().reshape(-1, _COPIES)
    _, of_phrase, of_rest, constant = found.unbind(1)
    shares = torch.stack([of_phrase - constant, of_rest - constant, constant], dim=1).cpu().numpy()
    number, (beta, gamma, bias) = posed.output.double().cpu().numpy(), shares.T
    return ContextualDecompositionResult(
        beta=beta,
        gamma=gamma,
        bias=bias,
        output=number,
        residual=shares.sum(1) - number,
        converged=posed.whole(shares),
        phrase=inside.numpy(),
        valid=posed.valid.numpy(),
        explained=posed.in_words(),
        settings=posed.settings,
        padding=posed.padding,
    )


def _steps_of(phrase: Any, ends: Sequence[int], time: int) -> Tensor:
    """Which steps are in the phrase, ``(batch, time)``."""
    if isinstance(phrase, (Tensor, np.ndarray)) and phrase.dtype in (torch.bool, np.bool_):
        mask = torch.as_tensor(phrase).cpu()
        if mask.shape != (len(ends), time):
            raise InputError(f"needed phrase as a mask {(len(ends), time)}, got {tuple(mask.shape)}")
        beyond = mask & (torch.arange(time) >= torch.tensor(ends).unsqueeze(1))
        if bool(beyond.any()):
            example, step = beyond.nonzero()[0].tolist()
            raise InputError(f"needed phrase inside the sequences, got step {step} of example {example}, which has {ends[example]}")
        return mask.clone()
    mask = torch.zeros(len(ends), time, dtype=torch.bool)
    for example, end in enumerate(ends):
        for step in _named(phrase, end):
            if not -end <= step < end:
                raise InputError(f"needed phrase steps from {-end} to {end - 1} for example {example}, got {step}")
            mask[example, step % end] = True
    return mask


def _named(phrase: Any, end: int) -> Sequence[int]:
    if isinstance(phrase, slice):
        bounds = [bound for bound in (phrase.start, phrase.stop) if bound is not None]
        if not all(isinstance(bound, int) and -end <= bound <= end for bound in bounds) or phrase.step not in (None, 1):
            raise InputError(f"needed phrase as slice(start, stop) within {end} steps, got {phrase}")
        return range(*phrase.indices(end))
    try:
        steps = torch.as_tensor(list(phrase) if isinstance(phrase, (list, tuple, range)) else phrase)
    except (TypeError, ValueError, RuntimeError):
        steps = torch.tensor(0.5)
    if steps.numel() and (steps.is_floating_point() or steps.is_complex() or steps.dtype == torch.bool or steps.dim() > 1):
        raise InputError(f"needed phrase as steps, a slice, or a mask (batch, time) of bool, got {phrase!r}")
    return [int(step) for step in steps.flatten().tolist()]


def _copied(points: Tensor, mask: Tensor) -> Tensor:
    """Each example whole, its phrase alone, everything else alone, and nothing, one after the other."""
    inside = mask.reshape(1, -1, *[1] * (points.dim() - 2))
    copies = [points, torch.where(inside, points, 0.0), torch.where(inside, 0.0, points), torch.zeros_like(points)]
    return torch.stack(copies, 1).flatten(0, 1)


class _Decomposed:
    """Runs a layer on four copies by the parts that they tell."""

    def __init__(self, inside: Sequence[bool]) -> None:
        self._inside = inside

    def __call__(self, call: Call) -> Left:
        """A call of a layer; what leaves it are four copies again."""
        four = call.layout
        if len(four.sizes) > len(self._inside) or not (four.packed or len(four.sizes) == len(self._inside)):
            raise InputError(
                f"needed {call.path or 'the model'} to read every step of the inputs for {METHOD}, got {len(four.sizes)} of "
                f"{len(self._inside)}"
            )
        layout = _one_of_four(four)
        rows = _apart(four.batch_time(call.rows))
        parts = Parts(*(layout.rows_of(part) for part in (rows.phrase, rows.rest, rows.constant)))
        initial = {suffix: {name: self._start(state, four, layout) for name, state in of.items()} for suffix, of in call.initial.items()}
        given = call._replace(layout=layout, rows=cast(Tensor, parts), initial=cast(dict[str, States], initial))
        left = given.by_equations(_Settling(self._inside, call.kind, layout, call.rows.device))
        top = cast(Parts, left.top)
        last = [
            {
                name: _sorted(_together(cast(Parts, state), lambda part: _sorted(part, layout.unsorted_indices)), four.sorted_indices)
                for name, state in of.items()
            }
            for of in left.last
        ]
        return Left(four.rows_of(_together(top, layout.batch_time)), last)

    def _start(self, state: Tensor, four: Layout, layout: Layout) -> Parts:
        """An initial state; what is in it whatever the phrase is belongs to everything else."""
        parts = _apart(_sorted(state, four.unsorted_indices)).settled(False)
        return Parts(*(_sorted(part, layout.sorted_indices) for part in (parts.phrase, parts.rest, parts.constant)))


class _Settling(Slot):
    """Gates that are used whole, and constants that a state has no room for."""

    def __init__(self, inside: Sequence[bool], kind: str, layout: Layout, device: torch.device) -> None:
        super().__init__((), layout, device)
        self._inside, self._gru = inside, kind == "gru"

    def at(self, t: int, n: int) -> Edit:
        """One step."""

        def edit(name: str, signal: Any) -> Any:
            if name == ("reset_gate" if self._gru else "output_gate"):
                return signal.whole
            return signal.settled(self._inside[t]) if name == ("hidden_state" if self._gru else "cell_state") else signal

        return edit


def _apart(copies: Tensor) -> Parts:
    """Four copies of each ``(4 * batch, ...)`` as parts of one."""
    _, of_phrase, of_rest, constant = copies.unflatten(0, (-1, _COPIES)).unbind(1)
    return Parts(of_phrase - constant, of_rest - constant, constant)


def _together(parts: Parts, arranged: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse of `_apart`, of what leaves a layer: no state has a constant part."""
    copies = [parts.whole, parts.phrase, parts.rest, torch.zeros_like(parts.phrase)]
    return torch.stack([arranged(copy) for copy in copies], 1).flatten(0, 1)


def _one_of_four(layout: Layout) -> Layout:
    """The layout of every fourth sequence."""
    if not layout.packed:
        return layout._replace(sizes=tuple(n // _COPIES for n in layout.sizes))
    lengths = layout.lengths()[::_COPIES]
    order = lengths.argsort(descending=True, stable=True)
    sizes = tuple(int((lengths > t).sum()) for t in range(len(layout.sizes)))
    device = layout.sorted_indices.device if layout.sorted_indices is not None else order.device
    return layout._replace(sizes=sizes, sorted_indices=order.to(device), unsorted_indices=order.argsort().to(device))


def _sorted(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(0, order)
