"""The cell decomposition, against the paper's sums step by step, in closed form, and refused where what is read isn't such a sum."""

import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from cases import FORMS, Case, call_of, close, peephole_lstm, randomise, sequences_and_state, torch_layer, torch_lstm
from mechanisms import adding, counter, leaky_bank
from scalar import layer_weights, run_stack
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import lstm_explain as lx
from lstm_explain.analyses.attribution.decomposition import cell
from lstm_explain.nn.kernels import native

THREE = Case("batch_first", (5, 5, 5))
ENDS = [5, 2, 4]
SHAPES = {
    "one_layer": THREE,
    "two_layers_both_ways": THREE._replace(num_layers=2, bidirectional=True),
    "projected": THREE._replace(num_layers=2, proj_size=2),
}


def built(form, case):
    return torch_lstm(case) if form == "torch" else torch_layer(case, "gru") if form == "gru" else peephole_lstm(case, *form)


class Stated(nn.Module):
    """A layer that starts from a state, the same for every example, and what is read of it by hand."""

    def __init__(self, layer, state, read=None):
        super().__init__()
        self.layer, self.state = layer, state
        self.read = read or (lambda returned: returned[0])

    def forward(self, x):
        state = tuple(part[:, :1].expand(-1, len(x), -1).contiguous() for part in self.state)
        return self.read(self.layer(x, state if len(state) == 2 else state[0]))


def by_the_paper(layer, xs, states, step, unit):
    """Credit of each step for one hidden unit of the top at one step, and of the initial state: every product written out."""
    signals, *_ = run_stack(layer, xs, *states)
    width = layer.proj_size or layer.hidden_size if not isinstance(layer, nn.GRU) else layer.hidden_size
    direction = unit // width
    suffix, unit = f"l{layer.num_layers - 1}" + "_reverse" * direction, unit % width
    s = signals[suffix]
    at = (layer.num_layers - 1) * (1 + layer.bidirectional) + direction
    order = list(range(len(xs)))[:: -1 if direction else 1]
    order = order[: order.index(step) + 1]
    if isinstance(layer, nn.GRU):
        keep, new, start = s["update_gate"], (1 - s["update_gate"]) * s["candidate"], states[0][at]
    else:
        keep, new, start = s["forget_gate"], s["input_gate"] * s["cell_candidate"], states[1][at]

    def what_is_left(value, since):
        for t in order[since:]:
            value = value * keep[t]
        return value

    sums, running = [], what_is_left(np.asarray(start, float), 0)
    for place, t in enumerate(order):
        sums.append(running)
        running = running + what_is_left(new[t], place + 1)
    sums.append(running)
    if isinstance(layer, nn.GRU):
        read = [each[unit] for each in sums]
    else:
        W_r = layer_weights(layer, suffix).get("weight_hr")
        row = np.eye(layer.hidden_size)[unit] if W_r is None else np.asarray(W_r)[unit]
        read = [row @ (s["output_gate"][step] * np.tanh(each)) for each in sums]
    credit = np.zeros(len(xs))
    credit[order] = np.diff(read)
    return credit, read[0]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("where", ["end", "middle"])
@pytest.mark.parametrize(("form", "shape"), [(form, shape) for form in [*FORMS, "torch", "gru"] for shape in SHAPES][:-1])
def test_it_is_the_papers_sum(form, shape, where):
    case = SHAPES[shape]._replace(initial_state=True)
    layer, (inputs, _) = built(form, case), call_of(case)
    state = sequences_and_state(case)[1][: 1 if form == "gru" else 2]
    step = 4 if where == "end" else 2
    for unit in (1, 3) if layer.bidirectional else (1,):
        result = lx.attribute(Stated(layer, state), inputs, target=(step, unit), method="cell_decomposition")
        for example in range(3):
            start = [part[:, 0].numpy() for part in state]
            credit, initial = by_the_paper(layer, inputs[example].numpy(), start, step, unit)
            close(result.attributions[example], credit)
            close(result.elsewhere["initial_state"][example], initial)
        assert np.abs(result.convergence_delta).max() <= 1e-12 and result.converged.all()
        close(result.elsewhere["constant"], np.zeros(3))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("form", ["torch", "gru"])
