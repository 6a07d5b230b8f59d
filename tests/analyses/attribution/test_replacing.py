"""Attributions by replacing inputs, and by gradients at random places: against slow ones, Captum, and closed forms."""

import itertools
import math
import warnings

import captum.attr
import numpy as np
import pytest
import torch
from attributed import ENDS, THREE, VALID, Function, Packed, Words, features, held_at_padding, tokens, whereabouts
from cases import close, peephole_lstm, torch_lstm
from mechanisms import adding, counter
from torch import nn
from torch.nn.functional import one_hot

import lstm_explain as lx

SHAPLEY = ["shapley", "shapley_value_sampling", "kernel_shap"]
RANDOM = ["shapley_value_sampling", "kernel_shap", "gradient_shap", "feature_permutation"]
ALL = [*SHAPLEY, "gradient_shap", "feature_ablation", "feature_permutation"]
REPLACING = [*SHAPLEY, "feature_ablation", "feature_permutation", "occlusion"]
BASELINE = features(5, 2, seed=1)
TARGETS = [(4, 2), (1, 0), (2, 5)]


def both_ways():
    return torch_lstm(THREE._replace(bidirectional=True))


def numbers_of(model, target):
    """A function from ``(n, time, feature)`` to the target's element."""
    return lambda points: model(points)[0][(slice(None), *target)].detach().numpy()


def replaced(inputs, baseline, mask, group):
    return torch.where((mask == group).expand(inputs.shape), baseline, inputs)


def coalition(inputs, baseline, mask, chosen):
    """Inputs where their group is among the chosen, and the baseline elsewhere."""
    there = torch.zeros(inputs.shape, dtype=torch.bool)
    for group in chosen:
        there |= mask == group
    return torch.where(there, inputs, baseline)


def shapley_slowly(number, inputs, baseline, mask, groups):
    """Over every order, what each group adds when it is put in."""
    total = dict.fromkeys(groups, 0.0)
    orders = list(itertools.permutations(groups))
    for order in orders:
        for at, group in enumerate(order):
            before, after = (number(coalition(inputs, baseline, mask, order[:end]).unsqueeze(0))[0] for end in (at, at + 1))
            total[group] += (after - before) / len(orders)
    return [total[group] for group in groups]


STEPS = torch.arange(5).view(5, 1).expand(5, 2)


# ---- Shapley values


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
@pytest.mark.parametrize("form", ["full", None])
def test_shapley_values_are_means_over_all_orders(method, form):
    model, inputs = peephole_lstm(THREE, form), features()
    result = lx.attribute(model, inputs, target=(-1, 1), baselines=BASELINE, lengths=ENDS, method=method)
    for example, end in enumerate(ENDS):
        number = numbers_of(model, (end - 1, 1))
        slow = shapley_slowly(number, inputs[example], held_at_padding(BASELINE, inputs)[example], STEPS, range(end))
        close(result.attributions[example, :end], slow)
    assert result.converged.all() and (result.relative_delta < 1e-12).all() and result.spread is None


@pytest.mark.parametrize("method", ["shapley", "kernel_shap"])
def test_of_groups_too_and_they_may_differ_by_example(method):
    model, inputs = both_ways(), features()
    mask = torch.tensor([[0, 0, 7, 7, 3], [3, 0, 0, 7, 7], [7, 3, 3, 0, 0]]).unsqueeze(2)
    result = lx.attribute(model, inputs, target=TARGETS, baselines=BASELINE, method=method, by=mask)
    assert result.groups == ("group 0", "group 3", "group 7")
    for example, target in enumerate(TARGETS):
        slow = shapley_slowly(numbers_of(model, target), inputs[example], BASELINE, mask[example], [0, 3, 7])
        close(result.by_group[example], np.array(slow))
        # A group's value is in equal shares on its steps.
        shares = [slow[[0, 3, 7].index(group)] / int((mask[example] == group).sum()) for group in mask[example, :, 0].tolist()]
        close(result.attributions[example], np.array(shares))


