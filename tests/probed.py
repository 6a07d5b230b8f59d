"""States, labels and networks to probe, whose answer is known; and probing by hand."""

import numpy as np
import torch
from mechanisms import OPEN, blank, rows
from scipy.signal import lfilter
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lstm_explain as lx
from lstm_explain.analyses.probing import fits
from lstm_explain.analyses.probing.scores import draws
from lstm_explain.nn.equations import Form

KINDS = ("binary", "continuous", "categorical")
RNG = np.random.default_rng(0)
CELLS, Y, SYMBOLS = RNG.normal(size=(6, 9, 2)), RNG.random((6, 9)) > 0.5, torch.as_tensor(RNG.integers(0, 3, (6, 9)))
"""Six sequences of nine steps: two cells, a label, and the inputs."""


def planted(cells, hidden=None, lengths=None, name="l0"):
    """A recording of one layer whose cells are these; the hidden state is their hyperbolic tangent if none is given."""
    cells = torch.as_tensor(cells)
    batch, time, units = cells.shape
    lengths = torch.full((batch,), time) if lengths is None else torch.as_tensor(lengths)
    valid = torch.arange(time) < lengths[:, None]
    gates = dict.fromkeys(("input_gate", "forget_gate", "cell_candidate", "output_gate"), torch.zeros_like(cells))
    signals = gates | {"cell_state": cells, "hidden_state": cells.tanh() if hidden is None else torch.as_tensor(hidden)}
    zeros, begins = torch.zeros(batch, units), torch.zeros(batch, dtype=torch.long)
    padding = "none" if valid.all() else "known"
    return {
        name: lx.Trajectory(name, "lstm", signals, valid, padding, {"hidden_state": zeros, "cell_state": zeros}, begins, False, Form(None))
    }


def recorded(lstm, inputs):
    with torch.no_grad(), lx.record(lstm, lengths=[inputs.shape[1]] * len(inputs)) as recording:
        lstm(inputs)
    return recording


def one_hot(symbols, of):
    return torch.nn.functional.one_hot(torch.as_tensor(symbols), of).double()


def slow_waves(rng, batch, time, units):
    """Independent AR(.95) series with unit noise."""
    return lfilter([1.0], [1.0, -0.95], rng.normal(size=(batch, time + 100, units)), axis=1)[:, 100:]


def as_label(kind, wave):
    if kind == "continuous":
        return wave
    return wave > 0.3 if kind == "binary" else np.digitize(wave, [-1, 1])


def kinds_of(wave):
    """All kinds of label, undefined here and there."""
    away = np.random.default_rng(9).random(wave.shape) < 0.1
    return {
        "binary": np.where(away, -1, wave > 0.3),
        "continuous": np.where(away, np.nan, wave),
        "categorical": np.where(away, "", np.digitize(wave, [-1, 1]).astype(str)),
    }


def mark_keeper(units=6, seed=0):
    """Inputs a, b, c, d. Unit 3 is 1 since the last a and -1 since the last b, c and d go by; the others are random and don't see it."""
    lstm, generator = blank(4, units), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        own = torch.arange(4) * units + 3
        lstm.weight_hh_l0[:, 3] = lstm.weight_hh_l0[own] = lstm.weight_ih_l0[own] = 0
        for gate in "ifo":
            rows(lstm, gate)[3] = OPEN
        lstm.weight_ih_l0[own[1], :2] = -2 * OPEN
        lstm.weight_ih_l0[own[2]] = torch.tensor([OPEN, -OPEN, 0, 0], dtype=torch.float64)
    return lstm


def marked_sequences(batch=20, time=120, seed=0):
    """Symbols 0 to 3; 0 and 1 come at the first step and every 25th or so, and which of them came last is the label."""
    rng = np.random.default_rng(seed)
    marks = rng.random((batch, time)) < 0.04
    marks[:, 0] = True
    symbols = np.where(marks, rng.integers(0, 2, (batch, time)), rng.integers(2, 4, (batch, time)))
    last = np.maximum.accumulate(np.where(marks, np.arange(time), 0), axis=1)
    return symbols, np.take_along_axis(symbols, last, 1) == 0, marks


def probed_marks(**options):
    symbols, label, marks = marked_sequences()
    model, inputs = mark_keeper(), one_hot(symbols, 4)
    recording = recorded(model, inputs)
    everything = {"untrained": recorded(lx.untrained(model), inputs), "window": torch.as_tensor(symbols)}
    controls = {name: everything[name] for name in options.pop("controls", everything)}
    labels = options.pop("label", lambda *_: label)(symbols, label)
    return lx.probe(recording, {"y": labels}, controls=controls, resamples=200, permutations=39, **options)


# ---- By hand


