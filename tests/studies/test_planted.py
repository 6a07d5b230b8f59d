"""The study whose network is known: what was planted is there exactly, its copies do nothing, and the toolkit finds both."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import lstm_explain as lx
from lstm_explain.plots import panels
from lstm_explain.report import ablation, attribution, faithfulness, named, overview, probing, saturation
from lstm_explain.report.measure import Clock, measure
from lstm_explain.studies.planted import AFTER, COPY_GAIN, GAIN, HOLD, MEMORIES, RARELY, SHORTEST, SWITCH, UNITS, make, network

SEEDS = range(20)
SHARE = 0.85
"""Of what an output is away from its baseline's, what the last written number gets at least."""


def recorded(model, of):
    with lx.record(model, lengths=of.lengths) as recording, torch.no_grad():
        model(of.inputs)
    return recording


class Case:
    """A network, and what was recorded of it."""

    def __init__(self, seed):
        self.seed, self.of = seed, network(seed)
        self.recording = recorded(self.of.model, self.of)
        self.real = np.arange(self.of.inputs.shape[1]) < np.array(self.of.lengths)[:, None]

    def state(self, one):
        trajectory = self.recording[one.layer]
        return trajectory.signal(trajectory.memory)[:, :, one.unit].numpy()

    def written(self, memory):
        return self.of.inputs[:, :, memory].numpy()

    def turn(self):
        """A memory, another one with each seed."""
        return self.seed % (2 * MEMORIES)


@pytest.fixture(scope="module", params=SEEDS)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def first():
    return Case(0)


def without_background(of):
    """The same network, with nothing but the memories read out."""
    model = network(0).model
    model.load_state_dict(of.model.state_dict())
    read = torch.zeros(2 * UNITS, dtype=torch.bool)
    for one in of.planted:
        read[one.unit + UNITS * one.layer.startswith("gru")] = True
    with torch.no_grad():
        model.read_out.weight[:, ~read] = 0
    return model


def test_labels_say_what_was_written_last(case):
    for memory, (name, label) in enumerate(case.of.labels.items()):
        written = case.written(memory)
        assert set(np.unique(written)) == {-1, 0, 1} and not written[~case.real].any()
        for row, length in enumerate(case.of.lengths):
            kept, expected = -1, []
            for number in written[row, :length]:
                kept = {-1: 0, 0: kept, 1: 1}[int(number)]
                expected.append(kept)
            assert label[row].tolist() == expected + [-1] * (label.shape[1] - length)
            steps = np.flatnonzero(case.of.writes[name][row])
            assert steps.tolist() == np.flatnonzero(written[row]).tolist() and set(np.diff(steps)) <= set(range(*RARELY))
        np.testing.assert_array_equal(case.of.latches[:, :, memory], np.choose(label + 1, [0, -1, 1]))


def test_every_unit_that_was_planted_holds_the_sign_of_its_label_at_every_step(case):
    for one in case.of.planted:
        state, label = case.state(one), case.of.labels[one.label]
        np.testing.assert_array_equal(np.sign(state[label >= 0]), 2 * label[label >= 0] - 1)
        assert not state[(label < 0) & case.real].any()


def test_a_memory_is_kept_for_longer_than_any_window(case):
    for one in case.of.planted:
        label, writes = case.of.labels[one.label], case.of.writes[one.label]
        assert np.abs(case.state(one)[label >= 0]).min() > 0.998 * np.tanh(GAIN)
        step = np.arange(writes.shape[1])
        since = step - np.maximum.accumulate(np.where(writes, step, 0), axis=1)
        assert since[label >= 0].max() > 30


def test_a_copy_is_what_its_memory_was_a_step_before_and_louder(case):
    for one, copy in zip(case.of.planted, case.of.copies, strict=True):
        read = case.recording[one.layer].hidden_state[:, :-1, one.unit].numpy()
        state, memory, before = case.state(copy)[:, 1:], case.state(one)[:, :-1], case.real[:, 1:]
        np.testing.assert_allclose(state[before], np.tanh(COPY_GAIN * read[before]), rtol=0, atol=2e-4)
        known = before & (memory != 0)
        assert (np.abs(state[known]) > np.abs(memory[known])).all() and not state[before & (memory == 0)].any()


def test_the_recording_is_certified_and_knows_its_padding(case):
    assert case.recording.certificate.state == "certified" and case.recording.coverage.padding == "known"
    assert list(case.recording) == ["lstm.l0", "gru.l0"]
    for trajectory in case.recording.values():
        np.testing.assert_array_equal(trajectory.valid, case.real)