def orders_of(groups, count, seed):
    random = np.random.default_rng(seed)
    return [random.permutation(groups) for _ in range(count)]


def test_sampling_puts_groups_in_by_random_orders():
    model, inputs = peephole_lstm(THREE, "full"), features()
    result = lx.attribute(
        model, inputs, target=(-1, 1), baselines=BASELINE, lengths=ENDS, method="shapley_value_sampling", n_samples=7, seed=3
    )
    for example, end in enumerate(ENDS):
        number, baseline = numbers_of(model, (end - 1, 1)), held_at_padding(BASELINE, inputs)[example]
        found = np.empty((7, end))
        for row, places in enumerate(orders_of(end, 7, 3)):
            order = np.argsort(places)
            for at, group in enumerate(order):
                before, after = (
                    number(coalition(inputs[example], baseline, STEPS, [*order[:end_], *range(end, 5)]).unsqueeze(0))[0]
                    for end_ in (at, at + 1)
                )
                found[row, group] = after - before
        close(result.attributions[example, :end], found.mean(0))
        close(result.spread[example, :end], found.std(0, ddof=1) / math.sqrt(7))
    assert (result.relative_delta < 1e-12).all() and (result.spread[~VALID] == 0).all()
    assert result.settings["n_samples"] == 7 and result.settings["seed"] == 3


def test_captum_agrees_where_its_orders_are_ours():
    model, inputs = both_ways(), features()
    ours = lx.attribute(model, inputs, target=TARGETS, baselines=BASELINE, method="shapley_value_sampling", n_samples=4)
    sampling = captum.attr.ShapleyValueSampling(lambda x: model(x)[0])
    sampling.permutation_generator = lambda groups, count: [np.argsort(places).tolist() for places in orders_of(groups, count, 0)]
    mask = STEPS.unsqueeze(0).contiguous()
    theirs = sampling.attribute(inputs, BASELINE.expand(3, 5, 2), TARGETS, feature_mask=mask, n_samples=4)[..., 0]
    # Captum sums in float32.
    np.testing.assert_allclose(ours.attributions, theirs, rtol=0, atol=1e-7)


def kernel_shap_slowly(number, inputs, baseline, subsets):
    """Least squares with the constraint that values add up, by Lagrange's multiplier."""
    nothing, everything = (number(points.unsqueeze(0))[0] for points in (baseline, inputs))
    y = np.array([number(coalition(inputs, baseline, STEPS, np.flatnonzero(row)).unsqueeze(0))[0] for row in subsets]) - nothing
    z, ones = subsets.astype(float), np.ones((subsets.shape[1], 1))
    system = np.block([[2 * z.T @ z, ones], [ones.T, np.zeros((1, 1))]])
    return np.linalg.solve(system, np.append(2 * z.T @ y, everything - nothing))[:-1]


def test_kernel_shap_fits_the_coalitions_that_it_drew():
    model, inputs = peephole_lstm(THREE, "full"), features(1, 5, 2)
    result = lx.attribute(model, inputs, target=(-1, 1), baselines=BASELINE, method="kernel_shap", n_samples=20, seed=5)
    random, fits = np.random.default_rng(5), []
    odds = np.array([1 / (k * (5 - k)) for k in range(1, 5)])
    for _ in range(5):
        sizes = random.choice([1, 2, 3, 4], size=10, p=odds / odds.sum())
        places = random.permuted(np.tile(np.arange(5), (10, 1)), axis=1)
        chosen = places < sizes[:, None]
        fits.append(kernel_shap_slowly(numbers_of(model, (4, 1)), inputs[0], BASELINE, np.concatenate([chosen, ~chosen])))
    # Two ways to solve least squares.
    np.testing.assert_allclose(result.attributions[0], np.mean(fits, 0), rtol=0, atol=1e-11)
    np.testing.assert_allclose(result.spread[0], np.std(fits, 0, ddof=1) / math.sqrt(5), rtol=0, atol=1e-11)
    assert result.relative_delta.max() < 1e-12 and result.settings["n_samples"] == [20]


