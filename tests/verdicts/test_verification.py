"""Verification: each leg held against the same by hand; networks in which it is known which units carry a label, and which don't."""

import numpy as np
import pytest
import torch
from error_rates import verify_alike
from planted_latch import Latched, signals, squared
from sklearn.metrics import r2_score, roc_auc_score
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.ablation.intervals import balanced, draws, intervals
from lstm_explain.analyses.probing.fits import folds_of
from lstm_explain.studies import planted
from lstm_explain.verdicts.verification.asked import donors_of
from lstm_explain.verdicts.verification.bounds import of_scores, of_slopes
from lstm_explain.verdicts.verification.listener import Listener
from lstm_explain.verdicts.verification.matched import bar, matched

B, T, H = 10, 12, 5
LENGTHS = [12, 9, 12, 5, 12, 12, 7, 12, 12, 10]
GROUPS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
X = torch.randn(B, T, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = {
    "rising": X[:, :, 0].cumsum(1).numpy() > 0,
    "sum": np.where(np.arange(T) % 5 == 4, np.nan, X[:, :, 1].cumsum(1).numpy()),
}
FEW = {"twins": 1, "resamples": 100, "permutations": 19}


class Reader(nn.Module):
    def __init__(self, layer, seed=1, outputs=2):
        super().__init__()
        self.layer, self.decoder = layer, nn.Linear(H, outputs)
        self.double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 1.6 - 0.8)

    def forward(self, x):
        return self.decoder(self.layer(x)[0])


