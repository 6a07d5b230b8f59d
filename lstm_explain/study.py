"""`Study`: a model, its sequences, what is known about them, and how to read them.

Four of them, each by the same road: a module called as ``model(inputs)``, batch first; what is true after each step as labels; what the
model is graded by as a loss of each step, ``(what it returned, rows) -> (row, time)``.

>>> import numpy as np
>>> import torch
>>> from torch import nn
>>> from torch.nn.functional import cross_entropy
>>> class Network(nn.Module):
...     def __init__(self, front, layer, head, last=False):
...         super().__init__()
...         self.front, self.layer, self.head, self.last = front, layer, head, last
...
...     def forward(self, x):
...         out = self.layer(self.front(x))[0]
...         return self.head(out[:, -1] if self.last else out)

*A classifier over series*: an output for each sequence, which stands at each step, as do class and loss. Groups hold several classes.

>>> x, y = torch.randn(24, 20, 3), torch.arange(24) % 2
>>> model = Network(nn.Identity(), nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2), last=True)
>>> def output(logits):
...     return logits[:, None].expand(-1, 20, -1)
>>> def loss(logits, rows):
...     return cross_entropy(logits, y[rows], reduction="none")[:, None].expand(-1, 20)
>>> label, groups = {"class": y[:, None].expand(-1, 20)}, [n // 2 for n in range(24)]
>>> Study(model, x, labels=label, groups=groups, output=output, loss=loss, target=(-1, 1), feature_names=[*"xyz"], name="gestures")
<Study 'gestures': Network, 24 sequences, 480 steps>

*A tagger*: an output for each step, of sentences that are as long as they are.

>>> words, tags, n = torch.randint(50, (12, 9)), torch.randint(4, (12, 9)), [9, 7, 4] * 4
>>> model = Network(nn.Embedding(50, 6), nn.LSTM(6, 8, batch_first=True, bidirectional=True), nn.Linear(16, 4))
>>> def loss(logits, rows):
...     return cross_entropy(logits.mT, tags[rows][:, : logits.shape[1]], reduction="none")
>>> names = np.array(["noun", "verb", "other", "stop"])
>>> text = [[f"word{word} " for word in row] for row in words.tolist()]
>>> Study(model, words, lengths=n, tokens=text, labels={"tag": names[tags]}, loss=loss, places=[Place("the tag", 0, (3, 1))], name="tags")
<Study 'tags': Network, 12 sequences, 80 steps>

*A language model*: what it predicts are tokens, so the page can say which, with a unit and without it. Groups are the documents.

>>> letters = "abcdefgh .?"
>>> read = torch.randint(len(letters), (12, 31))
>>> model = Network(nn.Embedding(len(letters), 6), nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, len(letters)))
>>> def loss(logits, rows):
...     return cross_entropy(logits.mT, read[rows, 1 : 1 + logits.shape[1]], reduction="none")
>>> text = [[letters[one] for one in row] for row in read[:, :-1].tolist()]
>>> label = {"after_space": np.array([[one == " " for one in row] for row in text])}
>>> more = {"groups": [*"abcdefghijkl"], "places": [Place("the last letter", 0, (29, 4))]}
>>> Study(model, read[:, :-1], tokens=text, next_tokens=letters, labels=label, loss=loss, **more, name="a text")
<Study 'a text': Network, 12 sequences, 360 steps>

*A forecaster*: numbers in and numbers out. A label may be a number too; it is read off the states by a linear fit.

>>> series = torch.randn(12, 41, 2).cumsum(1)
>>> model = Network(nn.Identity(), nn.GRU(2, 8, batch_first=True), nn.Linear(8, 1))
>>> x, future = series[:, :-1], series[:, 1:, :1]
>>> def loss(predicted, rows):
...     return (predicted - future[rows][:, : predicted.shape[1]]).square().mean(-1)
>>> mean = (x[:, :, 0].cumsum(1) / torch.arange(1, 41)).numpy()
>>> rising = np.diff(x[:, :, 0].numpy(), axis=1, prepend=0) > 0
>>> Study(model, x, feature_names=["load", "wind"], labels={"mean": mean, "rising": rising}, loss=loss, target=(-1, 0), name="load")
<Study 'load': Network, 12 sequences, 480 steps>
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lstm_explain.errors import InputError
from lstm_explain.nn.lstm import PeepholeLSTM, PeepholeLSTMCell
from lstm_explain.trajectory import checked_lengths
from lstm_explain.verdicts.verification.claim import Claim


class Batch(NamedTuple):
    """Some of a study's sequences."""

    inputs: Tensor
    lengths: Tensor
    rows: slice


