"""Ablation: held against a loop by hand, one unit and one sequence at a time; a network whose output hangs on one known unit."""

import numpy as np
import pytest
import torch
from every_kind import Leaky, Loop, leaky, model_of, registered
from torch import nn

import lstm_explain as lx
from lstm_explain.analyses.ablation.ablation import _classes
from lstm_explain.analyses.ablation.intervals import draws, intervals

B, T, H = 6, 9, 5
LENGTHS = [9, 7, 9, 4, 9, 9]
X = torch.randn(B, T, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KINDS = {
    "lstm": lambda: nn.LSTM(3, H, batch_first=True),
    "gru": lambda: nn.GRU(3, H, batch_first=True),
    "rnn": lambda: nn.RNN(3, H, batch_first=True),
    "full": lambda: lx.PeepholeLSTM(3, H, batch_first=True),
    "graves": lambda: lx.PeepholeLSTM(3, H, batch_first=True, peephole="diagonal", wiring="graves"),
}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell, "full": lx.PeepholeLSTMCell, "graves": lx.PeepholeLSTMCell}
FORMS = {"graves": {"peephole": "diagonal", "wiring": "graves"}}


class Reader(nn.Module):
    """A layer and a linear decoder, random."""

    def __init__(self, layer, seed=0, width=H):
        super().__init__()
        self.layer, self.decoder = layer, nn.Linear(width, 2)
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


def cell_of(kind, layer):
    """The layer's own step, as PyTorch's cell."""
    cell = CELLS[kind](3, H, **FORMS.get(kind, {})).double()
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(getattr(layer, f"{name}_l0"))
    return cell


def states_of(cell, x):
    """The states after each step of one sequence, and how they are held."""
    state, found = None, []
    for step in x:
        state = cell(step[None], state)
        found.append(state)
    return found


def held_loss(model, kind, x, donor, target, units):
    """Mean of nothing: the loss of every step of one sequence while units hold what the donor had, one step and one cell at a time."""
    cell, state, losses = cell_of(kind, model.layer), None, []
    theirs = states_of(cell, donor)
    for t, step in enumerate(x):
        state = cell(step[None], state)
        both = state if isinstance(state, tuple) else (state,)
        other = theirs[t % len(theirs)] if isinstance(theirs[0], tuple) else (theirs[t % len(theirs)],)
        both = tuple(own.index_copy(1, torch.tensor(units), of[:, units]) for own, of in zip(both, other, strict=True))
        state = both if isinstance(state, tuple) else both[0]
        losses.append((model.decoder(both[0])[0] - target[t]).square().sum())
    return torch.stack(losses)


@torch.no_grad()
def slowly(model, kind, sets, donors):
    """The change of the loss ``(set, batch, time)``, NaN in padding."""
    found = np.full((len(sets), B, T), np.nan)
    for row, length in enumerate(LENGTHS):
        other = X[donors[row], : LENGTHS[donors[row]]]
        clean = (model(X[row : row + 1])[0] - TARGETS[row]).square().sum(-1)[:length]
        for at, units in enumerate(sets):
            found[at, row, :length] = held_loss(model, kind, X[row, :length], other, TARGETS[row], units) - clean
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_a_loop_of_cells_gives_one_unit_and_sequence_at_a_time(kind):
    model = Reader(KINDS[kind]())
    sets = [[0], [1], [3], [4, 2]]
    label = X[:, :, 0].numpy() > 0
    result = lx.ablation(model, X, "layer.l0", loss=loss, units=sets, lengths=LENGTHS, by={"warm": label})
    slow = slowly(model, kind, sets, result.donors)
    assert result.units == ((0,), (1,), (3,), (2, 4)) and (result.donors != np.arange(B)).all()
    np.testing.assert_allclose(result.effects.change, np.nanmean(slow, axis=(1, 2)), rtol=0, atol=1e-12)
    for name, here in (("yes", label), ("no", ~label)):
        expected = np.nanmean(np.where(here, slow, np.nan), axis=(1, 2))
        np.testing.assert_allclose(result.by["warm"][name].change, expected, rtol=0, atol=1e-12)
    assert result.noop < 1e-12 and result.effects.steps == sum(LENGTHS)
    assert result.certificate.worst.share <= 1 and result.ablated_certificate.state == "certified"
    edited = " ".join(call.edited for call in result.ablated_certificate.calls)
    assert ("cell_state" in edited) == (kind not in ("gru", "rnn")) and "hidden_state" in edited


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_copies_change_nothing(kind):
    model = Reader(KINDS[kind]())
    one, many = (
        lx.ablation(model, X, "layer.l0", loss=loss, lengths=LENGTHS, by={"warm": X[:, :, 0] > 0}, order="removal", copies=copies)
        for copies in (1, 8)
    )
    for name in ("change", "low", "high", "family_low", "family_high"):
        for a, b in ((one.effects, many.effects), (one.removal, many.removal), (one.by["warm"]["yes"], many.by["warm"]["yes"])):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-11 if "change" not in name else 1e-12)
    assert one.order.tolist() == many.order.tolist()
    assert (one.passes, many.passes) == (1 + 1 + 6 + 5, 1 + 1 + 1 + 1) and one.sequences == many.sequences == 6 * (1 + 1 + 6 + 5)


