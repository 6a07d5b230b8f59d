"""What each step contributed to the outputs after it: occlusion (Zeiler & Fergus 2014), for a whole stretch at once.

Each step is replaced by the baseline in turn, and one pass has what that does to every output. So T steps cost T passes, where one
attribution for each output would cost T times as many.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.errors import as_input_error
from lstm_explain.study import Study

STEPS = 160
"""At most so many steps, and as many outputs."""
AT_ONCE = 32_768
"""Steps in one pass, of all sequences together."""


class Painted(NamedTuple):
    """Contributions of the first input steps of a stretch to outputs, in units of the output."""

    contributions: NDArray[np.float64]
    """``(output, input step)``: how much lower the output is with the step replaced; to rounding zero for steps that it hasn’t read."""
    output: NDArray[np.float64]
    """``(output,)``"""
    residual: NDArray[np.float64]
    """``(output,)``: what replacing all of these steps at once does, beyond what each does alone."""
    whole: bool
    """Whether there is one output for the sequence, not one for each step."""
    what: str


def painted(study: Study, row: int, start: int, stop: int, *, back: bool) -> Painted | None:
    """Contributions to the outputs of a stretch; None where the study doesn't say which output it is about.

    Parameters
    ----------
    row, start, stop : int
        The sequence, and the stretch's first step and the one after its last.
    back : bool
        Whether the network reads from right to left too, so that outputs hang on all of the sequence.

    Raises
    ------
    InputError
        If the model can't read a sequence with a step replaced.
    """
    steps = np.arange(start, min(stop, start + STEPS))
    length = _steps(study, row)
    inputs = study.inputs[row : row + 1, :length].to(next(study.model.parameters()).device)
    with torch.no_grad(), as_input_error("the model can't read a sequence with a step replaced"):
        asked = _asked(study, row, study.model(inputs), steps)
        if asked is None:
            return None
        read, whole, what = asked
        if not whole and not back:
            inputs = inputs[:, : steps[-1] + 1]
        clean = read(study.model(inputs))[0]
        without = torch.cat(
            [read(study.model(_replaced(study, inputs, [[step] for step in part]))) for part in _parts(steps, inputs.shape[1])]
        )
        none = read(study.model(_replaced(study, inputs, [steps.tolist()])))[0]
    contributions = (clean - without).double().T.cpu().numpy()
    together = (clean - none).double().cpu().numpy()
    return Painted(contributions, clean.double().cpu().numpy(), together - contributions.sum(1), whole, what)


_Read = Callable[[Any], Tensor]


def _asked(study: Study, row: int, returned: Any, steps: NDArray[np.int64]) -> tuple[_Read, bool, str] | None:
    """From what the model returned to ``(batch, output)``; whether that is one output for the sequence; and what it is."""
    target = study.places[0].target if study.places else study.target
    last = None if target is None else int(target[-1]) if isinstance(target, (tuple, list)) else int(target)

    def output(returned: Any) -> Tensor:
        given: Tensor = study.output(returned) if study.output is not None else returned[0] if isinstance(returned, tuple) else returned
        return given

    shape = output(returned).shape
    stepwise = len(shape) > 1 and shape[1] > steps[-1] and shape[1] in (study.inputs.shape[1], _steps(study, row))
    if study.next_tokens is not None and study.tokens is not None and len(shape) == 3 and stepwise:
        number = {token: at for at, token in enumerate(study.next_tokens)}
        came = list(study.tokens[row])[steps[0] + 1 : steps[-1] + 2]
        steps = steps[: len(came)]
        if not came or not all(token in number for token in came):
            return None
        classes = torch.tensor([number[token] for token in came])
        return (
            lambda returned: output(returned)[:, steps].log_softmax(-1)[:, torch.arange(len(classes)), classes],
            False,
            "the log-probability of the token that came next, in nats",
        )
    if len(shape) == 3 and stepwise and last is not None:
        return lambda returned: output(returned)[:, steps, last], False, f"output {last} at each step"
    if len(shape) == 2 and stepwise and (last is None or not isinstance(target, int)):
        return lambda returned: output(returned)[:, steps], False, "the output at each step"
    if len(shape) == 2 and last is not None:
        return lambda returned: output(returned)[:, [last]], True, f"output {last} of the sequence"
    return (lambda returned: output(returned)[:, None], True, "the output of the sequence") if len(shape) == 1 else None


def _steps(study: Study, row: int) -> int:
    return study.inputs.shape[1] if study.lengths is None else int(torch.as_tensor(study.lengths)[row])


def _parts(steps: NDArray[np.int64], length: int) -> list[NDArray[np.int64]]:
    return np.array_split(steps, -(-len(steps) * length // AT_ONCE))


def _replaced(study: Study, inputs: Tensor, places: list[list[int]]) -> Tensor:
    """Copies of a sequence, each with the baseline at some steps."""
    baseline = 0 if study.baselines is None else study.baselines
    value = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device)
    # A baseline is one value, one for each feature, or a whole sequence of them.
    sequence = (
        value if value.dim() < 2 else value[:1, : inputs.shape[1]] if value.dim() == inputs.dim() else value[: inputs.shape[1]]
    ).expand_as(inputs)
    copies = inputs.repeat(len(places), *[1] * (inputs.dim() - 1))
    for copy, steps in zip(copies, places, strict=True):
        copy[steps] = sequence[0, steps]
    return copies
