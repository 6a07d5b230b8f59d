"""What the layer and a recording cost beside PyTorch's own pass: ``python tests/benchmark.py``.

All candidates of a shape run in turn, in one process, in a new order each round; the tables show medians and their ratios to the
pass of `torch.nn.LSTM` or of the layer itself. Times on a shared machine vary; ratios within a run less so. With one thread it is the
thread's own time that counts, which others can't take away; with several it is the clock's. Less is run by
``--part layer --shapes ab --threads 1``.
"""

import argparse
import os
import random
import statistics
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lstm_explain as lx
from lstm_explain.analyses.attribution import methods

SHAPES = {"a": (1, 200, 32, 64), "b": (32, 100, 64, 128), "c": (32, 256, 128, 256), "d": (64, 512, 64, 512)}
GOALS = {
    ("diagonal", "forward"): {"a": 0.85, "b": 0.85, "c": 0.85, "d": 1.0},
    ("diagonal", "both"): dict.fromkeys("abcd", 0.95),
    ("full", "forward"): dict.fromkeys("abc", 1.25),
    ("full", "both"): dict.fromkeys("abc", 1.25),
    ("full, by PyTorch", "both"): {"a": 8.0, "b": 2.5, "c": 2.5},
    ("diagonal", "recorded"): dict.fromkeys("abcd", 1.05),
    ("full", "recorded"): dict.fromkeys("abcd", 1.05),
    ("diagonal", "recorded, fast"): dict.fromkeys("abcd", 1.05),
    ("full", "recorded, fast"): dict.fromkeys("abcd", 1.05),
    **{(name, "recorded, fast"): dict.fromkeys("abc", 1.0) for name in ("nn.LSTM", "nn.LSTM, 2 layers", "nn.LSTM, 2 directions")},
    ("classifier", "cell_decomposition"): dict.fromkeys("abc", 3.0),
    ("nn.LSTM", "saturation and timescale on the way"): dict.fromkeys("bc", 1.05),
    ("nn.LSTM", "recorded"): dict.fromkeys("abc", 2.3),
    ("nn.LSTM", "recorded, gradients on"): {"a": 1.3, "b": 1.3, "c": 1.6},
    ("nn.LSTM, 2 layers", "recorded"): dict.fromkeys("abc", 3.0),
    ("nn.LSTM, 2 directions", "recorded"): dict.fromkeys("abc", 3.0),
    ("nn.LSTM, 8 examples", "fused"): {"-": 0.33},
    ("nn.LSTM, 8 examples", "refined from 8 nodes"): {"-": 0.15},
    ("nn.LSTM, 1 example", "refined from 8 nodes"): {"-": 0.4},
    **{(f"nn.LSTM, {examples}", "refined from 8 nodes, in PyTorch"): {"-": 0.5} for examples in ("8 examples", "1 example")},
}
STOCK = {
    "nn.LSTM": lambda features, units: nn.LSTM(features, units),
    "nn.LSTM, 2 layers": lambda features, units: nn.LSTM(features, units, 2),
    "nn.LSTM, 2 directions": lambda features, units: nn.LSTM(features, units, bidirectional=True),
    "nn.GRU": lambda features, units: nn.GRU(features, units),
    "nn.RNN": lambda features, units: nn.RNN(features, units),
}


class Loop(nn.Module):
    """What people write to have peepholes, or to see every cell state: a cell, called step by step, its states kept."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, inputs):
        state, kept = None, []
        for x in inputs:
            state = self.cell(x, state)
            kept.append(state)
        return [torch.stack(states) for states in zip(*kept, strict=True)]


@contextmanager
def by_pytorch():
    os.environ["LSTM_EXPLAIN_BACKEND"] = "torch"
    try:
        yield
    finally:
        del os.environ["LSTM_EXPLAIN_BACKEND"]


def forward(layer, inputs):
    with torch.no_grad():
        layer(inputs)


def both(layer, inputs, slope):
    layer(inputs.requires_grad_())[0].backward(slope)
    inputs.grad = None
    layer.zero_grad()
    inputs.requires_grad_(False)


def recorded(layer, inputs, **options):
    with torch.no_grad(), lx.record(layer, **options):
        layer(inputs)


def on_the_way(layer, inputs, streams):
    recorded(layer, inputs, into=[stream() for stream in streams])


class Traced(TorchDispatchMode):
    """What tools that look at operations do: every result of every one is kept, by its name."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.kept.append((str(func), result))
        return result