def test_many_batches_are_one():
    model, x = Reader(KINDS["lstm"]()), torch.randn(37, T, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = lx.ablation(model, x, "layer.l0", loss=lambda output, rows: output[:, :, 0], units=[2])
    with torch.no_grad(), lx.record(model) as recording:
        clean = model(x)
    values = lx.resample(recording, sequences=result.donors)
    with torch.no_grad(), lx.intervene(model, "layer.l0", units=[2], cell_state=values, hidden_state=values, feedback=True):
        change = (model(x) - clean)[:, :, 0].mean()
    np.testing.assert_allclose(result.effects.change[0], change, rtol=0, atol=1e-12)
    assert result.passes == 3 + 1 + 3


def planted(unit, units=12, seed=0):
    """A random network whose output hangs on one unit, which nobody else reads."""
    model = Reader(nn.LSTM(3, units, batch_first=True), seed, units)
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.decoder.weight[:, unit] = 1.0
        hidden = model.layer.weight_hh_l0
        hidden[:, unit] = 0.0
        hidden.view(4, units, units)[:, unit] = 0.0
    return model


def test_a_planted_unit_is_the_one_that_is_shown():
    x = torch.randn(40, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model = planted(7)
    with torch.no_grad():
        wanted = model(x)
    result = lx.ablation(model, x, "layer.l0", loss=lambda output, rows: (output - wanted[rows]).square().sum(-1), order="removal")
    assert np.flatnonzero(result.effects.shown).tolist() == [7] and result.effects.change[7] > 0.01
    others = np.delete(result.effects.change, 7)
    assert np.abs(others).max() < 1e-12
    assert result.order[-1] == 7 and result.removable == 11
    np.testing.assert_allclose(result.removal.change[-1], result.effects.change[7], rtol=0, atol=1e-12)
    assert "most by 7" in repr(result) and "11 removed before a rise is shown" in repr(result)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_without_outgoing_weights_has_no_effect(kind):
    model = Reader(KINDS[kind]())
    with torch.no_grad():
        model.decoder.weight[:, 3] = 0.0
        model.layer.weight_hh_l0[:, 3] = 0.0
        if kind == "full":
            own = model.layer.weight_ch_l0.view(4, H, H)[:, 3, 3].clone()
            model.layer.weight_ch_l0[:, 3] = 0.0
            model.layer.weight_ch_l0.view(4, H, H)[:, 3, 3] = own
    result = lx.ablation(model, X, "layer.l0", loss=loss, units=[3, 1], lengths=LENGTHS)
    assert abs(result.effects.change[0]) < 1e-12 and not result.effects.shown[0]
    assert abs(result.effects.change[1]) > 1e-6


def test_sets_have_the_names_that_they_were_given():
    model = Reader(KINDS["lstm"]())
    named = lx.ablation(model, X, "layer.l0", loss=loss, units={"quote": 3, "depth": [4, 1]})
    plain = lx.ablation(model, X, "layer.l0", loss=loss, units=[[3], [1, 4]])
    assert named.units == plain.units == ((3,), (1, 4))
    assert named.names == ("quote", "depth") and plain.names == ("3", "1+4")
    np.testing.assert_array_equal(named.effects.change, plain.effects.change)
    assert list(named.to_frame()["units"]) == ["quote", "depth"] and "quote" in repr(named) + named._repr_html_()


def test_removal_holds_units_together_the_least_effect_first():
    model = Reader(KINDS["gru"]())
    result = lx.ablation(model, X, "layer.l0", loss=loss, lengths=LENGTHS, order="removal")
    assert result.order.tolist() == np.argsort(result.effects.change, kind="stable").tolist()
    sets = [result.order[: n + 1].tolist() for n in range(H)]
    slow = slowly(model, "gru", sets, result.donors)
    np.testing.assert_allclose(result.removal.change, np.nanmean(slow, axis=(1, 2)), rtol=0, atol=1e-12)


def test_padding_never_counts():
    model, changed, wild = Reader(KINDS["lstm"]()), X.clone(), torch.zeros(B, T, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        changed[row, length:], wild[row, length:] = 1e3, True
    labels = np.where(wild.numpy(), 7, X[:, :, 1].numpy() > 0)
    settings = {"lengths": LENGTHS, "order": "removal"}
    one = lx.ablation(model, X, "layer.l0", loss=loss, by={"up": np.where(wild.numpy(), 1, labels)}, **settings)

    def nowhere(output, rows):
        return torch.where(wild[rows], float("nan"), loss(output, rows))

    two = lx.ablation(model, changed, "layer.l0", loss=nowhere, by={"up": labels}, **settings)
    np.testing.assert_allclose(two.effects.change, one.effects.change, rtol=0, atol=1e-12)
    np.testing.assert_allclose(two.removal.high, one.removal.high, rtol=0, atol=1e-11)
    np.testing.assert_allclose(two.by["up"]["1"].change, one.by["up"]["1"].change, rtol=0, atol=1e-12)
    assert two.by["up"]["7"].steps == 0 and np.isnan(two.by["up"]["7"].change).all() and not two.by["up"]["7"].shown.any()
    assert two.to_dict()["by"]["up"]["7"]["change"] == [None] * H
    assert (one.padding, lx.ablation(model, X, "layer.l0", loss=loss, units=[0]).padding) == ("known", "unknown")


def test_a_loss_of_one_number_for_each_sequence():
    model = Reader(KINDS["lstm"]())
    last = torch.as_tensor(LENGTHS) - 1

    def final(output, rows):
        return output[torch.arange(len(rows)), last[rows], 0]

    result = lx.ablation(model, X, "layer.l0", loss=final, units=[1], lengths=LENGTHS)
    steps = lx.ablation(model, X, "layer.l0", loss=lambda output, rows: output[:, :, 0], units=[1], lengths=LENGTHS)
    assert result.effects.steps == B and result.effects.change[0] != steps.effects.change[0]
    with torch.no_grad():
        np.testing.assert_allclose(result.effects.clean, final(model(X), torch.arange(B)).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["projected", "peephole_projected"])
def test_under_a_projection_a_unit_sends_what_the_other_sequence_had(kind):
    model, x = model_of(kind), torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    result = lx.ablation(model, x, "l1", loss=lambda output, rows: output[0][:, :, 0], units=[[0, 1, 2]])
    with torch.no_grad(), lx.record(model) as recording:
        clean = model(x)[0][:, :, 0]
    # With all units held the layer sends exactly what it sent in the other sequence.
    theirs = recording["l1"].hidden_state[result.donors, :, 0]
    np.testing.assert_allclose(result.effects.change[0], (theirs - clean).mean(), rtol=0, atol=1e-12)


def test_cells_in_a_loop_and_registered_ones():
    x = torch.randn(5, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def first(output, rows):
        return output[0][:, :, 0]

    result = lx.ablation(model_of("lstm_cell"), x, "cell", loss=first, units=[0, 1], copies=2)
    stock = nn.LSTM(2, 3, batch_first=True).double()
    with torch.no_grad():
        for name, parameter in model_of("lstm_cell").cell.named_parameters():
            getattr(stock, f"{name}_l0").copy_(parameter)
    np.testing.assert_allclose(result.effects.change, lx.ablation(stock, x, "l0", loss=first, units=[0, 1]).effects.change, atol=1e-12)
    with registered(Leaky, leaky):
        found = lx.ablation(Loop(Leaky(2, 3).double()), x, "cell", loss=first)
        assert found.effects.change[0] != 0 and np.abs(found.effects.change[1:]).max() < 1e-12


def by_loops(sums, steps, times, level=0.95):
    """Studentised intervals from their definition: each draw is the data of that many copies of each group."""
    value = sums.sum(1) / steps.sum(1)

    def error(s, n, groups):
        return np.sqrt(groups / (groups - 1) * ((s - s.sum() / n.sum() * n) ** 2).sum()) / n.sum()

    deviations = np.zeros((len(times), len(sums)))
    for draw, counts in enumerate(times.astype(int)):
        for one in range(len(sums)):
            s, n = np.repeat(sums[one], counts), np.repeat(steps[one], counts)
            e, away = error(s, n, len(counts)), abs(s.sum() / n.sum() - value[one])
            deviations[draw, one] = away / e if e > 1e-9 else np.inf if away > 1e-12 else 0
    errors = np.array([error(s, n, sums.shape[1]) for s, n in zip(sums, steps, strict=True)])
    own = np.quantile(deviations, level, axis=0, method="higher") * errors
    family = np.quantile(deviations.max(1), level, method="higher") * errors
    return value, value - own, value + own, value - family, value + family


def test_intervals_are_their_definition_with_groups_drawn_whole():
    rng = np.random.default_rng(0)
    sums, steps = rng.normal(0.3, 1, (4, 9)) * 10, np.tile(rng.integers(5, 30, 9).astype(float), (4, 1))
    times = draws(9, 200, 1)
    for got, expected in zip(intervals(sums, steps, times), by_loops(sums, steps, times), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_families_of_nothing_are_seldom_found():
    rng, found, wrong = np.random.default_rng(1), 0, 0
    for seed in range(60):
        skewed = np.exp(rng.normal(size=(50, 10)) * 0.8) - np.exp(0.32)
        steps = np.tile(rng.integers(200, 2000, 10).astype(float), (50, 1))
        one = intervals(skewed * steps**0.75, steps, draws(10, 400, seed))
        found += bool(((one.family_low > 0) | (one.family_high < 0)).any())
        wrong += ((one.low > 0) | (one.high < 0)).mean()
    # Each by itself isn't corrected for how many there are; means of ten skewed groups are wrong a little more often than one in twenty.
    assert found / 60 <= 0.05 and wrong / 60 <= 0.12


def test_sequences_of_a_group_are_drawn_together():
    model = Reader(KINDS["lstm"]())
    twice, lengths = torch.cat([X, X]), LENGTHS * 2
    groups = list("abcdef") * 2

    def same(output, rows):
        return loss(output, rows % B)

    apart = lx.ablation(model, twice, "layer.l0", loss=same, lengths=lengths)
    together = lx.ablation(model, twice, "layer.l0", loss=same, lengths=lengths, groups=groups)
    np.testing.assert_allclose(apart.effects.change, together.effects.change, rtol=0, atol=1e-12)
    assert together.effects.groups == 6 and (together.effects.high - together.effects.low > apart.effects.high - apart.effects.low).all()
    two = lx.ablation(model, X, "layer.l0", loss=loss, groups=[0, 1] * 3, units=[0])
    assert np.isinf(two.effects.high).all() and not two.effects.shown.any() and two.to_dict()["effects"]["high"] == [None]


def test_a_family_is_as_wide_as_what_was_asked():
    model = Reader(KINDS["lstm"]())
    one, many = (lx.ablation(model, X, "layer.l0", loss=loss, units=units, seed=3) for units in ([2], [2, 0, 1, 3, 4]))
    np.testing.assert_allclose(one.effects.low[0], many.effects.low[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(one.effects.family_low, one.effects.low, rtol=0, atol=1e-12)
    assert many.effects.family_low[0] < one.effects.family_low[0]
    assert (many.effects.family_low <= many.effects.low + 1e-15).all()


def test_labels_are_classes_and_undefined_steps_are_none():
    text = np.array([["a", ""], ["b", "a"]])
    assert [(one.name, one.here.tolist()) for one in _classes({"t": text}, (2, 2))] == [
        ("a", [[True, False], [False, True]]),
        ("b", [[False, False], [True, False]]),
    ]
    assert [one.name for one in _classes({"n": np.array([[-1, 3], [3, 0]])}, (2, 2))] == ["0", "3"]
    assert [one.name for one in _classes({"b": torch.tensor([[True, False]])}, (1, 2))] == ["no", "yes"]


class Moody(nn.Module):
    """Never twice the same."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, H, batch_first=True).double()

    def forward(self, x):
        return self.lstm(x)[0] + torch.randn(1)


class Mixing(Moody):
    def forward(self, x):
        output = self.lstm(x)[0]
        return output - output.mean(0, keepdim=True) * torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None, None]


FIRST = {"loss": lambda output, rows: output[:, :, 0]}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer": "layer.l1"}, "needed layer as one of layer.l0, got 'layer.l1', did you mean 'layer.l0'?"),
        ({"units": [5]}, "needed units from 0 to 4 of layer.l0, got 5"),
        ({"units": [[1, 1]]}, "each once in a set, got [1, 1]"),
        ({"units": []}, "needed units as whole numbers"),
        ({"units": [0.5]}, "needed units as whole numbers"),
        ({"units": {}}, "needed units as whole numbers"),
        ({"units": {"quote": "3"}}, "each once in a set, got '3'"),
        ({"units": [[]]}, "each once in a set, got []"),
        ({"units": [True]}, "each once in a set, got True"),
        ({"units": "all"}, "needed units as whole numbers, like [3, 17]"),
        ({"inputs": X[:1]}, "needed at least two sequences, since each holds what another one had, got 1"),
        ({"inputs": [1.0]}, "needed inputs as a tensor (batch, time, ...), got list"),
        ({"loss": 3}, "needed loss as a function"),
        (
            {"loss": lambda output, rows: output.mean()},
            "needed loss= to give a tensor (6, 9) or (6,), one for each step or sequence, got ()",
        ),
        ({"loss": lambda output, rows: output[0, :4, 5]}, "loss= failed on what the model returned: IndexError"),
        ({"loss": lambda output, rows: output[:, :, 0].log()}, "needed a finite loss, got NaN or infinity from the model as it is"),
        ({"lengths": [9] * 5}, "needed lengths as 6 whole numbers"),
        ({"by": {"a": np.zeros((6, 8), bool)}}, "needed label 'a' of shape (6, 9), one for each step, got (6, 8)"),
        ({"by": {"a": np.zeros((6, 9))}}, "needed label 'a' as booleans, whole numbers or text (classes), got float64"),
        ({"by": [1]}, "needed by as a mapping"),
        (
            {"by": {"a": np.zeros((6, 9), bool)}, "loss": lambda output, rows: output[:, 0, 0]},
            "needed a loss for each step (row, time) to split",
        ),
        ({"groups": [1] * 6}, "needed at least two groups, which the intervals are made of, got one"),
        ({"groups": [1, 2]}, "needed groups for 6 sequences, got 2"),
        ({"order": "best"}, "needed order as 'removal' or None, got 'best'"),
        ({"copies": 0}, "needed copies as a positive whole number, got 0"),
        ({"resamples": 1.5}, "needed resamples as a positive whole number, got 1.5"),
        ({"seed": -1}, "needed seed as a whole number from 0 on, got -1"),
        ({"model": Moody(), "layer": "lstm.l0"}, "needed a model whose passes are the same each time"),
        ({"model": Mixing(), "layer": "lstm.l0", "units": [0, 1]}, "that reads each sequence by itself, batch first"),
        ({"model": nn.Linear(3, 2).double()}, "needed layer as one of (no recurrent layers)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_the_model_alone(changes, message):
    given = {"model": Reader(KINDS["lstm"]()), "inputs": X, "layer": "layer.l0"} | FIRST | changes
    model = given.pop("model").train()
    with pytest.raises(lx.InputError) as refused:
        lx.ablation(model, given.pop("inputs"), given.pop("layer"), **given)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert all(module.training and "forward" not in module.__dict__ for module in model.modules())


def test_the_model_is_as_it_was_and_the_seed_says_everything():
    model = Reader(KINDS["lstm"]()).train()
    before, state = {name: one.clone() for name, one in model.state_dict().items()}, torch.get_rng_state()
    one, two, other = (lx.ablation(model, X, "layer.l0", loss=loss, seed=seed, order="removal") for seed in (1, 1, 2))
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert one.to_dict() == two.to_dict() and one.donors.tolist() != other.donors.tolist()


def test_further_arguments_go_along_and_packed_models_work():
    class Packing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Reader(KINDS["gru"]())

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output = nn.utils.rnn.pad_packed_sequence(self.inner.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]
            return self.inner.decoder(output)

    lengths = torch.as_tensor(LENGTHS)
    packed = lx.ablation(Packing(), X, "inner.layer.l0", loss=loss, lengths=lengths, additional_forward_args=lengths, copies=3)
    padded = lx.ablation(Reader(KINDS["gru"]()), X, "layer.l0", loss=loss, lengths=lengths)
    np.testing.assert_allclose(packed.effects.change, padded.effects.change, rtol=0, atol=1e-12)


def test_the_bar_says_how_many_passes_there_are(capsys):
    model = Reader(KINDS["lstm"]())
    result = lx.ablation(model, X, "layer.l0", loss=loss, progress=True, copies=2)
    shown = capsys.readouterr().err
    assert f"layer.l0: {result.passes} forward passes of up to 12 sequences" in shown and f"{result.passes}/{result.passes}" in shown
    lx.ablation(model, X, "layer.l0", loss=loss, progress=False)
    assert not capsys.readouterr().err
    frame = result.to_frame()
    assert len(frame) == H and list(frame["units"]) == list("01234") and "forward passes" in result._repr_html_()


def test_a_class_that_one_group_alone_has_has_no_interval():
    sums, steps = np.array([[3.0, 0, 0, 0], [1.0, 2, 3, 4]]), np.array([[5.0, 0, 0, 0], [5.0, 6, 7, 8]])
    found = intervals(sums, steps, draws(4, 50, 0))
    assert found.value[0] == 0.6 and all(np.isnan(bound[0]) and not np.isnan(bound[1]) for bound in found[1:])
    once = np.zeros((B, T), dtype=bool)
    once[2, 3:5] = True
    result = lx.ablation(Reader(KINDS["lstm"]()), X, "layer.l0", loss=loss, by={"once": once})
    rare = result.by["once"]["yes"]
    assert rare.groups == 1 and rare.steps == 2 and np.isfinite(rare.change).all() and np.isnan(rare.low).all() and not rare.shown.any()


def test_shown_is_what_the_interval_of_the_family_says():
    x = torch.randn(7, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model = Reader(nn.LSTM(3, 12, batch_first=True), 1, 12)
    with torch.no_grad():
        wanted = model(x)
    effects = lx.ablation(model, x, "layer.l0", loss=lambda output, rows: (output - wanted[rows]).square().sum(-1)).effects
    np.testing.assert_array_equal(effects.shown, effects.family_low > effects.rounding)
    own = effects.low > effects.rounding
    assert 0 < effects.shown.sum() < own.sum()