def test_nothing_is_left_of_what_came_before_a_gate_that_was_shut(form):
    case = THREE._replace(bidirectional=True, initial_state=True)
    layer, inputs, state = built(form, case), call_of(case)[0], sequences_and_state(case)[1][: 1 if form == "gru" else 2]
    with torch.no_grad():
        inputs[:, :, 1] = torch.tensor([0, 0, 1, 1, 0])  # one after the other they leave less than the smallest number
        for weight in (layer.weight_ih_l0, layer.weight_ih_l0_reverse):
            weight[3:6, 1] = -700
    for unit, step, before in ((1, 4, slice(0, 2)), (4, 0, slice(4, 5))):
        result = lx.attribute(Stated(layer, state), inputs, target=(step, unit), method="cell_decomposition")
        for example in range(3):
            credit, _ = by_the_paper(layer, inputs[example].numpy(), [part[:, 0].numpy() for part in state], step, unit)
            close(result.attributions[example], credit)
        assert not result.attributions[:, before].any() and not result.elsewhere["initial_state"].any()
        assert np.abs(result.convergence_delta).max() <= 1e-12


@pytest.mark.usefixtures("backend")
def test_products_that_come_to_zero_on_their_way_are_as_the_papers():
    layer = randomise(nn.LSTM(1, 2, batch_first=True).double())
    with torch.no_grad():
        layer.bias_ih_l0[2:4] = -5
    inputs = torch.randn(2, 300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = lx.attribute(layer, inputs, target=(-1, 1), method="cell_decomposition")
    for example in range(2):
        credit, _ = by_the_paper(layer, inputs[example].numpy(), [np.zeros((1, 2))] * 2, 299, 1)
        close(result.attributions[example], credit)
    assert (result.attributions[:, :50] == 0).all() and result.converged.all()


@pytest.mark.usefixtures("backend")
def test_examples_one_after_the_other_are_as_all_at_once(monkeypatch):
    case = THREE._replace(bidirectional=True)
    layer, inputs = built("torch", case), call_of(case)[0]
    question = {"target": [(4, 1), (0, 4), (-1, 0)], "lengths": ENDS, "method": "cell_decomposition"}
    together = lx.attribute(layer, inputs, **question)
    monkeypatch.setattr(cell, "_VALUES", 1)
    apart = lx.attribute(layer, inputs, internal_batch_size=1, **question)
    close(apart.attributions, together.attributions)
    close(apart.elsewhere["initial_state"], together.elsewhere["initial_state"])


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_is_the_same_by_the_kernel_and_by_operations_of_pytorch(make, dtype, near, monkeypatch):
    if native.backend().name == "torch":
        pytest.skip(native.backend().why)
    layer = randomise(make(3, 37, batch_first=True, bidirectional=True).double()).to(dtype)
    inputs = torch.randn(5, 250, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    steps = {"target": [(-1, 1), (249, 40), (0, 73), (200, 36), (20, 50)], "lengths": [250, 250, 7, 241, 33]}
    question, by_kernel = steps | {"method": "cell_decomposition"}, Mock(wraps=native.credit)
    monkeypatch.setattr(native, "credit", by_kernel)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        # Of one sequence, threads would have its units.
        found = [lx.attribute(layer, inputs, **question), lx.attribute(layer, inputs, **question, internal_batch_size=1)]
    finally:
        torch.set_num_threads(threads)
    asked = by_kernel.call_count
    monkeypatch.setenv("LSTM_EXPLAIN_BACKEND", "torch")
    expected = lx.attribute(layer, inputs, **question)
    assert asked and by_kernel.call_count == asked
    for one in found:
        np.testing.assert_allclose(one.attributions, expected.attributions, rtol=0, atol=near)
        np.testing.assert_allclose(one.elsewhere["initial_state"], expected.elsewhere["initial_state"], rtol=0, atol=near)
        assert one.converged.all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("unit", [1, 4])
def test_where_padding_is_read_there_is_nothing_to_credit(unit):
    layer = randomise(nn.LSTM(2, 3, batch_first=True, bidirectional=True).double())

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0][:, -1]

    inputs, _ = call_of(THREE)
    # The longest comes last, so that its copies are as long.
    result = lx.attribute(Read(), inputs, target=unit, method="cell_decomposition", additional_forward_args=LENGTHS[[2, 1, 0]])
    assert result.attributions[2].any() and not result.attributions[:2].any()
    assert not result.output[:2].any() and result.converged.all()


class Asked(nn.Module):
    """A layer that is asked in a layout of its own, and read with the other sign."""

    def __init__(self, layer, ask):
        super().__init__()
        self.layer, self.ask = layer, ask

    def forward(self, x):
        return -self.ask(self.layer, x)


@pytest.mark.parametrize(
    ("count", "ask"),
    [
        (3, lambda layer, x: layer(x.transpose(0, 1))[0].transpose(0, 1)),
        (1, lambda layer, x: torch.stack([layer(one)[0] for one in x])),
    ],
    ids=["time_first", "unbatched"],
)
def test_a_layer_may_be_asked_in_any_layout(count, ask):
    case = THREE._replace(bidirectional=True)
    layer, inputs = built("torch", case), call_of(case)[0][:count]
    other = torch_lstm(case)
    other.batch_first = False
    for unit in range(6):
        expected = lx.attribute(layer, inputs, target=(2, unit), method="cell_decomposition")
        result = lx.attribute(Asked(other, ask), inputs, target=(2, unit), method="cell_decomposition")
        close(result.attributions, -expected.attributions)


# ---- Networks that are known


def test_every_token_of_the_counter_counts_for_one():
    signs = torch.tensor([[1, 1, -1, 1, 1, -1, 1, 1], [-1, -1, -1, 1, -1, -1, 1, -1]])
    inputs = one_hot((signs < 0).long(), 2).double()
    result = lx.attribute(counter(), inputs, method="cell_decomposition", output=lambda returned: returned[1][1][0, :, 0])
    # The gates are open to 2e-9.
    np.testing.assert_allclose(result.attributions, signs * math.tanh(4), rtol=0, atol=1e-6)
    read = lx.attribute(counter(), inputs, target=(-1, 0), method="cell_decomposition")
    counts = np.concatenate([np.zeros((2, 1)), signs.numpy().cumsum(1)], axis=1)
    np.testing.assert_allclose(read.attributions, np.diff(np.tanh(math.tanh(4) * counts), axis=1), rtol=0, atol=1e-6)


def test_of_a_leaky_bank_each_step_has_what_is_left_of_it():
    timescales, inputs = [2.0, 5.0, 20.0, 100.0], torch.rand(2, 9, 1, dtype=torch.float64) + 0.5
    for unit, tau in enumerate(timescales):
        result = lx.attribute(
            leaky_bank(timescales), inputs, method="cell_decomposition", output=lambda returned, u=unit: returned[1][1][0, :, u]
        )
        kept = np.exp(-np.arange(8, -1, -1) / tau)
        np.testing.assert_allclose(result.attributions, kept * np.tanh(1e-3 * inputs[..., 0].numpy()), rtol=1e-8)


def test_what_was_added_is_what_was_marked():
    marker = torch.tensor([[0, 1, 0, 0, 1, 0, 1.0], [1, 0, 0, 0, 0, 0, 1]], dtype=torch.float64)
    value = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = torch.stack([value, marker], 2)
    result = lx.attribute(adding(), inputs, target=(-1,), method="cell_decomposition", output=lambda returned: 1e3 * returned[0][..., 0])
    np.testing.assert_allclose(result.attributions, value * marker, rtol=0, atol=1e-3)
    assert np.abs(result.attributions[marker.numpy() == 0]).max() < 1e-6


# ---- In a model


class Reader(nn.Module):
    """Tokens, a stack, another layer both ways, each to the sequences' own ends, and a linear read-out of its last states."""

    def __init__(self, layer=nn.LSTM, packed=True):
        super().__init__()
        self.embedding, self.packed = nn.Embedding(9, 3), packed
        self.first = lx.PeepholeLSTM(3, 4, 2, batch_first=True, peephole="full")
        self.second = layer(4, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, 2)
        randomise(self.double())

    def forward(self, tokens, lengths=None):
        x = self.embedding(tokens)
        read, _ = self.first(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False) if self.packed else x)
        _, state = self.second(read)
        return self.head(torch.cat([*(state[0] if isinstance(state, tuple) else state)], 1))


