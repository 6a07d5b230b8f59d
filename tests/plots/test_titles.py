"""The title of a figure is its finding: what it says is found again from the result."""

import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import lstm_explain as lx

TOKENS = [["so", " ", "it", "\n", "goes", "."], ["a", "b", "c", "d", "e", "f"]]


def title(result, **options):
    return lx.plot(result, Figure().add_subplot(), **options).get_title(loc="left").replace("\n", " ")


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(7, 3), nn.LSTM(3, 4, batch_first=True)

    def forward(self, read):
        return self.lstm(self.embedding(read))[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Reader().double()


@pytest.fixture(scope="module")
def inputs():
    return torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(3))


def number(text):
    return float(re.search(r", ([+-][\d.e+-]+),", text)[1])


@pytest.mark.parametrize("example", [0, 1])
@pytest.mark.parametrize("tokens", [False, True])
def test_an_attribution_names_the_step_that_has_most(model, inputs, example, tokens):
    result = lx.attribute(model, inputs, target=(-1, 2))
    said = title(result, example=example, **({"tokens": TOKENS[example]} if tokens else {}))
    step = max(range(6), key=lambda step: abs(result.by_step[example, step]))
    written = TOKENS[example][step].replace("\n", "\\n")
    assert f": most to {f'“{written}” at ' if tokens else ''}step {step}, " in said
    assert number(said) == pytest.approx(result.by_step[example, step], rel=0.01) and "by integrated gradients" in said


def test_of_groups_it_is_the_group_and_of_nothing_none(model, inputs):
    result = lx.attribute(model, inputs, target=(-1, 2), by=torch.tensor([0, 0, 0, 1, 1, 1]))
    sums = result.by_step[0].reshape(2, 3).sum(1)
    said = title(result)
    assert f": most to {result.groups[int(np.abs(sums).argmax())]}, " in said and number(said) == pytest.approx(
        sums[np.abs(sums).argmax()], rel=0.01
    )
    nothing = lx.attribute(model, inputs, output=lambda returned: returned[:, -1, 0] * 0, method="occlusion")
    assert ": none to any step, by occlusion" in title(nothing)


@pytest.mark.parametrize("example", [0, 1])
def test_a_gate_names_the_unit_and_step_and_a_matrix_the_pair(model, inputs, example):
    gates = lx.gate_attribution(model, inputs, "lstm.l0", "forget_gate", target=(-1, 2))
    said = title(gates, example=example)
    unit, step = map(int, re.search(r"most to unit (\d) at step (\d)", said).groups())
    sizes = np.abs(gates.attributions[example])
    assert sizes[step, unit] == sizes.max() and number(said) == pytest.approx(gates.attributions[example, step, unit], rel=0.01)
    matrix = lx.attribution_matrix(model, inputs, target=1, output_steps=[2, 4], method="occlusion")
    said = title(matrix, example=example)
    to, source = map(int, re.search(r"output step (\d) hangs most on step (\d)", said).groups())
    sizes = np.abs(matrix.attributions[example])
    assert sizes[[2, 4].index(to), source] == sizes.max()
    assert number(said) == pytest.approx(matrix.attributions[example, [2, 4].index(to), source], rel=0.01)


@pytest.mark.parametrize("start", [0, 2])
def test_a_comparison_says_how_many_name_the_same_step_first(model, inputs, start):
    methods = ("integrated_gradients", "saliency", "input_x_gradient", "occlusion")
    result = lx.compare_attributions([lx.attribute(model, inputs, target=(-1, 2), method=method) for method in methods])
    count, of, step = map(int, re.search(r"(\d) of (\d) name step (\d) first", title(result, example=1, start=start)).groups())
    firsts = [start + int(np.abs(one[1, start:]).argmax()) for one in result.by_step]
    assert of == 4 and count == firsts.count(step) == max(map(firsts.count, firsts))
    low, high = map(
        float, re.search(r"rank correlations of methods from (-?[\d.]+) to (-?[\d.]+) medians", title(result, kind="matrix")).groups()
    )
    others = result.signed.median[np.triu_indices(4, 1)]
    assert (low, high) == (pytest.approx(others.min(), abs=0.006), pytest.approx(others.max(), abs=0.006))
    assert "shares in common of methods from " in title(result, kind="matrix", agreement="overlap")


@pytest.mark.parametrize("marks", [None, [True, False, False, True, True, False]])
def test_text_coloured_by_a_unit_says_how_it_differs(model, inputs, marks):
    with torch.no_grad(), lx.record(model) as recording:
        model(inputs)
    result = lx.unit_text(recording, TOKENS[0], layer="lstm.l0", unit=1, marks=marks)
    values = recording["lstm.l0"].cell_state[0, :, 1].numpy()
    found = [float(one) for one in re.findall(r"(-?\d\.[\de-]+)", title(result))]
    if marks is None:
        assert found == [pytest.approx(values.min(), rel=0.01), pytest.approx(values.max(), rel=0.01)]
    else:
        of = np.array(marks)
        assert found == [pytest.approx(values[of].mean(), rel=0.01), pytest.approx(values[~of].mean(), rel=0.01)]


def test_probes_say_for_how_many_labels():
    torch.manual_seed(0)
    x = torch.randn(40, 12, 2)
    lstm = nn.LSTM(2, 8, batch_first=True)
    labels = {"up": x[:, :, 0].numpy() > 0, "noise": torch.randn(40, 12).numpy() > 0}
    with torch.no_grad(), lx.record(lstm, lengths=[12] * 40) as recording:
        lstm(x)
    twins = []
    for seed in range(2):
        with torch.no_grad(), lx.record(twin := lx.untrained(lstm, seed=seed), lengths=[12] * 40) as control:
            twin(x)
        twins.append(control)
    types = (x[:, :, 1] * 4).round().int().numpy()
    controlled = lx.probe(recording, labels, controls={"untrained": twins, "window": x, "types": types}, progress=False)
    shown = sum(found.verdict == "shown" for found in controlled.labels.values())
    assert title(controlled).startswith(f"{shown} of 2 labels: the best probe of a state is above every control")
    tells = sum(found.probes[found.best].selectivity.low > 0 for found in controlled.labels.values())
    assert title(controlled, kind="selectivity") == f"{tells} of 2 labels: the probe tells more than it can learn by heart"
    cells = sum(found.units.p_values_family.min() <= 0.05 for found in controlled.labels.values())
    assert title(controlled, kind="matrix").startswith(f"{cells} of 2 labels go with single cells") and (shown, cells) == (0, 1)
    alone = lx.probe(recording, labels, controls={}, progress=False)
    assert title(alone) == "probe scores, not controlled"
