"""What the layer and a recording cost beside PyTorch's own pass: ``python tests/benchmark.py``.

All candidates of a shape run in turn, in one process, in a new order each round; the tables show medians and their ratios to the
plain pass named beside them. Times on a shared machine vary; ratios within a run less so.
"""

import random
import statistics
import time

import torch
from torch import nn

import lstm_explain as lx

ROUNDS = 15
SHAPES = {"a": (1, 200, 32, 64), "b": (32, 100, 64, 128), "c": (32, 256, 128, 256)}


LAYERS = {
    "nn.LSTM": lambda features, units: nn.LSTM(features, units),
    "nn.LSTM, 2 layers": lambda features, units: nn.LSTM(features, units, 2),
    "nn.LSTM, 2 directions": lambda features, units: nn.LSTM(features, units, bidirectional=True),
    "nn.GRU": lambda features, units: nn.GRU(features, units),
    "nn.RNN": lambda features, units: nn.RNN(features, units),
    "full": lambda features, units: lx.PeepholeLSTM(features, units),
}


class Loop(nn.Module):
    """What people write to see every cell state: a cell, called step by step, its states kept."""

    def __init__(self, features, units):
        super().__init__()
        self.cell = nn.LSTMCell(features, units)

    def forward(self, inputs):
        state, kept = None, []
        for x in inputs:
            state = self.cell(x, state)
            kept.append(state)
        return [torch.stack(states) for states in zip(*kept, strict=True)]


def layers(inputs, units):
    """The layer itself, forward and backward."""
    stock = nn.LSTM(inputs.shape[2], units)
    forms = {
        "nn.LSTM": stock,
        "no peephole": lx.PeepholeLSTM.from_lstm(stock, peephole=None),
        "diagonal": lx.PeepholeLSTM.from_lstm(stock, peephole="diagonal"),
        "full": lx.PeepholeLSTM.from_lstm(stock),
    }
    for name, layer in forms.items():
        yield f"{name}: forward", lambda layer=layer: without_gradients(layer, inputs), "nn.LSTM: forward"
        yield f"{name}: forward and backward", lambda layer=layer: layer(inputs)[0].sum().backward(), "nn.LSTM: forward and backward"


def recordings(inputs, units):
    """A recording: by replay, and from the workspace where gradients are on; beside the plain pass in the same mode."""
    for name, make in LAYERS.items():
        layer = make(inputs.shape[2], units)
        yield f"{name}: plain", lambda layer=layer: without_gradients(layer, inputs), f"{name}: plain"
        yield f"{name}: recorded", lambda layer=layer: without_gradients(layer, inputs, True), f"{name}: plain"
        if isinstance(layer, nn.LSTM):
            yield f"{name}: plain, gradients on", lambda layer=layer: layer(inputs), f"{name}: plain, gradients on"
            yield f"{name}: recorded, gradients on", lambda layer=layer: recorded(layer, inputs), f"{name}: plain, gradients on"
    loop = Loop(inputs.shape[2], units)
    yield "LSTMCell loop that keeps h and c", lambda: without_gradients(loop, inputs), "nn.LSTM: plain"


def recorded(layer, inputs):
    with lx.record(layer):
        layer(inputs)


def without_gradients(layer, inputs, record=False):
    with torch.no_grad():
        recorded(layer, inputs) if record else layer(inputs)


def measured(rows):
    """Median seconds of each row, interleaved."""
    seconds = {name: [] for name, _, _ in rows}
    for round_ in range(ROUNDS + 2):  # the first learn shapes and warm up
        for name, run, _ in random.sample(rows, len(rows)):
            began = time.perf_counter()
            run()
            if round_ > 1:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {ROUNDS} rounds")
    for shape, (batch, steps, features, units) in SHAPES.items():
        inputs = torch.randn(steps, batch, features)
        print(f"\n{shape}: batch {batch}, {steps} steps, {features} features, {units} units")
        for table in (layers, recordings):
            rows = list(table(inputs, units))
            medians = measured(rows)
            for name, _, beside in rows:
                print(f"  {name:44} {1e3 * medians[name]:9.2f} ms   {medians[name] / medians[beside]:6.2f} x {beside}")


if __name__ == "__main__":
    main()
