"""What do the cells know? Linear probes with their controls, as one table."""

from typing import Any

import numpy as np

from lstm_explain.analyses.probing.result import MAJORITY, UNTRAINED, WINDOW, LabelProbing, ProbingResult
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
        finding = f"For {of} the states tell more than {_twins(result)}, the last {result.window} inputs and the majority do" + (
            f": {'; '.join(_said(name, result.labels[name]) for name in shown)}." if shown else "."
        )
        finding += f" Of these {number(len(far))} hold more than {result.window} steps after the deciding event as well." if shown else ""
        finding += f" Not shown: {', '.join(_words(name) for name in rest)}." if rest else ""
    else:
        finding = f"{number(len(result.labels))} labels were probed for, but not controlled: nothing follows from these scores."
    scores, (ax,) = panels(8.2, 2.1 + 0.42 * max(3, len(result.labels)))
    plot(result, ax)
    selective = [name for name, found in result.labels.items() if np.isfinite(found.probes[found.best].selectivity.value)]
    cells, (ax,) = panels(4.2 + 0.9 * len(result.labels), 4.2)
    plot(result, ax, kind="matrix")
    family = {name: int((found.units.p_values_family <= 0.05).sum()) for name, found in result.labels.items()}
    unconverged = sum(found.unconverged for found in result.labels.values())
    return Section(
        name="probing",
        title=TITLE,
        finding=finding,
        pictures=(
            Picture("probing_scores", scores, f"Probe scores beside {_twins(result)}, an input window and the majority; shown for {of}."),
            *([_by_heart(result, selective)] if selective else []),
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
            f"scored on the others, in {number(result.folds)} folds; {_every(result.stride)} of each sequence was kept for "
            f"classes and scores, and ridge fits use all steps. Of each layer the {_signals(result)} was probed; the best is shown. "
            + _controls(result, bool(selective))
            + "The best cell was chosen on the folds that it isn't scored on, and so was the best one of every control. "
            + f"Intervals are from {number(result.resamples)} bootstrap draws of groups, p-values from labels that are shifted in a circle "
            "within their sequence, against the same held-out predictions. Shown means that the 95 % interval "
            "of the difference lies above zero for every control, and p is at most 0.05."
        ),
        not_shown=" ".join(
            [f"{_words(name)}: {why}." for name, why in missing.items()]
            + ([study.about["caveats"]["probing"]] if "probing" in study.about.get("caveats", {}) else [])
            + ([f"{number(unconverged)} fits had not converged."] if unconverged else [])
            + [
                "That a state tells a label doesn't say that the network uses it. A label that isn't shown may still be known, to a better "
                "probe or on more text."
            ]
        ),
        brief=_brief(result, shown, controlled),
        missed=_missed(rest if controlled else list(result.labels), missing),
        numbers=_with_reasons(result.to_dict()) | {"shown": shown, "shown_long_range": far, "units_family": family, "missing": missing},
        results={"probing": result},
    )


def _brief(result: ProbingResult, shown: list[str], controlled: bool) -> str:
    """The label that is told furthest above the untrained networks, beside them."""
    if not shown or not controlled:
        return ""
    name = max(shown, key=lambda one: result.labels[one].probes[result.labels[one].best].score.value)
    return (
        f"What the units hold together tells {number(len(shown))} of {number(len(result.labels))} labels better than {_twins(result)}, "
        f"the last {result.window} inputs and the most frequent answer do; most clearly {_said(name, result.labels[name])}."
    )


def _missed(rest: list[str], missing: dict[str, str]) -> str:
    """Labels that the states aren't shown to tell, and what couldn't be asked."""
    said = [f"It is not shown that the state tells {' or '.join(f'“{_words(name)}”' for name in rest)} better than its controls"]
    unasked = "; ".join(f"{_words(name)}: {why}" for name, why in missing.items())
    return ". ".join([*(said if rest else []), *([f"Not asked: {unasked}"] if unasked else [])]) + ("." if rest or unasked else "")


def _signals(result: ProbingResult) -> str:
    names = dict.fromkeys(name.rpartition(" ")[2] for found in result.labels.values() for name in found.probes)
    return " and the ".join(name.replace("_", " ") for name in names)


def _twins(result: ProbingResult) -> str:
    return "an untrained network" if result.twins < 2 else f"each of {number(result.twins)} untrained networks"