def test_captums_kernel_shap_is_ours_but_for_its_draws():
    model, inputs = torch_lstm(THREE), features(1, 5, 2)
    ours = lx.attribute(model, inputs, target=(-1, 1), baselines=BASELINE, method="kernel_shap")
    torch.manual_seed(0)
    shap = captum.attr.KernelShap(lambda x: model(x)[0])
    theirs = shap.attribute(inputs, BASELINE[None], [(4, 1)], feature_mask=STEPS[None], n_samples=500, perturbations_per_eval=500)[..., 0]
    # What is left of Captum's draws; the values are up to 0.1.
    np.testing.assert_allclose(ours.attributions, theirs, rtol=0, atol=2e-3)


# ---- Closed forms, and networks that are known


@pytest.mark.parametrize("method", [*SHAPLEY, "feature_ablation", "occlusion"])
def test_of_an_additive_function_they_are_all_occlusion(method):
    inputs = features()
    result = lx.attribute(Function(lambda x: x.sin().sum((1, 2)) + 2), inputs, baselines=BASELINE, lengths=ENDS, method=method)
    expected = torch.where(VALID, (inputs.sin() - BASELINE.sin()).sum(2), 0.0)
    close(result.attributions, expected)
    assert (result.relative_delta < 1e-12).all() and (result.spread is None or result.spread.max() < 1e-15)


@pytest.mark.parametrize("lengths", [None, ENDS])
def test_of_a_linear_function_gradient_shap_is_the_difference_from_the_mean_baseline_that_was_drawn(lengths):
    inputs, weights, several = features(), features(5, 2, seed=1), features(4, 5, 2, seed=2)
    model = Function(lambda x: (weights * x).sum((1, 2)) + 3)
    single = lx.attribute(model, inputs, baselines=BASELINE, lengths=lengths, method="gradient_shap")
    valid = VALID.unsqueeze(2) if lengths else torch.ones(3, 5, 1)
    close(single.attributions, weights * (inputs - BASELINE) * valid)
    assert single.spread.max() < 1e-15 and single.relative_delta.max() < 1e-12
    which = np.random.default_rng(2).integers(4, size=11)
    drawn = lx.attribute(model, inputs, baselines=several, lengths=lengths, method="gradient_shap", n_samples=11, seed=2)
    terms = weights * (inputs - several[which].unsqueeze(1)) * valid
    close(drawn.attributions, terms.mean(0))
    close(drawn.spread, terms.std(0) / math.sqrt(11))
    grouped = lx.attribute(
        model, inputs, baselines=several, lengths=lengths, method="gradient_shap", n_samples=11, seed=2, by="feature", internal_batch_size=5
    )
    close(grouped.by_group, terms.mean(0).sum(1))
    close(grouped.group_spread, terms.sum(2).std(0) / math.sqrt(11))
    at_baselines = [(weights * torch.where(valid.bool(), one, inputs)).sum((1, 2)) + 3 for one in several]
    close(drawn.baseline_output, torch.stack(at_baselines).mean(0))
    close(drawn.convergence_delta, drawn.by_step.sum(1) - (drawn.output - drawn.baseline_output))


def test_gradient_shap_takes_gradients_at_its_random_places():
    model, inputs, several = peephole_lstm(THREE, "full"), features(), features(4, 5, 2, seed=2)
    result = lx.attribute(model, inputs, target=(-1, 1), baselines=several, lengths=ENDS, method="gradient_shap", n_samples=6)
    random = np.random.default_rng(0)
    which, alpha = random.integers(4, size=6), random.random(6)
    total = torch.zeros_like(inputs)
    for baseline, share in zip(several[which], alpha, strict=True):
        path = inputs - held_at_padding(baseline, inputs)
        points = (held_at_padding(baseline, inputs) + share * path).requires_grad_()
        ends = model(points)[0][torch.arange(3), torch.tensor(ENDS) - 1, 1]
        total += path * torch.autograd.grad(ends.sum(), points)[0] / 6
    close(result.attributions, torch.where(VALID.unsqueeze(2), total, 0.0))
    assert result.converged is None and "it adds up on average over its draws" in repr(result)