TARGETS = torch.randn(B, T, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def loss(output, rows):
    return (output - TARGETS[rows]).square().sum(-1)


def by_hand(model, units, label, where=None, donors=2, seed=0):
    """Both regressions, one patched sequence at a time: what changes, with what, and in which group."""
    group = np.array(GROUPS)
    fold = folds_of(group, 5, seed)
    values = LABELS[label].astype(float)
    where = np.ones((B, T), bool) if where is None else where
    with torch.no_grad():
        clean = model(X)
    rise, differs, moved, pair, rise_group, moved_group = [], [], [], [], [], []
    for number in range(donors):
        for row, donor in enumerate(donors_of(group, seed + 1 + number)):
            with torch.no_grad():
                with lx.record(model) as other:
                    model(X[donor : donor + 1, : LENGTHS[donor]])
                n = min(LENGTHS[row], LENGTHS[donor])
                held = {
                    name: lx.clamp(other["layer.l0"].signal(name)[:, :n, units])
                    for name in ("cell_state", "hidden_state")
                    if name in other["layer.l0"].signals
                }
                with lx.intervene(model, "layer.l0", units=units, feedback=True, **held):
                    patched = model(X[row : row + 1, :n])
                change = loss(patched, torch.tensor([row]).expand(1))[0] if n == T else None
                change = (patched[0] - TARGETS[row, :n]).square().sum(-1) if change is None else change
                change = change - loss(clean[row : row + 1], torch.tensor([row]))[0, :n]
            direction = direction_of(clean, values, where, fold, group, fold[row])
            along = ((patched[0] - clean[row, :n]) @ direction).numpy()
            for t in range(n):
                own, theirs = values[row, t], values[donor, t]
                if np.isnan(own) or np.isnan(theirs):
                    continue
                rise.append(float(change[t])), differs.append(abs(own - theirs) * where[row, t]), rise_group.append(group[row])
                if where[row, t]:
                    moved.append(along[t]), pair.append((theirs, own)), moved_group.append(group[row])
    return (rise, np.array(differs)[:, None], rise_group), (moved, np.array(pair), moved_group)


def slope(y, x, group):
    dummies = (np.array(group)[:, None] == np.unique(group)).astype(float)
    return np.linalg.lstsq(np.concatenate([x, dummies], 1), np.array(y), rcond=None)[0][: x.shape[1]]


def direction_of(clean, values, where, fold, group, out):
    outputs, labels, groups = [], [], []
    for row in range(B):
        for t in range(LENGTHS[row]):
            if fold[row] != out and where[row, t] and not np.isnan(values[row, t]):
                outputs.append(clean[row, t].numpy()), labels.append(values[row, t]), groups.append(group[row])
    goes = np.array([slope(one, np.array(labels)[:, None], groups)[0] for one in np.array(outputs).T])
    return torch.from_numpy(goes / (goes @ goes))


MODELS = {
    "lstm": lambda: Reader(nn.LSTM(3, H, batch_first=True)),
    "gru": lambda: Reader(nn.GRU(3, H, batch_first=True)),
    "peephole": lambda: Reader(lx.PeepholeLSTM(3, H, batch_first=True)),
}


def verified(model, claims, **options):
    return lx.verify(claims, model, X, LABELS, loss=loss, lengths=LENGTHS, groups=GROUPS, **(FEW | options))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("kind", MODELS)
def test_both_slopes_are_those_of_patching_by_hand(kind, label):
    model = MODELS[kind]()
    for claim in (lx.Claim("layer.l0", 2, label), lx.Claim("layer.l0", units=[0, 3], label=label)):
        found = verified(model, claim).claims[0]
        used, share = by_hand(model, list(claim.units), label)
        assert abs(found.used.effect.value - slope(*used)[0]) < 1e-10
        assert abs(found.suffices.share.value - slope(*share)[0]) < 1e-10


def test_where_limits_the_steps_at_which_a_label_matters():
    model, where = MODELS["lstm"](), np.random.default_rng(0).random((B, T)) < 0.5
    found = verified(model, lx.Claim("layer.l0", 1, "sum"), where={"sum": where}).claims[0]
    used, share = (slope(*leg)[0] for leg in by_hand(model, [1], "sum", where))
    assert abs(found.used.effect.value - used) < 1e-10 and abs(found.suffices.share.value - share) < 1e-10


def residuals_of(y, x, group):
    """Each group's sum of what a regression leaves, times what the other regressors leave of the first one; and of the latter's squares."""
    y, x, group = np.array(y), np.array(x), np.array(group)
    dummies = (group[:, None] == np.unique(group)).astype(float)
    rest = np.concatenate([x[:, 1:], dummies], 1)
    left = x[:, 0] - rest @ np.linalg.lstsq(rest, x[:, 0], rcond=None)[0]
    whole = np.concatenate([x, dummies], 1)
    unexplained = y - whole @ np.linalg.lstsq(whole, y, rcond=None)[0]
    return [np.array([(part[group == one]).sum() for one in np.unique(group)]) for part in (unexplained * left, left**2)]


@pytest.mark.parametrize("label", LABELS)
def test_intervals_are_made_of_what_the_regressions_leave_of_each_group(label):
    model = MODELS["lstm"]()
    found = verified(model, lx.Claim("layer.l0", 2, label)).claims[0]
    times = draws(5, 100, 0)
    for own, leg in zip((found.used.effect, found.suffices.share), by_hand(model, [2], label), strict=True):
        unexplained, squares = residuals_of(*leg)
        expected = balanced((unexplained + slope(*leg)[0] * squares)[None], squares[None], times)
        np.testing.assert_allclose(own, np.ravel(expected), rtol=1e-8, atol=1e-9)


def test_intervals_of_scores_are_percentiles_and_hold_for_all_at_once():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(6, 1000)) * np.arange(1, 7)[:, None]
    found = np.array(of_scores(np.zeros(6), drawn))
    np.testing.assert_allclose(found[:, 1], np.sort(drawn, axis=1)[:, 25], atol=1e-12)
    np.testing.assert_allclose(found[:, 2], np.sort(drawn, axis=1)[:, 974], atol=1e-12)
    inside = (drawn >= found[:, 3:4]) & (drawn <= found[:, 4:])
    assert 0.95 <= inside.all(0).mean() <= 0.955
    assert np.ptp(inside.mean(1)) <= 0.002  # each at the same level
    (alone,) = of_scores(np.zeros(1), drawn[:1])
    assert abs(alone.family_low - alone.low) < 0.1 and np.isnan(of_scores(np.array([np.nan]), drawn[:1])[0].value)


