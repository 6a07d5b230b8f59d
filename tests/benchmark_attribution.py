"""Attributions where the truth is known, and whether they add up: ``python tests/benchmark_attribution.py``, some minutes of one core.

``--part completeness`` is the table of `completeness.py`: trained LSTMs, other tools where they are installed. ``--part rare`` are the
rare-feature and rare-time experiments of Crabbé & van der Schaar (ICML 2021, section 4.1): ten autoregressive series of 50 steps and 50
features, and a white box that sums the squares of few of them, 5 features over 25 steps or 5 steps of 25 features. Published figures are
means over five folds, as the tint library (Enguehard 2023) prints them; ours are means and standard deviations over as many seeds as asked.

AUP and AUR, the area under precision and recall over thresholds, and information I and entropy S of the salient inputs reward how
attributions are spread between 0 and 1: a perfect mask has an AUP of (prevalence + 1) / 2. Whether salient inputs come first is what
AUROC and AUPRC say, so they stand beside.
"""

import argparse

import numpy as np
import torch
from completeness import table
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import nn

import lstm_explain as lx

SERIES, TIME, FEATURES, FEW, MANY = 10, 50, 50, 5, slice(12, 37)
COLUMNS = ("AUP", "AUR", "I", "S", "AUROC", "AUPRC")
PUBLISHED = {
    ("rare feature", "integrated gradients"): (1.00, 0.1345, 464, 494),
    ("rare feature", "feature ablation"): (1.00, 0.1336, 462, 490),
    ("rare feature", "Shapley value sampling"): (1.00, 0.1336, 462, 490),
    ("rare time", "integrated gradients"): (1.00, 0.1252, 443, 469),
    ("rare time", "feature ablation"): (1.00, 0.1244, 441, 465),
    ("rare time", "Shapley value sampling"): (1.00, 0.1244, 441, 465),
}
OTHERS = {
    ("rare feature", "Dynamask"): (0.957, 0.656, 6417, 219),
    ("rare feature", "ExtremalMask"): (0.992, 0.756, 12630, 46),
    ("rare time", "Dynamask"): (0.903, 0.652, 3796, 480),
    ("rare time", "ExtremalMask"): (0.993, 0.820, 15120, 12.5),
}
"""Published, of methods that aren't ours."""


def drawn(kind, seed):
    """Series ``(series, time, feature)`` and which of their values are salient."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((SERIES, TIME, FEATURES))
    for t in range(TIME):
        for lag, weight in enumerate((0.25, 0.1, 0.05), 1):
            if t >= lag:
                x[:, t] -= weight * x[:, t - lag]
    salient = np.zeros(x.shape, dtype=bool)
    for row in salient:
        if kind == "rare feature":
            row[MANY, random.choice(FEATURES, FEW, replace=False)] = True
        else:
            start = random.integers(TIME - FEW)
            row[start : start + FEW, MANY] = True
    return x, salient


class WhiteBox(nn.Module):
    """The sum of the squares of the salient values."""

    def forward(self, x, salient):
        return (x.square() * salient).sum((1, 2))


def attributed(method, x, salient):
    """The size of each value's attribution, by a method of ours or a reference that needs none."""
    if method == "perfect mask":
        return salient.astype(float)
    if method == "random":
        return np.random.default_rng(0).random(x.shape)
    inputs, options = torch.as_tensor(x), {"additional_forward_args": torch.as_tensor(salient)}
    mean = inputs.mean(1, keepdim=True)
    result = {
        "integrated gradients": lambda: lx.attribute(WhiteBox(), inputs, **options),
        "saliency": lambda: lx.attribute(WhiteBox(), inputs, method="saliency", **options),
        "feature ablation": lambda: lx.attribute(
            WhiteBox(), inputs, method="feature_ablation", feature_mask="element", baselines=mean, **options
        ),
        "Shapley value sampling": lambda: lx.attribute(
            WhiteBox(), inputs, method="shapley_value_sampling", n_samples=1, feature_mask="element", baselines=mean, **options
        ),
    }[method]()
    return np.abs(result.attributions)


def scores(attributions, salient):
    """All columns, of attributions scaled from 0 to 1 within each series."""
    low, high = attributions.min((1, 2), keepdims=True), attributions.max((1, 2), keepdims=True)
    a = (attributions - low) / (high - low)
    precision, recall, thresholds = precision_recall_curve(salient.ravel(), a.ravel())
    of_salient = a[salient]
    inside = of_salient[(of_salient > 0) & (of_salient < 1)]
    return (
        np.trapezoid(precision[:-1], thresholds),
        np.trapezoid(recall[:-1], thresholds),
        np.abs(np.log2(1 - of_salient + 1e-5)).sum(),
        -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).sum(),
        roc_auc_score(salient.ravel(), a.ravel()),
        average_precision_score(salient.ravel(), a.ravel()),
    )


def measured(kind, method, seeds):
    """The columns of each seed."""
    return np.array([scores(attributed(method, *case), case[1]) for case in (drawn(kind, seed) for seed in seeds)])


def _shown(values, spread=None):
    digits = (3, 4, 0, 0, 3, 3)
    spreads = [""] * len(values) if spread is None else [f"±{of:.{n}f}" for of, n in zip(spread, digits, strict=False)]
    cells = [f"{value:.{n}f}{more}" for value, n, more in zip(values, digits, spreads, strict=False)]
    return "".join(f"{cell:>15}" for cell in cells)


def rare(seeds):
    """Print the tables of rare features and rare times."""
    for kind in ("rare feature", "rare time"):
        print(f"\n{kind}\n{'':32}" + "".join(f"{column:>15}" for column in COLUMNS))
        for method in ("integrated gradients", "feature ablation", "Shapley value sampling", "saliency", "random", "perfect mask"):
            found = measured(kind, method, seeds)
            print(f"{method:32}{_shown(found.mean(0), found.std(0))}")
            if (kind, method) in PUBLISHED:
                print(f"{'  published':32}{_shown(PUBLISHED[kind, method])}")
        for (of, method), values in OTHERS.items():
            if of == kind:
                print(f"{method + ', published':32}{_shown(values)}")


PARTS = {"rare": (rare, 5), "completeness": (table, 10)}
"""What prints them, and over how many seeds if not said."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--seeds", type=int)
    chosen = parser.parse_args()
    for part in chosen.part or PARTS:
        print_table, usual = PARTS[part]
        print_table(range(chosen.seeds or usual))


if __name__ == "__main__":
    main()
