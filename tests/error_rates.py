"""How often the toolkit claims what isn't so, and finds what is: `python tests/error_rates.py [--draws 200] [--part NAME]`.

Units and labels that drift slowly and have nothing to do with each other go through every test that prints a p-value or a verdict; at 5 %
at most one in ten may be false, of single units as of families; *not controlled* claims nothing and is counted beside it. What judges units
without labels gets few sequences, many short ones and one long series, and a mixed set as well: units that forget at once and that hardly
forget, half of them switches. And networks of which all is known must be found out, whatever their seed.
"""

import argparse
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from mechanisms import blank
from planted_latch import Latched

import lstm_explain as lx
from lstm_explain.report import verification
from lstm_explain.report.measure import Clock, measure
from lstm_explain.studies import planted

BATCH, TIME = 12, 60
FEW_STEPS = 20
"""Where each of many units is held in a pass of its own."""
SHAPES = ((BATCH, TIME), (24, 20), (1, 720))
"""Of recordings of units without labels: sequences and steps."""
PIECES = (12, 1000)
"""Of one series that is recorded in pieces, much longer than units remember that forget a twentieth at each step."""


def drifting(rng, *shape):
    """Series that forget a twentieth at each step, ``(..., time)``."""
    found = np.zeros(shape)
    found[..., 0] = rng.normal(size=shape[:-1]) / np.sqrt(1 - 0.95**2)
    for t in range(1, shape[-1]):
        found[..., t] = 0.95 * found[..., t - 1] + rng.normal(size=shape[:-1])
    return found


def mixed(rng, batch, steps, units):
    """Units ``(batch, time, unit)`` that forget from a hundredth to all at each step; every other one is a switch between two values."""
    kept = np.linspace(0, 0.99, units)
    found = rng.normal(size=(batch, steps, units))
    for t in range(1, steps):
        found[:, t] = kept * found[:, t - 1] + np.sqrt(1 - kept**2) * found[:, t]
    found[:, :, ::2] = np.sign(found[:, :, ::2])
    return found


def unrelated(seed, units):
    """Recordings of units that have nothing to do with each other, by what they are like."""
    rng, found = np.random.default_rng(seed), {}
    for batch, steps in SHAPES:
        found[f"drifting units, {batch} x {steps}"] = recorded(drifting(rng, batch, units, steps).transpose(0, 2, 1))
        found[f"mixed units, {batch} x {steps}"] = recorded(mixed(rng, batch, steps, units))
    return found


def in_pieces(seed, units):
    pieces, steps = PIECES
    series = drifting(np.random.default_rng(seed), units, pieces * steps).T
    return {f"drifting units, {pieces} pieces of {steps}": recorded(series.reshape(pieces, steps, units))}


def recorded(values):
    """A recording whose cell state is what is given, ``(batch, time, unit)``."""
    batch, steps, units = values.shape
    model = blank(1, units)
    with torch.no_grad(), lx.record(model, lengths=[steps] * batch) as recording:
        model(torch.zeros(batch, steps, 1, dtype=torch.float64))
    return {"l0": replace(recording["l0"], signals={"cell_state": torch.from_numpy(np.ascontiguousarray(values))})}


def series(seed, units):
    rng = np.random.default_rng(seed)
    states = drifting(rng, units, BATCH, TIME).transpose(1, 2, 0).reshape(-1, units)
    return states, drifting(rng, BATCH, TIME), np.repeat(np.arange(BATCH), TIME)


def random_network(seed, units, time=TIME):
    """A network, its inputs, and a label and a loss that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(0.3 * drifting(rng, BATCH, 4, time).transpose(0, 2, 1))
    label = drifting(rng, BATCH, time)
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


def shown(result):
    """Whether a result claims something; None where it isn't controlled."""
    return None if result.verdict == "not controlled" else result.verdict == "shown"


def correlations(seed):
    found = unrelated(seed, 256) | in_pieces(seed, 256)
    return {f"correlations: any pair of 256 {name}": shown(lx.correlations(one, seed=seed)) for name, one in found.items()}


