"""What probing costs, and how often it is wrong where there is nothing to find: ``python tests/benchmark_probing.py``.

``--part cost``: 256 units, 8 labels, 5 untrained twins, a window and a control task, at 10^5 and 10^6 steps, each in a process of its own.
Time is the clock's and, since others may share the machine, the process's own on all its cores; memory is the process's highest,
and what of it was there before the first step. About 20,000 steps are kept at either length, so that memory should not grow.

``--part wrong``: units, twins, inputs and labels that have nothing to do with each other, all of them slow, 200 times: the share of
p-values of at most 5 %, and of verdicts that say *shown*. The test `test_false_positives.py` draws fewer.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from probed import as_label, falsely_shown, planted, slow_waves

import lstm_explain as lx

UNITS, TWINS, GROUPS, BATCH, TIME, KEPT = 256, 5, 20, 10, 1000, 20_000
KINDS = ("binary",) * 4 + ("continuous",) * 3 + ("categorical",)


def peak():
    """The process's highest memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cost(steps):
    """One row of the table: a stream of so many steps."""
    from sklearn.linear_model import LogisticRegression

    rng, before = np.random.default_rng(0), peak()
    assert LogisticRegression
    stream = lx.Probing(range(GROUPS), stride=max(1, steps // KEPT))
    collecting = own = 0.0
    for at in range(steps // (BATCH * TIME)):
        waves = slow_waves(rng, BATCH, TIME, len(KINDS))
        labels = {f"{kind} {n}": as_label(kind, waves[:, :, n]) for n, kind in enumerate(KINDS)}
        symbols = rng.integers(0, 20, (BATCH, TIME))
        states = rng.standard_normal((1 + TWINS, BATCH, TIME, UNITS), dtype=np.float32)
        states[0, :, :, : len(KINDS)] += waves / 2
        recording, *twins = (planted(one) for one in states)
        began, used = time.perf_counter(), time.process_time()
        groups = [(at * BATCH + row) % GROUPS for row in range(BATCH)]
        stream.update(recording, labels, groups, untrained=twins, inputs=torch.as_tensor(symbols), types=symbols)
        collecting, own = collecting + time.perf_counter() - began, own + time.process_time() - used
    collected, began, used = peak(), time.perf_counter(), time.process_time()
    result = stream.compute(progress=False)
    fitting, own = time.perf_counter() - began, own + time.process_time() - used
    kept = next(iter(result.labels.values())).steps
    seconds, memory = (collecting, fitting, own), (before, collected, peak())
    print(row(f"{steps:,}", f"{kept:,}", *(f"{one:.1f}" for one in seconds), *(f"{one:.0f}" for one in memory)), flush=True)


def row(*cells):
    """One line of the table of costs."""
    return "".join(f"{cell:>15}" for cell in cells)


def wrong(draws):
    """The table of false positives, by kind of label."""
    print(f"{'kind':<14}{'draws':>7}{'p <= .05':>10}{'shown':>8}")
    for kind in ("binary", "continuous", "categorical"):
        small, shown = np.mean([falsely_shown(seed, kind) for seed in range(draws)], axis=0)
        print(f"{kind:<14}{draws:>7}{small:>10.3f}{shown:>8.3f}", flush=True)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("cost", "wrong"))
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--steps", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--alone", action="store_true", help="one length, in this process")
    options = parser.parse_args()
    if options.alone:
        return cost(options.steps[0])
    if options.part != "wrong":
        print(row("steps", "kept", "collecting, s", "fitting, s", "own, s", "at first, MB", "collected, MB", "peak, MB"), flush=True)
        for steps in options.steps:
            subprocess.run([sys.executable, __file__, "--alone", "--steps", str(steps)], check=True)
    if options.part != "cost":
        wrong(options.draws)


if __name__ == "__main__":
    main()