def traced(model, inputs):
    with torch.no_grad(), Traced():
        model(inputs)


def layers(inputs, units, shape):
    """The layer itself: rows of what it is, what it does, the function, and which row it is measured by."""
    stock, slope = nn.LSTM(inputs.shape[2], units), torch.randn(*inputs.shape[:2], units)
    forms = {
        "nn.LSTM": stock,
        "no peephole": lx.PeepholeLSTM.from_lstm(stock, peephole=None),
        "diagonal": lx.PeepholeLSTM.from_lstm(stock, peephole="diagonal"),
        "diagonal, graves": lx.PeepholeLSTM.from_lstm(stock, peephole="diagonal", wiring="graves"),
        "full": lx.PeepholeLSTM.from_lstm(stock),
    }
    for name, layer in forms.items():
        yield name, "forward", lambda layer=layer: forward(layer, inputs), ("nn.LSTM", "forward")
        yield name, "both", lambda layer=layer: both(layer, inputs, slope), ("nn.LSTM", "both")
        if name in ("diagonal", "full"):
            yield name, "recorded", lambda layer=layer: recorded(layer, inputs), (name, "forward")
            yield name, "recorded, fast", lambda layer=layer: recorded(layer, inputs, fast=True), (name, "forward")
    if shape == "d":  # half a minute each
        return

    def in_pytorch():
        with by_pytorch():
            both(forms["full"], inputs, slope)

    cell = Loop(lx.PeepholeLSTMCell(inputs.shape[2], units, peephole="diagonal"))
    yield "full, by PyTorch", "both", in_pytorch, ("nn.LSTM", "both")
    yield "diagonal, a cell in a loop", "both", lambda: both(cell, inputs, slope), ("nn.LSTM", "both")


def recordings(inputs, units, shape):
    """A recording: by replay, and from the workspace where gradients are on; beside the plain pass in the same mode."""
    if shape == "d":
        return
    for name, make in STOCK.items():
        layer = make(inputs.shape[2], units)
        yield name, "plain", lambda layer=layer: forward(layer, inputs), (name, "plain")
        yield name, "recorded", lambda layer=layer: recorded(layer, inputs), (name, "plain")
        yield name, "recorded, fast", lambda layer=layer: recorded(layer, inputs, fast=True), (name, "plain")
        if isinstance(layer, nn.LSTM):
            yield name, "plain, gradients on", lambda layer=layer: layer(inputs), (name, "plain, gradients on")
            yield name, "recorded, gradients on", lambda layer=layer: with_gradients(layer, inputs), (name, "plain, gradients on")
    stock, loop = nn.LSTM(inputs.shape[2], units), Loop(nn.LSTMCell(inputs.shape[2], units))
    streamed = {"saturation and timescale": (lx.Saturation, lx.Timescale), "saturation": (lx.Saturation,)}
    for what, streams in streamed.items():
        yield "nn.LSTM", f"{what} on the way", partial(on_the_way, stock, inputs, streams), ("nn.LSTM", "recorded")
    yield "LSTMCell loop that keeps h and c", "plain", lambda: forward(loop, inputs), ("nn.LSTM", "plain")
    yield "LSTMCell loop", "every operation traced", lambda: traced(loop, inputs), ("nn.LSTM", "plain")


def costs(inputs, units):
    """For the README's picture: what it takes to run a layer and to see its gates, beside a forward pass of `torch.nn.LSTM`."""
    stock = nn.LSTM(inputs.shape[2], units)
    diagonal, full = (lx.PeepholeLSTM.from_lstm(stock, peephole=peephole) for peephole in ("diagonal", "full"))
    loop = Loop(nn.LSTMCell(inputs.shape[2], units))
    yield "torch.nn.LSTM", lambda: forward(stock, inputs)
    yield "PeepholeLSTM, diagonal", lambda: forward(diagonal, inputs)
    yield "PeepholeLSTM, full matrices", lambda: forward(full, inputs)
    yield "torch.nn.LSTM, recorded with fast=True", lambda: recorded(stock, inputs, fast=True)
    yield "torch.nn.LSTM, recorded, every step certified", lambda: recorded(stock, inputs)
    yield "an LSTMCell in a loop, h and c kept", lambda: forward(loop, inputs)
    yield "an LSTMCell in a loop, every operation traced", lambda: traced(loop, inputs)