TOKENS, LENGTHS = torch.tensor([[1, 4, 2, 8, 5], [7, 1, 0, 0, 0], [3, 3, 6, 2, 0]]), torch.tensor(ENDS)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, lx.PeepholeLSTM])
def test_it_adds_up_through_a_whole_model_example_by_example(layer):
    model = Reader(layer)
    given = {"target": 1, "method": "cell_decomposition", "additional_forward_args": LENGTHS}
    together = lx.attribute(model, TOKENS, lengths=ENDS, **given)
    assert np.abs(together.convergence_delta).max() <= 1e-12 and together.converged.all()
    assert together.attributions.shape == (3, 5) and (together.attributions[1, 2:] == 0).all() and (together.attributions[0] != 0).all()
    close(together.elsewhere["constant"], model.head.bias[1].detach().expand(3))
    parts = lx.attribute(model, TOKENS, lengths=ENDS, internal_batch_size=1, **given)
    unsaid = lx.attribute(model, TOKENS, **given)
    for at, end in enumerate(ENDS):
        alone = lx.attribute(model, TOKENS[at : at + 1, :end], **given | {"additional_forward_args": LENGTHS[at : at + 1]})
        close(alone.attributions[0], together.attributions[at, :end])
    close(parts.attributions, together.attributions)
    # Lengths whose order isn't its own inverse.
    order = torch.tensor([1, 0, 2])
    turned = lx.attribute(model, TOKENS[order], **given | {"additional_forward_args": LENGTHS[order]})
    close(turned.attributions, together.attributions[order])
    close(unsaid.attributions, together.attributions)
    assert together.settings["credit_to"] == "steps of the input of second.l0, second.l0_reverse, gates held"
    assert "of output[1], to steps of the input of second.l0, second.l0_reverse, gates held; residual" in repr(together)
    assert (together.padding, together.baseline_output) == ("known", None)


