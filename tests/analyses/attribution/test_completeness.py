"""The table of completeness: its sums, its gaps, and what it says of tools that aren't there."""

import completeness
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def network():
    model, x, _ = completeness.trained(0, updates=20)
    return model.double(), x.double()


def outputs(model, x):
    with torch.no_grad():
        return model(x)[:, 0].numpy(), model(torch.zeros_like(x))[:, 0].numpy()


def test_two_values_are_marked_one_in_each_half_and_their_sum_is_asked_for():
    x, wanted = completeness.problems(50, torch.Generator().manual_seed(0))
    assert x.shape == (50, 20, 2)
    for series, answer in zip(x.numpy(), wanted.numpy(), strict=True):
        marked = np.flatnonzero(series[:, 1])
        assert len(marked) == 2 and marked[0] < 10 <= marked[1]
        np.testing.assert_allclose(series[marked, 0].sum(), answer[0], rtol=1e-6)


def test_a_gap_is_what_is_short_of_the_difference_of_outputs_or_of_the_whole_output(network):
    output, baseline = outputs(*network)
    for whole, claimed in ((False, output - baseline), (True, output)):
        shares = torch.as_tensor(np.stack([0.25 * claimed, 0.85 * claimed], 1))  # ten per cent too much
        found = completeness.gaps(*network, shares, whole)
        np.testing.assert_allclose(found, np.abs(0.1 * claimed / (output - baseline)), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
@pytest.mark.parametrize(("tool", "method"), [row for row in completeness.ROWS if row[0] in ("ours", "captum")])
def test_methods_that_claim_to_add_up_have_no_gap_and_the_others_have_one(network, tool, method):
    found = completeness.gaps(*network, completeness.ROWS[tool, method](*network), completeness.WHOLE in method)
    adds_up = method == "IntegratedGradients" or tool == "ours" and completeness.UNCLAIMED not in method
    assert found.max() < 1e-6 if adds_up else found.max() > 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_deeplift_is_gradient_times_input_on_a_recurrent_network(network):
    deeplift, product = (completeness.ROWS["captum", name](*network) for name in ("DeepLift", f"InputXGradient{completeness.UNCLAIMED}"))
    torch.testing.assert_close(deeplift, product, rtol=0, atol=1e-12)


def test_a_tool_that_is_not_there_is_named_and_not_asked(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert completeness.missing("ours") is None and completeness.missing("no_such_tool") == "not installed"
    monkeypatch.setattr(completeness, "import_module", broken)
    assert completeness.missing("zennit") == "can't be imported: RuntimeError: operator torchvision::nms does not exist"
