"""The readable step and its unrolling, the fast sequence and the cell, each against the slow scalar loop."""

import pytest
import torch
from cases import FORMS, LAYOUTS, LENGTHS, Case, call_of, close, laid_out, peephole_lstm, randomise, same_results, slowly
from cases import sequences_and_state as drawn
from scalar import SIGNALS, run_layer

from lstm_explain.nn.equations import Form, Weights, peephole_of, read, step, stepper, unedited, unroll
from lstm_explain.nn.layers import weights_of
from lstm_explain.nn.layout import lay_out
from lstm_explain.nn.lstm import PeepholeLSTMCell
from lstm_explain.nn.sequence import run_sequence

STACKS = [
    pytest.param({}, id="plain"),
    pytest.param({"num_layers": 2, "bidirectional": True, "initial_state": True, "proj_size": 2}, id="deep"),
    pytest.param({"num_layers": 2, "bias": False, "initial_state": True}, id="without_bias"),
    pytest.param({"bidirectional": True, "proj_size": 1, "bias": False}, id="projected_without_bias"),
]


def of_layout(layout, **options):
    return Case(layout=layout, lengths=LENGTHS[layout], **options)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_the_fast_path_equals_the_scalar_loop(form, layout, stack, backend):
    case = of_layout(layout, **stack)
    layer = peephole_lstm(case, *form)
    same_results(case, layer(*call_of(case)), slowly(case, layer))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_cell_in_a_loop_equals_the_scalar_loop(form, bias):
    peephole, wiring = form
    cell = randomise(PeepholeLSTMCell(2, 3, bias=bias, peephole=peephole, wiring=wiring, dtype=torch.float64))
    (xs,), (h_0, c_0) = drawn(Case(layout="unbatched", lengths=(5,), initial_state=True))
    weights = {name: parameter.tolist() for name, parameter in cell.named_parameters()}
    expected = run_layer(xs.tolist(), h_0[0].tolist(), c_0[0].tolist(), weights, peephole, wiring, reverse=False)
    h, c = h_0[0], c_0[0]
    batched = h_0, c_0
    for t, x in enumerate(xs):
        h, c = cell(x, (h, c))
        batched = cell(x.unsqueeze(0), batched)
        close(h.detach(), expected["hidden_state"][t])
        close(c.detach(), expected["cell_state"][t])
    close(torch.stack(batched)[:, 0], torch.stack([h, c]))


@pytest.mark.parametrize("form", FORMS)
def test_a_cell_without_a_state_starts_from_zero(form):
    cell = randomise(PeepholeLSTMCell(2, 3, peephole=form[0], wiring=form[1]))
    x, zero = torch.ones(4, 2), torch.zeros(4, 3)
    assert all(map(torch.equal, cell(x), cell(x, (zero, zero))))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("layout", ["time_first", "packed"])
@pytest.mark.parametrize("form", FORMS)
def test_unrolling_the_step_equals_the_scalar_loop(form, layout, projection, reverse):
    case = of_layout(layout, bidirectional=True, proj_size=projection, initial_state=True)
    layer = peephole_lstm(case, *form)
    sequences, (h_0, c_0) = drawn(case)
    rows, layout_of_rows = lay_out(laid_out(case, sequences), input_size=2, batch_first=False, dtype=torch.float64)
    at, suffix = int(reverse), "l0" + "_reverse" * reverse
    weights = weights_of(layer, suffix)
    hidden, h, c = unroll(rows, h_0[at], c_0[at], weights, Form(*form), layout_of_rows.sizes, reverse)
    padded = layout_of_rows.batch_time(hidden.detach())
    for b, (signals, _, slow_h, slow_c) in enumerate(slowly(case, layer)):
        close(padded[b, : case.lengths[b]], signals[suffix]["hidden_state"])
        close(h[b].detach(), slow_h[at])
        close(c[b].detach(), slow_c[at])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_fast_path_saves_the_signals_of_the_scalar_loop(form, reverse, backend):
    case = of_layout("packed", bidirectional=True, proj_size=2, initial_state=True)
    layer = peephole_lstm(case, *form)
    sequences, (h_0, c_0) = drawn(case)
    rows, layout = lay_out(laid_out(case, sequences), input_size=2, batch_first=False, dtype=torch.float64)
    at, suffix = int(reverse), "l0" + "_reverse" * reverse
    with torch.no_grad():
        saved = run_sequence(rows, h_0[at], c_0[at], weights_of(layer, suffix), Form(*form), layout.sizes, reverse).saved
    found = dict(zip(SIGNALS, (*saved.gates.unbind(1), saved.cell, saved.hidden), strict=True))
    for b, (signals, *_) in enumerate(slowly(case, layer)):
        for name in SIGNALS:
            close(layout.batch_time(found[name])[b, : case.lengths[b]], signals[suffix][name])


