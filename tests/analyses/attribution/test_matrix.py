"""`attribution_matrix`, against `attribute` one output step at a time, closed forms, and what can't come from the future."""

import json

import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, VALID, Function, Packed, Words, features, tokens, whereabouts
from cases import close, peephole_lstm, randomise, torch_lstm
from matplotlib.figure import Figure
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_explain as lx
from lstm_explain.analyses.attribution import matrix

METHODS = ["integrated_gradients", "saliency", "input_x_gradient", "gradient_shap", "occlusion", "shapley_value_sampling", "kernel_shap"]
NEXT = torch.tensor([[2, 0, 1, 3, 2], [1, 3, 0, 0, 0], [0, 2, 2, 1, 3]])
"""A class for each step of three sequences."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lengths", [None, ENDS])
def test_every_output_step_is_what_attribute_gives_for_it(method, lengths):
    model = Words()
    whole = lx.attribution_matrix(model, tokens(), target=NEXT, lengths=lengths, method=method)
    assert whole.attributions.shape == (3, 5, 5)
    for step in range(5):
        examples = [row for row in range(3) if lengths is None or step < lengths[row]]
        one = lx.attribute(
            model,
            tokens()[examples],
            target=[(step, int(NEXT[row, step])) for row in examples],
            lengths=None if lengths is None else [lengths[row] for row in examples],
            method=method,
        )
        close(whole.attributions[examples, step], one.by_step)
        close(whole.output[examples, step], one.output)
        if method != "saliency":
            close(whole.convergence_delta[examples, step], one.convergence_delta)
            close(whole.baseline_output[examples, step], one.baseline_output)
        if method == "shapley_value_sampling":
            close(whole.spread[examples, step], one.spread)
    if lengths is not None:
        assert (whole.attributions[~VALID] == 0).all() and (np.swapaxes(whole.attributions, 1, 2)[~VALID] == 0).all()
        np.testing.assert_array_equal(whole.output_valid, VALID)
        assert np.isnan(whole.output[~VALID]).all() and not np.isnan(whole.output[VALID]).any()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_comes_from_the_future_of_a_network_that_reads_one_way(method):
    later = np.arange(5) > np.arange(5)[:, None]
    for model in (torch_lstm(THREE), peephole_lstm(THREE._replace(num_layers=2), "full")):
        found = lx.attribution_matrix(model, features(), target=1, method=method)
        # Gradients from the future are exactly zero; outputs of passes with other numbers of rows differ in their last bits.
        assert found.from_future.max() <= (0 if "gradient" in method or method == "saliency" else 1e-15)
        close(found.from_future, np.abs(found.attributions[:, later]).max(1))
        assert (found.attributions[:, ~later] != 0).all()
    both = lx.attribution_matrix(torch_lstm(THREE._replace(bidirectional=True)), features(), target=4, method=method)
    assert (both.from_future > 1e-4).all()
    close(both.from_future, np.abs(both.attributions[:, later]).max(1))


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "kernel_shap", "shapley_value_sampling", "gradient_shap"])
def test_a_running_sum_is_a_triangle_in_closed_form(method):
    inputs, baselines = features(), features(3, 5, 2, seed=1)
    running = Function(lambda x: x.sum(2).cumsum(1))
    given = baselines[:1] if method == "gradient_shap" else baselines
    found = lx.attribution_matrix(running, inputs, method=method, baselines=given, lengths=ENDS)
    expected = (inputs - given).sum(2).unsqueeze(1) * torch.ones(5, 5).tril() * (VALID.unsqueeze(1) & VALID.unsqueeze(2))
    close(found.attributions, expected)
    assert found.classes is None and found.padding == "known"


def test_no_output_step_sees_more_than_the_last_three_steps():
    window = Function(lambda x: x.sum(2) + torch.nn.functional.pad(x.sum(2), (2, 0))[:, :-2] ** 2)
    found = lx.attribution_matrix(window, features())
    near, far = np.eye(5, dtype=bool), np.eye(5, k=-2, dtype=bool)
    close(found.attributions[:, near], features().sum(2))
    close(found.attributions[:, far], features().sum(2)[:, :3] ** 2)
    assert (found.attributions[:, ~(near | far)] == 0).all()


@pytest.mark.parametrize("steps_at_once", [1, 35])
@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_how_many_rows_go_at_once_changes_nothing(steps_at_once, method, monkeypatch):
    expected = lx.attribution_matrix(Words(), tokens(), target=NEXT, lengths=ENDS, method=method)
    monkeypatch.setattr(matrix, "STEPS_AT_ONCE", steps_at_once)
    found = lx.attribution_matrix(Words(), tokens(), target=NEXT, lengths=ENDS, method=method)
    close(found.attributions, expected.attributions)
    close(found.convergence_delta[VALID], expected.convergence_delta[VALID])
    within = lx.attribution_matrix(Words(), tokens(), target=NEXT, lengths=ENDS, method=method, memory_budget=9_000)
    close(within.attributions, expected.attributions)


class Unpacked(Packed):
    """Every step's output, cut to the longest sequence of the pass; scaled by example, and shifted by something of another length."""

    def forward(self, inputs, lengths, scale, shift):
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]
        assert len(shift) == 9
        return scale.view(-1, 1, 1) * states + shift[:6]