def test_of_more_members_than_draws_can_tell_apart_the_largest_deviation_counts():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(30, 1000)) * np.arange(1, 31)[:, None]
    found = np.array(of_scores(np.zeros(30), drawn))
    largest = np.quantile((np.abs(drawn) / drawn.std(1, keepdims=True)).max(0), 0.95, method="higher")
    np.testing.assert_allclose(found[:, 4], largest * drawn.std(1))
    sums, steps, times = rng.normal(size=(30, 9)), np.ones((30, 9)), draws(9, 1000, 0)
    np.testing.assert_allclose(of_slopes(sums, steps, times), np.transpose(intervals(sums, steps, times)))
    np.testing.assert_allclose(of_slopes(sums[:25], steps[:25], times), np.transpose(balanced(sums[:25], steps[:25], times)))


def test_a_slope_that_is_not_defined_has_no_interval():
    (found,) = of_slopes(np.array([[np.nan, 1.0, 3.0]]), np.ones((1, 3)), draws(3, 50, 0))
    assert np.isnan(found.value) and np.isnan(found.family_low)


def states_of(model, key="layer.l0"):
    with torch.no_grad(), lx.record(model, lengths=LENGTHS) as recording:
        model(X)
    return recording[key].signal(recording[key].memory).numpy(), recording[key].valid.numpy()


def test_a_unit_is_scored_on_groups_that_its_direction_was_not_fitted_on():
    model = MODELS["lstm"]()
    result = verified(model, [lx.Claim("layer.l0", 2, "rising"), lx.Claim("layer.l0", 2, "sum")])
    states, valid = states_of(model)
    fold = np.repeat(folds_of(np.array(GROUPS), 5, 0)[:, None], T, 1)
    right = pairs = 0.0
    residual, truth = [], []
    for out in range(5):
        rest, here = valid & (fold != out), valid & (fold == out)
        y = LABELS["rising"]
        sign = 1 if roc_auc_score(y[rest], states[rest][:, 2]) > 0.5 else -1
        count = y[here].sum() * (~y[here]).sum()
        if count:
            right, pairs = right + count * roc_auc_score(y[here], sign * states[here][:, 2]), pairs + count
        number = LABELS["sum"]
        rest, here = rest & ~np.isnan(number), here & ~np.isnan(number)
        fit = np.polyfit(states[rest][:, 2], number[rest], 1)
        residual.append(np.polyval(fit, states[here][:, 2])), truth.append(number[here])
    auc, r2 = (one.knows.score for one in result.claims)
    assert abs(auc - right / pairs) < 1e-12
    assert abs(r2 - r2_score(np.concatenate(truth), np.concatenate(residual))) < 1e-10


def test_twins_get_the_same_choice():
    model = MODELS["lstm"]()
    twin = MODELS["lstm"]()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    found = verified(model, lx.Claim("layer.l0", 2, "sum"), twins=[twin]).claims[0]
    states, valid = states_of(twin)
    here = valid & ~np.isnan(LABELS["sum"])
    fold = np.repeat(folds_of(np.array(GROUPS), 5, 0)[:, None], T, 1)
    predicted = np.full((B, T), np.nan)
    for out in range(5):
        rest, own = here & (fold != out), here & (fold == out)
        best = max(range(H), key=lambda unit: np.corrcoef(states[rest][:, unit], LABELS["sum"][rest])[0, 1] ** 2)
        predicted[own] = np.polyval(np.polyfit(states[rest][:, best], LABELS["sum"][rest], 1), states[own][:, best])
    assert abs(found.knows.controls["untrained 1"] - r2_score(LABELS["sum"][here], predicted[here])) < 1e-10


