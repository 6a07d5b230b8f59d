"""How often the toolkit claims what isn't so, and finds what is: `python tests/error_rates.py [--draws 200] [--part NAME]`.

Units and labels that drift slowly and have nothing to do with each other go through every test that prints a p-value or a verdict; at 5 %
at most one in ten may be false, of single units as of families. And networks of which all is known must be found out, whatever their seed.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from planted_latch import Latched

import lstm_explain as lx
from lstm_explain.report import verification
from lstm_explain.report.measure import Clock, measure
from lstm_explain.studies import planted

BATCH, TIME = 12, 60


def drifting(rng, *shape):
    """Series that forget a twentieth at each step, ``(..., time)``."""
    found = np.zeros(shape)
    found[..., 0] = rng.normal(size=shape[:-1]) / np.sqrt(1 - 0.95**2)
    for t in range(1, shape[-1]):
        found[..., t] = 0.95 * found[..., t - 1] + rng.normal(size=shape[:-1])
    return found


def series(seed, units):
    rng = np.random.default_rng(seed)
    states = drifting(rng, units, BATCH, TIME).transpose(1, 2, 0).reshape(-1, units)
    return states, drifting(rng, BATCH, TIME), np.repeat(np.arange(BATCH), TIME)


def random_network(seed, units):
    """A network, its inputs, and a label and a loss that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(0.3 * drifting(rng, BATCH, 4, TIME).transpose(0, 2, 1))
    label = drifting(rng, BATCH, TIME)
    model = Latched(units, latches=(), read=lambda latches, rest: 10 * rest, seed=seed)
    wanted = torch.from_numpy(label)
    return model, inputs, label, lambda output, rows: (output[..., 0] - wanted[rows]).square()


def unit_scores(seed):
    states, label, sequence = series(seed, 256)
    found = lx.unit_scores(states, label.ravel() > 0, groups=sequence, permutations=199, seed=seed)
    return {"unit scores: one unit of 256": found.p_values[0] <= 0.05, "unit scores: any of 256": found.p_values_family.min() <= 0.05}


def description_length(seed):
    states, label, sequence = series(seed, 4)
    found = lx.description_length(states, label.ravel(), groups=sequence, seed=seed)
    return {"description length": found.p_value <= 0.05}


def probe(seed):
    model, inputs, label, _ = random_network(seed, 12)
    with torch.no_grad():
        with lx.record(model, lengths=[TIME] * BATCH) as recording:
            model(inputs)
        twins = []
        for twin in (lx.untrained(model, seed=seed + one) for one in range(5)):
            with lx.record(twin, lengths=[TIME] * BATCH) as control:
                twin(inputs)
            twins.append(control)
    controls = {"untrained": twins, "window": inputs}
    found = lx.probe(recording, {"yes": label > 0}, controls=controls, resamples=200, permutations=99, seed=seed).labels["yes"]
    return {"probe: p-value": found.p_value <= 0.05, "probe: shown": found.verdict == "shown"}


def verify(seed, units=12, donors=1):
    model, inputs, label, loss = random_network(seed, units)
    claims = [lx.Claim("lstm.l0", unit, "drift") for unit in range(units)]
    found = lx.verify(
        claims, model, inputs, {"drift": label}, loss=loss, donors=donors, resamples=500, permutations=99, seed=seed, progress=False
    )
    legs = {
        f"verify, {units} claims: any {leg}": any(one.legs[at] == "shown" for one in found.claims)
        for at, leg in enumerate(("knows", "is used", "suffices"))
    }
    return legs | {f"verify, {units} claims: any verified": bool(found.verified)}


def verify_many(seed):
    return verify(seed, units=256)


def report(seed):
    """A random network and labels that have nothing to do with it, through the report's own measuring and sections."""
    model, inputs, label, loss = random_network(seed, 12)
    other = drifting(np.random.default_rng(50_000 + seed), BATCH, TIME)
    study = lx.Study(
        model, inputs, lengths=[TIME] * BATCH, labels={"number": label, "yes": other > 0}, loss=loss, groups=list(range(BATCH))
    )
    measured = measure(study, torch.device("cpu"), Clock(), seed=seed, quiet=True)
    found = measured.probing.labels.values()
    claims = verification.section(study, measured).numbers
    return {
        "report: any of 2 labels shown": any(one.verdict == "shown" for one in found),
        "report: any shown at long range": any(one.verdict_long_range == "shown" for one in found),
        "report: any claim verified": claims["verified"] > 0,
    }


def known(seed):
    study = planted.make(seed)
    result = lx.verify(study.claims, study.model, study.inputs, study.labels, loss=study.loss, lengths=study.lengths, progress=False)
    copies = [result[one].verdict for one in planted.network(seed).copies]
    first = {one.label: next(found.claim for found in result.ranked if found.claim.label == one.label) for one in study.planted}
    return {
        "planted: all six found": set(result.verified) >= set(study.planted),
        "planted: something else claimed": bool(set(result.verified) - set(study.planted)),
        "planted: each first of 64 by verify": all(first[one.label] == one for one in study.planted),
        "planted: all copies correlated only": copies == ["correlated only"] * 6,
    }


PARTS = {
    "unit_scores": unit_scores,
    "description_length": description_length,
    "probe": probe,
    "verify": verify,
    "verify_many": verify_many,
    "report": report,
    "planted": known,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--part", choices=PARTS, action="append", help="all, if left out")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{'what':44} {'of draws':>9} {'share':>7} {'seconds':>8}")
    for part in given.part or PARTS:
        draws = min(given.draws, 20) if part == "planted" else given.draws
        began, count = time.perf_counter(), {}
        for seed in range(draws):
            for name, happened in PARTS[part](1000 + seed if part != "planted" else seed).items():
                count[name] = count.get(name, 0) + bool(happened)
        for name, times in count.items():
            print(f"{name:44} {times:4} of {draws:<3} {times / draws:6.1%} {time.perf_counter() - began:8.0f}", flush=True)


if __name__ == "__main__":
    main()
