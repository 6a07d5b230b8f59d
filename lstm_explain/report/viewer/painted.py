"""What each step contributed to the outputs after it: occlusion (Zeiler & Fergus 2014), for whole stretches at once.

Each step is replaced by the baseline in turn, and one pass has what that does to every output. So T steps cost T passes, where one
attribution for each output would cost T times as many. Steps are taken in blocks, and an output hangs on those of its own block and of
the one before: steps farther back aren't replaced.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.analyses.attribution.asked import as_points
from lstm_explain.analyses.attribution.explained import Explained
from lstm_explain.errors import InputError, as_input_error
from lstm_explain.report.viewer.pieces import Piece
from lstm_explain.study import Study

BLOCK = 80
"""Steps, so that an output hangs on 80 to 160 of them; where a network reads both ways, on those of the block after it too."""
MOST = 1_500_000
"""The model reads at most so many steps for all of it."""
AT_ONCE = 32_768
"""Steps in one pass, of all copies together."""


class Contributions(NamedTuple):
    """Of the steps of a piece to its outputs, in units of the output."""

    contributions: NDArray[np.float64]
    """``(output, step)``: how much lower the output is with the step replaced, to rounding zero for steps that it hasn’t read; NaN where
    that wasn't asked."""
    output: NDArray[np.float64]
    """``(output,)``"""
    residual: NDArray[np.float64]
    """``(output,)``: what replacing all of these steps at once does, beyond what each does alone; NaN where the model can't read that."""


class Painted(NamedTuple):
    """What outputs hang on."""

    what: str
    whole: bool
    """Whether there is one output for the sequence, not one for each step."""
    ahead: bool
    """Whether outputs hang on later steps too."""
    parts: tuple[Contributions, ...]
    """Of the first pieces, of the last of them perhaps only its beginning."""

    def shortened(self, steps: Sequence[int]) -> "Painted":
        """Of the first steps of pieces."""
        parts = []
        for part, count in zip(self.parts, steps, strict=False):
            outputs = len(part.output) if self.whole else count
            parts.append(Contributions(part.contributions[:outputs, :count], part.output[:outputs], part.residual[:outputs]))
        return self._replace(parts=tuple(parts))


def painted(study: Study, pieces: Sequence[Piece]) -> Painted | str:
    """Contributions to the outputs of pieces, as far as `MOST` lasts; or why there are none, in one line."""
    parts: list[Contributions] = []
    left, asked = MOST, None
    try:
        for piece in pieces:
            with torch.no_grad(), as_input_error("the model can't read a sequence with a step replaced"):
                asked = _asked(study, piece)
                found, cost = (_of_the_sequence if asked.whole else _of_each_step)(asked, piece, left)
            if found is None:
                break
            parts.append(found)
            left -= cost
    except InputError as error:
        return str(error)
    if asked is None or not parts:
        return f"the model would have to read more than {MOST:,} steps"
    return Painted(asked.what, asked.whole, asked.ahead, tuple(parts))