def drawn(path, shape, rounds):
    """The picture of `costs`, on as many threads as PyTorch has."""
    from lstm_explain.plots import panels

    batch, steps, features, units = SHAPES[shape]
    rows = [(name, "", run) for name, run in costs(torch.randn(steps, batch, features), units)]
    seconds = measured(rows, rounds)
    medians = [seconds[name, ""] / seconds[rows[0][0], ""] for name, *_ in rows]
    figure, (ax,) = panels(8.0, 3.4)
    names = [name for name, *_ in rows]
    bars = ax.barh(names, medians, color=["0.6" if "LSTMCell" in name or name == "torch.nn.LSTM" else "C0" for name in names])
    ax.bar_label(bars, [f"{value:.2f} x" for value in medians], padding=3)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.margins(x=0.12)
    sizes = f"batch {batch}, {steps} steps, {features} features, {units} units"
    ax.set(xlabel=f"time, in forward passes of torch.nn.LSTM: {sizes}, {torch.get_num_threads()} threads")
    every, certified = (medians[next(at for at, name in enumerate(names) if word in name)] for word in ("fast=True", "certified"))
    ax.set_title(f"Every gate at every step of torch.nn.LSTM: {every:.1f} forward passes, certified {certified:.1f}")
    figure.savefig(path, bbox_inches="tight")
    print(path)


def with_gradients(layer, inputs):
    with lx.record(layer):
        layer(inputs)


def growth(*_):
    """Time for each step of 16 sequences, 128 units, as they get longer; it should stay what it is."""
    layer = lx.PeepholeLSTM(128, 128, peephole="diagonal")
    for steps in (64, 256, 1024, 4096):
        inputs, slope = torch.randn(steps, 16, 128), torch.randn(steps, 16, 128)
        for what, run in (("forward", lambda x=inputs: forward(layer, x)), ("both", lambda x=inputs, s=slope: both(layer, x, s))):
            yield f"{steps} steps", what, run, ("64 steps", what), steps / 64


class LastStep(nn.Module):
    """A classifier that reads the last hidden state."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, 3)

    def forward(self, inputs):
        return self.head(self.layer(inputs)[0][:, -1])


def attributions(*_):
    """Integrated gradients with 50 nodes beside Captum's with as many, its default; and refined until they add up, `attribute`'s own."""
    from captum.attr import IntegratedGradients

    stock = nn.LSTM(64, 128, batch_first=True)
    for kind, layer in (("nn.LSTM", stock), ("full", lx.PeepholeLSTM.from_lstm(stock))):
        model = LastStep(layer).eval()
        for inputs in (torch.randn(8, 100, 64), torch.randn(1, 100, 64)):
            name = f"{kind}, {len(inputs)} example{'s' if len(inputs) > 1 else ''}"

            def by_captum(model=model, inputs=inputs):
                return IntegratedGradients(model).attribute(inputs, target=1, n_steps=50, method="gausslegendre")

            def nodes(fused, kernels=True, model=model, inputs=inputs):
                at_once, as_it_is = patch.object(methods, "FEWEST_NODES", 50), patch.object(methods, "FEWEST_FUSED", 50 if fused else 51)
                with at_once, as_it_is:
                    if kernels:
                        return lx.attribute(model, inputs, target=1, n_steps=50).attributions
                    with by_pytorch():
                        return lx.attribute(model, inputs, target=1, n_steps=50).attributions

            found = torch.as_tensor(nodes(True))
            print(f"  {name + ': fused':54} differs from Captum's by {float((found - by_captum()).abs().max()):.0e} at most")
            beside = name, "Captum"
            yield *beside, by_captum, beside
            yield name, "in PyTorch", lambda nodes=nodes: nodes(False, False), beside
            yield name, "by kernels", lambda nodes=nodes: nodes(False), beside
            yield name, "fused", lambda nodes=nodes: nodes(True), beside

            def refined(kernels=True, model=model, inputs=inputs):
                with nullcontext() if kernels else by_pytorch():
                    return lx.attribute(model, inputs, target=1)

            words, most = {True: "refined from 8 nodes", False: "refined from 8 nodes, in PyTorch"}, 0
            for kernels, what in words.items():
                result = refined(kernels)
                most = max(most, *result.settings["n_steps"])
                print(f"  {f'{name}: {what}':54} leaves {float(result.relative_delta.max()):.0e} of the difference of outputs")
                yield name, what, partial(refined, kernels), beside

            def as_many(nodes=most, model=model, inputs=inputs):
                return IntegratedGradients(model).attribute(inputs, target=1, n_steps=nodes, return_convergence_delta=True)

            for nodes in (50, most):
                left = (as_many(nodes)[1].abs() / torch.as_tensor(result.output - result.baseline_output).abs()).max()
                print(f"  {f'{name}: Captum, {nodes} nodes':54} leaves {float(left):.0e}")
            yield name, f"Captum, {most} nodes", as_many, beside


def decompositions(inputs, units, shape):
    """Decompositions of a classifier's output, in its forward passes."""
    if shape == "d":
        return
    model, x = LastStep(nn.LSTM(inputs.shape[2], units, batch_first=True)).eval(), inputs.transpose(0, 1).contiguous()
    plain = "classifier", "forward"
    yield *plain, lambda: forward(model, x), plain
    for method in ("cell_decomposition", "lrp", "integrated_gradients"):
        yield "classifier", method, partial(lx.attribute, model, x, target=1, method=method), plain


