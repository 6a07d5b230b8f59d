"""What the result says of itself, as a line, a table, a dictionary and a frame."""

import json

import numpy as np
import pytest
import torch
from probed import kinds_of, planted

import lstm_explain as lx


def test_the_result_reads_and_exports():
    rng = np.random.default_rng(0)
    labels = kinds_of(rng.normal(size=(10, 20))) | {"<script>": rng.random((10, 20)) > 0.5}
    controls = {"untrained": planted(rng.normal(size=(10, 20, 3))), "window": torch.as_tensor(rng.normal(size=(10, 20)))}
    result = lx.probe(planted(rng.normal(size=(10, 20, 3))), labels, controls=controls, window=20, resamples=20, permutations=20)
    assert repr(result).startswith("<Probing by 10 groups in 5 folds: binary: AUC ") and repr(result).endswith("; padding none>")
    assert "\n" not in repr(result)
    html = result._repr_html_()
    assert html.startswith("<table>") and "&lt;script&gt;" in html and "<script" not in html and html.count("<tr>") == 5
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (
        exported["window"] == 20 and exported["labels"].keys() == labels.keys() and exported["cells"] == [["l0", 0], ["l0", 1], ["l0", 2]]
    )
    binary = exported["labels"]["binary"]
    assert binary["probes"]["l0 cell_state"]["score"]["value"] == result.labels["binary"].probes["l0 cell_state"].score.value
    assert binary["probes"]["l0 cell_state"]["long_range"] is None and exported["labels"]["categorical"]["mean"] is None
    frame = result.to_frame()
    assert frame.shape == (4 * 6, 18) and frame["source"].tolist()[:2] == ["l0 cell_state", "l0 hidden_state"]
    assert frame["unit_score_high"][0] == result.labels["binary"].probes["l0 cell_state"].unit_score.high
    assert result.labels["continuous"].mean == pytest.approx(np.nanmean(labels["continuous"]))