def test_gradient_shap_and_captums_tend_to_the_same():
    model, inputs, several = torch_lstm(THREE), features(1, 5, 2), features(6, 5, 2, seed=2)
    ours = lx.attribute(model, inputs, target=(-1, 1), baselines=several, method="gradient_shap", n_samples=2000)
    np.random.seed(0)  # noqa: NPY002 - Captum takes from it
    theirs = captum.attr.GradientShap(lambda x: model(x)[0]).attribute(inputs, several, 2000, target=[(4, 1)])
    assert (np.abs(ours.attributions - theirs.detach().numpy()) <= 6 * ours.spread).all()
    assert (np.abs(ours.convergence_delta) < 0.02).all()


def test_every_token_of_the_counter_counts_for_one():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    for method in (*SHAPLEY, "feature_ablation"):
        result = lx.attribute(counter(), inputs, method=method, output=lambda r: r[1][1][0, :, 0])
        # The gates are open to 2e-9.
        np.testing.assert_allclose(result.by_step, signs * math.tanh(4), rtol=0, atol=1e-6)
        assert (result.relative_delta <= 1e-6).all()


def test_value_and_marker_share_what_was_added():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = features(2, 7)
    added = (value * marker).sum(1)
    inputs = torch.stack([value, marker], 2)
    shapley = lx.attribute(
        adding(), inputs, target=(-1,), method="shapley", by="feature", output=lambda returned: 1e3 * returned[0][..., 0]
    )
    # The gate is open to 2e-9, and tanh is linear to 3e-7.
    np.testing.assert_allclose(shapley.by_group, torch.stack([added, added], 1) / 2, rtol=0, atol=1e-3)
    assert shapley.groups == ("feature 0", "feature 1")


class Deaf(nn.Module):
    """Reads two of four features."""

    def __init__(self):
        super().__init__()
        self.lstm = torch_lstm(THREE)

    def forward(self, x):
        return self.lstm(x[..., :2])[0]


@pytest.mark.parametrize("method", [*ALL, "integrated_gradients", "saliency", "input_x_gradient", "occlusion"])
def test_what_the_model_does_not_read_gets_exactly_zero(method):
    result = lx.attribute(Deaf(), features(3, 5, 4), target=(-1, 1), by={"heard": [0, 1], "unheard": slice(2, 4)}, method=method)
    assert result.groups == ("heard", "unheard")
    # Outputs of passes with other numbers of rows differ in their last bit.
    assert (np.abs(result.by_group[:, 1]) <= (1e-16 if method in REPLACING else 0)).all() and (result.by_group[:, 0] != 0).all()


# ---- Ablation and permutation


PARTITIONS = {
    "step": STEPS,
    "feature": torch.arange(2).expand(5, 2),
    "element": torch.arange(10).view(5, 2),
    2: STEPS // 2,
    3: STEPS // 3,
}


@pytest.mark.parametrize("by", PARTITIONS)
@pytest.mark.parametrize("lengths", [None, ENDS])
def test_ablation_is_what_changes_when_one_group_gets_the_baseline(by, lengths):
    model, inputs, mask = both_ways(), features(), PARTITIONS[by]
    result = lx.attribute(model, inputs, target=TARGETS, baselines=BASELINE, lengths=lengths, method="feature_ablation", feature_mask=by)
    baseline = held_at_padding(BASELINE, inputs) if lengths else BASELINE.expand(3, 5, 2)
    valid = VALID.unsqueeze(2).expand(3, 5, 2) if lengths else torch.ones(3, 5, 2, dtype=torch.bool)
    elements = np.zeros((3, 5, 2))
    for example, target in enumerate(TARGETS):
        number = numbers_of(model, target)
        for group in mask.unique():
            here = (mask == group) & valid[example]
            change = number(inputs[example][None]) - number(replaced(inputs[example], baseline[example], mask, group)[None])
            elements[example][here] = change / max(1, int(here.sum()))
    divided = by in ("feature", "element")
    close(result.attributions, elements if divided else elements.sum(2))
    close(result.by_step, elements.sum(2))
    assert (result.groups is None) == (by in ("step", "element"))
    close(result.convergence_delta, elements.sum((1, 2)) - (result.output - result.baseline_output))
    assert result.converged is None