def test_what_is_left_of_an_initial_state_is_credited_apart_where_sequences_end_early():
    layer = built(("full", "previous"), THREE._replace(bidirectional=True))

    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            state = tuple(torch.full((2, len(x), 3), 0.5, dtype=torch.float64) for _ in range(2))
            return torch.cat([*self.layer(packed, state)[1][0]], 1)

    inputs, _ = call_of(THREE)
    for unit in (1, 4):
        given = {"target": unit, "method": "cell_decomposition"}
        result = lx.attribute(Read(), inputs, additional_forward_args=LENGTHS, **given)
        assert np.abs(result.convergence_delta).max() <= 1e-12 and (np.abs(result.elsewhere["initial_state"]) > 1e-6).all()
        for at, end in enumerate(ENDS):
            alone = lx.attribute(Read(), inputs[at : at + 1, :end], additional_forward_args=LENGTHS[at : at + 1], **given)
            close(alone.elsewhere["initial_state"][0], result.elsewhere["initial_state"][at])


def test_padding_that_the_model_reads_is_credited_apart():
    result = lx.attribute(Reader(packed=False), TOKENS, target=1, lengths=ENDS, method="cell_decomposition")
    whole = lx.attribute(Reader(packed=False), TOKENS, target=1, method="cell_decomposition")
    close(result.elsewhere["padding"], [0, *(whole.attributions[at, end:].sum() for at, end in ((1, 2), (2, 4)))])
    assert (result.elsewhere["padding"][1:] != 0).all() and result.converged.all()


@pytest.mark.usefixtures("backend")
def test_each_example_may_be_read_at_a_step_of_its_own():
    layer, (inputs, _) = built(("full", "previous"), THREE), call_of(THREE)
    together = lx.attribute(layer, inputs, target=(-1, 2), lengths=ENDS, method="cell_decomposition")
    for at, end in enumerate(ENDS):
        alone = lx.attribute(layer, inputs[at : at + 1], target=(end - 1, 2), method="cell_decomposition")
        close(together.attributions[at], alone.attributions[0])
        assert (alone.attributions[0, end:] == 0).all()


def test_in_float32_it_adds_up_as_far_as_that_is_precise():
    layer, (inputs, _) = built("torch", SHAPES["two_layers_both_ways"]), call_of(THREE)
    wide = lx.attribute(layer, inputs, target=(-1, 1), method="cell_decomposition")
    narrow = lx.attribute(layer.float(), inputs.float(), target=(-1, 1), method="cell_decomposition")
    assert narrow.converged.all()
    np.testing.assert_allclose(narrow.attributions, wide.attributions, rtol=0, atol=1e-6)


def test_nothing_is_left_behind():
    model = Reader().train()
    before = [sorted(vars(module)) for module in model.modules()], torch.get_rng_state()
    with torch.no_grad():
        lx.attribute(model, TOKENS, target=1, method="cell_decomposition", additional_forward_args=LENGTHS)
    assert [sorted(vars(module)) for module in model.modules()] == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert model.training and all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("gate", ["forget_gate", "input_gate", "output_gate"])