class Steps:
    """The steps of a probing, one row each, for doing it by hand."""

    def __init__(self, result, groups, lengths, label, name="y", events=None):
        self.sequence = np.repeat(range(len(lengths)), lengths)
        self.step = np.concatenate([np.arange(n) for n in lengths])
        self.group_names = list(dict.fromkeys(groups))
        self.group = np.array([self.group_names.index(groups[b]) for b in self.sequence])
        self.fold = np.array([result.fold_of[groups[b]] for b in self.sequence])
        self.y = label[self.sequence, self.step]
        self.window = result.window
        if events is None:
            events = np.array([[t == 0 or row[t] != row[t - 1] for t in range(len(row))] for row in label])
        self.far = np.array(
            [
                t - max(e for e in range(t + 1) if e == 0 or events[b, e]) > result.window
                for b, t in zip(self.sequence, self.step, strict=True)
            ]
        )

    def rows(self, values):
        return np.asarray(values)[self.sequence, self.step]

    def predictions(self, kind, x, solver="newton-cholesky"):
        """Held-out predictions by scikit-learn."""
        if kind == "continuous":
            return slow_ridge(x, self.y, self.fold)
        solver = solver if kind == "binary" else "lbfgs"
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, solver=solver, max_iter=1000))
        method = "decision_function" if kind == "binary" else "predict"
        return cross_val_predict(probe, x, self.y, cv=PredefinedSplit(self.fold), method=method)

    def best_units(self, kind, x):
        """Of each fold the unit that scores best on the others."""
        chosen = []
        for out in np.unique(self.fold):
            rest, scores = self.fold != out, []
            for unit in x.T:
                if np.ptp(unit[rest]) == 0:
                    scores.append(0)
                elif kind == "binary":
                    scores.append(abs(self.score(kind, unit, self.y, rest) - 0.5))
                elif kind == "continuous":
                    scores.append(np.corrcoef(unit[rest], self.y[rest])[0, 1] ** 2)
                else:
                    mean = unit[rest].mean()
                    classes = [unit[rest & (self.y == one)] for one in np.unique(self.y)]
                    scores.append(sum(len(c) * (c.mean() - mean) ** 2 for c in classes) / ((unit[rest] - mean) ** 2).sum())
            chosen.append(int(np.argmax(scores)))
        return tuple(chosen)

    def single(self, kind, x, chosen):
        predicted = np.zeros(len(x))
        for out, unit in zip(np.unique(self.fold), chosen, strict=True):
            here, rest, one = self.fold == out, self.fold != out, x[:, [unit]]
            if kind == "binary":
                predicted[here] = one[here, 0] * (1 if one[rest & self.y].mean() > one[rest & ~self.y].mean() else -1)
            elif kind == "continuous":
                predicted[here] = Ridge(alpha=0).fit(one[rest], self.y[rest]).predict(one[here])
            else:
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
                predicted[here] = probe.fit(one[rest], self.y[rest]).predict(one[here])
        return predicted

    def score(self, kind, predicted, y, at):
        """On some rows, which may come several times."""
        predicted, y, fold = predicted[at], y[at], self.fold[at]
        if kind == "continuous":
            return r2_score(y, predicted)
        if kind == "categorical":
            return balanced_accuracy_score(y, predicted)
        each = [(y[fold == one], predicted[fold == one]) for one in np.unique(fold)]
        each = [(y, p) for y, p in each if y.any() and not y.all()]
        return np.average([roc_auc_score(y, p) for y, p in each], weights=[y.sum() * (~y).sum() for y, _ in each])

    def drawn(self, kind, predicted, seed, resamples, mask=None):
        """The score on each bootstrap sample of groups."""
        mask = np.ones(len(self.y), dtype=bool) if mask is None else mask
        samples = []
        for times in draws(len(self.group_names), resamples, seed).astype(int):
            at = np.concatenate([np.flatnonzero(mask & (self.group == one)) for one, m in enumerate(times) for _ in range(m)])
            samples.append(self.score(kind, predicted, self.y, at))
        return np.array([self.score(kind, predicted, self.y, np.flatnonzero(mask))]), np.array(samples)


def slow_ridge(x, y, fold):
    """Held-out predictions, the penalty chosen by the other folds among themselves; it is for each step."""

    def fitted(rows, penalty):
        return make_pipeline(StandardScaler(), Ridge(alpha=penalty * rows.sum())).fit(x[rows], y[rows])

    predicted = np.zeros(len(x))
    for out in np.unique(fold):
        rest, errors = fold != out, []
        for penalty in fits.RIDGE:
            held_out = [(fitted(rest & (fold != one), penalty), fold == one) for one in np.unique(fold[rest])]
            errors.append(sum(((fit.predict(x[held]) - y[held]) ** 2).sum() for fit, held in held_out))
        predicted[fold == out] = fitted(rest, fits.RIDGE[int(np.argmin(errors))]).predict(x[fold == out])
    return predicted


# ---- Nothing to find


def falsely_shown(seed, kind, resamples=60, permutations=39):
    """Whether the p-value is at most 5 %, and the verdict *shown*, where units, twins, inputs and label are independent slow waves."""
    rng = np.random.default_rng(seed)
    recording, *twins = (planted(slow_waves(rng, 15, 50, 6)) for _ in range(3))
    label = as_label(kind, slow_waves(rng, 15, 50, 1)[:, :, 0] / 3)
    controls = {"untrained": twins, "window": torch.as_tensor(rng.integers(0, 3, (15, 50)))}
    found = lx.probe(recording, label, controls=controls, window=2, resamples=resamples, permutations=permutations, seed=seed)
    found = found.labels["label"]
    return found.p_value <= 0.05, found.verdict == "shown"