def test_a_mask_is_captums():
    model, inputs = both_ways(), features()
    mask = torch.tensor([[0, 4], [0, 4], [2, 2], [2, 4], [0, 0]])
    ours = lx.attribute(model, inputs, target=TARGETS, baselines=BASELINE, method="feature_ablation", feature_mask=mask)
    theirs = captum.attr.FeatureAblation(lambda x: model(x)[0]).attribute(
        inputs, BASELINE.expand(3, 5, 2), TARGETS, feature_mask=mask.unsqueeze(0)
    )
    close(ours.by_group, torch.stack([theirs[:, 0, 0], theirs[:, 2, 0], theirs[:, 0, 1]], 1))
    close(ours.attributions, theirs / torch.tensor([[4, 3], [4, 3], [3, 3], [3, 3], [4, 4]]))


def test_masks_may_differ_by_example():
    model, inputs = both_ways(), features()
    mask = torch.tensor([[0, 0, 7, 7, 3], [3, 0, 0, 7, 7], [7, 7, 0, 0, 0]]).unsqueeze(2)
    result = lx.attribute(model, inputs, target=TARGETS, baselines=BASELINE, lengths=ENDS, method="feature_ablation", by=mask)
    baseline, expected = held_at_padding(BASELINE, inputs), np.zeros((3, 3))
    for example, target in enumerate(TARGETS):
        number = numbers_of(model, target)
        for at, group in enumerate((0, 3, 7)):
            altered = replaced(inputs[example], baseline[example], mask[example], group)
            expected[example, at] = (number(inputs[example][None]) - number(altered[None]))[0]
    close(result.by_group, expected)
    assert result.by_group[1, 2] == 0 and result.by_group[2, 1] == 0 and result.settings["by"] == "mask"
    frame = result.groups_to_frame()
    assert (
        frame["group"].tolist() == ["group 0", "group 3", "group 7"] * 3
        and frame["attribution"].tolist() == result.by_group.ravel().tolist()
    )


@pytest.mark.parametrize("method", REPLACING)
def test_what_is_alone_gets_the_whole_difference(method):
    model, inputs = torch_lstm(THREE), features()
    result = lx.attribute(model, inputs, target=(-1, 1), by={"all": slice(None)}, method=method)
    if method != "feature_permutation":
        close(result.by_group[:, 0], result.output - result.baseline_output)
    short = lx.attribute(model, inputs, target=(-1, 1), lengths=[1, 5, 2], method=method)
    assert (short.attributions[0, 1:] == 0).all() and short.attributions[0, 0] != 0


def test_the_result_says_how_sure_it_is_and_by_what():
    options = {"target": (-1, 1), "method": "shapley_value_sampling"}
    result = lx.attribute(torch_lstm(THREE), features(), by={"first": 0}, **options)
    assert repr(result).endswith(f"for 3 of 3; standard error at most {result.spread.max():.1e}; padding unknown>")
    assert result.settings["by"] == "names first" and result.groups_to_frame()["spread"].tolist() == result.group_spread.ravel().tolist()
    plain = lx.attribute(torch_lstm(THREE), features(), **options)
    assert plain.settings["by"] == "step" and plain.groups is plain.by_group is plain.group_spread is None
    with pytest.raises(lx.InputError, match="needed attributions to groups, got none"):
        plain.groups_to_frame()
    assert lx.attribute(torch_lstm(THREE), features(), target=(-1, 1)).settings["by"] is None


def donors_of(batch, times, seed):
    random = np.random.default_rng(seed)
    for _ in range(times):
        cycle = random.permutation(batch).tolist()
        yield [cycle[cycle.index(row) - 1] for row in range(batch)]


