"""`faithfulness`, against the papers' definitions written slowly, Captum, closed forms, and attributions known to be right or wrong."""

import copy
import json
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from attributed import Function
from cases import Case, close, peephole_lstm, randomise, torch_lstm
from mechanisms import adding
from scipy.stats import spearmanr
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import lstm_explain as lx
from lstm_explain.analyses.ablation.intervals import draws, intervals
from lstm_explain.verdicts.faithfulness import removal as removals
from lstm_explain.verdicts.faithfulness.claims import claims
from lstm_explain.verdicts.faithfulness.randomisation import parts_of
from lstm_explain.verdicts.faithfulness.removal import FRACTIONS, GRID

QUICK = {"twins": 0, "perturbations": 0, "draws": 1, "subsets": 4, "resamples": 200}
ENDS = [9, 4, 7, 9]
VALID = torch.arange(9) < torch.tensor(ENDS).unsqueeze(1)
FOUR = Case("batch_first", (9,) * 4)
"""Four sequences of nine steps of two features; three units."""


def features(*shape, seed=0):
    return torch.randn(*shape or (4, 9, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Words(nn.Module):
    """Tokens ``(batch, time)`` to classes ``(batch, time, 4)``."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 3)
        self.dropout = nn.Dropout(0.9)
        self.rest = nn.LSTM(3, 2, batch_first=True, bidirectional=True)
        randomise(self.double())

    def forward(self, tokens):
        return self.rest(self.dropout(self.embedding(tokens)))[0]


class Packed(nn.Module):
    """Reads each sequence to its own end, both ways, and returns both last states ``(batch, 6)``."""

    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True, bidirectional=True).double())

    def forward(self, inputs, lengths):
        _, (h_n, _) = self.lstm(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
        return torch.cat([*h_n], 1)


def tokens():
    return torch.randint(9, (4, 9), generator=torch.Generator().manual_seed(3))


def fake(result, by_step):
    """A result that says something else."""
    return replace(result, attributions=np.where(result.valid, np.asarray(by_step), 0.0))


def marked(sequences=24, steps=20, seed=0):
    """Values, two of them marked in each sequence, and which."""
    rng = np.random.default_rng(seed)
    marker = np.zeros((sequences, steps))
    for row in marker:
        row[rng.choice(steps, 2, replace=False)] = 1
    value = rng.uniform(0.5, 1.5, marker.shape)
    return torch.from_numpy(np.stack([value, marker], 2)), marker.astype(bool)


def added(returned):
    return 1e3 * returned[0][:, -1, 0]


# ---- Removal


def counted(fraction, steps):
    """How many of `steps` a fraction of them is, rounded up: in whole hundredths, which nothing rounds."""
    return max(1, -(-round(100 * fraction) * steps // 100))


def slow_removal(explain, inputs, ends, scores, donor):
    """Deletion and insertion at each point of the grid, one sequence and one point at a time."""
    curves = np.zeros((2, len(inputs), len(GRID)))
    for row, end in enumerate(ends):
        order = sorted(range(end), key=lambda step: -scores[row][step])
        for at, share in enumerate(GRID):
            first = order[: 0 if share == 0 else counted(share, end)]
            for which, gone in enumerate((first, [step for step in range(end) if step not in first])):
                changed = inputs[row].clone()
                for step in gone:
                    changed[step] = inputs[donor[row]][step % ends[donor[row]]]
                with torch.no_grad():
                    curves[which, row, at] = float(explain(inputs[row], row) - explain(changed, row))
    return curves


@pytest.mark.parametrize("rank", ["signed", "size"])
@pytest.mark.parametrize("rows", [None, 3])
def test_removal_is_what_the_papers_say(rank, rows, monkeypatch):
    model, inputs, donor = torch_lstm(FOUR._replace(bidirectional=True)), features(), np.array([2, 0, 1, 1])
    monkeypatch.setattr(removals, "donors", lambda batch, rng: donor)
    why = lx.attribute(model, inputs, target=(-1, 1), lengths=ENDS)
    cheap = lx.attribute(model, inputs, target=(-1, 1), lengths=ENDS, method="input_x_gradient" if rank == "signed" else "saliency")
    found = lx.faithfulness(model, inputs, why, rank=rank, internal_batch_size=rows, **QUICK)
    for ranking, scores in ((0, why.by_step), (2, cheap.by_step)):
        if rank == "size":
            scores = np.abs(scores)
        slow = slow_removal(lambda x, row: model(x[None])[0][0, ENDS[row] - 1, 1], inputs, ENDS, scores, donor)
        slow = np.abs(slow) if rank == "size" else slow
        close(found.removal.deletion[ranking], slow[0])
        close(found.removal.insertion[ranking], slow[1])
        at = [GRID.index(fraction) for fraction in FRACTIONS]
        close(found.comprehensiveness[ranking], slow[0][:, at])
        close(found.sufficiency[ranking], slow[1][:, at])
        area = [np.trapezoid(slow[0][row], [0, *(counted(share, end) / end for share in GRID[1:])]) for row, end in enumerate(ENDS)]
        close(found.removal.area(found.removal.deletion)[ranking], area)


def test_an_additive_box_has_the_deletion_curve_of_its_closed_form():
    weights = features(20, 2, seed=1)
    pair = features(2, 20, 2)
    model = Function(lambda x: (weights * x).sum((1, 2)))
    found = lx.faithfulness(model, pair, lx.attribute(model, pair), **(QUICK | {"draws": 3}))
    own = (weights * pair).sum(2).numpy()
    for row in (0, 1):
        # What each step takes away, the largest contribution first: of two sequences each replaces the other's steps.
        falls = (own[row] - own[1 - row])[np.argsort(-own[row])].cumsum()
        close(found.removal.deletion[0, row], np.append(0.0, falls[[0, 0, 1, 3, 6, 9, 14, 19]]))
        close(found.removal.insertion[0, row], falls[-1] - found.removal.deletion[0, row])
    close(found.removal.shares[0], np.array([0.0, 0.05, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0]))


def test_what_is_the_same_in_all_sequences_cannot_be_missed():
    inputs = features(6, 9, 2)
    inputs[:, 4] = 5.0
    model = Function(lambda x: x[:, 4].sum(1) + x[:, 2, 0])
    found = lx.faithfulness(model, inputs, lx.attribute(model, inputs), **QUICK)
    # The first step that is named is the one that they share.
    close(found.comprehensiveness[0][:, 0], np.zeros(6))
    assert np.abs(found.removal.deletion[0][:, -1]).max() > 0


def test_padding_is_never_touched():
    inputs = features()
    inputs[~VALID] = float("nan")

    def padded(x, row):
        assert torch.equal(x.isnan().all(2), torch.arange(9) >= torch.tensor(ENDS)[row][:, None])
        return torch.where(x.isnan(), 0.0, x).pow(2).sum((1, 2))

    options = {"additional_forward_args": torch.arange(4)}
    model = Function(padded)
    why = lx.attribute(model, inputs, lengths=ENDS, **options)
    assert np.isfinite(lx.faithfulness(model, inputs, why, **options, **QUICK).removal.deletion).all()


def test_replacements_and_the_random_order_are_drawn_anew_each_time(monkeypatch):
    orders, others = [], []
    ranks, donors = removals.ranks, removals.donors
    monkeypatch.setattr(removals, "ranks", lambda *args: orders.append(ranks(*args)) or orders[-1])
    monkeypatch.setattr(removals, "donors", lambda *args: others.append(donors(*args)) or others[-1])
    model, inputs = torch_lstm(FOUR), features()
    lx.faithfulness(model, inputs, lx.attribute(model, inputs, target=(-1, 0)), **(QUICK | {"draws": 3}))
    own, random, cheap = (np.stack(orders[ranking::3]) for ranking in range(3))
    assert (own == own[0]).all() and (cheap == cheap[0]).all() and all((random[at] != random[at - 1]).any() for at in range(3))
    assert len({tuple(one) for one in others}) > 1 and all((one != np.arange(4)).all() for one in others)


# ---- Infidelity and sensitivity


def test_the_exact_attribution_of_a_linear_output_has_infidelity_zero():
    weights, baselines = features(9, 2, seed=1), features(2, seed=2)
    model, inputs = Function(lambda x: (weights * x).sum((1, 2)) + 3), features()
    why = lx.attribute(model, inputs, baselines=baselines, lengths=ENDS)
    found = lx.faithfulness(model, inputs, why, baselines=baselines, **QUICK)
    assert found.infidelity.squared[0].max() < 1e-24 and found.infidelity.squared[1].max() > 1
    assert found.infidelity.share[0] < 1e-24


def test_captum_agrees_on_infidelity():
    model, inputs = torch_lstm(FOUR), features()
    why = lx.attribute(model, inputs, target=(8, 1))
    found = lx.faithfulness(model, inputs, why, **(QUICK | {"subsets": 6}), seed=5)
    rng = np.random.default_rng(5)
    sets = torch.from_numpy(rng.random((6, 4, 9)) < rng.random((6, 4, 1)))

    def perturb(x):
        # Captum's copies of one example stand together.
        gone = sets.transpose(0, 1).flatten(0, 1)[:, :, None].expand_as(x)
        return gone.double(), torch.where(gone, 0.0, x)

    def explained(x):
        return model(x)[0][:, 8, 1]

    for ranking, attributions in (
        (0, why.attributions),
        (2, lx.attribute(model, inputs, target=(8, 1), method="input_x_gradient").attributions),
    ):
        theirs = captum.metrics.infidelity(explained, perturb, inputs, torch.from_numpy(attributions), n_perturb_samples=6)
        close(found.infidelity.squared[ranking], theirs)
    zero = captum.metrics.infidelity(explained, perturb, inputs, torch.zeros_like(inputs), n_perturb_samples=6)
    close(found.infidelity.change, zero)


def test_captum_agrees_on_max_sensitivity():
    model, inputs = torch_lstm(FOUR), features()
    why = lx.attribute(model, inputs, target=(8, 1), method="input_x_gradient")
    found = lx.faithfulness(model, inputs, why, **(QUICK | {"perturbations": 3}), radius=0.1, seed=5)
    generator = torch.Generator().manual_seed(5)
    noise = torch.stack([2 * torch.rand(inputs.shape, generator=generator, dtype=torch.float64) - 1 for _ in range(3)], 1).flatten(0, 1)

    def explain(x):
        if isinstance(x, tuple):
            return (explain(x[0]),)
        with torch.enable_grad():
            return captum.attr.InputXGradient(lambda x: model(x)[0][:, 8, 1]).attribute(x.detach().requires_grad_()).detach()

    theirs = captum.metrics.sensitivity_max(
        explain, inputs, lambda x: x + 0.1 * inputs.std(correction=0) * noise, n_perturb_samples=3, norm_ord=2
    )
    close(found.max_sensitivity["input_x_gradient"], theirs)


def test_tokens_are_moved_where_they_are_embedded():
    model = Words().eval()
    why = lx.attribute(model, tokens(), target=(-1, 2), method="input_x_gradient", lengths=ENDS)
    found = lx.faithfulness(model, tokens(), why, **(QUICK | {"perturbations": 1}), seed=5)
    noise = 2 * torch.rand((4, 9, 3), generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 1
    points = model.embedding(tokens()).detach()
    moved = torch.where(VALID[:, :, None], points + 0.02 * points[VALID].std(correction=0) * noise, points).requires_grad_()
    (gradient,) = torch.autograd.grad(model.rest(moved)[0][torch.arange(4), torch.tensor(ENDS) - 1, 2].sum(), moved)
    gap = np.linalg.norm(((gradient * moved).detach().numpy() * VALID[:, :, None].numpy() - why.attributions).reshape(4, -1), axis=1)
    close(found.max_sensitivity["input_x_gradient"], gap / np.linalg.norm(why.attributions.reshape(4, -1), axis=1))


# ---- Right and wrong attributions


def test_a_planted_memory_is_shown():
    inputs, marker = marked()
    why = lx.attribute(adding(), inputs, output=added)
    found = lx.faithfulness(adding(), inputs, why, output=added, **(QUICK | {"draws": 4, "resamples": 1000}))
    assert found.shown and found.verdicts[
        "removing the 10 % of steps it names lowers the output more than removing as many at random"
    ].startswith("shown, +")
    at_random = found.claims["random"]
    assert at_random.shown[[at_random.measures.index(f"{name}, AOPC") for name in ("comprehensiveness", "sufficiency")]].all()
    # The marked steps, two of twenty, are those that it names: with what others had there nearly all is gone.
    lost = np.where(marker, inputs[:, :, 0], 0).sum(1)
    np.testing.assert_allclose(found.comprehensiveness[0, :, 2].mean(), lost.mean(), rtol=0.15)


def test_the_values_that_a_planted_memory_does_not_keep_are_not_shown():
    inputs, _ = marked()
    wrong = fake(lx.attribute(adding(), inputs, output=added), np.asarray(inputs[:, :, 0] * (1 - inputs[:, :, 1])))
    found = lx.faithfulness(adding(), inputs, wrong, output=added, **(QUICK | {"draws": 4}))
    assert not found.shown and "not shown" in found.verdicts[next(iter(found.verdicts))]


def test_steps_named_by_a_feature_that_the_model_ignores_are_not_shown():
    inputs = features(24, 20, 2)
    model = Function(lambda x: x[:, :, 0].tanh().sum(1))
    why = lx.attribute(model, inputs)
    read, ignored = (lx.faithfulness(model, inputs, fake(why, inputs[:, :, feature]), **QUICK) for feature in (0, 1))
    assert read.claims["random"].shown.all() and not ignored.claims["random"].shown.any()


def test_a_random_attribution_is_shown_in_at_most_a_tenth_of_draws():
    headline, any_at_all = 0, 0
    for seed in range(200):
        inputs = features(12, 10, seed=seed)
        weights = features(10, seed=1000 + seed)
        model = Function(lambda x, weights=weights: (weights * x).sum(1).tanh() + x.pow(2).sum(1))
        random = fake(lx.attribute(model, inputs, method="occlusion"), features(12, 10, seed=2000 + seed))
        found = lx.faithfulness(model, inputs, random, seed=seed, **QUICK)
        headline += found.shown
        any_at_all += found.claims["random"].shown.any()
    assert headline <= 20 and any_at_all <= 20


# ---- Randomised weights


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        (torch_lstm(FOUR), ["output_gate", "cell_candidate", "forget_gate", "input_gate"]),
        (peephole_lstm(FOUR, "diagonal", "graves"), ["output_gate", "cell_candidate", "forget_gate", "input_gate"]),
        (randomise(nn.GRU(2, 3).double()), ["candidate", "update_gate", "reset_gate"]),
        (randomise(nn.RNN(2, 3).double()), [""]),
    ],
    ids=["lstm", "graves", "gru", "rnn"],
)
def test_a_layers_parts_are_its_gates(model, parts):
    assert list(parts_of(model)) == [f"l0.{part}" if part else "l0" for part in parts]


@pytest.mark.parametrize(
    "model",
    [
        torch_lstm(FOUR._replace(num_layers=2, bidirectional=True, proj_size=2)),
        peephole_lstm(FOUR._replace(num_layers=2), "full"),
        peephole_lstm(FOUR._replace(bidirectional=True), "diagonal", "graves"),
        nn.Sequential(nn.Embedding(5, 3), nn.GRU(3, 3, bidirectional=True), nn.LSTMCell(3, 2), lx.PeepholeLSTMCell(3, 2), nn.Linear(3, 5)),
    ],
)
def test_every_weight_is_in_one_part(model):
    seen = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for rows in parts_of(model).values():
        for name, some in rows:
            seen[name][slice(None) if some is None else some] += 1
    assert all((count == 1).all() for count in seen.values())


def test_shared_weights_are_drawn_once_where_they_are_read_last():
    model = nn.Sequential(nn.Embedding(5, 3), nn.LSTM(3, 3), nn.Linear(3, 5))
    model[2].weight = model[0].weight
    parts = parts_of(model)
    assert list(parts) == ["2", "1.l0.output_gate", "1.l0.cell_candidate", "1.l0.forget_gate", "1.l0.input_gate"]
    assert [name for name, _ in parts["2"]] == ["0.weight", "2.bias"]


def test_the_cascade_is_what_it_says():
    model, inputs = torch_lstm(FOUR._replace(proj_size=2)), features()
    why = lx.attribute(model, inputs, target=(-1, 1), lengths=ENDS)
    found = lx.faithfulness(model, inputs, why, **(QUICK | {"twins": 2}))
    twin, cascade = lx.untrained(model), copy.deepcopy(model)
    gates = {"output_gate": slice(9, 12), "cell_candidate": slice(6, 9), "forget_gate": slice(3, 6), "input_gate": slice(0, 3)}
    assert sorted(found.randomisation.parts) == sorted(["l0.projection", *(f"l0.{gate}" for gate in gates)])
    for at, part in enumerate(found.randomisation.parts):
        alone = copy.deepcopy(model)
        for changed, kind in ((cascade, "cascade"), (alone, "alone")):
            with torch.no_grad():
                if part == "l0.projection":
                    changed.weight_hr_l0.copy_(twin.weight_hr_l0)
                else:
                    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                        rows = gates[part.removeprefix("l0.")]
                        getattr(changed, name)[rows] = getattr(twin, name)[rows]
            again = lx.attribute(changed, inputs, target=(-1, 1), lengths=ENDS)
            for row, end in enumerate(ENDS):
                one, other = why.by_step[row, :end], again.by_step[row, :end]
                close(getattr(found.randomisation, kind)[at, row], spearmanr(one, other).statistic)
                close(getattr(found.randomisation, f"{kind}_size")[at, row], spearmanr(np.abs(one), np.abs(other)).statistic)
        close(found.randomisation.moved[at], np.abs(again.attributions - why.attributions).max() / np.abs(why.attributions).max())
    close(found.randomisation.anew[0], found.randomisation.cascade[-1])
    assert found.randomisation.anew.shape == (2, 4) and (found.randomisation.anew[1] != found.randomisation.anew[0]).any()
    close(found.randomisation.means["anew"].value[0], found.randomisation.anew.mean())


def test_a_gate_that_carries_the_answer_matters_and_a_dead_one_does_not():
    class Forward(nn.Module):
        """Reads the direction that adds, and not the other."""

        def __init__(self):
            super().__init__()
            self.lstm = randomise(nn.LSTM(2, 1, batch_first=True, bidirectional=True).double())
            with torch.no_grad():
                for name, parameter in adding().named_parameters():
                    getattr(self.lstm, name).copy_(parameter)

        def forward(self, x):
            return 1e3 * self.lstm(x)[0][:, -1, 0]

    model, (inputs, _) = Forward(), marked(8, 12)
    found = lx.faithfulness(model, inputs, lx.attribute(model, inputs), **(QUICK | {"twins": 1})).randomisation
    moved = dict(zip(found.parts, found.moved, strict=True))
    alone = dict(zip(found.parts, found.alone.mean(1), strict=True))
    for gate in ("input_gate", "forget_gate", "cell_candidate", "output_gate"):
        assert moved[f"lstm.l0_reverse.{gate}"] == 0 and alone[f"lstm.l0_reverse.{gate}"] == pytest.approx(1, abs=1e-12)
        assert moved[f"lstm.l0.{gate}"] > 1e-3
    assert alone["lstm.l0.input_gate"] < 0.9


def test_weights_that_cannot_be_drawn_anew_are_not_controlled():
    model = Words()
    model.scale = nn.Parameter(torch.ones(1))
    found = lx.faithfulness(model, tokens(), lx.attribute(model, tokens(), target=(-1, 0)), **(QUICK | {"twins": 1}))
    assert found.randomisation is None and "reset_parameters" in found.lost and found.lost.startswith("not controlled: ")


def test_a_layers_other_weights_are_a_part_of_their_own():
    model = torch_lstm(FOUR)
    model.scale = nn.Parameter(torch.ones(1))
    assert list(parts_of(model))[-1] == "the model" and len(parts_of(model)) == 5


def test_the_beginning_of_a_network_made_with_the_seed_does_not_come_back():
    torch.manual_seed(0)
    model = nn.LSTM(2, 3, batch_first=True)
    found = lx.faithfulness(model, features().float(), lx.attribute(model, features().float(), target=(-1, 0)), **(QUICK | {"twins": 1}))
    assert found.randomisation.moved.min() > 0.01


# ---- What the setting was


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "saliency"])
@pytest.mark.parametrize("target", [(-1, 2), [(0, 1), (3, 0), (-1, 2), (5, 3)]])
def test_tokens_their_targets_and_lengths_are_found_again(method, target):
    model = Words()
    why = lx.attribute(model, tokens(), target=target, lengths=ENDS, method=method)
    found = lx.faithfulness(model, tokens(), why, **(QUICK | {"perturbations": 1}))
    assert found.output_gap < 1e-12 and found.repeats < 1e-12 and found.padding == "known"
    assert (found.infidelity is None) == (method == "saliency") and set(found.max_sensitivity) == {method, found.controls[-1]} - {"random"}


@pytest.mark.parametrize("baselines", [3, torch.tensor(3), torch.tensor([0.5, 0.1, 0.2], dtype=torch.float64), 1.0])
def test_baselines_are_read_from_the_result_where_its_words_say_all(baselines):
    model = Words()
    why = lx.attribute(model, tokens(), target=(-1, 2), baselines=baselines)
    found = lx.faithfulness(model, tokens(), why, baselines=baselines, **(QUICK | {"perturbations": 1}))
    assert found.repeats < 1e-12 and set(found.max_sensitivity) == {"integrated_gradients", "input_x_gradient"}
    if torch.is_tensor(baselines) and baselines.dim():
        assert "'tensor (3,)'" in refused(model, tokens(), why)
    else:
        close(lx.faithfulness(model, tokens(), why, **QUICK).infidelity.squared, found.infidelity.squared)


def test_a_class_beyond_the_length_is_no_step():
    # As many classes as there are steps, so that the shape doesn't tell.
    model, inputs = Function(lambda x: x.sum((1, 2))[:, None] * torch.arange(1.0, 10.0, dtype=x.dtype)), features()
    found = lx.faithfulness(model, inputs, lx.attribute(model, inputs, target=8, lengths=ENDS), **QUICK)
    assert found.output_gap < 1e-12


@pytest.mark.parametrize(("given", "reason"), [(0.3, "outputs differ by"), (torch.ones(3, 9, 3), "that broadcast to (4, 9, 3)")])
def test_with_other_baselines_nothing_is_said_of_differences_to_them(given, reason):
    why = lx.attribute(Words(), tokens(), target=(-1, 2), baselines=torch.tensor([0.5, 0.1, 0.2], dtype=torch.float64))
    found = lx.faithfulness(Words(), tokens(), why, baselines=given, **(QUICK | {"twins": 1}))
    assert found.infidelity is None and reason in found.not_controlled["it foretells what changes"]
    assert found.randomisation is None and found.lost.startswith("not controlled: needed ")


def test_other_arguments_go_along():
    lengths = torch.tensor(ENDS)
    options = {"additional_forward_args": lengths, "output": lambda returned: returned.square()}
    why = lx.attribute(Packed(), features(), target=[4, 0, 1, 5], lengths=ENDS, **options)
    found = lx.faithfulness(Packed(), features(), why, **options, **(QUICK | {"twins": 1, "perturbations": 1}))
    assert found.repeats < 1e-12 and found.randomisation is not None
    assert "outputs that differ" in refused(Packed(), features(), why, additional_forward_args=lengths)


def test_an_attribution_that_cannot_be_made_again_is_not_controlled():
    model, inputs = torch_lstm(FOUR), features()
    why = lx.attribute(model, inputs, target=(-1, 0))
    found = lx.faithfulness(model, inputs, fake(why, why.by_step), **(QUICK | {"twins": 1}))
    assert found.repeats is None and found.randomisation is None and found.lost.startswith("not controlled: needed the options")


def test_the_cheapest_method_is_not_held_against_itself():
    model, inputs = torch_lstm(FOUR), features()
    for method, rank in (("input_x_gradient", "signed"), ("saliency", "size")):
        found = lx.faithfulness(model, inputs, lx.attribute(model, inputs, target=(-1, 0), method=method), **QUICK)
        assert (found.controls, found.rank) == (("random",), rank)
        assert found.verdicts["it does more than the cheapest method"] == f"not controlled: {method} is the cheapest one"


def test_without_gradient_the_cheapest_method_is_not_controlled():
    model, inputs = Function(lambda x: x.detach().sum((1, 2))), features()
    found = lx.faithfulness(model, inputs, lx.attribute(model, inputs, method="occlusion"), **QUICK)
    assert found.controls == ("random",) and "detaches" in found.not_controlled["it does more than the cheapest method"]


# ---- Nothing is left behind


def whereabouts(model):
    modules = [(module.training, sorted(vars(module)), vars(module).get("forward")) for module in model.modules()]
    parameters = [(p.tolist(), p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
    modes = torch.backends.cudnn.enabled, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    numpys = np.random.get_state()[1].tolist()  # noqa: NPY002
    return modules, parameters, modes, torch.get_rng_state().tolist(), numpys


def test_the_model_is_as_it_was():
    model = Words().train()
    model.rest.eval()
    model(tokens()).sum().backward()
    why = lx.attribute(model, tokens(), target=(-1, 2))
    before, given = whereabouts(model), tokens()
    first, second = (lx.faithfulness(model, given, why, **(QUICK | {"twins": 2, "perturbations": 1})) for _ in range(2))
    assert whereabouts(model) == before and torch.equal(given, tokens())
    assert json.dumps(first.to_dict()) == json.dumps(second.to_dict())
    with torch.inference_mode():
        inside = lx.faithfulness(model, tokens(), why, **QUICK)
    close(inside.removal.deletion, first.removal.deletion)


@pytest.mark.parametrize("fails_at", range(1, 40, 3))
def test_the_model_is_as_it_was_when_it_fails(fails_at):
    class Worn(Words):
        calls, fails_at = 0, 10**9

        def forward(self, tokens):
            self.calls += 1
            if self.calls == self.fails_at:
                raise ValueError("worn out")
            return super().forward(tokens)

    model = Worn().train()
    why = lx.attribute(model, tokens(), target=(-1, 2))
    model.calls, model.fails_at = 0, fails_at
    before = whereabouts(model)[1:]
    modes = [module.training for module in model.modules()]
    # Where the cheapest method can't be had, or nothing be made again, that is what is said.
    with suppress(lx.InputError):
        found = lx.faithfulness(model, tokens(), why, **(QUICK | {"perturbations": 1}))
        assert model.calls < fails_at or any("worn out" in reason for reason in found.not_controlled.values())
    assert whereabouts(model)[1:] == before and [module.training for module in model.modules()] == modes


# ---- Intervals


def slow_family(members, times, level=0.95):
    """Studentised deviations of each draw, and how far each member must go for 95 % of draws to hold for all, one draw at a time."""
    count = members.shape[1]
    deviations = np.zeros((len(times), len(members)))
    for at, of in enumerate(times):
        for member, values in enumerate(members):
            drawn = np.repeat(values, of.astype(int))
            error = np.sqrt(((drawn - drawn.mean()) ** 2).sum()) / count * np.sqrt(count / (count - 1))
            away = abs(drawn.mean() - values.mean())
            deviations[at, member] = 0.0 if away == 0 else away / error if error else np.inf
    for rank in range(len(times)):
        critical = np.sort(deviations, axis=0)[rank]
        if (deviations <= critical).all(1).mean() >= level:
            return members.std(1, ddof=1) / np.sqrt(count) * critical
    raise AssertionError


def test_the_intervals_of_a_family_hold_for_all_at_once_each_at_one_level():
    rng = np.random.default_rng(0)
    own, control = rng.normal(1, 1, (2, 24)), np.zeros(24)
    tail, rare = np.exp(2 * rng.normal(size=24)), np.where(np.arange(24) < 2, 1.0, 0.0)
    of = {"more": (np.stack([own[0], control]), True), "less": (np.stack([control, own[1]]), False)}
    of |= {"tail": (np.stack([tail, control]), True), "rare": (np.stack([rare, control]), True)}
    times = draws(24, 401, 0)
    found = claims(of, 1, 0.0, np.arange(24), times)
    members = np.stack([*own, tail, rare])
    width = slow_family(members, times)
    close(found.value, members.mean(1))
    np.testing.assert_allclose(found.family_high[:3] - found.value[:3], width[:3], rtol=1e-9)
    alone = intervals(members, np.ones((4, 24)), times)
    close(found.low, alone.low)
    assert found.family_high[3] == np.inf and found.verdict("rare").startswith("not shown, +0.0833 (too few sequences differ")
    # One with a long tail, or of hardly any, leaves the others theirs.
    assert found.shown.tolist() == [True, True, False, False] and np.isinf(alone.family_low).all()
    assert not claims({"more": of["more"]}, 1, 9.0, np.arange(24), times).shown.any()


def test_groups_are_drawn_together():
    model, inputs = torch_lstm(FOUR), features()
    why = lx.attribute(model, inputs, target=(-1, 0))
    apart, together = (lx.faithfulness(model, inputs, why, groups=groups, **QUICK) for groups in (None, list("aabb")))
    close(together.claims["random"].value, apart.claims["random"].value)
    assert (apart.groups, together.groups) == (4, 2) and np.isinf(together.claims["random"].high).all()
    one = lx.faithfulness(model, inputs, why, groups=list("aaaa"), **QUICK)
    assert one.claims["random"].verdict("infidelity, root").startswith("not controlled")


def test_a_difference_the_other_way_is_said():
    inputs, _ = marked()
    why = lx.attribute(adding(), inputs, output=added)
    found = lx.faithfulness(adding(), inputs, fake(why, -why.by_step), output=added, **(QUICK | {"draws": 4}))
    assert "not shown (the reverse is), -" in found.claims["random"].verdict("insertion, area") and not found.shown


# ---- The result


@pytest.fixture(scope="module")
def found():
    model = Words()
    why = lx.attribute(model, tokens(), target=(-1, 2), lengths=ENDS)
    return lx.faithfulness(model, tokens(), why, twins=2, perturbations=1, draws=2)


def test_the_result_is_frozen_and_says_what_it_found(found):
    with pytest.raises(FrozenInstanceError):
        found.seed = 1
    assert repr(found).startswith("<Faithfulness of integrated_gradients: removing the 10 % of steps it names lowers the output more")
    assert "\n" not in repr(found) and "4 sequences" in repr(found)
    assert all(
        verdict.split(",")[0].split(":")[0].split(" (")[0] in ("shown", "not shown", "not controlled")
        for verdict in found.verdicts.values()
    )


def test_the_result_exports(found):
    exported = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert exported["comprehensiveness"] == found.comprehensiveness.tolist() and exported["verdicts"] == found.verdicts
    assert exported["claims"]["random"]["measures"][-1] == "infidelity, root"
    frame = found.to_frame()
    assert len(frame) == 30 and frame["value"].tolist() == [*found.claims["random"].value, *found.claims["input_x_gradient"].value]
    html = replace(found, method="<script>")._repr_html_()
    assert "<script>" not in html and "comprehensiveness, AOPC" in html


# ---- What is refused


def refused(model, inputs, result, **options):
    with pytest.raises(lx.InputError) as caught:
        lx.faithfulness(model, inputs, result, **(QUICK | options))
    said = str(caught.value)
    assert "\n" not in said and said.startswith("needed ") and ", got " in said or "since" in said
    return said


@pytest.mark.parametrize(
    "options",
    [
        {"rank": "largest"},
        {"draws": 0},
        {"draws": 1.5},
        {"subsets": 0},
        {"perturbations": -1},
        {"twins": True},
        {"radius": 0},
        {"radius": float("nan")},
        {"seed": -1},
        {"resamples": 0},
        {"groups": ["a"]},
    ],
)
def test_arguments_of_another_kind_are_refused(options):
    model = torch_lstm(FOUR)
    assert next(iter(options)) in refused(model, features(), lx.attribute(model, features(), target=(-1, 0)), **options)


def test_another_model_other_inputs_and_what_is_no_result_are_refused():
    model, inputs = torch_lstm(FOUR), features()
    why = lx.attribute(model, inputs, target=(-1, 0))
    assert "differ" in refused(torch_lstm(FOUR._replace(seed=1)), inputs, why)
    assert "differ" in refused(model, features(seed=1), why)
    assert "(4, 9, ...)" in refused(model, features(3, 9, 2), why)
    assert "dict" in refused(model, inputs, {})
    assert "Module" in refused(None, inputs, why)
    assert "floating" in refused(model, tokens(), why)
    assert "two sequences" in refused(model, inputs[:1], lx.attribute(model, inputs[:1], target=(-1, 0)))
    assert "finite" in refused(model, inputs, replace(why, attributions=why.attributions * np.nan))
    words = lx.attribute(Words(), tokens(), target=(-1, 0))
    assert "embedding" in refused(model, tokens(), words)