@pytest.mark.parametrize(
    ("wiring", "gate", "sees"),
    [
        ("previous", "i", 1.0),
        ("previous", "f", 1.0),
        ("previous", "g", 1.0),
        ("previous", "o", 1.0),
        ("graves", "i", 1.0),
        ("graves", "f", 1.0),
        ("graves", "g", 0.0),
        ("graves", "o", 0.5),
    ],
)
def test_each_gate_sees_the_cell_state_that_its_wiring_says(wiring, gate, sees):
    # With all other weights zero i = f = o = 1/2 and g = 0, so that the new cell state is half the old one.
    zero = torch.zeros(4, 1, dtype=torch.float64)
    form = Form("diagonal", wiring)
    weights = Weights(zero, zero, weight_ch=torch.zeros(len(form.peephole_rows), 1, dtype=torch.float64))
    if gate in form.peephole_rows:
        peephole_of(gate, weights.weight_ch, form).fill_(1.0)
    c = torch.full((1, 1), 1.0, dtype=torch.float64)
    now = step(torch.zeros_like(c), torch.zeros_like(c), c, weights, form)
    z = torch.tensor(sees, dtype=torch.float64)
    name = {"i": "input_gate", "f": "forget_gate", "g": "cell_candidate", "o": "output_gate"}[gate]
    expected = torch.tanh(z) if gate == "g" else torch.sigmoid(z)
    close(getattr(now, name).squeeze(), expected)


@pytest.mark.parametrize(
    ("form", "rows"), [(("full", "previous"), "ifgo"), (("diagonal", "graves"), "ifo"), ((None, "previous"), ""), ((None, "graves"), "")]
)
def test_a_form_names_the_rows_of_its_peepholes(form, rows):
    assert Form(*form).peephole_rows == rows


@pytest.mark.parametrize("peephole", ["full", "diagonal"])
def test_peepholes_are_read_from_their_own_rows(peephole):
    form = Form(peephole, "graves")
    weight_ch = torch.arange(3.0).repeat_interleave(2 if peephole == "full" else 1).unsqueeze(1).expand(-1, 2)
    assert [float(peephole_of(gate, weight_ch, form).unique()) for gate in "ifo"] == [0.0, 1.0, 2.0]
    assert peephole_of("g", weight_ch, form) is None
    assert peephole_of("i", None, form) is None


TAPPED = {
    "lstm": Form(None),
    "graves": Form("full", "graves"),
    "gru": None,
    "rnn_tanh": None,
}


@pytest.mark.parametrize("kind", TAPPED)
def test_what_an_edit_returns_is_what_the_step_goes_on_with(kind):
    form = TAPPED[kind]
    k = {"gru": 3, "rnn_tanh": 1}.get(kind, 4)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = Weights(normal(3 * k, 2), normal(3 * k, 3), normal(3 * k), normal(3 * k), normal(9, 3) if kind == "graves" else None)
    x, states = normal(4, 2), [normal(4, 3)] * (1 if form is None else 2)
    by, z_x = stepper(kind, form, weights), read(x, weights)
    plain = by(z_x, states, unedited)
    seen = {}

    def see(name, value):
        seen[name] = value
        return value

    assert all(torch.equal(value, plain[name]) for name, value in by(z_x, states, see).items())
    assert all(torch.equal(seen[name], plain[name]) for name in plain) and set(seen) == set(plain)
    for edited in plain:
        now = by(z_x, states, lambda name, value, edited=edited: value + 0.5 if name == edited else value)
        assert torch.equal(now[edited], plain[edited] + 0.5)
        if kind in ("lstm", "graves"):
            i, f, g, o, c, h = now.values()
            if edited != "cell_state":
                torch.testing.assert_close(c, f * states[1] + i * g, rtol=0, atol=1e-12)
            if edited != "hidden_state":
                torch.testing.assert_close(h, o * torch.tanh(c), rtol=0, atol=1e-12)
        if kind == "gru" and edited != "hidden_state":
            _, z, n, h = now.values()
            torch.testing.assert_close(h, (1 - z) * n + z * states[0], rtol=0, atol=1e-12)
    if kind == "graves":
        now = by(z_x, states, lambda name, value: value + 0.5 if name == "cell_state" else value)
        assert not torch.equal(now["output_gate"], plain["output_gate"])