def test_permutation_is_captums_with_the_same_exchanges():
    model, inputs = both_ways(), features(4, 5, 2)
    ours = lx.attribute(model, inputs, target=(-1, 1), method="feature_permutation", n_samples=5, seed=4, feature_mask="feature")
    found = []
    for donors in donors_of(4, 5, 4):
        assert all(row != donor for row, donor in enumerate(donors))
        permutation = captum.attr.FeaturePermutation(lambda x: model(x)[0], lambda x, mask, donors=donors: torch.where(mask, x[donors], x))
        theirs = permutation.attribute(inputs, [(4, 1)] * 4, feature_mask=torch.arange(2).expand(1, 5, 2))
        found.append(theirs[:, 0].detach())
    close(ours.by_group, torch.stack(found).mean(0))
    close(ours.group_spread, torch.stack(found).std(0) / math.sqrt(5))
    assert ours.baseline_output is ours.convergence_delta is ours.converged is None and "doesn't claim to add up" in repr(ours)


def test_no_padding_comes_in_from_other_examples():
    inputs, other = features(), features()
    other[~VALID] = 1e6
    first, second = (
        lx.attribute(torch_lstm(THREE), x, target=(-1, 1), lengths=ENDS, method="feature_permutation") for x in (inputs, other)
    )
    close(first.attributions, second.attributions)
    # The sum is linear: each step loses itself, and gets what stands in the donor, whose steps begin again when they are over.
    result = lx.attribute(Function(lambda x: x.sum((1, 2))), inputs, lengths=ENDS, method="feature_permutation", n_samples=3)
    steps, expected = inputs.sum(2), np.zeros((3, 5))
    for donors in donors_of(3, 3, 0):
        for row, donor in enumerate(donors):
            for step in range(ENDS[row]):
                expected[row, step] += (steps[row, step] - steps[donor, step % ENDS[donor]]) / 3
    close(result.attributions, expected)


# ---- Padding, batches, draws


def options_of(method):
    return {"n_samples": 9} if method in RANDOM and method != "kernel_shap" else {}


@pytest.mark.parametrize("method", [method for method in ALL if method != "feature_permutation"])
@pytest.mark.parametrize("kind", ["padded", "packed", "tokens"])
def test_an_example_is_explained_as_if_it_were_alone_and_without_padding(kind, method):
    model, inputs, target = {
        "padded": (peephole_lstm(THREE._replace(num_layers=2), "full"), features(), (-1, 1)),
        "packed": (Packed(), features(), 4),
        "tokens": (Words(), tokens(), (-1, 1)),
    }[kind]
    extra = {"additional_forward_args": torch.tensor(ENDS)} if kind == "packed" else {}
    together = lx.attribute(model, inputs, target=target, lengths=ENDS, method=method, **options_of(method), **extra)
    assert (together.attributions[~VALID] == 0).all()
    for at, n in enumerate(ENDS):
        extra = {"additional_forward_args": (torch.tensor([n]),)} if kind == "packed" else {}
        alone = lx.attribute(model, inputs[at : at + 1, :n], target=target, method=method, **options_of(method), **extra)
        close(together.attributions[at, :n], alone.attributions[0])
        if together.spread is not None and alone.spread is not None:
            close(together.spread[at, :n], alone.spread[0])


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("rows", [1, 7])
def test_the_size_of_a_batch_changes_nothing(rows, method):
    seen = []

    class Counted(Packed):
        def forward(self, inputs, lengths):
            seen.append(len(inputs))
            return super().forward(inputs, lengths)

    lengths = torch.tensor(ENDS)
    options = {"target": [4, 0, 1], "lengths": ENDS, "additional_forward_args": (lengths,), "method": method} | options_of(method)
    expected = lx.attribute(Packed(), features(), **options)
    result = lx.attribute(Counted(), features(), internal_batch_size=rows, **options)
    close(result.attributions, expected.attributions)
    assert result.settings == expected.settings
    # Two are needed to see that each example is read by itself.
    assert max(seen) <= max(rows, 2)


