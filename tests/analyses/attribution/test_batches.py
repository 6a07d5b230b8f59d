"""How many rows go through the model at once, and what goes along with them."""

import pytest
import torch
from attributed import ENDS, METHODS, Function, Packed, Worn, features, tokens
from cases import close

import lstm_explain as lx


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_the_size_of_a_batch_changes_nothing(rows, method):
    model, lengths = Packed(), torch.tensor(ENDS)
    options = {"target": [4, 0, 1], "lengths": ENDS, "additional_forward_args": (lengths,), "method": method}
    expected = lx.attribute(model, features(), **options)
    result = lx.attribute(model, features(), internal_batch_size=rows, **options)
    close(result.attributions, expected.attributions)
    close(result.output, expected.output)
    assert result.settings == expected.settings


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "input_x_gradient"])
def test_no_more_rows_go_through_the_model_than_allowed(method):
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2), method=method, internal_batch_size=2)
    assert max(called[3] for called in model.found) == 2


def test_occlusion_keeps_to_internal_batch_size():
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2), method="occlusion", internal_batch_size=2)
    assert max(called[3] for called in model.found) == 2


def test_without_a_word_many_nodes_go_through_the_model_at_once():
    model = Worn()
    lx.attribute(model, tokens(), target=(-1, 2))
    assert max(called[3] for called in model.found) >= 24


@pytest.mark.parametrize("method", METHODS)
def test_what_else_the_model_reads_goes_along_with_its_example(method):
    scale, shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 0.25], dtype=torch.float64)

    def function(x, scale, shift, power, word, nothing):
        assert (word, nothing) == ("word", None)
        return scale * ((x + shift) ** power).sum((1, 2))

    args = (scale, shift, torch.tensor(2), "word", None)
    result = lx.attribute(Function(function), features(), additional_forward_args=args, method=method, internal_batch_size=2)
    x = features()
    square = (x + shift) ** 2 - shift**2
    gradient = 2 * (x + shift) * scale.view(3, 1, 1)
    expected = {"saliency": gradient.abs(), "input_x_gradient": x * gradient, "occlusion": (scale.view(3, 1, 1) * square).sum(2)}
    close(result.attributions, expected.get(method, scale.view(3, 1, 1) * square))


@pytest.mark.parametrize(("method", "passes"), [("integrated_gradients", 4), ("saliency", 3)])
def test_of_one_example_no_pass_is_made_twice(method, passes):
    model = Worn().eval()
    result = lx.attribute(model, tokens()[:1], target=(-1, 2), method=method)
    assert len(model.found) == passes
    with torch.no_grad():
        close(result.output, model(tokens()[:1])[0, -1:, 2])
