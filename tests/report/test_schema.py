"""`report.json` is what its schema says, whatever was explained."""

import copy
import json
from importlib.resources import files

import hostile_study
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

HOSTILE = hostile_study.__file__
STUDIES = (
    "make", "stock", "bare", "gru", "rnn", "nan_inputs", "unlabelled", "constant_label", "one_group", "rare_label", "target", "spelled",
    f"{HOSTILE}:make", f"{HOSTILE}:series", "planted",
)  # fmt: skip


@pytest.fixture(scope="module")
def schema():
    text = (files("lstm_explain.report") / "schema.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))
    return Draft202012Validator(json.loads(text))


@pytest.mark.long
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.rpartition("/")[2])
def test_every_reports_sidecar_is_valid(schema, report_of, study):
    sidecar = report_of(study, *(() if study in ("make", "planted") else ("--format", "json"))).sidecar
    wrong = best_match(schema.iter_errors(sidecar))
    assert wrong is None, (list(wrong.absolute_path), wrong.message[-300:])
    assert sidecar["schema"] == "lstm_explain/report/schema.json"


def test_so_is_one_without_inputs(schema, report_of):
    sidecar = report_of("make", "--no-inputs").sidecar
    assert not list(schema.iter_errors(sidecar)) and sidecar["inputs"]["sha256"] is None


def changed(sidecar, path, value=...):
    """The sidecar with the value at a path replaced, or left out."""
    made = copy.deepcopy(sidecar)
    *way, last = path
    within = made
    for key in way:
        within = within[key]
    if value is ...:
        del within[last]
    else:
        within[last] = value
    return made


@pytest.mark.parametrize(
    "path, value",
    [
        (["seed"], ...),
        (["more"], 1),
        (["schema_version"], 1),
        (["model", "sha256"], "0"),
        (["inputs", "sha256"], None),
        (["versions", "torch"], 2.1),
        (["summary", "tested"], "3"),
        (["summary", "tested_none"], None),
        (["summary", "found", 0, "said"], ...),
        (["summary", "rumour"], "x"),
        (["viewer", "steps"], 270.5),
        (["viewer", "pieces"], []),
        (["sections", "timescale"], ...),
        (["sections", "probing", "finding"], ...),
        (["sections", "probing", "title"], 3),
        (["sections", "probing", "folds"], ...),
        (["sections", "probing", "labels", "even", "p_value"], 1.5),
        (["sections", "probing", "labels", "third", "mean_none"], ...),
        (["sections", "overview", "steps"], "270"),
        (["sections", "overview", "loss"], None),
        (["sections", "overview", "more"], 3),
        (["sections", "overview", "certificate", "state"], "fine"),
        (["sections", "saturation", "layers", "lstm.l0", "left"], [[0.5]]),
        (["sections", "saturation", "more"], 3),
        (["sections", "timescale", "layers", "lstm.l0", "half_life"], "long"),
        (["sections", "attribution", "places", 0, "output"], None),
        (["sections", "ablation", "median_change_of_best"], "x"),
    ],
)  # fmt: skip
def test_what_is_missing_wrong_or_too_much_is_found(schema, report_of, path, value):
    sidecar = report_of("make").sidecar
    assert list(schema.iter_errors(changed(sidecar, path, value)))


@pytest.mark.parametrize(
    "path, value",
    [
        (["summary", "claims", 0, "legs"], []),
        (["summary", "claims", 0, "legs", 0, "exact"], None),
        (["summary", "claims", 0, "kind"], "worst"),
        (["summary", "claims", 0, "text"], None),
        (["sections", "verification", "claims", 0, "used"], ...),
        (["sections", "verification", "planted_none"], None),
        (["sections", "verification", "verified"], -1),
    ],
)
def test_so_it_is_where_claims_were_tested(schema, report_of, path, value):
    sidecar = report_of("spelled", "--format", "json").sidecar
    assert list(schema.iter_errors(changed(sidecar, path, value)))