@pytest.mark.parametrize("method", RANDOM)
def test_the_global_generators_are_left_alone_and_a_seed_repeats(method):
    model, inputs = both_ways(), features(3, 12, 2)
    before = whereabouts(model), np.random.get_state()[1].tolist()  # noqa: NPY002 - what Captum takes from
    first, again, other = (lx.attribute(model, inputs, target=(-1, 1), method=method, seed=seed, n_samples=60) for seed in (1, 1, 2))
    assert (whereabouts(model), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    np.testing.assert_array_equal(first.attributions, again.attributions)
    np.testing.assert_array_equal(first.spread, again.spread)
    assert not np.allclose(first.attributions, other.attributions, rtol=0, atol=1e-6) and first.spread.shape == first.attributions.shape


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ALL)
def test_it_works_where_gradients_are_off_and_inputs_stay_as_they_were(method, mode):
    expected = lx.attribute(Words(), tokens(), target=(-1, 2), lengths=ENDS, method=method, **options_of(method))
    model, inputs = Words().train(), tokens()
    with mode():
        before = whereabouts(model)
        result = lx.attribute(model, inputs, target=(-1, 2), lengths=ENDS, method=method, **options_of(method))
        assert whereabouts(model) == before and torch.equal(inputs, tokens())
    np.testing.assert_array_equal(result.attributions, expected.attributions)


@pytest.mark.parametrize("method", RANDOM)
def test_the_spread_is_that_over_seeds(method):
    model, inputs = both_ways(), features(3, 8, 2)
    draws = {"kernel_shap": 80, "feature_permutation": 8}.get(method, 20)
    results = [lx.attribute(model, inputs, target=(-1, 1), method=method, seed=seed, n_samples=draws) for seed in range(40)]
    over_seeds = np.std([result.attributions for result in results], axis=0, ddof=1)
    said = np.sqrt(np.mean([result.spread**2 for result in results], axis=0))
    # The standard deviation of 40 numbers is known to a tenth; of 24 or 48 such ratios the middle one far better.
    assert 0.85 < np.median(said / over_seeds) < 1.15


@pytest.mark.parametrize("method", ALL)
def test_tokens_are_replaced_as_the_rest_of_the_network_replaces_their_embeddings(method):
    model, table = Words(), Words().embedding.weight.detach()
    baseline = {} if method == "feature_permutation" else {"baselines": 3}
    as_vector = {} if method == "feature_permutation" else {"baselines": table[3].double()}
    ours = lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS, method=method, **baseline, **options_of(method))
    rest = lx.attribute(
        model.rest, table.double()[tokens()], target=(-1, 2), lengths=ENDS, method=method, **as_vector, **options_of(method)
    )
    close(ours.attributions, rest.attributions)
    assert ours.attributions.shape == ((3, 5, 3) if method == "gradient_shap" else (3, 5))


def test_gradient_shap_draws_from_baseline_tokens():
    model, several = Words(), torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    ours = lx.attribute(model, tokens(), target=(-1, 2), baselines=several, method="gradient_shap")
    rest = lx.attribute(
        model.rest, model.embedding(tokens()), target=(-1, 2), baselines=model.embedding(several).detach(), method="gradient_shap"
    )
    close(ours.attributions, rest.attributions)


@pytest.mark.parametrize("method", ALL)
def test_in_float32_too(method):
    model, inputs = torch_lstm(THREE, torch.float32), features().float()
    result = lx.attribute(model, inputs, target=(-1, 0), method=method, **options_of(method))
    wide = lx.attribute(model.double(), inputs.double(), target=(-1, 0), method=method, **options_of(method))
    np.testing.assert_allclose(result.attributions, wide.attributions, rtol=0, atol=1e-6)
    assert result.converged is None or result.converged.all()


# ---- What doesn't fit