def test_several_units_get_a_probe_and_their_twins_as_many():
    model = MODELS["lstm"]()
    one, two = (verified(model, lx.Claim("layer.l0", units=units, label="sum")).claims[0].knows for units in ([1], [1, 2, 4]))
    assert two.score != one.score and two.controls["untrained 1"] != one.controls["untrained 1"]
    assert two.controls["window"] == one.controls["window"]


def test_matched_sets_are_the_nearest_in_variance_and_norm_and_share_no_unit():
    variance, norms = np.array([1.0, 1.1, 9.0, 1.2, 8.0, 5.0]), np.array([3.0, 3.1, 9.0, 3.2, 8.0, 5.0])
    assert matched((1,), variance, norms, 99)[:2] == [(0,), (3,)]
    pairs = matched((1, 2), variance, norms, 99)
    assert pairs[0] in ((0, 4), (3, 4)) and len(pairs) == 2
    assert len({unit for one in pairs for unit in one}) == 4 and not {1, 2} & {unit for one in pairs for unit in one}
    assert matched((0,), variance, None, 99)[0] == (1,)
    assert len(matched((0,), np.arange(300.0), np.arange(300.0), 99)) == 99 and len(matched((0,), np.arange(60.0), None, 99)) == 39
    assert len(matched((0,), np.arange(60.0), None, 7)) == 7


@pytest.mark.parametrize(("sets", "may"), [(1, 0), (18, 0), (19, 0), (38, 0), (39, 1), (59, 2), (99, 4)])
def test_a_claim_must_pass_all_matched_sets_but_those_with_which_it_is_among_the_largest_twentieth(sets, may):
    values = np.random.default_rng(sets).permutation(sets).astype(float)
    assert values[bar(values)] == sets - 1 - may
    assert (1 + may) / (1 + sets) <= 0.05 < (2 + may) / (1 + sets) or may == 0


def test_how_far_a_claim_is_above_its_matched_units_is_judged_by_groups_and_for_all_claims():
    model = MODELS["lstm"]()
    claims = [lx.Claim("layer.l0", unit, "rising") for unit in range(H)]
    found = verified(model, claims)
    for leg, of in (("used", "effect"), ("suffices", "share")):
        each = [residuals_of(*by_hand(model, [unit], "rising")[leg == "suffices"]) for unit in range(H)]
        value = [getattr(getattr(one, leg), of).value for one in found.claims]
        sums = np.array([unexplained + slope * squares for (unexplained, squares), slope in zip(each, value, strict=True)])
        # Of four others each must pass the largest.
        passes = [max((other for other in range(H) if other != unit), key=value.__getitem__) for unit in range(H)]
        expected = of_slopes(sums - sums[passes], np.stack([each[0][1]] * H), draws(5, 100, 0))
        np.testing.assert_allclose([getattr(one, leg).above for one in found.claims], expected, rtol=1e-7, atol=1e-9)


def test_of_units_that_all_do_the_same_none_is_used_more_than_the_others():
    found = verify_alike(1000)
    assert found == {f"verify, 24 units alike: any {what}": what == "above zero" for what in ("above zero", "is used", "suffices")}


def test_what_reads_a_unit_is_found():
    model = MODELS["lstm"]()
    result = verified(model, lx.Claim("layer.l0", 1, "sum"))
    assert result.matched_by == {"layer.l0": ("weight_hh_l0", "decoder.weight")}
    peephole = verified(MODELS["peephole"](), lx.Claim("layer.l0", 1, "sum"))
    assert peephole.matched_by == {"layer.l0": ("weight_hh_l0", "weight_ch_l0", "decoder.weight")}
    stacked = Reader(nn.LSTM(3, H, num_layers=2, batch_first=True))
    below = lx.verify(lx.Claim("layer.l0", 1, "sum"), stacked, X, LABELS, loss=loss, lengths=LENGTHS, groups=GROUPS, **FEW)
    assert below.matched_by == {"layer.l0": ("weight_hh_l0", "weight_ih_l1")}