def test_what_else_the_model_reads_goes_along_and_outputs_may_be_cut():
    ends = [4, 2, 3]
    # As many as there are output steps in all, so that the shift could be taken for one by example.
    args = (torch.tensor(ends), torch.tensor([1.0, -2.0, 3.0]).double(), features(9))
    found = lx.attribution_matrix(Unpacked(), features(), target=4, lengths=ends, additional_forward_args=args)
    assert found.attributions.shape == (3, 4, 5)
    for row, end in enumerate(ends):
        for step in range(end):
            alone = (torch.tensor([end]), args[1][row : row + 1], args[2])
            one = lx.attribute(Unpacked(), features()[row : row + 1, :end], target=(step, 4), additional_forward_args=alone)
            close(found.attributions[row, step, :end], one.by_step[0])
    assert (found.from_future > 0).all()


class Forecast(nn.Module):
    """Three steps ahead, from the last state."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = torch_lstm(THREE), randomise(nn.Linear(3, 3).double(), seed=2)

    def forward(self, x):
        return self.head(self.lstm(x)[1][0][0])


def test_the_steps_of_a_forecast_are_all_ahead():
    found = lx.attribution_matrix(Forecast(), features())
    assert found.attributions.shape == (3, 3, 5) and found.from_future is None and found.output_valid.all()
    for step in range(3):
        close(found.attributions[:, step], lx.attribute(Forecast(), features(), target=(step,)).by_step)
    assert "future" not in repr(found) and "future" in found._repr_html_()


def test_some_output_steps():
    whole = lx.attribution_matrix(torch_lstm(THREE), features(), target=1, lengths=ENDS)
    some = lx.attribution_matrix(torch_lstm(THREE), features(), target=1, lengths=ENDS, output_steps=[3, 1])
    close(some.attributions, whole.attributions[:, [3, 1]])
    assert some.output_steps.tolist() == [3, 1] and some.output_valid.tolist() == [[True, True], [False, True], [True, True]]
    assert (some.from_future == 0).all()
    whole = lx.attribution_matrix(Words(), tokens(), target=NEXT)
    some = lx.attribution_matrix(Words(), tokens(), target=NEXT, output_steps=[3, 1])
    close(some.attributions, whole.attributions[:, [3, 1]])
    np.testing.assert_array_equal(some.classes, NEXT[:, [3, 1]])


@pytest.mark.parametrize("given", [3, torch.tensor([8, 1, 1, 1, 2]), 3 - tokens().clamp(max=3), features(3, 5, 3), features(5, 3)])
def test_baselines_are_each_examples_own(given):
    found = lx.attribution_matrix(
        Words(), tokens(), target=NEXT, baselines=given if not torch.is_tensor(given) or len(given) != 3 else given
    )
    for step in (0, 4):
        one = lx.attribute(Words(), tokens(), target=[(step, int(of)) for of in NEXT[:, step]], baselines=given)
        close(found.attributions[:, step], one.by_step)


def test_a_baseline_as_long_as_the_batch_is_still_one_for_all():
    inputs, baseline = features(3, 3, 2), features(3, 2, seed=1)
    found = lx.attribution_matrix(Function(lambda x: x.sum(2).cumsum(1)), inputs, baselines=baseline)
    close(found.attributions, (inputs - baseline).sum(2).unsqueeze(1) * torch.ones(3, 3).tril())


def test_it_leaves_everything_as_it_was():
    model = Words()
    before = whereabouts(model)
    lx.attribution_matrix(model, tokens(), target=NEXT, lengths=ENDS)
    assert whereabouts(model) == before


REFUSED = {
    "no_steps": ({"output": lambda r: r[0][:, -1].sum(1), "target": None}, "needed an output (batch, step[, class]), got (2,): choose"),
    "no_class": ({"target": None}, "needed target as a class, or one for each step (batch, step), for an output (batch, step, class)"),
    "class_of_numbers": ({"output": lambda r: r[0][..., 0]}, "needed target as None for an output (batch, step), got 1"),
    "classes_too_few": ({"target": [[0, 1]] * 3}, "needed target for 3 examples of 5 steps, got shape (3, 2)"),
    "class_beyond": ({"target": 3}, "needed target class from 0 to 2, got 3"),
    "steps": ({"output_steps": [5]}, "needed output_steps as whole numbers from 0 to 4, got [5]"),
    "decomposition": ({"method": "lrp"}, "needed a method whose numbers add up over steps, got lrp"),
    "permutation": ({"method": "feature_permutation"}, "needed a method that explains each example by itself, got feature_permutation"),
    "groups": ({"by": "feature"}, "needed a matrix of steps, got by: use lx.attribute for one output step"),
    "several": ({"inputs": (features(), features())}, "needed inputs as one tensor (batch, time[, feature]), got tuple"),
    "method": ({"method": "deep_lift"}, "deep_lift is refused"),
    "model": ({"model": len}, "needed a torch.nn.Module, got builtin_function_or_method"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_needed_and_what_came(case):
    given, message = REFUSED[case]
    with pytest.raises(lx.InputError) as caught:
        lx.attribution_matrix(**({"model": torch_lstm(THREE), "inputs": features(), "target": 1} | given))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_result_reads_in_one_line_and_exports():
    found = lx.attribution_matrix(torch_lstm(THREE), features(), target=1, lengths=ENDS)
    worst = found.relative_delta[VALID].max()
    assert repr(found) == (
        f"<Attribution matrix by integrated_gradients: batch 3, 5 output steps of 5 input steps; residual at most {worst:.1e} of the "
        "difference of outputs, within 1e-06 (or rounding) for 11 of 11; from the future at most 0; padding known>"
    )
    exported = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert exported["attributions"] == found.attributions.tolist() and exported["output"][1][2:] == [None] * 3
    frame = found.to_frame()
    assert len(frame) == 25 + 4 + 16
    row = frame[(frame["example"] == 2) & (frame["output_step"] == 3) & (frame["input_step"] == 1)]
    assert row["attribution"].tolist() == [found.attributions[2, 3, 1]]
    assert found._repr_html_().count("<tr>") == 4
    short = lx.attribution_matrix(torch_lstm(THREE), 4 * features(), target=1, n_steps=1)
    assert not short.converged.all() and f"for {short.converged.sum()} of 15" in repr(short)
    assert "doesn't claim to add up" in repr(lx.attribution_matrix(torch_lstm(THREE), features(), target=1, method="saliency"))


# ---- Pictures


def test_the_picture_has_a_row_for_each_output_step_without_padding():
    found = lx.attribution_matrix(torch_lstm(THREE), features(), target=1, lengths=ENDS)
    ax = lx.plot(found, Figure().add_subplot(), example=2, tokens=[*"ab\n$e"])
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), found.attributions[2, :4, :4])
    assert image.get_clim()[0] == -image.get_clim()[1]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", r"\n", "$"] == [t.get_text() for t in ax.get_yticklabels()]
    worst = found.relative_delta[2, :4].max()
    most, _, checks = ax.get_title("left").partition("\n")
    assert most.startswith("output step ") and most.endswith(", by integrated gradients")
    assert checks == f"residual at most {worst:.0e} of the difference; none from the future"
    some = lx.plot(lx.attribution_matrix(torch_lstm(THREE), features(), target=1, output_steps=[3, 1]), Figure().add_subplot())
    assert [text.get_text() for text in some.get_yticklabels()] == ["3", "1"]
    both = lx.attribution_matrix(torch_lstm(THREE._replace(bidirectional=True)), features(), target=4, method="saliency")
    assert lx.plot(both, Figure().add_subplot()).get_title("left").endswith(f"\nfrom the future at most {both.from_future[0]:.0e}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": 3}, "needed example from 0 to 2, got 3"),
        ({"tokens": ["a"]}, "needed tokens= for the example's 5 steps, got 1"),
        ({"example": 1}, "needed an example with one of the output steps, got 1, which has none"),
    ],
)
def test_a_picture_that_can_not_be_drawn_says_why(options, message):
    found = lx.attribution_matrix(torch_lstm(THREE), features(), target=1, lengths=ENDS, output_steps=[3])
    with pytest.raises(lx.InputError, match=message):
        lx.plot(found, Figure().add_subplot(), **options)


@pytest.mark.parametrize("method", ["shapley", "feature_ablation", "shapley_value_sampling", "saliency"])
def test_the_picture_of_groups_shows_what_is_not_attributed(method):
    found = lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), by={"a": [0]}, method=method)
    ax = lx.plot(found, Figure().add_subplot(), example=1)
    bars = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(bars[:2], found.by_group[1])
    names = [text.get_text() for text in ax.get_yticklabels()]
    if method == "saliency":
        assert names == ["a", "rest"] and ax.get_title("left").endswith("\nit doesn't claim to add up")
        return
    assert names == ["a", "rest", "not attributed"] and np.isclose(bars[2], -found.convergence_delta[1], rtol=0, atol=1e-15)
    # The bars are the whole difference of outputs.
    assert np.isclose(sum(bars), found.output[1] - found.baseline_output[1], rtol=0, atol=1e-12)
    claim = ": it doesn't claim to add up" if method == "feature_ablation" else ""
    assert ax.get_title("left").endswith(f"\nresidual {found.relative_delta[1]:.0e} of the difference of outputs{claim}")
    assert ("standard errors" in ax.get_xlabel()) == (method == "shapley_value_sampling")


def test_groups_that_there_are_not_can_not_be_drawn():
    with pytest.raises(lx.InputError, match='needed attributions to groups for kind="groups", got none'):
        lx.plot(lx.attribute(torch_lstm(THREE), features(), target=(-1, 1)), Figure().add_subplot(), kind="groups")