REFUSED = {
    "many_groups": (
        {"method": "shapley", "by": "element"},
        "needed at most 8 groups for exact Shapley values, which run the model 2^groups",
    ),
    "few_coalitions": (
        {"method": "kernel_shap", "n_samples": 4, "by": "element"},
        "needed enough coalitions to tell 10 groups apart, got 4: give more with n_samples=",
    ),
    "nobody_to_exchange_with": (
        {"method": "feature_permutation", "inputs": features(1, 5, 2)},
        "needed at least two examples, which feature_permutation exchanges, got 1: use feature_ablation",
    ),
    "baselines_of_permutation": (
        {"method": "feature_permutation", "baselines": 0.0},
        "needed no baselines for feature_permutation, which has none, got some",
    ),
    "draws_of_what_draws_nothing": ({"method": "occlusion", "n_samples": 5}, "needed n_samples only for "),
    "no_draws": ({"method": "kernel_shap", "n_samples": 0}, "needed n_samples as a positive whole number, got 0"),
    "no_seed": ({"method": "kernel_shap", "seed": None}, "needed seed as a whole number from 0, got None"),
    "mask_of_gradients": ({"feature_mask": "step"}, "needed feature_mask only for methods that replace inputs, got it for integrated"),
    "twice": ({"method": "occlusion", "feature_mask": "step", "by": 2}, "needed feature_mask or by, which say what belongs together"),
    "word": ({"by": "word"}, "needed groups as one of step, feature, element, input, a number of steps, a mask or names with features"),
    "window": ({"by": 0}, "needed a positive number of steps in a window, got 0"),
    "mask_of_another_shape": (
        {"by": torch.zeros(4, dtype=int)},
        "needed a mask of whole numbers that broadcasts to (3, 5, 2), got shape (4,)",
    ),
    "mask_of_fractions": ({"by": torch.zeros(5, 2)}, "needed a mask of whole numbers, one for each group, got torch.float32"),
    "overlap": ({"by": {"a": [0, 1], "b": 1}}, "needed groups that don't overlap, got 'b' and 'a' with inputs in common"),
    "no_such_feature": ({"by": {"a": [2]}}, "needed the group 'a' as features from 0 to 1, or a mask, got [2]"),
    "half_a_feature": ({"by": {"a": 0.5}}, "needed the group 'a' as features from 0 to 1, or a mask, got 0.5"),
    "nothing": ({"by": {}}, "needed at least one group, got none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_needed_and_what_came(case):
    given, message = REFUSED[case]
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(**({"model": torch_lstm(THREE), "inputs": features(), "target": (-1, 0)} | given))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# ---- Groups of any method


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "input_x_gradient", "gradient_shap"])
def test_any_partition_of_gradients_sums_with_the_residual_of_the_whole(method):
    model, inputs = both_ways(), features()
    words = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 5, 5, 5], [0, 1, 1, 2, 5]])
    plain = lx.attribute(model, inputs, target=TARGETS, lengths=ENDS, method=method)
    result = lx.attribute(model, inputs, target=TARGETS, lengths=ENDS, method=method, by=words.unsqueeze(2))
    close(result.attributions, plain.attributions)
    steps = torch.as_tensor(plain.by_step)
    close(result.by_group, torch.stack([torch.where(words == word, steps, 0.0).sum(1) for word in (0, 1, 2, 5)], 1))
    if method != "saliency":
        close(result.by_group.sum(1) - (result.output - result.baseline_output), result.convergence_delta)


def test_names_have_features_or_masks_and_what_has_none_is_the_rest():
    model, inputs = Function(lambda x: x.sum((1, 2))), features(3, 5, 4)
    late = torch.zeros(5, 4, dtype=torch.bool)
    late[3:, 2:] = True
    result = lx.attribute(model, inputs, by={"a": [0, -3], "late": late.numpy()})
    assert result.groups == ("a", "late", "rest")
    close(result.by_group[:, :2], torch.stack([inputs[..., :2].sum((1, 2)), inputs[:, 3:, 2:].sum((1, 2))], 1))
    close(result.by_group.sum(1), inputs.sum((1, 2)))
    everything = lx.attribute(model, inputs, by={"a": range(3), "b": [False, False, False, True]})
    assert everything.groups == ("a", "b")
    close(everything.by_group, torch.stack([inputs[..., :3].sum((1, 2)), inputs[..., 3].sum(1)], 1))


def test_captum_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ALL:
            lx.attribute(torch_lstm(THREE), features(), target=(-1, 1), method=method)