def test_the_output_is_the_latches_and_a_weak_background_in_each(case):
    with torch.no_grad():
        left = (case.of.model(case.of.inputs) - case.of.latches)[torch.from_numpy(case.real)]
    assert 0.005 < left.std(0).min() and left.abs().max() < 0.25


def test_each_memory_and_each_copy_is_a_unit_of_its_own(case):
    of = case.of
    assert [one.label for one in of.planted] == [one.label for one in of.copies] == list(of.labels)
    assert [one.layer for one in of.planted] == ["lstm.l0"] * MEMORIES + ["gru.l0"] * MEMORIES == [one.layer for one in of.copies]
    assert len({(one.layer, one.unit) for one in (*of.planted, *of.copies)}) == 4 * MEMORIES


def test_changing_a_copy_changes_nothing_and_changing_a_memory_does(case):
    of = case.of
    for layer in ("lstm.l0", "gru.l0"):
        signals = ("cell_state", "hidden_state") if layer == "lstm.l0" else ("hidden_state",)

        def output(units, value, layer=layer, signals=signals):
            values = dict.fromkeys(signals, lx.add(value))
            with lx.intervene(of.model, layer, units=units, feedback=True, **values), torch.no_grad():
                return of.model(of.inputs)

        copies = [one.unit for one in of.copies if one.layer == layer]
        memories = [one.unit for one in of.planted if one.layer == layer]
        same = output(copies, 0.0)
        assert torch.equal(output(copies, 1.5), same)
        assert (output(memories, 1.5) - same).abs().amax((0, 1))[
            [list(of.labels).index(one.label) for one in of.planted if one.layer == layer]
        ].min() > 0.5


def test_the_memory_alone_tells_the_label_at_every_step_and_its_copy_comes_second(case):
    sequence, _ = np.nonzero(case.real)
    for one, copy in zip(case.of.planted, case.of.copies, strict=True):
        trajectory = case.recording[one.layer]
        states, label = trajectory.steps(trajectory.memory).numpy(), case.of.labels[one.label][case.real]
        scores = lx.unit_scores(states, label, groups=sequence, permutations=19, seed=case.seed).scores
        assert np.argsort(-scores)[:2].tolist() == [one.unit, copy.unit]
        assert scores[one.unit] == 1 > 0.9995 > scores[copy.unit] > 0.98 and np.sort(scores)[-3] < 0.8


def test_held_the_memory_costs_its_own_read_out_most_and_the_copy_nothing(case):
    of, memory = case.of, case.turn()
    one, copy = of.planted[memory], of.copies[memory]
    found = lx.ablation(
        of.model,
        of.inputs[:, :SHORTEST],
        one.layer,
        loss=lambda output, rows: (output[:, :, memory] - of.latches[rows, :SHORTEST, memory]).square(),
        resamples=100,
        seed=case.seed,
        progress=False,
    )
    change = found.effects.change
    assert change.argmax() == one.unit and found.effects.shown[one.unit]
    assert change[one.unit] > 0.5 > 0.02 > np.delete(change, one.unit).max()
    # The clean pass is the fused layer's and the other one ours: what the copy changes is nothing, to their rounding.
    assert abs(change[copy.unit]) <= found.noop < 1e-15 and not found.effects.shown[copy.unit]


def test_a_probe_shows_the_memory_beside_an_untrained_twin_and_a_window(case):
    of, memory = case.of, case.turn()
    one = of.planted[memory]
    result = lx.probe(
        case.recording,
        {one.label: of.labels[one.label]},
        groups=range(len(of.lengths)),
        controls={"untrained": recorded(lx.untrained(of.model, seed=case.seed), of), "window": of.inputs},
        events={one.label: of.writes[one.label]},
        folds=2,
        resamples=200,
        permutations=99,
        seed=case.seed,
    )
    found = result.labels[one.label]
    assert found.verdict == "shown" and found.verdict_long_range == "shown"
    layer, cell = found.best_unit()
    assert layer.startswith(one.layer) and set(cell.units) == {one.unit}
    assert found.probes[found.best].score.value > 0.99
    assert max(found.best_control(control)[1].score.value for control in ("untrained", "window")) < 0.9