class Place(NamedTuple):
    """One output that a report asks about: why this, here?"""

    what: str
    sequence: int
    target: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Study:
    """What a report explains.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(inputs)``.
    inputs : Tensor ``(batch, time, ...)``
        Batch first: symbols ``(batch, time)`` or features ``(batch, time, feature)``.
    lengths : Tensor or sequence of int ``(batch,)``, optional
        How many steps of each sequence are real. If left out every step counts, and results are marked *padding: unknown*.
    labels : mapping of str to ndarray ``(batch, time)``, optional
        What is true after each step: booleans, whole numbers or text for classes (-1 or "" where a label isn't defined), floating-point
        numbers for numbers (NaN where it isn't defined).
    events : mapping of str to ndarray of bool ``(batch, time)``, optional
        When a label was decided, where that isn't when it last changed.
    groups : sequence ``(batch,)``, optional
        Which sequences belong together (files, patients): the unit of resampling.
    tokens : sequence of sequences of str, optional
        What each step reads, for people.
    feature_names : sequence of str, optional
        Names of the last axis of `inputs`.
    output : callable, optional
        What the model returns -> the tensor to explain.
    target : optional
        Which element of that tensor, as ``(step, class)``; the report explains it for the first three sequences.
    places : sequence of Place, optional
        Which elements of that tensor to explain, in which sequences; in place of `target`.
    baselines : number or Tensor, optional
        What stands for "nothing was there", as `lx.attribute` takes it; zero if left out.
    loss : callable, optional
        ``(what the model returned, rows) -> (row, time)``, what the model is graded by at each step, in nats where there are
        `next_tokens`; `rows` says which sequences, as a slice or a tensor of their numbers: ``targets[rows]`` are theirs. What was
        returned may be of the first steps only.
    next_tokens : sequence of str, optional
        Of a model that predicts the next token: the token that each class of the last axis of ``output(what the model returned)``
        stands for.
    claims : sequence of lx.Claim, optional
        Which units are said to carry which label, for `lx.verify`; if left out, the report chooses some on a part of the groups.
    planted : sequence of lx.Claim, optional
        Of a network that is known: the claims that are true, so that the report can say how many of them were found.
    name : str
    about : mapping, optional
        What else a reader should know; plain numbers and text. ``caveats`` in it maps a section's name to a sentence that belongs there.

    Raises
    ------
    InputError
        If the parts don't fit each other, there is nothing in them, or a parameter of the model isn't finite.
    """

    model: nn.Module
    inputs: Tensor
    lengths: Tensor | Sequence[int] | None = None
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    groups: Sequence[Any] | None = None
    tokens: Sequence[Sequence[str]] | None = None
    feature_names: Sequence[str] | None = None
    output: Callable[[Any], Tensor] | None = None
    target: Any = None
    loss: Callable[[Any, Any], Tensor] | None = None
    name: str = "study"
    about: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    places: Sequence[Place] = ()
    baselines: Tensor | float | int | None = None
    next_tokens: Sequence[str] | None = None
    claims: Sequence[Claim] = ()
    planted: Sequence[Claim] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise InputError(f"needed model as a torch.nn.Module, got {type(self.model).__name__}")
        if not isinstance(self.inputs, Tensor) or self.inputs.dim() < 2:
            got = tuple(self.inputs.shape) if isinstance(self.inputs, Tensor) else type(self.inputs).__name__
            raise InputError(f"needed inputs as a tensor (batch, time, ...), got {got}")
        batch, time = self.inputs.shape[:2]
        if batch == 0 or time == 0:
            raise InputError(f"needed at least one step of at least one sequence, got inputs of shape {tuple(self.inputs.shape)}")
        if self.lengths is not None:
            checked_lengths(self.lengths, batch, time)
        # Frozen for its readers; here the labels that were given become arrays.
        for kind, given in (("label", "labels"), ("events of", "events")):
            arrays = {name: _per_step(f"{kind} {name!r}", values, (batch, time)) for name, values in getattr(self, given).items()}
            object.__setattr__(self, given, arrays)
        if unknown := sorted(set(self.events) - set(self.labels)):
            raise InputError(f"needed events of one of the labels {', '.join(self.labels) or '(none)'}, got {unknown[0]!r}")
        for claim in (*self.claims, *self.planted):
            if not isinstance(claim, Claim):
                raise InputError(f"needed claims as lx.Claim, got {type(claim).__name__}")
            if claim.label not in self.labels:
                raise InputError(f"needed claims about one of the labels {', '.join(self.labels) or '(none)'}, got {claim.label!r}")
        for place in self.places:
            if not 0 <= place.sequence < batch:
                raise InputError(f"needed places in sequences from 0 to {batch - 1}, got {place.sequence} for {place.what!r}")
        for target in (self.target, *(place.target for place in self.places)):
            parts = target if isinstance(target, (tuple, list)) else (target,)
            if target is not None and not all(isinstance(part, Integral) for part in parts):
                raise InputError(f"needed target as whole numbers, a class or (step, class), got {target!r}")
        for name, per_sequence in (("groups", self.groups), ("tokens", self.tokens)):
            if per_sequence is not None and len(per_sequence) != batch:
                raise InputError(f"needed {name} for {batch} sequences, got {len(per_sequence)}")
        for row, tokens in enumerate(self.tokens or ()):
            if len(tokens) < (needed := time if self.lengths is None else int(self.lengths[row])):
                raise InputError(f"needed a token for each of the {needed} steps of sequence {row}, got {len(tokens)}")
        if not self.inputs.dtype.is_floating_point and self.feature_names is not None:
            raise InputError("needed no feature_names with whole-number inputs: symbols have no features")
        _finite(self.model)

    def batches(self, size: int) -> Iterator[Batch]:
        """The sequences, `size` at a time, in order, each batch cut to its longest sequence."""
        lengths = torch.as_tensor(self.sequence_lengths)
        for begin in range(0, len(self.inputs), size):
            rows = slice(begin, min(begin + size, len(self.inputs)))
            yield Batch(self.inputs[rows, : int(lengths[rows].max())], lengths[rows], rows)

    @property
    def sequence_lengths(self) -> list[int]:
        """How many steps each sequence has, whether or not that was said."""
        given = [self.inputs.shape[1]] * len(self.inputs) if self.lengths is None else self.lengths
        lengths: list[int] = torch.as_tensor(given).tolist()
        return lengths

    @property
    def steps(self) -> int:
        """How many steps all sequences have."""
        return sum(self.sequence_lengths)

    def __repr__(self) -> str:
        return f"<Study {self.name!r}: {type(self.model).__name__}, {len(self.inputs)} sequences, {self.steps:,} steps>"


