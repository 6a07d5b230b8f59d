"""A network in which it is known what each unit knows and does: the toolkit's own proof, in seconds.

Two recurrent branches, an LSTM and a GRU that reads packed sequences, hold three memories each, with weights set by hand inside a larger
random network. A memory keeps the sign of the last number that was written to it. Each has a copy, which reads the memory, so that it
follows one step late, and which nothing reads: it knows, and does nothing. So what a probe, an ablation and an attribution must find is
known before they are asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_explain.study import Place, Study
from lstm_explain.verdicts.verification.claim import Claim

UNITS, MEMORIES = 32, 3
"""Of each branch: all units, and the memories among them, each with a copy."""
SEQUENCES, SHORTEST, LONGEST = 24, 48, 80
FIRST, RARELY = (0, 16), (20, 41)
"""When a memory is first written to, and how many steps later again: far more seldom than a probe's window of inputs is long."""
NOISE = 4
"""Features that the memories don't read."""

HOLD = 10.0
"""A gate's pre-activation between writes: of what is kept, 1 - 4.5e-5 is kept at each step."""
SWITCH = 0.1
"""The size of a written number at which the gates turn; far below 1, so that on integrated gradients' path from nothing to the number
the memory has let go of what it held before the number counts."""
GAIN, COPY_GAIN = 1.0, 3.0
"""The candidate's weight: a memory's on the written number, a copy's on its memory. The copy is the louder one."""
WEAK, BACKGROUND = 0.25, 0.05
"""What memories' weights into random units are scaled by, and the largest weight of a random unit in the read-out."""


class Branches(nn.Module):
    """Numbers ``(batch, time, feature)`` to what each memory holds, ``(batch, time, memory)``.

    Both branches read each number and its size. The last feature is 1 on padding and 0 elsewhere, which is how the GRU knows what to pack.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * features, UNITS, batch_first=True)
        self.gru = nn.GRU(2 * features, UNITS, batch_first=True)
        self.read_out = nn.Linear(2 * UNITS, 2 * MEMORIES)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the memories hold."""
        read = torch.cat((inputs, inputs.abs()), -1)
        first, _ = self.lstm(read)
        lengths = (inputs[:, :, -1] == 0).sum(1).cpu()
        packed = pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
        second, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=inputs.shape[1])
        held: Tensor = self.read_out(torch.cat((first, second), -1))
        return held


@dataclass(frozen=True, eq=False)
class Network:
    """The network, what it reads, and what is known of it.

    Attributes
    ----------
    model : Branches
        In float64 and evaluation mode.
    inputs : Tensor ``(sequence, time, feature)``
    lengths : tuple of int ``(sequence,)``
    labels : mapping of str to ndarray of int ``(sequence, time)``
        Of each memory: 1 where the last number written to it was 1, 0 where it was -1, and -1 before the first one and on padding.
    writes : mapping of str to ndarray of bool ``(sequence, time)``
        When each memory was written to.
    latches : Tensor ``(sequence, time, memory)``
        What the model should return: 1, -1, or 0 where the label isn't defined.
    feature_names : tuple of str
        Memory m's own feature is feature m.
    planted : tuple of Claim
        The unit of each memory, by layer as in a recording; read-out m is for memory m.
    copies : tuple of Claim
        The unit that follows each memory, one step late, without a weight that leaves it.
    """

    model: Branches
    inputs: Tensor
    lengths: tuple[int, ...]
    labels: Mapping[str, NDArray[np.int64]]
    writes: Mapping[str, NDArray[np.bool_]]
    latches: Tensor
    feature_names: tuple[str, ...]
    planted: tuple[Claim, ...]
    copies: tuple[Claim, ...]

    def __repr__(self) -> str:
        where = ", ".join(f"{one.layer} {one.unit}" for one in self.planted)
        return f"<Network with {len(self.planted)} planted memories ({where}), {len(self.copies)} copies, {len(self.lengths)} sequences>"


