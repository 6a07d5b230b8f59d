"""What the layer and a recording cost beside `torch.nn.LSTM`: ``python tests/benchmark.py``.

All candidates of a shape run in turn, in one process, in a new order each round; the table shows medians and their ratios to the
plain `torch.nn.LSTM`. Times on a shared machine vary; ratios within a run less so.
"""

import random
import statistics
import time

import torch

import lstm_explain as lx

ROUNDS = 15
SHAPES = {"a": (1, 200, 32, 64), "b": (32, 100, 64, 128), "c": (32, 256, 128, 256)}


def candidates(inputs, units):
    stock = torch.nn.LSTM(inputs.shape[2], units)
    layers = {
        "nn.LSTM": stock,
        "no peephole": lx.PeepholeLSTM.from_lstm(stock, peephole=None),
        "diagonal": lx.PeepholeLSTM.from_lstm(stock, peephole="diagonal"),
        "full": lx.PeepholeLSTM.from_lstm(stock),
    }

    def forward(layer):
        with torch.no_grad():
            layer(inputs)

    def both(layer):
        layer(inputs)[0].sum().backward()

    def recorded(layer):
        with torch.no_grad(), lx.record(layer):
            layer(inputs)

    for name, layer in layers.items():
        yield f"{name}: forward", lambda layer=layer: forward(layer), "nn.LSTM: forward"
        yield f"{name}: forward and backward", lambda layer=layer: both(layer), "nn.LSTM: forward and backward"
    for name in ("nn.LSTM", "full"):
        yield f"{name}: forward, recorded", lambda layer=layers[name]: recorded(layer), f"{name}: forward"


def main():
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {ROUNDS} rounds")
    for shape, (batch, steps, features, units) in SHAPES.items():
        rows = list(candidates(torch.randn(steps, batch, features), units))
        seconds = {name: [] for name, _, _ in rows}
        for round_ in range(ROUNDS + 1):
            for name, run, _ in random.sample(rows, len(rows)):
                began = time.perf_counter()
                run()
                if round_:
                    seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"\n{shape}: batch {batch}, {steps} steps, {features} features, {units} units")
        for name, _, beside in rows:
            print(f"  {name:38} {1e3 * medians[name]:9.2f} ms   {medians[name] / medians[beside]:6.2f} x {beside}")


if __name__ == "__main__":
    main()