def components(seed):
    found = unrelated(seed, 256) | in_pieces(seed, 256)
    counts = {name: lx.components(one, seed=seed).layers["l0"].above_chance for name, one in found.items()}
    return {f"components: any, 256 {name}": None if count is None else count > 0 for name, count in counts.items()}


def selection(seed):
    """A span at a random place, where two units at least are on; and how often these are together elsewhere."""
    found, rng = {}, np.random.default_rng(seed)
    for name, recording in unrelated(seed, 256).items():
        batch, steps = recording["l0"].valid.shape
        for attempt in range(1000):
            length = int(rng.integers(1, 5))
            start = int(rng.integers(steps - length))
            span = (int(rng.integers(batch)), start, start + length)
            one = lx.select(recording, span, draws=199, seed=seed)
            if not attempt:
                found[f"select: 256 {name}"] = shown(one)
            if len(one.units) > 1:
                break
        few = replace(one, units=one.units[:2], signs=one.signs[:2], values=one.values[:2])
        for how, selected in (("all", one), ("two", few)):
            found[f"match: {how} of those selected, {name}"] = shown(lx.match(recording, selected, seed=seed))
    return found


def sparse_probe(seed):
    states, label, sequence = series(seed, 16)
    twin = series(100_000 + seed, 16)[0]
    found = lx.sparse_probe(states, label.ravel() > 0, groups=sequence, controls={"untrained": twin}, resamples=200, seed=seed)
    return {
        "sparse probe: a count above chance": found.above_chance,
        "sparse probe: any count above its twin": any(one.low > 0 for one in found.above),
        "sparse probe: the best count above its twin": found.above[found.counts.index(found.best)].low > 0,
    }


def ablation(seed):
    """What a unit does to an output that is multiplied by a number that has nothing to do with it: nothing, on average."""
    model, inputs, label, _ = random_network(seed, 256, FEW_STEPS)
    factor = torch.from_numpy(label)
    other = drifting(np.random.default_rng(50_000 + seed), BATCH, FEW_STEPS) > 0
    found = lx.ablation(
        model,
        inputs,
        "lstm.l0",
        loss=lambda output, rows: output[..., 0] * factor[rows],
        by={"yes": other},
        resamples=500,
        seed=seed,
        progress=False,
    )
    return {
        "ablation: any of 256 units": found.effects.shown.any(),
        "ablation: any of 256 units, by label": any(one.shown.any() for one in found.by["yes"].values()),
    }


def attributions(seed):
    """Attributions of a random network's last output that say nothing of it: independent from step to step, and drifting."""
    model, inputs, _, _ = random_network(seed, 12)
    rng = np.random.default_rng(70_000 + seed)
    own = lx.attribute(model, inputs, target=(-1, 0))
    found, said = {}, {"white": rng.normal(size=inputs.shape), "drifting": drifting(rng, BATCH, 4, TIME).transpose(0, 2, 1)}
    for name, values in said.items():
        one = lx.faithfulness(
            model, inputs, replace(own, attributions=values), twins=0, perturbations=0, draws=2, subsets=16, resamples=500, seed=seed
        )
        for control, claims in one.claims.items():
            found[f"faithfulness, {name}: any above {control}"] = claims.shown.any()
        found[f"faithfulness, {name}: shown"] = one.shown
        both = lx.compare_attributions(
            {"one": replace(own, attributions=values), "other": replace(own, attributions=rng.permutation(values))},
        )
        found[f"comparison, {name}: interval without 0"] = both.signed.low[0, 1] > 0 or both.signed.high[0, 1] < 0
    return found


def verify(seed, units=12, time=TIME, donors=1):
    model, inputs, label, loss = random_network(seed, units, time)
    claims = [lx.Claim("lstm.l0", unit, "drift") for unit in range(units)]
    found = lx.verify(
        claims, model, inputs, {"drift": label}, loss=loss, donors=donors, resamples=500, permutations=99, seed=seed, progress=False
    )
    legs = {
        f"verify, {units} claims: any {leg}": any(one.legs[at] == "shown" for one in found.claims)
        for at, leg in enumerate(("knows", "is used", "suffices"))
    }
    passed = any(one.used.above.family_low > 0 for one in found.claims)
    return legs | {
        f"verify, {units} claims: any passes its matched": passed,
        f"verify, {units} claims: any verified": bool(found.verified),
    }