def _controls(result: ProbingResult, selective: bool) -> str:
    """What stands beside the probes, in sentences."""
    said = ""
    if result.twins:
        said = (
            f"{number(result.twins)} untrained networks, which have the same layers with fresh weights, get the same choice each, and the "
            "best of them is the control: a difference is taken from the highest of them in each bootstrap draw. "
            if result.twins > 1
            else "The untrained network, which has the same layers with fresh weights, gets the same choice. "
        )
    if selective:
        said += (
            "Selectivity (Hewitt & Liang 2019) is how far a probe's score lies above that of the same probe on a control task: every pair "
            "of last two symbols gets one label at random, as frequent as the label's own. Low selectivity says that the probe can learn "
            "symbols by heart; it doesn't enter the verdict. "
        )
    return said


def _by_heart(result: ProbingResult, selective: list[str]) -> Picture:
    figure, (ax,) = panels(8.2, 2.1 + 0.42 * max(3, len(result.labels)))
    plot(result, ax, kind="selectivity")
    above = [name for name in selective if result.labels[name].probes[result.labels[name].best].selectivity.low > 0]
    return Picture(
        "probing_selectivity",
        figure,
        f"The same probes on labels drawn at random for each pair of last two symbols; for {number(len(above))} of "
        f"{number(len(selective))} labels the probe is more than that: its selectivity lies above zero.",
    )


def _with_reasons(value: Any) -> Any:
    """What is missing, with its reason beside it."""
    if isinstance(value, list):
        return [_with_reasons(item) for item in value]
    if not isinstance(value, dict):
        return value
    no_task = "it has no control task: the network's own probes have one, where inputs are symbols and these drew unequal labels"
    reasons = {
        f"{key}_none": no_task
        if key in ("control_task", "selectivity")
        else "it isn't defined: no steps, or no pairs of unequal ones, that it could be scored on"
        for key, item in value.items()
        if item is None
    }
    return {key: _with_reasons(item) for key, item in value.items()} | reasons


def _said(name: str, found: LabelProbing) -> str:
    untrained = found.best_control(UNTRAINED)
    beside = "" if untrained is None else f" (untrained {found.spread(2)})"
    return f"{_words(name)}, {found.metric} {found.probes[found.best].score.value:z.2f}{beside}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _every(n: int) -> str:
    if n < 4:
        return ("every step", "every second step", "every third step")[n - 1]
    return f"every {n}{'th' if 10 < n % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')} step"


def _table(study: Study, measured: Measured) -> Table:
    result = measured.probing
    assert result is not None
    header = (
        "label",
        "score",
        "best probe",
        "95 %",
        "verdict",
        "p",
        "majority",
        "untrained" if result.twins < 2 else f"{number(result.twins)} untrained",
        "last inputs",
        "selectivity",
        "best single cell",
        "untrained's best cell",
        "best of the last inputs",
        f"> {result.window} steps on",
        f"untrained, > {result.window} steps on",
        f"verdict, > {result.window} steps on",
    )
    rows, best_units = [], []
    for name, found in result.labels.items():
        best = found.probes[found.best]
        window = found.controls.get(WINDOW)
        above = best.selectivity
        layer, cell = found.best_unit()
        units = sorted(set(cell.units))
        best_units.append((layer.rsplit(" ", 1)[0], cell.units[0]))
        rows.append(
            (
                _words(name),
                found.metric,
                f"{best.score.value:z.2f} ({found.best.replace('_', ' ')})",
                f"{best.score.low:z.2f} to {best.score.high:z.2f}",
                found.verdict,
                f"{found.p_value:z.3f}",
                f"{found.controls[MAJORITY].score.value:z.2f}",
                found.spread(2),
                "–" if window is None else _or_dash(window.score.value),
                "–" if np.isnan(above.value) else f"{above.value:z.2f} ({above.low:z.2f} to {above.high:z.2f})",
                f"{cell.unit_score.value:z.2f} ({layer.rsplit(' ', 1)[0]} {', '.join(map(str, units))})",
                _or_dash(found.best_untrained_unit()),
                "–" if window is None else _or_dash(window.unit_score.value),
                _or_dash(best.long_range.value),
                _or_dash(max((one.long_range.value for of, one in found.controls.items() if of.startswith(UNTRAINED)), default=np.nan)),
                found.verdict_long_range if np.isfinite(best.long_range.value) else "no such steps",
            )
        )
    return Table("What linear probes find, label by label, on groups that they haven't seen", header, tuple(rows), tuple(best_units))


def _or_dash(value: float) -> str:
    return f"{value:z.2f}" if np.isfinite(value) else "–"