def path_of(one, written, until):
    """What a memory's read-out is along the path from nothing to `written`, as a function of every written number, by its own formula."""
    steps = [int(step) for step in np.flatnonzero(written[: until + 1])]

    def hidden(numbers):
        """From the numbers ``(number, place on the path)``."""
        size = numbers.abs()
        opened = torch.sigmoid(HOLD * (size / SWITCH - 1))
        kept = torch.sigmoid(torch.tensor(HOLD, dtype=torch.float64)) ** torch.tensor(np.diff([*steps, until + 1]) - 1.0)
        state = torch.zeros_like(numbers[0])
        for at in range(len(steps)):
            state = (1 - opened[at]) * state + opened[at] * torch.tanh(GAIN * numbers[at])
            state = state * kept[at]
        if one.layer == "gru.l0":
            return state / np.tanh(GAIN)
        return torch.sigmoid(torch.tensor(HOLD)) * torch.tanh(state) / np.tanh(np.tanh(GAIN))

    return steps, hidden


def by_quadrature(hidden, numbers, nodes=20_000):
    """Integrated gradients by the midpoint rule."""
    numbers = torch.tensor(numbers)
    path = (((torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes)[:, None] * numbers).T.clone().requires_grad_()
    return (numbers * torch.autograd.grad(hidden(path).sum(), path)[0].mean(1)).numpy()


@pytest.mark.parametrize("memory", [0, MEMORIES])
def test_integrated_gradients_are_what_the_memory_s_formula_gives(first, memory):
    of, one = first.of, first.of.planted[memory]
    row = next(row for row in range(len(of.lengths)) if first.of.writes[one.label][row].sum() > 2)
    until = of.lengths[row] - 1
    found = lx.attribute(
        without_background(of), of.inputs[row : row + 1], target=(until, memory), lengths=of.lengths[row : row + 1], tolerance=1e-7
    )
    steps, hidden = path_of(one, first.written(memory)[row], until)
    expected = np.zeros(found.attributions.shape[1:])
    expected[steps, memory] = by_quadrature(hidden, first.written(memory)[row, steps])
    np.testing.assert_allclose(found.attributions[0], expected, rtol=0, atol=1e-6)


def test_nearly_all_credit_is_on_the_last_number_that_was_written(case):
    of, memory = case.of, case.turn()
    rows = [row for row in range(len(of.lengths)) if of.labels[of.planted[memory].label][row, 47] >= 0][:2]
    found = lx.attribute(of.model, of.inputs[rows, :48], target=(47, memory), tolerance=1e-3)
    assert found.converged.all()
    for at, row in enumerate(rows):
        last = np.flatnonzero(case.written(memory)[row, :48])[-1]
        latch = float(of.latches[row, 47, memory])
        share = found.attributions[at, last, memory] / latch
        assert SHARE < share < 1.15
        others = np.abs(found.attributions[at])
        others[last, memory] = 0
        assert others.max() < 0.15


def test_without_the_last_number_the_memory_is_what_it_was_before(case):
    """What occlusion must say: the last number is replaced by the one before it, numbers before that change nothing."""
    of, memory = case.of, case.turn()
    row = int(np.argmax(of.writes[of.planted[memory].label][:, :48].sum(1)))
    *_, before, last = np.flatnonzero(case.written(memory)[row, :48])
    background = 0.1
    found = lx.attribute(of.model, of.inputs[row : row + 1, :48], target=(47, memory), method="occlusion").by_step[0]
    written = case.written(memory)[row]
    assert abs(found[last] - (written[last] - written[before])) < background
    assert abs(found[before]) < background


def test_survival_falls_only_where_a_memory_is_written_to(first):
    found = lx.timescale(first.recording)
    for one in first.of.planted:
        k, writes = 8, first.of.writes[one.label]
        runs = [not writes[row, start : start + k].any() for row, length in enumerate(first.of.lengths) for start in range(length - k + 1)]
        layer = found.layers[one.layer]
        assert layer.survival[layer.lags.tolist().index(k), one.unit] == pytest.approx(
            np.mean(runs) * (1 / (1 + np.exp(-HOLD))) ** k, abs=1e-12
        )


def test_gates_of_memories_are_at_their_ends_at_every_step(first):
    found = lx.saturation(first.recording)
    for one in first.of.planted:
        layer = found.layers[one.layer]
        gate = layer.gates.index("forget_gate" if one.layer == "lstm.l0" else "update_gate")
        share = first.of.writes[one.label][first.real].mean()
        assert layer.left[gate, 0][one.unit] == pytest.approx(share) and layer.right[gate, 0][one.unit] == pytest.approx(1 - share)


def test_what_is_drawn_depends_on_the_seed_alone():
    before = torch.random.get_rng_state()
    one, again, other = network(3), network(3), network(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.inputs, again.inputs) and one.planted == again.planted and one.lengths == again.lengths
    for name, weights in one.model.state_dict().items():
        assert torch.equal(weights, again.model.state_dict()[name])
    assert one.planted != other.planted and not torch.equal(one.inputs, other.inputs)
    for name, weights in one.model.named_parameters():
        assert name == "read_out.bias" or (weights != other.model.get_parameter(name)).double().mean() > 0.4


def test_a_sequence_is_read_alike_alone_and_padded(first):
    of = first.of
    row = int(np.argmin(of.lengths))
    with torch.no_grad():
        alone = of.model(of.inputs[row : row + 1, : of.lengths[row]])
        torch.testing.assert_close(of.model(of.inputs)[row : row + 1, : of.lengths[row]], alone, rtol=0, atol=1e-14)


def test_it_is_a_pytorch_lstm_beside_a_gru_that_reads_packed_sequences(first):
    seen = []
    model = first.of.model
    handle = model.gru.register_forward_pre_hook(lambda _, given: seen.append(type(given[0])))
    model(first.of.inputs[:2])
    handle.remove()
    assert type(model.lstm) is nn.LSTM and type(model.gru) is nn.GRU and seen == [nn.utils.rnn.PackedSequence]
    assert repr(first.of).startswith("<Network with 6 planted memories (lstm.l0 ")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_places_of_the_study_are_long_after_the_number_that_decides_them(seed):
    study = make(seed)
    assert study.name == "planted" and len(set(study.groups)) == len(study.inputs) and len(study.feature_names) == study.inputs.shape[2]
    assert [place.target[1] for place in study.places] == [0, MEMORIES]
    for place in study.places:
        step, memory = place.target
        assert step < study.lengths[place.sequence]
        written = study.inputs[place.sequence, :, memory].numpy()
        assert (
            np.flatnonzero(written[: step + 1])[-1] == np.flatnonzero(written[: study.lengths[place.sequence] - AFTER])[-1] == step - AFTER
        )
    with torch.no_grad():
        some = torch.tensor([5, 2, 5])
        losses = study.loss(study.model(study.inputs[some]), some)
    expected = (study.model(study.inputs[some]) - network(seed).latches[some]).square().sum(-1)
    assert losses.shape == (3, study.inputs.shape[1]) and torch.equal(losses, expected.detach())


def test_many_gates_are_drawn_in_rows():
    figure, axes = panels(11, 4, 5, 3)
    assert figure.get_size_inches().tolist() == [11, 8] and [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 0, 1, 1]
    assert panels(11, 4, 2, 3)[0].get_size_inches().tolist() == [11, 4]


@pytest.fixture(scope="module")
def report():
    """What the report says, section by section, without its pictures' files, and with fewer sequences to compare attributions on."""
    study = named.make("planted", 0)
    measured = measure(study, torch.device("cpu"), Clock(), seed=0, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "SEQUENCES", faithfulness.FEWEST)
        return {
            room.__name__.rpartition(".")[2]: room.section(study, measured)
            for room in (overview, attribution, probing, ablation, saturation)
        }


def test_the_report_finds_what_was_planted(report, first):
    probed, held, explained = (report[name].numbers for name in ("probing", "ablation", "attribution"))
    assert probed["shown"] == probed["shown_long_range"] == list(first.of.labels)
    label = held["label"]
    memory, copy = next(pair for pair in zip(first.of.planted, first.of.copies, strict=True) if pair[0].label == label)
    assert set(held["best"]) == {memory.unit, copy.unit}
    effects = held["layers"][memory.layer]
    shown = {unit for (unit,), shown in zip(effects["units"], effects["effects"]["shown"], strict=True) if shown}
    assert memory.unit in shown and copy.unit not in shown
    assert report["ablation"].finding.startswith(f"Held at what they were in another sequence, 1 of 2 units of {memory.layer} that tell")
    for place in explained["places"]:
        assert place["converged"] and place["strongest_step"] == place["target"][0] - AFTER


def test_the_report_of_a_network_that_predicts_no_tokens_speaks_of_none(report):
    assert re.search(r"certified .* Its loss is 0\.0\d+ a step on this data", report["overview"].finding.replace("(allowed", " (allowed"))
    assert report["attribution"].numbers["trust"]["what"] == "the largest output at the last of them"
    assert "series that nobody recorded" in report["attribution"].not_shown
    assert len({ax.get_subplotspec().rowspan.start for ax in report["saturation"].pictures[0].figure.axes}) == 2
    picture = report["attribution"].pictures[0].figure
    assert [tick.get_text().split("\n")[0] for tick in picture.axes[0].get_yticklabels()] == list(make().feature_names)