INPUTS, LATCH = signals()
OPTIONS = {"resamples": 300, "permutations": 99}


def latched(model, claims, **options):
    return lx.verify(claims, model, INPUTS, {"latch": LATCH}, **({"loss": squared(LATCH)} | OPTIONS | options))


def test_a_planted_latch_is_verified_first_and_its_copy_is_correlated_only():
    model = Latched(latches=(3, 11), read=lambda latches, rest: latches[..., :1] + rest).silence(11)
    result = latched(model, [lx.Claim("lstm.l0", unit, "latch") for unit in range(16)])
    assert result.verified == (lx.Claim("lstm.l0", 3, "latch"),)
    assert result.ranked[0].claim.unit == 3
    found, copy = result[lx.Claim("lstm.l0", 3, "latch")], result[lx.Claim("lstm.l0", 11, "latch")]
    assert copy.verdict == "correlated only" and copy.knows.score == found.knows.score == 1.0
    assert abs(copy.used.effect.value) <= 1e-12 and abs(copy.suffices.share.value) <= 1e-12
    assert abs(found.suffices.share.value - 1) < 0.02 and found.used.as_much == 0


def test_units_that_stand_in_for_each_other_are_verified_together_only():
    model = Latched(latches=(3, 7, 11), read=lambda latches, rest: torch.tanh(20 * latches.sum(-1, keepdim=True)) + rest)
    alone, together = lx.Claim("lstm.l0", 3, "latch"), lx.Claim("lstm.l0", units=[3, 7, 11], label="latch")
    result = latched(model, [alone, together])
    assert result[together].verdict == "verified"
    assert result[alone].used.verdict == "not shown" and result[alone].knows.verdict == "shown"


def test_a_unit_that_matters_for_something_else_does_not_pass():
    model = Latched()
    with torch.no_grad():
        model.head.weight[:, 5] = 1.0
    result = latched(model, [lx.Claim("lstm.l0", 3, "latch"), lx.Claim("lstm.l0", 5, "latch")])
    assert [one.verdict == "verified" for one in result.claims] == [True, False]
    assert result.claims[1].used.change > 0.01 and result.claims[1].used.verdict == "not shown"


def test_a_unit_that_moves_the_output_the_wrong_way_does_not_suffice():
    model = Latched(latches=(3, 11), read=lambda latches, rest: 3 * latches[..., :1] - latches[..., 1:] + rest)
    result = latched(model, [lx.Claim("lstm.l0", 3, "latch"), lx.Claim("lstm.l0", 11, "latch")])
    assert result.claims[0].suffices.share.value == pytest.approx(1.5, abs=0.05)
    assert result.claims[1].suffices.share.value == pytest.approx(-0.5, abs=0.05)
    assert result.claims[1].suffices.verdict == "not shown"


def test_without_twins_or_window_nothing_is_controlled():
    model = Latched()
    found = latched(model, lx.Claim("lstm.l0", 3, "latch"), twins=0).claims[0]
    assert found.knows.verdict == "not controlled" and found.verdict == "is used and suffices; knows not controlled"


