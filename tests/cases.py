"""Layers, their inputs and their expected results, in every shape in which PyTorch's recurrent layers take them."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from scalar import run_stack
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from lstm_explain.nn.lstm import PeepholeLSTM

FORMS = [
    ("full", "previous"),
    ("diagonal", "previous"),
    ("full", "graves"),
    ("diagonal", "graves"),
    (None, "previous"),
    (None, "graves"),
]
WITHOUT_CELL = ("gru", "rnn_tanh", "rnn_relu")
WITHOUT_CELL = ("gru", "rnn_tanh", "rnn_relu")
LAYOUTS = ("time_first", "batch_first", "unbatched", "packed", "packed_unsorted")


class Case(NamedTuple):
    """A stack and a call of it; `lengths` has one number for each sequence, in the order of the input."""

    layout: str = "time_first"
    lengths: tuple = (4, 4, 4)
    input_size: int = 2
    hidden_size: int = 3
    num_layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    bias: bool = True
    initial_state: bool = False
    seed: int = 0

    @property
    def packed(self):
        return self.layout.startswith("packed")

    @property
    def suffixes(self):
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    @property
    def arguments(self):
        names = ("input_size", "hidden_size", "num_layers", "bidirectional", "proj_size", "bias")
        return {name: getattr(self, name) for name in names} | {"batch_first": self.layout == "batch_first"}


LENGTHS = {
    "time_first": (4, 4, 4),
    "batch_first": (4, 4, 4),
    "unbatched": (4,),
    "packed": (4, 2, 2, 1),
    "packed_unsorted": (2, 4, 1, 3),
}


@st.composite
def drawn_cases(draw, projected=True):
    """Cases of all kinds, small."""
    layout = draw(st.sampled_from(LAYOUTS))
    time = draw(st.integers(1, 4))
    if layout.startswith("packed"):
        lengths = tuple(draw(st.lists(st.integers(1, time), min_size=1, max_size=4)))
        lengths = tuple(sorted(lengths, reverse=True)) if layout == "packed" else lengths
    else:
        lengths = (time,) * (1 if layout == "unbatched" else draw(st.integers(1, 3)))
    hidden_size = draw(st.integers(1, 4))
    return Case(
        layout=layout,
        lengths=lengths,
        input_size=draw(st.integers(1, 3)),
        hidden_size=hidden_size,
        num_layers=draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden_size - 1)) if projected else 0,
        bias=draw(st.booleans()),
        initial_state=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


def randomise(module, seed=0):
    """Every parameter in ±0.8: as initialised, full peepholes are zero and would show nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 1.6 - 0.8)
    return module


def peephole_lstm(case, peephole, wiring="previous", dtype=torch.float64, **options):
    return randomise(PeepholeLSTM(**case.arguments, peephole=peephole, wiring=wiring, dtype=dtype, **options), case.seed)


def torch_lstm(case, dtype=torch.float64, **options):
    return randomise(nn.LSTM(**case.arguments, dtype=dtype, **options), case.seed)


def without_cell(kind, case, dtype=torch.float64, **options):
    """A `torch.nn.GRU` or `RNN`, which have no projection either."""
    arguments = {name: value for name, value in case.arguments.items() if name != "proj_size"} | options
    if kind == "gru":
        return randomise(nn.GRU(**arguments, dtype=dtype), case.seed)
    return randomise(nn.RNN(**arguments, nonlinearity=kind.removeprefix("rnn_"), dtype=dtype), case.seed)


def torch_layer(case, kind, dtype=torch.float64, **options):
    """A `torch.nn.GRU` or `RNN` of the case, which have no projection."""
    arguments = {name: value for name, value in case.arguments.items() if name != "proj_size"} | options
    if kind == "gru":
        return randomise(nn.GRU(**arguments, dtype=dtype), case.seed)
    return randomise(nn.RNN(**arguments, nonlinearity=kind.removeprefix("rnn_"), dtype=dtype), case.seed)


def sequences_and_state(case, dtype=torch.float64):
    """The sequences, each ``(time, feature)``, in the order of the input, and the initial state shaped as the layer takes it."""
    generator = torch.Generator().manual_seed(1000 + case.seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    sequences = [normal(length, case.input_size) for length in case.lengths]
    batch = () if case.layout == "unbatched" else (len(case.lengths),)
    sizes = case.proj_size or case.hidden_size, case.hidden_size
    state = tuple(normal(len(case.suffixes), *batch, size) for size in sizes)
    return sequences, state if case.initial_state else None


def drawn_states(case, count):
    """The sequences, and for each the first `count` of its initial states, ``(layer * direction, unit)``, zero where the case has none."""
    sequences, state = sequences_and_state(case)
    if state is None:
        sizes = case.proj_size or case.hidden_size, case.hidden_size
        state = [torch.zeros(len(case.suffixes), len(sequences), size, dtype=torch.float64) for size in sizes]
    elif case.layout == "unbatched":
        state = [part.unsqueeze(1) for part in state]
    return sequences, [[part[:, at] for part in state[:count]] for at in range(len(sequences))]


def laid_out(case, sequences):
    """Sequences as the one input of the case."""
    if case.packed:
        return pack_sequence(sequences, enforce_sorted=case.layout == "packed")
    if case.layout == "unbatched":
        return sequences[0]
    return torch.stack(sequences, dim=0 if case.layout == "batch_first" else 1)


def call_of(case, dtype=torch.float64, kind="torch"):
    """The input of the case, and its initial state or None: of an LSTM, or of a kind without a cell."""
    sequences, state = sequences_and_state(case, dtype)
    return laid_out(case, sequences), state[0] if state is not None and kind in WITHOUT_CELL else state


def apart(case, output):
    """The inverse of `laid_out`: each sequence's output, ``(time, unit)``."""
    if isinstance(output, PackedSequence):
        padded = pad_packed_sequence(output, batch_first=True)[0]
        return [rows[:length] for rows, length in zip(padded, case.lengths, strict=True)]
    if case.layout == "unbatched":
        return [output]
    return list(output.unbind(0 if case.layout == "batch_first" else 1))


def slowly(case, module, dtype=torch.float64):
    """What `scalar.run_stack` gives for each sequence of the case as rounded to `dtype`, in the order of the input."""
    sequences, state = sequences_and_state(case, dtype)
    sequences = [sequence.double() for sequence in sequences]
    sizes = (case.proj_size or case.hidden_size, case.hidden_size)[: 1 if isinstance(module, (nn.GRU, nn.RNN)) else 2]
    if state is None:
        states = [tuple(np.zeros((len(case.suffixes), size)) for size in sizes)] * len(sequences)
    elif case.layout == "unbatched":
        states = [state[: len(sizes)]]
    else:
        states = [tuple(of_all[:, at] for of_all in state[: len(sizes)]) for at in range(len(sequences))]
    return [run_stack(module, xs, *start) for xs, start in zip(sequences, states, strict=True)]


def close(actual, expected):
    """float64, to rounding."""
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=1e-12)


def last_states(states):
    """A layer's last states as a tuple, with a cell or without."""
    return (states,) if isinstance(states, torch.Tensor) else tuple(states)


def same_results(case, returned, expected):
    """A layer's output and last states, against what `slowly` gives."""
    output, states = returned
    ends = [state.detach().unsqueeze(1) if case.layout == "unbatched" else state.detach() for state in last_states(states)]
    for at, (rows, (_, slow_rows, *slow_ends)) in enumerate(zip(apart(case, output), expected, strict=True)):
        close(rows.detach(), slow_rows)
        for end, slow in zip(ends, slow_ends, strict=True):
            close(end[:, at], slow)
