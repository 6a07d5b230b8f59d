"""What a network predicts over a stretch of text, as it is and with units held."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lstm_explain.display import jsonable
from lstm_explain.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """One sequence's tokens, and what was predicted in the place of each by two runs of a network.

    Attributes
    ----------
    tokens : tuple of str ``(token,)``
        What came.
    clean, ablated : tuple of str ``(token,)``
        What each run held most likely there, from the tokens before.
    clean_top, ablated_top : ndarray ``(token,)``
        The probability that it gave to that.
    clean_came, ablated_came : ndarray ``(token,)``
        The probability that it gave to what came.
    start : int
        The step of the first token.
    """

    tokens: tuple[str, ...]
    clean: tuple[str, ...]
    ablated: tuple[str, ...]
    clean_top: NDArray[np.float64]
    ablated_top: NDArray[np.float64]
    clean_came: NDArray[np.float64]
    ablated_came: NDArray[np.float64]
    start: int

    @property
    def right(self) -> tuple[int, int]:
        """How many tokens each run held most likely: as it is, and with units held."""
        clean, ablated = (sum(a == b for a, b in zip(self.tokens, run, strict=True)) for run in (self.clean, self.ablated))
        return clean, ablated

    def __repr__(self) -> str:
        clean, ablated = self.right
        return f"<Predictions of {len(self.tokens)} tokens: {clean} right as it is, {ablated} with units held>"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and numbers."""
        return dict(jsonable(vars(self)))


def predictions(
    clean: Tensor, ablated: Tensor, tokens: Sequence[str], names: Sequence[str], *, start: int = 1, stop: int | None = None
) -> Predictions:
    """Two runs beside each other.

    Parameters
    ----------
    clean, ablated : Tensor ``(time, class)``
        Scores of the next token at each step of one sequence, by the network as it is and with units held: logits or log-probabilities.
    tokens : sequence of str ``(time,)``
        What each step read.
    names : sequence of str ``(class,)``
        The token that each class stands for.
    start, stop : int
        The tokens to show; the first token of all has nothing before it.

    Raises
    ------
    InputError
        If the shapes don't fit, or a token has no class.
    """
    if clean.dim() != 2 or clean.shape != ablated.shape or clean.shape[1] != len(names) or len(tokens) < len(clean):
        got = f"{tuple(clean.shape)}, {tuple(ablated.shape)}, {len(names)} names and {len(tokens)} tokens"
        raise InputError(f"needed scores (time, class) of both runs, a name for each class and a token for each step, got {got}")
    steps = range(len(clean))[slice(max(start, 1), stop)]
    if not steps:
        raise InputError(f"needed at least one token from 1 to {len(clean) - 1}, got start={start}, stop={stop}")
    number = {name: at for at, name in enumerate(names)}
    if missing := [tokens[at] for at in steps if tokens[at] not in number]:
        raise InputError(f"needed a class for every token, got none for {missing[0]!r}")
    came, before, rows = [number[tokens[at]] for at in steps], [at - 1 for at in steps], np.arange(len(steps))
    chances = [scores.double().softmax(1).cpu().numpy()[before] for scores in (clean, ablated)]
    best = [one.argmax(1) for one in chances]
    return Predictions(
        tokens=tuple(tokens[at] for at in steps),
        clean=tuple(names[at] for at in best[0]),
        ablated=tuple(names[at] for at in best[1]),
        clean_top=chances[0][rows, best[0]],
        ablated_top=chances[1][rows, best[1]],
        clean_came=chances[0][rows, came],
        ablated_came=chances[1][rows, came],
        start=steps[0],
    )