def _of_the_sequence(asked: "_Asked", piece: Piece, left: int) -> tuple[Contributions | None, int]:
    """Of the first steps of a piece to the one output; and how many steps the model read."""
    count = min(piece.stop - piece.start, left // asked.length - 1)
    if count < 1:
        return None, 0
    steps, read = np.arange(piece.start, piece.start + count), slice(0, 1)
    found = (asked.clean - asked.without(steps[:, None], asked.length, read)).T
    return Contributions(found, asked.clean, _residual(asked, steps, asked.length, read, found)), (count + 1) * asked.length


def _of_each_step(asked: "_Asked", piece: Piece, left: int) -> tuple[Contributions | None, int]:
    """Of the first blocks of a piece to their outputs; and how many steps the model read."""
    begins, costs = range(piece.start, piece.stop, BLOCK), [0]
    for begin in begins:
        # Twice: to see what each of its steps does, and what all do together.
        costs.append(costs[-1] + (BLOCK + 1) * asked.end(min(begin + 2 * BLOCK, piece.stop)))
    blocks = sum(cost <= left for cost in costs[1:])
    if not blocks:
        return None, 0
    stop = min(piece.start + blocks * BLOCK, piece.stop)
    outputs, ahead = min(stop, len(asked.clean)), BLOCK if asked.ahead else 0
    found = np.full((outputs - piece.start, stop - piece.start), np.nan)
    residual = np.full(outputs - piece.start, np.nan)
    for begin in begins[:blocks]:
        read = slice(max(begin - ahead, piece.start), min(begin + 2 * BLOCK, outputs))
        steps = np.arange(begin, min(begin + BLOCK, stop))
        if read.start < read.stop:
            change = asked.clean[read] - asked.without(steps[:, None], asked.end(max(read.stop, steps[-1] + 1)), read)
            found[_from(read, piece.start), _from(slice(begin, begin + BLOCK), piece.start)] = change.T
    for begin in begins[:blocks]:
        read = slice(begin, min(begin + BLOCK, outputs))
        steps = np.arange(max(begin - BLOCK, piece.start), min(begin + BLOCK + ahead, stop))
        if read.start < read.stop:
            each = found[_from(read, piece.start)][:, steps - piece.start]
            residual[_from(read, piece.start)] = _residual(asked, steps, asked.end(steps[-1] + 1), read, each)
    return Contributions(found, asked.clean[piece.start : outputs], residual), costs[blocks]


def _from(one: slice, start: int) -> slice:
    return slice(one.start - start, one.stop - start)


def _residual(asked: "_Asked", steps: NDArray[np.int64], end: int, read: slice, each: NDArray[np.float64]) -> NDArray[np.float64]:
    """What all steps together do to outputs, beyond the sum of what each does; NaN where the model can't read the sequence without all."""
    try:
        with as_input_error("the model can't read that"):
            together = asked.without(steps[None], end, read)[0]
    except InputError:
        return np.full(len(each), np.nan)
    return np.asarray(asked.clean[read] - together - each.sum(1))


class _Asked(NamedTuple):
    """A sequence, and which of its outputs are asked about."""

    what: str
    whole: bool
    ahead: bool
    """Whether outputs hang on later steps."""
    length: int
    clean: NDArray[np.float64]
    """``(output,)``: of all steps that have one, or one."""
    outputs: Callable[[NDArray[np.int64], int], Tensor]
    """Outputs ``(copy, output)`` of copies of the sequence, with steps ``(copy, step)`` replaced, cut after so many."""

    def end(self, stop: int) -> int:
        """How far the model must read for the outputs before `stop`."""
        return self.length if self.ahead or self.whole else stop

    def without(self, steps: NDArray[np.int64], end: int, read: slice) -> NDArray[np.float64]:
        """Some outputs, ``(copy, output)``, of copies with steps, ``(copy, step)``, replaced."""
        parts = np.array_split(steps, -(-len(steps) * end // AT_ONCE))
        found: NDArray[np.float64] = torch.cat([self.outputs(part, end)[:, read] for part in parts]).double().cpu().numpy()
        return found


def _asked(study: Study, piece: Piece) -> _Asked:
    """What a study asks of one of its sequences.

    Raises
    ------
    InputError
        If it doesn't say which output it is about, or the model can't read the sequence.
    """
    length = study.sequence_lengths[piece.sequence]
    returned = _replacing(study, piece.sequence, length)
    nothing = np.zeros((1, 0), dtype=np.int64)
    read, whole, what = _which(study, piece.sequence, length, returned(nothing, length))
    clean = read(returned(nothing, length))[0]
    part, ahead = -(-length // 2), False
    if not whole:
        short = read(returned(nothing, part))[0, :part]
        ahead = not torch.allclose(short, clean[: len(short)], atol=float(torch.finfo(clean.dtype).eps ** 0.5))
    return _Asked(what, whole, ahead, length, clean.double().cpu().numpy(), lambda steps, end: read(returned(steps, end)))


def _replacing(study: Study, row: int, length: int) -> Callable[[NDArray[np.int64], int], Any]:
    """What the model returns for copies of a sequence, each cut after so many steps and with the baseline at some, ``(copy, step)``.

    Symbols are replaced by the baseline's symbol; without one, by a vector in the space of their embedding, as in `lx.attribute`, so that
    what the model reads off the symbols themselves, as their number, stays.
    """
    model, device = study.model, next(study.model.parameters()).device
    inputs = study.inputs[row : row + 1, :length].to(device)
    symbol = study.baselines is not None and not torch.as_tensor(study.baselines).is_floating_point()
    points, path = (inputs, None) if inputs.is_floating_point() or symbol else as_points(model, inputs, None)[:2]
    value = torch.as_tensor(0 if study.baselines is None else study.baselines, dtype=points.dtype, device=device)
    # A baseline is one value, one for each feature, or a whole sequence of them.
    batch = value.dim() == points.dim()
    sequence = (value if value.dim() < points.dim() - 1 else value[:1, :length] if batch else value[:length]).expand_as(points)[0]

    def returned(steps: NDArray[np.int64], end: int) -> Any:
        at = torch.from_numpy(steps).to(device)
        copies = points[:, :end].repeat(len(steps), *[1] * (points.dim() - 1))
        copies[torch.arange(len(steps), device=device)[:, None], at] = sequence[at]
        if path is None:
            return model(copies)
        read = Explained(model, inputs[:, :end], path, None, None, [None], None)
        return read.returned(copies, torch.zeros(len(steps), dtype=torch.int64, device=device))

    return returned


def _which(study: Study, row: int, length: int, returned: Any) -> tuple[Callable[[Any], Tensor], bool, str]:
    """From what the model returned to ``(copy, output)``; whether that is one output for the sequence; and what it is."""
    target = study.places[0].target if study.places else study.target
    last = None if target is None else int(target[-1]) if isinstance(target, (tuple, list)) else int(target)

    def output(returned: Any) -> Tensor:
        given: Tensor = study.output(returned) if study.output is not None else returned[0] if isinstance(returned, tuple) else returned
        return given

    shape = output(returned).shape
    stepwise = len(shape) > 1 and shape[1] in (study.inputs.shape[1], length)
    if study.next_tokens is not None and study.tokens is not None and len(shape) == 3 and stepwise:
        number = {token: at for at, token in enumerate(study.next_tokens)}
        came = list(study.tokens[row])[1:length]
        if came and all(token in number for token in came):
            classes = torch.tensor([number[token] for token in came])

            def next_token(returned: Any) -> Tensor:
                logs = output(returned)[:, : len(classes)].log_softmax(-1)
                return logs.gather(2, classes[: logs.shape[1]].to(logs.device).expand(len(logs), -1)[:, :, None])[:, :, 0]

            return next_token, False, "the log-probability of the token that came next, in nats"
    if len(shape) == 3 and stepwise and last is not None:
        return lambda returned: output(returned)[:, :length, last], False, f"output {last} at each step"
    if len(shape) == 2 and stepwise and (last is None or not isinstance(target, int)):
        return lambda returned: output(returned)[:, :length], False, "the output at each step"
    if len(shape) == 2 and last is not None:
        return lambda returned: output(returned)[:, [last]], True, f"output {last} of the sequence"
    if len(shape) == 1:
        return lambda returned: output(returned)[:, None], True, "the output of the sequence"
    raise InputError("the study doesn't say which output to explain: give it target= or places=")