def verify_many(seed):
    return verify(seed, units=256, time=FEW_STEPS)


class Alike(nn.Module):
    """An LSTM whose units each read a number of their own, all in the same way, and are read alike."""

    def __init__(self, units):
        super().__init__()
        self.lstm = nn.LSTM(units, units, batch_first=True)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            rows = [range(gate * units, (gate + 1) * units) for gate in range(4)]
            for gate, opens in ((0, 1), (1, -1), (3, 1)):
                self.lstm.bias_ih_l0[rows[gate]] = 8.0 * opens
            self.lstm.weight_ih_l0[rows[2]] = torch.eye(units, dtype=torch.float64)

    def forward(self, x):
        return self.lstm(x)[0].mean(2, keepdim=True)


def verify_alike(seed, units=24):
    """Units that all do the same for a label, each with noise of its own: they are used, and none of them more than the others."""
    rng = np.random.default_rng(seed)
    common, own = drifting(rng, BATCH, TIME), drifting(rng, BATCH, units, TIME)
    model, inputs = Alike(units), torch.from_numpy(0.3 * (common[:, None] + own).transpose(0, 2, 1))
    with torch.no_grad():
        wanted = model(inputs)[..., 0]
    found = lx.verify(
        [lx.Claim("lstm.l0", unit, "common") for unit in range(units)],
        model,
        inputs,
        {"common": common > 0},
        loss=lambda output, rows: (output[..., 0] - wanted[rows]).square(),
        donors=1,
        resamples=500,
        permutations=99,
        seed=seed,
        progress=False,
    )
    return {
        f"verify, {units} units alike: any above zero": any(one.used.effect.family_low > one.used.noop for one in found.claims),
        f"verify, {units} units alike: any is used": any(one.used.verdict == "shown" for one in found.claims),
        f"verify, {units} units alike: any suffices": any(one.suffices.verdict == "shown" for one in found.claims),
    }


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

    def alone_at_the_top(measured):
        """Of each label the planted unit, and no other that does as well."""
        return all(
            measured(result[one]) > max(measured(found) for found in result.claims if found.claim.label == one.label and found.claim != one)
            for one in study.planted
        )

    return {
        "planted: all six found": set(result.verified) >= set(study.planted),
        "planted: something else claimed": bool(set(result.verified) - set(study.planted)),
        "planted: each first of 64 by verify": all(first[one.label] == one for one in study.planted),
        "planted: each first of 64 by probe": alone_at_the_top(lambda found: found.knows.score),
        "planted: each first of 64 when held": alone_at_the_top(lambda found: found.used.effect.value),
        "planted: all copies correlated only": copies == ["correlated only"] * 6,
    }


PARTS = {
    "unit_scores": unit_scores,
    "description_length": description_length,
    "probe": probe,
    "correlations": correlations,
    "components": components,
    "selection": selection,
    "sparse_probe": sparse_probe,
    "ablation": ablation,
    "attributions": attributions,
    "verify": verify,
    "verify_alike": verify_alike,
    "verify_two": lambda seed: verify_alike(seed, 2),
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
    print(f"{'what':64} {'of draws':>10} {'share':>7} {'not controlled':>15} {'seconds':>8}")
    for part in given.part or PARTS:
        draws = min(given.draws, 20) if part == "planted" else given.draws
        began, count, uncontrolled = time.perf_counter(), Counter(), Counter()
        for seed in range(draws):
            for name, happened in PARTS[part](1000 + seed if part != "planted" else seed).items():
                count[name] += bool(happened)
                uncontrolled[name] += happened is None
        for name, times in count.items():
            seconds = time.perf_counter() - began
            print(f"{name:64} {times:4} of {draws:<3} {times / draws:6.1%} {uncontrolled[name]:15} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