def _written(rng: np.random.Generator, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is written to each memory ``(sequence, time, memory)``: mostly 0, now and then 1 or -1."""
    written = np.zeros((SEQUENCES, LONGEST, 2 * MEMORIES))
    for sequence, length in enumerate(lengths):
        for memory in range(2 * MEMORIES):
            step = rng.integers(*FIRST)
            while step < length:
                written[sequence, step, memory] = rng.choice((-1, 1))
                step += rng.integers(*RARELY)
    return written


def _last(written: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last number that was written, at each step; 0 before the first."""
    at = np.maximum.accumulate(np.where(written != 0, np.arange(LONGEST)[:, None], 0), axis=1)
    return np.take_along_axis(written, at, axis=1)


def _cleared(layer: nn.LSTM | nn.GRU, unit: int) -> dict[str, int]:
    """The rows of a unit's gates and candidate, by their letters, all weights and biases set to 0."""
    row = {gate: at * UNITS + unit for at, gate in enumerate("ifgo" if isinstance(layer, nn.LSTM) else "rzn")}
    for parameter in layer.parameters():
        parameter[list(row.values())] = 0
    return row


def _remember(layer: nn.LSTM | nn.GRU, unit: int, feature: int) -> None:
    """Make a unit keep the sign of the last number in a feature.

    Of the LSTM, with k = 1 at a number and 0 between: i = k, f = 1 - k, g = tanh(GAIN x), o = 1. Of the GRU: z = 1 - k, n = tanh(GAIN x).
    """
    row = _cleared(layer, unit)
    weights, biases = layer.get_parameter("weight_ih_l0"), layer.get_parameter("bias_ih_l0")
    size = weights.shape[1] // 2 + feature
    for gate, opens in (("i", 1), ("f", -1), ("z", -1)):
        if gate in row:
            biases[row[gate]] = -opens * HOLD
            weights[row[gate], size] = opens * HOLD / SWITCH
    if "o" in row:
        biases[row["o"]] = HOLD
    weights[row["g" if "g" in row else "n"], feature] = GAIN


def _follow(layer: nn.LSTM | nn.GRU, unit: int, memory: int) -> None:
    """Make a unit be, at each step, what its memory was a step before.

    Of the LSTM: i = o = 1, f = 0, g = tanh(COPY_GAIN h), h being the memory's. Of the GRU: r = 1, z = 0, n = tanh(COPY_GAIN h).
    """
    row = _cleared(layer, unit)
    biases = layer.get_parameter("bias_ih_l0")
    for gate, at in (("i", HOLD), ("f", -HOLD), ("o", HOLD), ("r", HOLD), ("z", -HOLD)):
        if gate in row:
            biases[row[gate]] = at
    layer.get_parameter("weight_hh_l0")[row["g" if "g" in row else "n"], memory] = COPY_GAIN


def _held(layer: nn.LSTM | nn.GRU) -> float:
    """A memory's hidden state after 1 was written."""
    kept = float(np.tanh(GAIN))
    return float(np.tanh(kept)) if isinstance(layer, nn.LSTM) else kept


def network(seed: int = 0) -> Network:
    """The network and its sequences: weights of random units, places of the memories, and all that is read, drawn by `seed`.

    Examples
    --------
    >>> from lstm_explain.studies.planted import network
    >>> network().planted[0].layer, network().inputs.shape
    ('lstm.l0', torch.Size([24, 80, 11]))
    """
    rng = np.random.default_rng(seed)
    branches = [name for name in ("lstm", "gru") for _ in range(MEMORIES)]
    names = [f"{branch}_memory_{1 + at % MEMORIES}" for at, branch in enumerate(branches)]
    features = (*(f"to {name.replace('_', ' ')}" for name in names), *(f"noise {n + 1}" for n in range(NOISE)), "padding")

    lengths = rng.integers(SHORTEST, LONGEST + 1, SEQUENCES)
    lengths[rng.integers(SEQUENCES)] = LONGEST
    real = (np.arange(LONGEST) < lengths[:, None])[:, :, None]
    written = _written(rng, lengths)
    noise = np.where(real, rng.normal(size=(SEQUENCES, LONGEST, NOISE)), 0)
    latches = np.where(real, _last(written), 0)

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = Branches(len(features)).double().eval()
    planted, copies = [], []
    with torch.no_grad():
        model.read_out.weight.copy_(torch.from_numpy(rng.uniform(-BACKGROUND, BACKGROUND, (2 * MEMORIES, 2 * UNITS))))
        model.read_out.bias.zero_()
        layers: tuple[nn.LSTM | nn.GRU, ...] = (model.lstm, model.gru)
        for branch, layer in enumerate(layers):
            units = rng.permutation(UNITS)[: 2 * MEMORIES].tolist()
            model.read_out.weight[:, [branch * UNITS + unit for unit in units]] = 0
            recurrent = layer.get_parameter("weight_hh_l0")
            recurrent[:, units[:MEMORIES]] *= WEAK
            recurrent[:, units[MEMORIES:]] = 0
            for at in range(MEMORIES):
                memory = branch * MEMORIES + at
                unit, copy = units[at], units[MEMORIES + at]
                _remember(layer, unit, memory)
                _follow(layer, copy, unit)
                model.read_out.weight[memory, branch * UNITS + unit] = 1 / _held(layer)
                where = f"{branches[memory]}.l0"
                planted.append(Claim(where, unit, names[memory]))
                copies.append(Claim(where, copy, names[memory]))
    return Network(
        model=model,
        inputs=torch.from_numpy(np.concatenate([written, noise, ~real], axis=2)),
        lengths=tuple(lengths.tolist()),
        labels={name: np.where(latches[:, :, at] == 0, -1, latches[:, :, at] > 0).astype(np.int64) for at, name in enumerate(names)},
        writes={name: written[:, :, at] != 0 for at, name in enumerate(names)},
        latches=torch.from_numpy(latches),
        feature_names=features,
        planted=tuple(planted),
        copies=tuple(copies),
    )


AFTER = 18
"""Steps from a write to the place that is explained: fewer than to the next one."""
_PLACES = (
    f"The places are, for the first memory of each branch, {AFTER} steps after the last number that is written to it so many steps before "
    "the first sequence ends. That number alone decides what the memory holds; the rest is the weak background. The baseline is zero: "
    "nothing written, no noise."
)


def _places(made: Network) -> list[Place]:
    """What `_PLACES` says."""
    places = []
    for memory in (0, MEMORIES):
        label = made.planted[memory].label
        last = np.flatnonzero(made.writes[label][0, : made.lengths[0] - AFTER])[-1]
        places.append(Place(f"{label.replace('_', ' ')}, {AFTER} steps after it was written to", 0, (int(last) + AFTER, memory)))
    return places


def make(seed: int = 0) -> Study:
    """The study of a network whose mechanisms are known."""
    made = network(seed)

    def loss(output: Tensor, rows: Any) -> Tensor:
        wanted = made.latches[rows, : output.shape[1]].to(output.device)
        return (output - wanted).square().sum(-1)

    where = {
        kind: [f"{one.label}: unit {one.unit} of {one.layer}" for one in units]
        for kind, units in (("planted", made.planted), ("copies", made.copies))
    }
    return Study(
        made.model,
        made.inputs,
        lengths=made.lengths,
        labels=made.labels,
        events=made.writes,
        groups=[f"sequence {n}" for n in range(SEQUENCES)],
        feature_names=made.feature_names,
        places=_places(made),
        baselines=0,
        loss=loss,
        claims=[Claim(f"{branch}.l0", unit, label) for branch in ("lstm", "gru") for unit in range(UNITS) for label in made.labels],
        planted=made.planted,
        name="planted",
        about={
            "what": f"a network with {2 * MEMORIES} memories planted by hand among {2 * UNITS} units, each with a copy, one step late, "
            "that nothing reads",
            **where,
            "caveats": {"attribution": _PLACES},
        },
    )
