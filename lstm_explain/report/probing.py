"""What do the cells know? Linear probes with their controls, as one table."""

from typing import Any

import numpy as np

from lstm_explain.analyses.probing.result import MAJORITY, UNTRAINED, WINDOW, LabelProbing, Probed
from lstm_explain.display import number
from lstm_explain.plots import panels, plot
from lstm_explain.report.measure import Measured
from lstm_explain.report.section import Picture, Section, Table, nothing
from lstm_explain.study import Study

TITLE = "What do the cells know?"


def section(study: Study, measured: Measured) -> Section:
    """One row for each label, and the sentence that they support."""
    result, missing = measured.probing, measured.unprobed
    if result is None or not result.labels:
        reason = "; ".join(missing.values()) or "the study has no labels"
        return nothing("probing", TITLE, "Nothing is probed for", reason)
    shown = [name for name, found in result.labels.items() if found.verdict == "shown"]
    far = [name for name in shown if result.labels[name].verdict_long_range == "shown"]
    rest = [name for name in result.labels if name not in shown]
    controlled = all(found.verdict != "not controlled" for found in result.labels.values())
    of = f"{number(len(shown))} of {number(len(result.labels))} labels"
    if controlled:
        finding = f"For {of} the states tell more than an untrained network, the last {result.window} inputs and the majority do" + (
            f": {'; '.join(_said(name, result.labels[name]) for name in shown)}." if shown else "."
        )
        finding += f" Of these {number(len(far))} hold more than {result.window} steps after the deciding event as well." if shown else ""
        finding += f" Not shown: {', '.join(_words(name) for name in rest)}." if rest else ""
    else:
        finding = f"{number(len(result.labels))} labels were probed for, but not controlled: nothing follows from these scores."
    scores, (ax,) = panels(8.2, 2.1 + 0.42 * len(result.labels))
    plot(result, ax, title=f"{of}: the best probe of a state is above every control")
    cells, (ax,) = panels(4.2 + 0.9 * len(result.labels), 4.2)
    plot(result, ax, kind="matrix")
    family = {name: int((found.units.p_values_family <= 0.05).sum()) for name, found in result.labels.items()}
    unconverged = sum(found.unconverged for found in result.labels.values())
    return Section(
        name="probing",
        title=TITLE,
        finding=finding,
        pictures=(
            Picture(
                "probing_scores", scores, f"Probe scores beside an untrained network, an input window and the majority; shown for {of}."
            ),
            Picture(
                "probing_units",
                cells,
                "Single cells beside labels; cells beyond chance over the family: "
                + ", ".join(f"{number(n)} for {_words(name)}" for name, n in family.items())
                + f", of {number(len(result.cells))}.",
            ),
        ),
        tables=(_table(study, measured),),
        method=(
            f"Linear probes: logistic regression for classes, ridge for numbers, fitted on some of {number(result.groups)} groups and "
            f"scored on the others, in {number(result.folds)} folds; every {_ordinal(result.stride)} step of each sequence was kept for "
            "classes and scores, and ridge fits use all steps. Each layer's cell and hidden state was probed; the best is shown, and the "
            "untrained network, which has the same layers with fresh weights, gets the same choice. The best cell was chosen on the "
            f"folds that it isn't scored on. Intervals are from {number(result.resamples)} bootstrap draws of groups, p-values from labels "
            "that are shifted in a circle within their sequence, against the same held-out predictions. Shown means that the 95 % interval "
            "of the difference lies above zero for every control, and p is at most 0.05."
        ),
        not_shown=" ".join(
            [f"{_words(name)}: {why}." for name, why in missing.items()]
            + ([f"{number(unconverged)} fits had not converged."] if unconverged else [])
            + [
                "That a state tells a label doesn't say that the network uses it. One untrained network stands for all; another draw of "
                "its weights would score a little differently. A label that isn't shown may still be known, to a better "
                "probe or on more text."
            ]
        ),
        numbers=_with_reasons(result.to_dict()) | {"shown": shown, "shown_long_range": far, "units_family": family, "missing": missing},
    )


def _with_reasons(value: Any) -> Any:
    """What is missing, with its reason beside it."""
    if isinstance(value, list):
        return [_with_reasons(item) for item in value]
    if not isinstance(value, dict):
        return value
    reasons = {
        f"{key}_none": "it isn't defined: no steps, or no pairs of unequal ones, that it could be scored on"
        for key, item in value.items()
        if item is None
    }
    return {key: _with_reasons(item) for key, item in value.items()} | reasons


def _said(name: str, found: LabelProbing) -> str:
    untrained = found.best_control(UNTRAINED)
    beside = "" if untrained is None else f" (untrained {untrained[1].score.value:.2f})"
    return f"{_words(name)}, {found.metric} {found.probes[found.best].score.value:.2f}{beside}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _ordinal(n: int) -> str:
    return {1: "", 2: "second ", 3: "third "}.get(n, f"{n}th ").strip() or "single"


def _table(study: Study, measured: Measured) -> Table:
    result = measured.probing
    assert result is not None
    header = (
        "label",
        "score",
        "best probe",
        "95 %",
        "majority",
        "untrained",
        "last inputs",
        "best single cell",
        "untrained's best cell",
        f"> {result.window} steps on",
        f"untrained, > {result.window} steps on",
        "p",
        "verdict",
        f"verdict, > {result.window} steps on",
    )
    rows = []
    for name, found in result.labels.items():
        best = found.probes[found.best]
        controls = {of: found.best_control(of) for of in (MAJORITY, UNTRAINED, WINDOW)}
        twin = controls[UNTRAINED]
        layer, cell = found.best_unit()
        units = sorted(set(cell.units))
        rows.append(
            (
                _words(name),
                found.metric,
                f"{best.score.value:.2f} ({found.best.replace('_', ' ')})",
                f"{best.score.low:.2f} to {best.score.high:.2f}",
                *(_value(one) for one in controls.values()),
                f"{cell.unit_score.value:.2f} ({layer.rsplit(' ', 1)[0]} {', '.join(map(str, units))})",
                _control_cell(found),
                _or_dash(best.long_range.value),
                "–" if twin is None else _or_dash(twin[1].long_range.value),
                f"{found.p_value:.3f}",
                found.verdict,
                found.verdict_long_range if np.isfinite(best.long_range.value) else "no such steps",
            )
        )
    return Table("What linear probes find, label by label, on groups that they haven't seen", header, tuple(rows))


def _value(control: tuple[str, Probed] | None) -> str:
    return "–" if control is None else f"{control[1].score.value:.2f}"


def _control_cell(found: LabelProbing) -> str:
    return _or_dash(found.best_untrained_unit())


def _or_dash(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"