def test_one_loss_for_each_sequence_is_asked_about_its_last_step():
    class Last(Latched):
        def forward(self, x):
            return super().forward(x)[:, -1]

    inputs, latch = signals(batch=40, time=40, every=12)
    model, wanted = Last(), torch.from_numpy(2.0 * latch[:, -1] - 1)
    result = lx.verify(
        [lx.Claim("lstm.l0", 3, "latch"), lx.Claim("lstm.l0", 5, "latch")],
        model,
        inputs,
        {"latch": latch},
        loss=lambda output, rows: (output[:, 0] - wanted[rows]).square(),
        groups=[row // 4 for row in range(40)],
        **OPTIONS,
    )
    assert [one.verdict == "verified" for one in result.claims] == [True, False]


def test_padding_may_be_anything():
    model, lengths = Latched(), [60 - 2 * row for row in range(20)]
    real = torch.arange(60) < torch.tensor(lengths)[:, None]

    def dirty(output, rows):
        return torch.where(real[rows], squared(LATCH)(output, rows), torch.nan)

    clean = latched(model, lx.Claim("lstm.l0", 3, "latch"), lengths=lengths).claims[0]
    found = latched(model, lx.Claim("lstm.l0", 3, "latch"), lengths=lengths, loss=dirty).claims[0]
    assert found.used.effect == clean.used.effect and found.used.noop == clean.used.noop


def test_a_model_may_return_anything_on_padding():
    class Marked(Latched):
        def forward(self, x):
            return torch.where(x[:, :, 2:3] == 7, torch.nan, super().forward(x))

    lengths, inputs = [60 - 2 * row for row in range(20)], INPUTS.clone()
    inputs[:, :, 2] = torch.where(torch.arange(60) < torch.tensor(lengths)[:, None], inputs[:, :, 2], 7.0)
    clean, found = (
        lx.verify(lx.Claim("lstm.l0", 3, "latch"), model(), inputs, {"latch": LATCH}, loss=squared(LATCH), lengths=lengths, **OPTIONS)
        for model in (Latched, Marked)
    )
    assert found.claims[0].suffices.share == clean.claims[0].suffices.share and found.claims[0].used.effect == clean.claims[0].used.effect


def test_outputs_on_padding_do_not_count():
    rng = np.random.default_rng(0)
    labels, outputs = torch.from_numpy(rng.normal(size=(4, 6, 1))), torch.from_numpy(rng.normal(size=(4, 6, 3)))
    labels[1, 4:], directions = torch.nan, []
    for beyond in (0.0, torch.nan):
        outputs[1, 4:] = beyond
        listener = Listener(lambda returned, rows: returned[..., 0], None)
        listener.learn(labels, torch.arange(4), torch.arange(4) % 2, lambda: listener(outputs, torch.arange(4)))  # noqa: B023
        listener(outputs, torch.arange(4))
        directions.append(listener.along[:, :4])
    assert torch.equal(*directions) and bool(directions[0].isfinite().all())


def test_a_model_that_is_not_the_same_from_pass_to_pass_is_refused():
    class Noisy(Latched):
        def forward(self, x):
            return super().forward(x) + torch.randn(1, dtype=torch.float64)

    with pytest.raises(lx.InputError, match="needed a model whose passes are the same each time"):
        latched(Noisy(), lx.Claim("lstm.l0", 3, "latch"), loss=lambda output, rows: output[..., 0])


def test_nothing_is_left_behind():
    model = Latched().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    latched(model, lx.Claim("lstm.l0", 3, "latch"))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(vars(module).get("forward") for module in model.modules())


def test_the_result_is_plain_and_says_what_was_tested():
    model = Latched(latches=(3, 11), read=lambda latches, rest: latches[..., :1] + rest).silence(11)
    result = latched(model, [lx.Claim("lstm.l0", 3, "latch"), lx.Claim("lstm.l0", 11, "latch")])
    assert repr(result) == "<Verification: 2 tested, 1 verified; best founded: lstm.l0 unit 3 carries latch (verified)>"
    plain = result.to_dict()
    assert plain["tested"] == 2 and plain["verified"] == 1 and plain["claims"][1]["verdict"] == "correlated only"
    frame = result.to_frame()
    assert list(frame["verdict"]) == ["verified", "correlated only"] and list(frame["units"]) == ["3", "11"]
    assert "2 claims tested, 1 verified" in result._repr_html_() and "<script" not in result._repr_html_()
    with pytest.raises(KeyError, match="unit 4 carries"):
        result[lx.Claim("lstm.l0", 4, "latch")]


def test_the_family_of_all_claims_widens_intervals():
    model = MODELS["lstm"]()
    claims = [lx.Claim("layer.l0", unit, label) for unit in range(3) for label in LABELS]
    found = verified(model, claims).claims
    sums = []
    for one in claims:
        leg = by_hand(model, list(one.units), one.label)[0]
        unexplained, squares = residuals_of(*leg)
        sums.append((unexplained + slope(*leg)[0] * squares, squares))
    expected = intervals(*(np.stack(part) for part in zip(*sums, strict=True)), draws(5, 100, 0))  # six are too many for 100 draws
    np.testing.assert_allclose([one.used.effect for one in found], np.transpose(expected), rtol=1e-8, atol=1e-9)


def test_every_twin_is_another_one():
    scores = verified(MODELS["lstm"](), lx.Claim("layer.l0", 2, "sum"), twins=3).claims[0].knows.controls
    assert len({scores[f"untrained {number}"] for number in (1, 2, 3)}) == 3


def test_a_twin_that_is_the_model_scores_like_its_best_unit():
    # In two batches, of unequal lengths, and not at every step.
    model, lengths = Latched(), [60 - 2 * row for row in range(20)]
    result = latched(model, lx.Claim("lstm.l0", 3, "latch"), twins=[model], lengths=lengths, at_most=300)
    assert result.claims[0].knows.score == result.claims[0].knows.controls["untrained 1"] == 1.0


def test_several_labels_share_the_level():
    model = MODELS["lstm"]()
    alone = verified(model, lx.Claim("layer.l0", 2, "sum")).claims[0].knows.p_value
    both = verified(model, [lx.Claim("layer.l0", 2, "sum"), lx.Claim("layer.l0", 2, "rising")]).claims[0].knows.p_value
    assert both == min(1.0, 2 * alone)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_in_the_planted_network_all_is_found_and_no_copy(seed):
    study, network = planted.make(seed), planted.network(seed)
    result = lx.verify(study.claims, study.model, study.inputs, study.labels, loss=study.loss, lengths=study.lengths, resamples=300)
    assert set(result.verified) == set(study.planted)
    assert {result[copy].verdict for copy in network.copies} == {"correlated only"}
    for one in study.planted:
        assert next(found.claim for found in result.ranked if found.claim.label == one.label) == one
        knows = {found.claim: found.knows.score for found in result.claims if found.claim.label == one.label}
        assert [claim for claim, score in knows.items() if score == max(knows.values())] == [one]


def noise(seed, batch=12, time=40):
    """Inputs, and a label that drifts slowly and has nothing to do with them."""
    rng = np.random.default_rng(seed)
    drift = np.zeros((batch, time))
    for t in range(time):
        drift[:, t] = 0.95 * drift[:, t - 1] + rng.normal(size=batch)
    return torch.from_numpy(rng.normal(size=(batch, time, 4)).cumsum(1) * 0.3), drift


def null_claims(seed, units=12):
    """How many of a random network's units are verified for a label that it has nothing to do with."""
    inputs, drift = noise(seed)
    model = Latched(units, latches=(), read=lambda latches, rest: 10 * rest, seed=seed)
    wanted = torch.from_numpy(drift)
    claims = [lx.Claim("lstm.l0", unit, "drift") for unit in range(units)]
    result = lx.verify(
        claims,
        model,
        inputs,
        {"drift": drift},
        loss=lambda output, rows: (output[..., 0] - wanted[rows]).square(),
        twins=5,
        window=4,
        donors=1,
        resamples=200,
        permutations=99,
        seed=seed,
    )
    return result


def test_independent_labels_are_not_verified():
    results = [null_claims(seed) for seed in range(8)]
    assert not any(result.verified for result in results)
    # No leg stands for more than one family in ten, which 2 of 8 are within.
    for leg in range(3):
        assert sum(any(one.legs[leg] == "shown" for one in result.claims) for result in results) <= 2
