"""What the result says of itself, as a line, a table, a dictionary and a frame."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from attributed import ENDS, METHODS, THREE, VALID, Function, Words, features, tokens
from cases import torch_lstm

import lstm_explain as lx


def test_the_result_reads_in_one_line():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), lengths=ENDS)
    worst = result.relative_delta.max()
    assert repr(result) == (
        f"<Attribution by integrated_gradients: batch 3, time 5, of output[4, 1], ...; residual at most {worst:.1e} of the difference of "
        "outputs, within 1e-06 (or rounding) for 3 of 3; padding known>"
    )
    assert "of output[2, 1]; residual" in repr(lx.attribute(torch_lstm(THREE), features(), target=(2, 1)))


def test_the_table_names_the_strongest_step_of_each_example():
    inputs = torch.tensor([[1.0, -7.0, 2.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    html = lx.attribute(Function(lambda x: x.sum(1)), inputs)._repr_html_()
    assert "<td>1 (-7)</td>" in html and "<td>2 (4)</td>" in html and html.count("<td>yes</td>") == 2 and html.count("<tr>") == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_escaped(method):
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method=method)
    html = replace(result, explained=("<script>", "&", '"'), method="<i>")._repr_html_()
    assert "<script>" not in html and "<i>" not in html and "<td>&lt;script&gt;</td>" in html


@pytest.mark.parametrize("method", METHODS)
def test_the_result_exports(method):
    result = lx.attribute(Words(), tokens(), target=(-1, 1), lengths=ENDS, method=method)
    exported = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert exported["attributions"] == result.attributions.tolist() and exported["method"] == method
    assert exported["explained"] == ["output[4, 1]", "output[1, 1]", "output[3, 1]"] and exported["settings"]["embedding"] == "embedding"
    assert (exported["converged"] is None) == (method != "integrated_gradients")
    frame = result.to_frame()
    assert list(zip(frame["example"], frame["step"], strict=True)) == [tuple(index) for index in VALID.nonzero().tolist()]
    np.testing.assert_array_equal(frame["attribution"], result.by_step[VALID])


def test_what_is_not_finite_is_exported_as_none():
    result = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1))
    exported = replace(result, attributions=np.full_like(result.attributions, np.nan), output=np.full(3, np.inf)).to_dict()
    assert exported["output"] == [None] * 3 and exported["attributions"][0][0] == [None, None]
    json.dumps(exported, allow_nan=False)