def test_a_gate_that_is_wrong_is_reported(gate, monkeypatch):
    whole = cell._credit

    def credit(one, some, read):
        from dataclasses import replace

        return whole(replace(one, signals={**one.signals, gate: one.signals[gate] * 0.9}), some, read)

    monkeypatch.setattr(cell, "_credit", credit)
    layer, (inputs, _) = built(("full", "previous"), THREE._replace(initial_state=True)), call_of(THREE)
    state = tuple(torch.full((1, 1, 3), 0.5, dtype=torch.float64) for _ in range(2))
    result = lx.attribute(Stated(layer, state), inputs, target=(-1, 1), method="cell_decomposition")
    assert not result.converged.any() and (result.relative_delta > 1e-4).all() and "for 0 of 3" in repr(result)


# ---- What is refused


def said(model, **options):
    with pytest.raises(lx.InputError) as caught:
        lx.attribute(model, **{"inputs": call_of(THREE)[0], "target": (-1, 1), "method": "cell_decomposition"} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


READS = {
    "tanh": (lambda r: r[0][:, -1, 1].tanh(), "needed an output that is linear in the hidden state of layer.l0"),
    "relu": (lambda r: r[0][:, -1].relu().sum(1), "needed an output that is linear in the hidden state of layer.l0"),
    "mean": (
        lambda r: r[0][:, :, 1].mean(1),
        "needed an output that reads layer.l0 at one step for cell_decomposition, got 5 steps: use lrp",
    ),
    "two_steps": (lambda r: r[0][:, 1, 1] + r[1][0][0, :, 1], "needed an output that reads layer.l0 at one step"),
}


@pytest.mark.parametrize("read", READS)
def test_an_output_that_is_no_linear_read_out_at_one_step_is_refused(read):
    output, message = READS[read]
    state = tuple(torch.zeros(1, 1, 3, dtype=torch.float64) for _ in range(2))
    model = Stated(built("torch", THREE), state, output)
    before = sorted(vars(model.layer))
    assert said(model, target=None).startswith(message)
    assert sorted(vars(model.layer)) == before


def test_a_hidden_state_and_a_cell_state_may_be_read_together():
    layer, (inputs, _) = built("torch", THREE), call_of(THREE)

    def both(returned):
        return 2 * returned[0][:, -1, 0] - 3 * returned[1][0][0, :, 0] + returned[1][1][0, :, 2]

    result = lx.attribute(layer, inputs, method="cell_decomposition", output=both)
    hidden = lx.attribute(layer, inputs, target=(-1, 0), method="cell_decomposition")
    state = lx.attribute(layer, inputs, method="cell_decomposition", output=lambda returned: returned[1][1][0, :, 2])
    close(result.attributions, state.attributions - hidden.attributions)
    assert result.converged.all()


class Past(nn.Module):
    """Reads its input beside the layer, or the layer below the top."""

    def __init__(self, below):
        super().__init__()
        self.lstm, self.below = randomise(nn.LSTM(2, 3, 2, batch_first=True).double()), below

    def forward(self, x):
        output, (h, _) = self.lstm(x)
        return output[:, -1, 1] + (h[0, :, 1] if self.below else x[:, -1, 1])


@pytest.mark.parametrize("below", [False, True])
def test_an_output_that_reads_past_the_top_layer_is_refused(below):
    assert said(Past(below), target=None).startswith(
        "needed an output that reads the inputs through the hidden state of lstm.l1 alone for cell_decomposition"
    )


class Halved(nn.Module):
    """Its layer reads every other step."""

    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True).double())

    def forward(self, x):
        return self.lstm(x[:, ::2])[0][:, -1, 1]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = randomise(nn.LSTM(2, 3, batch_first=True).double())

    def forward(self, x):
        return self.lstm(x)[0][:, -1, 1] + self.lstm(x.flip(1))[0][:, -1, 1]


def test_models_whose_steps_are_not_the_inputs_are_refused():
    assert said(Halved(), target=None) == "needed lstm.l0 to read every step of the inputs for cell_decomposition, got 3 of 5: use lrp"
    assert said(Twice(), target=None) == "needed lstm.l0 to read each example once for cell_decomposition, got 6 sequences of 3: use lrp"


@pytest.mark.parametrize(
    ("model", "kind"),
    [(lambda: torch_layer(THREE, "rnn_tanh"), "the model, RNN"), (lambda: nn.Sequential(nn.LSTMCell(2, 3)), "0, LSTMCell")],
)
def test_what_is_no_sum_over_steps_is_refused(model, kind):
    message = said(model().double())
    assert message == f"needed LSTM or GRU layers only for cell_decomposition, got {kind}: use integrated_gradients"


def test_baselines_are_refused():
    assert said(built("torch", THREE), baselines=0) == "needed no baselines for cell_decomposition, which has none, got some"