def _per_step(what: str, given: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """What was given for each step, as an array."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InputError(
            f"needed {what} of shape {shape}, got rows of unequal length: what is beyond a sequence's length isn't read"
        ) from error
    if array.shape != shape:
        each = f": one for each sequence is np.repeat(label[:, None], {shape[1]}, 1)" if array.shape == shape[:1] else ""
        raise InputError(f"needed {what} of shape {shape}, got {array.shape}{each}")
    return array


_GATES = {"i": "input gate", "f": "forget gate", "g": "cell candidate", "o": "output gate"}
_GATES |= {"r": "reset gate", "z": "update gate", "n": "candidate"}


def _finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinite parameters; an LSTM's and a GRU's are named by gate, which is what their rows are."""
    for name, parameter in model.named_parameters():
        bad = ~parameter.detach().isfinite()
        if not bad.any():
            continue
        module, _, kind = name.rpartition(".")
        rows = _gate_rows(model.get_submodule(module), kind)
        gates = bad.flatten().unflatten(0, (len(rows), -1)).any(1).tolist() if rows else []
        where = ", ".join(_GATES[gate] for gate, hit in zip(rows, gates, strict=True) if hit)
        count = int(bad.sum())
        values = f"{count} NaN or infinite value{'s' if count > 1 else ''}"
        raise InputError(f"needed finite weights, got {values} in {name}{f' ({where})' if where else ''}: train or load it again")


def _gate_rows(module: nn.Module, parameter: str) -> str:
    """The gates of a parameter's blocks of rows, in order; empty where its rows aren't gates."""
    if isinstance(module, (PeepholeLSTM, PeepholeLSTMCell)) and parameter.startswith("weight_ch"):
        return module.form.peephole_rows
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        return "rzn"
    lstm = isinstance(module, (PeepholeLSTM, PeepholeLSTMCell, nn.LSTM, nn.LSTMCell))
    return "ifgo" if lstm and not parameter.startswith("weight_hr") else ""