def measured(rows, rounds):
    """Median seconds of each row, interleaved."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = {row[:2]: [] for row in rows}
    for round_ in range(rounds + 2):  # the first learn shapes and warm up
        for name, what, run, *_ in random.sample(rows, len(rows)):
            began = clock()
            run()
            if round_ > 1:
                seconds[name, what].append(clock() - began)
    return {key: statistics.median(values) for key, values in seconds.items()}


def shown(rows, rounds, goals):
    medians = measured(rows, rounds)
    for name, what, _, beside, *times in rows:
        ratio, goal = medians[name, what] / medians[beside] / (times[0] if times else 1), goals.get((name, what))
        words = f"{ratio:8.2f} x {', '.join(beside)}" + (f"   goal {goal}" if goal else "")
        print(f"  {name + ': ' + what:54} {1e3 * medians[name, what]:9.2f} ms {words}", flush=True)


def ceilings():
    """What the machine does at most: products of matrices, and filling memory that has been used before."""
    one, other, big = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.empty(1 << 25)
    rows = [("product", "", lambda: one @ other, ("product", "")), ("fill", "", lambda: big.fill_(1.0), ("fill", ""))]
    found = measured(rows, 9)
    return (
        f"{2 * 1024**3 / found['product', ''] / 1e9:.0f} GFLOP/s in products, {big.numel() * 4 / found['fill', ''] / 1e9:.1f} GB/s written"
    )


PARTS = {"layer": layers, "recording": recordings, "growth": growth, "attribution": attributions, "decomposition": decompositions}
WITHOUT_SHAPE = ("growth", "attribution")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--shapes", default="abcd")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--figure", help="draw what layers and recordings cost at shape b, and stop")
    chosen = parser.parse_args()
    if chosen.figure:
        drawn(chosen.figure, "b", chosen.rounds)
        return
    print(f"torch {torch.__version__}; {lx.backend()}; medians of {chosen.rounds} rounds; both: forward and backward")
    for threads in chosen.threads or (1, 2):
        torch.set_num_threads(threads)
        print(f"\n{threads} thread{'s' if threads > 1 else ''}: {ceilings()}")
        for part in chosen.part or PARTS:
            for shape in "-" if part in WITHOUT_SHAPE else chosen.shapes:
                batch, steps, features, units = SHAPES.get(shape, (1, 1, 1, 1))
                rows = list(PARTS[part](torch.randn(steps, batch, features), units, shape))
                if rows:
                    sizes = f"{shape}: batch {batch}, {steps} steps, {features} features, {units} units"
                    print(f"\n{part}" + (f", {sizes}" if part not in WITHOUT_SHAPE else ""))
                    goals = {key: goal[shape] for key, goal in GOALS.items() if shape in goal}
                    shown(rows, chosen.rounds, goals)


if __name__ == "__main__":
    main()
