"""The section on ablation: a speller whose memory is one known cell, and what is said where nothing can be held."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speller import study
from torch import nn

import lstm_explain as lx
from lstm_explain.report import ablation
from lstm_explain.report.read import Read


def measured(**changes):
    return SimpleNamespace(
        **({"probing": None, "units": {"lstm.l0": 4}, "unprobed": {}, "seed": 0, "thorough": False, "quiet": True} | changes)
    )


def test_the_cell_that_remembers_is_found_and_its_predictions_stand_beside_the_clean_ones():
    section = ablation.section(study(), measured())
    assert section.finding.startswith("Of 4 units of lstm.l0, 1 are shown to raise the loss when held; the largest is")
    layer = section.numbers["layers"]["lstm.l0"]
    names = [one[0] for one in layer["units"]]
    assert [unit for unit, shown in zip(names, layer["effects"]["shown"], strict=True) if shown] == [0]
    assert [picture.name for picture in section.pictures] == ["ablation_effects", "ablation_removal", "ablation_text"]
    beside = section.numbers["predictions"]
    assert beside["unit"] == 0 and beside["tokens"] == beside["clean"] and beside["start"] == 1
    wrong = [(came, held) for came, held in zip(beside["tokens"], beside["ablated"], strict=True) if came != held]
    assert len(wrong) == 9 and all({came, held} == {"a", "b"} for came, held in wrong)
    table = section.tables[-1].rows
    assert len(table) == 10 and {row[1] for row in table if float(row[2]) > 0.5 > float(row[4])} <= {"a", "b"}
    json.dumps(section.numbers, allow_nan=False)


def test_a_model_that_predicts_no_tokens_has_no_text():
    section = ablation.section(study(next_tokens=None), measured())
    assert [picture.name for picture in section.pictures] == ["ablation_effects", "ablation_removal"]
    assert "the study doesn't say what its output predicts" in section.not_shown and section.numbers["predictions"] is None


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"loss": None}, "the study has no loss that could change"),
        ({"groups": ["all"] * 40}, "needed at least two groups"),
        ({"loss": lambda output, of: [][of]}, "loss= failed on what the model returned: TypeError"),
    ],
)
def test_where_nothing_can_be_held_the_reason_is_said(changes, reason):
    section = ablation.section(study(**changes), measured())
    assert section.finding.startswith("No unit is held: ") and reason in section.finding and section.pictures == ()


def test_long_studies_are_read_from_their_beginning_evenly_spaced():
    many = lx.Study(nn.LSTM(1, 2, batch_first=True), torch.arange(200.0)[:, None, None].expand(200, 500, 1), lengths=[500] * 199 + [3])
    read = Read.of(many, ablation.SEQUENCES, ablation.STEPS)
    assert len(read.rows) == 64 and (read.rows[0], read.rows[-1]) == (0, 199) and set(np.diff(read.rows)) <= {3, 4}
    assert read.inputs.shape == (64, 192, 1) and read.lengths[-1] == 3 and read.lengths[0] == 192


@pytest.fixture(scope="module")
def thorough(report_of):
    return report_of("unlabelled", "--thorough").place


def test_thorough_holds_every_unit_of_every_layer(thorough):
    section = json.loads((thorough / "report.json").read_text(encoding="utf-8"))["sections"]["ablation"]
    assert section["thorough"] and [len(layer["units"]) for layer in section["layers"].values()] == [5, 5]
    names = {path.stem for path in (thorough / "figures").glob("ablation*.png")}
    assert names == {f"ablation_{kind}_{at}" for kind in ("effects", "removal") for at in (1, 2)}
    for layer in section["layers"].values():
        assert layer["noop"] < 1e-4 and "certified" in layer["ablated_certificate"]
