"""What units are to change when they are held: the network's output, and how much of its behaviour that is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from lstm_explain.report.read import Read
from lstm_explain.study import Study

CLASSES = 1_000
"""Of more classes the predictions of all steps aren't kept."""


class Behaviour(NamedTuple):
    """How much the behaviour changes, what that is, in words, and what of it rises, as an axis has it."""

    loss: Callable[[Any, Tensor], Tensor]
    what: str
    effect: str


def output_of(study: Study) -> Callable[[Any], Tensor]:
    """What units are to move: log-probabilities where the output predicts tokens, else the output."""

    def output(returned: Any) -> Tensor:
        given: Tensor = study.output(returned) if study.output is not None else returned[0] if isinstance(returned, tuple) else returned
        return given if study.next_tokens is None else given.log_softmax(-1)

    return output


def behaviour_of(study: Study, read: Read) -> Behaviour:
    """How far predictions move, where there are any and they can be kept, else the study's loss."""
    if study.next_tokens is None or len(study.next_tokens) > CLASSES:
        return Behaviour(read.loss, "the study’s loss", "rise of the loss")
    output = output_of(study)
    with torch.no_grad():
        clean = torch.cat([output(study.model(read.inputs[rows])) for rows in torch.arange(len(read.rows)).split(16)])

    def moved(returned: Any, rows: Tensor) -> Tensor:
        return kl_div(output(returned), clean[rows.to(clean.device)], reduction="none", log_target=True).sum(-1)

    return Behaviour(moved, "how far its predictions move, in nats (Kullback & Leibler 1951)", "nats by which predictions move more")
